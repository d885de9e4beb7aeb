//! When a transaction is on the disk.

use rusqlite::Connection;

/// When a transaction survives a power cut; it survives the end of the process in any case.
///
/// The log is written in order, and a sync takes all that is in it. So rows without which nothing
/// is wrong need no sync of their own: they come to the disk with the next that has one, and none
/// of them without those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// When it is committed.
    Now,
    /// With the next one that is synced.
    WithTheNext,
}

impl Durability {
    /// Makes the connection's next transactions as durable as this.
    pub(super) fn set(self, connection: &Connection) -> rusqlite::Result<()> {
        let level = match self {
            Self::Now => "FULL",
            Self::WithTheNext => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_set_on_the_connection() {
        let connection = Connection::open_in_memory().unwrap();
        let level = || connection.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0));
        Durability::WithTheNext.set(&connection).unwrap();
        assert_eq!(level().unwrap(), 1);
        Durability::Now.set(&connection).unwrap();
        assert_eq!(level().unwrap(), 2);
    }
}

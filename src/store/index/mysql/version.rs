//! The version of the tables, and what brings tables of earlier versions up to it.

use super::MysqlIndex;
use crate::store::error::IndexError;
use crate::store::index::schema::{VERSION, VERSION_TABLE, later_version, migrations_after};

const RECORD: &str = "INSERT IGNORE INTO `overlaybd_proxy_schema` (`version`) VALUES";

impl MysqlIndex {
    /// Refuses tables of a later version, and migrates those of an earlier one if `may_change`.
    pub(super) async fn check_version(
        &self,
        may_change: bool,
        are_new: bool,
    ) -> Result<(), IndexError> {
        let recorded = self.recorded_version().await?;
        let found = match recorded {
            Some(version) => version,
            None if are_new => VERSION,
            None => 1,
        };
        if found > VERSION {
            return Err(IndexError::LaterVersion {
                index: self.server.to_string(),
                problem: later_version(found),
            });
        }
        let statements = migrations_after(found).flat_map(|step| step.mysql);
        if !may_change {
            let statements: Vec<&str> = statements.copied().collect();
            if statements.is_empty() {
                return Ok(());
            }
            return Err(IndexError::Schema {
                index: self.server.to_string(),
                problem: format!("its tables have version {found}, and {VERSION} is needed"),
                statement: format!(
                    "{}\n{VERSION_TABLE}\n{RECORD} ({VERSION});",
                    statements.join("\n")
                ),
            });
        }
        for statement in statements {
            self.server.define(statement.trim_end_matches(';')).await?;
        }
        if recorded != Some(VERSION) {
            self.server
                .define(VERSION_TABLE.trim_end_matches(';'))
                .await?;
            let record = format!("{RECORD} ({VERSION})");
            self.write_now("record the version of the tables", &record, Vec::new())
                .await?;
        }
        Ok(())
    }

    /// The highest version in the table of versions; `None` without such a table.
    async fn recorded_version(&self) -> Result<Option<i64>, IndexError> {
        let probe = "SELECT `version` FROM `overlaybd_proxy_schema` WHERE 1 = 0";
        if self.server.probe(probe).await?.is_some() {
            return Ok(None);
        }
        let rows = self
            .select(
                "find the version of the tables",
                "SELECT MAX(`version`) FROM `overlaybd_proxy_schema`",
                Vec::new(),
            )
            .await?;
        Ok(rows.first().and_then(|row| super::integer(row, 0)))
    }
}

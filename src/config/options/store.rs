//! Where results are kept.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use serde::{Deserialize, Serialize};

use super::{existing_file, list, optional, required, switch};
use crate::config::{ConfigErrors, Text, bytes, duration, number};
use crate::sizes::Size;
use crate::store::{CacheSize, Dsn, IndexConfig, MysqlConfig, StoreConfig};

/// Where results are kept.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Store")]
pub struct StoreOptions {
    /// Directory of everything that is kept [default: /var/lib/overlaybd-proxy for root, else
    /// $XDG_DATA_HOME/overlaybd-proxy or ~/.local/share/overlaybd-proxy]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<Text>,
    /// MySQL or MariaDB that replicas share, as Go's driver writes it:
    /// USER:PASS@tcp(HOST:3306)/DB?tls=true [default: SQLite in the data directory]
    #[arg(long, value_name = "DSN", alias = "db-str")]
    pub dbstr: Option<Text>,
    /// Make the tables that the database lacks
    #[arg(long, value_name = "BOOL")]
    pub db_create: Option<Text>,
    /// PEM files with the roots that tls=custom in --dbstr trusts
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub db_ca: Vec<Text>,
    /// Most that converted blobs may take, such as 200GiB, or 80% of the file system of
    /// --data-dir, or off for no bound; the least recently used go first
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<Text>,
    /// How long after its last use a blob is safe from eviction: as long as nodes may take
    /// to download it in the background
    #[arg(long, value_name = "TIME")]
    pub keep: Option<Text>,
}

impl StoreOptions {
    /// The store's settings.
    pub fn config(&self, errors: &mut ConfigErrors) -> Option<StoreConfig> {
        let data_dir = required(errors, "data-dir", self.data_dir.as_ref(), |text| {
            Ok::<_, String>(text.into())
        });
        let create_tables = switch(errors, "db-create", self.db_create.as_ref());
        let tls_roots = list(errors, "db-ca", &self.db_ca, existing_file);
        let read = |text: &str| text.parse::<Dsn>();
        let dsn = optional(errors, "dbstr", self.dbstr.as_ref(), read);
        let is_mysql = self.dbstr.is_some();
        let cache_size = required(errors, "cache-size", self.cache_size.as_ref(), cache_size);
        let keep = required(errors, "keep", self.keep.as_ref(), duration);
        let index = if is_mysql {
            IndexConfig::Mysql(Box::new(MysqlConfig {
                dsn: dsn?,
                create_tables,
                tls_roots,
            }))
        } else {
            IndexConfig::Sqlite
        };
        Some(StoreConfig {
            data_dir: data_dir?,
            index,
            cache_size: cache_size?,
            keep: keep?,
            objects: None,
        })
    }
}

/// The smallest cache that is not a mistake, in bytes.
const MIN_CACHE_BYTES: u64 = 1 << 20;

fn cache_size(text: &str) -> Result<CacheSize, String> {
    if text == "off" {
        return Ok(CacheSize::Unbounded);
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent = number(percent.trim_end(), 1..=100)?;
        return Ok(CacheSize::Percent(percent));
    }
    let wrong = |error| format!("{error}, or a percentage such as 80%, or off");
    match bytes(text).map_err(wrong)? {
        // Whoever means none at all says 0.
        size @ 1..MIN_CACHE_BYTES => Err(format!(
            "{text:?} is {}, which no layer fits into: was {}GiB meant?",
            Size(size),
            text.trim_end_matches(|c: char| !c.is_ascii_digit())
        )),
        size => Ok(CacheSize::Bytes(size)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_size_is_a_size_or_a_part_of_the_disk_or_off() {
        assert!(cache_size("5").is_err_and(|error| error.contains("was 5GiB meant?")));
        assert_eq!(cache_size("0"), Ok(CacheSize::Bytes(0)));
        assert_eq!(cache_size("5MiB"), Ok(CacheSize::Bytes(5 << 20)));
        assert_eq!(cache_size("80%"), Ok(CacheSize::Percent(80)));
        assert_eq!(cache_size("off"), Ok(CacheSize::Unbounded));
        for bad in ["0%", "101%", "-1%", "%", "much", ""] {
            assert!(cache_size(bad).is_err(), "{bad:?}");
        }
    }
}

//! The data directory of a command.

use anyhow::Context as _;

use crate::config::Origin;
use crate::store::{Store, StoreConfig, StoreError};

/// Opens the store. An error about the directory names the option that it comes from.
///
/// # Errors
/// As [`Store::open`].
pub async fn open(config: StoreConfig, origin: &Origin) -> anyhow::Result<Store> {
    let directory = config.data_dir.clone();
    match Store::open(config).await {
        Err(error @ StoreError::Blobs(_)) => Err(error).with_context(|| {
            let option = origin.name("data-dir");
            format!("the data directory {} ({option})", directory.display())
        }),
        opened => Ok(opened?),
    }
}

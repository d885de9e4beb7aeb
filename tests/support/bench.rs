//! A proxy before a layout that is filled as the test goes.

use std::path::PathBuf;

use super::layout::Layout;
use super::proxy::Proxy;

pub struct Bench {
    pub layout: Layout,
    pub proxy: Proxy,
    /// The proxy's data directory.
    pub data: PathBuf,
    pub scratch: tempfile::TempDir,
}

impl Bench {
    /// With further arguments for the proxy.
    #[track_caller]
    pub fn new(more: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(&scratch.path().join("images"));
        let data = scratch.path().join("data");
        let upstream = format!("oci:{}", layout.path().display());
        let proxy = Proxy::start(&upstream, &data, more);
        Self {
            layout,
            proxy,
            data,
            scratch,
        }
    }
}

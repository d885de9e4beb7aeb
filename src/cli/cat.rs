//! `cat`: what files of an image hold, without a mount.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;

use anyhow::Context as _;

use super::context::Context;
use super::exit::{self, ExitStatus};
use super::lazy::{self, LazyOptions};
use super::output;
use super::progress::Terminal;
use crate::format::ext4::FileType;
use crate::lazy::path::{resolve, shown};
use crate::lazy::{ImageFilesystem, Reading};

/// Most bytes that are read at once.
const PART: usize = 1 << 20;

/// Print files of an image, without pulling or mounting it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  overlaybd-proxy cat 127.0.0.1:8480/library/redis:7_obd /etc/os-release
  overlaybd-proxy cat oci:out:7_obd /var/lib/dpkg/status | grep ^Package:

Only the ranges of the image's blobs that are needed are fetched. Symbolic links lead within the
image.")]
pub struct CatArgs {
    /// The converted image, or a blob file
    image: String,
    /// Files of the image
    #[arg(required = true)]
    paths: Vec<OsString>,
    #[command(flatten)]
    lazy: LazyOptions,
}

pub async fn run(args: CatArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let CatArgs { image, paths, lazy } = args;
    let terminal = Terminal::plain();
    let disk = lazy
        .open(&[image], &context, &terminal, Reading::default())
        .await?;
    let filesystem = lazy::filesystem(&disk).await?;
    let work = move || -> anyhow::Result<ExitStatus> {
        let mut status = ExitStatus::Ok;
        for path in &paths {
            match print(&filesystem, path.as_bytes()) {
                Err(error) if output::is_closed(&error) => return Err(error),
                Err(error) => {
                    output::note(exit::describe(&error));
                    status = ExitStatus::of(&error);
                }
                Ok(()) => {}
            }
        }
        Ok(status)
    };
    tokio::task::spawn_blocking(work).await?
}

fn print(filesystem: &ImageFilesystem, path: &[u8]) -> anyhow::Result<()> {
    let place = resolve(filesystem, path, true)?;
    match place.file_type {
        FileType::File => {}
        FileType::Directory => anyhow::bail!("{} is a directory", shown(path)),
        _ => anyhow::bail!("{} is no regular file", shown(path)),
    }
    let file = filesystem.open_file(place.ino);
    let file = file.with_context(|| shown(path))?;
    let mut out = io::stdout().lock();
    let (mut at, mut buffer) = (0, vec![0; PART]);
    loop {
        let read = filesystem.read(&file, at, &mut buffer);
        let count = read.with_context(|| shown(path))?;
        if count == 0 {
            out.flush()?;
            return Ok(());
        }
        out.write_all(&buffer[..count])?;
        at += count as u64;
    }
}

//! `cp`: copies files of an image to this machine, without a mount.

mod attributes;
mod directory;
mod tree;
mod unkept;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::context::Context;
use super::exit::{self, ExitStatus};
use super::lazy::{self, LazyOptions};
use super::output;
use super::progress::Terminal;
use crate::format::ext4::FileType;
use crate::lazy::path::{Place, resolve, shown};
use crate::lazy::{ImageFilesystem, Reading};
use directory::Directory;
use tree::Copier;

/// Copy files of an image to this machine, without pulling or mounting it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  overlaybd-proxy cp 127.0.0.1:8480/library/redis:7_obd /usr/local/bin/redis-server .
  overlaybd-proxy cp -r oci:out:7_obd /etc etc-of-redis
  overlaybd-proxy cp -r oci:out:7_obd / rootfs

Kept are modes, times, holes, hard links and extended attributes, with --recursive also symbolic
links and special files, and as root the owners; what cannot be kept is said. Nothing is written
outside of DEST: a symbolic link within it is replaced, never followed. A file appears under its
name when it is whole. Devices, sockets and pipes that are there are not overwritten.")]
pub struct CpArgs {
    /// The converted image, or a blob file
    image: String,
    /// Files and directories of the image, then where to: a directory to copy into, or a new name
    #[arg(required = true, num_args = 2.., value_name = "PATH|DEST")]
    paths: Vec<OsString>,
    /// Directories with all that is in them, and symbolic links as such
    #[arg(short, long, short_aliases = ['R', 'a'])]
    recursive: bool,
    #[command(flatten)]
    lazy: LazyOptions,
}

pub async fn run(args: CpArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let CpArgs {
        image,
        mut paths,
        recursive,
        lazy,
    } = args;
    let Some(destination) = paths.pop().map(PathBuf::from) else {
        anyhow::bail!("no destination is given");
    };
    let is_directory = destination.is_dir();
    if !is_directory && paths.len() > 1 {
        anyhow::bail!(
            "{} is no directory: several files are copied into one only",
            destination.display()
        );
    }
    let terminal = Terminal::plain();
    let disk = lazy
        .open(&[image], &context, &terminal, Reading::default())
        .await?;
    let filesystem = lazy::filesystem(&disk).await?;
    let work = move || copy(&filesystem, &paths, &destination, is_directory, recursive);
    tokio::task::spawn_blocking(work).await?
}

fn copy(
    filesystem: &ImageFilesystem,
    paths: &[OsString],
    destination: &Path,
    is_directory: bool,
    recursive: bool,
) -> anyhow::Result<ExitStatus> {
    let mut status = ExitStatus::Ok;
    let mut places = Vec::new();
    for path in paths {
        match source(filesystem, path.as_bytes(), recursive) {
            Ok(place) => places.push(place),
            Err(error) => {
                output::note(exit::describe(&error));
                status = ExitStatus::Failed;
            }
        }
    }
    let Some(first) = places.first() else {
        return Ok(status);
    };
    let at = || destination.display().to_string();
    let (root, name) = if is_directory {
        (destination, None)
    } else {
        // The root of the image has no name of its own.
        let is_new_root = first.name().is_empty();
        if is_new_root {
            std::fs::create_dir(destination).with_context(at)?;
            (destination, None)
        } else {
            let (parent, name) = split(destination)?;
            (parent, Some(name))
        }
    };
    let root = Directory::open(root).with_context(|| root.display().to_string())?;
    let mut copier = Copier::new(filesystem, root);
    for place in &places {
        let name = name.map_or(place.name(), OsStr::as_bytes);
        copier.copy(place, name)?;
    }
    copier.unkept.tell();
    if copier.unkept.left_out > 0 {
        status = ExitStatus::Failed;
    }
    Ok(status)
}

/// What a path of the image leads to, if it can be copied.
fn source(filesystem: &ImageFilesystem, path: &[u8], recursive: bool) -> anyhow::Result<Place> {
    let place = resolve(filesystem, path, !recursive)?;
    match place.file_type {
        FileType::File | FileType::Symlink => Ok(place),
        _ if recursive => Ok(place),
        FileType::Directory => {
            anyhow::bail!("{} is a directory: --recursive copies it", shown(path))
        }
        _ => anyhow::bail!(
            "{} is a device, socket or pipe: --recursive copies it as such",
            shown(path)
        ),
    }
}

/// The directory of a new name, and the name.
fn split(path: &Path) -> anyhow::Result<(&Path, &OsStr)> {
    let name = path
        .file_name()
        .with_context(|| format!("{} is no name for a copy", path.display()))?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")), name))
}

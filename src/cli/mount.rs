//! `mount`: an image's files in a directory, read as they are needed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::context::Context;
use super::exit::{self, ExitStatus};
use super::lazy::{self, LazyOptions};
use super::output;
use super::progress::Terminal;
use crate::lazy::Reading;
use crate::lazy::fuse::{self, MountOptions, Mounted, UnmountError};

mod command;
mod overlay;
mod place;
pub(super) mod signals;

use overlay::Layers;
use place::Place;
use signals::Signals;

const HELP: &str = "\
Examples:
  Look into an image; Ctrl-C or 'umount' ends the mount:
    overlaybd-proxy mount registry.example/app:1_obd /mnt

  Run a command while the image is mounted:
    overlaybd-proxy mount registry.example/app:1_obd /mnt -- grep -r password /mnt/etc

  Change files, and throw the changes away:
    overlaybd-proxy mount --overlay registry.example/app:1_obd /mnt -- sh

  The disk as one file, for programs that read disks:
    overlaybd-proxy mount --raw registry.example/app:1_obd /mnt -- qemu-img info /mnt/disk.img

With COMMAND the exit status is the command's, 128 and the signal's number if a signal ended it,
126 if it cannot be run and 127 if there is none of that name.
";

/// Mount an image read-only, and read what is needed of it as it is needed
///
/// Needs /dev/fuse, and either root or fusermount3 (package fuse3). What cannot be read is an
/// input/output error of the program that wanted it, and a line of the log.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct MountArgs {
    /// The converted image, or blob files of one from the bottom up, then an empty directory
    #[arg(required = true, num_args = 2.., value_names = ["IMAGE|BLOB", "DIR"])]
    what: Vec<String>,
    /// Run this while it is mounted, then unmount
    #[arg(last = true)]
    command: Vec<OsString>,
    /// Show the disk as one file, disk.img, in the directory
    #[arg(long)]
    raw: bool,
    /// Let other users see the files, too [default: only if root mounts]
    #[arg(long)]
    allow_other: bool,
    /// Whom all files belong to, as numbers [default: whom the image says]
    #[arg(long, value_name = "UID:GID", conflicts_with = "raw")]
    owner: Option<Owner>,
    /// Put a writable layer on top: for all to see if root mounts, else for the command alone
    #[arg(long, conflicts_with = "raw")]
    overlay: bool,
    /// Keep what is written in this directory [default: in a temporary one, and thrown away]
    #[arg(long, value_name = "DIR", requires = "overlay")]
    upper: Option<PathBuf>,
    #[command(flatten)]
    lazy: LazyOptions,
}

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner(u32, u32);

impl FromStr for Owner {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .split_once(':')
            .and_then(|(user, group)| Some(Self(user.parse().ok()?, group.parse().ok()?)));
        parsed.ok_or("write it as two numbers, UID:GID")
    }
}

pub async fn run(args: MountArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let mut signals = Signals::listen()?;
    let (mut what, terminal) = (args.what.clone(), Terminal::plain());
    let Some(directory) = what.pop() else {
        anyhow::bail!("name an image, and a directory to mount it at");
    };
    let (mut sources, mut errors) = context.personal();
    context.start_log(&mut sources, &mut errors, &terminal, &[]);
    errors.none_or(Some(()))?;
    // What is wrong with it is said before anything is fetched.
    let directory = fuse::mount_point(Path::new(&directory))?;
    let is_root = nix::unistd::geteuid().is_root();
    if args.overlay && args.command.is_empty() && !is_root {
        anyhow::bail!(
            "only root can mount a writable layer for all to see: name a command that runs with it, \
             as in '-- sh', or leave --overlay out"
        );
    }
    let layers = if args.overlay {
        Some(Layers::make(args.upper.as_deref())?)
    } else {
        None
    };

    let image_at = layers.as_ref().map_or(&directory, |layers| &layers.lower);
    let mount = args.mount(&what, &context, &terminal, image_at.clone(), is_root);
    let mounted = tokio::select! {
        mounted = mount => mounted?,
        signal = signals.next() => return Ok(signal.status()),
    };
    let (mut command, mut overlay) = (args.command, None);
    match &layers {
        Some(layers) if is_root => overlay = Some(layers.mount(directory.clone())?),
        Some(layers) => command = layers.command(&directory, &command)?,
        None => {}
    }
    let place = Place::new(mounted, overlay);
    if command.is_empty() {
        return serve(place, &directory, &mut signals, &what).await;
    }
    let code = run_and_take_away(&command, place, &directory, signals).await?;
    // They go when no mount is in them any more.
    drop(layers);
    exit::end_as(code)
}

impl MountArgs {
    /// Opens the image and mounts it.
    async fn mount(
        &self,
        what: &[String],
        context: &Context,
        terminal: &Terminal,
        directory: PathBuf,
        is_root: bool,
    ) -> anyhow::Result<Mounted> {
        let disk = self
            .lazy
            .open(what, context, terminal, Reading::default())
            .await?;
        let mut options = MountOptions {
            name: what.join("+"),
            owner: self.owner.map(|Owner(user, group)| (user, group)),
            ..MountOptions::default()
        };
        options.allow_other |= self.allow_other;
        if self.overlay && !is_root && options.owner.is_none() {
            // In the command's namespace there is no other user.
            let own = (nix::unistd::geteuid(), nix::unistd::getegid());
            options.owner = Some((own.0.as_raw(), own.1.as_raw()));
        }
        if self.raw {
            let stack = Arc::clone(&disk.stack);
            let mount = move || fuse::mount_disk(stack, &directory, &options);
            return Ok(tokio::task::spawn_blocking(mount).await??);
        }
        let filesystem = lazy::filesystem(&disk).await?;
        let mount = move || fuse::mount(filesystem, &directory, &options);
        Ok(tokio::task::spawn_blocking(mount).await??)
    }
}

/// Serves until someone unmounts, or asks us to.
async fn serve(
    mut place: Place,
    directory: &Path,
    signals: &mut Signals,
    what: &[String],
) -> anyhow::Result<ExitStatus> {
    let shown = directory.display();
    output::line(format_args!("{} is mounted at {shown}", what.join(", ")))?;
    tokio::select! {
        () = place.ended() => {
            if place.is_dead() {
                anyhow::bail!("the mount at {shown} is no longer served (see the log): it is gone");
            }
            return Ok(ExitStatus::Ok);
        }
        _ = signals.next() => {}
    }
    match tokio::task::block_in_place(|| place.unmount()) {
        Ok(()) => return Ok(ExitStatus::Ok),
        Err(UnmountError::Busy(_)) => {}
        Err(error) => return Err(error.into()),
    }
    tokio::task::block_in_place(|| place.detach())?;
    output::note(format_args!(
        "{shown} is in use: it is gone from there, and served on to the programs that use it until \
         they end (see them with 'fuser -vm' or 'lsof'); interrupt again to end at once"
    ));
    tokio::select! {
        () = place.left() => Ok(ExitStatus::Ok),
        signal = signals.next() => Ok(signal.status()),
    }
}

/// Runs a command, then unmounts; the command's exit status.
async fn run_and_take_away(
    command: &[OsString],
    mut place: Place,
    directory: &Path,
    mut signals: Signals,
) -> anyhow::Result<u8> {
    let code = command::run(command, &mut signals).await?;
    let unmount = move || match place.unmount() {
        Err(UnmountError::Busy(_)) => place.detach().map(|()| true),
        other => other.map(|()| false),
    };
    if tokio::task::spawn_blocking(unmount).await?? {
        output::note(format_args!(
            "programs that the command started still use {}: it is gone, and they get errors",
            directory.display()
        ));
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_two_numbers() {
        assert_eq!("0:1000".parse(), Ok(Owner(0, 1000)));
        for text in ["", "0", "root:root", "1:", "-1:0", "4294967296:0"] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }
}

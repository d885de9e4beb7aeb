//! `ls`: the names of a directory of an image, without a mount.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;

use super::context::Context;
use super::exit::{self, ExitStatus};
use super::lazy::{self, LazyOptions};
use super::listing::{self, Listed};
use super::output;
use super::progress::Terminal;
use super::quoting::Names;
use crate::format::ext4::FileType;
use crate::lazy::path::{Place, resolve};
use crate::lazy::walk::{Descend, Step, below, sorted_entries, walk};
use crate::lazy::{ImageFilesystem, Reading};

/// List files of an image, without pulling or mounting it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  overlaybd-proxy ls 127.0.0.1:8480/library/redis:7_obd
  overlaybd-proxy ls -l oci:out:7_obd /usr/local/bin /etc/passwd
  overlaybd-proxy ls -R --json layer.obd / | jq -r 'select(.mode[0:1] == \"4\").path'

Only the ranges of the image's blobs that are needed are fetched. Symbolic links lead within the
image. Owners are numbers, and times are UTC.")]
pub struct LsArgs {
    /// The converted image, or a blob file
    image: String,
    /// Files and directories of the image [default: /]
    paths: Vec<OsString>,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    lazy: LazyOptions,
}

#[derive(clap::Args)]
struct Shape {
    /// Mode, links, owner, size, time, and where links point to
    #[arg(short, long)]
    long: bool,
    /// Names that begin with a dot, too
    #[arg(short, long)]
    all: bool,
    /// Directories themselves, not what is in them
    #[arg(short, long)]
    directory: bool,
    /// All directories below, too
    #[arg(short = 'R', long, conflicts_with = "directory")]
    recursive: bool,
    /// End names with NUL; whole paths, with --recursive or more than one PATH
    #[arg(short = '0', long, conflicts_with = "json")]
    null: bool,
    /// Print JSON, one object a file
    #[arg(long)]
    json: bool,
}

pub async fn run(args: LsArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let LsArgs {
        image,
        paths,
        shape,
        lazy,
    } = args;
    let terminal = Terminal::plain();
    let disk = lazy
        .open(&[image], &context, &terminal, Reading::default())
        .await?;
    let filesystem = lazy::filesystem(&disk).await?;
    let work = move || -> anyhow::Result<ExitStatus> {
        let mut lister = Lister {
            filesystem: &filesystem,
            names: Names::choose(shape.null),
            is_one: paths.len() < 2 && !shape.recursive,
            shape,
            out: BufWriter::new(io::stdout().lock()),
            has_written: false,
        };
        let status = lister.list(&paths)?;
        lister.out.flush()?;
        Ok(status)
    };
    tokio::task::spawn_blocking(work).await?
}

struct Lister<'a, W: Write> {
    filesystem: &'a ImageFilesystem,
    shape: Shape,
    names: Names,
    /// Whether a single directory is listed.
    is_one: bool,
    out: W,
    has_written: bool,
}

impl<W: Write> Lister<'_, W> {
    fn list(&mut self, paths: &[OsString]) -> anyhow::Result<ExitStatus> {
        let mut status = ExitStatus::Ok;
        let root = [OsString::from("/")];
        let paths = if paths.is_empty() {
            root.as_slice()
        } else {
            paths
        };
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for path in paths {
            let path = path.as_bytes();
            // As `ls` has it: a link itself is shown where links are told of.
            let follow = !self.shape.long && !self.shape.directory;
            match resolve(self.filesystem, path, follow) {
                Ok(place) if place.file_type == FileType::Directory && !self.shape.directory => {
                    directories.push(place);
                }
                Ok(place) => files.push((place, path.to_vec())),
                Err(error) => {
                    output::note(exit::describe(&error.into()));
                    status = ExitStatus::Failed;
                }
            }
        }
        if !files.is_empty() {
            self.write(files)?;
        }
        for directory in directories {
            self.list_directory(&directory)?;
        }
        Ok(status)
    }

    fn list_directory(&mut self, directory: &Place) -> anyhow::Result<()> {
        if !self.shape.recursive {
            return self.write_directory(directory);
        }
        let filesystem = self.filesystem;
        let is_start = |place: &Place| place.path == directory.path;
        walk(filesystem, directory, |step| {
            let Step::Entry(place) = step else {
                return Ok(Descend::Past);
            };
            let is_hidden = place.name().starts_with(b".") && !self.shape.all && !is_start(place);
            if place.file_type != FileType::Directory || is_hidden {
                return Ok(Descend::Past);
            }
            self.write_directory(place)?;
            anyhow::Ok(Descend::Into)
        })
    }

    fn write_directory(&mut self, directory: &Place) -> anyhow::Result<()> {
        let entries = sorted_entries(self.filesystem, directory)?.into_iter();
        let shown = entries.filter(|entry| self.shape.all || !entry.name.starts_with(b"."));
        let files = shown.map(|entry| {
            let place = below(&directory.path, &entry);
            let is_whole = self.names == Names::Null && !self.is_one;
            let name = if is_whole {
                place.path.clone()
            } else {
                entry.name
            };
            (place, name)
        });
        let files = files.collect();
        if !self.is_one && !self.shape.json && self.names != Names::Null {
            if self.has_written {
                writeln!(self.out)?;
            }
            self.names.write(&mut self.out, &directory.path)?;
            writeln!(self.out, ":")?;
            self.has_written = true;
        }
        self.write(files)
    }

    fn write(&mut self, files: Vec<(Place, Vec<u8>)>) -> anyhow::Result<()> {
        self.has_written |= !files.is_empty();
        if self.shape.json {
            for (place, _) in files {
                let listed = Listed::read(self.filesystem, place)?;
                writeln!(self.out, "{}", listed.json())?;
            }
        } else if self.shape.long {
            let rows = files.into_iter().map(|(place, name)| {
                let listed = Listed::read(self.filesystem, place)?;
                anyhow::Ok((listed, name))
            });
            let rows: Vec<_> = rows.collect::<anyhow::Result<_>>()?;
            listing::write_long(&mut self.out, &rows, self.names)?;
        } else {
            for (_, name) in files {
                self.names.write(&mut self.out, &name)?;
                self.names.end(&mut self.out)?;
            }
        }
        Ok(())
    }
}

//! `find`: files of an image by name, type, size and more, without a mount.

mod glob;
mod test;

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
use super::standalone::usage;
use crate::lazy::path::{Place, resolve};
use crate::lazy::walk::{Descend, Step, walk};
use crate::lazy::{ImageFilesystem, Reading};
use test::{Action, Expression};

/// Find files of an image, without pulling or mounting it
#[derive(clap::Args)]
#[command(after_help = "\
Words, as find(1) has them; all tests must hold:
  -name GLOB  -iname GLOB  -path GLOB  -type f,d,l,c,b,p,s  -size [+-]N[cwbkMG]
  -perm [-/]OCTAL  -uid N  -gid N  -links N  -inum N  -empty  ! TEST  -mindepth N  -maxdepth N
  -print (default)  -print0  -ls  --json (one object a file)

Examples:
  overlaybd-proxy find 127.0.0.1:8480/library/redis:7_obd /usr -name '*.so*' -size +1M
  overlaybd-proxy find oci:out:7_obd -type f -perm /6000 -ls

Options go before IMAGE. Of what the tests need no more is fetched: of names and types no inodes.")]
pub struct FindArgs {
    /// The converted image, or a blob file
    image: String,
    /// Print JSON, one object a file
    #[arg(long)]
    json: bool,
    /// Where to begin [default: /], and which files
    #[arg(
        value_name = "PATH|TEST",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<OsString>,
    #[command(flatten)]
    lazy: LazyOptions,
}

pub async fn run(args: FindArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let FindArgs {
        image,
        json,
        words,
        lazy,
    } = args;
    let mut expression = Expression::parse(words).map_err(|wrong| usage(&wrong))?;
    if json {
        expression.action = Action::Json;
    }
    let terminal = Terminal::plain();
    let disk = lazy
        .open(&[image], &context, &terminal, Reading::default())
        .await?;
    let filesystem = lazy::filesystem(&disk).await?;
    let work = move || -> anyhow::Result<ExitStatus> {
        let mut out = BufWriter::new(io::stdout().lock());
        let status = search(&filesystem, &expression, &mut out)?;
        out.flush()?;
        Ok(status)
    };
    tokio::task::spawn_blocking(work).await?
}

fn search(
    filesystem: &ImageFilesystem,
    expression: &Expression,
    out: &mut impl Write,
) -> anyhow::Result<ExitStatus> {
    let mut status = ExitStatus::Ok;
    let names = Names::choose(expression.action == Action::Print0);
    let root = [OsString::from("/")];
    let paths = match expression.paths.as_slice() {
        [] => root.as_slice(),
        paths => paths,
    };
    for path in paths {
        let start = match resolve(filesystem, path.as_bytes(), false) {
            Ok(start) => start,
            Err(error) => {
                output::note(exit::describe(&error.into()));
                status = ExitStatus::Failed;
                continue;
            }
        };
        let (least, most) = expression.depths;
        let mut depth = 0;
        walk(filesystem, &start, |step| {
            let place = match step {
                Step::Entry(place) => place,
                Step::Leave(_) => {
                    depth -= 1;
                    return Ok(Descend::Past);
                }
            };
            if depth >= least && depth <= most && expression.holds(filesystem, place)? {
                print(filesystem, expression.action, names, place, out)?;
            }
            let is_directory = place.file_type == crate::format::ext4::FileType::Directory;
            if is_directory && depth < most {
                depth += 1;
                return Ok(Descend::Into);
            }
            anyhow::Ok(Descend::Past)
        })?;
    }
    Ok(status)
}

fn print(
    filesystem: &ImageFilesystem,
    action: Action,
    names: Names,
    place: &Place,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match action {
        Action::Print | Action::Print0 => {
            names.write(out, &place.path)?;
            names.end(out)?;
        }
        Action::Ls => {
            let listed = Listed::read(filesystem, place.clone())?;
            listing::write_long(out, &[(listed, place.path.clone())], names)?;
        }
        Action::Json => {
            let listed = Listed::read(filesystem, place.clone())?;
            writeln!(out, "{}", listed.json())?;
        }
    }
    Ok(())
}

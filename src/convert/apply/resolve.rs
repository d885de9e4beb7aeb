//! From the directories of a name to the directory: through symbolic links, inside the image.

use std::collections::HashMap;

use super::names::MAX_PATH;
use super::{FileType, Ino, Layer, NodeKind, Problem};
use crate::format::block::BlockDeviceMut;

/// Links followed for one name, as many as the kernel follows (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// What making a directory costs, in steps of a path.
const MAKING: u64 = 8;

/// What to do about a directory that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make it, with the attributes that parents without an entry have.
    Create,
    /// Make it, or stop where something on the way is no directory.
    CreateOrStop,
    /// Stop: there is nothing where the name leads.
    Stop,
}

/// Where a directory is.
#[derive(Debug, Clone, Copy)]
struct Place {
    parent: Ino,
    /// Bytes of its path without a slash in front.
    length: usize,
}

/// A directory that names led to, and how many links were followed on the way.
#[derive(Debug, Clone, Copy)]
struct Led {
    to: Ino,
    links: usize,
}

/// What is known of directories and links, until one of either is removed.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The directories that something led to since, all directories above them included.
    places: HashMap<Ino, Place>,
    /// Symbolic links that lead to directories, by the directory that they are in and their
    /// inode.
    links: HashMap<(Ino, Ino), Led>,
    /// The directories of the name before, and where each led; most entries share them.
    last: Vec<(Vec<u8>, Led)>,
}

impl Known {
    pub(super) fn forget(&mut self) {
        self.places.clear();
        self.links.clear();
        self.last.clear();
    }

    /// Bytes of a name in a directory that was just led to, with those of the directory.
    fn length(&self, directory: Ino, name: &[u8]) -> usize {
        match self.places.get(&directory) {
            Some(place) if place.length > 0 => place.length + 1 + name.len(),
            _ => name.len(),
        }
    }

    /// A path that is as long as the kernel takes, and no longer.
    pub(super) fn check_length(&self, directory: Ino, name: &[u8]) -> Result<(), Problem> {
        match self.length(directory, name) {
            length if length > MAX_PATH => Err(Problem::TooLong { length }),
            _ => Ok(()),
        }
    }
}

/// A link that is being followed.
struct Following {
    directory: Ino,
    link: Ino,
    target: Vec<u8>,
    /// Where in the target its next part begins; behind its end there is none.
    at: usize,
    /// Links that had been followed before this one.
    before: usize,
}

impl Following {
    fn next(&mut self) -> Option<Vec<u8>> {
        let rest = self.target.get(self.at..)?;
        let part = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
        self.at += part.len() + 1;
        Some(part.to_vec())
    }
}

impl<D: BlockDeviceMut> Layer<'_, D> {
    /// The directory that `parts` leads to from the root. `None` where `missing` says to stop:
    /// it is not there, or something on the way is no directory.
    pub(super) fn directory(
        &mut self,
        parts: &[Vec<u8>],
        missing: Missing,
    ) -> Result<Option<Ino>, Problem> {
        let same = self.known.last.iter().zip(parts);
        let same = same.take_while(|((last, _), part)| last == *part).count();
        self.known.last.truncate(same);
        let mut led = self.known.last.last().map_or(
            Led {
                to: self.root,
                links: 0,
            },
            |(_, led)| *led,
        );
        for part in parts.iter().skip(same) {
            let Some(next) = self.follow(led, part.clone(), missing)? else {
                return Ok(None);
            };
            led = next;
            self.known.last.push((part.clone(), led));
        }
        // Whatever is above a directory that was touched was touched as well.
        let mut above = led.to;
        while self.touched.insert(above) {
            above = self.above(above);
        }
        Ok(Some(led.to))
    }

    /// The directory above one that something led to.
    fn above(&self, directory: Ino) -> Ino {
        let place = self.known.places.get(&directory);
        place.map_or(self.root, |place| place.parent)
    }

    /// One part of a name further, through as many links as it takes.
    fn follow(
        &mut self,
        from: Led,
        part: Vec<u8>,
        missing: Missing,
    ) -> Result<Option<Led>, Problem> {
        let (mut here, mut links) = (from.to, from.links);
        let mut following: Vec<Following> = Vec::new();
        let mut next = Some(part);
        loop {
            let Some(part) = next else {
                let Some(done) = following.pop() else {
                    return Ok(Some(Led { to: here, links }));
                };
                let led = Led {
                    to: here,
                    links: links - done.before,
                };
                self.known.links.insert((done.directory, done.link), led);
                next = following.last_mut().and_then(Following::next);
                continue;
            };
            self.work.spend(1)?;
            // Only links bring these; names are clean.
            if part == b".." {
                here = self.above(here);
            } else if !part.is_empty() && part != b"." {
                match self.filesystem.lookup(here, &part)? {
                    Some(found) if found.file_type == FileType::Directory => {
                        here = self.enter(here, &part, found.ino)?;
                    }
                    Some(found) if found.file_type == FileType::Symlink => {
                        let known = self.known.links.get(&(here, found.ino)).copied();
                        links += known.map_or(1, |led| led.links);
                        if links > MAX_LINKS {
                            return Err(Problem::Loop { limit: MAX_LINKS });
                        }
                        if let Some(led) = known {
                            here = led.to;
                        } else {
                            let target = self.filesystem.read_link(found.ino)?;
                            let directory = here;
                            if target.starts_with(b"/") {
                                here = self.root;
                            }
                            following.push(Following {
                                directory,
                                link: found.ino,
                                target,
                                at: 0,
                                before: links - 1,
                            });
                        }
                    }
                    _ if missing == Missing::Stop => return Ok(None),
                    Some(_) if missing == Missing::CreateOrStop => return Ok(None),
                    Some(_) => return Err(Problem::NotADirectory(part)),
                    None => {
                        self.known.check_length(here, &part)?;
                        self.work.spend(MAKING)?;
                        let kind = NodeKind::Directory;
                        let heritage = self.heritage(here)?;
                        let attributes = heritage.node(FileType::Directory, 0o755);
                        let made = self.filesystem.create(here, &part, &kind, &attributes)?;
                        self.fresh.insert(made);
                        here = self.enter(here, &part, made)?;
                        self.note(self.above(here), part);
                    }
                }
            }
            next = following.last_mut().and_then(Following::next);
        }
    }

    /// Goes from a directory to one in it.
    fn enter(&mut self, parent: Ino, name: &[u8], directory: Ino) -> Result<Ino, Problem> {
        self.known.check_length(parent, name)?;
        let length = self.known.length(parent, name);
        let place = Place { parent, length };
        self.known.places.insert(directory, place);
        Ok(directory)
    }
}

//! What was learned of one repository: the files of its last starts, and the lists made of them.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::format::prefetch::MAX_LIST_BYTES;

/// Starts that are remembered.
const MAX_STARTS: usize = 8;
/// Starts that make a list.
const MIN_STARTS: usize = 2;
/// Lists that are remembered: what was made with an older one can be made again.
const MAX_LISTS: usize = 4;
/// A list is replaced by one that differs in so many of a hundred entries.
const DIFFERENCE: usize = 20;
/// A list is offered so long at least, in seconds.
const LIST_FOR: u64 = 24 * 3600;

/// A list that is or was offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Learned {
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Its paths, most wanted first.
    pub paths: Vec<String>,
}

/// What was learned of one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    /// The upstream's host, and the repository as it names it: for who looks into the file.
    pub upstream: String,
    pub repository: String,
    /// The files of each start, in the order in which they were read first. The last start is last.
    starts: Vec<Vec<String>>,
    /// The list that is offered, and those that were before it.
    pub lists: Vec<Learned>,
}

impl Book {
    /// Adds the files of a start. Returns whether another list is offered from now on.
    pub fn add(&mut self, start: Vec<String>, now: u64) -> bool {
        self.starts.push(start);
        let surplus = self.starts.len().saturating_sub(MAX_STARTS);
        self.starts.drain(..surplus);
        if self.starts.len() < MIN_STARTS {
            return false;
        }
        let paths = merged(&self.starts);
        let is_new = !paths.is_empty()
            && self.lists.first().is_none_or(|offered| {
                now.saturating_sub(offered.since) >= LIST_FOR && differ(&offered.paths, &paths)
            });
        if is_new {
            self.lists.insert(0, Learned { since: now, paths });
            self.lists.truncate(MAX_LISTS);
        }
        is_new
    }
}

/// The paths of more than half of the starts, by their middle place in these, as many as a list may
/// have.
fn merged(starts: &[Vec<String>]) -> Vec<String> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for start in starts {
        let mut seen = HashSet::new();
        for (place, path) in start.iter().enumerate() {
            if seen.insert(path) {
                places.entry(path).or_default().push(place);
            }
        }
    }
    let mut common: Vec<(usize, &str)> = places
        .into_iter()
        .filter(|(_, places)| places.len() * 2 > starts.len())
        .filter_map(|(path, mut places)| {
            places.sort_unstable();
            Some((*places.get(places.len() / 2)?, path))
        })
        .collect();
    common.sort_unstable();
    let (mut paths, mut bytes) = (Vec::new(), 0);
    for (_, path) in common {
        bytes += path.len() + 1;
        if bytes > MAX_LIST_BYTES {
            break;
        }
        paths.push(path.to_owned());
    }
    paths
}

/// Whether two lists are different enough for images to be made anew.
fn differ(one: &[String], other: &[String]) -> bool {
    let (one, other): (HashSet<_>, HashSet<_>) = (one.iter().collect(), other.iter().collect());
    let (common, all) = (one.intersection(&other).count(), one.union(&other).count());
    (all - common) * 100 >= all * DIFFERENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(paths: &str) -> Vec<String> {
        paths.split(' ').map(ToOwned::to_owned).collect()
    }

    #[test]
    fn a_list_has_what_most_starts_read_by_its_middle_place() {
        let starts = [
            start("/a /b /c /only"),
            start("/b /a /c"),
            start("/b /c /a /other"),
        ];
        assert_eq!(merged(&starts), start("/b /a /c"));
        assert_eq!(merged(&starts[..2]), start("/a /b /c"));
        // No list is longer than readers take.
        let long: Vec<String> = (0..5000).map(|n| format!("/directory/{n:020}")).collect();
        let list = merged(&[long.clone(), long.clone()]);
        assert_eq!(list.len(), MAX_LIST_BYTES / 32);
        assert_eq!(list[..], long[..list.len()]);
    }

    #[test]
    fn one_start_makes_no_list() {
        let mut book = Book::default();
        assert!(!book.add(start("/a"), 0));
        assert!(book.lists.is_empty());
        // Nor do two that have nothing in common.
        assert!(!book.add(start("/b"), 0));
        assert!(book.add(start("/b"), 0));
        assert_eq!(book.lists[0].paths, start("/b"));
    }

    #[test]
    fn a_list_stays_for_a_day_and_while_little_changes() {
        let mut book = Book::default();
        book.add(start("/a /b /c /d /e /f"), 0);
        assert!(book.add(start("/a /b /c /d /e /f"), 0));
        let first = book.lists[0].clone();
        // Another file of seven.
        for _ in 0..10 {
            assert!(!book.add(start("/a /b /c /d /e /f /g"), LIST_FOR));
        }
        for _ in 0..10 {
            assert!(!book.add(start("/a /b /x /y"), LIST_FOR - 1));
        }
        assert!(book.add(start("/a /b /x /y"), LIST_FOR));
        assert_eq!(book.lists[1], first);
        for day in 2..10 {
            for _ in 0..8 {
                book.add(vec![format!("/{day}")], LIST_FOR * day);
            }
        }
        assert_eq!(book.lists.len(), MAX_LISTS);
        assert_eq!(book.starts.len(), MAX_STARTS);
        assert_eq!(book.lists[0].paths, start("/9"));
        assert_eq!(book.lists[3].paths, start("/6"));
    }
}

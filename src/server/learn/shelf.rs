//! The directory of what was learned: a file a repository, in JSON.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::book::Book;
use crate::oci::{Digest, RepoName};

/// Most repositories of which something is learned.
const MAX_REPOSITORIES: usize = 1024;
/// Most bytes of a file that are read: more than the longest that is written.
const MAX_BYTES: u64 = 16 << 20;

/// The directory. It is made when the first file is written.
#[derive(Debug, Clone)]
pub(super) struct Shelf(pub PathBuf);

impl Shelf {
    fn path(&self, host: &str, repo: &RepoName) -> PathBuf {
        let name = Digest::of(format!("{host}\n{repo}").as_bytes());
        self.0.join(format!("{}.json", name.hex()))
    }

    /// What is known of a repository; `None` if that is nothing.
    ///
    /// # Errors
    /// When the file cannot be read, or is not one that was written here.
    pub fn read(&self, host: &str, repo: &RepoName) -> io::Result<Option<Book>> {
        let mut text = String::new();
        let file = match File::open(self.path(host, repo)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        file.take(MAX_BYTES).read_to_string(&mut text)?;
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// Writes what is known of a repository: a reader sees the old or the new file.
    ///
    /// # Errors
    /// When the directory cannot be written, or there are too many repositories.
    pub fn write(&self, host: &str, repo: &RepoName, book: &Book) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let path = self.path(host, repo);
        if !path.exists() && fs::read_dir(&self.0)?.count() >= MAX_REPOSITORIES {
            let text = format!(
                "lists of {MAX_REPOSITORIES} repositories are in {}: remove those that are not \
                 wanted any more",
                self.0.display()
            );
            return Err(io::Error::other(text));
        }
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
        file.write_all(&serde_json::to_vec(book)?)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        sync(&self.0)
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_only_so_many_are() {
        let scratch = tempfile::tempdir().unwrap();
        let shelf = Shelf(scratch.path().join("prefetch"));
        let repo = |n: usize| format!("app{n}").parse::<RepoName>().unwrap();
        assert_eq!(shelf.read("h", &repo(0)).unwrap(), None);
        let mut book = Book::default();
        book.add(vec!["/a".to_owned()], 1);
        shelf.write("h", &repo(0), &book).unwrap();
        assert_eq!(shelf.read("h", &repo(0)).unwrap(), Some(book.clone()));
        assert_eq!(shelf.read("other", &repo(0)).unwrap(), None);
        fs::write(shelf.path("h", &repo(1)), "{").unwrap();
        assert!(shelf.read("h", &repo(1)).is_err());
        for n in 2..MAX_REPOSITORIES {
            fs::write(shelf.path("h", &repo(n)), "").unwrap();
        }
        let failure = shelf.write("h", &repo(5000), &book).unwrap_err();
        assert!(failure.to_string().contains("remove"), "{failure}");
        shelf.write("h", &repo(0), &book).unwrap();
        assert_eq!(fs::read_dir(&shelf.0).unwrap().count(), MAX_REPOSITORIES);
    }
}

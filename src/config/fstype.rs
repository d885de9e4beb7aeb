//! `--fstype`: `TYPE[;MOUNT OPTIONS[;MKFS OPTIONS]]`, as the reference's `ctr obdconv` has it.
//!
//! Only ext4 is written, of one geometry, so that the same layer gives the same bytes. Mount
//! options are recorded for the node that mounts the image; mkfs options are taken where they
//! ask for what is done anyway, or for what changes nothing that is read.
//! Sources: accelerated-container-image `pkg/snapshot/storage.go` (how the text is split and
//! used), Linux `Documentation/admin-guide/ext4.rst`, e2fsprogs `mke2fs(8)`.

use std::str::FromStr;

/// A filesystem that images are converted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsType {
    /// What stands between the semicolons; `None` where there are none.
    mount: Option<String>,
}

/// A filesystem, or an option of it, that is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFsType {
    /// Another filesystem.
    #[error("{0:?} is not supported: ext4 is")]
    Type(String),
    /// A mount option.
    #[error("mount option {0:?} {1}")]
    Mount(String, &'static str),
    /// A mkfs option.
    #[error("mkfs option {0:?} {1}")]
    Mkfs(String, &'static str),
}

/// Mount options of ext4 that nodes may be given.
const MOUNT: [&str; 26] = [
    "acl",
    "auto_da_alloc",
    "barrier",
    "block_validity",
    "bsddf",
    "debug",
    "delalloc",
    "dioread_lock",
    "dioread_nolock",
    "discard",
    "errors",
    "grpid",
    "init_itable",
    "inode_readahead_blks",
    "lazytime",
    "max_dir_size_kb",
    "mb_optimize_scan",
    "minixdf",
    "nogrpid",
    "noload",
    "norecovery",
    "prefetch_block_bitmaps",
    "resgid",
    "resuid",
    "stripe",
    "user_xattr",
];

/// Those that say something of a journal: the kernel refuses them without one.
const JOURNAL: [&str; 7] = [
    "commit",
    "data",
    "data_err",
    "journal_async_commit",
    "journal_checksum",
    "journal_dev",
    "journal_ioprio",
];

/// Those that are flags of the mount call: the node hands over text only for ext4 itself.
const FLAGS: [&str; 14] = [
    "atime",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nosuid",
    "relatime",
    "ro",
    "rw",
    "suid",
];

/// Features that the filesystem has.
const HAS: [&str; 10] = [
    "64bit",
    "dir_index",
    "dir_nlink",
    "ext_attr",
    "extent",
    "extents",
    "extra_isize",
    "filetype",
    "huge_file",
    "large_file",
];

/// Features about where things that no reader of an image asks for are placed.
const PLACEMENT: [&str; 5] = [
    "flex_bg",
    "resize_inode",
    "sparse_super",
    "sparse_super2",
    "uninit_bg",
];

/// Features that it does not have.
const LACKS: [&str; 19] = [
    "bigalloc",
    "casefold",
    "ea_inode",
    "encrypt",
    "fast_commit",
    "has_journal",
    "inline_data",
    "journal_dev",
    "large_dir",
    "meta_bg",
    "metadata_csum",
    "metadata_csum_seed",
    "mmp",
    "orphan_file",
    "project",
    "quota",
    "stable_inodes",
    "test_fs",
    "verity",
];

const FIXED: &str = "asks for another filesystem than the one that is written: leave it out";
const UNKNOWN: &str = "is not known here: leave it out";

impl FsType {
    /// What the annotation of a layer says instead of plain `ext4`.
    #[must_use]
    pub fn annotation(&self) -> Option<String> {
        self.mount.as_ref().map(|mount| format!("ext4;{mount}"))
    }
}

impl FromStr for FsType {
    type Err = InvalidFsType;

    fn from_str(text: &str) -> Result<Self, InvalidFsType> {
        let mut parts = text.splitn(3, ';');
        let name = parts.next().unwrap_or_default();
        if name != "ext4" {
            return Err(InvalidFsType::Type(name.to_owned()));
        }
        let mount = parts.next();
        mount.map(check_mount).transpose()?;
        parts.next().map(check_mkfs).transpose()?;
        Ok(Self {
            mount: mount.map(ToOwned::to_owned),
        })
    }
}

fn check_mount(options: &str) -> Result<(), InvalidFsType> {
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let refused = |why| Err(InvalidFsType::Mount(option.to_owned(), why));
        let name = option.split('=').next().unwrap_or_default();
        let positive = name.strip_prefix("no").unwrap_or(name);
        let positive = positive.strip_prefix('_').unwrap_or(positive);
        if MOUNT.contains(&name) || MOUNT.contains(&positive) {
            continue;
        }
        if JOURNAL.contains(&positive) {
            return refused("is about a journal, and images have none: leave it out");
        }
        if FLAGS.contains(&name) {
            return refused("is no option of ext4 but a flag of the mount: the node sets those");
        }
        return refused(UNKNOWN);
    }
    Ok(())
}

fn check_mkfs(options: &str) -> Result<(), InvalidFsType> {
    let mut words = options.split(' ').filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let refused = |option: &str, why| Err(InvalidFsType::Mkfs(option.to_owned(), why));
        // Of what mke2fs says and how carefully it asks.
        if matches!(word, "-F" | "-q" | "-v" | "-D" | "-FF") {
            continue;
        }
        let Some(letter) = word.strip_prefix('-').and_then(|rest| rest.chars().next()) else {
            return refused(word, UNKNOWN);
        };
        if !"bCdEegGiIJLMmNOoErTtUz".contains(letter) {
            let why = if "cjnS".contains(letter) {
                FIXED
            } else {
                UNKNOWN
            };
            return refused(word, why);
        }
        let attached = word.get(1 + letter.len_utf8()..).unwrap_or_default();
        let value = match attached {
            "" => match words.next() {
                Some(value) => value,
                None => return refused(word, "lacks its value"),
            },
            attached => attached,
        };
        let whole = format!("-{letter} {value}");
        let good = match letter {
            'b' => matches!(value, "4096" | "4k" | "4K"),
            'I' => value == "256",
            'i' => matches!(value, "16384" | "16k" | "16K"),
            'r' => value == "1",
            't' => value == "ext4",
            'o' => value.eq_ignore_ascii_case("linux"),
            'U' => value == "clear" || value.chars().all(|c| matches!(c, '0' | '-')),
            // Groups and reserves concern those who write to it.
            'G' | 'm' => value.parse::<u32>().is_ok(),
            'E' => {
                check_extended(value)?;
                true
            }
            'O' => {
                check_features(value)?;
                true
            }
            _ => false,
        };
        if !good {
            return refused(&whole, FIXED);
        }
    }
    Ok(())
}

fn check_extended(list: &str) -> Result<(), InvalidFsType> {
    for option in list.split(',').filter(|option| !option.is_empty()) {
        let name = option.split('=').next().unwrap_or_default();
        let harmless = [
            "assume_storage_prezeroed",
            "discard",
            "lazy_itable_init",
            "lazy_journal_init",
            "no_copy_xattrs",
            "nodiscard",
            "num_backup_sb",
            "packed_meta_blocks",
            "stride",
            "stripe_width",
            "stripe-width",
        ];
        if !harmless.contains(&name) {
            return Err(InvalidFsType::Mkfs(format!("-E {option}"), FIXED));
        }
    }
    Ok(())
}

fn check_features(list: &str) -> Result<(), InvalidFsType> {
    for feature in list.split(',').filter(|feature| !feature.is_empty()) {
        let (name, wanted) = match feature.strip_prefix('^') {
            Some(name) => (name, false),
            None => (feature, true),
        };
        let refused = |why| Err(InvalidFsType::Mkfs(format!("-O {feature}"), why));
        let is_there = HAS.contains(&name);
        if PLACEMENT.contains(&name) {
            continue;
        }
        if !is_there && !LACKS.contains(&name) {
            return refused(UNKNOWN);
        }
        if is_there != wanted {
            return refused(FIXED);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_reference_are_accepted() {
        for (text, annotation) in [
            ("ext4", None),
            ("ext4;discard", Some("ext4;discard")),
            (
                "ext4;noload,errors=remount-ro",
                Some("ext4;noload,errors=remount-ro"),
            ),
            (
                "ext4;noacl,nouser_xattr,no_prefetch_block_bitmaps",
                Some("ext4;noacl,nouser_xattr,no_prefetch_block_bitmaps"),
            ),
            ("ext4;", Some("ext4;")),
            ("ext4;;-b 4096", Some("ext4;")),
            (
                "ext4;discard;-O ^has_journal,sparse_super,flex_bg -G 1 -E discard -F",
                Some("ext4;discard"),
            ),
            ("ext4;;-b4k -I 256 -i 16384 -m 0 -q", Some("ext4;")),
            (
                "ext4;;-O ^metadata_csum,64bit,^orphan_file -U clear",
                Some("ext4;"),
            ),
        ] {
            let read = text
                .parse::<FsType>()
                .unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(read.annotation().as_deref(), annotation, "{text}");
        }
    }

    #[test]
    fn any_other_option_is_an_error_that_names_it() {
        for (text, named) in [
            ("xfs", "\"xfs\""),
            ("", "\"\""),
            ("EXT4", "\"EXT4\""),
            ("ext4;noatime", "\"noatime\""),
            ("ext4;discard,data=ordered", "\"data=ordered\""),
            ("ext4;bogus=1", "\"bogus=1\""),
            ("ext4;;-b 1024", "\"-b 1024\""),
            ("ext4;;-b1024", "\"-b 1024\""),
            ("ext4;;-O has_journal", "\"-O has_journal\""),
            ("ext4;;-O ^extents", "\"-O ^extents\""),
            ("ext4;;-O ^filetype", "\"-O ^filetype\""),
            ("ext4;;-O extents,bogus", "\"-O bogus\""),
            ("ext4;;-L name", "\"-L name\""),
            ("ext4;;-N 1000", "\"-N 1000\""),
            ("ext4;;-E root_owner=1:1", "\"-E root_owner=1:1\""),
            ("ext4;;-c", "\"-c\""),
            ("ext4;;-b", "\"-b\""),
            ("ext4;;bogus", "\"bogus\""),
            ("ext4;;-é 1", "\"-é\""),
        ] {
            let error = text.parse::<FsType>().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}

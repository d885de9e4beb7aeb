//! An image that nobody made for a test: Debian as debootstrap makes it, with packages added
//! and removed in layers that are real overlay diffs. The overlay mounts themselves say what
//! must come out.

use crate::support;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::image::{Flavour, Image, Packing};
use support::layout::Layout;
use support::proxy::Proxy;
use support::pulled::Pulled;
use support::registry::Registry;
use support::turbo::Turbo;
use support::verifier::unmount;
use support::walk::{Kind, Tree};
use support::{run, skopeo};

/// Bumped when what is below is made in another way.
const CACHE: &str = "real-image-1";

/// The mirror and suite that this machine installs from.
fn mirror() -> Option<(String, String)> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    for entry in fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
    {
        texts.push(fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?
        .trim_matches('"')
        .to_owned();
    let is_mirror =
        |word: &&str| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian");
    let url = texts.iter().flat_map(|text| text.split_whitespace());
    let url = url.into_iter().find(is_mirror);
    Some((
        url.unwrap_or("http://deb.debian.org/debian").to_owned(),
        suite,
    ))
}

/// A mounted overlay; unmounted when dropped.
struct Overlay(PathBuf);

impl Overlay {
    fn mount(lower: &[PathBuf], upper: &Path, work: &Path, at: &Path) -> Self {
        for directory in [upper, work, at] {
            fs::create_dir_all(directory).unwrap();
        }
        let lower: Vec<_> = lower
            .iter()
            .rev()
            .map(|path| path.display().to_string())
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off,index=off",
            lower.join(":"),
            upper.display(),
            work.display()
        );
        run(Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(at));
        Self(at.to_owned())
    }

    fn chroot(&self, line: &str) {
        let policy = self.0.join("usr/sbin/policy-rc.d");
        fs::write(&policy, "#!/bin/sh\nexit 101\n").unwrap();
        run(Command::new("chmod").arg("755").arg(&policy));
        run(Command::new("chroot")
            .arg(&self.0)
            .args(["/bin/sh", "-ec", line])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C"));
        fs::remove_file(&policy).unwrap();
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// An upper directory as a layer: whiteouts and opaque marks become the names that image
/// layers have for them. `name` is given to tar as it is.
fn layer(upper: &Path, tar: &Path) {
    let marks = tempfile::tempdir().unwrap();
    let mut whiteouts = Vec::new();
    let mut todo = vec![upper.to_owned()];
    while let Some(path) = todo.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let relative = path.strip_prefix(upper).unwrap();
            if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
                let hidden = format!(".wh.{}", relative.file_name().unwrap().display());
                mark(marks.path(), &relative.with_file_name(hidden));
                whiteouts.push(relative.to_owned());
            } else if metadata.is_dir() {
                if xattr::get(&path, "trusted.overlay.opaque")
                    .unwrap()
                    .is_some()
                {
                    mark(marks.path(), &relative.join(".wh..wh..opq"));
                }
                todo.push(path);
            }
        }
    }
    let list = marks.path().join("list");
    let lines: Vec<_> = whiteouts
        .iter()
        .map(|path| format!("./{}", path.display()))
        .collect();
    fs::write(&list, lines.join("\n")).unwrap();
    run(support::command("tar")
        .args([
            "--create",
            "--format=posix",
            "--xattrs",
            "--xattrs-include=*",
            "--acls",
        ])
        .args([
            "--xattrs-exclude=trusted.overlay.*",
            "--numeric-owner",
            "--sparse",
        ])
        .args(["--no-wildcards", "--anchored"])
        .arg(format!("--exclude-from={}", list.display()))
        .args(["--file"])
        .arg(tar)
        .arg("-C")
        .arg(upper)
        .arg("."));
    let marked = marks.path().join("marks");
    if marked.exists() {
        // Files only: the directories have their entries already.
        let names = run(Command::new("find")
            .args([".", "-type", "f"])
            .current_dir(&marked));
        fs::write(&list, names.stdout).unwrap();
        run(support::command("tar")
            .args(["--append", "--format=posix", "--file"])
            .arg(tar)
            .arg("-C")
            .arg(&marked)
            .arg(format!("--files-from={}", list.display())));
    }
}

fn mark(marks: &Path, name: &Path) {
    let path = marks.join("marks").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "").unwrap();
}

/// Layer tars and, for each, the tree that the stack up to it has.
struct Debian {
    tars: Vec<PathBuf>,
    /// Where the cache is.
    directory: PathBuf,
    layers: Vec<PathBuf>,
}

impl Debian {
    /// Made once and kept in the target directory.
    fn get() -> Option<Self> {
        if !support::is_root("debootstrap")
            || !support::have(&["debootstrap", "skopeo", "e2fsck", "tar", "umoci"])
        {
            return None;
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let directory = target.join(CACHE);
        if !directory.join("whole").exists() {
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir_all(&directory).unwrap();
            if let Err(why) = Self::make(&directory) {
                let _ = fs::remove_dir_all(&directory);
                support::skip(&format!("no Debian to be had: {why}"));
                return None;
            }
            fs::write(directory.join("whole"), "").unwrap();
        }
        let numbered = |name: &str| {
            (0..4)
                .map(|n| directory.join(format!("{name}{n}")))
                .collect()
        };
        Some(Self {
            tars: numbered("tar"),
            layers: numbered("layer"),
            directory,
        })
    }

    fn make(directory: &Path) -> Result<(), String> {
        let (mirror, suite) = mirror().ok_or("this is no Debian")?;
        let base = directory.join("layer0");
        let output = support::command("debootstrap")
            .args(["--variant=minbase", &suite])
            .arg(&base)
            .arg(&mirror)
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!(
                "debootstrap from {mirror}: {}",
                String::from_utf8_lossy(&output.stdout)
            ));
        }
        // Names need no resolver of ours: the mirror's proxy or address is in the host's.
        for file in ["etc/resolv.conf", "etc/hosts"] {
            let _ = fs::copy(Path::new("/").join(file), base.join(file));
        }
        // Links, attributes and capabilities that minbase lacks.
        fs::write(base.join("etc/note"), "the base").unwrap();
        fs::hard_link(base.join("etc/note"), base.join("etc/note-linked")).unwrap();
        let steps = [
            "apt-get -q -y --no-install-recommends install iputils-ping ca-certificates less",
            "apt-get -q -y purge less; rm -rf /usr/share/doc/* /usr/share/man; \
             mkdir /usr/share/man; echo again > /usr/share/man/index; \
             rm -r /var/lib/apt/lists; mkdir -p /var/lib/apt/lists; apt-get clean; \
             echo more >> /etc/note; mv /etc/apt /etc/apt-moved; ln -s apt-moved /etc/apt",
            "rm /etc/apt; mv /etc/apt-moved /etc/apt; mkdir -p /srv/app; \
             cp -a /usr/lib/os-release /srv/app/; ln -s /srv/app /app; touch /bin/through; \
             chmod 1777 /srv/app; chown 1234:5678 /srv/app",
        ];
        let mut layers = vec![base];
        for (number, step) in steps.iter().enumerate() {
            let upper = directory.join(format!("layer{}", number + 1));
            let (work, at) = (directory.join("work"), directory.join("at"));
            {
                let overlay = Overlay::mount(&layers, &upper, &work, &at);
                overlay.chroot(step);
            }
            let _ = fs::remove_dir_all(&work);
            layers.push(upper);
        }
        for (number, upper) in layers.iter().enumerate() {
            layer(upper, &directory.join(format!("tar{number}")));
        }
        Ok(())
    }

    /// The kernel's own view of the first `count` layers.
    fn overlay(&self, count: usize) -> Tree {
        let scratch = tempfile::tempdir_in(&self.directory).unwrap();
        let at = scratch.path().join("at");
        let overlay = Overlay::mount(
            &self.layers[..count],
            &scratch.path().join("upper"),
            &scratch.path().join("work"),
            &at,
        );
        let tree = Tree::of(&at);
        drop(overlay);
        tree
    }
}

/// What an overlay mount shows otherwise than the image is meant: links between names break
/// when one of them is copied up.
fn without_links(mut tree: Tree) -> Tree {
    for node in tree.0.values_mut() {
        node.links = None;
    }
    tree
}

#[test]
fn a_debian_image_with_packages_added_and_removed_equals_its_source() {
    let Some(debian) = Debian::get() else { return };
    let Some(registry) = Registry::start() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let tars: Vec<_> = debian
        .tars
        .iter()
        .map(|tar| fs::read(tar).unwrap())
        .collect();
    let whiteouts = tars.iter().map(|tar| {
        let text = tar.windows(4).filter(|window| window == b".wh.");
        text.count()
    });
    assert!(
        whiteouts.sum::<usize>() > 20,
        "real whiteouts are what this is about"
    );
    let packings = [
        Packing::Gzip,
        Packing::GzipMembers,
        Packing::Gzip,
        Packing::Plain,
    ];
    let layers: Vec<_> = tars.iter().map(|tar| &tar[..]).zip(packings).collect();
    let mut image = Image::new(Flavour::Oci, &layers);
    let layout = Layout::create(&scratch.path().join("source"));
    layout.add("1", &image.seal());
    let to = format!("docker://{}/debian:1", registry.address());
    skopeo::copied(&skopeo::layout(layout.path(), "1"), &to, &[]);

    let proxy = Proxy::start(&registry.url(), &scratch.path().join("data"), &[]);
    let pulled = Pulled::into_layout(&proxy, "debian", "1_obd", &scratch.path().join("out"));
    let found = pulled.tree().unwrap();
    assert!(found.0.len() > 3000, "{} names", found.0.len());
    assert_eq!(found.node("/bin").kind, Kind::Symlink("usr/bin".to_owned()));
    assert!(
        found
            .node("/usr/bin/ping")
            .xattrs
            .contains_key("security.capability")
    );
    assert!(!found.0.contains_key("/usr/bin/less") && found.0.contains_key("/usr/bin/through"));

    // The kernel's overlay of the very directories that the layers were made of.
    // Its root is a new directory each time.
    let (none, root) = (BTreeSet::new(), BTreeSet::from(["/".to_owned()]));
    without_links(found.clone()).assert_is(&without_links(debian.overlay(4)), &root, "overlay");
    // Links by two extractors, which know of no overlay.
    found.assert_is(&support::unpack::gnu_tar(&debian.tars), &none, "GNU tar");
    found.assert_is(&support::unpack::umoci(layout.path(), "1"), &none, "umoci");

    // TurboOCI has no place for several members: they become one.
    image.layers[1].bytes = support::image::gzip(&tars[1]);
    image.manifest["layers"][1] = image.layers[1].descriptor();
    registry.push("debian", "2", &image.seal());
    let origin = |digest: &str| registry.blob_path(digest);
    let turbo = Turbo::pull(&proxy, "debian", "2_turbo", origin);
    turbo.tree().unwrap().assert_is(&found, &none, "native");

    // Every layer on its own is what the overlay was at that time.
    for count in 1..4 {
        let tree = support::verifier::tree(&pulled.layers[..count]).unwrap();
        let turbo = turbo.tree_of_first(count).unwrap();
        turbo.assert_is(&tree, &none, &format!("{count} native layers"));
        let expected = without_links(debian.overlay(count));
        without_links(tree).assert_is(&expected, &root, &format!("{count} layers"));
    }
}

//! Small layers that ask for a lot: each is refused or costs little, and the process goes on.

use crate::support;
use support::bench::Bench;
use support::image::{Flavour, Image, Packing, Sealed};
use support::layout::Layout;
use support::proxy::{self, Proxy};
use support::tar::{self, Entry, Tar};

/// What is refused is refused by a conversion that was waited for.
const PATIENT: [&str; 4] = ["--hold", "4m", "--on-timeout", "busy"];

impl Bench {
    /// Pulls an image, which must be refused as broken, with this in the text.
    #[track_caller]
    fn refuses_with(&self, tag: &str, image: &Sealed, part: &str) {
        self.layout.add(tag, image);
        let answer = self.proxy.get(&format!("demo/manifests/{tag}_obd"));
        assert_eq!(answer.status, 400, "{tag}: {answer:?}");
        let error = answer.json()["errors"][0].clone();
        assert_eq!(error["code"], "MANIFEST_INVALID", "{tag}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part), "{tag}: no {part:?} in: {message}");
    }

    #[track_caller]
    fn converts(&self, tag: &str, image: &Sealed) {
        self.layout.add(tag, image);
        let answer = self.proxy.get(&format!("demo/manifests/{tag}_obd"));
        assert_eq!(answer.status, 200, "{tag}: {answer:?}");
    }

    #[track_caller]
    fn converts_a_sound_image(&self) {
        let sound = Image::gzip(&[Tar::new().file("sound", "sound").finish()]);
        self.converts("sound", &sound.seal());
    }
}

fn seal(tars: &[Vec<u8>]) -> Sealed {
    let tars: Vec<_> = tars.iter().map(|tar| (&tar[..], Packing::Zstd)).collect();
    Image::new(Flavour::Oci, &tars).seal()
}

fn chain(levels: usize) -> String {
    vec!["a"; levels].join("/")
}

#[test]
fn directories_nested_deeper_than_path_max_are_refused() {
    let bench = Bench::new(&PATIENT);
    // 2,048 directories are what a path of 4,095 bytes names.
    let whiteout = Tar::new()
        .dir(&format!("{}/new/", chain(2046)))
        .file(".wh.a", "")
        .finish();
    let deepest = Tar::new().dir(&chain(2048)).finish();
    bench.converts("deepest", &seal(&[deepest, whiteout]));
    let layers = [
        Tar::new().dir(&chain(3375)).finish(),
        Tar::new()
            .dir(&format!("{}/new/", chain(3375)))
            .file(".wh.a", "")
            .finish(),
    ];
    bench.refuses_with("deep", &seal(&layers), "6749 bytes is too long");
    let deeper = Tar::new().file(&chain(500_000), "").finish();
    bench.refuses_with("deeper", &seal(&[deeper]), "is too long");
    let target = Tar::new().file("file", "").hard("link", &chain(3000));
    bench.refuses_with("target", &seal(&[target.finish()]), "is too long");
    bench.converts_a_sound_image();
}

#[test]
fn a_path_through_links_is_limited_as_any_path() {
    let bench = Bench::new(&PATIENT);
    let half = chain(1024);
    let tar = |below: &str| {
        Tar::new()
            .dir(&half)
            .soft("link", &half)
            .file(&format!("link/{below}"), "")
            .finish()
    };
    bench.converts("short", &seal(&[tar(&chain(1024))]));
    bench.refuses_with(
        "long",
        &seal(&[tar(&chain(1025))]),
        "4097 bytes is too long",
    );
    // A level more with each link.
    let mut tar = Tar::new().dir(&half).soft("l0", &half);
    for number in 1..5 {
        tar = tar.soft(&format!("l{number}"), &format!("l{}/{half}", number - 1));
    }
    let tar = tar.file("l4/file", "").finish();
    bench.refuses_with("longer", &seal(&[tar]), "is too long");
    bench.converts_a_sound_image();
}

#[test]
fn as_many_symbolic_links_are_followed_as_in_the_kernel() {
    let bench = Bench::new(&PATIENT);
    let tar = |count: usize| {
        let mut tar = Tar::new().dir("d/").soft("l1", "d");
        for number in 2..=count {
            tar = tar.soft(&format!("l{number}"), &format!("l{}", number - 1));
        }
        tar.file(&format!("l{count}/file"), "").finish()
    };
    bench.converts("40", &seal(&[tar(40)]));
    bench.refuses_with("41", &seal(&[tar(41)]), "over 40 symbolic links");
    bench.refuses_with("250", &seal(&[tar(250)]), "over 40 symbolic links");
    bench.converts_a_sound_image();
}

/// Links `l0` and so on, each leading to the one before by way of 1,600 parts, and the first
/// to `end`.
fn winding(links: usize, end: &str) -> Tar {
    let way = "d/../".repeat(800);
    let mut tar = Tar::new().dir("d/").dir("end/");
    let mut next = end.to_owned();
    for number in 0..links {
        let link = format!("l{number}");
        tar = tar.soft(&link, &format!("{way}{next}"));
        next = link;
    }
    tar
}

#[test]
fn the_target_of_a_link_is_resolved_once() {
    let bench = Bench::new(&PATIENT);
    // 300 entries behind 40 links of 1,600 parts: 19 million steps if each is walked.
    let mut tar = winding(40, "end");
    for number in 0..300 {
        tar = tar.file(&format!("l39/{number}/file"), "x");
    }
    bench.converts("winding", &seal(&[tar.finish()]));
    // 40 hard links and 40 whiteouts likewise.
    let mut tar = winding(40, "end");
    for number in 0..40 {
        tar = tar
            .file(&format!("l39/{number}"), "x")
            .hard(&format!("d/{number}"), &format!("l39/{number}"))
            .file(&format!("l39/.wh.gone{number}"), "");
    }
    bench.converts("links", &seal(&[tar.finish()]));
    bench.refuses_with(
        "more",
        &seal(&[winding(41, "end").file("l40/file", "").finish()]),
        "over 40 symbolic links",
    );
    bench.converts_a_sound_image();
}

#[test]
fn a_layer_with_excessive_path_resolution_is_refused() {
    let bench = Bench::new(&PATIENT);
    let part = "than are followed";
    // What is known of links is of no use once one was replaced.
    let mut tar = winding(40, "end");
    for number in 0..300 {
        tar = tar.soft("other", "end").file(&format!("l39/{number}"), "");
    }
    bench.refuses_with("forgotten", &seal(&[tar.finish()]), part);
    // Nothing is known of what is no directory.
    let whiteouts = |end: &str| {
        let mut tar = winding(40, end).file("end/file", "");
        for _ in 0..300 {
            tar = tar.file("l39/.wh.file", "");
        }
        seal(&[tar.finish()])
    };
    bench.refuses_with("file", &whiteouts("end/file"), part);
    // What is missing is made by the first that looks for it.
    bench.converts("missing", &whiteouts("missing"));
    // Parents that no entry makes: 2,000 with each.
    let mut tar = Tar::new();
    for number in 0..300 {
        tar = tar.file(&format!("{number}/{}/file", chain(2000)), "");
    }
    bench.refuses_with("implied", &seal(&[tar.finish()]), part);
    // A whiteout goes through what stays, each time.
    let mut lower = Tar::new().dir("top/");
    let mut upper = Tar::new();
    for number in 0..1000 {
        lower = lower.dir(&format!("top/{number}/"));
        upper = upper.file(&format!("top/{number}/file"), "");
    }
    for _ in 0..2000 {
        upper = upper.file(".wh.top", "");
    }
    bench.refuses_with("whiteouts", &seal(&[lower.finish(), upper.finish()]), part);
    bench.converts_a_sound_image();
}

#[test]
fn metadata_that_is_read_once_does_not_stay_in_memory() {
    const DIRECTORIES: u32 = 100_000;
    let bench = Bench::new(&PATIENT);
    let mut tar = Tar::new();
    for number in 0..DIRECTORIES {
        tar = tar.dir(&format!("{}/{number}/", number / 1000));
    }
    // Each looks into one of them, and finds nothing.
    for number in 0..DIRECTORIES {
        tar = tar.file(&format!("{}/{number}/none/.wh.x", number / 1000), "");
    }
    bench.converts("looks", &seal(&[tar.finish()]));
    let peak = bench.proxy.peak_mib();
    // Their blocks are 390 MiB.
    assert!(peak <= 300, "{peak} MiB");
}

#[test]
fn copies_of_files_with_too_many_links_are_limited_by_the_disk() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("images"));
    let mut lower = Tar::new().file("file", vec![7; 40 << 20]);
    for number in 1..65_000 {
        lower = lower.hard(&format!("links/{number}"), "file");
    }
    let lower = lower.finish();
    // Two names that are replaced in turns: the copy goes with both.
    let upper = |rounds: usize| {
        let mut tar = Tar::new();
        for _ in 0..rounds {
            tar = tar.hard("x", "file").file("x", "");
        }
        tar.finish()
    };
    layout.add("few", &seal(&[lower.clone(), upper(2)]));
    layout.add("many", &seal(&[lower, upper(8)]));
    let upstream = format!("oci:{}", layout.path().display());
    let data = scratch.path().join("data");
    let options = ["--vsize", "256MiB", "--hold", "60s"];
    let proxy = Proxy::start(&upstream, &data, &options);
    let few = proxy.get("demo/manifests/few_obd");
    assert_eq!(few.status, 200, "{few:?}");
    let many = proxy.get("demo/manifests/many_obd");
    assert_eq!(many.status, 400, "{many:?}");
    assert!(many.text().contains("take copies of more"), "{many:?}");
}

#[test]
fn a_tar_whose_first_name_begins_with_a_magic_number_is_a_tar() {
    let bench = Bench::new(&PATIENT);
    let names: [&[u8]; 5] = [
        b"BZh91AY",
        b"\xfd7zXZ",
        b"\x1f\x8b\x08",
        b"\x28\xb5\x2f\xfd",
        b"\x04\x22\x4d\x18",
    ];
    for (number, name) in names.into_iter().enumerate() {
        let mut tar = Tar::new();
        let mut entry = Entry::new(tar::FILE, "").data(b"data");
        entry.name = name;
        tar.raw(&entry);
        let tar = tar.finish();
        let image = Image::new(Flavour::Oci, &[(&tar[..], Packing::Plain)]);
        bench.converts(&format!("name-{number}"), &image.seal());
    }
    let case = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/cases/first-name-begins-bzh.tar"
    );
    let case = std::fs::read(case).unwrap();
    let image = Image::new(Flavour::Oci, &[(&case[..], Packing::Plain)]);
    bench.converts("case", &image.seal());
    assert!(proxy::blobs(&bench.data).len() >= 2 * names.len());
}

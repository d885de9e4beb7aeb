//! Symbolic and hard links.

use super::*;

#[test]
fn parents_are_found_through_links_inside_the_image() {
    Image::new()
        .with(
            Tar::new()
                .dir("usr/lib", 0o755)
                .soft("lib", "usr/lib")
                .soft("abs", "/usr")
                .soft("usr/up", "../../../../usr/lib")
                .soft("dangling", "made/./here/"),
        )
        .with(
            Tar::new()
                .file("lib/a", "a")
                .file("abs/b", "b")
                .file("usr/up/c", "c")
                .file("abs/lib/../up/d", "d")
                .file("dangling/e", "e")
                .hard("abs/hard", "lib/a", 0o644),
        )
        .with(Tar::new().file("lib/.wh.c", ""))
        .is("l0777 7@9 /abs -> /usr
             l0777 7@9 /dangling -> made/./here/
             l0777 7@9 /lib -> usr/lib
             d0755 0@0 /made
             d0755 0@0 /made/here
             -0644 7@9 /made/here/e = e
             d0755 0@0 /usr
             -0644 7@9 /usr/b = b
             -0644 7@9 x2 /usr/hard = a
             d0755 7@9 /usr/lib
             -0644 7@9 x2 /usr/lib/a = a
             -0644 7@9 /usr/lib/d = d
             l0777 7@9 /usr/up -> ../../../../usr/lib");
}

#[test]
fn a_link_to_an_absolute_path_starts_at_the_images_root() {
    Image::new()
        .with(
            Tar::new()
                .dir("usr", 0o755)
                .soft("a/b/link", "/usr/../top")
                .file("a/b/link/f", "f"),
        )
        .is("d0755 0@0 /a
             d0755 0@0 /a/b
             l0777 7@9 /a/b/link -> /usr/../top
             d0755 0@0 /top
             -0644 7@9 /top/f = f
             d0755 7@9 /usr");
}

#[test]
fn hard_links_share_mode_owner_and_attributes() {
    Image::new()
        .with(
            Tar::new()
                .pax(&[("SCHILY.xattr.user.a", b"1")])
                .file("f", "f")
                .soft("s", "t"),
        )
        .with(
            Tar::new()
                .pax(&[("SCHILY.xattr.user.b", b"2"), ("uid", b"3000000000")])
                .hard("g", "/f", 0o4700)
                .hard("s2", "s", 0o600)
                // A link to itself is no link, but its attributes count.
                .hard("s", "./s", 0o600),
        )
        .is("-4700 3000000000@9 x2 /f = f [user.a=1] [user.b=2]
             -4700 3000000000@9 x2 /g = f [user.a=1] [user.b=2]
             l0777 7@9 x2 /s -> t
             l0777 7@9 x2 /s2 -> t");
}

#[test]
fn links_over_the_limit_of_ext4_are_links_to_a_copy() {
    let mut image = Image::new().with(Tar::new().file("f", "data"));
    let mut tar = Tar::new();
    for link in 0..65_003 {
        tar = tar.hard(&format!("l{link}"), "f", 0o644);
    }
    image.layer(tar).unwrap();
    let listing = image.listing();
    assert_eq!(listing.matches(" x65000 ").count(), 65_000);
    assert_eq!(listing.matches(" x4 ").count(), 4);
    assert_eq!(listing.matches("= data").count(), 65_004);
}

#[test]
fn aufs_files_of_hard_links_appear_under_the_link_names_only() {
    Image::new()
        .with(
            Tar::new()
                .dir(".wh..wh.plnk", 0o700)
                .file(".wh..wh.plnk/12.345", "shared")
                .file(".wh..wh.plnk/12.346", "unused")
                .file(".wh..wh..opq", "")
                .hard("usr/a", ".wh..wh.plnk/12.345", 0o644)
                .hard("usr/b", "/.wh..wh.plnk/12.345", 0o640),
        )
        .is("d0755 0@0 /usr
             -0640 7@9 x2 /usr/a = shared
             -0640 7@9 x2 /usr/b = shared");
    let error = Image::new().error(Tar::new().hard("a", ".wh..wh.plnk/1", 0o644));
    assert!(error.contains("does not exist"), "{error}");
}

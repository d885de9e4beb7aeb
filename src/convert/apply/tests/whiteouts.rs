//! Whiteouts and opaque directories.

use super::*;

#[test]
fn a_whiteout_hides_lower_layers_only_in_any_order() {
    lower()
        .with(
            Tar::new()
                .file(".wh.d", "")
                .file(".wh.f", "")
                .file(".wh.none", ""),
        )
        .is("");
    lower()
        .with(
            Tar::new()
                .file("d/.wh.a", "")
                .file("no/such/.wh.x", "")
                .file("f/.wh.x", ""),
        )
        .is("d0700 7@9 /d
             -0644 7@9 /d/b = b
             d0711 7@9 /d/sub
             -0644 7@9 /d/sub/c = c
             -0644 7@9 /f = f
             d0755 0@0 /no
             d0755 0@0 /no/such");
    let expected = "d0755 0@0 /d
                    d0750 7@9 /d/sub
                    -0644 7@9 /d/sub/new = new
                    -0644 7@9 /f = F";
    lower()
        .with(
            Tar::new()
                .file(".wh.d", "")
                .file(".wh.f", "")
                .dir("d/sub", 0o750)
                .file("d/sub/new", "new")
                .file("f", "F"),
        )
        .is(expected);
    lower()
        .with(
            Tar::new()
                .dir("d/sub", 0o750)
                .file("d/sub/new", "new")
                .file("f", "F")
                .file(".wh.f", "")
                .file(".wh.d", ""),
        )
        .is(expected);
    // A directory that is listed stays, without what the lower layers have in it.
    lower()
        .with(
            Tar::new()
                .file(".wh.f", "")
                .dir("d", 0o750)
                .file(".wh.d", ""),
        )
        .is("d0750 7@9 /d");
    // Even what this layer put in and took out again.
    lower()
        .with(
            Tar::new()
                .file("d/new/x", "")
                .file("d/new", "file")
                .file("d/.wh.new", "")
                .file(".wh.d", "")
                .file(".wh.f", ""),
        )
        .is("d0755 0@0 /d
             -0644 7@9 /d/new = file");
}

#[test]
fn an_opaque_directory_hides_lower_layers_in_any_order() {
    let expected = "d0750 7@9 /d
                    -0644 7@9 /d/a = A
                    d0755 0@0 /d/sub
                    -0644 7@9 /d/sub/new = new
                    -0644 7@9 /f = f";
    let opaque = "d/.wh..wh..opq";
    lower()
        .with(
            Tar::new()
                .dir("d", 0o750)
                .file(opaque, "")
                .file("d/a", "A")
                .file("d/sub/new", "new"),
        )
        .is(expected);
    lower()
        .with(
            Tar::new()
                .file("d/sub/new", "new")
                .file("d/a", "A")
                .file(opaque, "")
                .dir("d", 0o750),
        )
        .is(expected);
    lower().with(Tar::new().file(".wh..wh..opq", "")).is("");
    lower()
        .with(
            Tar::new()
                .file("d/sub/.wh..wh..opq", "")
                .file("none/.wh..wh..opq", ""),
        )
        .is("d0700 7@9 /d
             -0644 7@9 /d/a = a
             -0644 7@9 /d/b = b
             d0711 7@9 /d/sub
             -0644 7@9 /f = f
             d0755 0@0 /none");
}

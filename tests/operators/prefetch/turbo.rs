//! TurboOCI images: their trace is the list, which overlaybd follows into the source's layers.

use super::trace::unpacked;
use super::{Workshop, assert_described, check, inspect};

#[test]
fn the_trace_of_a_turbo_image_is_its_list() {
    let workshop = Workshop::new();
    let list = workshop.list("list", "/bin/tool\n\n /data/*\n/lib/\n/bin/tool\n");
    let plain = workshop.convert("1", "plain", &["--turbo"]);
    let converted = workshop.convert("1", "out", &["--turbo", "--prefetch-list", &list]);
    assert_eq!(converted.count(), 3);
    for number in 0..2 {
        assert_eq!(plain.layer(number), converted.layer(number));
    }
    let blob = converted.blob(2);
    assert_described(
        &converted.layer(2),
        &blob,
        "application/vnd.oci.image.layer.v1.tar",
    );
    let config = converted.config();
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap().clone();
    assert_eq!(diff_ids.len(), 3);
    assert_eq!(diff_ids[2], converted.layer(2)["digest"]);
    // As overlaybd takes lines: it knows no asterisk.
    let trace = String::from_utf8(unpacked(&blob)).unwrap();
    assert_eq!(trace, "/bin/tool\n/data/\n/lib/\n");
    check(&converted.name, &workshop.source("1"));
    let shown = inspect(&converted.name);
    assert_eq!(shown[2]["trace"]["paths"].as_array().unwrap().len(), 3);
}

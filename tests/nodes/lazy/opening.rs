//! How long opening an image takes, in round trips.

use std::time::Duration;

use crate::lazy::served::Served;
use crate::support::proxy::program;
use crate::support::run;

/// How long an answer is held back: what is asked within it counts as asked at once.
const DELAY: Duration = Duration::from_millis(300);

/// The round trips of `ls`, one after the other.
fn rounds(layers: usize, is_turbo: bool) -> Option<usize> {
    let served = Served::start(layers, is_turbo)?;
    served.gate.delay(DELAY);
    let output = run(program().args(["ls", &served.name(), "--cache-size", "0"]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("etc"));
    eprintln!(
        "{layers} layers, TurboOCI: {is_turbo}: {:#?}",
        served.gate.seen()
    );
    Some(served.gate.rounds())
}

#[test]
fn the_first_names_of_an_image_come_after_few_round_trips() {
    // The manifest; both ends of the blobs; superblock, root directory.
    for (is_turbo, most) in [(false, 5), (true, 5)] {
        let Some(one) = rounds(1, is_turbo) else {
            return;
        };
        let Some(many) = rounds(12, is_turbo) else {
            return;
        };
        eprintln!("TurboOCI: {is_turbo}: {one} and {many} round trips");
        assert!(one <= most && many <= most, "{one} and {many} round trips");
    }
}

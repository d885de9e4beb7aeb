//! Conversions under way, those that wait, and those that ended lately or are remembered by the index.

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use super::html::{Button, Html, MOST_ROWS, count, progress, size, time};
use crate::convert::{Asker, Conversion, ConversionState, LayerState};
use crate::oci::{Selector, Tag};
use crate::store::RecordedImage;

/// Most layers of a conversion that are shown.
const MOST_LAYERS: usize = 8;

/// The name of an image as lists show it.
pub(super) fn name(upstream: &str, repo: &str, tag: Option<&str>) -> String {
    let tag = tag.map_or_else(String::new, |tag| format!(":{tag}"));
    // Of a layout this is the path of its directory.
    if upstream.starts_with("oci:") {
        return format!("{repo}{tag}");
    }
    format!("{upstream}/{repo}{tag}")
}

/// The value of a button that converts an image again.
pub(super) fn again(upstream: &str, repo: &str, tag: &str) -> String {
    format!("retry {upstream} {repo} {tag}")
}

fn name_of(one: &Conversion) -> String {
    let tag = one.tag.as_ref().map(Tag::as_str);
    name(&one.upstream, one.repo.as_str(), tag)
}

/// What is converted: the name, and below it into what.
fn image(one: &Conversion) -> Html {
    let mut html = Html::new();
    html.name(&name_of(one));
    html.raw("<small>").text(one.format.name());
    if !one.platforms.is_empty() {
        html.text(", ").text(one.platforms.replace(',', ", "));
    }
    html.raw("</small>");
    html
}

/// Those that have not ended: those that run first.
pub(super) fn under_way(all: &[Conversion], is_on: bool) -> Html {
    let mut html = Html::new();
    html.raw("<section aria-labelledby=\"now\"><h2 id=\"now\" tabindex=\"-1\">Conversions</h2>");
    let of = |state: ConversionState| all.iter().rev().filter(move |one| one.state == state);
    let running = of(ConversionState::Running);
    let waiting = of(ConversionState::Queued);
    let live: Vec<&Conversion> = running.chain(waiting).collect();
    if live.is_empty() {
        html.paragraph("No conversion is under way, and none waits.");
    } else {
        let rows = live.iter().take(MOST_ROWS);
        let rows: Vec<Vec<Html>> = rows.map(|one| live_row(one, is_on)).collect();
        let columns = ["Image", "State", "Layers", "Bytes", "Asked by", "Change"];
        html.table("Under way and waiting, in their order", &columns, &rows);
        html.more(live.len());
    }
    html.raw("</section>");
    html
}

fn live_row(one: &Conversion, is_on: bool) -> Vec<Html> {
    let name = name_of(one);
    let mut state = Html::new();
    state.raw(match one.state {
        ConversionState::Queued => "<strong>waits</strong>",
        _ => "<strong>runs</strong>",
    });
    state.raw("<small>since ");
    state.piece(&time(one.started_at.unwrap_or(one.created_at)));
    state.raw("</small>");
    let done = one.layers_found.saturating_add(one.layers_made);
    let mut layers = Html::new();
    let mut bytes = Html::new();
    if one.layers == 0 {
        layers.text("not known yet");
    } else {
        layers.text(format_args!("{done} of {}", count(one.layers, "layer")));
        layers.piece(&progress(&format!("Layers of {name}"), done, one.layers));
        if one.layers_found > 0 {
            let found = one.layers_found;
            layers.raw("<small>").text(found).raw(" found</small>");
        }
        bytes.text(format_args!(
            "{} of {} read",
            size(one.read_bytes),
            size(one.source_bytes)
        ));
        let label = format!("Bytes of {name}");
        bytes.piece(&progress(&label, one.read_bytes, one.source_bytes));
        if one.blob_bytes > 0 {
            let written = size(one.blob_bytes);
            bytes.raw("<small>").text(written).raw(" written</small>");
        }
        bytes.piece(&each_layer(one));
    }
    let button = Button {
        label: "Cancel",
        to: &name,
        action: format!("cancel {}", one.id),
        is_on,
    };
    vec![image(one), state, layers, bytes, whom(one), button.html()]
}

/// The layers that are worked on: few at one time. The others are counted.
fn each_layer(one: &Conversion) -> Html {
    let mut html = Html::new();
    let layers = one.each_layer.iter().enumerate();
    let running = layers.filter(|(_, layer)| layer.state == LayerState::Running);
    for (number, layer) in running.take(MOST_LAYERS) {
        let label = format!("Layer {} of {}", number + 1, name_of(one));
        html.raw("<small>layer ").text(number + 1).raw(": ");
        html.text(size(layer.read)).raw(" of ");
        html.text(size(layer.bytes)).raw("</small>");
        html.piece(&progress(&label, layer.read, layer.bytes));
    }
    html
}

/// Who had it begun.
fn whom(one: &Conversion) -> Html {
    let mut html = Html::new();
    match one.asker {
        Asker::Client(address) => html.text(address.ip()),
        Asker::Operator => html.text("an operator"),
        Asker::Notification => html.text("a notification"),
        Asker::Proxy => html.text("the proxy itself"),
    };
    if let Some(user) = &one.user {
        html.raw("<small>").text(user).raw("</small>");
    }
    html
}

/// What to do about an error.
pub(super) fn remedy(remedy: Option<&'static str>) -> Html {
    let mut html = Html::new();
    if let Some(remedy) = remedy {
        html.raw("<small class=\"remedy\">").text(remedy);
        html.raw("</small>");
    }
    html
}

/// Those that ended lately, and the images that were converted before, what ended last first. `remembered` is
/// what the index has, the latest first, or `None` if it does not answer.
pub(super) fn recent(
    all: &[Conversion],
    remembered: Option<&[RecordedImage]>,
    is_on: bool,
) -> Html {
    let mut html = Html::new();
    html.raw("<section aria-labelledby=\"recent\"><h2 id=\"recent\">Recent images</h2>");
    let ended: Vec<&Conversion> = all.iter().filter(|one| one.state.is_ended()).collect();
    let images = remembered.unwrap_or_default();
    let is_new = |image: &&RecordedImage| !ended.iter().any(|one| is_same(one, image));
    let mut rows: Vec<(SystemTime, Row<'_>)> = Vec::new();
    rows.extend(ended.iter().map(|one| {
        let at = one.finished_at.unwrap_or(one.created_at);
        (at, Row::Ended(one))
    }));
    rows.extend(
        images
            .iter()
            .filter(is_new)
            .map(|image| (image.time(), Row::Remembered(image))),
    );
    rows.sort_by_key(|(at, _)| Reverse(*at));
    if rows.is_empty() {
        html.paragraph("No image was converted yet.");
    } else {
        let shown = rows.iter().take(MOST_ROWS);
        let shown: Vec<Vec<Html>> = shown
            .map(|(_, row)| match row {
                Row::Ended(one) => ended_row(one, is_on),
                Row::Remembered(image) => remembered_row(image),
            })
            .collect();
        let columns = ["Image", "Outcome", "Ended", "Layers", "Bytes", "Change"];
        html.table("Ended lately, the latest first", &columns, &shown);
        if rows.len() > MOST_ROWS || images.len() >= MOST_ROWS {
            html.raw("<p>Older ones are not shown: <code>overlaybd-proxy images ls</code> lists ");
            html.raw("all images that were converted.</p>");
        }
    }
    if remembered.is_none() {
        html.paragraph(
            "The index does not answer: what was converted before the start is not shown.",
        );
    }
    html.raw("</section>");
    html
}

/// A row of the recent images.
enum Row<'a> {
    /// A conversion since the start.
    Ended(&'a Conversion),
    /// An image that the index remembers.
    Remembered(&'a RecordedImage),
}

/// Whether the index remembers what this conversion made.
fn is_same(one: &Conversion, remembered: &RecordedImage) -> bool {
    let image = &remembered.image;
    let reference = one
        .tag
        .clone()
        .map_or_else(|| Selector::Digest(one.source.clone()), Selector::Tag);
    one.state == ConversionState::Converted(image.digest.clone())
        && one.upstream == image.host
        && one.repo == image.repo
        && reference == image.reference
}

fn remembered_row(remembered: &RecordedImage) -> Vec<Html> {
    let image = &remembered.image;
    let mut what = Html::new();
    match &image.reference {
        Selector::Tag(tag) => {
            what.name(&name(&image.host, image.repo.as_str(), Some(tag.as_str())));
        }
        Selector::Digest(_) => {
            what.name(&name(&image.host, image.repo.as_str(), None));
        }
    }
    what.raw("<small>").text(&image.format);
    if !image.platforms.is_empty() {
        what.text(", ").text(image.platforms.join(", "));
    }
    what.raw("</small>");
    let mut outcome = Html::new();
    outcome.raw("<strong class=\"good\">converted</strong>");
    outcome.raw("<small class=\"digest\">").text(&image.digest);
    outcome.raw("</small>");
    let found = image.layers.saturating_sub(image.layers_made);
    let layers = Html::of(format_args!("{} made, {found} found", image.layers_made));
    let mut bytes = Html::of(size(image.bytes));
    if let Some(source) = image.source_bytes {
        bytes.text(format_args!(" from {}", size(source)));
    }
    vec![
        what,
        outcome,
        time(remembered.time()),
        layers,
        bytes,
        Html::new(),
    ]
}

fn ended_row(one: &Conversion, is_on: bool) -> Vec<Html> {
    let mut outcome = Html::new();
    match &one.state {
        ConversionState::Converted(digest) => {
            outcome.raw("<strong class=\"good\">converted</strong>");
            outcome.raw("<small class=\"digest\">").text(digest);
            outcome.raw("</small>");
        }
        ConversionState::Failed(error) => {
            outcome.raw("<strong class=\"bad\">failed</strong>");
            outcome.raw("<span class=\"error\">").text(error);
            outcome.raw("</span>").piece(&remedy(one.remedy));
        }
        ConversionState::NoImage(why) => {
            outcome.raw("<strong>left as it is</strong><small>");
            outcome.text(why).raw("</small>");
        }
        other => {
            outcome.raw("<strong>").text(other.name()).raw("</strong>");
        }
    }
    let mut ended = Html::new();
    if let Some(at) = one.finished_at {
        ended.piece(&time(at));
        let took = one
            .started_at
            .and_then(|began| at.duration_since(began).ok());
        if let Some(took) = took {
            ended.raw("<small>after ").text(duration(took));
            ended.raw("</small>");
        }
    }
    let layers = format!("{} made, {} found", one.layers_made, one.layers_found);
    let bytes = format!(
        "{} read, {} written",
        size(one.read_bytes),
        size(one.blob_bytes)
    );
    let mut change = Html::new();
    let can_retry = !matches!(
        one.state,
        ConversionState::Converted(_) | ConversionState::NoImage(_)
    );
    if let Some(tag) = one.tag.as_ref().filter(|_| can_retry) {
        let button = Button {
            label: "Retry",
            to: &name_of(one),
            action: again(&one.upstream, one.repo.as_str(), tag.as_str()),
            is_on,
        };
        change = button.html();
    }
    let (layers, bytes) = (Html::of(layers), Html::of(bytes));
    vec![image(one), outcome, ended, layers, bytes, change]
}

/// How long something took.
fn duration(took: Duration) -> String {
    let tenths = took.as_millis() / 100;
    match took.as_secs() {
        0..60 => format!("{}.{} s", tenths / 10, tenths % 10),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_a_layout_has_no_registry_in_its_name() {
        let named = name("registry.example", "a/b", Some("1"));
        assert_eq!(named, "registry.example/a/b:1");
        assert_eq!(name("oci:/srv/images", "a", Some("1")), "a:1");
        assert_eq!(name("registry.example", "a", None), "registry.example/a");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(duration(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 5 s");
    }
}

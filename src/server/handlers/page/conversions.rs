//! Conversions under way, those that wait, and those that ended lately.

use std::time::Duration;

use super::html::{Button, Html, MOST_ROWS, count, progress, size, time};
use crate::convert::{Conversion, ConversionState};
use crate::oci::Tag;

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
    }
    let button = Button {
        label: "Cancel",
        to: &name,
        action: format!("cancel {}", one.id),
        is_on,
    };
    vec![image(one), state, layers, bytes, whom(one), button.html()]
}

/// By whose pull it began.
fn whom(one: &Conversion) -> Html {
    let mut html = Html::new();
    html.name(one.client.as_deref().unwrap_or("the proxy itself"));
    if let Some(user) = &one.user {
        html.raw("<small>").text(user).raw("</small>");
    }
    html
}

/// Those that ended lately, the latest first.
pub(super) fn recent(all: &[Conversion], is_on: bool) -> Html {
    let mut html = Html::new();
    html.raw("<section aria-labelledby=\"recent\"><h2 id=\"recent\">Recent images</h2>");
    let ended: Vec<&Conversion> = all.iter().filter(|one| one.state.is_ended()).collect();
    if ended.is_empty() {
        html.paragraph("No conversion has ended since the start.");
    } else {
        let rows = ended.iter().take(MOST_ROWS);
        let rows: Vec<Vec<Html>> = rows.map(|one| ended_row(one, is_on)).collect();
        let columns = ["Image", "Outcome", "Ended", "Layers", "Bytes", "Change"];
        html.table("Ended lately, the latest first", &columns, &rows);
        html.more(ended.len());
    }
    html.raw("</section>");
    html
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
            outcome.raw("</span>");
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
    let can_retry = !matches!(one.state, ConversionState::Converted(_));
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

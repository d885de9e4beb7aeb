//! Failures that are remembered: what is not begun again by each retry.

use std::time::SystemTime;

use super::conversions::{again, name, remedy};
use super::html::{Button, Html, MOST_ROWS, count, time};
use crate::convert::FailedImage;
use crate::oci::Tag;

/// The failures, the latest first.
pub(super) fn section(all: &[FailedImage], is_on: bool) -> Html {
    let mut html = Html::new();
    html.raw("<section aria-labelledby=\"failures\"><h2 id=\"failures\">Last failures</h2>");
    if all.is_empty() {
        html.paragraph("No failure is remembered.");
    } else {
        let rows = all.iter().take(MOST_ROWS);
        let rows: Vec<Vec<Html>> = rows.map(|one| row(one, is_on)).collect();
        let columns = ["Image", "Error", "Failed", "Tried again from", "Change"];
        html.table(
            "Not begun again by pulls while they are remembered",
            &columns,
            &rows,
        );
        html.more(all.len());
        let button = Button {
            label: "Forget all",
            to: "failures",
            action: "forget-all".to_owned(),
            is_on,
        };
        html.raw("<p>").piece(&button.html()).raw("</p>");
    }
    html.raw("</section>");
    html
}

/// The value of a button that forgets a failure.
fn forget(one: &FailedImage) -> String {
    format!("forget {} {} {}", one.upstream, one.repo, one.source)
}

fn row(one: &FailedImage, is_on: bool) -> Vec<Html> {
    let tag = one.tag.as_ref().map(Tag::as_str);
    let named = name(&one.upstream, one.repo.as_str(), tag);
    let mut image = Html::new();
    image.name(&named);
    image.raw("<small>").text(one.format.name());
    image.raw("</small>");
    let mut error = Html::new();
    error.raw("<span class=\"error\">").text(&one.error);
    error.raw("</span>").piece(&remedy(one.remedy));
    error.raw("<small>").text(one.fault.name());
    error.raw("</small>");
    let mut until = Html::new();
    match SystemTime::now().checked_add(one.again) {
        Some(at) => until.piece(&time(at)),
        None => until.text("never"),
    };
    let answered = count(one.answered, "request");
    until.raw("<small>").text(answered).raw(" got it</small>");
    let mut change = Html::new();
    if let Some(tag) = tag {
        let retry = Button {
            label: "Retry",
            to: &format!("{named} now"),
            action: again(&one.upstream, one.repo.as_str(), tag),
            is_on,
        };
        change.piece(&retry.html()).raw(" ");
    }
    let forgotten = Button {
        label: "Forget",
        to: &named,
        action: forget(one),
        is_on,
    };
    change.piece(&forgotten.html());
    vec![image, error, time(one.failed_at), until, change]
}

//! What pulls of an image that is typed in would get, and why.

use super::html::Html;
use crate::server::explain::{Case, Explanation, ImageQuestion, KnownSize, Pull, explain_by};
use crate::server::state::AppState;

/// The longest name that is looked at, in bytes.
const MAX_NAME: usize = 1000;

/// The answer for an image; nothing where none was typed in.
pub(super) async fn section(state: &AppState, image: &str) -> Html {
    let mut html = Html::new();
    if image.is_empty() {
        return html;
    }
    html.raw("<section aria-labelledby=\"policy\"><h2 id=\"policy\">What pulls of ");
    html.raw("<span class=\"name\">").text(image);
    html.raw("</span> get</h2>");
    match explained(state, image).await {
        Ok(explanation) => answer(&mut html, &explanation),
        Err(error) => {
            html.raw("<p role=\"alert\" class=\"message bad\">");
            html.text(error).raw("</p>");
        }
    }
    html.raw("</section>");
    html
}

async fn explained(state: &AppState, image: &str) -> Result<Explanation, String> {
    if image.len() > MAX_NAME {
        return Err("the name is too long".to_owned());
    }
    let question: ImageQuestion = image.parse()?;
    let converter = &state.converted.converter;
    let policy = state.policy();
    explain_by(
        &policy.policy,
        &state.config,
        converter.push_target(),
        converter.platforms(),
        &question,
        KnownSize::Unknown,
    )
    .await
    .map_err(|error| error.to_string())
}

fn answer(html: &mut Html, explanation: &Explanation) {
    html.raw("<dl><div><dt>Upstream</dt><dd>");
    html.text(&explanation.upstream);
    html.raw("</dd></div><div><dt>Image there</dt><dd>");
    html.text(format_args!(
        "{}:{}",
        explanation.repository, explanation.tag
    ));
    html.raw("</dd></div></dl>");
    if let Some(note) = &explanation.note {
        html.paragraph(note);
    }
    if explanation.is_prepared {
        html.paragraph(
            "What it becomes is prepared when its plain tag is pulled (--convert-on-pull).",
        );
    }
    if explanation.prefers_upstream_tags {
        html.paragraph(
            "A tag with a suffix that the upstream has goes first (--prefer-upstream-tags).",
        );
    }
    for (number, one) in explanation.cases.iter().enumerate() {
        case(html, one, number > 0);
    }
}

fn case(html: &mut Html, case: &Case, is_other: bool) {
    let condition = match (&case.condition, is_other) {
        (Some(condition), false) => format!("If {condition}: "),
        (Some(condition), true) => format!("Otherwise, if {condition}: "),
        (None, true) => "Otherwise: ".to_owned(),
        (None, false) => String::new(),
    };
    let rule = match &case.rule {
        Some(rule) => format!("by [[policy]] {}: {}", rule.number, rule.text),
        None => "by no rule".to_owned(),
    };
    let platforms = case.platforms.join(", ");
    let caption = format!("{condition}{rule}; platforms {platforms}");
    let rows: Vec<Vec<Html>> = case.pulls.iter().map(row).collect();
    let columns = ["Tag", "Pulled through", "Client asks for", "Gets", "Why"];
    html.table(caption, &columns, &rows);
}

fn row(pull: &Pull) -> Vec<Html> {
    let through = match &pull.mirror_of {
        Some(registry) => format!("a mirror of {registry}"),
        None => "the proxy's own name".to_owned(),
    };
    let asks = pull.header.map_or_else(
        || "nothing".to_owned(),
        |form| format!("Overlaybd-Format: {form}"),
    );
    let mut gets = Html::new();
    gets.raw("<strong>").text(pull.gets).raw("</strong>");
    if let Some(otherwise) = pull.otherwise {
        gets.raw("<small>").text(otherwise);
        gets.raw(" where TurboOCI cannot carry it</small>");
    }
    if let Some(place) = &pull.pushed_to {
        gets.raw("<small>pushed to ").text(place).raw("</small>");
    }
    vec![
        Html::of(&pull.tag),
        Html::of(through),
        Html::of(asks),
        gets,
        Html::of(pull.why.as_deref().unwrap_or_default()),
    ]
}

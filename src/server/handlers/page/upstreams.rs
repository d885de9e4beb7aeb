//! Upstreams and how they are.

use super::html::{Html, MOST_ROWS};
use crate::registry::Upstream;
use crate::server::state::AppState;

/// A row for each upstream.
pub(super) fn section(state: &AppState) -> Html {
    let mut html = Html::new();
    html.raw("<section aria-labelledby=\"upstreams\"><h2 id=\"upstreams\">Upstreams</h2>");
    let all = state.config.upstreams.iter().enumerate().take(MOST_ROWS);
    let rows: Vec<Vec<Html>> = all
        .map(|(place, entry)| row(state, place, &entry.upstream))
        .collect();
    let columns = ["Upstream", "Last call", "Requests that wait"];
    html.table("In their order; the first is the default", &columns, &rows);
    html.more(state.config.upstreams.len());
    html.raw("</section>");
    html
}

fn row(state: &AppState, place: usize, upstream: &Upstream) -> Vec<Html> {
    let mut health = Html::new();
    match (upstream, state.metrics.is_up(upstream.host())) {
        (_, Some(true)) => health.raw("<strong class=\"good\">answered</strong>"),
        (_, Some(false)) => health.raw(
            "<strong class=\"bad\">not answered</strong><small>no connection, 5xx or 429: the log \
             says which</small>",
        ),
        (Upstream::Layout(_), None) => health.text("a directory"),
        (Upstream::Registry(_), None) => health.text("none since the start"),
    };
    let waiting = state
        .limits
        .upstreams
        .get(place)
        .map_or_else(Html::new, |slots| {
            Html::of(format_args!(
                "{} of at most {}",
                slots.taken(),
                slots.most()
            ))
        });
    vec![Html::of(upstream.host()), health, waiting]
}

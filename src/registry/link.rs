//! The header `Link`: `<address>; rel="next", …`. Source: RFC 8288.

use http::{HeaderMap, header};

/// A link to the next page of a list.
pub(crate) fn to_next(address: &str) -> String {
    format!("<{address}>; rel=\"next\"")
}

/// The address of the next page of a list, as it is written in the head of an answer.
pub(crate) fn next_page(headers: &HeaderMap) -> Option<&str> {
    let fields = headers.get_all(header::LINK).iter();
    fields
        .filter_map(|field| field.to_str().ok())
        .find_map(next)
}

/// The target of the link to the next page among those of one field.
fn next(field: &str) -> Option<&str> {
    for link in links(field) {
        let (target, parameters) = link?;
        if is_next(parameters) {
            return Some(target);
        }
    }
    None
}

fn is_next(parameters: &str) -> bool {
    parameters.split([';', ',']).any(|parameter| {
        parameter.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("rel")
                && value
                    .trim()
                    .trim_matches('"')
                    .split_ascii_whitespace()
                    .any(|relation| relation.eq_ignore_ascii_case("next"))
        })
    })
}

/// A field with other targets, where `address` has one; `None` if it is no list of links.
pub(crate) fn rewritten(field: &str, address: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut new = field.split('<').next().unwrap_or_default().to_owned();
    for link in links(field) {
        let (target, parameters) = link?;
        new.push('<');
        new.push_str(address(target).as_deref().unwrap_or(target));
        new.push('>');
        new.push_str(parameters);
    }
    Some(new)
}

/// The links of a field: each target, and what follows up to the next one. `None` for one that
/// has no end.
fn links(field: &str) -> impl Iterator<Item = Option<(&str, &str)>> {
    field.split('<').skip(1).map(|link| link.split_once('>'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        assert_eq!(next(&to_next("/v2/a?n=1")), Some("/v2/a?n=1"));
        assert_eq!(next("</x>;REL=next"), Some("/x"));
        let several = r#"</a>; rel="prev", </b,c>; title="<"; rel="x next""#;
        assert_eq!(
            next(r#"</a>; rel="prev", </b,c>; rel="x next""#),
            Some("/b,c")
        );
        assert_eq!(next(several), None);
        assert_eq!(next("</a"), None);
        assert_eq!(next(r#"</a>; rel="last""#), None);
    }

    #[test]
    fn targets_are_rewritten_one_by_one() {
        let address = |target: &str| target.strip_prefix("/v2/").map(|rest| format!("/p/{rest}"));
        let field = r#"</v2/a?n=1>; rel="next", <https://other/x>; rel="help""#;
        assert_eq!(
            rewritten(field, address).as_deref(),
            Some(r#"</p/a?n=1>; rel="next", <https://other/x>; rel="help""#)
        );
        assert_eq!(rewritten("<broken", address), None);
        assert_eq!(rewritten("", address).as_deref(), Some(""));
    }
}

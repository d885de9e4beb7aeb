//! The header `Forwarded` (RFC 7239), and addresses as it and `X-Forwarded-For` have them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Most elements of one line: more proxies stand in no row.
const MAX_ELEMENTS: usize = 64;

/// What one proxy says of its client (RFC 7239 § 4).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::server) struct Element {
    /// `for`: the client's address, or a word in its place (§ 6).
    pub node: Option<String>,
    /// `proto`: the scheme that the client used.
    pub proto: Option<String>,
    /// `host`: the `Host` that the client sent.
    pub host: Option<String>,
}

impl Element {
    /// The client's address, if it is told.
    pub fn address(&self) -> Option<SocketAddr> {
        address(self.node.as_deref()?)
    }
}

/// An address with or without a port, which is 0 then; one of IPv6 with a port has brackets.
pub(in crate::server) fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, 0));
    }
    let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    if let Some(address) = bare.and_then(|it| it.parse::<Ipv6Addr>().ok()) {
        return Some(SocketAddr::new(address.into(), 0));
    }
    text.parse().ok()
}

/// The elements of one line, in their order; `None` if it is not as the standard has it.
pub(in crate::server) fn elements(line: &[u8]) -> Option<Vec<Element>> {
    let mut rest = std::str::from_utf8(line).ok()?;
    let mut elements = vec![Element::default()];
    loop {
        rest = blanks_off(rest);
        let Some(next) = rest.chars().next() else {
            return Some(elements);
        };
        match next {
            ',' if elements.len() >= MAX_ELEMENTS => return None,
            ',' => elements.push(Element::default()),
            ';' => {}
            _ => {
                rest = pair(rest, elements.last_mut()?)?;
                continue;
            }
        }
        rest = rest.get(1..)?;
    }
}

fn blanks_off(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// Takes `token "=" value` off, into the element; a name that came before is a mistake (§ 4).
fn pair<'a>(text: &'a str, element: &mut Element) -> Option<&'a str> {
    let (name, rest) = token(text)?;
    let rest = rest.strip_prefix('=')?;
    let (value, rest) = match rest.strip_prefix('"') {
        Some(rest) => quoted(rest)?,
        None => token(rest).map(|(value, rest)| (value.to_owned(), rest))?,
    };
    // A pair ends where the element or the line does.
    let rest = blanks_off(rest);
    if !rest.is_empty() && !rest.starts_with([',', ';']) {
        return None;
    }
    let place = match name.to_ascii_lowercase().as_str() {
        "for" => &mut element.node,
        "proto" => &mut element.proto,
        "host" => &mut element.host,
        _ => return Some(rest),
    };
    place.replace(value).is_none().then_some(rest)
}

/// Takes a token off (RFC 9110 § 5.6.2). Colons and brackets are taken, too: some proxies forget
/// the quotes that addresses of IPv6, and hosts with ports, need.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_in = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:[]".contains(c);
    let end = text.find(|c| !is_in(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Takes the rest of a quoted string off, without its quotes and escapes.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((place, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, text.get(place + 1..)?)),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(line: &str) -> Option<Vec<String>> {
        let elements = elements(line.as_bytes())?;
        let node = |one: Element| one.node.unwrap_or_default();
        Some(elements.into_iter().map(node).collect())
    }

    #[test]
    fn the_standards_examples_are_read() {
        for (line, wanted) in [
            ("for=\"_gazonk\"", &["_gazonk"][..]),
            (
                "For=\"[2001:db8:cafe::17]:4711\"",
                &["[2001:db8:cafe::17]:4711"],
            ),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", &["192.0.2.60"]),
            (
                "for=192.0.2.43, for=198.51.100.17",
                &["192.0.2.43", "198.51.100.17"],
            ),
            (
                "for=192.0.2.43,for=\"a,\\\"b;c\" ;x=y",
                &["192.0.2.43", "a,\"b;c"],
            ),
            ("for=2001:db8::1", &["2001:db8::1"]),
            ("", &[""]),
            (" , ;for=a", &["", "a"]),
        ] {
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            assert_eq!(nodes(line), Some(wanted), "{line}");
        }
        for line in [
            "for",
            "for=",
            "=a",
            "for=a b",
            "for=\"a",
            "for=\"a\\",
            "for=\"a\"b",
            "for=a;for=b",
            "for = a",
            &"for=a,".repeat(64),
        ] {
            assert_eq!(nodes(line), None, "{line}");
        }
    }

    #[test]
    fn an_address_may_have_a_port() {
        for (text, wanted) in [
            ("192.0.2.1", Some("192.0.2.1:0")),
            ("192.0.2.1:80", Some("192.0.2.1:80")),
            ("2001:db8::1", Some("[2001:db8::1]:0")),
            ("[2001:db8::1]", Some("[2001:db8::1]:0")),
            ("[2001:db8::1]:80", Some("[2001:db8::1]:80")),
            ("[192.0.2.1]", None),
            ("192.0.2.1:", None),
            ("192.0.2.1:99999", None),
            ("example.com", None),
            ("", None),
        ] {
            let wanted = wanted.map(|wanted| wanted.parse().unwrap());
            assert_eq!(address(text), wanted, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_too_odd(line in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC*") {
            let _ = elements(&line);
            let _ = elements(text.as_bytes());
            let _ = address(&text);
        }

        #[test]
        fn what_is_quoted_comes_out(value in "[ -~]{0,40}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
            let line = format!("for=\"{escaped}\"");
            prop_assert_eq!(nodes(&line), Some(vec![value]));
        }
    }
}

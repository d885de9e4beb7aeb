//! `WWW-Authenticate` (RFC 9110 § 11.6.1, RFC 6750 § 3): one or several challenges, in one
//! field or several.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// One challenge: what to authenticate by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// In lower case.
    scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Whether it is of this scheme, given in lower case.
    #[must_use]
    pub fn is(&self, scheme: &str) -> bool {
        self.scheme == scheme
    }

    /// The value of a parameter, whose name is given in lower case.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// All challenges of a response, in their order. What is no challenge is ignored.
#[must_use]
pub fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok())
        .flat_map(parse)
        .collect()
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, behind) = token(rest);
        if word.is_empty() {
            // Neither a scheme nor a parameter: go on behind the next comma.
            match rest.split_once(',') {
                Some((_, next)) => rest = next,
                None => return found,
            }
            continue;
        }
        let after = behind.trim_start_matches([' ', '\t']);
        // `name = value` belongs to the challenge before it, any other word begins one.
        match (after.strip_prefix('='), found.last_mut()) {
            (Some(value), Some(challenge)) if !value.starts_with('=') => {
                let value = value.trim_start_matches([' ', '\t']);
                let (value, next) = parameter_value(value);
                challenge
                    .parameters
                    .push((word.to_ascii_lowercase(), value));
                rest = next;
            }
            _ => {
                found.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                rest = skip_token68(behind);
            }
        }
    }
}

/// A scheme's lone value, such as Negotiate's, is of no use here.
fn skip_token68(text: &str) -> &str {
    let start = text.trim_start_matches([' ', '\t']);
    let is_token68 = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
    let end = start.trim_start_matches(is_token68).trim_start_matches('=');
    let behind = end.trim_start_matches([' ', '\t']);
    let is_whole = behind.is_empty() || behind.starts_with(',');
    if start.len() != end.len() && is_whole {
        end
    } else {
        start
    }
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some registries do not quote what would have to be quoted.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            c if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(text: &str) -> Challenge {
        parse(text)
            .into_iter()
            .find(|challenge| challenge.is("bearer"))
            .unwrap()
    }

    #[test]
    fn a_challenge_is_parsed() {
        let challenge = bearer(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
        );
        let parameter = |name| challenge.parameter(name).unwrap();
        assert_eq!(parameter("realm"), "https://auth.docker.io/token");
        assert_eq!(parameter("scope"), "repository:a/b:pull,push");
        assert_eq!(challenge.parameter("error"), None);
    }

    #[test]
    fn several_challenges_in_one_field_are_parsed() {
        let text = r#"Negotiate YWJj==, Basic realm="a, Bearer realm=\"x\"" , bEARER  Realm = "r\"q" ,scope=a:b:c, Digest"#;
        let found = parse(text);
        let schemes: Vec<_> = found.iter().map(|one| one.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer", "digest"]);
        assert_eq!(found[1].parameter("realm"), Some(r#"a, Bearer realm="x""#));
        assert_eq!(found[2].parameter("realm"), Some(r#"r"q"#));
        assert_eq!(found[2].parameter("scope"), Some("a:b:c"));
    }

    #[test]
    fn several_fields_are_parsed_in_order() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic realm=x".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "Bearer realm=y".parse().unwrap());
        let found = challenges(&headers);
        assert!(found[0].is("basic") && found[1].is("bearer"));
    }

    #[test]
    fn an_invalid_challenge_is_parsed_as_far_as_possible() {
        assert_eq!(
            bearer(r#"Bearer realm="open"#).parameter("realm"),
            Some("open")
        );
        assert_eq!(bearer("@@, Bearer realm=x").parameter("realm"), Some("x"));
        assert!(parse("").is_empty() && parse("=,=\"").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[ -~]{0,200}") {
            let _ = parse(&text);
        }
    }
}

//! How often a client was sent to the same address to wait.
//!
//! Go's HTTP client makes ten requests and gives up (`net/http`, `defaultCheckRedirect`), and
//! then knows nothing but that there were too many redirects. So each redirect carries its
//! number, and the last request that such a client makes gets an answer that means something.
//! The number is the proxy's: upstreams never see it, and whoever writes another one has only
//! the own wait shortened.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The requests that clients make for one address.
pub(in crate::server) const MAX_REDIRECTS: u32 = 10;

/// The query's key.
const KEY: &str = "overlaybd-waits";

fn key_of(pair: &str) -> Cow<'_, str> {
    let key = pair.split('=').next().unwrap_or_default();
    percent_decode_str(key).decode_utf8_lossy()
}

/// Whether a pair of a query is this number.
pub(in crate::server) fn is_number(pair: &str) -> bool {
    key_of(pair) == KEY
}

/// How many redirects led to a path and query; one that is no number is as many as there can be.
fn before(address: &str) -> u32 {
    let Some((_, query)) = address.split_once('?') else {
        return 0;
    };
    let numbers = query.split('&').filter(|pair| is_number(pair)).map(|pair| {
        let value = pair.split_once('=').map_or("", |(_, value)| value);
        value.parse().unwrap_or(MAX_REDIRECTS)
    });
    numbers.max().unwrap_or(0)
}

/// The address for another wait; `None` for the last request that a client makes.
pub(in crate::server) fn again(address: &str) -> Option<String> {
    let next = before(address).saturating_add(1);
    if next >= MAX_REDIRECTS {
        return None;
    }
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    let mut new = format!("{path}?");
    for pair in query.split('&') {
        if !pair.is_empty() && !is_number(pair) {
            new.push_str(pair);
            new.push('&');
        }
    }
    Some(format!("{new}{KEY}={next}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_ten_requests_is_redirected_nine_times() {
        let mut address = "/v2/a/manifests/1_obd?ns=docker.io".to_owned();
        for number in 1..=9 {
            address = again(&address).unwrap();
            let wanted = format!("/v2/a/manifests/1_obd?ns=docker.io&overlaybd-waits={number}");
            assert_eq!(address, wanted);
        }
        assert_eq!(again(&address), None);
    }

    #[test]
    fn a_forged_redirect_count_only_shortens_the_wait() {
        for (query, wanted) in [
            ("overlaybd-waits=3", Some("overlaybd-waits=4")),
            (
                "overlaybd-waits=3&overlaybd-waits=5",
                Some("overlaybd-waits=6"),
            ),
            ("overlaybd%2Dwaits=3&x", Some("x&overlaybd-waits=4")),
            ("overlaybd-waits=9", None),
            ("overlaybd-waits=99999999999999999999", None),
            ("overlaybd-waits=-1", None),
            ("overlaybd-waits", None),
            ("", Some("overlaybd-waits=1")),
        ] {
            let next = again(&format!("/v2/a?{query}"));
            let wanted = wanted.map(|query| format!("/v2/a?{query}"));
            assert_eq!(next, wanted, "{query}");
        }
    }
}

//! W3C Trace Context: `traceparent` and `tracestate` in headers.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of a `traceparent` of version 00 (W3C Trace Context § 3.2.2).
const LENGTH: usize = 55;
/// Most bytes and members of a `tracestate` that are passed on (§ 3.3.1).
const MAX_STATE: usize = 512;
const MAX_MEMBERS: usize = 32;

/// The span that a request is a part of. An invalid one counts as none.
pub(super) fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    // Of several, none can be the right one.
    let (text, None) = (values.next()?.to_str().ok()?, values.next()) else {
        return None;
    };
    let (trace, span, flags) = parse(text)?;
    let parent = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        state(headers).unwrap_or_default(),
    );
    parent.is_valid().then_some(parent)
}

/// Trace, span and flags of a `traceparent`, each of as many lowercase hexadecimal digits as it
/// must have.
fn parse(text: &str) -> Option<(&str, &str, &str)> {
    let is_hex = |part: &str| {
        part.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let mut parts = known.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags) = (parts.next()?, parts.next()?);
    let lengths = [version, trace, span, flags].map(str::len);
    let is_good = lengths == [2, 32, 16, 2]
        && parts.next().is_none()
        && [version, trace, span, flags].into_iter().all(is_hex)
        && match version {
            "ff" => false,
            "00" => rest.is_empty(),
            // What later versions add is behind another dash (§ 4.3).
            _ => rest.is_empty() || rest.starts_with('-'),
        };
    is_good.then_some((trace, span, flags))
}

/// What other systems say of the trace; nothing if it is too much or invalid.
fn state(headers: &HeaderMap) -> Option<TraceState> {
    let (mut members, mut length) = (Vec::new(), 0);
    for value in headers.get_all(TRACESTATE) {
        let text = value.to_str().ok()?;
        length += text.len() + 1;
        if length > MAX_STATE + 1 {
            return None;
        }
        let entries = text.split(',').map(str::trim);
        for entry in entries.filter(|entry| !entry.is_empty()) {
            members.push(entry.split_once('=')?);
        }
    }
    if members.len() > MAX_MEMBERS {
        return None;
    }
    TraceState::from_key_value(members).ok()
}

/// Makes a request a part of this span, and of no other.
pub(super) fn set(headers: &mut HeaderMap, span: &SpanContext) {
    remove(headers);
    let text = format!(
        "00-{}-{}-{:02x}",
        span.trace_id(),
        span.span_id(),
        span.trace_flags() & TraceFlags::SAMPLED
    );
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(TRACEPARENT, value);
    }
    let state = span.trace_state().header();
    if !state.is_empty()
        && let Ok(value) = HeaderValue::from_str(&state)
    {
        headers.insert(TRACESTATE, value);
    }
}

pub(super) fn remove(headers: &mut HeaderMap) {
    headers.remove(TRACEPARENT);
    headers.remove(TRACESTATE);
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(texts: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in texts {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_valid_parent_is_taken_and_set_again_as_it_was() {
        let headers = of(&[
            ("traceparent", GOOD),
            ("tracestate", "a=1, b@c=2"),
            ("tracestate", "d=3"),
        ]);
        let parent = parent(&headers).unwrap();
        assert!(parent.is_remote() && parent.is_sampled());
        let mut sent = of(&[("traceparent", "x"), ("tracestate", "y=z")]);
        set(&mut sent, &parent);
        assert_eq!(sent["traceparent"], GOOD);
        assert_eq!(sent["tracestate"], "a=1,b@c=2,d=3");
        assert_eq!(sent.len(), 2);
    }

    #[test]
    fn later_versions_are_taken_as_far_as_they_are_known() {
        for text in [GOOD.replacen("00", "01", 1), format!("cc{}-x", &GOOD[2..])] {
            assert!(parent(&of(&[("traceparent", &text)])).is_some(), "{text}");
        }
    }

    #[test]
    fn an_invalid_parent_counts_as_none() {
        let zero_trace = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let zero_span = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        for text in [
            "",
            "x",
            zero_trace,
            zero_span,
            &GOOD.to_uppercase(),
            &format!("{GOOD}-"),
            &format!("{GOOD}-x"),
            &GOOD.replacen("00", "ff", 1),
            &format!("cc{}x", &GOOD[2..]),
            &GOOD.replacen("00-4", "00-+", 1),
            &GOOD.replace("-01", "-+1"),
            &GOOD[..54],
        ] {
            assert_eq!(parent(&of(&[("traceparent", text)])), None, "{text}");
        }
        let twice = of(&[("traceparent", GOOD), ("traceparent", GOOD)]);
        assert_eq!(parent(&twice), None);
    }

    #[test]
    fn a_state_that_is_too_long_or_invalid_is_left_out() {
        let long = format!("a={}", "x".repeat(600));
        let many = (0..33).map(|n| format!("k{n}=1")).collect::<Vec<_>>();
        for bad in [&long, &many.join(","), "a", "A b=1"] {
            let headers = of(&[("traceparent", GOOD), ("tracestate", bad)]);
            let parent = parent(&headers).unwrap();
            assert_eq!(parent.trace_state().header(), "", "{bad}");
        }
    }
}

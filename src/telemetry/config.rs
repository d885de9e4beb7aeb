//! Where spans go, which, and how many wait.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use url::Url;

/// Where spans go, which, and how many wait.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// The address that spans are posted to, with its path.
    pub endpoint: Url,
    /// Headers of these requests: secrets, so their values are marked as sensitive.
    pub headers: HeaderMap,
    /// A file with more of them, `Name: value` a line, which is read for each request.
    pub headers_file: Option<PathBuf>,
    /// Which traces are recorded.
    pub sampling: Sampling,
    /// Whether bodies are compressed with gzip.
    pub compress: bool,
    /// How long the sending of a batch may take, with all attempts.
    pub timeout: Duration,
    /// The queue of spans that have ended.
    pub queue: QueueConfig,
}

/// Which traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// As the client's `traceparent` says; where there is none, this share of traces.
    ParentBased(f64),
    /// This share of traces, whatever the client says.
    Ratio(f64),
}

/// The queue of spans that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// Most spans that wait; those beyond are dropped and counted.
    pub spans: usize,
    /// Most spans that are sent at one time.
    pub batch: usize,
    /// How long a span waits for others at most.
    pub delay: Duration,
}

impl Default for QueueConfig {
    /// What the specification of OpenTelemetry's SDK says (`OTEL_BSP_*`).
    fn default() -> Self {
        Self {
            spans: 2048,
            batch: 512,
            delay: Duration::from_secs(5),
        }
    }
}

/// A text that is no header. It may be a secret: it is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entry {0} is no header")]
pub struct UnusableHeader(usize);

fn add(
    headers: &mut HeaderMap,
    number: usize,
    (name, value): (&str, &[u8]),
) -> Result<(), UnusableHeader> {
    let name: HeaderName = name.trim().parse().map_err(|_| UnusableHeader(number))?;
    let mut value = HeaderValue::from_bytes(value).map_err(|_| UnusableHeader(number))?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

/// `name=value,name=value`, values percent-encoded, as `OTEL_EXPORTER_OTLP_HEADERS` has them
/// (OpenTelemetry protocol exporter, "Specifying headers via environment variables").
///
/// # Errors
/// Where an entry is no header.
pub fn header_list(text: &str) -> Result<HeaderMap, UnusableHeader> {
    let mut headers = HeaderMap::new();
    let entries = text.split(',').map(str::trim).enumerate();
    for (at, entry) in entries.filter(|(_, entry)| !entry.is_empty()) {
        let (name, value) = entry.split_once('=').ok_or(UnusableHeader(at + 1))?;
        let value: Vec<u8> = percent_decode_str(value.trim()).collect();
        add(&mut headers, at + 1, (name, &value))?;
    }
    Ok(headers)
}

/// `Name: value` a line; empty lines and those that begin with `#` are none.
///
/// # Errors
/// Where a line is no header.
pub fn header_lines(text: &str) -> Result<HeaderMap, UnusableHeader> {
    let mut headers = HeaderMap::new();
    let lines = text.lines().map(str::trim).enumerate();
    for (at, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once(':').ok_or(UnusableHeader(at + 1))?;
        add(&mut headers, at + 1, (name, value.trim().as_bytes()))?;
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_from_lists_and_lines_and_never_shown() {
        let list = header_list(" api-key=a%20b%3D , x-two=2,").unwrap();
        assert_eq!(list["api-key"], "a b=");
        assert_eq!(list["x-two"], "2");
        let lines = header_lines("# of the vendor\nAuthorization: Bearer a:b\n\n").unwrap();
        assert_eq!(lines["authorization"], "Bearer a:b");
        let shown = format!("{list:?} {lines:?}");
        assert!(!shown.contains("a b") && !shown.contains("a:b"), "{shown}");
        for bad in ["a", "a b=c", "=c", "a=%0a"] {
            assert_eq!(header_list(bad), Err(UnusableHeader(1)), "{bad}");
        }
        assert_eq!(header_lines("a: b\nsecret"), Err(UnusableHeader(2)));
    }
}

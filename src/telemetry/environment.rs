//! The variables that OpenTelemetry's specification names: "Environment Variable Specification" and
//! "OpenTelemetry Protocol Exporter".

use std::time::Duration;

use http::HeaderMap;

use super::config::{QueueConfig, Sampling, header_list};

/// Most spans that may wait, whatever the variables say.
const MAX_SPANS: u64 = 65_536;
/// The longest time that a variable may say.
const MAX_TIME: Duration = Duration::from_hours(1);

/// What the standard variables say.
#[derive(Debug, Clone)]
pub struct EnvironmentSettings {
    /// The address that traces are posted to, with its path.
    pub endpoint: Option<String>,
    /// Headers of these requests.
    pub headers: HeaderMap,
    /// Which traces are recorded; everything where the client does not say, without a variable.
    pub sampling: Sampling,
    /// Whether bodies are compressed with gzip.
    pub compress: bool,
    /// How long the sending of a batch may take.
    pub timeout: Duration,
    /// The queue of spans.
    pub queue: QueueConfig,
    /// Whether a variable says that there are no traces, or that they go by another protocol: then
    /// the other variables do not start them.
    pub is_off: bool,
    /// Variables whose values are not used, with why. Without values: these may be secrets.
    pub warnings: Vec<String>,
}

/// Reads them with `read`; an empty one counts as one that is not set.
#[must_use]
pub fn standard(read: impl Fn(&str) -> Option<String>) -> EnvironmentSettings {
    let mut reader = Reader {
        read,
        warnings: Vec::new(),
    };
    let endpoint = reader
        .text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        .or_else(|| {
            let base = reader.text("OTEL_EXPORTER_OTLP_ENDPOINT")?;
            Some(format!("{}/v1/traces", base.trim_end_matches('/')))
        });
    let (name, text) = reader.signal("HEADERS");
    let headers = text.map(|text| header_list(&text)).transpose();
    let headers = headers.unwrap_or_else(|error| {
        reader.warn(
            name,
            format_args!("{error}: name=value,name=value is expected"),
        );
        None
    });
    let (name, text) = reader.signal("COMPRESSION");
    let compress = match text.as_deref() {
        None | Some("none") => false,
        Some("gzip") => true,
        Some(_) => {
            reader.warn(name, format_args!("it is neither gzip nor none"));
            false
        }
    };
    let (name, text) = reader.signal("PROTOCOL");
    let is_http = matches!(text.as_deref(), None | Some("http/protobuf"));
    if !is_http && endpoint.is_some() {
        reader.warn(
            name,
            format_args!("only http/protobuf is spoken: --otlp-endpoint names another port"),
        );
    }
    let is_disabled = reader
        .text("OTEL_SDK_DISABLED")
        .is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let exporter = reader.text("OTEL_TRACES_EXPORTER");
    let is_exported = exporter.is_none_or(|text| text.split(',').any(|one| one.trim() == "otlp"));
    let sampling = reader.sampling();
    let timeout = match reader.signal("TIMEOUT") {
        (name, Some(_)) => reader.time(name, Duration::from_secs(10)),
        _ => Duration::from_secs(10),
    };
    let export = reader.time("OTEL_BSP_EXPORT_TIMEOUT", Duration::from_secs(30));
    let usual = QueueConfig::default();
    let spans = reader.number("OTEL_BSP_MAX_QUEUE_SIZE", usual.spans);
    let batch = reader.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", usual.batch);
    let queue = QueueConfig {
        spans,
        batch: batch.min(spans),
        delay: reader.time("OTEL_BSP_SCHEDULE_DELAY", usual.delay),
    };
    EnvironmentSettings {
        endpoint,
        headers: headers.unwrap_or_default(),
        sampling,
        compress,
        timeout: timeout.min(export),
        queue,
        is_off: is_disabled || !is_exported || !is_http,
        warnings: reader.warnings,
    }
}

struct Reader<R> {
    read: R,
    warnings: Vec<String>,
}

impl<R: Fn(&str) -> Option<String>> Reader<R> {
    fn text(&self, name: &str) -> Option<String> {
        let text = (self.read)(name)?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A variable of the exporter: that of traces goes before that of all signals.
    fn signal(&self, what: &str) -> (&'static str, Option<String>) {
        let (of_traces, of_all) = match what {
            "HEADERS" => (
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
                "OTEL_EXPORTER_OTLP_HEADERS",
            ),
            "COMPRESSION" => (
                "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
                "OTEL_EXPORTER_OTLP_COMPRESSION",
            ),
            "PROTOCOL" => (
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
                "OTEL_EXPORTER_OTLP_PROTOCOL",
            ),
            _ => (
                "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
                "OTEL_EXPORTER_OTLP_TIMEOUT",
            ),
        };
        match self.text(of_traces) {
            Some(text) => (of_traces, Some(text)),
            None => (of_all, self.text(of_all)),
        }
    }

    fn warn(&mut self, name: &str, why: std::fmt::Arguments<'_>) {
        self.warnings.push(format!("{name} is not used: {why}"));
    }

    /// Milliseconds.
    fn time(&mut self, name: &str, usual: Duration) -> Duration {
        match self.text(name).map(|text| text.parse()) {
            None => usual,
            Some(Ok(milliseconds @ 1..)) => Duration::from_millis(milliseconds).min(MAX_TIME),
            Some(_) => {
                self.warn(name, format_args!("a number of milliseconds is expected"));
                usual
            }
        }
    }

    fn number(&mut self, name: &str, usual: usize) -> usize {
        match self.text(name).map(|text| text.parse::<u64>()) {
            None => usual,
            Some(Ok(number @ 1..)) => usize::try_from(number.min(MAX_SPANS)).unwrap_or(usual),
            Some(_) => {
                self.warn(name, format_args!("a number above 0 is expected"));
                usual
            }
        }
    }

    fn sampling(&mut self) -> Sampling {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let usual = Sampling::ParentBased(1.0);
        let Some(name) = self.text(NAME) else {
            return usual;
        };
        let mut ratio = || {
            const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
            let text = self.text(NAME);
            let ratio = text.as_deref().map_or(Some(1.0), |text| text.parse().ok());
            let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
            ratio.unwrap_or_else(|| {
                self.warn(NAME, format_args!("a number from 0 to 1 is expected"));
                1.0
            })
        };
        match name.as_str() {
            "always_on" => Sampling::Ratio(1.0),
            "always_off" => Sampling::Ratio(0.0),
            "traceidratio" => Sampling::Ratio(ratio()),
            "parentbased_always_on" => usual,
            "parentbased_always_off" => Sampling::ParentBased(0.0),
            "parentbased_traceidratio" => Sampling::ParentBased(ratio()),
            _ => {
                self.warn(
                    NAME,
                    format_args!(
                        "always_on, always_off, traceidratio, or one of these with parentbased_ \
                         before it is expected"
                    ),
                );
                usual
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> EnvironmentSettings {
        standard(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_variables_the_specifications_defaults_hold() {
        let usual = with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]);
        assert_eq!(usual.endpoint, None);
        assert_eq!(usual.sampling, Sampling::ParentBased(1.0));
        assert_eq!(usual.timeout, Duration::from_secs(10));
        assert_eq!(usual.queue, QueueConfig::default());
        assert!(!usual.is_off && !usual.compress && usual.warnings.is_empty());
    }

    #[test]
    fn variables_of_traces_go_before_those_of_all_signals() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        assert_eq!(
            with(&[base]).endpoint.as_deref(),
            Some("http://c:4318/v1/traces")
        );
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://d:1/x");
        assert_eq!(with(&[base, own]).endpoint.as_deref(), Some("http://d:1/x"));
        let both = with(&[
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "b=2"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ]);
        assert!(both.headers.contains_key("b") && !both.headers.contains_key("a"));
        assert!(both.compress && both.timeout == Duration::from_secs(2));
    }

    #[test]
    fn traces_stay_off_where_a_variable_says_so() {
        for off in [
            ("OTEL_SDK_DISABLED", "True"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ] {
            assert!(with(&[off]).is_off, "{off:?}");
        }
        for on in [
            ("OTEL_SDK_DISABLED", "no"),
            ("OTEL_TRACES_EXPORTER", "console, otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ] {
            assert!(!with(&[on]).is_off, "{on:?}");
        }
    }

    #[test]
    fn samplers_and_queues_are_bounded_and_mistakes_are_told_without_values() {
        let sampler = |name, ratio| {
            with(&[
                ("OTEL_TRACES_SAMPLER", name),
                ("OTEL_TRACES_SAMPLER_ARG", ratio),
            ])
        };
        let found = sampler("parentbased_traceidratio", "0.25").sampling;
        assert_eq!(found, Sampling::ParentBased(0.25));
        assert_eq!(sampler("traceidratio", "").sampling, Sampling::Ratio(1.0));
        assert_eq!(sampler("always_off", "1").sampling, Sampling::Ratio(0.0));
        for (name, ratio) in [("traceidratio", "2"), ("traceidratio", "NaN"), ("xray", "")] {
            assert_eq!(sampler(name, ratio).warnings.len(), 1, "{name} {ratio}");
        }
        let queue = with(&[
            ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
            ("OTEL_BSP_SCHEDULE_DELAY", "99999999999"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
        ]);
        assert_eq!(queue.queue.spans, 65_536);
        assert_eq!((queue.queue.batch, queue.queue.delay), (512, MAX_TIME));
        assert_eq!(queue.warnings.len(), 2);
        assert!(!queue.warnings.concat().contains("hunter2"));
    }
}

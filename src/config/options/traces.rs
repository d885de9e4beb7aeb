//! Options of traces.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

use super::optional;
use crate::config::{ConfigErrors, Text};
use crate::telemetry::{
    EnvironmentSettings, Sampling, TelemetryConfig, header_lines, header_list, standard,
};

/// Traces.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Traces")]
pub struct TraceOptions {
    /// OpenTelemetry collector that spans of requests and conversions are sent to, by OTLP over HTTP
    /// (protobuf), such as http://127.0.0.1:4318; /v1/traces is added to the address. The standard
    /// variables hold as well: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME and others (README,
    /// "Traces") [default: none, and there are no traces]
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<Text>,
    /// Headers of these requests, as NAME=VALUE,NAME=VALUE with percent-encoded values
    #[arg(long, value_name = "HEADERS")]
    pub otlp_headers: Option<Text>,
    /// File with more of them, `Name: value` a line; read for each request
    #[arg(long, value_name = "FILE")]
    pub otlp_headers_file: Option<Text>,
    /// Share of the traces that are recorded, from 0 to 1; a request with `traceparent` is recorded if
    /// that says so, whatever the share [default: OTEL_TRACES_SAMPLER, or 1]
    #[arg(long, value_name = "RATIO")]
    pub trace_sample: Option<Text>,
}

fn address(text: &str) -> Result<Url, String> {
    // It may have a secret in it.
    let wrong = || "an http:// or https:// address is expected, without a user".to_owned();
    let url: Url = text.parse().map_err(|_| wrong())?;
    let has_login = !url.username().is_empty() || url.password().is_some();
    let is_good = matches!(url.scheme(), "http" | "https") && url.has_host() && !has_login;
    if is_good { Ok(url) } else { Err(wrong()) }
}

fn base(text: &str) -> Result<Url, String> {
    let mut url = address(text)?;
    let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok();
    ratio
        .filter(|ratio| (0.0..=1.0).contains(ratio))
        .ok_or_else(|| {
            format!("{text:?} is no share: a number from 0 to 1 is expected, as in 0.05")
        })
}

fn headers_file(text: &str) -> Result<PathBuf, String> {
    let path = super::existing_file(text)?;
    let found = std::fs::read_to_string(&path).map_err(|error| error.to_string());
    found
        .and_then(|found| header_lines(&found).map_err(|error| error.to_string()))
        .map_err(|error| format!("{text}: {error}: `Name: value` is expected, one a line"))?;
    Ok(path)
}

impl TraceOptions {
    /// Where spans go, if they go anywhere; what the standard variables say that is not used is among
    /// the warnings.
    pub fn config(&self, errors: &mut ConfigErrors) -> (Option<TelemetryConfig>, Vec<String>) {
        // An empty text stands for a setting that was not made.
        self.with(standard(|name| std::env::var(name).ok()), errors)
    }

    fn with(
        &self,
        standard: EnvironmentSettings,
        errors: &mut ConfigErrors,
    ) -> (Option<TelemetryConfig>, Vec<String>) {
        let named = self.otlp_endpoint.as_ref();
        let named = optional(errors, "otlp-endpoint", named, base);
        let given = self.otlp_headers.as_ref();
        let given = optional(errors, "otlp-headers", given, |text| {
            header_list(text).map_err(|error| format!("{error}: NAME=VALUE is expected"))
        });
        let file = self.otlp_headers_file.as_ref();
        let headers_file = optional(errors, "otlp-headers-file", file, headers_file);
        let sample = self.trace_sample.as_ref();
        let sample = optional(errors, "trace-sample", sample, ratio);
        let is_named = self.otlp_endpoint.is_some();
        for (name, is_given) in [
            ("otlp-headers", self.otlp_headers.is_some()),
            ("otlp-headers-file", self.otlp_headers_file.is_some()),
            ("trace-sample", self.trace_sample.is_some()),
        ] {
            if is_given && !is_named && standard.endpoint.is_none() {
                errors.add(
                    name,
                    "there are no traces: --otlp-endpoint says where they go",
                );
            }
        }
        let EnvironmentSettings {
            endpoint,
            mut headers,
            sampling,
            compress,
            timeout,
            queue,
            is_off,
            mut warnings,
        } = standard;
        let of_variable = endpoint.filter(|_| !is_named && !is_off);
        let of_variable = of_variable.and_then(|text| {
            let found = address(&text);
            if let Err(error) = &found {
                warnings.push(format!(
                    "the address of OTEL_EXPORTER_OTLP_ENDPOINT or \
                     OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not used: {error}"
                ));
            }
            found.ok()
        });
        headers.extend(given.unwrap_or_default());
        let config = named.or(of_variable).map(|endpoint| TelemetryConfig {
            endpoint,
            headers,
            headers_file,
            sampling: sample.map_or(sampling, Sampling::ParentBased),
            compress,
            timeout,
            queue,
        });
        (config, warnings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)], options: &TraceOptions) -> Option<TelemetryConfig> {
        let variables = standard(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        let (mut errors, options) = (ConfigErrors::default(), options);
        let (config, _) = options.with(variables, &mut errors);
        assert!(errors.lines().is_empty(), "{:?}", errors.lines());
        config
    }

    fn named(address: &str) -> TraceOptions {
        TraceOptions {
            otlp_endpoint: Some(address.into()),
            ..TraceOptions::default()
        }
    }

    #[test]
    fn the_option_goes_before_the_variables() {
        let variable = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://v/x");
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let none = TraceOptions::default();
        let found = |config: Option<TelemetryConfig>| config.map(|it| it.endpoint.to_string());
        assert_eq!(found(with(&[], &none)), None);
        let of_variable = found(with(&[variable], &none));
        assert_eq!(of_variable.as_deref(), Some("http://v/x"));
        assert_eq!(found(with(&[variable, grpc], &none)), None);
        let of_option = found(with(&[variable, grpc], &named("https://o:4318/base/")));
        assert_eq!(of_option.as_deref(), Some("https://o:4318/base/v1/traces"));
    }

    #[test]
    fn headers_of_the_option_are_added_to_those_of_the_variable() {
        let options = TraceOptions {
            otlp_headers: Some("b=3".into()),
            ..named("http://c")
        };
        let config = with(&[("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b=2")], &options).unwrap();
        assert_eq!(
            (&config.headers["a"], &config.headers["b"]),
            (&"1".parse().unwrap(), &"3".parse().unwrap())
        );
    }
}

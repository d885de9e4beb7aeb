//! Traces: what a collector gets, what upstreams are told, and what happens without a collector.

mod collector;
mod command;
mod go;
mod loss;
mod off;
mod operators;
mod sampling;
mod secrets;
mod spans;
mod tap;
mod tls;

use crate::support;
use std::process::Command;

use collector::Collector;
use support::image::Image;
use support::noise;
use support::proxy::{Proxy, program};
use support::registry::Registry;
use support::tar::Tar;
use tap::Tap;

/// The trace of a client, and its span in it.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

/// The program, with these variables and no others of OpenTelemetry's.
fn with(variables: &[(&str, &str)]) -> Command {
    let mut command = program();
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command.envs(variables.iter().copied());
    command
}

/// Spans are sent as soon as there are some.
const SOON: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "1");

/// A registry with an image, and what was seen of requests to it.
struct Upstream {
    registry: Registry,
    tap: Tap,
}

impl Upstream {
    fn start() -> Option<Self> {
        let registry = Registry::start()?;
        let lower = Tar::new().file("lower", noise(1, 20_000)).finish();
        let upper = Tar::new().file("upper", noise(2, 30_000)).finish();
        registry.push("team/app", "1", &Image::gzip(&[lower, upper]).seal());
        let tap = Tap::before(registry.address());
        Some(Self { registry, tap })
    }
}

/// A proxy before it, which sends its spans to the collector.
fn traced(
    upstream: &Upstream,
    collector: &Collector,
    data: &std::path::Path,
    variables: &[(&str, &str)],
    more: &[&str],
) -> Proxy {
    let endpoint = collector.url();
    let options = [
        &["--platform", "linux/amd64", "--otlp-endpoint", &endpoint],
        more,
    ]
    .concat();
    let variables = [&[SOON], variables].concat();
    Proxy::start_as(with(&variables), &upstream.tap.url(), data, &options)
}

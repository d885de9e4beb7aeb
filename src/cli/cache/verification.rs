//! `cache verify` at a running proxy: begun, followed, and cancelled when it is interrupted.

use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};

use crate::cli::admin::{AdminClient, text};
use crate::cli::exit::ExitStatus;
use crate::cli::output;
use crate::cli::progress::Terminal;
use crate::cli::signals;
use crate::cli::store::{Progress, VerifyOptions, finish, tell};
use crate::store::SurveyCounts;

const PATH: &str = "/cache/verification";
/// The time between two questions how far it is.
const INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(
    client: &AdminClient,
    options: &VerifyOptions,
) -> anyhow::Result<ExitStatus> {
    let terminal = Terminal::choose(options.progress);
    let shutdown = signals::shutdown().context("signals cannot be received")?;
    let wanted = json!({ "dry_run": options.dry_run });
    client.change(Method::POST, PATH, Some(&wanted)).await?;
    tokio::select! {
        done = follow(client, &terminal) => done,
        signal = shutdown => {
            let cancelled = client.change(Method::DELETE, PATH, None).await;
            let cancelled = cancelled.map(|_| "given up".to_owned());
            let what = cancelled.unwrap_or_else(|error| format!("it may go on: {error:#}"));
            output::note(format_args!("{signal}: {what}"));
            Ok(ExitStatus::Interrupted)
        }
    }
}

async fn follow(client: &AdminClient, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    let progress = Progress::new(terminal);
    let mut told = 0;
    loop {
        let now = client.get(PATH).await?;
        let findings = now["findings"].as_array().map_or(&[][..], Vec::as_slice);
        for finding in findings.get(told..).unwrap_or_default() {
            tell(finding, terminal);
        }
        told = findings.len();
        let counts = counts(&now);
        match text(&now, "state") {
            "running" => progress.tell(counts.bytes, now["of"].as_u64()),
            "finished" => {
                let left = usize::try_from(counts.damaged).unwrap_or(usize::MAX);
                let left = left.saturating_sub(told);
                if left > 0 {
                    terminal.tell(format_args!("{left} more are in the proxy's log"));
                }
                if counts.failed > 0 {
                    terminal.tell("what failed is in the proxy's log");
                }
                return finish(&counts, terminal);
            }
            "cancelled" => {
                output::note("error: it was cancelled");
                return Ok(ExitStatus::Failed);
            }
            _ => {
                output::note(format_args!("error: {}", text(&now, "error")));
                return Ok(ExitStatus::Failed);
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn counts(now: &Value) -> SurveyCounts {
    let count = |key: &str| now[key].as_u64().unwrap_or_default();
    SurveyCounts {
        blobs: count("blobs"),
        bytes: count("bytes"),
        damaged: count("damaged"),
        failed: count("failed"),
    }
}

//! `warm`
use super::context::Context;
use super::exit::ExitStatus;
/// Have images converted before anyone pulls them
#[derive(clap::Args)]
pub struct WarmArgs {}
pub async fn run(_: WarmArgs, _: Context) -> anyhow::Result<ExitStatus> {
    Ok(ExitStatus::Ok)
}

//! The `overlaybd-proxy` program.

use std::process::ExitCode;

use overlaybd_proxy::cli::{self, ExitStatus};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Most threads that wait for the disk at one time.
const DISK_THREADS: usize = 32;

fn main() -> ExitCode {
    let invocation = cli::parse();
    // Fails only where a provider is installed already: then that one serves.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(DISK_THREADS)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            cli::note(format_args!("error: no threads can be started: {error}"));
            return ExitStatus::Failed.into();
        }
    };
    let status = runtime.block_on(cli::run(invocation));
    // What nobody waits for ends with the process: nothing half-done is ever seen.
    runtime.shutdown_background();
    status.into()
}

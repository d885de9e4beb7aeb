//! The `overlaybd-proxy` program.

use std::io::{self, Write as _};
use std::time::Duration;

use overlaybd_proxy::cli::{self, ExitStatus};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Most threads that wait for the disk at one time.
const DISK_THREADS: usize = 32;

/// How long the threads are waited for at the end; only a disk that does not answer takes it.
const THREADS_END: Duration = Duration::from_secs(1);

fn main() {
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
            cli::end(ExitStatus::Failed)
        }
    };
    let status = runtime.block_on(cli::run(invocation));
    // What nobody waits for ends with the process: nothing half-done is ever seen.
    runtime.shutdown_timeout(THREADS_END);
    // Whoever read it may have left: nothing is lost then.
    let _ = io::stdout().flush();
    cli::end(status)
}

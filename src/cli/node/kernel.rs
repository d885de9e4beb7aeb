//! What the kernel must have for overlaybd's devices, and who runs.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::report::Report;
use super::root::Root;
use super::snapshotter::Snapshotter;

const KERNEL: &str = "kernel";
const SERVICES: &str = "services";
/// How long a socket may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

pub fn check(root: &Root, report: &mut Report) {
    let loaded = match root.text("/proc/modules") {
        Ok(Some(text)) => text,
        _ if !root.has("/proc/mounts") => {
            report.skipped(KERNEL, "modules: there is no /proc here");
            return;
        }
        // A kernel without modules has all that it has built in.
        _ => String::new(),
    };
    let release = root.text("/proc/sys/kernel/osrelease").ok().flatten();
    let release = release.unwrap_or_default().trim().to_owned();
    let built_in = root.text(&format!("/lib/modules/{release}/modules.builtin"));
    let built_in = built_in.ok().flatten().unwrap_or_default();
    let has = |name: &str| {
        let file = format!("/{name}.ko");
        loaded
            .lines()
            .any(|line| line.split(' ').next() == Some(name))
            || root.has(&format!("/sys/module/{name}"))
            || built_in.lines().any(|line| line.ends_with(&file))
    };
    for (module, needed_for) in [
        (
            "target_core_user",
            "overlaybd-tcmu makes block devices with it",
        ),
        (
            "tcm_loop",
            "the snapshotter attaches them to this machine with it",
        ),
        ("overlay", "containers write above their images with it"),
    ] {
        if has(module) {
            report.ok(KERNEL, format!("{module} is there"));
        } else if module == "target_core_user" && has("ublk_drv") {
            report.warning(
                KERNEL,
                "target_core_user is not loaded; ublk_drv is",
                "the snapshotter of accelerated-container-image needs: modprobe target_core_user",
            );
        } else if module == "tcm_loop" {
            report.warning(
                KERNEL,
                format!(
                    "{module} is not loaded: {needed_for}; the kernel loads it by itself \
                    if it has it"
                ),
                format!(
                    "to be sure: modprobe {module}, and a line {module} in \
                    /etc/modules-load.d/overlaybd.conf"
                ),
            );
        } else {
            report.wrong(
                KERNEL,
                format!("{module} is not loaded: {needed_for}"),
                format!(
                    "modprobe {module}, and a line {module} in \
                    /etc/modules-load.d/overlaybd.conf; where modprobe finds none, this kernel \
                    cannot do it"
                ),
            );
        }
    }
    // `/proc/mounts` is of whoever reads it, which may be in another mount namespace than the node.
    let mut mounts = ["/proc/1/mounts", "/proc/mounts"].into_iter();
    let mounts = mounts.find_map(|path| root.text(path).ok().flatten());
    let mounts = mounts.unwrap_or_default();
    let is_mounted = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some("/sys/kernel/config") && words.next() == Some("configfs")
    });
    if is_mounted {
        report.ok(KERNEL, "configfs is mounted at /sys/kernel/config");
    } else {
        report.wrong(
            KERNEL,
            "configfs is not mounted at /sys/kernel/config: devices are made there",
            "mount -t configfs configfs /sys/kernel/config (systemd: sys-kernel-config.mount)",
        );
    }
}

pub async fn services(root: &Root, snapshotter: &Snapshotter, report: &mut Report) {
    let processes = root.names("/proc");
    let processes = processes
        .iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let mut is_there = None;
    for process in processes {
        let name = root.text(&format!("/proc/{process}/comm")).ok().flatten();
        let is_it = name.is_some_and(|name| name.trim() == "overlaybd-tcmu");
        is_there = Some(is_there == Some(true) || is_it);
    }
    match is_there {
        Some(true) => report.ok(SERVICES, "overlaybd-tcmu runs"),
        Some(false) => report.wrong(
            SERVICES,
            "overlaybd-tcmu does not run: no device is served",
            "systemctl enable --now /opt/overlaybd/overlaybd-tcmu.service; its log is \
                /var/log/overlaybd.log",
        ),
        None => report.skipped(SERVICES, "overlaybd-tcmu: no processes can be seen here"),
    }
    let Some(address) = &snapshotter.address else {
        return;
    };
    match timeout(LIMIT, speaks_grpc(root, address)).await {
        Ok(Ok(true)) => report.ok(SERVICES, format!("{address}: the snapshotter answers")),
        Ok(Ok(false)) => report.wrong(
            SERVICES,
            format!("{address}: who listens there is no snapshotter: it speaks no gRPC"),
            "systemctl restart overlaybd-snapshotter",
        ),
        Ok(Err(error)) => report.wrong(
            SERVICES,
            format!("{address}: the snapshotter cannot be reached: {error}"),
            "systemctl enable --now overlaybd-snapshotter, and as root: overlaybd-proxy node check",
        ),
        Err(_) => report.wrong(
            SERVICES,
            format!("{address}: the snapshotter gives no answer within {LIMIT:?}"),
            "systemctl restart overlaybd-snapshotter",
        ),
    }
}

/// Whether HTTP/2 is spoken: the first frame of each side is SETTINGS (RFC 9113 § 3.4).
async fn speaks_grpc(root: &Root, address: &str) -> std::io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    const SETTINGS: u8 = 4;
    let path = address.strip_prefix("unix://").unwrap_or(address);
    let mut stream = root.connect(path).await?;
    stream.write_all(PREFACE).await?;
    let mut head = [0; 9];
    match stream.read_exact(&mut head).await {
        Ok(_) => Ok(head.get(3) == Some(&SETTINGS)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

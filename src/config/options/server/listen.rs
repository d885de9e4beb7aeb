//! The addresses that the server listens on.

use std::net::{IpAddr, SocketAddr};

use crate::config::ConfigErrors;

/// Reads an address.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    // As with other servers, `:8480` is every address of this machine.
    let whole = match text.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => text.to_owned(),
    };
    whole.parse().map_err(|_| {
        format!("{text:?} is not an address: 127.0.0.1:8480, [::1]:8480 or :8480 is expected")
    })
}

/// Whether whoever listens on all of one address cannot listen on the other, too: `[::]` is every
/// address, `0.0.0.0` every one of IPv4.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let has = |one: IpAddr, other: IpAddr| match one {
        IpAddr::V6(all) if all.is_unspecified() => true,
        one => one == other || (one.is_unspecified() && other.is_ipv4()),
    };
    let ip = |address: SocketAddr| address.ip().to_canonical();
    let (first, second) = (ip(one), ip(other));
    // Port 0 is another one each time.
    one.port() != 0 && one.port() == other.port() && (has(first, second) || has(second, first))
}

/// Tells of settings that have an address of one before them: each its name and its address.
pub(super) fn tell_overlaps(settings: &[(&str, Option<SocketAddr>)], errors: &mut ConfigErrors) {
    for (number, (name, address)) in settings.iter().enumerate() {
        for (before, taken) in settings.iter().take(number) {
            let (Some(address), Some(taken)) = (*address, *taken) else {
                continue;
            };
            if !overlap(address, taken) {
                continue;
            }
            let before = errors.shown(before);
            let what = if address == taken {
                format!("is the address of {before}: each needs its own")
            } else {
                format!(
                    "{address} cannot be listened on beside {taken} of {before}, which is the same \
                     port of the same address: each needs its own"
                )
            };
            errors.add(name, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_one_has_the_other() {
        for (one, other, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            (":1", "127.0.0.1:1", true),
            ("[::]:1", "0.0.0.0:1", true),
            ("[::]:1", "[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
        ] {
            let (one, other) = (address(one).unwrap(), address(other).unwrap());
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }
}

//! Where a client is: as its connection says, or as what stands before this server does.
//!
//! Headers about the client are anybody's to write. They count only from addresses that are
//! configured; each of these proxies adds the address that it was connected from at the end, so the
//! client is the right-most one that is no such proxy, and whatever is left of it may be invented.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName, HeaderValue};
use parking_lot::RwLock;

use crate::server::config::{Balancers, ForwardedHeaders};
use crate::server::http::forwarded::{self, Element};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// All that is read of what a proxy tells about a client.
const ALL: [HeaderName; 4] = [FOR, PROTO, HOST, FORWARDED];

/// A client as logs show it: without a port where none is known.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct Shown(pub SocketAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.port() {
            0 => self.0.ip().fmt(f),
            _ => self.0.fmt(f),
        }
    }
}

/// What is believed about clients' addresses, and by whom.
#[derive(Debug)]
pub(in crate::server) struct ClientAddresses {
    balancers: RwLock<Arc<InForce>>,
}

#[derive(Debug, Default)]
struct InForce {
    balancers: Balancers,
    /// Whether it was logged that such headers come from elsewhere.
    is_warned: AtomicBool,
}

impl ClientAddresses {
    pub fn new(balancers: Balancers) -> Self {
        let this = Self {
            balancers: RwLock::default(),
        };
        this.set(balancers);
        this
    }

    /// Believes others from now on.
    pub fn set(&self, balancers: Balancers) {
        *self.balancers.write() = Arc::new(InForce {
            balancers,
            is_warned: AtomicBool::new(false),
        });
    }

    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.balancers.read())
    }

    /// Whether connections from an address begin with a header of the PROXY protocol.
    pub fn send_header(&self, address: IpAddr) -> bool {
        self.in_force().balancers.send_header(address)
    }

    /// Whether an address is that of a proxy which connects for many clients.
    pub fn are_trusted(&self, address: IpAddr) -> bool {
        self.in_force().balancers.are_trusted(address)
    }

    /// The client of a request that came by a connection from `peer`. What is left in `headers` of
    /// what proxies tell, `X-Forwarded-Proto` and `X-Forwarded-Host`, can be believed.
    pub fn resolve(&self, peer: SocketAddr, headers: &mut HeaderMap) -> SocketAddr {
        // Most requests, of which nothing is to be looked up: each of them comes by here.
        if !headers.keys().any(|name| ALL.contains(name)) {
            return peer;
        }
        let in_force = self.in_force();
        let balancers = &in_force.balancers;
        if balancers.are_trusted(peer.ip()) {
            return match balancers.headers {
                ForwardedHeaders::XForwarded => x_forwarded(balancers, peer, headers),
                ForwardedHeaders::Standard => standard(balancers, peer, headers),
            };
        }
        in_force.warn(peer);
        headers.remove(FOR);
        headers.remove(FORWARDED);
        // Where nobody is configured anyone may say by which address the server is reached: it is
        // for answers to the same client only.
        if !balancers.trusted.is_empty() {
            headers.remove(PROTO);
            headers.remove(HOST);
        }
        peer
    }
}

impl InForce {
    fn warn(&self, peer: SocketAddr) {
        if self.is_warned.swap(true, Ordering::Relaxed) {
            return;
        }
        let peer = peer.ip();
        if self.balancers.trusted.is_empty() {
            tracing::warn!(
                %peer,
                "a request has X-Forwarded or Forwarded headers, and no address is trusted to send \
                 them: the client is taken to be where the connection comes from. If a proxy stands \
                 there, name it (--trusted-proxy). This is said once"
            );
        } else {
            tracing::warn!(
                %peer,
                "X-Forwarded and Forwarded headers are ignored: they come from an address that is \
                 not among --trusted-proxy. This is said once"
            );
        }
    }
}

/// Goes back from `peer` over all proxies that are trusted; `before` names the one before, as often
/// as it is known.
fn go_back(
    balancers: &Balancers,
    peer: SocketAddr,
    mut before: impl FnMut() -> Option<SocketAddr>,
) -> SocketAddr {
    let mut client = peer;
    while balancers.are_trusted(client.ip()) {
        match before() {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

fn x_forwarded(balancers: &Balancers, peer: SocketAddr, headers: &mut HeaderMap) -> SocketAddr {
    headers.remove(FORWARDED);
    let lines = headers.get_all(FOR).iter().rev();
    let mut addresses = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let client = go_back(balancers, peer, || {
        let address = std::str::from_utf8(addresses.next()?).ok()?;
        forwarded::address(address.trim())
    });
    headers.remove(FOR);
    client
}

fn standard(balancers: &Balancers, peer: SocketAddr, headers: &mut HeaderMap) -> SocketAddr {
    for name in [FOR, PROTO, HOST] {
        headers.remove(name);
    }
    let mut chosen = Element::default();
    let client = {
        // A line that cannot be read ends what is known, but not what was read behind it.
        let lines = headers.get_all(FORWARDED).iter().rev();
        let lines = lines.map(|line| forwarded::elements(line.as_bytes()));
        let mut elements = lines.flat_map(|line| match line {
            Some(line) => line.into_iter().rev().map(Some).collect(),
            None => vec![None],
        });
        go_back(balancers, peer, || {
            let element = elements.next()??;
            let address = element.address();
            // What the last proxy that is known says of its client, which may hide where that is.
            chosen = element;
            address
        })
    };
    headers.remove(FORWARDED);
    for (name, value) in [(PROTO, chosen.proto), (HOST, chosen.host)] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    }
    client
}

#[cfg(test)]
mod tests;

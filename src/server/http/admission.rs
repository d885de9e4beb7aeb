//! Which connections are let in: whose they are, and whether their client has its share of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server::http::client_address::ClientAddresses;
use crate::server::http::proxy_protocol::{self, ReadError};
use crate::server::limits::slots::{Slot, Slots, client_of};
use crate::server::observe::refusals::{ClosedConnection, Refusals};

/// How often each kind of closed connection is logged: they may come in thousands.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Lets connections in. Cheap to clone; the clones share all.
#[derive(Clone)]
pub(in crate::server) struct Admission {
    addresses: Arc<ClientAddresses>,
    /// Of which one client address has a share.
    slots: Slots,
    /// How long a header of the PROXY protocol may take.
    limit: Duration,
    logged: Arc<Logged>,
    refusals: Refusals,
}

#[derive(Default)]
struct Logged {
    share: Mutex<Option<Instant>>,
    header: Mutex<Option<Instant>>,
}

/// The place of a connection that was accepted.
pub(in crate::server) enum AdmissionSlot {
    /// Its client has it.
    Taken(Slot),
    /// Its client is told by the header that it begins with. Until then it is one of all
    /// connections, and nobody's.
    BehindHeader,
}

impl Admission {
    pub fn new(
        addresses: Arc<ClientAddresses>,
        slots: Slots,
        limit: Duration,
        refusals: Refusals,
    ) -> Self {
        Self {
            addresses,
            slots,
            limit,
            logged: Arc::default(),
            refusals,
        }
    }

    /// A place for a connection from `peer`; `None`: it is to be closed, and costs no more.
    pub fn place(&self, peer: SocketAddr) -> Option<AdmissionSlot> {
        if self.addresses.send_header(peer.ip()) {
            return Some(AdmissionSlot::BehindHeader);
        }
        self.slot(peer).map(AdmissionSlot::Taken)
    }

    /// The client of a connection, and its place; `None`: it is to be closed. Reads its header, if
    /// it has to have one.
    pub async fn enter(
        &self,
        stream: &mut TcpStream,
        peer: SocketAddr,
        place: AdmissionSlot,
    ) -> Option<(SocketAddr, Slot)> {
        if let AdmissionSlot::Taken(slot) = place {
            return Some((peer, slot));
        }
        let client = match timeout(self.limit, proxy_protocol::read(stream)).await {
            Ok(Ok(client)) => client.unwrap_or(peer),
            Ok(Err(error @ ReadError::Closed)) => {
                tracing::debug!(%peer, %error, "a connection of a balancer ended");
                return None;
            }
            Ok(Err(error)) => {
                self.no_header(peer, &error);
                return None;
            }
            Err(_) => {
                self.no_header(peer, &"it did not come within --head-timeout");
                return None;
            }
        };
        self.slot(client).map(|slot| (client, slot))
    }

    /// Whether a connection's client is a proxy, which connects for many.
    pub fn is_shared(&self, client: SocketAddr) -> bool {
        self.addresses.are_trusted(client.ip())
    }

    fn slot(&self, client: SocketAddr) -> Option<Slot> {
        // Many clients come from there: each of their requests counts for itself.
        if self.is_shared(client) {
            return Some(self.slots.reacquire(client_of(client.ip())));
        }
        let slot = self.slots.take(client_of(client.ip())).ok();
        if slot.is_none() {
            self.refusals.closed(ClosedConnection::Share);
            if is_due(&self.logged.share) {
                tracing::warn!(
                    client = %client.ip(),
                    "a connection is closed: its address has its share of them \
                     (--address-share, --max-connections)"
                );
            }
        }
        slot
    }

    fn no_header(&self, peer: SocketAddr, error: &dyn std::fmt::Display) {
        self.refusals.closed(ClosedConnection::Header);
        if is_due(&self.logged.header) {
            tracing::warn!(
                peer = %peer.ip(),
                %error,
                "a connection is closed: its address is among --proxy-protocol, and the header with \
                 the client's address is not there. Have the balancer send it (send-proxy or \
                 send-proxy-v2), or take its address out"
            );
        }
    }
}

/// Whether it is time for another line; then it is counted as written.
fn is_due(logged: &Mutex<Option<Instant>>) -> bool {
    let mut last = logged.lock();
    let is_due = last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
    if is_due {
        *last = Some(Instant::now());
    }
    is_due
}

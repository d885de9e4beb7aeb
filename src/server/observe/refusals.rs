//! How often clients were refused because of a limit, by which one.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

type Total = Counter<u64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

/// The limit that a request was refused by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum RefusedBy {
    /// `--client-rate`.
    Rate,
    /// What one address may have of requests and waiting places: `--address-share`,
    /// `--client-requests`.
    Share,
    /// The number of all requests, or of all that wait.
    Total,
    /// Passwords that wait to be checked.
    Logins,
}

impl RefusedBy {
    const ALL: [Self; 4] = [Self::Rate, Self::Share, Self::Total, Self::Logins];

    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Share => "share",
            Self::Total => "total",
            Self::Logins => "logins",
        }
    }
}

/// Why a connection was closed before its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum ClosedConnection {
    /// Its address has its share of them.
    Share,
    /// It had to begin with a header of the PROXY protocol.
    Header,
}

impl ClosedConnection {
    const ALL: [Self; 2] = [Self::Share, Self::Header];

    fn name(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::Header => "header",
        }
    }
}

/// The counters. Cheap to clone; the clones are the same.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Refusals {
    requests: Family<LimitLabels, Total>,
    connections: Family<LimitLabels, Total>,
}

impl Refusals {
    /// Counters that are there from the start, with 0.
    pub fn register(&self, registry: &mut Registry) {
        for limit in RefusedBy::ALL.map(RefusedBy::name) {
            let _ = self.requests.get_or_create(&LimitLabels { limit });
        }
        for limit in ClosedConnection::ALL.map(ClosedConnection::name) {
            let _ = self.connections.get_or_create(&LimitLabels { limit });
        }
        registry.register(
            "requests_refused",
            "Requests answered 429 or 503 because of a limit",
            self.requests.clone(),
        );
        registry.register(
            "connections_closed",
            "Connections closed before their first request",
            self.connections.clone(),
        );
    }

    /// A request was refused.
    pub fn refused(&self, by: RefusedBy) {
        let limit = by.name();
        self.requests.get_or_create(&LimitLabels { limit }).inc();
    }

    /// A connection was closed.
    pub fn closed(&self, why: ClosedConnection) {
        let limit = why.name();
        self.connections.get_or_create(&LimitLabels { limit }).inc();
    }
}

//! What comes from registries and goes to other services: notifications, webhooks, and answers while
//! an upstream fails.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::server::route::Kind;

type Total = Counter<u64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

/// What became of a registry's notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Notified {
    /// Images that it names are converted.
    Accepted,
    /// It names none that is to be converted: of pulls, for example.
    Empty,
    /// It does not know the secret.
    Refused,
    /// It is none that is understood.
    Invalid,
    /// Too many are being worked on, or the secret cannot be read.
    Failed,
}

impl Notified {
    const ALL: [Self; 5] = [
        Self::Accepted,
        Self::Empty,
        Self::Refused,
        Self::Invalid,
        Self::Failed,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Empty => "empty",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
        }
    }
}

/// What became of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Told {
    /// The service took it.
    Sent,
    /// It was given up.
    Failed,
    /// It was not sent: too many waited for the same address.
    Dropped,
}

impl Told {
    const ALL: [Self; 3] = [Self::Sent, Self::Failed, Self::Dropped];

    fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// The counters. Cheap to clone; the clones are the same.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Events {
    notifications: Family<OutcomeLabels, Total>,
    webhooks: Family<OutcomeLabels, Total>,
    stale_answers: Family<RouteLabels, Total>,
}

impl Events {
    /// Counters that are there from the start, with 0.
    pub(super) fn register(&self, registry: &mut Registry) {
        for outcome in Notified::ALL.map(Notified::name) {
            let _ = self.notifications.get_or_create(&OutcomeLabels { outcome });
        }
        for outcome in Told::ALL.map(Told::name) {
            let _ = self.webhooks.get_or_create(&OutcomeLabels { outcome });
        }
        for route in Kind::ALL.map(Kind::name) {
            let _ = self.stale_answers.get_or_create(&RouteLabels { route });
        }
        registry.register(
            "notifications",
            "Notifications of registries, by what became of them",
            self.notifications.clone(),
        );
        registry.register(
            "webhooks",
            "Webhooks for each address, by what became of them",
            self.webhooks.clone(),
        );
        registry.register(
            "stale_answers",
            "Answers that rest on what an upstream said before it failed",
            self.stale_answers.clone(),
        );
    }

    /// A notification was answered.
    pub fn notified(&self, outcome: Notified) {
        let outcome = outcome.name();
        self.notifications
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// A webhook was sent or lost.
    pub fn told(&self, outcome: Told) {
        let outcome = outcome.name();
        self.webhooks
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// An answer rests on what an upstream said earlier.
    pub fn stale(&self, route: Kind) {
        let route = route.name();
        self.stale_answers
            .get_or_create(&RouteLabels { route })
            .inc();
    }
}

//! Settings that a running server reads again on SIGHUP.

use std::sync::Arc;

use crate::server::config::ServerConfig;
use crate::server::http::tls::Tls;
use crate::server::policy::Policy;
use crate::server::state::AppState;

/// Reads files again, and takes over settings of upstreams, while the server answers.
#[derive(Clone)]
pub struct Reloader {
    pub(in crate::server) state: Arc<AppState>,
    pub(in crate::server) tls: Option<Arc<Tls>>,
}

impl Reloader {
    /// Reads the certificate, its key, the authority of client certificates, the users and the keys of
    /// addresses again,
    /// whether or not the files look changed. What cannot be used is logged, and what was read
    /// before stays. Asks the disk: not for async threads.
    pub fn read_files(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
        if let Some(users) = &self.state.users {
            users.reload();
        }
        self.state.addresses.keys.reload();
    }

    /// Follows the policy of `fresh` from the next request on.
    pub fn take_over_policy(&self, fresh: &ServerConfig) {
        self.state.set_policy(Policy::new(fresh.policy.clone()));
    }

    /// Believes those of `fresh` about clients' addresses, and limits clients as it says: from the
    /// next connection and request on.
    pub fn take_over_clients(&self, fresh: &ServerConfig) {
        self.state.clients.set(fresh.balancers.clone());
        self.state.rates.set(fresh.limits.client_rate);
    }

    /// Has tried again what failed or was refused with the settings from before.
    pub fn forget_failures(&self) {
        let converter = &self.state.converted.converter;
        converter.forget_failures(|_| true);
        converter.forget_refused_pushes();
    }

    /// Speaks to the upstreams as `fresh` says: with its authorities, certificates, credentials
    /// and time limits. Requests that are under way end as they began.
    ///
    /// # Errors
    /// When the upstreams are others; nothing is changed then.
    pub fn take_over_upstreams(&self, fresh: &ServerConfig) -> Result<(), String> {
        let (old, new) = (&self.state.config.upstreams, &fresh.upstreams);
        let are_same = old.len() == new.len()
            && old.iter().zip(new).all(|(old, new)| {
                old.choice == new.choice && old.upstream.host() == new.upstream.host()
            });
        if !are_same {
            return Err(
                "the upstreams are others than those that the server was started \
                        with: restart it to use them"
                    .to_owned(),
            );
        }
        for (old, new) in old.iter().zip(new) {
            old.upstream.take_over(&new.upstream);
        }
        Ok(())
    }
}

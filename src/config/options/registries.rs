//! The settings of each registry by its host.

use std::collections::{BTreeMap, BTreeSet};

use super::RegistryOptions;
use super::upstream::{Place, Target, UpstreamOptions, read_entry};
use crate::config::{ConfigErrors, Text};
use crate::oci::ImageReference;
use crate::oci::reference::{Scheme, index_host};
use crate::registry::{RegistryConfig, Upstream};

/// The settings of each registry.
#[derive(Debug, Clone)]
pub struct Registries {
    base: RegistryOptions,
    named: BTreeMap<String, NamedRegistry>,
    /// Hosts that the base's credentials are for.
    trusted: BTreeSet<String>,
    /// No mistakes, in options that are called as they were written.
    errors: ConfigErrors,
}

/// A registry that has settings of its own.
#[derive(Debug, Clone)]
struct NamedRegistry {
    scheme: Option<Scheme>,
    options: RegistryOptions,
    /// Those settings, and how whoever wrote them knows them.
    written: Vec<(String, String)>,
}

impl Registries {
    /// Registries without an entry of their own; the credentials are for `hosts` only.
    pub fn new<'a>(base: RegistryOptions, hosts: impl IntoIterator<Item = &'a str>) -> Self {
        let trusted = hosts.into_iter().map(|host| index_host(host).to_owned());
        Self {
            base,
            named: BTreeMap::new(),
            trusted: trusted.collect(),
            errors: ConfigErrors::default(),
        }
    }

    /// No mistakes yet, in options that are called as they were written.
    #[must_use]
    pub fn errors(&self) -> ConfigErrors {
        self.errors.clone()
    }

    /// The same, with the settings of those upstreams that have some of their own.
    #[must_use]
    pub fn with_upstreams(
        mut self,
        upstreams: &UpstreamOptions,
        errors: &mut ConfigErrors,
    ) -> Self {
        self.errors = errors.anew();
        for (number, entry) in (1..).zip(&upstreams.upstream) {
            let Some((target, options, _, keys)) = read_entry(entry, &self.base, errors) else {
                continue;
            };
            if let Place::Registry { host, scheme } = target {
                let place = upstreams.shown(number, &host);
                let of_upstream =
                    |(name, key): (String, String)| (name, format!("`{key}` of {place}"));
                let written = keys.into_iter().map(of_upstream).collect();
                let host = index_host(&host).to_owned();
                let mut options = options;
                if self.trusted.contains(&host) && !options.has_credentials() {
                    options.user.clone_from(&self.base.user);
                    options.password_file.clone_from(&self.base.password_file);
                    options.refresh.clone_from(&self.base.refresh);
                }
                self.named.entry(host).or_insert(NamedRegistry {
                    scheme,
                    options,
                    written,
                });
            }
        }
        self
    }

    /// The settings of one registry, with the scheme that it is written with here, if it is,
    /// and with other credentials if there are: an option's name and its NAME:PASSWORD.
    pub fn config(
        &self,
        (scheme, host): (Option<Scheme>, &str),
        user: Option<(&'static str, &Text)>,
        errors: &mut ConfigErrors,
    ) -> Option<RegistryConfig> {
        let host = index_host(host);
        let named = self.named.get(host);
        let mut written = named.map_or_else(Vec::new, |named| named.written.clone());
        let mut options = match named {
            Some(named) => named.options.clone(),
            None if self.trusted.contains(host) => self.base.clone(),
            None => self.base.without_credentials(),
        };
        if let Some((name, user)) = user {
            if !user.as_str().contains(':') {
                errors.add(name, "NAME:PASSWORD is expected");
                return None;
            }
            options = RegistryOptions {
                user: Some(user.clone()),
                ..options.without_credentials()
            };
            // A mistake in it is one of the option that it was given with.
            written.push(("user".to_owned(), errors.shown(name)));
        }
        let config = errors.calling(written, |errors| options.config(errors))?;
        let named = named.and_then(|named| named.scheme);
        Some(RegistryConfig {
            scheme: scheme.or(named).or(config.scheme),
            ..config
        })
    }

    /// The registry of a host, as [`config`](Self::config) has it.
    pub fn dial(
        &self,
        (scheme, host): (Option<Scheme>, &str),
        user: Option<(&'static str, &Text)>,
        errors: &mut ConfigErrors,
    ) -> Option<Upstream> {
        let config = self.config((scheme, host), user, errors)?;
        Upstream::registry(host, &config)
            .map_err(|error| errors.add_line(format!("registry {host}: {error}")))
            .ok()
    }

    /// Where an image is read from.
    pub fn source(&self, image: &ImageReference, errors: &mut ConfigErrors) -> Option<Target> {
        Some(match image {
            ImageReference::Registry(reference) => Target::Registry {
                host: reference.host.clone(),
                config: Box::new(self.config((reference.scheme, &reference.host), None, errors)?),
            },
            ImageReference::Layout(reference) if reference.archive => {
                Target::Archive(reference.path.clone())
            }
            ImageReference::Layout(reference) => Target::Layout(reference.path.clone()),
        })
    }
}

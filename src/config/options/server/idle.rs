//! Settings that do nothing without another one: whoever makes them expects what does not happen.

use std::time::Duration;

use super::ServerOptions;
use crate::config::defaults::defaults;
use crate::config::{ConfigErrors, Text};
use crate::server::ServerConfig;

/// What has been read of these settings.
pub(super) struct Read {
    /// `--tag-ttl`.
    pub(super) tag_ttl: Option<Duration>,
    /// `--url-ttl`.
    pub(super) url_ttl: Option<Duration>,
    /// Whether `--cache-source` is on.
    pub(super) is_caching: bool,
    /// Whether `--learn-prefetch` is on.
    pub(super) is_learning: bool,
}

/// Tells of them.
pub(super) fn tell(options: &ServerOptions, read: &Read, errors: &mut ConfigErrors) {
    let is_there = |value: &Option<Text>| value.is_some();
    let has_admin = is_there(&options.admin);
    let has_other_window = options.learn_window.as_ref().is_some_and(|window| {
        let usual = defaults().get("learn-window");
        usual.and_then(toml::Value::as_str) != Some(window.as_str())
    });
    let without = |other: &str| format!("does nothing without {other}: set both, or leave it out");
    for (name, is_idle, what) in [
        (
            "admin-token-file",
            is_there(&options.admin_token_file) && !has_admin,
            without("--admin"),
        ),
        (
            "notification-secret-file",
            is_there(&options.notification_secret_file) && !has_admin,
            without("--admin"),
        ),
        (
            "webhook-secret-file",
            is_there(&options.webhook_secret_file) && options.webhook.is_empty(),
            without("--webhook"),
        ),
        (
            "tag-ttl",
            read.tag_ttl.is_some_and(|ttl| !ttl.is_zero()) && !read.is_caching,
            without("--cache-source"),
        ),
        (
            "learn-window",
            has_other_window && !read.is_learning,
            without("--learn-prefetch"),
        ),
        (
            "url-key-file",
            is_there(&options.url_key_file) && read.url_ttl.is_some_and(|ttl| ttl.is_zero()),
            "with --url-ttl 0 no address is signed: leave one out".to_owned(),
        ),
    ] {
        if is_idle {
            errors.add(name, what);
        }
    }
}

/// What two settings mean together that may seem to contradict each other.
pub(in crate::config) fn remark(server: &ServerConfig, is_pushing: bool) -> Option<String> {
    (server.read_only && is_pushing).then(|| {
        "--read-only refuses what clients push and delete; what the proxy converts is still pushed \
         (--push)"
            .to_owned()
    })
}

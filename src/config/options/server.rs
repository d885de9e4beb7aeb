//! The server in front.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

mod access;
mod files;
mod idle;
mod listen;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::listen::{address, tell_overlaps};
use super::push::tag_end;
use super::{existing_file, list, optional, required, switch};
use crate::config::{ConfigErrors, Text, duration};
use crate::convert::Suffixes;
use crate::convert::layer::TurboSettings;
use crate::oci::reference::{is_host, shown_host};
use crate::oci::{RepoName, Tag};
use crate::registry::{Poster, RegistryConfig, Secret};
use crate::server::{
    Access, Balancers, Limits, OnTimeout, Pattern, Rule, ServerConfig, SourceCacheConfig,
    TurboConfig, TurboFallback, UpstreamEntry,
};

pub(in crate::config) use idle::remark;

/// Longest `--learn-window`: a container that takes longer to start is not waiting for its image.
const MAX_LEARN_WINDOW: Duration = Duration::from_hours(1);

/// The server in front.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Server")]
pub struct ServerOptions {
    /// Listen address for registry clients: ADDRESS:PORT, port 0 for any free one
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<Text>,
    /// Another listen address, for nodes that read overlaybd: it answers plain tags with converted
    /// images, as for requests with the header `Overlaybd-Format: auto` [default: none]
    #[arg(long, value_name = "ADDRESS")]
    pub listen_overlaybd: Option<Text>,
    /// Listen address for operators: health checks and metrics (/livez, /readyz, /metrics), and
    /// what is under way and kept (/api/v1/openapi.json) [default: none]
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<Text>,
    /// File with the token that changes by operators need (`Authorization: Bearer TOKEN`), such as
    /// one of `openssl rand -hex 32`. Read whenever it is needed [default: none, and nothing can be
    /// changed on --admin]
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<Text>,
    /// File with the secret that notifications of registries need, which have what was pushed converted
    /// (POST /api/v1/notifications on --admin): as a bearer token, as `?secret=`, or as the key of
    /// GitHub's signature [default: none, and no notifications are taken]
    #[arg(long, value_name = "FILE")]
    pub notification_secret_file: Option<Text>,
    /// Address that is told, by POST, of each conversion that ended well or badly; repeatable. It is
    /// sent up to six times within about half a minute, while it is not answered, or with 5xx, 429 or
    /// 408
    #[arg(long, value_name = "URL")]
    pub webhook: Vec<Text>,
    /// File with the secret that webhooks are signed with, as GitHub signs its own
    /// (X-Hub-Signature-256) [default: none, and they are not signed]
    #[arg(long, value_name = "FILE")]
    pub webhook_secret_file: Option<Text>,
    /// How long a request for a converted image is held, for the conversion and for the upstream's
    /// answers before and after it; some clients give up after 30s
    #[arg(long, value_name = "TIME")]
    pub hold: Option<Text>,
    /// Answer to a request whose --hold is over: wait (307 to the same address, 429 the tenth
    /// time), wait-then-original (the unconverted image the tenth time), busy (429), or original
    /// (the unconverted image, now)
    #[arg(long, value_name = "wait|wait-then-original|busy|original")]
    pub on_timeout: Option<Text>,
    /// How long at most whoever asks for an image whose conversion failed gets the same error
    /// again, before it is converted anew: for an image's own faults all of this, for a failing
    /// upstream or a full disk some seconds; 0 to begin a conversion each time
    #[arg(long, value_name = "TIME")]
    pub failure_ttl: Option<Text>,
    /// The end of a tag that asks for an index of the image and its converted forms side by side, the
    /// original first; empty for never
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        help_heading = "Names and pushing"
    )]
    pub merged_suffix: Option<Text>,
    /// Add the converted forms that are there to the upstream's lists of referrers, by the API and
    /// under the tag sha256-HEX
    #[arg(long, value_name = "BOOL", help_heading = "Names and pushing")]
    pub list_referrers: Option<Text>,
    /// Host that upstreams redirect nodes to, and that is read from below /p2p/ in their place
    /// (overlaybd's p2pConfig), such as production.cloudfront.docker.com; repeatable. Upstreams are
    /// read there in any case
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',')]
    pub p2p_host: Vec<Text>,
    /// Serve a tag that the upstream really has under its name with --suffix, before its plain tag
    /// is converted; without, only where there is no plain tag
    #[arg(long, value_name = "BOOL")]
    pub prefer_upstream_tags: Option<Text>,
    /// Refuse whatever changes the upstream
    #[arg(long, value_name = "BOOL")]
    pub read_only: Option<Text>,
    /// Follow the upstream's redirects instead of handing them to the client; with the proxy's
    /// own credentials those that stay with the upstream are followed in any case
    #[arg(long, value_name = "BOOL")]
    pub follow_redirects: Option<Text>,
    /// Keep the manifests and blobs of plain images that are pulled, each downloaded once however
    /// many ask for it; conversions read layers from there. The upstream still says who may have
    /// them. They take part in --cache-size, and are evicted first
    #[arg(long, value_name = "BOOL")]
    pub cache_source: Option<Text>,
    /// How long --cache-source answers with what a tag named before without asking the upstream,
    /// such as 1m, at most --auth-cache-ttl; 0 to ask for each pull of a tag
    #[arg(long, value_name = "TIME")]
    pub tag_ttl: Option<Text>,
    /// Prepare the converted form when a plain tag is pulled: patterns of REPO:TAG with * and ?
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub convert_on_pull: Vec<Text>,
    /// Learn priority lists from the ranges of native blobs that nodes read when containers start,
    /// and convert images of the same repository with them from then on; for what has no
    /// --prefetch-list
    #[arg(long, value_name = "BOOL")]
    pub learn_prefetch: Option<Text>,
    /// How long what a node reads of an image counts as its start, from its first read on
    #[arg(long, value_name = "TIME")]
    pub learn_window: Option<Text>,
    /// Offer HTTP/2 to clients with TLS, which choose (ALPN); without, they speak HTTP/1.1
    #[arg(long, value_name = "BOOL")]
    pub http2: Option<Text>,
    /// Take HTTP/2 without TLS from clients that begin with it ("prior knowledge"), such as a load
    /// balancer in front; HTTP/1.1 is spoken beside it. Has no effect with --tls-cert
    #[arg(long, value_name = "BOOL")]
    pub h2c: Option<Text>,
    /// Certificate of the server, PEM; read again when it changes
    #[arg(long, value_name = "FILE", help_heading = "Access control")]
    pub tls_cert: Option<Text>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", help_heading = "Access control")]
    pub tls_key: Option<Text>,
    /// CA of client certificates, PEM
    #[arg(long, value_name = "FILE", help_heading = "Access control")]
    pub tls_client_ca: Option<Text>,
    /// Whether clients need a certificate: optional or required [default: required with
    /// --tls-client-ca]
    #[arg(
        long,
        value_name = "optional|required",
        help_heading = "Access control"
    )]
    pub tls_client_auth: Option<Text>,
    /// Users of the proxy, with bcrypt hashes as `htpasswd -B` writes them, read again when the
    /// file changes; the upstream is asked with the proxy's own credentials then
    #[arg(long, value_name = "FILE", help_heading = "Access control")]
    pub htpasswd: Option<Text>,
    /// Ask the upstream with the proxy's own credentials instead of each client's
    #[arg(long, value_name = "BOOL", help_heading = "Access control")]
    pub own_credentials: Option<Text>,
    /// Let whoever reaches the proxy push and delete with its own credentials; without users
    /// (--htpasswd, --tls-client-ca) they may only pull
    #[arg(long, value_name = "BOOL", help_heading = "Access control")]
    pub allow_anonymous_push: Option<Text>,
    /// How long it is remembered that the upstream accepted a client's credentials
    #[arg(long, value_name = "TIME", help_heading = "Access control")]
    pub auth_cache_ttl: Option<Text>,
    /// How long that holds while the upstream fails, that is, cannot be reached, answers 5xx or 429,
    /// or is silent; never after a refusal; a day by default, 0 for never
    #[arg(long, value_name = "TIME", help_heading = "Access control")]
    pub stale_if_error: Option<Text>,
    /// Send overlaybd (User-Agent: overlaybd/...) to an address that is signed, and good for this
    /// long, for each blob that it opens: it reads there without credentials, and nothing of a blob
    /// is sent in vain. What the upstream does not allow any more can be read for this much longer;
    /// longer than the clocks of replicas differ; 0 to answer it as everyone else
    #[arg(long, value_name = "TIME", help_heading = "Access control")]
    pub url_ttl: Option<Text>,
    /// File with the keys of these addresses, one of `openssl rand -hex 32` a line: the first signs,
    /// all verify. Read again when it changes. Replicas need the same: a new key goes to the last line
    /// of all of them before it goes to the first [default: a key of its own for
    /// each process; none, and no such addresses, with --dbstr]
    #[arg(long, value_name = "FILE", help_heading = "Access control")]
    pub url_key_file: Option<Text>,
}

fn pattern(text: &str) -> Result<Pattern, String> {
    let (repo, tag) = text.rsplit_once(':').unwrap_or((text, "*"));
    // A pattern that no name can match is a mistake that nobody would find.
    let plain = |text: &str| text.replace(['*', '?'], "x");
    let repo_part = plain(repo);
    let good_repo = repo_part.parse::<RepoName>().is_ok();
    let good_tag = plain(tag).parse::<Tag>().is_ok();
    if good_repo && good_tag {
        Ok(Pattern(format!("{repo}:{tag}")))
    } else {
        Err(format!(
            "{text:?} matches no image: REPO:TAG is expected, such as library/*:* or app:v?"
        ))
    }
}

fn webhook(text: &str) -> Result<Secret, String> {
    // What is behind the host may be a secret.
    Poster::new(text, &RegistryConfig::default())
        .map(|_| Secret::new(text))
        .map_err(|_| "it is no http:// or https:// address".to_owned())
}

fn p2p_host(text: &str) -> Result<String, String> {
    if is_host(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!(
        "{:?} is no host: HOST or HOST:PORT is expected, as in cdn.example.com",
        shown_host(text)
    ))
}

fn learn_window(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than that".to_owned()),
        window if window > MAX_LEARN_WINDOW => Err("1h is the longest".to_owned()),
        window => Ok(window),
    }
}

/// What makes no sense together with letting anyone push.
fn of_anonymous_push(config: &ServerConfig) -> Option<&'static str> {
    if !config.allow_anonymous_push {
        None
    } else if config.read_only {
        Some("--read-only refuses every push: leave one out")
    } else if config.access == Access::PassThrough {
        Some("it is for --own-credentials: without, each client's own credentials decide")
    } else if !config.is_for_anyone() {
        Some("nobody is anonymous here, and --htpasswd or --tls-client-ca may push: leave it out")
    } else {
        None
    }
}

impl ServerOptions {
    /// The server's settings with what stands behind it.
    pub fn config(
        &self,
        upstreams: Vec<UpstreamEntry>,
        (suffixes, fallback): (Option<Suffixes>, Option<TurboFallback>),
        turbo: Option<TurboSettings>,
        (limits, policy): (Option<Limits>, Vec<Rule>),
        errors: &mut ConfigErrors,
    ) -> Option<ServerConfig> {
        let listen = required(errors, "listen", self.listen.as_ref(), address);
        let admin = optional(errors, "admin", self.admin.as_ref(), address);
        let overlaybd = self.listen_overlaybd.as_ref();
        let overlaybd = optional(errors, "listen-overlaybd", overlaybd, address);
        let addresses = [
            ("listen", listen),
            ("admin", admin),
            ("listen-overlaybd", overlaybd),
        ];
        tell_overlaps(&addresses, errors);
        let tls = self.tls(errors);
        let hold = required(errors, "hold", self.hold.as_ref(), duration);
        let on_timeout = required(
            errors,
            "on-timeout",
            self.on_timeout.as_ref(),
            |text| match text {
                "wait" => Ok(OnTimeout::Wait),
                "wait-then-original" => Ok(OnTimeout::WaitThenOriginal),
                "busy" => Ok(OnTimeout::Busy),
                "original" => Ok(OnTimeout::Original),
                _ => Err(format!(
                    "{text:?} is not wait, wait-then-original, busy or original"
                )),
            },
        );
        let turbo = suffixes.as_ref().and_then(|suffixes| {
            let (fallback, settings) = (fallback?, turbo?);
            Some(suffixes.turbo.clone().map(|suffix| TurboConfig {
                suffix,
                fallback,
                settings,
            }))
        });
        let merged_suffix = self.merged(suffixes.as_ref(), errors);
        let listed = self.list_referrers.as_ref();
        let list_referrers = switch(errors, "list-referrers", listed);
        let p2p_hosts = list(errors, "p2p-host", &self.p2p_host, p2p_host);
        let access = self.access(errors);
        let anonymous = self.allow_anonymous_push.as_ref();
        let allow_anonymous_push = switch(errors, "allow-anonymous-push", anonymous);
        let ttl = self.auth_cache_ttl.as_ref();
        let auth_cache_ttl = required(errors, "auth-cache-ttl", ttl, duration);
        let stale = self.stale_if_error.as_ref();
        let stale_if_error = required(errors, "stale-if-error", stale, duration);
        let failures = self.failure_ttl.as_ref();
        let failure_ttl = required(errors, "failure-ttl", failures, duration);
        let url_ttl = required(errors, "url-ttl", self.url_ttl.as_ref(), duration);
        let keys = self.url_key_file.as_ref();
        let url_key_file = optional(errors, "url-key-file", keys, existing_file);
        let token = self.admin_token_file.as_ref();
        let admin_token_file = optional(errors, "admin-token-file", token, existing_file);
        let secret = self.notification_secret_file.as_ref();
        let secret = optional(errors, "notification-secret-file", secret, existing_file);
        let notification_secret_file = secret;
        let webhooks = list(errors, "webhook", &self.webhook, webhook);
        let secret = self.webhook_secret_file.as_ref();
        let webhook_secret_file = optional(errors, "webhook-secret-file", secret, existing_file);
        let read_only = switch(errors, "read-only", self.read_only.as_ref());
        let http2 = switch(errors, "http2", self.http2.as_ref());
        let h2c = switch(errors, "h2c", self.h2c.as_ref());
        let prefer = self.prefer_upstream_tags.as_ref();
        let prefer_upstream_tags = switch(errors, "prefer-upstream-tags", prefer);
        let follow = self.follow_redirects.as_ref();
        let follow_redirects = switch(errors, "follow-redirects", follow);
        let is_caching = switch(errors, "cache-source", self.cache_source.as_ref());
        let tag_ttl = required(errors, "tag-ttl", self.tag_ttl.as_ref(), duration);
        let patterns = &self.convert_on_pull;
        let convert_on_pull = list(errors, "convert-on-pull", patterns, pattern);
        let is_learning = switch(errors, "learn-prefetch", self.learn_prefetch.as_ref());
        let window = self.learn_window.as_ref();
        let window = required(errors, "learn-window", window, learn_window);
        let read = idle::Read {
            tag_ttl,
            url_ttl,
            is_caching,
            is_learning,
        };
        idle::tell(self, &read, errors);
        let config = ServerConfig {
            listen: listen?,
            listen_overlaybd: overlaybd,
            admin,
            tls,
            http2,
            h2c,
            upstreams,
            suffix: suffixes?.native,
            turbo: turbo?,
            merged_suffix: merged_suffix?,
            list_referrers,
            p2p_hosts,
            prefer_upstream_tags,
            hold: hold?,
            on_timeout: on_timeout?,
            access,
            auth_cache_ttl: auth_cache_ttl?,
            stale_if_error: stale_if_error?,
            failure_ttl: failure_ttl?,
            url_ttl: url_ttl?,
            // That depends on the store, too.
            blob_redirect: None,
            url_key_file,
            admin_token_file,
            notification_secret_file,
            webhooks,
            webhook_secret_file,
            read_only,
            allow_anonymous_push,
            follow_redirects,
            source_cache: tag_ttl
                .map(|tag_ttl| is_caching.then_some(SourceCacheConfig { tag_ttl }))?,
            convert_on_pull,
            learn_window: window.map(|window| is_learning.then_some(window))?,
            // In the data directory, which is not known here.
            learned_lists: PathBuf::new(),
            policy,
            // Options of their own.
            balancers: Balancers::default(),
            limits: limits?,
        };
        if let Some(mistake) = of_anonymous_push(&config) {
            errors.add("allow-anonymous-push", mistake);
        }
        Some(config)
    }

    fn merged(&self, suffixes: Option<&Suffixes>, errors: &mut ConfigErrors) -> Option<String> {
        let merged = self.merged_suffix.as_ref();
        let merged = required(errors, "merged-suffix", merged, tag_end)?;
        let of_forms = suffixes.map(|suffixes| [Some(&suffixes.native), suffixes.turbo.as_ref()]);
        if !merged.is_empty() && of_forms.is_some_and(|known| known.contains(&Some(&merged))) {
            errors.add(
                "merged-suffix",
                "is that of --suffix or --turbo-suffix: each needs its own",
            );
        }
        Some(merged)
    }
}

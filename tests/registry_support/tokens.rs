//! A small token server: what `docker-registry` with `auth: token` sends its clients to.
//!
//! Tokens are JWTs by RS256, signed with `openssl`; the registry trusts the certificate.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::scripted::{self, Answer, Served};

/// Issuer and service, as in the registry's configuration.
pub const ISSUER: &str = "test-issuer";
pub const SERVICE: &str = "test-registry";

/// Who may do what: user, password, repository prefix, actions. A user of no name is
/// everyone.
pub type Rights = Vec<(
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
)>;

/// The token server's state.
pub struct Tokens {
    directory: tempfile::TempDir,
    key: PathBuf,
    certificate: String,
    pub rights: Mutex<Rights>,
    /// Refresh tokens, and `user:password` for which each stands.
    pub refresh: Mutex<HashMap<String, String>>,
    /// Tokens given out.
    pub issued: AtomicUsize,
    /// What is stated of their life, in seconds.
    pub life: Mutex<Option<u64>>,
    /// The last requests: method, query or form, whether there were credentials.
    pub asked: Mutex<Vec<(String, String, bool)>>,
}

impl Tokens {
    /// Makes a key and a certificate.
    pub fn new(rights: Rights) -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("token.key");
        let certificate = directory.path().join("token.crt");
        super::run(
            Command::new("openssl")
                .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256"])
                .args(["-subj", "/CN=token-signer", "-days", "30", "-keyout"])
                .arg(&key)
                .arg("-out")
                .arg(&certificate),
        );
        let pem = std::fs::read_to_string(&certificate).unwrap();
        let body: String = pem
            .lines()
            .filter(|line| !line.starts_with("---"))
            .collect();
        Arc::new(Self {
            directory,
            key,
            certificate: body,
            rights: Mutex::new(rights),
            refresh: Mutex::default(),
            issued: AtomicUsize::new(0),
            life: Mutex::new(None),
            asked: Mutex::new(Vec::new()),
        })
    }

    /// The registry's settings for tokens from `realm`.
    pub fn settings(&self, realm: &str) -> super::Settings {
        let bundle = self.directory.path().join("token.crt");
        super::Settings {
            auth: format!(
                "  token:\n    realm: {realm}\n    service: {SERVICE}\n    issuer: {ISSUER}\n    \
                 rootcertbundle: {}\n",
                bundle.display()
            ),
            ..super::Settings::default()
        }
    }

    /// Answers on a port of its own.
    pub async fn serve(self: &Arc<Self>) -> Served {
        let tokens = Arc::clone(self);
        scripted::serve(move |request| {
            let tokens = Arc::clone(&tokens);
            async move { Answer::Http(tokens.answer(request).await) }
        })
        .await
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let method = request.method().to_string();
        let login = request
            .headers()
            .get("authorization")
            .and_then(|value| {
                value
                    .to_str()
                    .ok()?
                    .strip_prefix("Basic ")?
                    .parse::<String>()
                    .ok()
            })
            .and_then(|text| String::from_utf8(STANDARD.decode(text).ok()?).ok());
        let text = if let Some(query) = request.uri().query() {
            query.to_owned()
        } else {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8_lossy(&body).into_owned()
        };
        self.asked
            .lock()
            .push((method, text.clone(), login.is_some()));
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(text.as_bytes())
            .into_owned()
            .collect();
        let all = |name: &str| {
            let pairs = pairs.iter().filter(move |(key, _)| key == name);
            pairs.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        // A refresh token that is not listed is just `user:password`.
        let login = login.or_else(|| {
            let token = all("refresh_token").pop()?;
            let known = self.refresh.lock().get(&token).cloned();
            Some(known.unwrap_or(token))
        });
        let rights = self.rights.lock().clone();
        let user = match &login {
            None => "",
            Some(login) => match rights
                .iter()
                .find(|(user, password, ..)| format!("{user}:{password}") == *login)
            {
                Some((user, ..)) => user,
                None => {
                    return reply(
                        StatusCode::UNAUTHORIZED,
                        &json!({"details": "wrong password"}),
                    );
                }
            },
        };
        let mut access = Vec::new();
        for scope in all("scope").iter().flat_map(|text| text.split(' ')) {
            let Some((resource, actions)) = scope.rsplit_once(':') else {
                continue;
            };
            let Some((kind, name)) = resource.split_once(':') else {
                continue;
            };
            let allowed: Vec<&str> = actions
                .split(',')
                .filter(|action| {
                    rights.iter().any(|(owner, _, prefix, allowed)| {
                        (owner.is_empty() || *owner == user)
                            && name.starts_with(prefix)
                            && allowed.contains(action)
                    })
                })
                .collect();
            access.push(json!({"type": kind, "name": name, "actions": allowed}));
        }
        self.issued.fetch_add(1, Ordering::SeqCst);
        let token = self.sign(user, &access);
        let mut document = json!({ "token": token });
        if let Some(life) = *self.life.lock() {
            document["expires_in"] = life.into();
        }
        reply(StatusCode::OK, &document)
    }

    fn sign(&self, user: &str, access: &[Value]) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": SERVICE, "exp": now + 300, "nbf": now - 10,
            "iat": now, "jti": format!("{now}"), "access": access,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        let mut child = Command::new("openssl")
            .args(["dgst", "-sha256", "-binary", "-sign"])
            .arg(&self.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let signature = child.wait_with_output().unwrap().stdout;
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn reply(status: StatusCode, document: &Value) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::from(document.to_string()))
        .unwrap()
}

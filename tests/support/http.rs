//! A plain HTTP client for tests: one call, one answer, whole.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::runtime::Runtime;

use super::overlaybd;

/// An answer, whole.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.body[..self.body.len().min(600)];
        write!(
            f,
            "{} {:?} {} bytes: {}",
            self.status,
            self.headers,
            self.body.len(),
            String::from_utf8_lossy(start)
        )
    }
}

fn client() -> &'static (Runtime, Client<HttpConnector, Full<Bytes>>) {
    static CLIENT: OnceLock<(Runtime, Client<HttpConnector, Full<Bytes>>)> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        // No connection is kept: a server that was started again must be met afresh.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build_http();
        (runtime, client)
    })
}

/// Sends one request and waits for the whole answer. Redirects are not followed. A layer that
/// comes whole must keep the rules of overlaybd's reader.
#[track_caller]
pub fn try_send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer, String> {
    client().0.block_on(exchange(method, url, headers, body))
}

async fn exchange(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer, String> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(Bytes::copy_from_slice(body)))
        .unwrap();
    let exchange = async {
        let response = client()
            .1
            .request(request)
            .await
            .map_err(|error| format!("{error:?}"))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("{error:?}"))?;
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
        })
    };
    let answer = tokio::time::timeout(Duration::from_mins(5), exchange)
        .await
        .unwrap_or_else(|_| Err("no answer in five minutes".to_owned()))?;
    if answer.status == 200 && url.contains("/blobs/") {
        overlaybd::assert_if_layer(url, &answer.body);
    }
    Ok(answer)
}

/// Asks for all of these at once, again for as long as an answer is to ask again; the answers
/// in order.
#[track_caller]
pub fn get_all(urls: &[String]) -> Vec<Answer> {
    let (runtime, _) = client();
    let asked = urls.iter().cloned().map(|url| {
        runtime.spawn(async move {
            loop {
                let answer = exchange("GET", &url, &[("accept", ACCEPT)], b"").await;
                match answer {
                    Ok(answer) if answer.status == 307 => {}
                    answer => return answer,
                }
            }
        })
    });
    let asked: Vec<_> = asked.collect();
    let answers = asked.into_iter().map(|one| runtime.block_on(one).unwrap());
    answers.map(|answer| answer.unwrap()).collect()
}

/// As [`try_send`], where an answer of any status is sure.
#[track_caller]
pub fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    try_send(method, url, headers, body).unwrap_or_else(|error| panic!("{method} {url}: {error}"))
}

/// What pulling clients accept.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// `GET`, following up to ten redirects, as clients do.
#[track_caller]
pub fn get(url: &str) -> Answer {
    let mut url = url.to_owned();
    for _ in 0..10 {
        let answer = send("GET", &url, &[("accept", ACCEPT)], b"");
        if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
            return answer;
        }
        let location = answer.header("location").unwrap().to_owned();
        url = if location.starts_with('/') {
            let host_at = url.find("//").unwrap() + 2;
            let end = url[host_at..]
                .find('/')
                .map_or(url.len(), |at| host_at + at);
            format!("{}{location}", &url[..end])
        } else {
            location
        };
    }
    panic!("more than ten redirects: {url}")
}

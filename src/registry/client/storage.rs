//! Requests to object storage: its client signs them and tries again, the connections are these.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use url::{Host, Url};

use super::answer::Answer;
use super::dialer::Dialer;
use super::retry::Again;
use crate::registry::{BoxError, DialOptions, Egress, Error, RegistryConfig};

/// Most bytes of a document in an answer, such as a page of a listing or an error: what is longer is
/// an error. Objects have no such bound, because they are not held in memory.
const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// How long the completion of an upload may take: large objects take some services minutes.
const COMPLETION: Duration = Duration::from_mins(5);

/// The connections to an object storage service, and to where its credentials come from. Cheap to
/// clone; clones share connections.
#[derive(Clone)]
pub struct StorageConnector(Arc<Dialers>);

struct Dialers {
    service: Dialer,
    /// Requests that complete uploads of many parts, which the service puts together first.
    completing: Dialer,
    /// What gives credentials to machines and pods is on the machine, or right beside it: no egress
    /// proxy leads there.
    machine: Dialer,
}

impl fmt::Debug for StorageConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageConnector")
    }
}

impl StorageConnector {
    /// For the service at `endpoint`, with these authorities, time limits and egress proxy;
    /// certificates are verified in any case. `others` are hosts that credentials are asked for
    /// at. The names below the endpoint's host belong to it: buckets are such.
    ///
    /// # Errors
    /// If a setting cannot be used.
    pub fn new(endpoint: &Url, others: &[String], config: &RegistryConfig) -> Result<Self, Error> {
        let mut allow_hosts = config.dial.allow_hosts.clone();
        if let Some(host) = endpoint.host_str() {
            allow_hosts.extend([host.to_owned(), format!("*.{host}")]);
        }
        allow_hosts.extend_from_slice(others);
        // No answer leads anywhere: redirects are not followed, and an operator named all addresses.
        let config = RegistryConfig {
            dial: DialOptions {
                allow_hosts,
                allow_downgrade: true,
            },
            ..config.clone()
        };
        let direct = RegistryConfig {
            egress: Egress::Direct,
            ..config.clone()
        };
        let mut completing = if is_of_machine(endpoint) {
            direct.clone()
        } else {
            config.clone()
        };
        completing.timeouts.response = completing.timeouts.response.max(COMPLETION);
        Ok(Self(Arc::new(Dialers {
            service: Dialer::elsewhere(endpoint.clone(), &config)?,
            completing: Dialer::elsewhere(endpoint.clone(), &completing)?,
            machine: Dialer::elsewhere(endpoint.clone(), &direct)?,
        })))
    }
}

impl HttpConnector for StorageConnector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for StorageConnector {
    fn call<'life, 'future>(
        &'life self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(self.0.exchange(request))
    }
}

impl Dialers {
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let uri = request.uri().clone();
        let url: Url = uri
            .to_string()
            .parse()
            .map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let is_object = is_object(request.method(), &url);
        let dialer = if is_completion(request.method(), &url) {
            &self.completing
        } else if is_of_machine(&url) {
            &self.machine
        } else {
            &self.service
        };
        let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
        // On the heap: it is large.
        let sent = Box::pin(dialer.send_to(url, uri, request)).await;
        let answer = sent.map_err(|failure| {
            let kind = match (&failure.error, failure.again) {
                (_, Again::Never) => HttpErrorKind::Unknown,
                (Error::TimedOut { .. }, _) => HttpErrorKind::Timeout,
                // All requests are the same when they are repeated: names are digests.
                _ => HttpErrorKind::Connect,
            };
            HttpError::new(kind, failure.error)
        })?;
        Ok(respond(answer, is_object))
    }
}

/// Whether the body of a good answer is an object.
fn is_object(method: &Method, url: &Url) -> bool {
    *method == Method::GET && url.query_pairs().all(|(key, _)| key != "list-type")
}

/// Whether a request completes an upload of several parts (S3's `CompleteMultipartUpload`).
fn is_completion(method: &Method, url: &Url) -> bool {
    *method == Method::POST && url.query_pairs().any(|(key, _)| key == "uploadId")
}

fn respond(answer: Answer, is_object: bool) -> HttpResponse {
    let status = answer.status();
    let headers = answer.response.headers().clone();
    let is_streamed = is_object && matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    let body = answer.into_body();
    let body = if is_streamed {
        HttpResponseBody::new(body.map_err(interrupted))
    } else {
        let limited = Limited::new(body, MAX_DOCUMENT_BYTES);
        HttpResponseBody::new(
            limited.map_err(|error| HttpError::new_boxed(HttpErrorKind::Interrupted, error)),
        )
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn interrupted(error: Error) -> HttpError {
    HttpError::new(HttpErrorKind::Interrupted, error)
}

/// Whether an address is of this machine, or of the link that it is on: EC2's metadata, ECS's tasks,
/// the agent of EKS.
fn is_of_machine(url: &Url) -> bool {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
        _ => return false,
    };
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local() || address.is_loopback(),
        // fd00:ec2::/32 is Amazon's.
        IpAddr::V6(address) => {
            address.is_loopback() || address.segments().starts_with(&[0xfd00, 0x0ec2])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_machine_are_reached_without_an_egress_proxy() {
        for (address, wanted) in [
            ("http://169.254.169.254/latest", true),
            ("http://169.254.170.23/v1/credentials", true),
            ("http://[fd00:ec2::254]/latest", true),
            ("http://127.0.0.1:9000/bucket", true),
            ("https://s3.us-east-1.amazonaws.com/", false),
            ("http://10.0.0.1:9000/", false),
            ("http://[fd00::1]/", false),
        ] {
            assert_eq!(
                is_of_machine(&address.parse().unwrap()),
                wanted,
                "{address}"
            );
        }
    }

    #[test]
    fn completions_of_uploads_have_their_own_time() {
        let is = |method, address: &str| is_completion(&method, &address.parse().unwrap());
        assert!(is(Method::POST, "https://b.io/key?uploadId=1"));
        assert!(!is(Method::POST, "https://b.io/key?uploads="));
        assert!(!is(Method::PUT, "https://b.io/key?partNumber=1&uploadId=1"));
        assert!(!is(Method::DELETE, "https://b.io/key?uploadId=1"));
    }

    #[test]
    fn listings_are_documents_and_not_objects() {
        let is = |method, address: &str| is_object(&method, &address.parse().unwrap());
        assert!(is(Method::GET, "https://b.io/key"));
        assert!(!is(Method::GET, "https://b.io/?list-type=2&prefix=x"));
        assert!(!is(Method::POST, "https://b.io/key?uploadId=1"));
    }
}

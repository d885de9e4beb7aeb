//! What tests against misbehaving servers share.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use overlaybd_proxy::registry::{Authorization, Error, RegistryConfig, Upstream};
use std::time::Duration;

use super::scripted::{Answer, Served};
use super::{quick, quick_as};

pub const OWN: Authorization = Authorization::Own;

pub fn upstream(served: &Served, config: &RegistryConfig) -> Upstream {
    Upstream::registry(&served.host(), config).unwrap()
}

pub fn impatient() -> RegistryConfig {
    let mut config = quick();
    config.timeouts.connect = Duration::from_secs(2);
    config.timeouts.response = Duration::from_millis(300);
    config.timeouts.stall = Duration::from_millis(300);
    config
}

pub fn with_password() -> RegistryConfig {
    quick_as("me", "s3cret")
}

fn status(code: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

pub fn with(code: u16, headers: &[(&str, &str)], bytes: impl Into<Bytes>) -> Answer {
    let mut response = status(code).map(|_| Full::new(bytes.into()));
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        response.headers_mut().append(name, value.parse().unwrap());
    }
    Answer::Http(response)
}

pub async fn blob(upstream: &Upstream, content: &Bytes) -> Result<Vec<u8>, Error> {
    super::blob(upstream, "a", content).await
}

//! Commands that ask a running proxy, on its address for operators.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

pub mod images;
pub mod jobs;
pub mod status;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::context::Context;
use super::exit::ExitStatus;
use crate::config::Text;
use crate::registry::error_body;
use crate::secret_file::first_line;

/// Most bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// How long the proxy may take.
const TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct AdminOptions {
    /// The address for operators of the proxy that is asked: ADDRESS:PORT, as that of `serve`
    /// [default: what the configuration file says]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) admin: Option<Text>,
    /// File with the token that changes need, that of `serve`
    #[arg(long, value_name = "FILE")]
    pub(super) admin_token_file: Option<Text>,
}

/// Why a proxy that was asked gave nothing. Each names the address that was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    /// It answered with an error.
    #[error("{place}: {status}: {detail}{hint}")]
    Refused {
        place: String,
        status: StatusCode,
        detail: String,
        hint: &'static str,
    },
    /// It gave no answer in time.
    #[error("{0}: no answer within {TIMEOUT:?}")]
    Silent(String),
    /// It cannot be reached, or its answer not be read.
    #[error("{place}")]
    Unusable {
        place: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl AdminError {
    /// How a command ends that asked.
    pub(super) fn status(&self) -> ExitStatus {
        match self {
            Self::Refused { status, .. }
                if matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) =>
            {
                ExitStatus::Usage
            }
            Self::Refused { .. } | Self::Silent(_) | Self::Unusable { .. } => ExitStatus::Registry,
        }
    }
}

/// Asks a proxy.
pub(super) struct AdminClient {
    address: String,
    token: Option<String>,
}

/// Where a client finds what listens on `text`: every address of a machine is this one here.
fn address(text: &str) -> Result<String, String> {
    if text.starts_with("https://") {
        return Err(format!(
            "{text:?}: what is for operators is spoken without TLS: HOST:PORT is expected"
        ));
    }
    let text = text.strip_prefix("http://").unwrap_or(text);
    let text = text.trim_end_matches('/');
    let split = text.rsplit_once(':');
    let Some((host, port)) = split.filter(|(_, port)| port.parse::<u16>().is_ok_and(|of| of > 0))
    else {
        return Err(format!("{text:?} is no address: HOST:PORT is expected"));
    };
    let host = match host {
        "" | "0.0.0.0" | "[::]" => "localhost",
        host => host,
    };
    Ok(format!("{host}:{port}"))
}

impl AdminClient {
    /// The proxy that these options, or the configuration file, name.
    ///
    /// # Errors
    /// When they name none, or the token cannot be read.
    pub(super) fn new(options: &AdminOptions, context: &Context) -> anyhow::Result<Self> {
        let (mut sources, mut errors) = context.service();
        let options = sources.effective(options, &mut errors);
        let given = options.admin.as_ref().map_or("", Text::as_str);
        let found = if given.is_empty() {
            Err("the address of a proxy is needed, that of its --admin: 127.0.0.1:8481".to_owned())
        } else {
            address(given)
        };
        let address = found.map_err(|wrong| errors.add("admin", wrong)).ok();
        let file = options.admin_token_file.as_ref().map(Text::as_str);
        let token = file
            .filter(|file| !file.is_empty())
            .map(|file| first_line(Path::new(file)));
        let token = token.transpose();
        let token = token
            .map_err(|wrong| errors.add("admin-token-file", wrong))
            .ok();
        let (address, token) = errors.none_or(address.zip(token))?;
        Ok(Self { address, token })
    }

    /// Asks for a path below `/api/v1`.
    ///
    /// # Errors
    /// When the proxy does not answer, or its answer is an error.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    /// Has something changed.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn change(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        self.ask(method, path, body).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let asked = timeout(TIMEOUT, self.exchange(method, path, body)).await;
        let place = format!("http://{}/api/v1{path}", self.address);
        let (status, bytes) = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let cause = error.into();
                return Err(AdminError::Unusable { place, cause }.into());
            }
            Err(_) => return Err(AdminError::Silent(place).into()),
        };
        if !status.is_success() {
            let hint = match status {
                StatusCode::UNAUTHORIZED if self.token.is_none() => {
                    " (--admin-token-file names the file with the token)"
                }
                _ => "",
            };
            let detail = error_body::detail_of(&bytes);
            return Err(AdminError::Refused {
                place,
                status,
                detail,
                hint,
            }
            .into());
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            let cause = error.into();
            AdminError::Unusable { place, cause }.into()
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(&self.address).await;
        let stream = stream.context("is the proxy there, and is this its --admin?")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(HOST, &self.address)
            .header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(ToString::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let read = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
        let read = read.await.map_err(|error| anyhow::anyhow!("{error}"))?;
        connection.abort();
        Ok((status, read.to_bytes()))
    }
}

/// A text of a JSON object, or nothing.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A number of a JSON object, or 0.
pub(super) fn number(value: &Value, group: &str, key: &str) -> u64 {
    value[group][key].as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_listeners_are_those_of_clients() {
        for (text, expected) in [
            ("127.0.0.1:8481", "127.0.0.1:8481"),
            (":8481", "localhost:8481"),
            ("[::]:8481", "localhost:8481"),
            ("0.0.0.0:8481", "localhost:8481"),
            ("http://proxy.example:8481/", "proxy.example:8481"),
        ] {
            assert_eq!(address(text).as_deref(), Ok(expected));
        }
        for wrong in ["", "proxy.example", "a:0", "a:99999", "https://a:1/b"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}

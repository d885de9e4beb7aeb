//! Docker's credential helpers: `docker-credential-NAME get`, with the server on its input.
//! Source: docker/docker-credential-helpers, `credentials/credentials.go` and `client/command.go`.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::login::Login;
use super::secret_end::jwt_end;
use crate::registry::Secret;

/// Longest output of a helper, in bytes. Tokens of clouds take some thousand.
const MAX_OUTPUT: u64 = 64 << 10;
/// The user of an identity token (docker/cli, `credentials/native_store.go`).
const TOKEN_USER: &str = "<token>";
/// Azure's user of a refresh token (Azure Container Registry, `AAD-OAuth.md`).
const AZURE_USER: &str = "00000000-0000-0000-0000-000000000000";
/// What helpers say on their output, with an exit status of 1, when they have nothing.
const NOT_FOUND: &str = "credentials not found";

/// The name of a helper's program.
pub(super) fn name(program: &str) -> String {
    format!("docker-credential-{program}")
}

/// Asks a helper for the credentials of a server. It is killed, with what it started, when it
/// takes too long, prints too much, or is not waited for. Errors repeat nothing of its output,
/// which may hold secrets.
pub(super) async fn get(program: &str, server: &str, limit: Duration) -> Result<Login, String> {
    let name = name(program);
    if program.contains('/') {
        return Err(format!("{name:?} is a path: a helper's name is expected"));
    }
    match tokio::time::timeout(limit, run(&name, server)).await {
        Ok(ended) => ended,
        Err(_) => Err(late(&name, limit)),
    }
}

/// The error of a helper that takes longer than `limit`.
pub(super) fn late(name: &str, limit: Duration) -> String {
    format!(
        "the credential helper {name} gives no answer within {limit:?}: run `{name} get` to see why"
    )
}

async fn run(name: &str, server: &str) -> Result<Login, String> {
    let unable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{name} is not there: is it in PATH?"),
        _ => format!("{name} cannot be run: {error}"),
    };
    let child = Command::new(name)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // So that whatever a script started ends with it.
        .process_group(0)
        .spawn()
        .map_err(unable)?;
    let mut group = Group(child);
    if let Some(mut input) = group.0.stdin.take() {
        // One that needs no server may have closed it.
        let _ = input.write_all(server.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stream) = group.0.stdout.take() {
        let read = stream.take(MAX_OUTPUT + 1).read_to_end(&mut output).await;
        read.map_err(unable)?;
    }
    if output.len() as u64 > MAX_OUTPUT {
        return Err(format!(
            "{name} prints more than {} KiB, which are no credentials: run `{name} get` to see what",
            MAX_OUTPUT >> 10
        ));
    }
    let status = group.0.wait().await.map_err(unable)?;
    if !status.success() {
        let says = String::from_utf8_lossy(&output);
        if says.contains(NOT_FOUND) {
            return Ok(Login::Anonymous);
        }
        return Err(format!(
            "{name} fails ({status}): run `{name} get` to see why"
        ));
    }
    parse(&output)
        .map_err(|detail| format!("{name} {detail}: run `{name} get` to see what it prints"))
}

/// A running helper, which is the first of its process group.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // There is no number once it has been waited for: another may have it then.
        let number = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(number) = number {
            let _ = killpg(Pid::from_raw(number), Signal::SIGKILL);
        }
    }
}

fn parse(output: &[u8]) -> Result<Login, &'static str> {
    const ODD: &str = "does not print {\"Username\": …, \"Secret\": …}";
    // The parser's message could repeat a part of the secret.
    let document: serde_json::Map<String, Value> =
        serde_json::from_slice(output).map_err(|_| ODD)?;
    let text = |key| match document.get(key) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(ODD),
    };
    let (username, secret) = (text("Username")?, text("Secret")?);
    match (username, secret) {
        ("", "") => Ok(Login::Anonymous),
        (_, "") => Err("prints an empty Secret"),
        (TOKEN_USER, _) => Ok(Login::Identity(Secret::new(secret))),
        (AZURE_USER, token) if jwt_end(token).is_some() => Ok(Login::Identity(Secret::new(secret))),
        _ => Ok(Login::Basic {
            username: username.to_owned(),
            password: Secret::new(secret),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helpers_print_becomes_credentials() {
        let basic = |username: &str, password: &str| Login::Basic {
            username: username.to_owned(),
            password: Secret::new(password),
        };
        let identity = |token: &str| Login::Identity(Secret::new(token));
        // {"exp":2000000000}
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjIwMDAwMDAwMDB9.c2ln";
        for (output, wanted) in [
            (
                r#"{"ServerURL":"r.io","Username":"AWS","Secret":"ab"}"#.to_owned(),
                basic("AWS", "ab"),
            ),
            (
                "{\n  \"Secret\": \"ya29.x\",\n  \"Username\": \"_dcgcloud_token\"\n}\n".to_owned(),
                basic("_dcgcloud_token", "ya29.x"),
            ),
            (
                r#"{"Username":"<token>","Secret":"opaque"}"#.to_owned(),
                identity("opaque"),
            ),
            (
                format!(r#"{{"Username":"{AZURE_USER}","Secret":"{jwt}"}}"#),
                identity(jwt),
            ),
            (
                format!(r#"{{"Username":"{AZURE_USER}","Secret":"opaque"}}"#),
                basic(AZURE_USER, "opaque"),
            ),
            (
                r#"{"ServerURL":"","Username":"","Secret":""}"#.to_owned(),
                Login::Anonymous,
            ),
        ] {
            assert_eq!(parse(output.as_bytes()), Ok(wanted), "{output}");
        }
        for nonsense in [
            "",
            "s3cret",
            "[]",
            r#"{"Username":"s3cret"}"#,
            r#"{"Secret":1}"#,
        ] {
            let error = parse(nonsense.as_bytes()).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}

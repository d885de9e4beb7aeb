//! Credentials of roles: the bucket takes what these services hand out, and nothing else is known.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use serde_json::json;

use crate::blob_store::{PLATFORM, image, parts};
use crate::support::proxy::{Proxy, program};
use crate::support::registry::Registry;
use crate::support::s3::{Bucket, KEY_ID, SECRET, without_credentials};
use crate::support::sha256;
use crate::support::until::until;

const SESSION: &str = "session-of-the-role";
const LONG: &str = "2100-01-01T00:00:00Z";

/// A request's first line and headers.
fn read_head(stream: &TcpStream) -> Vec<String> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    lines
}

/// A service that answers as `answer` says to a request's first line; its address, and the heads of requests.
fn service(answer: impl Fn(&str) -> String + Send + 'static) -> (String, Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = read_head(&stream);
            let body = answer(&head[0]);
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).unwrap();
            if sender.send(head).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

fn keys() -> String {
    let keys = json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z",
        "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET, "Token": SESSION, "Expiration": LONG,
    });
    keys.to_string()
}

/// A replica with these variables puts what it converts into the bucket.
#[track_caller]
fn uploads_with(seed: u64, variables: &[(&str, &str)]) -> bool {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return false;
    };
    registry.push("app", "1", &image(seed, 1));
    let data = tempfile::tempdir().unwrap();
    let mut command = without_credentials(program());
    command.envs(variables.iter().copied());
    let options = bucket.options();
    let options: Vec<&str> = options.iter().map(String::as_str).chain(PLATFORM).collect();
    let proxy = Proxy::start_as(command, &registry.url(), data.path(), &options);
    let made = proxy.converted("app", "1");
    for digest in parts(&made) {
        let object = until("the blob is in the bucket", || bucket.bytes(&digest));
        assert_eq!(sha256(&object), digest);
    }
    let log = proxy.log();
    assert!(!log.contains(SECRET) && !log.contains(SESSION), "{log}");
    proxy.stop();
    true
}

fn file(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_role_of_a_service_account_is_assumed_by_its_token() {
    let scratch = tempfile::tempdir().unwrap();
    let (sts, asked) = service(|_| {
        format!(
            "<AssumeRoleWithWebIdentityResponse \
             xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleWithWebIdentityResult><Credentials>\
             <SessionToken>{SESSION}</SessionToken><SecretAccessKey>{SECRET}</SecretAccessKey>\
             <Expiration>{LONG}</Expiration><AccessKeyId>{KEY_ID}</AccessKeyId>\
             </Credentials></AssumeRoleWithWebIdentityResult>\
             </AssumeRoleWithWebIdentityResponse>"
        )
    });
    let token = file(scratch.path(), "token", "token-of-the-account");
    let variables = [
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/obd"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
        ("AWS_ENDPOINT_URL_STS", sts.as_str()),
    ];
    if uploads_with(41, &variables) {
        let asked = asked.recv().unwrap();
        for part in [
            "Action=AssumeRoleWithWebIdentity",
            "role%2Fobd",
            "WebIdentityToken=token-of-the-account",
        ] {
            assert!(asked[0].contains(part), "{part}: {asked:?}");
        }
    }
}

#[test]
fn a_pod_identity_is_asked_for_with_its_token() {
    let scratch = tempfile::tempdir().unwrap();
    let (agent, asked) = service(|_| keys());
    let address = format!("{agent}/v1/credentials");
    let token = file(scratch.path(), "token", "token-of-the-pod");
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", address.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.as_str()),
    ];
    if uploads_with(42, &variables) {
        let asked = asked.recv().unwrap();
        assert_eq!(asked[0], "GET /v1/credentials HTTP/1.1");
        let token = "authorization: token-of-the-pod";
        assert!(
            asked.iter().any(|line| line.eq_ignore_ascii_case(token)),
            "{asked:?}"
        );
    }
}

#[test]
fn the_role_of_a_machine_is_asked_for_at_its_metadata_service() {
    let keys = Arc::new(keys());
    let (metadata, asked) = service(move |line| {
        let path = line.split(' ').nth(1).unwrap_or_default();
        match path.trim_start_matches("/latest/") {
            "api/token" => "token-of-the-machine".to_owned(),
            "meta-data/iam/security-credentials/" => "obd".to_owned(),
            _ => keys.to_string(),
        }
    });
    if uploads_with(43, &[("AWS_METADATA_ENDPOINT", &metadata)]) {
        let paths: Vec<String> = (0..3).map(|_| asked.recv().unwrap()[0].clone()).collect();
        let expected = [
            "PUT /latest/api/token HTTP/1.1",
            "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1",
            "GET /latest/meta-data/iam/security-credentials/obd HTTP/1.1",
        ];
        assert_eq!(paths, expected);
    }
}

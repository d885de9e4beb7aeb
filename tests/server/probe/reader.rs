//! A reader of blobs that asks what overlaybd's registry client asks (version 2, `registryfs_v2`).

use std::collections::HashMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::probe::wire::{Reply, Wire};
use crate::support::http::ACCEPT;

pub const AGENT: &str = "overlaybd/1.0.16";
/// How often a read is tried again.
const RETRIES: usize = 3;
/// What a node's cache fetches at once.
const REFILL: u64 = 256 << 10;

/// One request of it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub url: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    pub status: u16,
}

/// Where a blob is read.
#[derive(Debug, Clone)]
enum Place {
    /// Where the registry redirected to.
    There(String),
    /// At its own address, with this.
    Here(Option<String>),
}

enum Challenge {
    None,
    Basic,
    Bearer { realm: String, scope: String },
}

pub struct Reader {
    pub wire: Wire,
    pub asked: Vec<Asked>,
    /// `USER:PASSWORD`.
    login: Option<String>,
    /// The address of an accelerator (`p2pConfig`), if there is one.
    pub accelerator: Option<String>,
    places: HashMap<String, Place>,
    tokens: HashMap<String, String>,
}

impl Reader {
    pub fn new() -> Self {
        Self::trusting(None)
    }

    pub fn trusting(authority: Option<PathBuf>) -> Self {
        Self {
            wire: Wire::new(authority),
            asked: Vec::new(),
            login: None,
            accelerator: None,
            places: HashMap::new(),
            tokens: HashMap::new(),
        }
    }

    pub fn of(login: &str) -> Self {
        Self {
            login: Some(login.to_owned()),
            ..Self::new()
        }
    }

    #[track_caller]
    fn get(
        &mut self,
        url: &str,
        range: Option<&str>,
        authorization: Option<&str>,
        is_body_wanted: bool,
    ) -> Reply {
        let mut headers = Vec::new();
        headers.extend(authorization.map(|value| ("Authorization", value)));
        headers.extend(range.map(|value| ("Range", value)));
        headers.push(("User-Agent", AGENT));
        let reply = self.wire.ask("GET", url, &headers, is_body_wanted);
        self.asked.push(Asked {
            url: url.to_owned(),
            range: range.map(ToOwned::to_owned),
            authorization: authorization.map(ToOwned::to_owned),
            status: reply.status,
        });
        reply
    }

    fn challenge(reply: &Reply) -> Challenge {
        if !matches!(reply.status, 401 | 403) {
            return Challenge::None;
        }
        let text = reply.header("www-authenticate").unwrap_or_default();
        if text.starts_with("Basic ") {
            return Challenge::Basic;
        }
        let text = text.strip_prefix("Bearer ").unwrap_or_default();
        let value = |name: &str| {
            let mut pairs = text.split("\",").filter_map(|pair| pair.split_once('='));
            let found = pairs.find(|(known, _)| *known == name);
            found.map(|(_, value)| value.trim_matches('"').to_owned())
        };
        let (realm, service, scope) = (value("realm"), value("service"), value("scope"));
        Challenge::Bearer {
            realm: format!(
                "{}?service={}&scope={}",
                realm.unwrap(),
                service.unwrap(),
                scope.clone().unwrap()
            ),
            scope: scope.unwrap(),
        }
    }

    fn basic(&self) -> Option<String> {
        let login = self.login.as_ref()?;
        Some(format!("Basic {}", BASE64_STANDARD.encode(login)))
    }

    /// What a challenge is answered with, if with anything, or the status of the token server.
    fn authorization(&mut self, challenge: &Challenge) -> Result<Option<String>, u16> {
        match challenge {
            Challenge::None => Ok(None),
            Challenge::Basic => Ok(self.basic()),
            Challenge::Bearer { realm, scope } => {
                if !self.tokens.contains_key(scope) {
                    let basic = self.basic();
                    let reply = self.get(realm, None, basic.as_deref(), true);
                    if reply.status != 200 {
                        return Err(reply.status);
                    }
                    let answer: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                    let token = answer["token"].as_str().unwrap().to_owned();
                    self.tokens.insert(scope.clone(), token);
                }
                Ok(Some(format!("Bearer {}", self.tokens[scope])))
            }
        }
    }

    /// Where a blob is read, which is found out with two requests.
    fn place(&mut self, url: &str) -> Result<Place, u16> {
        let probe = self.get(url, Some("bytes=0-0"), None, false);
        let challenge = Self::challenge(&probe);
        let authorization = self.authorization(&challenge)?;
        let reply = self.get(url, None, authorization.as_deref(), false);
        match reply.status {
            300..400 => Ok(Place::There(reply.header("location").unwrap().to_owned())),
            200 => Ok(Place::Here(authorization)),
            status => {
                if let Challenge::Bearer { scope, .. } = challenge {
                    self.tokens.remove(&scope);
                }
                Err(status)
            }
        }
    }

    /// A range of a blob, or the status of the last answer.
    pub fn read(&mut self, url: &str, offset: u64, length: u64) -> Result<Reply, u16> {
        let mut last = 0;
        for _ in 0..=RETRIES {
            let place = match self.places.get(url) {
                Some(place) => place.clone(),
                None => match self.place(url) {
                    Ok(place) => {
                        self.places.insert(url.to_owned(), place.clone());
                        place
                    }
                    Err(status) => {
                        last = status;
                        continue;
                    }
                },
            };
            let (address, authorization) = match place {
                Place::There(address) => (address, None),
                Place::Here(authorization) => (url.to_owned(), authorization),
            };
            let address = match &self.accelerator {
                Some(accelerator) => format!("{accelerator}/{address}"),
                None => address,
            };
            let range = format!("bytes={offset}-{}", offset + length - 1);
            let reply = self.get(&address, Some(&range), authorization.as_deref(), true);
            if matches!(reply.status, 200 | 206) {
                return Ok(reply);
            }
            last = reply.status;
            self.places.remove(url);
        }
        Err(last)
    }

    /// Opens a blob: its size, or the status of the last answer.
    pub fn open(&mut self, url: &str) -> Result<u64, u16> {
        let reply = self.read(url, 0, 1)?;
        let range = reply.header("content-range").unwrap();
        Ok(range.rsplit_once('/').unwrap().1.parse().unwrap())
    }

    /// All of a blob, as a node's cache fetches it.
    #[track_caller]
    pub fn read_all(&mut self, url: &str) -> Vec<u8> {
        let size = self.open(url).unwrap();
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size {
            let offset = bytes.len() as u64;
            let reply = self.read(url, offset, REFILL.min(size - offset)).unwrap();
            bytes.extend(&reply.body);
        }
        bytes
    }

    /// Where a blob is read that was opened, if the registry redirected there.
    #[track_caller]
    pub fn address(&self, url: &str) -> &str {
        match &self.places[url] {
            Place::There(address) => address,
            Place::Here(_) => panic!("{url} is read at its own address"),
        }
    }

    /// Has it remember another address.
    pub fn remember(&mut self, url: &str, address: &str) {
        let place = Place::There(address.to_owned());
        self.places.insert(url.to_owned(), place);
    }

    /// How its requests since then were answered, by what they asked for: `head` for the first
    /// byte, `whole`, `range`.
    pub fn answers(&self, since: usize) -> Vec<(&'static str, u16)> {
        let kind = |asked: &Asked| match asked.range.as_deref() {
            Some("bytes=0-0") if !asked.url.contains("overlaybd-signed") => "head",
            Some(_) => "range",
            None => "whole",
        };
        let asked = self.asked.iter().skip(since);
        let blobs = asked.filter(|asked| asked.url.contains("/blobs/"));
        blobs.map(|asked| (kind(asked), asked.status)).collect()
    }

    /// A manifest, as whoever pulls the image gets it.
    #[track_caller]
    pub fn manifest(&mut self, url: &str) -> serde_json::Value {
        let mut address = url.to_owned();
        let mut authorization = None;
        for _ in 0..12 {
            let mut headers = vec![("Accept", ACCEPT)];
            headers.extend(authorization.as_deref().map(|it| ("Authorization", it)));
            let reply = self.wire.ask("GET", &address, &headers, true);
            match reply.status {
                200 => return serde_json::from_slice(&reply.body).unwrap(),
                307 => {
                    let base: url::Url = address.parse().unwrap();
                    let location = reply.header("location").unwrap();
                    address = base.join(location).unwrap().to_string();
                }
                401 if authorization.is_none() => {
                    let challenge = Self::challenge(&reply);
                    authorization = self.authorization(&challenge).unwrap();
                }
                status => panic!("{url}: {status} {}", String::from_utf8_lossy(&reply.body)),
            }
        }
        panic!("{url}: no end of redirects");
    }
}

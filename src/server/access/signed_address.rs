//! Addresses of blobs that carry the permission to read them, for a time.
//!
//! overlaybd opens a blob with a GET without a range. Where the answer is a redirect, it reads
//! where that leads, without credentials, and opens the blob anew when an answer there is neither
//! 200 nor 206, or when it has read nothing for 300 s. So the redirect's address is the permission:
//! one blob of one repository of one upstream, until the time that it names.
//!
//! ```text
//! overlaybd-signed=1c.EXPIRES.SIGNATURE
//! 1                the version of this form
//! c | s            a converted blob, or one of a source
//! EXPIRES          seconds since 1970, in decimal digits
//! SIGNATURE        64 hexadecimal digits: the HMAC-SHA256 of the lines of `text`
//! ```
//!
//! The clock of the replica that made it decides when it ends; one whose clock is ahead ends it
//! earlier, which costs the reader a question.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::percent_decode_str;

use crate::oci::{Digest, RepoName};
use crate::server::access::url_keys::UrlKeys;
use crate::server::config::ServerConfig;

/// The query's key.
const KEY: &str = "overlaybd-signed";
const VERSION: &str = "1";
/// Most characters of an address's time.
const MAX_DIGITS: usize = 20;

/// What kind of blob an address is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Origin {
    /// A converted one.
    Converted,
    /// One of a source.
    Source,
}

impl Origin {
    fn mark(self) -> &'static str {
        match self {
            Self::Converted => "c",
            Self::Source => "s",
        }
    }
}

/// What may be read.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct Subject<'a> {
    /// The upstream's host.
    pub upstream: &'a str,
    /// The repository, as the upstream knows it.
    pub repo: &'a RepoName,
    pub digest: &'a Digest,
}

/// What an address allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) struct Grant {
    pub origin: Origin,
    /// For how long.
    pub left: Duration,
}

/// Why an address allows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Refused {
    /// Its time is over.
    Expired,
    /// It was not signed with a key that is known here, or not like this.
    Forged,
}

/// Makes and verifies such addresses.
pub(in crate::server) struct SignedAddresses {
    pub keys: UrlKeys,
    /// How long an address is good; zero for none.
    lifetime: Duration,
}

impl SignedAddresses {
    /// # Errors
    /// A text that says what is wrong with the file of keys.
    pub fn open(config: &ServerConfig) -> Result<Self, String> {
        Ok(Self {
            keys: UrlKeys::open(config.url_key_file.as_deref())?,
            lifetime: config.url_ttl,
        })
    }

    /// Whether there are any.
    pub fn are_made(&self) -> bool {
        !self.lifetime.is_zero()
    }

    /// Whether other replicas honour what is signed here: a balancer may then send a reader to one
    /// that does not have the blob.
    pub fn are_shared(&self) -> bool {
        self.keys.is_of_file()
    }

    /// The pair of a query that allows to read this; `None` where there are none.
    pub fn sign(&self, subject: Subject<'_>, origin: Origin) -> Option<String> {
        if !self.are_made() {
            return None;
        }
        // The second that has begun counts: an address is not good for less than it should be.
        let expires = since_1970().saturating_add(self.lifetime).as_secs() + 1;
        let signature = self.keys.sign(&text(subject, origin, expires))?;
        let mut pair = format!("{KEY}={VERSION}{}.{expires}.", origin.mark());
        for byte in signature.as_ref() {
            for digit in [byte >> 4, byte & 0xf] {
                pair.extend(char::from_digit(u32::from(digit), 16));
            }
        }
        Some(pair)
    }

    /// What a pair's value allows.
    ///
    /// # Errors
    /// Why it allows nothing.
    pub fn verify(&self, subject: Subject<'_>, value: &str) -> Result<Grant, Refused> {
        let (origin, expires, signature) = parse(value).ok_or(Refused::Forged)?;
        if !self.are_made()
            || !self
                .keys
                .is_signed(&text(subject, origin, expires), &signature)
        {
            return Err(Refused::Forged);
        }
        let left = Duration::from_secs(expires).saturating_sub(since_1970());
        if left.is_zero() {
            return Err(Refused::Expired);
        }
        Ok(Grant { origin, left })
    }
}

/// What is signed. The upstream's host is last: it alone could have the end of a line in it.
fn text(subject: Subject<'_>, origin: Origin, expires: u64) -> Vec<u8> {
    let Subject {
        upstream,
        repo,
        digest,
    } = subject;
    let mark = origin.mark();
    format!("overlaybd-signed {VERSION}\n{mark}\n{expires}\n{repo}\n{digest}\n{upstream}").into()
}

fn parse(value: &str) -> Option<(Origin, u64, [u8; 32])> {
    let (kind, rest) = value.split_once('.')?;
    let (expires, signature) = rest.split_once('.')?;
    let origins = [Origin::Converted, Origin::Source];
    let mark = kind.strip_prefix(VERSION)?;
    let origin = origins.into_iter().find(|origin| origin.mark() == mark)?;
    let is_number = expires.len() <= MAX_DIGITS && expires.bytes().all(|b| b.is_ascii_digit());
    let expires = is_number.then(|| expires.parse().ok())??;
    let digits = signature.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != bytes.len() * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let digit = char::from(*digit).to_digit(16)?;
            *byte = *byte << 4 | u8::try_from(digit).ok()?;
        }
    }
    Some((origin, expires, bytes))
}

fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn is_pair(pair: &str) -> bool {
    let key = pair.split_once('=').map_or(pair, |(key, _)| key);
    percent_decode_str(key).eq(KEY.bytes())
}

/// Whether a query has such a pair.
pub(in crate::server) fn is_in(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(is_pair))
}

/// Takes the pair's value out of a query; one that allows nothing where there are several pairs.
pub(in crate::server) fn take(query: &mut Option<String>) -> Option<String> {
    if !is_in(query.as_deref()) {
        return None;
    }
    let text = query.take().unwrap_or_default();
    let (ours, others): (Vec<&str>, Vec<&str>) = text.split('&').partition(|pair| is_pair(pair));
    *query = (!others.is_empty()).then(|| others.join("&"));
    let [pair] = ours[..] else {
        return Some(String::new());
    };
    let value = pair.split_once('=').map_or("", |(_, value)| value);
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(lifetime: Duration) -> SignedAddresses {
        SignedAddresses {
            keys: UrlKeys::open(None).unwrap(),
            lifetime,
        }
    }

    fn value(pair: &str) -> &str {
        pair.strip_prefix("overlaybd-signed=").unwrap()
    }

    #[test]
    fn an_address_is_for_what_it_was_made_for_and_nothing_else() {
        let addresses = addresses(Duration::from_mins(10));
        let (repo, other): (RepoName, RepoName) = ("a/b".parse().unwrap(), "a".parse().unwrap());
        let (digest, another) = (Digest::of(b"x"), Digest::of(b"y"));
        let subject = Subject {
            upstream: "r.io",
            repo: &repo,
            digest: &digest,
        };
        let pair = addresses.sign(subject, Origin::Converted).unwrap();
        let value = value(&pair);
        let grant = addresses.verify(subject, value).unwrap();
        assert_eq!(grant.origin, Origin::Converted);
        assert!(grant.left > Duration::from_secs(599) && grant.left <= Duration::from_secs(601));
        for wrong in [
            Subject {
                upstream: "r.io\n",
                ..subject
            },
            Subject {
                repo: &other,
                ..subject
            },
            Subject {
                digest: &another,
                ..subject
            },
        ] {
            let refused = addresses.verify(wrong, value);
            assert_eq!(refused, Err(Refused::Forged), "{wrong:?}");
        }
        let (head, signature) = value.rsplit_once('.').unwrap();
        let (_, expires) = head.split_once('.').unwrap();
        for wrong in [
            String::new(),
            head.to_owned(),
            format!("{head}."),
            format!("{head}.{}", &signature[1..]),
            format!("{head}.{signature}0"),
            format!("{head}.{}", "0".repeat(64)),
            format!("{head}.{}", "ä".repeat(32)),
            format!("1s.{expires}.{signature}"),
            format!("2c.{expires}.{signature}"),
            format!("1c.9{expires}.{signature}"),
            format!("1c.+{expires}.{signature}"),
            format!("1c.{}.{signature}", "9".repeat(21)),
        ] {
            let refused = addresses.verify(subject, &wrong);
            assert_eq!(refused, Err(Refused::Forged), "{wrong}");
        }
        let off = SignedAddresses {
            lifetime: Duration::ZERO,
            ..addresses
        };
        assert_eq!(off.sign(subject, Origin::Source), None);
        assert_eq!(off.verify(subject, value), Err(Refused::Forged));
    }

    #[test]
    fn an_address_ends() {
        let addresses = addresses(Duration::from_millis(1));
        let (repo, digest) = ("a".parse().unwrap(), Digest::of(b"x"));
        let subject = Subject {
            upstream: "r.io",
            repo: &repo,
            digest: &digest,
        };
        let pair = addresses.sign(subject, Origin::Source).unwrap();
        let begun = std::time::Instant::now();
        let refused = loop {
            match addresses.verify(subject, value(&pair)) {
                Ok(_) => std::thread::sleep(Duration::from_millis(20)),
                Err(refused) => break refused,
            }
            assert!(begun.elapsed() < Duration::from_secs(5));
        };
        assert_eq!(refused, Refused::Expired);
    }

    #[test]
    fn the_pair_is_taken_out_of_a_query() {
        for (query, left, wanted) in [
            ("a=1&b", Some("a=1&b"), None),
            ("overlaybd-signed=x", None, Some("x")),
            ("a=1&overlaybd%2Dsigned=x%2Ey&b", Some("a=1&b"), Some("x.y")),
            ("overlaybd-signed", None, Some("")),
            ("overlaybd-signed=x&overlaybd-signed=x", None, Some("")),
        ] {
            let mut rest = Some(query.to_owned());
            assert_eq!(take(&mut rest).as_deref(), wanted, "{query}");
            assert_eq!(rest.as_deref(), left, "{query}");
        }
        assert_eq!(take(&mut None), None);
    }
}

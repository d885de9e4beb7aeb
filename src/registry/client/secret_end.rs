//! When credentials of clouds end, as far as they say it themselves.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use super::login::Login;

/// The user of Amazon's ECR.
const ECR_USER: &str = "AWS";

/// When these credentials end, if that is written in them.
pub(super) fn end(login: &Login) -> Option<SystemTime> {
    match login {
        Login::Anonymous => None,
        Login::Identity(token) => jwt_end(token.expose()),
        Login::Basic { username, password } if username == ECR_USER => {
            // Base64 of {"payload":…,"datakey":…,"version":…,"type":…,"expiration":SECONDS}.
            seconds(&decode(&STANDARD, password.expose())?, "expiration")
        }
        Login::Basic { password, .. } => jwt_end(password.expose()),
    }
}

/// The `exp` of a JSON web token (RFC 7519 § 4.1.4). Its signature is for the registry to verify.
pub(super) fn jwt_end(token: &str) -> Option<SystemTime> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    seconds(&decode(&URL_SAFE, claims)?, "exp")
}

fn decode(alphabet: &Alphabet, text: &str) -> Option<Value> {
    let any_padding =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(alphabet, any_padding)
        .decode(text)
        .ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// A time in seconds since 1970.
fn seconds(document: &Value, key: &str) -> Option<SystemTime> {
    let seconds = document.get(key)?.as_f64()?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Secret;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    fn basic(username: &str, password: String) -> Login {
        Login::Basic {
            username: username.to_owned(),
            password: Secret::new(password),
        }
    }

    #[test]
    fn amazons_password_and_a_web_token_say_when_they_end() {
        let ecr = BASE64_STANDARD.encode(
            r#"{"payload":"x+/=","datakey":"y","version":"2","type":"DATA_KEY","expiration":2000000000}"#,
        );
        let jwt = |claims: &str| format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let azure = jwt(r#"{"grant_type":"refresh_token","exp":2000000000}"#);
        let wanted = Some(UNIX_EPOCH + Duration::from_secs(2_000_000_000));
        for login in [
            basic("AWS", ecr.clone()),
            basic("00000000-0000-0000-0000-000000000000", azure.clone()),
            Login::Identity(Secret::new(azure)),
        ] {
            assert_eq!(end(&login), wanted, "{login:?}");
        }
        for silent in [
            Login::Anonymous,
            basic("me", ecr),
            basic("AWS", "plain".to_owned()),
            basic("oauth2accesstoken", "ya29.a0.b".to_owned()),
            Login::Identity(Secret::new("opaque")),
            Login::Identity(Secret::new(jwt("{}"))),
            Login::Identity(Secret::new(jwt(r#"{"exp":-1}"#))),
            Login::Identity(Secret::new(jwt(r#"{"exp":1e300}"#))),
        ] {
            assert_eq!(end(&silent), None, "{silent:?}");
        }
    }
}

//! Credentials from a file, as AWS's tools write it (AWS SDKs and Tools Reference Guide, "Shared
//! config and credentials files"):
//!
//! ```text
//! [default]
//! aws_access_key_id = …
//! aws_secret_access_key = …
//! aws_session_token = …
//! ```
//!
//! It is read for each request: who rotates the credentials replaces the file, and that is all.

use std::future::Future;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use super::error::ObjectError;

const MAX_FILE_BYTES: u64 = 64 << 10;

/// A file with credentials.
#[derive(Debug)]
pub(super) struct CredentialsFile(PathBuf);

impl CredentialsFile {
    /// # Errors
    /// When there are none in it now.
    pub(super) fn new(path: &Path) -> Result<Self, ObjectError> {
        let file = Self(path.to_owned());
        file.read()?;
        Ok(file)
    }

    fn read(&self) -> Result<AwsCredential, ObjectError> {
        let wrong = |problem: String| ObjectError::Credentials {
            path: self.0.clone(),
            problem,
        };
        let mut text = String::new();
        let opened = std::fs::File::open(&self.0);
        opened
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text))
            .map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let profile = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
        parse(&text, &profile).map_err(wrong)
    }
}

impl CredentialProvider for CredentialsFile {
    type Credential = AwsCredential;

    fn get_credential<'life, 'future>(
        &'life self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        let path = self.0.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || Self(path).read()).await?;
            let credential = read.map_err(|error| object_store::Error::Generic {
                store: "S3",
                source: Box::new(error),
            })?;
            Ok(Arc::new(credential))
        })
    }
}

/// Errors repeat nothing of the text, which has a secret in it.
fn parse(text: &str, profile: &str) -> Result<AwsCredential, String> {
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    let mut is_ours = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            is_ours = name.trim() == profile;
        } else if is_ours && let Some((name, value)) = line.split_once('=') {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match name.trim() {
                "aws_access_key_id" => key_id = value,
                "aws_secret_access_key" => secret_key = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    match (key_id, secret_key) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential {
            key_id,
            secret_key,
            token,
        }),
        _ => Err(format!(
            "has no aws_access_key_id and aws_secret_access_key below [{profile}]"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read() {
        let text = "# mine\n[other]\naws_access_key_id=x\naws_secret_access_key=x\n\
                    [default]\naws_access_key_id = AKIA\n aws_secret_access_key= s3/c=ret\n\
                    region = eu-1\n";
        let found = parse(text, "default").unwrap();
        assert_eq!((&*found.key_id, &*found.secret_key), ("AKIA", "s3/c=ret"));
        assert_eq!(found.token, None);
        assert_eq!(parse(text, "other").unwrap().key_id, "x");
        let error = parse("aws_secret_access_key=hunter2", "default")
            .err()
            .unwrap();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

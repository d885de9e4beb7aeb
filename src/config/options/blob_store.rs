//! The object storage that replicas share.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{RegistryOptions, existing_file, optional, switch};
use crate::config::{ConfigErrors, Text, boolean};
use crate::registry::{RegistryConfig, StorageConnector};
use crate::store::{BucketAddress, ObjectsConfig};

/// The longest that the storage may take to begin an answer.
const RESPONSE: Duration = Duration::from_secs(30);
/// Where credentials come from besides the environment: the metadata of machines (EC2), tasks (ECS)
/// and pods (EKS). They are addresses of the machine's own link.
const METADATA_HOSTS: [&str; 5] = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "[fd00:ec2::254]",
    "[fd00:ec2::23]",
];

/// The object storage that replicas share.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Blob store")]
pub struct BlobStoreOptions {
    /// Bucket that has all converted blobs, so that replicas need no shared disk: s3://BUCKET or
    /// s3://BUCKET/PREFIX. --data-dir is a cache of it then. Credentials come from AWS_* variables,
    /// from the machine's or the pod's role, or from --blob-store-credentials-file
    #[arg(long, value_name = "URL")]
    pub blob_store: Option<Text>,
    /// Address of a storage service that is not Amazon's, such as https://minio.example.com:9000;
    /// http:// has everything sent in the clear [default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
    /// else Amazon's of the region]
    #[arg(long, value_name = "URL")]
    pub blob_store_endpoint: Option<Text>,
    /// Region of the bucket [default: AWS_REGION, AWS_DEFAULT_REGION, else us-east-1]
    #[arg(long, value_name = "REGION")]
    pub blob_store_region: Option<Text>,
    /// Address the bucket by a host name, https://BUCKET.HOST/, and not by a path,
    /// https://HOST/BUCKET/ [default: true for Amazon's, false with --blob-store-endpoint]
    #[arg(long, value_name = "BOOL")]
    pub blob_store_virtual_host: Option<Text>,
    /// Credentials as AWS's tools write them, with aws_access_key_id and aws_secret_access_key below
    /// [default], or below the name that AWS_PROFILE has; read again when the file changes
    #[arg(long, value_name = "FILE")]
    pub blob_store_credentials_file: Option<Text>,
    /// Send clients that read a converted blob to a presigned address of the bucket, which is good
    /// for --url-ttl, instead of sending the bytes. They must be able to reach --blob-store-endpoint
    #[arg(long, value_name = "BOOL")]
    pub blob_store_redirect: Option<Text>,
}

impl BlobStoreOptions {
    /// The storage, if there is one; it is reached with the certificates, the egress proxy and the
    /// time limits of registries.
    pub fn config(
        &self,
        registry: &RegistryOptions,
        errors: &mut ConfigErrors,
    ) -> Option<ObjectsConfig> {
        let virtual_host = optional(
            errors,
            "blob-store-virtual-host",
            self.blob_store_virtual_host.as_ref(),
            boolean,
        );
        let written = self.blob_store_endpoint.as_ref();
        let endpoint = optional(errors, "blob-store-endpoint", written, endpoint);
        let file = self.blob_store_credentials_file.as_ref();
        let credentials = optional(errors, "blob-store-credentials-file", file, existing_file);
        let region = optional(
            errors,
            "blob-store-region",
            self.blob_store_region.as_ref(),
            region,
        );
        let Some(text) = &self.blob_store else {
            let others = [
                ("blob-store-endpoint", written),
                ("blob-store-region", self.blob_store_region.as_ref()),
                ("blob-store-credentials-file", file),
                (
                    "blob-store-virtual-host",
                    self.blob_store_virtual_host.as_ref(),
                ),
            ];
            for (name, _) in others.iter().filter(|(_, value)| value.is_some()) {
                errors.add(name, "there is no --blob-store that it is for");
            }
            if switch(
                errors,
                "blob-store-redirect",
                self.blob_store_redirect.as_ref(),
            ) {
                let what = "there is no --blob-store that clients could be sent to";
                errors.add("blob-store-redirect", what);
            }
            return None;
        };
        let read = |text: &str| text.parse::<BucketAddress>();
        let address = optional(errors, "blob-store", Some(text), read)?;
        if written.is_some() && endpoint.is_none() {
            return None;
        }
        let endpoint = match endpoint {
            Some(endpoint) => Some(endpoint),
            None => of_environment(errors)?,
        };
        // Mistakes in it are told where it is for registries.
        let registry = registry.without_credentials();
        let registry = registry.config(&mut ConfigErrors::default())?;
        let connector = match connector(endpoint.as_ref(), &registry) {
            Ok(connector) => connector,
            Err(error) => {
                errors.add("blob-store", error);
                return None;
            }
        };
        Some(ObjectsConfig {
            is_virtual_hosted: virtual_host
                .unwrap_or(endpoint.is_none() && !address.bucket().contains('.')),
            address,
            endpoint,
            region,
            credentials,
            connector: Arc::new(connector),
        })
    }

    /// Whether clients are sent to the bucket.
    pub fn is_redirecting(&self, errors: &mut ConfigErrors) -> bool {
        self.blob_store.is_some()
            && switch(
                errors,
                "blob-store-redirect",
                self.blob_store_redirect.as_ref(),
            )
    }
}

/// An endpoint that the environment names, if there is one. `None` for a mistake.
#[allow(clippy::option_option)]
fn of_environment(errors: &mut ConfigErrors) -> Option<Option<Url>> {
    for name in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
        if let Ok(text) = std::env::var(name)
            && !text.is_empty()
        {
            return match endpoint(&text) {
                Ok(endpoint) => Some(Some(endpoint)),
                Err(error) => {
                    errors.add_line(format!("{name}: {error}"));
                    None
                }
            };
        }
    }
    Some(None)
}

fn endpoint(text: &str) -> Result<Url, String> {
    let wrong = || "https://HOST or https://HOST:PORT is expected".to_owned();
    let url: Url = text.parse().map_err(|_| wrong())?;
    let is_bare =
        matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    let has_login = !url.username().is_empty() || url.password().is_some();
    if !matches!(url.scheme(), "https" | "http") || !url.has_host() || !is_bare || has_login {
        return Err(wrong());
    }
    Ok(url)
}

fn region(text: &str) -> Result<String, String> {
    let is_region = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    if is_region {
        Ok(text.to_owned())
    } else {
        Err("a region such as eu-central-1 is expected".to_owned())
    }
}

fn connector(
    endpoint: Option<&Url>,
    registry: &RegistryConfig,
) -> Result<StorageConnector, crate::registry::Error> {
    let mut others: Vec<String> = METADATA_HOSTS.map(str::to_owned).into();
    // Endpoints inside of private networks have Amazon's names.
    others.extend(["*.amazonaws.com", "*.amazonaws.com.cn"].map(str::to_owned));
    for name in [
        "AWS_ENDPOINT_URL_STS",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_METADATA_ENDPOINT",
    ] {
        let url = std::env::var(name)
            .ok()
            .and_then(|text| Url::parse(&text).ok());
        others.extend(url.as_ref().and_then(Url::host_str).map(str::to_owned));
    }
    let amazon = Url::parse("https://s3.amazonaws.com/");
    let endpoint = match (endpoint, amazon) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Ok(amazon)) => amazon,
        (None, Err(error)) => {
            return Err(crate::registry::Error::Configuration(error.to_string()));
        }
    };
    let mut config = registry.clone();
    config.timeouts.response = config.timeouts.response.min(RESPONSE);
    StorageConnector::new(&endpoint, &others, &config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port() {
        for good in [
            "https://s3.example.com",
            "http://127.0.0.1:9000/",
            "https://[::1]:1",
        ] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "minio:9000",
            "ftp://a",
            "https://a/b",
            "https://me:secret@a",
            "https://a?b",
        ] {
            let error = endpoint(bad).unwrap_err();
            assert!(!error.contains("secret"), "{bad}");
        }
    }
}

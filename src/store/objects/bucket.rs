//! One bucket: where its objects are, and the requests about one of them.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::client::{HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, ObjectMeta, ObjectStore as _, PutMode, RetryConfig,
};

use super::credentials::CredentialsFile;
use super::error::ObjectError;
use super::known::ObjectVersion;
use super::settings::ObjectsConfig;
use crate::oci::Digest;

/// The object that marks a prefix as this program's, and what is in it.
const MARK: &str = "overlaybd-proxy";
const MARK_TEXT: &str = "Blobs of overlaybd-proxy, by their digests. Layout 1.\n";
/// How often one request is repeated, and for how long in all.
const MAX_RETRIES: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

/// One bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    s3: AmazonS3,
    name: String,
    prefix: Path,
    place: String,
}

/// Connections that others share.
#[derive(Debug)]
struct Shared(Arc<dyn HttpConnector>);

impl HttpConnector for Shared {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        self.0.connect(options)
    }
}

impl Bucket {
    pub(super) fn open(config: &ObjectsConfig) -> Result<Self, ObjectError> {
        let address = &config.address;
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(address.bucket())
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_unsigned_payload(false)
            .with_skip_signature(false)
            .with_s3_express(false)
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(200),
                    max_backoff: Duration::from_secs(5),
                    base: 2.0,
                },
                max_retries: MAX_RETRIES,
                retry_timeout: RETRY_TIMEOUT,
            })
            .with_http_connector(Shared(Arc::clone(&config.connector)));
        if let Some(region) = &config.region {
            builder = builder.with_region(region);
        }
        builder = builder.with_virtual_hosted_style_request(config.is_virtual_hosted);
        if let Some(endpoint) = &config.endpoint {
            let mut endpoint = endpoint.clone();
            if config.is_virtual_hosted {
                let host = endpoint.host_str().unwrap_or_default();
                let host = format!("{}.{host}", address.bucket());
                if endpoint.set_host(Some(&host)).is_err() {
                    return Err(ObjectError::Setting {
                        option: "--blob-store-virtual-host",
                        problem: "the endpoint is an address, which has no names below it"
                            .to_owned(),
                    });
                }
            }
            let endpoint = endpoint.as_str().trim_end_matches('/').to_owned();
            builder = builder
                .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint.clone())
                .with_endpoint(endpoint);
        }
        if let Some(path) = &config.credentials {
            builder = builder.with_credentials(Arc::new(CredentialsFile::new(path)?));
        }
        let place = address.to_string();
        let s3 = builder
            .build()
            .map_err(|error| ObjectError::of("opening", &place, &error))?;
        Ok(Self {
            s3,
            name: address.bucket().to_owned(),
            prefix: Path::from(address.prefix()),
            place,
        })
    }

    pub(super) fn s3(&self) -> &AmazonS3 {
        &self.s3
    }

    /// As it is configured.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// What the keys of all objects of blobs begin with.
    pub(super) fn blobs(&self) -> Path {
        self.prefix.clone().join("blobs")
    }

    /// The key of a blob's object.
    pub(super) fn key(&self, digest: &Digest) -> Path {
        let hex = digest.hex();
        let shard = hex.get(..2).unwrap_or_default();
        let parts = [digest.algorithm(), shard, hex];
        parts.into_iter().fold(self.blobs(), Path::join)
    }

    /// Where the object of a blob is, as addresses of buckets are written.
    pub(super) fn address(&self, digest: &Digest) -> String {
        format!("s3://{}/{}", self.name, self.key(digest))
    }

    /// What the client of the storage said, about a request for something in this bucket.
    pub(super) fn error(&self, what: &'static str, error: &object_store::Error) -> ObjectError {
        ObjectError::of(what, &self.place, error)
    }

    /// That there was no answer for so long.
    pub(super) fn silent(&self, what: &'static str, after: Duration) -> ObjectError {
        ObjectError::Unavailable {
            what,
            place: self.place.clone(),
            cause: format!("no answer within {after:?}"),
        }
    }

    /// The object of a blob, if there is one.
    pub(super) async fn head(&self, digest: &Digest) -> Result<Option<ObjectVersion>, ObjectError> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match self.s3.get_opts(&self.key(digest), options).await {
            Ok(found) => Ok(Some(version(found.meta))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error("looking for a blob in", &error)),
        }
    }

    /// Tries to read.
    pub(super) async fn check_reads(&self) -> Result<(), ObjectError> {
        // Without the permission to list, what is not there is answered as forbidden.
        let absent = Digest::of(b"");
        let absent = self.prefix.clone().join(absent.hex());
        match self.s3.get_opts(&absent, GetOptions::default()).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("reading in", &error)),
        }
    }

    /// Tries to write only what is not there. One object is written, once for all.
    pub(super) async fn check_writes(&self) -> Result<(), ObjectError> {
        let mark = self.prefix.clone().join(MARK);
        for attempt in ["first", "second"] {
            let put = self
                .s3
                .put_opts(&mark, MARK_TEXT.into(), PutMode::Create.into());
            match put.await {
                Ok(_) if attempt == "first" => {}
                Ok(_) => {
                    return Err(ObjectError::Unconditional {
                        place: self.place.clone(),
                    });
                }
                Err(object_store::Error::AlreadyExists { .. }) => return Ok(()),
                Err(error) => return Err(self.error("writing to", &error)),
            }
        }
        Ok(())
    }
}

/// Which object it is.
pub(super) fn version(meta: ObjectMeta) -> ObjectVersion {
    ObjectVersion {
        size: meta.size,
        e_tag: meta.e_tag,
    }
}

//! Straight into the store that a proxy with the same settings uses.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use parking_lot::Mutex;

use super::Form;
use super::names::{Host, Place};
use super::report::{Outcome, Warmed};
use crate::cli::platforms;
use crate::cli::progress::{Detail, ImageProgress, Terminal};
use crate::config::options::{Registries, Target};
use crate::convert::layer::{Format, TurboSettings};
use crate::convert::{Converter, Requester, Source, TagOutcome};
use crate::oci::mirrored_name::official;
use crate::oci::reference::is_docker_hub;
use crate::oci::{Platform, RepoName, Selector, Tag};
use crate::registry::{Authorization, Upstream};
use crate::server::TurboFallback;

/// How often an image is converted because its tag moved while the one before was.
const ATTEMPTS: u32 = 3;

/// Converts here.
pub struct Direct {
    /// For native images.
    pub converter: Converter,
    /// How TurboOCI images are made.
    pub turbo: TurboSettings,
    /// What is made of an image that TurboOCI cannot carry.
    pub fallback: TurboFallback,
    pub registries: Registries,
    /// The upstream of names without a host.
    pub default: Target,
    /// The platforms that somebody named.
    pub asked_for: Vec<Platform>,
    /// Opened once each: clones share connections and tokens.
    pub opened: Mutex<HashMap<Option<Host>, Upstream>>,
}

/// The converters for one image.
pub struct Converters {
    native: Converter,
    turbo: Converter,
}

impl Direct {
    /// The converters for one image in these forms.
    pub fn converters(&self, forms: &[Form]) -> Converters {
        let native = match forms {
            [_] => self.converter.clone(),
            _ => self.converter.sharing_tars(),
        };
        Converters {
            turbo: native.in_format(Format::Turbo(self.turbo)),
            native,
        }
    }

    fn source(&self, place: &Place) -> anyhow::Result<Source> {
        let mut opened = self.opened.lock();
        let upstream = if let Some(upstream) = opened.get(&place.host) {
            upstream.clone()
        } else {
            let upstream = self.open(place.host.as_ref())?;
            opened.insert(place.host.clone(), upstream.clone());
            upstream
        };
        Ok(Source {
            repo: self.repo(place),
            upstream,
            authorization: Authorization::Own,
        })
    }

    fn open(&self, host: Option<&Host>) -> anyhow::Result<Upstream> {
        let Some(Host { scheme, name }) = host else {
            return Ok(self.default.open()?);
        };
        let mut errors = self.registries.errors();
        let upstream = self.registries.dial((*scheme, name), None, &mut errors);
        Ok(errors.none_or(upstream)?)
    }

    fn repo(&self, place: &Place) -> RepoName {
        match (&place.host, &self.default) {
            (None, Target::Registry { host, .. }) if is_docker_hub(host) => official(&place.repo),
            _ => place.repo.clone(),
        }
    }

    pub async fn tags(&self, place: &Place) -> anyhow::Result<Vec<Tag>> {
        let source = self.source(place)?;
        let tags = source.upstream.tags(&source.repo, &source.authorization);
        tags.await.with_context(|| format!("the tags of {place}"))
    }

    pub async fn warm(
        &self,
        converters: &Converters,
        name: String,
        place: &Place,
        form: Form,
        selector: &Selector,
        terminal: &Terminal,
    ) -> anyhow::Result<Warmed> {
        let source = self.source(place)?;
        let mut converter = match form {
            Form::Native => &converters.native,
            Form::Turbo => &converters.turbo,
        };
        let mut reason = None;
        let progress = ImageProgress::new(terminal, name, Detail::Image);
        let mut attempts = ATTEMPTS;
        let mut lacking;
        let image = loop {
            let digest = match selector {
                Selector::Digest(digest) => digest.clone(),
                tag @ Selector::Tag(_) => {
                    let head =
                        source
                            .upstream
                            .head_manifest(&source.repo, tag, &source.authorization);
                    head.await?.digest
                }
            };
            lacking = match converter.lookup(&source, &digest).await {
                // What is converted needs no question.
                Ok(Some(_)) => None,
                Ok(None) | Err(_) => platforms::check(&self.asked_for, &source, &digest).await?,
            };
            let made = under_tag(converter, selector)
                .convert(&source, &digest, Some(progress.observer()))
                .await;
            progress.clear();
            let image: Arc<_> = match made {
                Err(error) if error.is_no_image() => return Ok(Warmed::skipped(error.to_string())),
                Err(error) if error.no_turbo().is_some() => match self.fallback {
                    TurboFallback::Native => {
                        converter = &converters.native;
                        reason = error.no_turbo().map(|why| format!("as native: {why}"));
                        continue;
                    }
                    TurboFallback::Original => return Ok(Warmed::skipped(error.to_string())),
                    TurboFallback::Error => return Err(error.into()),
                },
                made => made?,
            };
            let Selector::Tag(tag) = selector else {
                break image;
            };
            // A tag of this form names nothing in another one.
            if reason.is_some() {
                break image;
            }
            let outcome = converter.push_tag(&source, &image, tag).await?;
            attempts -= 1;
            match outcome {
                TagOutcome::Moved if attempts > 0 => {}
                TagOutcome::Moved => {
                    anyhow::bail!("its tag moved {ATTEMPTS} times while it was converted")
                }
                TagOutcome::Done | TagOutcome::Foreign | TagOutcome::Without => break image,
            }
        };
        let asked_for = &self.asked_for;
        platforms::check_single(asked_for, converter.store(), &image).await?;
        let outcome = match progress.tally().converted {
            0 => Outcome::Found,
            _ => Outcome::Converted,
        };
        Ok(Warmed {
            outcome,
            digest: Some(image.root.digest.clone()),
            reason: match (reason, lacking) {
                (Some(reason), Some(lacking)) => Some(format!("{reason}, {lacking}")),
                (reason, lacking) => reason.or(lacking),
            },
            left: platforms::left(&image).cloned().collect(),
        })
    }
}

/// The same converter, which records and logs under which tag an image is converted.
fn under_tag(converter: &Converter, selector: &Selector) -> Converter {
    let tag = match selector {
        Selector::Tag(tag) => Some(tag.clone()),
        Selector::Digest(_) => None,
    };
    converter.asked_by(Requester {
        tag,
        ..Requester::default()
    })
}

//! Works through the images, several at one time.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use parking_lot::Mutex;

use super::names::{self, Name, Which};
use super::report::{Report, Warmed, tell};
use super::{Form, Way};
use crate::cli::progress::Terminal;
use crate::convert::Suffixes;

/// All images, in all forms that are wanted.
pub struct Work<'a> {
    pub way: &'a Way,
    pub suffixes: &'a Suffixes,
    pub forms: &'static [Form],
    pub concurrency: usize,
    pub terminal: &'a Terminal,
    pub report: &'a Mutex<Report>,
}

impl Work<'_> {
    pub async fn run(&self, names: Vec<Name>) {
        let total = self.terminal.count_bar("images".to_owned(), 0);
        let images = self.images(names).await;
        total.set_length((images.len() * self.forms.len()) as u64);
        let one = |name: Name| {
            let total = &total;
            async move {
                let way = self.way.for_image(self.forms);
                for form in self.forms.iter().copied() {
                    let outcome = way.warm(&name, form, self.terminal).await;
                    self.add(&name.to_string(), Some(form), outcome);
                    total.inc(1);
                }
            }
        };
        futures_util::stream::iter(images)
            .map(one)
            .buffer_unordered(self.concurrency)
            .collect::<()>()
            .await;
        total.finish_and_clear();
    }

    /// The images that the names mean, each once.
    async fn images(&self, names: Vec<Name>) -> Vec<Name> {
        let mut images = Vec::new();
        for name in names {
            let Which::Matching(pattern) = &name.which else {
                images.push(name);
                continue;
            };
            match self.way.tags(&name.place).await {
                Ok(tags) => {
                    let tags = names::chosen(pattern, self.suffixes, tags);
                    if tags.is_empty() {
                        let error = Err(anyhow::anyhow!("no tag matches"));
                        self.add(&name.to_string(), None, error);
                    }
                    images.extend(tags.into_iter().map(|tag| Name {
                        place: name.place.clone(),
                        which: Which::Tag(tag),
                    }));
                }
                Err(error) => self.add(&name.to_string(), None, Err(error)),
            }
        }
        self.once_each(images)
    }

    /// The same image once, whatever its tags. A proxy knows images by their tags alone: it is asked for each.
    fn once_each(&self, mut images: Vec<Name>) -> Vec<Name> {
        let is_proxy = matches!(self.way, Way::Proxy(_));
        let tagged: BTreeSet<String> = images
            .iter()
            .filter(|name| is_proxy && matches!(name.which, Which::Digest(_, Some(_))))
            .map(Name::to_string)
            .collect();
        let mut seen = BTreeSet::new();
        images.retain(|name| {
            let text = name.to_string();
            match &name.which {
                Which::Digest(_, Some(tag)) if is_proxy => seen.insert((text, Some(tag.clone()))),
                Which::Digest(_, None) if tagged.contains(&text) => false,
                _ => seen.insert((text, None)),
            }
        });
        images
    }

    fn add(&self, name: &str, form: Option<Form>, outcome: anyhow::Result<Warmed>) {
        tell(self.terminal, name, form, &outcome);
        self.report.lock().add(name, outcome);
    }
}

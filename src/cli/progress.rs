//! Progress of conversions: for a person, a log or a program.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use serde_json::json;

use super::output::{self, count, short, size};
use crate::convert::{Event, Observer, Outcome, PlannedLayer};
use crate::oci::{ChainId, Digest, Platform};

/// How often a layer that takes long is mentioned where there are no bars.
const LINE_EVERY: Duration = Duration::from_secs(10);
const JSON_EVERY: Duration = Duration::from_secs(1);

/// How progress is shown.
#[derive(Clone)]
enum Mode {
    Bars(MultiProgress),
    Lines,
    Json,
    Silent,
}

/// Standard error and, for programs, standard output. Cheap to clone.
#[derive(Clone)]
pub struct Terminal {
    mode: Mode,
}

/// How progress is printed.
#[derive(clap::Args, Clone, Copy, Default)]
pub struct ProgressOptions {
    /// Tell what happens as lines of JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// Tell nothing but errors while working
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
}

impl Terminal {
    /// Bars on a terminal, else lines; or what was asked for.
    pub fn choose(options: ProgressOptions) -> Self {
        let mode = if options.json {
            Mode::Json
        } else if options.quiet {
            Mode::Silent
        } else if io::stderr().is_terminal() {
            Mode::Bars(MultiProgress::new())
        } else {
            Mode::Lines
        };
        Self { mode }
    }

    /// Without any progress.
    pub fn plain() -> Self {
        Self { mode: Mode::Silent }
    }

    /// Whether a person looks at standard error.
    pub fn is_person() -> bool {
        io::stderr().is_terminal()
    }

    /// Whether a program reads standard output.
    pub fn is_json(&self) -> bool {
        matches!(self.mode, Mode::Json)
    }

    /// Whether nothing is printed but errors.
    pub fn is_silent(&self) -> bool {
        matches!(self.mode, Mode::Silent)
    }

    /// Does something with the bars out of the way.
    pub fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.mode {
            Mode::Bars(bars) => bars.suspend(work),
            _ => work(),
        }
    }

    /// A line for a person or a log.
    pub fn tell(&self, line: impl std::fmt::Display) {
        match &self.mode {
            Mode::Bars(_) | Mode::Lines => self.aside(|| output::note(line)),
            Mode::Json | Mode::Silent => {}
        }
    }

    /// An event for a program.
    pub fn event(&self, event: &serde_json::Value) {
        if self.is_json() {
            // A reader that left does not stop the work.
            let _ = output::json(event);
        }
    }

    /// A bar of `length` bytes, where there are bars.
    pub fn bytes_bar(&self, name: String, length: u64) -> ProgressBar {
        let template = "{prefix:36!} {bar:24} {binary_bytes:>11} of {binary_total_bytes:<11} {msg}";
        self.bar(template, name, length)
    }

    /// A bar of so many things, where there are bars.
    pub fn count_bar(&self, name: String, length: u64) -> ProgressBar {
        self.bar(
            "{prefix:36!} {bar:24} {pos:>11} of {len:<11} {msg}",
            name,
            length,
        )
    }

    fn bar(&self, template: &str, name: String, length: u64) -> ProgressBar {
        let Mode::Bars(bars) = &self.mode else {
            return ProgressBar::hidden();
        };
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = bars.add(ProgressBar::new(length).with_style(style));
        bar.set_prefix(name);
        bar
    }

    /// How often something that takes long is mentioned: zero for bars, `None` for never.
    pub fn repeats_every(&self) -> Option<Duration> {
        match self.mode {
            Mode::Bars(_) => Some(Duration::ZERO),
            Mode::Lines => Some(LINE_EVERY),
            Mode::Json => Some(JSON_EVERY),
            Mode::Silent => None,
        }
    }
}

/// How much is shown of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// A bar a layer.
    Layers,
    /// One bar for all of it.
    Image,
}

/// What an image's conversion came to so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Layers that were converted now.
    pub converted: u64,
    /// Bytes of the converted layers' blobs.
    pub blob_bytes: u64,
}

/// The progress of one image.
pub struct ImageProgress {
    terminal: Terminal,
    image: String,
    detail: Detail,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    layers: HashMap<ChainId, Layer>,
    whole: Option<ProgressBar>,
    tally: Tally,
}

struct Layer {
    place: usize,
    of: usize,
    digest: Digest,
    size: u64,
    bar: ProgressBar,
    began: Option<Instant>,
    printed: Instant,
    /// Compressed bytes that came.
    came: u64,
}

impl ImageProgress {
    /// The progress of `image`, of which nothing is known yet.
    pub fn new(terminal: &Terminal, image: String, detail: Detail) -> Arc<Self> {
        Arc::new(Self {
            terminal: terminal.clone(),
            image,
            detail,
            state: Mutex::default(),
        })
    }

    /// Tells a converter where to say what happens.
    pub fn observer(self: &Arc<Self>) -> Observer {
        let this = Arc::clone(self);
        Arc::new(move |event| this.observe(event))
    }

    /// What it came to so far.
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        let state = self.lock();
        let bars = state.layers.values().map(|layer| &layer.bar);
        bars.chain(&state.whole)
            .for_each(ProgressBar::finish_and_clear);
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }

    fn observe(&self, event: Event) {
        match event {
            Event::Planned { platform, layers } => self.planned(platform.as_ref(), &layers),
            Event::Progress { chain, progress } => {
                self.progress(&chain, progress.compressed, progress.inflated);
            }
            Event::Done {
                chain,
                size,
                outcome,
            } => self.done(&chain, size, outcome),
        }
    }

    fn planned(&self, platform: Option<&Platform>, layers: &[PlannedLayer]) {
        let total: u64 = layers.iter().map(|layer| layer.size).sum();
        let of_platform = platform.map(|platform| format!(" ({platform})"));
        let of_platform = of_platform.unwrap_or_default();
        if self.detail == Detail::Layers {
            self.terminal.tell(format_args!(
                "{}{of_platform}: {}, {}",
                self.image,
                count(layers.len(), "layer"),
                size(total)
            ));
        }
        let plan: Vec<_> = layers
            .iter()
            .map(|layer| {
                let (chain, digest) = (layer.chain.to_string(), layer.digest.as_str());
                json!({"chain": chain, "digest": digest, "size": layer.size})
            })
            .collect();
        self.terminal.event(&json!({
            "event": "planned",
            "image": self.image,
            "platform": platform.map(ToString::to_string),
            "layers": plan,
        }));
        let mut state = self.lock();
        if self.detail == Detail::Image {
            let whole = state
                .whole
                .get_or_insert_with(|| self.terminal.bytes_bar(self.image.clone(), 0));
            whole.inc_length(total);
        }
        for (place, layer) in layers.iter().enumerate() {
            let bar = match self.detail {
                Detail::Layers => {
                    let name = format!(
                        "{}/{} {}{of_platform}",
                        place + 1,
                        layers.len(),
                        short(&layer.digest)
                    );
                    self.terminal.bytes_bar(name, layer.size)
                }
                Detail::Image => ProgressBar::hidden(),
            };
            let layer = Layer {
                place: place + 1,
                of: layers.len(),
                digest: layer.digest.clone(),
                size: layer.size,
                bar,
                began: None,
                printed: Instant::now(),
                came: 0,
            };
            let chain = layers[place].chain.clone();
            state.layers.entry(chain).or_insert(layer);
        }
    }

    fn progress(&self, chain: &ChainId, compressed: u64, inflated: u64) {
        let Some(every) = self.terminal.repeats_every() else {
            return;
        };
        let mut state = self.lock();
        let State { layers, whole, .. } = &mut *state;
        let Some(layer) = layers.get_mut(chain) else {
            return;
        };
        layer.began.get_or_insert_with(Instant::now);
        layer.bar.set_position(compressed);
        if let Some(whole) = whole {
            whole.inc(compressed.saturating_sub(layer.came));
        }
        layer.came = compressed.max(layer.came);
        if layer.printed.elapsed() < every || every.is_zero() {
            return;
        }
        layer.printed = Instant::now();
        let line = format!(
            "{}: layer {}/{} {}: {} of {}",
            self.image,
            layer.place,
            layer.of,
            short(&layer.digest),
            size(compressed),
            size(layer.size)
        );
        let event = json!({
            "event": "progress",
            "image": self.image,
            "chain": chain.to_string(),
            "compressed": compressed,
            "inflated": inflated,
        });
        drop(state);
        self.terminal.tell(line);
        self.terminal.event(&event);
    }

    fn done(&self, chain: &ChainId, blob_size: u64, outcome: Outcome) {
        let mut state = self.lock();
        let word = match outcome {
            Outcome::Converted => {
                state.tally.converted += 1;
                state.tally.blob_bytes += blob_size;
                "converted"
            }
            Outcome::Found => "found",
        };
        let State { layers, whole, .. } = &mut *state;
        let line = layers.get_mut(chain).map(|layer| {
            if let Some(whole) = whole {
                whole.inc(layer.size.saturating_sub(layer.came));
            }
            layer.came = layer.size;
            layer.bar.set_position(layer.size);
            layer
                .bar
                .abandon_with_message(format!("{word}, {}", size(blob_size)));
            let took = layer.began.map(|began| began.elapsed());
            let took = took.map(|took| format!(" in {:.1} s", took.as_secs_f64()));
            format!(
                "{}: layer {}/{} {}: {word}, {} became {}{}",
                self.image,
                layer.place,
                layer.of,
                short(&layer.digest),
                size(layer.size),
                size(blob_size),
                took.unwrap_or_default()
            )
        });
        drop(state);
        let in_a_bar = matches!(self.terminal.mode, Mode::Bars(_));
        if let Some(line) = line.filter(|_| !in_a_bar && self.detail == Detail::Layers) {
            self.terminal.tell(line);
        }
        self.terminal.event(&json!({
            "event": "layer",
            "image": self.image,
            "chain": chain.to_string(),
            "size": blob_size,
            "outcome": word,
        }));
    }
}

//! Two binaries measured in turn, and the ratios of what they took.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::client::Blobs;
use crate::process::Usage;

/// A binary that is measured.
#[derive(Debug, Clone)]
pub struct Binary {
    pub name: String,
    pub path: PathBuf,
}

/// The binary built here, and then the one to compare it with.
pub fn binaries(beside: Option<&Path>) -> Vec<Binary> {
    let binary = |name: String, path: &Path| Binary {
        name,
        path: path.to_owned(),
    };
    let here = Path::new(env!("CARGO_BIN_EXE_overlaybd-proxy"));
    let beside = beside.map(|path| binary(path.display().to_string(), path));
    [binary("here".to_owned(), here)]
        .into_iter()
        .chain(beside)
        .collect()
}

/// The numbers of the binaries as they have their turns in a round: A B, then B A, so that a
/// machine that becomes slower or faster does the same to both.
pub fn turns(binaries: usize, round: usize) -> Vec<usize> {
    if round.is_multiple_of(2) {
        (0..binaries).collect()
    } else {
        (0..binaries).rev().collect()
    }
}

/// Has everything written that waits in memory, lest it be written while the next is measured.
pub fn settle(scratch: &Path) -> Result<(), Failure> {
    nix::unistd::syncfs(File::open(scratch)?)?;
    Ok(())
}

/// The value below which `part` of these are, by the nearest rank.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    let found = sorted.get(rank.max(1) - 1).or(sorted.last());
    found.copied().unwrap_or(f64::NAN)
}

/// The value in the middle, or that between the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count.is_multiple_of(2) => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
        count => sorted[count / 2],
    }
}

/// The ratios of what was measured in the same round.
pub fn ratios(here: &[f64], beside: &[f64]) -> Vec<f64> {
    here.iter().zip(beside).map(|(a, b)| a / b).collect()
}

/// One run of a binary: what it took, and the image that came of it.
#[derive(Debug, Clone)]
pub struct Sample {
    pub usage: Usage,
    pub blobs: Blobs,
}

/// All runs of the binaries in one way of use; those of the same number are of one round.
pub struct Runs {
    binaries: Vec<Binary>,
    samples: Vec<Vec<Sample>>,
}

impl Runs {
    pub fn new(binaries: &[Binary]) -> Self {
        Self {
            binaries: binaries.to_vec(),
            samples: vec![Vec::new(); binaries.len()],
        }
    }

    pub fn push(&mut self, binary: usize, sample: Sample) {
        self.samples[binary].push(sample);
    }

    /// What each binary made.
    fn blobs(&self) -> Vec<&Blobs> {
        let firsts = self.samples.iter().filter_map(|samples| samples.first());
        firsts.map(|sample| &sample.blobs).collect()
    }

    fn figures(&self, binary: usize, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.samples[binary].iter().map(figure).collect()
    }

    /// Prints the table, and the ratios if there are two binaries.
    pub fn print(&self) {
        println!("| binary | wall, median | wall, best | CPU s | peak MB | layers MB |");
        println!("|---|---|---|---|---|---|");
        let wall = |sample: &Sample| sample.usage.cost.wall.as_secs_f64();
        let cpu = |sample: &Sample| sample.usage.cost.cpu.as_secs_f64();
        let peak = |sample: &Sample| sample.usage.peak as f64 / f64::from(1 << 20);
        let bytes = |sample: &Sample| sample.blobs.bytes() as f64 / 1e6;
        for (n, binary) in self.binaries.iter().enumerate() {
            println!(
                "| {} | {:.3} s | {:.3} s | {:.2} | {:.0} | {:.1} |",
                binary.name,
                median(&self.figures(n, wall)),
                quantile(&self.figures(n, wall), 0.0),
                median(&self.figures(n, cpu)),
                median(&self.figures(n, peak)),
                median(&self.figures(n, bytes)),
            );
        }
        if self.binaries.len() < 2 {
            return;
        }
        let both = |figure: &dyn Fn(&Sample) -> f64| {
            ratios(&self.figures(0, figure), &self.figures(1, figure))
        };
        let best = |binary| quantile(&self.figures(binary, wall), 0.0);
        println!(
            "| **here / beside** | {:.3} | {:.3} | {:.3} | {:.3} | {:.4} |",
            median(&both(&wall)),
            best(0) / best(1),
            median(&both(&cpu)),
            median(&both(&peak)),
            median(&both(&bytes)),
        );
        let walls = both(&wall);
        println!(
            "\nratios of the pairs' walls from {:.3} to {:.3}; {} layers",
            quantile(&walls, 0.0),
            quantile(&walls, 1.0),
            if self
                .blobs()
                .windows(2)
                .all(|pair| pair[0].layers == pair[1].layers)
            {
                "the same"
            } else {
                "other"
            }
        );
    }
}

/// # Errors
/// When they are not, which must not be: the same input makes the same bytes.
pub fn same_layers(binary: &Binary, known: &Blobs, found: &Blobs) -> Result<(), Failure> {
    if known.layers == found.layers {
        return Ok(());
    }
    let name = &binary.name;
    Err(format!(
        "{name} makes other layers from one run to the next: {:?}, then {:?}",
        known.layers, found.layers
    )
    .into())
}

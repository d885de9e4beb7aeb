//! From texts to settings: one definition gives the flag, the environment variable and the
//! key of the TOML file; every mistake is collected, so that one run shows them all.
//!
//! ```text
//! built-in default < file < environment < flag        (layers)
//!        └→ options/* : one group of options a part, each becomes that part's Config
//! ```

mod defaults;
mod file;
mod fstype;
mod layers;
mod mistakes;
pub mod options;
mod scalar;
mod serve;
mod show;
mod text;

pub use file::DEFAULT_PATH;
pub use fstype::{FsType, InvalidFsType};
pub use layers::{Layers, ONE_PLATFORM, Origin, decorate, environment_variable, origins};
pub use mistakes::Mistakes;
pub use scalar::{boolean, bytes, duration, gibibytes, number};
pub use serve::{ServeConfig, ServeOptions};
pub use show::show;
pub use text::Text;

#[cfg(test)]
mod tests;

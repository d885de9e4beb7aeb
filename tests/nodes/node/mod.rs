//! What runs on nodes: `node check` on nodes that are made up, with a real proxy and a real
//! registry, and `credentials` as overlaybd asks it.

mod credentials;
mod examples;
mod files;
mod image;
mod made_up;
mod origin;
mod tls;

use crate::support;

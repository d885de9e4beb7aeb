//! The judge of conversions, judged: against GNU tar, against the kernel, and against
//! differences that it must find.

mod command;
mod containerd;
mod differences;
mod extraction;
mod filesystem;
mod indexes;
mod layers;
mod odd_layers;
#[path = "../support/overlaybd/mod.rs"]
mod overlaybd;
mod shapes;
mod support;
#[path = "../support/tar.rs"]
#[allow(dead_code)]
mod tar;

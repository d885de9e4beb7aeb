//! `check`: against GNU tar, the kernel, containerd, and differences that it must find.

mod command;
mod differences;
mod extraction;
mod filesystem;
mod indexes;
mod layers;
mod odd_layers;
mod shapes;
mod trees;
mod turbo;
mod turbo_image;

use crate::support;

//! What operators use: the command line, the page, the API, metrics, traces, webhooks and the installation.

#[path = "../support/mod.rs"]
mod support;

mod admin_api;
mod cli;
mod counted;
mod install;
mod learn;
mod metrics;
mod page;
mod prefetch;
mod service;
mod traces;
mod webhooks;

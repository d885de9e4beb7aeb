//! Environment variables that look like settings and are none.

use std::collections::BTreeSet;

use clap::Command;

use super::output;

const PREFIX: &str = "OVERLAYBD_PROXY_";

/// Warns of variables that begin as the settings' do and set nothing. It is no more than a
/// warning: Kubernetes sets such for a service of this name.
pub(super) fn warn_of_unknown(command: &Command) {
    let mut known = BTreeSet::new();
    collect(command, &mut known);
    for (name, _) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        if known.contains(name) || is_of_kubernetes(name) {
            continue;
        }
        match nearest(name, &known) {
            Some(near) => output::note(format_args!(
                "warning: {name} is no setting: was {near} meant?"
            )),
            None => output::note(format_args!("warning: {name} is no setting")),
        }
    }
}

fn collect(command: &Command, known: &mut BTreeSet<String>) {
    for arg in command.get_arguments() {
        known.extend(
            arg.get_env()
                .and_then(|name| name.to_str())
                .map(str::to_owned),
        );
    }
    for command in command.get_subcommands() {
        collect(command, known);
    }
}

/// Kubernetes tells every pod of a namespace where its services are.
fn is_of_kubernetes(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    // Those of this program's own tests are no settings either.
    rest.starts_with("SERVICE_") || rest.starts_with("PORT") || rest.contains("TEST_")
}

/// The setting that is at most two letters away.
fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let distances = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known));
    let nearest = distances.min_by_key(|(distance, _)| *distance)?;
    (nearest.0 <= 2).then_some(nearest.1.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_variable_names_are_found() {
        let known = ["OVERLAYBD_PROXY_LISTEN", "OVERLAYBD_PROXY_HOLD"];
        let known: BTreeSet<String> = known.map(str::to_owned).into();
        for (name, expected) in [
            ("OVERLAYBD_PROXY_LISTEM", Some("OVERLAYBD_PROXY_LISTEN")),
            ("OVERLAYBD_PROXY_LITSEN", Some("OVERLAYBD_PROXY_LISTEN")),
            ("OVERLAYBD_PROXY_HOLDS", Some("OVERLAYBD_PROXY_HOLD")),
            ("OVERLAYBD_PROXY_OTHER", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
        assert!(is_of_kubernetes("OVERLAYBD_PROXY_SERVICE_HOST"));
        assert!(is_of_kubernetes("OVERLAYBD_PROXY_PORT_8480_TCP"));
    }
}

#!/usr/bin/env bash
# mysql_common (the wire format of mysql_async): a zero byte at the end of authentication data is cut
# off, whatever the plugin.
#
# Guessed: what a server sends for the account's plugin reaches the plugin as it is. Seen:
# `AuthSwitchRequest::plugin_data` drops a last byte that is zero. It ends the 20 bytes that
# mysql_native_password signs, but MariaDB's client_ed25519 sends 32 random bytes without an end: once
# in 256 logins the last one is zero, 31 bytes are signed, and the right password is refused with
# error 1045, "Access denied". A pool that opens connections all the time meets it every day.
#
# Version: mysql_common 0.37.3 (crates.io). Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "probe"
version = "0.0.0"
edition = "2021"
[dependencies]
mysql_common = { version = "=0.37.3", default-features = false }
flate2 = "1"
TOML
cat >src/main.rs <<'RUST'
use mysql_common::packets::AuthSwitchRequest;

fn main() {
    for last in [7, 0] {
        let mut nonce = [7; 32];
        nonce[31] = last;
        let request = AuthSwitchRequest::new(&b"client_ed25519"[..], &nonce[..]);
        println!("last byte {last}: {} of 32", request.plugin_data().len());
    }
}
RUST
seen=$(CARGO_TARGET_DIR=$work/target cargo run -q)
echo "$seen"
[ "$seen" = $'last byte 7: 32 of 32\nlast byte 0: 31 of 32' ]

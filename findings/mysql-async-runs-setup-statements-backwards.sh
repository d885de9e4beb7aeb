#!/usr/bin/env bash
# mysql_async: the statements of `OptsBuilder::setup` are run in reverse order.
#
# Guessed: a list of statements that sets a new connection up is run from its first to its last, so
# that a later one may rely on an earlier one. Seen: the last runs first. With `SET @a = 1` and then
# `SET @b = @a + 1`, @b is NULL. What must come in an order has to be one statement.
#
# Version: mysql_async 0.37.1 (crates.io), with Debian bookworm's MariaDB 10.11, whatever its patch
# level. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
chmod 755 "$work"
server=
trap '[ -z "$server" ] || { kill "$server"; wait "$server" || true; }; rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq mariadb-server-core liburing2 libnuma1 2>/dev/null
for package in *.deb; do
    dpkg-deb -x "$package" root
done
LD_LIBRARY_PATH=$work/root/usr/lib/$(uname -m)-linux-gnu
export LD_LIBRARY_PATH
mkdir data
options=(--no-defaults "--datadir=$work/data" "--basedir=$work/root/usr" "--lc-messages-dir=$work/root/usr/share/mysql")
[ "$(id -u)" -ne 0 ] || options+=(--user=root)
# Without grant tables it needs no system tables.
root/usr/sbin/mariadbd "${options[@]}" --skip-networking --skip-grant-tables "--socket=$work/socket" >log 2>&1 &
server=$!

mkdir -p client/src
cat >client/Cargo.toml <<'TOML'
[package]
name = "client"
version = "0.0.0"
edition = "2021"
[dependencies]
mysql_async = { version = "=0.37.1", default-features = false, features = ["minimal-rust"] }
tokio = { version = "1", features = ["macros", "rt"] }
TOML
cat >client/src/main.rs <<'RUST'
use mysql_async::prelude::Queryable;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = mysql_async::OptsBuilder::default()
        .socket(std::env::args().nth(1))
        .user(Some("root"))
        .setup(vec!["SET @a = 1", "SET @b = @a + 1"]);
    let mut connection = mysql_async::Conn::new(options).await.unwrap();
    let row: Option<(Option<i64>, Option<i64>)> =
        connection.query_first("SELECT @a, @b").await.unwrap();
    println!("{:?}", row.unwrap());
    connection.disconnect().await.unwrap();
}
RUST
CARGO_TARGET_DIR=$work/target cargo build -q --manifest-path client/Cargo.toml
for _ in $(seq 100); do
    [ ! -S socket ] || break
    sleep 0.2
done
seen=$(target/debug/client "$work/socket")
echo "@a and @b: $seen"
[ "$seen" = "(Some(1), None)" ]

//! The connection text of Go's `MySQL` driver:
//! `[user[:password]@][net[(address)]]/database[?name=value&…]`
//! (github.com/go-sql-driver/mysql, README § DSN).
//!
//! A text that was mistyped may have its password anywhere, so that errors repeat nothing of it:
//! parameters are named by their place, and by name only where it is one that is known.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::store::error::IndexError;

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Not at all.
    Off,
    /// With a certificate that the system's roots vouch for.
    Verify,
    /// With whatever certificate the server has.
    SkipVerify,
    /// As [`SkipVerify`](Self::SkipVerify) where the server can, else not at all.
    Preferred,
    /// With a certificate that the configured roots vouch for.
    Custom,
}

/// A parsed connection text. Neither its `Debug` nor its `Display` form has the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) address: Address,
    pub(super) database: String,
    pub(super) tls: Tls,
    pub(super) connect_timeout: Duration,
    pub(super) read_timeout: Duration,
    pub(super) max_allowed_packet: Option<usize>,
    pub(super) compress: bool,
    pub(super) cleartext: bool,
    /// Variables of the session, as SQL assignments.
    pub(super) session: Vec<String>,
    /// Parameters that are known and mean nothing here.
    ignored: Vec<String>,
}

/// Without `timeout`, Go's driver waits for the system: minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// What steers Go's driver and changes nothing for this one.
const MEANINGLESS: [&str; 15] = [
    "allowFallbackToPlaintext",
    "allowNativePasswords",
    "checkConnLiveness",
    "clientFoundRows",
    "collation",
    "columnsWithAlias",
    "connectionAttributes",
    "inTryConnectWithTLS",
    "interpolateParams",
    "multiStatements",
    "parseTime",
    "rejectReadOnly",
    "serverPubKey",
    "strict",
    "timeTruncate",
];

/// Session variables that this program sets itself, or that change nothing for it.
const OVERRULED: [&str; 6] = [
    "autocommit",
    "sql_mode",
    "time_zone",
    "transaction_isolation",
    "tx_isolation",
    "foreign_key_checks",
];

/// Session variables that are passed on.
const PASSED_ON: [&str; 8] = [
    "innodb_lock_wait_timeout",
    "lock_wait_timeout",
    "max_execution_time",
    "max_statement_time",
    "net_read_timeout",
    "net_write_timeout",
    "wait_timeout",
    "wsrep_sync_wait",
];

impl Dsn {
    /// The parameters that were understood and have no meaning here, for a log line.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// How the connection is encrypted.
    pub fn tls(&self) -> Tls {
        self.tls
    }

    /// `USER@NET(ADDRESS)/DATABASE`: all of it that may be shown. A user or a database that does
    /// not look like one is part of a mistyped password more likely, and is not.
    #[must_use]
    pub fn without_password(&self) -> String {
        let shown = |name: &str| {
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
            if name.chars().all(is_name) {
                name.to_owned()
            } else {
                "***".to_owned()
            }
        };
        let user = self.user.as_deref().map(|user| shown(user) + "@");
        let address = match &self.address {
            Address::Tcp { host, port } if host.contains(':') => format!("tcp([{host}]:{port})"),
            Address::Tcp { host, port } => format!("tcp({host}:{port})"),
            Address::Unix(path) => format!("unix({})", path.display()),
        };
        let (user, database) = (user.unwrap_or_default(), shown(&self.database));
        format!("{user}{address}/{database}")
    }

    /// Sets a parameter; `place` is its own among them, from 1.
    fn set(&mut self, place: usize, name: &str, value: &str) -> Result<(), IndexError> {
        match name {
            "tls" => self.tls = parse_tls(value)?,
            "timeout" => self.connect_timeout = duration(name, value, CONNECT_TIMEOUT)?,
            // One answer stands for one write and one read: the longer time of the two holds.
            "readTimeout" | "writeTimeout" => {
                let given = duration(name, value, READ_TIMEOUT)?;
                let before = Some(self.read_timeout).filter(|time| *time != READ_TIMEOUT);
                self.read_timeout = before.map_or(given, |before| before.max(given));
            }
            "maxAllowedPacket" => {
                let bytes: usize = value
                    .parse()
                    .map_err(|_| wrong(name, "a number of bytes"))?;
                // 0 has Go's driver ask the server, as this one always does.
                self.max_allowed_packet = Some(bytes).filter(|bytes| *bytes > 0);
            }
            "compress" => self.compress = boolean(name, value)?,
            "allowCleartextPasswords" => self.cleartext = boolean(name, value)?,
            "allowOldPasswords" | "allowAllFiles" => {
                if boolean(name, value)? {
                    return Err(IndexError::Dsn(format!(
                        "{name}=true is not supported here: leave it out"
                    )));
                }
            }
            "charset" => {
                let known = ["utf8", "utf8mb3", "utf8mb4", "ascii", "latin1"];
                if !value.split(',').all(|charset| known.contains(&charset)) {
                    return Err(wrong(name, &known.join(", ")));
                }
                self.ignored.push(name.to_owned());
            }
            "loc" => {
                if value.is_empty() {
                    return Err(wrong(name, "a time zone"));
                }
                self.ignored.push(name.to_owned());
            }
            "clientFoundRows"
            | "allowNativePasswords"
            | "checkConnLiveness"
            | "columnsWithAlias"
            | "interpolateParams"
            | "multiStatements"
            | "parseTime"
            | "rejectReadOnly"
            | "allowFallbackToPlaintext" => {
                boolean(name, value)?;
                self.ignored.push(name.to_owned());
            }
            _ if MEANINGLESS.contains(&name) || OVERRULED.contains(&name) => {
                self.ignored.push(name.to_owned());
            }
            _ if PASSED_ON.contains(&name) => {
                let bare = value.trim_matches('\'');
                if bare.parse::<f64>().is_ok()
                    && bare.bytes().all(|b| b.is_ascii_digit() || b == b'.')
                {
                    self.session.push(format!("SESSION {name} = {bare}"));
                } else {
                    return Err(wrong(name, "a number"));
                }
            }
            _ => {
                return Err(IndexError::Dsn(format!(
                    "parameter {place} behind the '?' is none that is known; known are tls, timeout, readTimeout, writeTimeout, maxAllowedPacket, compress, charset, loc, {}",
                    MEANINGLESS.join(", ")
                )));
            }
        }
        Ok(())
    }
}

impl FromStr for Dsn {
    type Err = IndexError;

    fn from_str(text: &str) -> Result<Self, IndexError> {
        // Go's driver takes the last slash too: a password or a socket's path may have more.
        let (server, rest) = text.rsplit_once('/').ok_or_else(|| {
            IndexError::Dsn(
                "it has no slash before the database: user:password@tcp(host:3306)/database is expected (a slash in a parameter is written %2F)"
                    .to_owned(),
            )
        })?;
        let (login, place) = match server.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, server),
        };
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, "")))
        {
            Some((user, password)) => (
                Some(user.to_owned()).filter(|user| !user.is_empty()),
                Some(password.to_owned()).filter(|password| !password.is_empty()),
            ),
            None => (None, None),
        };
        let (database, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let database = decode("the database's name", database)?;
        if database.is_empty() {
            return Err(IndexError::Dsn(
                "it names no database: user:password@tcp(host:3306)/database is expected"
                    .to_owned(),
            ));
        }
        let mut dsn = Self {
            user,
            password,
            address: parse_address(place)?,
            database,
            tls: Tls::Off,
            connect_timeout: CONNECT_TIMEOUT,
            read_timeout: READ_TIMEOUT,
            max_allowed_packet: None,
            compress: false,
            cleartext: false,
            session: Vec::new(),
            ignored: Vec::new(),
        };
        let parameters = parameters.split('&').filter(|text| !text.is_empty());
        for (place, parameter) in (1..).zip(parameters) {
            let (name, value) = parameter.split_once('=').ok_or_else(|| {
                IndexError::Dsn(format!("parameter {place} behind the '?' has no value"))
            })?;
            let value = decode("a parameter's value", &value.replace('+', " "))?;
            dsn.set(place, name, &value)?;
        }
        Ok(dsn)
    }
}

/// The value of a known parameter is wrong.
fn wrong(name: &str, expected: &str) -> IndexError {
    IndexError::Dsn(format!(
        "the value of {name} is wrong: {expected} is expected"
    ))
}

fn decode(what: &str, text: &str) -> Result<String, IndexError> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| IndexError::Dsn(format!("{what} is not UTF-8")))
}

fn parse_address(text: &str) -> Result<Address, IndexError> {
    let (net, address) = match text.split_once('(') {
        Some((net, rest)) => {
            let address = rest.strip_suffix(')').ok_or_else(|| {
                IndexError::Dsn(
                    "the server's address does not end in ')' before the slash: net(address) is expected"
                        .to_owned(),
                )
            })?;
            (net, address)
        }
        None => (text, ""),
    };
    match net {
        "" | "tcp" | "tcp4" | "tcp6" => parse_tcp(address),
        "unix" => Ok(Address::Unix(match address {
            "" => "/tmp/mysql.sock".into(),
            path => path.into(),
        })),
        _ => Err(IndexError::Dsn(
            "the network before the address is neither tcp nor unix: tcp(host:3306) or unix(/path/to.sock) is expected"
                .to_owned(),
        )),
    }
}

fn parse_tcp(address: &str) -> Result<Address, IndexError> {
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(|| {
            IndexError::Dsn("the server's address has no ']' after its '['".to_owned())
        })?;
        if !host.contains(':') {
            return Err(no_host());
        }
        (host, port.strip_prefix(':').unwrap_or(port))
    } else {
        match address.split_once(':') {
            Some((_, rest)) if rest.contains(':') => (address, ""),
            Some((host, port)) => (host, port),
            None => (address, ""),
        }
    };
    let host = match host {
        "" => "127.0.0.1",
        host => host,
    };
    if !is_host(host) {
        return Err(no_host());
    }
    let port = match port {
        "" => 3306,
        port => port
            .parse()
            .map_err(|_| IndexError::Dsn("the server's port is no number to 65535".to_owned()))?,
    };
    Ok(Address::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn no_host() -> IndexError {
    IndexError::Dsn(
        "the server's host is neither a name nor an address: tcp(host:3306) or tcp([address]:3306) is expected"
            .to_owned(),
    )
}

/// Whether this is a host's name or an IP address, which may have a zone.
fn is_host(text: &str) -> bool {
    let is_name = |text: &str| {
        let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        text.chars().all(is_good)
    };
    let is_address = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
    match text.split_once('%') {
        Some((address, zone)) => is_address(address) && is_name(zone),
        None => is_address(text) || is_name(text),
    }
}

fn parse_tls(value: &str) -> Result<Tls, IndexError> {
    Ok(match value {
        "skip-verify" => Tls::SkipVerify,
        "preferred" => Tls::Preferred,
        "custom" => Tls::Custom,
        _ => match boolean("tls", value) {
            Ok(true) => Tls::Verify,
            Ok(false) => Tls::Off,
            Err(_) => {
                return Err(wrong(
                    "tls",
                    "true, false, skip-verify, preferred or custom (with --db-ca)",
                ));
            }
        },
    })
}

fn boolean(name: &str, value: &str) -> Result<bool, IndexError> {
    match value {
        "1" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(wrong(name, "true or false")),
    }
}

/// A duration as Go writes it, such as `1m30s` or `1.5s`; zero stands for `default`.
fn duration(name: &str, value: &str, default: Duration) -> Result<Duration, IndexError> {
    let bad = || wrong(name, "a duration such as 500ms, 5s or 1m30s");
    let mut total = 0.0;
    let mut rest = value;
    if value == "0" {
        return Ok(default);
    }
    while !rest.is_empty() || value.is_empty() {
        let end = rest.find(|c: char| c.is_ascii_alphabetic() || c == 'µ' || c == 'μ');
        let (number, after) = rest.split_at(end.ok_or_else(bad)?);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let is_number = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let number: f64 = number.parse().map_err(|_| bad())?;
        if !is_number {
            return Err(bad());
        }
        total += number * unit;
        rest = after;
    }
    match Duration::try_from_secs_f64(total) {
        Ok(Duration::ZERO) => Ok(default),
        Ok(duration) => Ok(duration),
        Err(_) => Err(bad()),
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MySQL {}", self.without_password())
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Dsn {
        text.parse().unwrap()
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn the_forms_of_the_go_driver_are_read() {
        let full = parse(
            "me:p@ss:w/rd@tcp(db.example:3307)/obd?tls=skip-verify&timeout=5s&readTimeout=1m30s&parseTime=true&charset=utf8mb4,utf8&loc=Asia%2FShanghai&maxAllowedPacket=0",
        );
        assert_eq!(full.user.as_deref(), Some("me"));
        assert_eq!(full.password.as_deref(), Some("p@ss:w/rd"));
        assert_eq!(full.address, tcp("db.example", 3307));
        assert_eq!(full.database, "obd");
        assert_eq!(full.tls, Tls::SkipVerify);
        assert_eq!(full.connect_timeout, Duration::from_secs(5));
        assert_eq!(full.read_timeout, Duration::from_secs(90));
        assert_eq!(full.ignored, ["parseTime", "charset", "loc"]);

        assert_eq!(parse("/db").address, tcp("127.0.0.1", 3306));
        assert_eq!(parse("u@/db").user.as_deref(), Some("u"));
        assert_eq!(parse("u@tcp/db").address, tcp("127.0.0.1", 3306));
        assert_eq!(parse("u@tcp(h)/db").address, tcp("h", 3306));
        assert_eq!(parse("tcp([::1]:99)/db").address, tcp("::1", 99));
        assert_eq!(
            parse("tcp([de:ad:be:ef::ca:fe])/db").address,
            tcp("de:ad:be:ef::ca:fe", 3306)
        );
        assert_eq!(
            parse("u:p@unix(/run/a/b.sock)/db").address,
            Address::Unix("/run/a/b.sock".into())
        );
        assert_eq!(
            parse("u@unix/db").address,
            Address::Unix("/tmp/mysql.sock".into())
        );
        assert_eq!(parse("/my%2Fdb").database, "my/db");
        assert_eq!(
            parse("/db?wait_timeout=60").session,
            ["SESSION wait_timeout = 60"]
        );
    }

    #[test]
    fn an_invalid_dsn_is_an_error_that_names_the_part() {
        for (text, names) in [
            ("user:secret@tcp(h:1)", "slash"),
            ("user:secret@tcp(h:1)/", "database"),
            ("user:secret@tcp(h:1/db", "')'"),
            ("user:secret@udp(h:1)/db", "network"),
            ("user:secret@tcp(h:99999)/db", "port"),
            ("user:secret@tcp([::1:1)/db", "']'"),
            ("user@tcp(sec!ret)/db", "host"),
            ("user@tcp(secret:h:1)/db", "host"),
            ("tcp([secret]:1)/db", "host"),
            ("user:secret@tcp(h:1)/db?tls=secret", "tls"),
            ("user:secret@tcp(h:1)/db?timeout=5", "timeout"),
            ("user:secret@tcp(h:1)/db?timeout=", "timeout"),
            ("user:secret@tcp(h:1)/db?timeout=-1s", "timeout"),
            ("user:secret@tcp(h:1)/db?parseTime=secret", "parseTime"),
            ("user:secret@tcp(h:1)/db?charset=secret", "charset"),
            ("user:secret@tcp(h:1)/db?tls=1&secret=1", "parameter 2"),
            ("user:secret@tcp(h:1)/db?&secret", "parameter 1"),
            ("user:secret@tcp(h:1)/db?secret=%ff", "value"),
            (
                "user:secret@tcp(h:1)/db?wait_timeout=1;DROP",
                "wait_timeout",
            ),
            (
                "user:secret@tcp(h:1)/db?allowAllFiles=true",
                "allowAllFiles",
            ),
        ] {
            let error = text.parse::<Dsn>().unwrap_err().to_string();
            assert!(error.contains(names), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn no_printed_form_has_the_password() {
        let dsn = parse("user:secret@tcp(h:1)/db");
        assert!(!format!("{dsn:?} {dsn}").contains("secret"));
        assert_eq!(dsn.to_string(), "MySQL user@tcp(h:1)/db");
        for (text, shown) in [
            (
                "user:secret@tcp([::1]:1)/db?tls=true",
                "user@tcp([::1]:1)/db",
            ),
            ("tcp(h)/db", "tcp(h:3306)/db"),
            // What was mistyped so that it can be read all the same.
            ("user@sec/ret@tcp(h)/db", "***@tcp(h:3306)/db"),
            ("tcp(h)/user:secret@", "tcp(h:3306)/***"),
            ("@/user%3Asecret", "tcp(127.0.0.1:3306)/***"),
        ] {
            assert_eq!(parse(text).without_password(), shown, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z:@()/?&=%0-9µ.\\[\\]]{0,60}") {
            let _ = text.parse::<Dsn>();
            let _ = duration("timeout", &text, READ_TIMEOUT);
        }

        #[test]
        fn no_part_of_a_mistyped_password_is_printed(
            before in "[a-z:@()/?&=%.\\[\\]]{0,12}",
            after in "[a-z:@()/?&=%.\\[\\]]{0,24}",
        ) {
            // Not a letter, so that it is no name, and nothing that divides a text.
            let text = format!("{before}hunter!2{after}");
            let printed = match text.parse::<Dsn>() {
                Ok(dsn) => format!("{dsn} {dsn:?} {}", dsn.without_password()),
                Err(error) => format!("{error} {error:?}"),
            };
            proptest::prop_assert!(!printed.contains("hunter!2"), "{text}: {printed}");
        }
    }
}

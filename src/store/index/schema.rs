//! The tables, in both dialects, and the version of them.

/// The version of this program's own tables. `SQLite` keeps it in `PRAGMA user_version`, `MySQL`
/// in the table [`VERSION_TABLE`].
pub(super) const VERSION: i64 = 2;

/// How tables of the version before become those of version `to`. Tables that did not exist
/// before are not named here: [`TABLES`] that are missing are always made.
pub(super) struct Migration {
    pub(super) to: i64,
    /// Each can be repeated: replicas may start at the same time.
    pub(super) mysql: &'static [&'static str],
    pub(super) sqlite: &'static str,
}

/// In ascending order; the last one leads to [`VERSION`].
pub(super) const MIGRATIONS: [Migration; 1] = [Migration {
    to: VERSION,
    mysql: &[],
    sqlite: "CREATE INDEX IF NOT EXISTS overlaybd_proxy_pushed_by_blob
  ON overlaybd_proxy_pushed (blob_digest);",
}];

/// The migrations that tables of `version` lack.
pub(super) fn migrations_after(version: i64) -> impl Iterator<Item = &'static Migration> {
    MIGRATIONS.iter().filter(move |step| step.to > version)
}

/// What the index says of tables that a later version of this program made.
pub(super) fn later_version(version: i64) -> String {
    format!(
        "its tables have version {version}, made by a later version of overlaybd-proxy; \
         this one knows {VERSION}"
    )
}

/// Where a `MySQL` server keeps the versions that its tables have had.
pub(super) const VERSION_TABLE: &str = "\
CREATE TABLE `overlaybd_proxy_schema` (
  `version` bigint NOT NULL COMMENT 'the highest one is in force',
  PRIMARY KEY (`version`)
) ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_bin;";

/// A table, and how it is made.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The columns that are read or written; there may be others.
    pub(super) columns: &'static [&'static str],
    pub(super) mysql: &'static str,
    pub(super) sqlite: &'static str,
}

/// The reference converter's two tables, to the letter, and seven of this program's own.
///
/// A table that an earlier version of this program does not have needs no new [`VERSION`]: programs of that
/// version go on beside it, and those of this one make it where it is missing.
///
/// Its own tables are ASCII: every key is, and four columns of 255 three-byte characters are
/// close to `InnoDB`'s limit of 3,072 bytes for a key.
pub(super) const TABLES: [Table; 9] = [
    Table {
        name: "overlaybd_layers",
        columns: &["host", "repo", "chain_id", "data_digest", "data_size"],
        mysql: "\
CREATE TABLE `overlaybd_layers` (
  `host` varchar(255) NOT NULL,
  `repo` varchar(255) NOT NULL,
  `chain_id` varchar(255) NOT NULL COMMENT 'chain-id of the normal image layer',
  `data_digest` varchar(255) NOT NULL COMMENT 'digest of overlaybd layer',
  `data_size` bigint(20) NOT NULL COMMENT 'size of overlaybd layer',
  PRIMARY KEY (`host`,`repo`,`chain_id`),
  KEY `index_registry_chainId` (`host`,`chain_id`) USING BTREE
) DEFAULT CHARSET=utf8;",
        sqlite: "\
CREATE TABLE IF NOT EXISTS overlaybd_layers (
  host varchar(255) NOT NULL,
  repo varchar(255) NOT NULL,
  chain_id varchar(255) NOT NULL,
  data_digest varchar(255) NOT NULL,
  data_size bigint(20) NOT NULL,
  PRIMARY KEY (host, repo, chain_id)
);
CREATE INDEX IF NOT EXISTS index_registry_chainId ON overlaybd_layers (host, chain_id);",
    },
    Table {
        name: "overlaybd_manifests",
        columns: &[
            "host",
            "repo",
            "src_digest",
            "out_digest",
            "data_size",
            "mediatype",
        ],
        mysql: "\
CREATE TABLE `overlaybd_manifests` (
  `host` varchar(255) NOT NULL,
  `repo` varchar(255) NOT NULL,
  `src_digest` varchar(255) NOT NULL COMMENT 'digest of the normal image manifest',
  `out_digest` varchar(255) NOT NULL COMMENT 'digest of overlaybd manifest',
  `data_size` bigint(20) NOT NULL COMMENT 'size of overlaybd manifest',
  `mediatype` varchar(255) NOT NULL COMMENT 'mediatype of the converted image manifest',
  PRIMARY KEY (`host`,`repo`,`src_digest`, `mediatype`),
  KEY `index_registry_src_digest` (`host`,`src_digest`) USING BTREE
) DEFAULT CHARSET=utf8;",
        sqlite: "\
CREATE TABLE IF NOT EXISTS overlaybd_manifests (
  host varchar(255) NOT NULL,
  repo varchar(255) NOT NULL,
  src_digest varchar(255) NOT NULL,
  out_digest varchar(255) NOT NULL,
  data_size bigint(20) NOT NULL,
  mediatype varchar(255) NOT NULL,
  PRIMARY KEY (host, repo, src_digest, mediatype)
);
CREATE INDEX IF NOT EXISTS index_registry_src_digest ON overlaybd_manifests (host, src_digest);",
    },
    Table {
        name: "overlaybd_proxy_chains",
        columns: &["chain_id", "variant", "data_digest", "data_size"],
        mysql: "\
CREATE TABLE `overlaybd_proxy_chains` (
  `chain_id` varchar(255) NOT NULL,
  `variant` varchar(255) NOT NULL COMMENT 'settings and format version of the conversion',
  `data_digest` varchar(255) NOT NULL,
  `data_size` bigint NOT NULL,
  PRIMARY KEY (`chain_id`,`variant`),
  KEY `by_data` (`chain_id`,`data_digest`)
) ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_bin;",
        sqlite: "\
CREATE TABLE IF NOT EXISTS overlaybd_proxy_chains (
  chain_id varchar(255) NOT NULL,
  variant varchar(255) NOT NULL,
  data_digest varchar(255) NOT NULL,
  data_size bigint NOT NULL,
  PRIMARY KEY (chain_id, variant)
) WITHOUT ROWID;",
    },
    Table {
        name: "overlaybd_proxy_layers",
        columns: &["layer_digest", "diff_id"],
        mysql: "\
CREATE TABLE `overlaybd_proxy_layers` (
  `layer_digest` varchar(255) NOT NULL COMMENT 'digest of a compressed source layer',
  `diff_id` varchar(255) NOT NULL COMMENT 'digest of the tar it was seen to inflate to',
  PRIMARY KEY (`layer_digest`)
) ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_bin;",
        sqlite: "\
CREATE TABLE IF NOT EXISTS overlaybd_proxy_layers (
  layer_digest varchar(255) NOT NULL PRIMARY KEY,
  diff_id varchar(255) NOT NULL
) WITHOUT ROWID;",
    },
    Table {
        name: "overlaybd_proxy_manifests",
        columns: &[
            "src_digest",
            "variant",
            "mediatype",
            "out_digest",
            "data_size",
        ],
        mysql: "\
CREATE TABLE `overlaybd_proxy_manifests` (
  `src_digest` varchar(255) NOT NULL,
  `variant` varchar(255) NOT NULL COMMENT 'settings and format version of the conversion',
  `mediatype` varchar(255) NOT NULL,
  `out_digest` varchar(255) NOT NULL,
  `data_size` bigint NOT NULL,
  PRIMARY KEY (`src_digest`,`variant`),
  KEY `by_out` (`src_digest`,`out_digest`)
) ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_bin;",
        sqlite: "\
CREATE TABLE IF NOT EXISTS overlaybd_proxy_manifests (
  src_digest varchar(255) NOT NULL,
  variant varchar(255) NOT NULL,
  mediatype varchar(255) NOT NULL,
  out_digest varchar(255) NOT NULL,
  data_size bigint NOT NULL,
  PRIMARY KEY (src_digest, variant)
) WITHOUT ROWID;",
    },
    Table {
        name: "overlaybd_proxy_links",
        columns: &["host", "repo", "blob_digest", "src_digest"],
        mysql: "\
CREATE TABLE `overlaybd_proxy_links` (
  `host` varchar(255) NOT NULL,
  `repo` varchar(255) NOT NULL,
  `blob_digest` varchar(255) NOT NULL COMMENT 'converted blob, manifest or config',
  `src_digest` varchar(255) NOT NULL COMMENT 'source manifest',
  PRIMARY KEY (`host`,`repo`,`blob_digest`,`src_digest`),
  KEY `by_blob` (`host`,`blob_digest`),
  KEY `by_source` (`host`,`repo`,`src_digest`)
) ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_bin;",
        sqlite: "\
CREATE TABLE IF NOT EXISTS overlaybd_proxy_links (
  host varchar(255) NOT NULL,
  repo varchar(255) NOT NULL,
  blob_digest varchar(255) NOT NULL,
  src_digest varchar(255) NOT NULL,
  PRIMARY KEY (host, repo, blob_digest, src_digest)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS overlaybd_proxy_links_by_blob
  ON overlaybd_proxy_links (host, blob_digest);
CREATE INDEX IF NOT EXISTS overlaybd_proxy_links_by_source
  ON overlaybd_proxy_links (host, repo, src_digest);",
    },
    Table {
        name: "overlaybd_proxy_pushed",
        columns: &["host", "repo", "blob_digest"],
        mysql: "\
CREATE TABLE `overlaybd_proxy_pushed` (
  `host` varchar(255) NOT NULL,
  `repo` varchar(255) NOT NULL,
  `blob_digest` varchar(255) NOT NULL COMMENT 'converted layer or manifest that was pushed',
  PRIMARY KEY (`host`,`blob_digest`,`repo`)
) ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_bin;",
        sqlite: "\
CREATE TABLE IF NOT EXISTS overlaybd_proxy_pushed (
  host varchar(255) NOT NULL,
  repo varchar(255) NOT NULL,
  blob_digest varchar(255) NOT NULL,
  PRIMARY KEY (host, blob_digest, repo)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS overlaybd_proxy_pushed_by_blob
  ON overlaybd_proxy_pushed (blob_digest);",
    },
    Table {
        name: "overlaybd_proxy_leases",
        columns: &["name", "holder", "expires_at"],
        mysql: "\
CREATE TABLE `overlaybd_proxy_leases` (
  `name` varchar(255) NOT NULL,
  `holder` varchar(255) NOT NULL,
  `expires_at` bigint NOT NULL COMMENT 'milliseconds since 1970 by the clock of this server',
  PRIMARY KEY (`name`),
  KEY `by_holder` (`holder`)
) ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_bin;",
        sqlite: "\
CREATE TABLE IF NOT EXISTS overlaybd_proxy_leases (
  name varchar(255) NOT NULL,
  holder varchar(255) NOT NULL,
  expires_at bigint NOT NULL,
  PRIMARY KEY (name)
) WITHOUT ROWID;",
    },
    Table {
        name: "overlaybd_proxy_images",
        columns: &[
            "host",
            "repo",
            "reference",
            "variant",
            "format",
            "algorithm",
            "src_digest",
            "out_digest",
            "mediatype",
            "platforms",
            "src_size",
            "out_size",
            "layers",
            "layers_made",
            "converted_at",
        ],
        mysql: "\
CREATE TABLE `overlaybd_proxy_images` (
  `host` varchar(255) NOT NULL,
  `repo` varchar(255) NOT NULL,
  `reference` varchar(255) NOT NULL COMMENT 'tag, or digest, of the normal image',
  `variant` varchar(255) NOT NULL COMMENT 'settings and format version of the conversion',
  `format` varchar(255) NOT NULL,
  `algorithm` varchar(255) NOT NULL COMMENT 'compression, or nothing',
  `src_digest` varchar(255) NOT NULL,
  `out_digest` varchar(255) NOT NULL,
  `mediatype` varchar(255) NOT NULL,
  `platforms` varchar(255) NOT NULL,
  `src_size` bigint DEFAULT NULL COMMENT 'bytes of the source layers, if known',
  `out_size` bigint NOT NULL COMMENT 'bytes of the converted layers',
  `layers` bigint NOT NULL,
  `layers_made` bigint NOT NULL COMMENT 'those that this conversion made',
  `converted_at` bigint NOT NULL COMMENT 'milliseconds since 1970 by the clock of this server',
  PRIMARY KEY (`host`,`repo`,`reference`,`variant`),
  KEY `by_time` (`converted_at`),
  KEY `by_source` (`src_digest`,`variant`)
) ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_bin;",
        sqlite: "\
CREATE TABLE IF NOT EXISTS overlaybd_proxy_images (
  host varchar(255) NOT NULL,
  repo varchar(255) NOT NULL,
  reference varchar(255) NOT NULL,
  variant varchar(255) NOT NULL,
  format varchar(255) NOT NULL,
  algorithm varchar(255) NOT NULL,
  src_digest varchar(255) NOT NULL,
  out_digest varchar(255) NOT NULL,
  mediatype varchar(255) NOT NULL,
  platforms varchar(255) NOT NULL,
  src_size bigint,
  out_size bigint NOT NULL,
  layers bigint NOT NULL,
  layers_made bigint NOT NULL,
  converted_at bigint NOT NULL,
  PRIMARY KEY (host, repo, reference, variant)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS overlaybd_proxy_images_by_time
  ON overlaybd_proxy_images (converted_at);
CREATE INDEX IF NOT EXISTS overlaybd_proxy_images_by_source
  ON overlaybd_proxy_images (src_digest, variant);",
    },
];

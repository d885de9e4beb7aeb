//! The index, the same tests on both databases.

use crate::{store_support, support};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use overlaybd_proxy::oci::{ChainId, DiffId, Digest, RepoName};
use overlaybd_proxy::store::{
    Acquired, BuiltManifest, ImageFilter, ImageOrder, ImageRecord, ImageRows, Index, IndexError,
    Lease, ManifestKey, MysqlConfig, Origin, PartsOf, RecordedImage, SharedLayer,
};
use store_support::{Recorded as _, Server};
use support::disk::Disk;

const HOST: &str = "registry.example";
const MINUTE: Duration = Duration::from_mins(1);

/// An index, and the way past it.
struct Place {
    index: Index,
    raw: Raw,
}

enum Raw {
    Sqlite(PathBuf, #[allow(dead_code)] tempfile::TempDir),
    Mysql(Arc<Server>, String),
}

impl Place {
    async fn sqlite() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.sqlite");
        let index = Index::sqlite(path.clone()).await.unwrap();
        let raw = Raw::Sqlite(path, directory);
        Some(Self { index, raw })
    }

    async fn mysql() -> Option<Self> {
        let server = tokio::task::spawn_blocking(Server::shared).await.unwrap()?;
        let database = server.database().await;
        let index = Index::mysql(config(&server.dsn(&database), true))
            .await
            .unwrap();
        let raw = Raw::Mysql(server, database);
        Some(Self { index, raw })
    }

    /// Another process's view of the same index.
    async fn second(&self) -> Index {
        match &self.raw {
            Raw::Sqlite(path, _) => Index::sqlite(path.clone()).await.unwrap(),
            Raw::Mysql(server, database) => Index::mysql(config(&server.dsn(database), false))
                .await
                .unwrap(),
        }
    }

    /// Does a statement as another tool would.
    async fn plant(&self, sql: &str) {
        match &self.raw {
            Raw::Sqlite(path, _) => {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.busy_timeout(MINUTE).unwrap();
                connection.execute_batch(sql).unwrap();
            }
            Raw::Mysql(server, database) => server.execute(database, sql).await,
        }
    }
}

fn config(dsn: &str, create_tables: bool) -> MysqlConfig {
    MysqlConfig {
        dsn: dsn.parse().unwrap(),
        create_tables,
        tls_roots: Vec::new(),
    }
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn chain(text: &str) -> ChainId {
    ChainId(digest(text))
}

fn repo(text: &str) -> RepoName {
    text.parse().unwrap()
}

fn key(repo_name: &str, source: &str) -> ManifestKey {
    ManifestKey {
        host: HOST.to_owned(),
        repo: repo(repo_name),
        source: digest(source),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
    }
}

fn mine(acquired: Acquired) -> Lease {
    match acquired {
        Acquired::Mine(lease) => lease,
        Acquired::Held { holder, .. } => panic!("held by {holder}"),
    }
}

fn is_held(acquired: &Acquired) -> bool {
    matches!(acquired, Acquired::Held { .. })
}

macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Place::sqlite().await.unwrap()).await;
            })*
        }
        mod mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(place) = super::Place::mysql().await {
                    super::$name(place).await;
                }
            })*
        }
    };
}

on_both! {
    a_layer_is_found_in_its_repository_and_from_elsewhere_on_its_host
    rows_made_with_other_settings_are_told_apart
    a_row_of_another_tool_is_foreign
    a_shared_row_is_added_only_above_the_blob_that_it_was_built_on
    a_pushed_blob_is_known_by_its_repositories
    an_unusable_row_is_passed_over_and_stays
    a_row_is_deleted_only_while_it_names_what_was_found_dead
    manifests_are_found_by_source_and_media_type
    an_image_is_recorded_as_a_whole
    an_image_has_a_row_for_each_of_its_names_and_a_tag_that_moves_changes_its_own
    an_image_that_is_found_gets_a_row_once
    an_image_without_a_tag_gets_a_row_only_where_no_other_tells_of_it
    images_are_listed_page_by_page_by_name_and_the_latest_first
    a_forgotten_image_is_converted_no_more_and_its_parts_stay_linked
    the_images_that_were_converted_first_are_forgotten_when_they_are_too_many
    an_image_is_recorded_although_operators_cannot_be_shown_it
    rows_of_images_that_cannot_be_understood_are_passed_over
    a_page_is_filled_whatever_rows_are_passed_over
    a_blob_belongs_to_what_it_was_linked_to
    values_that_the_tables_cannot_hold_are_refused
    of_eight_that_want_one_lease_one_gets_it
    a_lease_that_ran_out_is_taken_over_and_its_holder_learns_it
    a_kept_lease_outlives_its_time_and_a_lost_one_is_noticed
    the_leases_of_a_dead_holder_are_freed_and_no_others
    writers_of_the_same_rows_do_not_fail_each_other
}

async fn a_layer_is_found_in_its_repository_and_from_elsewhere_on_its_host(place: Place) {
    let index = &place.index;
    index.ping().await.unwrap();
    let (app, other) = (repo("team/app"), repo("team/other"));
    let base = chain("base");
    assert_eq!(index.find_layer(HOST, &app, &base).await.unwrap(), None);
    assert_eq!(index.find_built(&base, "v1").await.unwrap(), None);
    index
        .put_layer(HOST, &app, &base, &digest("blob"), 5_000_000_000, "v1")
        .await
        .unwrap();
    let row = index.find_layer(HOST, &app, &base).await.unwrap().unwrap();
    assert_eq!((&row.digest, row.size), (&digest("blob"), 5_000_000_000));
    assert!(row.is_variant("v1"));
    assert_eq!(index.find_layer(HOST, &other, &base).await.unwrap(), None);
    assert_eq!(
        index.find_layer("elsewhere", &app, &base).await.unwrap(),
        None
    );
    assert_eq!(
        index.find_layer(HOST, &app, &chain("x")).await.unwrap(),
        None
    );
    assert_eq!(
        index.find_built(&base, "v1").await.unwrap(),
        Some(row.clone())
    );
    let elsewhere = index.find_layer_elsewhere(HOST, &base, "v1").await.unwrap();
    assert_eq!(elsewhere, [(app.clone(), row.clone())]);
    let elsewhere = index.find_layer_elsewhere("elsewhere", &base, "v1").await;
    assert_eq!(elsewhere.unwrap(), []);
    // And from another process.
    let second = place.second().await;
    assert_eq!(
        second.find_layer(HOST, &app, &base).await.unwrap(),
        Some(row)
    );
}

async fn rows_made_with_other_settings_are_told_apart(place: Place) {
    let index = &place.index;
    let (a, b, base) = (repo("a"), repo("b"), chain("base"));
    let put = async |repo: &RepoName, blob: &str, variant: &str| {
        let blob = digest(blob);
        index
            .put_layer(HOST, repo, &base, &blob, 1, variant)
            .await
            .unwrap();
    };
    put(&b, "lz4", "lz4-4").await;
    put(&a, "zstd", "zstd-64").await;
    // The shared row of a chain stays what it was; what was built is known by its settings.
    put(&a, "lz4", "lz4-4").await;
    let row = index.find_layer(HOST, &a, &base).await.unwrap().unwrap();
    assert!(row.is_variant("zstd-64") && !row.is_variant("lz4-4"));
    for (variant, blob) in [("lz4-4", "lz4"), ("zstd-64", "zstd")] {
        let built = index.find_built(&base, variant).await.unwrap().unwrap();
        assert_eq!(built.digest, digest(blob));
        let rows = index
            .find_layer_elsewhere(HOST, &base, variant)
            .await
            .unwrap();
        assert_eq!(rows.len(), 2);
        assert!(rows[0].1.is_variant(variant), "the fitting row comes first");
    }
    assert_eq!(index.find_built(&base, "zstd-4").await.unwrap(), None);
    // More repositories than an answer has rows do not hide the one that fits.
    for n in 0..overlaybd_proxy::store::index::MAX_ELSEWHERE {
        put(&repo(&format!("a{n}")), "zstd", "zstd-64").await;
    }
    let rows = index.find_layer_elsewhere(HOST, &base, "lz4-4").await;
    let rows = rows.unwrap();
    assert_eq!(rows.len(), overlaybd_proxy::store::index::MAX_ELSEWHERE);
    assert_eq!((&rows[0].0, &rows[0].1.digest), (&b, &digest("lz4")));
}

async fn a_row_of_another_tool_is_foreign(place: Place) {
    let index = &place.index;
    let (app, base) = (repo("team/app"), chain("base"));
    let foreign = digest("made elsewhere");
    place
        .plant(&format!(
            "INSERT INTO overlaybd_layers (host, repo, chain_id, data_digest, data_size) \
             VALUES ('{HOST}', 'team/app', '{base}', '{foreign}', 77)"
        ))
        .await;
    let key = key("team/app", "source");
    place
        .plant(&format!(
            "INSERT INTO overlaybd_manifests \
             (host, repo, src_digest, out_digest, data_size, mediatype) \
             VALUES ('{HOST}', 'team/app', '{}', '{foreign}', 78, '{}')",
            key.source, key.media_type
        ))
        .await;
    let row = index.find_layer(HOST, &app, &base).await.unwrap().unwrap();
    assert_eq!(row.origin, Origin::Foreign);
    assert_eq!((row.digest, row.size), (foreign.clone(), 77));
    let elsewhere = index.find_layer_elsewhere(HOST, &base, "v1").await.unwrap();
    assert_eq!(elsewhere[0].1.origin, Origin::Foreign);
    let row = index.find_manifest(&key).await.unwrap().unwrap();
    assert_eq!((row.size, row.origin), (78, Origin::Foreign));
    assert_eq!(index.find_built(&base, "v1").await.unwrap(), None);
    assert_eq!(
        index.find_built_manifest(&key.source, "v1").await.unwrap(),
        None
    );
    // Converting anew takes no row over that another tool wrote: it may have built upon it.
    index
        .put_layer(HOST, &app, &base, &digest("ours"), 1, "v1")
        .await
        .unwrap();
    index
        .put_manifest(&key, &digest("ours"), 1, "v1")
        .await
        .unwrap();
    let row = index.find_layer(HOST, &app, &base).await.unwrap().unwrap();
    assert_eq!((row.digest, row.origin), (foreign.clone(), Origin::Foreign));
    let row = index.find_manifest(&key).await.unwrap().unwrap();
    assert_eq!((row.digest, row.origin), (foreign.clone(), Origin::Foreign));
    let built = index.find_built(&base, "v1").await.unwrap().unwrap();
    assert_eq!(built.digest, digest("ours"));
    let others = index
        .find_other_layers(HOST, &base, &built.digest)
        .await
        .unwrap();
    assert_eq!(others.len(), 1);
    assert_eq!((&others[0].0, &others[0].1.digest), (&app, &foreign));
    let none = index.find_other_layers(HOST, &base, &foreign).await;
    assert_eq!(none.unwrap(), []);
}

async fn a_shared_row_is_added_only_above_the_blob_that_it_was_built_on(place: Place) {
    let index = &place.index;
    let app = repo("app");
    let (bottom, top) = (chain("bottom"), chain("top"));
    let (theirs, ours, upper) = (digest("theirs"), digest("ours"), digest("upper"));
    let on = |below| SharedLayer {
        chain: &top,
        digest: &upper,
        size: 5,
        below: Some((&bottom, below)),
    };
    let base = |digest| SharedLayer {
        chain: &bottom,
        digest,
        size: 4,
        below: None,
    };
    // Not above nothing, not above another blob.
    assert!(!index.share_layer(HOST, &app, &on(&ours)).await.unwrap());
    assert!(index.share_layer(HOST, &app, &base(&theirs)).await.unwrap());
    assert!(!index.share_layer(HOST, &app, &base(&ours)).await.unwrap());
    assert!(!index.share_layer(HOST, &app, &on(&ours)).await.unwrap());
    assert_eq!(index.find_layer(HOST, &app, &top).await.unwrap(), None);
    // A row is replaced only while it names what was seen there.
    let row = base(&ours);
    let replaced = index.replace_shared_layer(HOST, &app, &row, &upper);
    assert!(!replaced.await.unwrap());
    let replaced = index.replace_shared_layer(HOST, &app, &row, &theirs);
    assert!(replaced.await.unwrap());
    for _ in 0..2 {
        assert!(index.share_layer(HOST, &app, &on(&ours)).await.unwrap());
    }
    let row = index.find_layer(HOST, &app, &top).await.unwrap().unwrap();
    assert_eq!((row.digest, row.size), (upper.clone(), 5));
    // Not above a row of another repository or host.
    for (host, repo) in [(HOST, &repo("other")), ("elsewhere", &app)] {
        assert!(!index.share_layer(host, repo, &on(&ours)).await.unwrap());
    }
}

async fn a_pushed_blob_is_known_by_its_repositories(place: Place) {
    let index = &place.index;
    let blob = digest("blob");
    for name in ["b", "a", "b"] {
        index.put_pushed(HOST, &repo(name), &blob).await.unwrap();
    }
    let repos = index.pushed_repos(HOST, &blob).await.unwrap();
    assert_eq!(repos, [repo("a"), repo("b")]);
    assert_eq!(index.pushed_repos("elsewhere", &blob).await.unwrap(), []);
    assert_eq!(index.pushed_repos(HOST, &digest("x")).await.unwrap(), []);
}

async fn an_unusable_row_is_passed_over_and_stays(place: Place) {
    let index = &place.index;
    let base = chain("base");
    let good = digest("good");
    for (number, (text, size)) in [
        ("", "1"),
        ("sha256:short", "1"),
        ("SHA256:UPPER", "1"),
        ("../../etc/passwd", "1"),
        (good.as_str(), "-1"),
    ]
    .into_iter()
    .enumerate()
    {
        place
            .plant(&format!(
                "INSERT INTO overlaybd_layers (host, repo, chain_id, data_digest, data_size) \
                 VALUES ('{HOST}', 'r{number}', '{base}', '{text}', {size})"
            ))
            .await;
        let repo = repo(&format!("r{number}"));
        assert_eq!(index.find_layer(HOST, &repo, &base).await.unwrap(), None);
        index
            .put_layer(HOST, &repo, &base, &good, 9, "v1")
            .await
            .unwrap();
        assert_eq!(index.find_layer(HOST, &repo, &base).await.unwrap(), None);
        let built = index.find_built(&base, "v1").await.unwrap().unwrap();
        assert_eq!((built.digest, built.size), (good.clone(), 9));
    }
    let app = repo("app");
    index
        .put_layer(HOST, &app, &base, &good, 9, "v1")
        .await
        .unwrap();
    place
        .plant(&format!(
            "INSERT INTO overlaybd_layers (host, repo, chain_id, data_digest, data_size) \
             VALUES ('{HOST}', 'Bad Name', '{base}', '{good}', 9)"
        ))
        .await;
    let rows = index.find_layer_elsewhere(HOST, &base, "v1").await.unwrap();
    assert_eq!(
        rows.len(),
        1,
        "a repository of no repository's name is passed over"
    );
}

async fn a_row_is_deleted_only_while_it_names_what_was_found_dead(place: Place) {
    let index = &place.index;
    let (app, base) = (repo("app"), chain("base"));
    let (old, new) = (digest("old"), digest("new"));
    index
        .put_layer(HOST, &app, &base, &new, 1, "v1")
        .await
        .unwrap();
    assert!(!index.delete_layer(HOST, &app, &base, &old).await.unwrap());
    assert!(index.find_layer(HOST, &app, &base).await.unwrap().is_some());
    assert!(index.delete_layer(HOST, &app, &base, &new).await.unwrap());
    assert_eq!(index.find_layer(HOST, &app, &base).await.unwrap(), None);
    let key = key("app", "source");
    index.put_manifest(&key, &new, 1, "v1").await.unwrap();
    assert!(!index.delete_manifest(&key, &old).await.unwrap());
    assert!(index.find_manifest(&key).await.unwrap().is_some());
    assert!(index.delete_manifest(&key, &new).await.unwrap());
    assert_eq!(index.find_manifest(&key).await.unwrap(), None);
}

async fn manifests_are_found_by_source_and_media_type(place: Place) {
    let index = &place.index;
    let oci = key("app", "source");
    let docker = ManifestKey {
        media_type: "application/vnd.docker.distribution.manifest.v2+json".to_owned(),
        ..oci.clone()
    };
    index
        .put_manifest(&oci, &digest("out"), 1234, "v1")
        .await
        .unwrap();
    index
        .put_manifest(&oci, &digest("out"), 1234, "v1")
        .await
        .unwrap();
    let row = index.find_manifest(&oci).await.unwrap().unwrap();
    assert_eq!((&row.digest, row.size), (&digest("out"), 1234));
    assert!(row.is_variant("v1"));
    assert_eq!(index.find_manifest(&docker).await.unwrap(), None);
    assert_eq!(
        index.find_manifest(&key("other", "source")).await.unwrap(),
        None
    );
    let (media_type, built) = index
        .find_built_manifest(&oci.source, "v1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((media_type, built), (oci.media_type, row));
    assert_eq!(
        index
            .find_built_manifest(&docker.source, "v2")
            .await
            .unwrap(),
        None
    );
}

async fn an_image_is_recorded_as_a_whole(place: Place) {
    let index = &place.index;
    let (app, pushed) = (repo("app"), repo("pushed/app"));
    let [source, entry, root, made, layer] =
        ["source", "entry", "root", "made", "layer"].map(digest);
    let manifest = |source, digest, size| BuiltManifest {
        source,
        variant: "v1".to_owned(),
        media_type: "application/vnd.oci.image.manifest.v1+json",
        digest,
        size,
    };
    let rows = ImageRows {
        host: HOST,
        repo: &app,
        links: vec![
            PartsOf {
                source: &source,
                parts: vec![root.clone(), made.clone(), layer.clone(), layer.clone()],
            },
            PartsOf {
                source: &entry,
                parts: vec![made.clone(), layer.clone()],
            },
        ],
        manifests: vec![manifest(&entry, &made, 7), manifest(&source, &root, 8)],
        pushed_to: Some(("other.example", &pushed)),
        record: None,
    };
    // The second time changes nothing.
    for _ in 0..2 {
        index.record_image(&rows).await.unwrap();
    }
    let other = place.second().await;
    for (source, blob, is_linked) in [
        (&source, &root, true),
        (&source, &layer, true),
        (&entry, &made, true),
        (&entry, &root, false),
    ] {
        let found = other.is_linked(HOST, &app, blob, source).await.unwrap();
        assert_eq!(found, is_linked, "{source} {blob}");
    }
    for (source, made, size) in [(&entry, &made, 7), (&source, &root, 8)] {
        let found = other.find_built_manifest(source, "v1").await.unwrap();
        let (_, row) = found.unwrap();
        assert_eq!((&row.digest, row.size), (made, size));
        let is_pushed = other.is_pushed("other.example", &pushed, made).await;
        assert!(is_pushed.unwrap());
    }
    let bad = ImageRows {
        host: "",
        ..rows.clone()
    };
    let refused = index.record_image(&bad).await.unwrap_err();
    assert!(matches!(refused, IndexError::Value { what: "host", .. }));
}

/// The image `repo:reference` of a source, converted with the settings `v1`.
fn image(repo_name: &str, reference: &str, source: &str) -> ImageRecord {
    ImageRecord {
        host: HOST.to_owned(),
        repo: repo(repo_name),
        reference: reference.parse().unwrap(),
        variant: "v1".to_owned(),
        format: "native".to_owned(),
        algorithm: Some("zstd".to_owned()),
        source: digest(source),
        digest: digest(&format!("{source} converted")),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        platforms: vec!["linux/amd64".to_owned(), "linux/arm64/v8".to_owned()],
        source_bytes: Some(5_000_000_000),
        bytes: 6_000_000_000,
        layers: 3,
        layers_made: 2,
    }
}

/// Records an image as its conversion does.
async fn converted(index: &Index, image: &ImageRecord) {
    let rows = ImageRows {
        host: &image.host,
        repo: &image.repo,
        links: vec![PartsOf {
            source: &image.source,
            parts: vec![image.digest.clone(), digest("layer")],
        }],
        manifests: vec![BuiltManifest {
            source: &image.source,
            variant: image.variant.clone(),
            media_type: &image.media_type,
            digest: &image.digest,
            size: 7,
        }],
        pushed_to: None,
        record: Some(image.clone()),
    };
    index.record_image(&rows).await.unwrap();
}

async fn all(index: &Index) -> Vec<RecordedImage> {
    let every = ImageFilter::default();
    index
        .images(&every, ImageOrder::Name, None, 1000)
        .await
        .unwrap()
}

async fn names(index: &Index) -> Vec<String> {
    let name = |one: &RecordedImage| format!("{}:{}", one.image.repo, one.image.reference);
    all(index).await.iter().map(name).collect()
}

async fn an_image_has_a_row_for_each_of_its_names_and_a_tag_that_moves_changes_its_own(
    place: Place,
) {
    let index = &place.index;
    let before = std::time::SystemTime::now() - MINUTE;
    let (one, latest) = (image("app", "1", "a"), image("app", "latest", "a"));
    let turbo = ImageRecord {
        variant: "turbo v2".to_owned(),
        format: "turbo".to_owned(),
        algorithm: None,
        source_bytes: None,
        platforms: Vec::new(),
        ..one.clone()
    };
    for image in [&one, &latest, &turbo] {
        converted(index, image).await;
    }
    let found = all(&place.second().await).await;
    let images: Vec<ImageRecord> = found.iter().map(|one| one.image.clone()).collect();
    assert_eq!(images, [turbo.clone(), one.clone(), latest]);
    assert!(found.iter().all(|one| one.time() > before), "{found:?}");

    let moved = image("app", "latest", "b");
    converted(index, &moved).await;
    let images: Vec<ImageRecord> = all(index).await.into_iter().map(|one| one.image).collect();
    assert_eq!(images, [turbo, one, moved]);
}

async fn an_image_that_is_found_gets_a_row_once(place: Place) {
    let index = &place.index;
    converted(index, &image("app", "1", "a")).await;
    let found = ImageRecord {
        source_bytes: None,
        platforms: Vec::new(),
        layers_made: 0,
        ..image("mirror/app", "2", "a")
    };
    assert!(index.note_image(&found).await.unwrap());
    assert!(!index.note_image(&found).await.unwrap());
    assert!(!index.note_image(&image("app", "1", "a")).await.unwrap());
    let rows = all(index).await;
    assert_eq!(rows[0].image, image("app", "1", "a"));
    // What is known of the same image elsewhere is known here.
    let expected = ImageRecord {
        layers_made: 0,
        ..image("mirror/app", "2", "a")
    };
    assert_eq!(rows[1].image, expected);
    // The tag moves to an image that nothing else is known of.
    let other = ImageRecord {
        source_bytes: None,
        ..image("mirror/app", "2", "b")
    };
    assert!(index.note_image(&other).await.unwrap());
    assert_eq!(all(index).await[1].image, other);
}

async fn an_image_without_a_tag_gets_a_row_only_where_no_other_tells_of_it(place: Place) {
    let index = &place.index;
    let by_digest = |source: &str| image("app", digest(source).as_str(), source);
    converted(index, &image("app", "1", "a")).await;
    converted(index, &by_digest("a")).await;
    converted(index, &by_digest("b")).await;
    let images: Vec<ImageRecord> = all(index).await.into_iter().map(|one| one.image).collect();
    assert_eq!(images, [image("app", "1", "a"), by_digest("b")]);
}

async fn images_are_listed_page_by_page_by_name_and_the_latest_first(place: Place) {
    let index = &place.index;
    for (repo, tag) in [
        ("b", "1"),
        ("a", "2"),
        ("a/c", "1"),
        ("a", "10"),
        ("a", "X"),
    ] {
        converted(index, &image(repo, tag, &format!("{repo}{tag}"))).await;
    }
    let expected = ["a:10", "a:2", "a:X", "a/c:1", "b:1"];
    assert_eq!(names(index).await, expected);
    // Three in one moment: the order is that of names then, and no page leaves one out.
    place
        .plant(
            "UPDATE overlaybd_proxy_images SET converted_at = 1000; \
             UPDATE overlaybd_proxy_images SET converted_at = 2000 WHERE repo = 'b'; \
             UPDATE overlaybd_proxy_images SET converted_at = 500 WHERE repo = 'a/c';",
        )
        .await;
    for (order, expected) in [
        (ImageOrder::Name, expected),
        (ImageOrder::Newest, ["b:1", "a:X", "a:2", "a:10", "a/c:1"]),
    ] {
        for limit in 1..=6 {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let every = ImageFilter::default();
                let page = index.images(&every, order, after.as_ref(), limit);
                let page = page.await.unwrap();
                assert!(page.len() <= limit);
                let Some(last) = page.last() else { break };
                after = Some(last.position());
                let name =
                    |one: &RecordedImage| format!("{}:{}", one.image.repo, one.image.reference);
                seen.extend(page.iter().map(name));
            }
            assert_eq!(seen, expected, "{order:?} {limit}");
        }
    }
    let count = async |filter: ImageFilter| {
        let found = index.images(&filter, ImageOrder::Newest, None, 100);
        found.await.unwrap().len()
    };
    let text = |text: &str| Some(text.to_owned());
    for (host, repo, reference, format, expected) in [
        (None, text("a"), None, None, 3),
        (text(HOST), text("a"), text("2"), text("native"), 1),
        (None, None, text("1"), None, 2),
        (None, None, None, text("turbo"), 0),
        (text("registry.exampl"), None, None, None, 0),
        (None, text("é' OR 1 = 1 --"), None, None, 0),
        (None, text("A"), None, None, 0),
    ] {
        let filter = ImageFilter {
            host,
            repo,
            reference,
            format,
        };
        assert_eq!(count(filter.clone()).await, expected, "{filter:?}");
    }
}

async fn a_forgotten_image_is_converted_no_more_and_its_parts_stay_linked(place: Place) {
    let index = &place.index;
    let (one, two) = (image("app", "1", "a"), image("app", "2", "a"));
    let turbo = ImageRecord {
        variant: "turbo v2".to_owned(),
        format: "turbo".to_owned(),
        ..one.clone()
    };
    for image in [&one, &two, &turbo] {
        converted(index, image).await;
    }
    let moved = image("app", "1", "another");
    assert!(!index.forget_image(&moved).await.unwrap());
    assert!(index.forget_image(&one).await.unwrap());
    assert!(!index.forget_image(&one).await.unwrap());
    let left: Vec<ImageRecord> = all(index).await.into_iter().map(|one| one.image).collect();
    assert_eq!(left, [turbo.clone(), two]);
    let found = async |variant: &str| {
        let found = index.find_built_manifest(&one.source, variant).await;
        found.unwrap().is_some()
    };
    assert!(!found("v1").await);
    assert!(found("turbo v2").await);
    let mut parts = vec![one.digest.clone(), digest("layer")];
    parts.sort();
    let linked = index.image_parts(HOST, &one.repo, &one.source);
    assert_eq!(linked.await.unwrap(), parts);
    let other = repo("other");
    let elsewhere = index.image_parts(HOST, &other, &one.source);
    assert_eq!(elsewhere.await.unwrap(), []);
}

async fn the_images_that_were_converted_first_are_forgotten_when_they_are_too_many(place: Place) {
    let index = &place.index;
    for n in 0..6 {
        converted(index, &image("app", &n.to_string(), &n.to_string())).await;
    }
    place
        .plant(
            "UPDATE overlaybd_proxy_images SET converted_at = 1000; \
             UPDATE overlaybd_proxy_images SET converted_at = 10 \
               WHERE reference = '2' OR reference = '4';",
        )
        .await;
    assert_eq!(index.trim_images(6).await.unwrap(), 0);
    assert_eq!(index.trim_images(3).await.unwrap(), 3);
    assert_eq!(names(index).await, ["app:1", "app:3", "app:5"]);
    let built = index.find_built_manifest(&digest("2"), "v1").await.unwrap();
    assert!(built.is_some(), "only what is shown is forgotten");
}

async fn an_image_is_recorded_although_operators_cannot_be_shown_it(place: Place) {
    let index = &place.index;
    let long = ImageRecord {
        format: "x".repeat(256),
        ..image("app", "0", "long")
    };
    converted(index, &long).await;
    place.plant("DROP TABLE overlaybd_proxy_images").await;
    let without = image("app", "1", "a");
    converted(index, &without).await;
    for image in [&long, &without] {
        let built = index.find_built_manifest(&image.source, "v1").await;
        assert!(built.unwrap().is_some());
        let linked = index.is_linked(HOST, &image.repo, &image.digest, &image.source);
        assert!(linked.await.unwrap());
    }
}

async fn rows_of_images_that_cannot_be_understood_are_passed_over(place: Place) {
    let index = &place.index;
    for reference in ["1", "2", "3", "4"] {
        converted(index, &image("app", reference, reference)).await;
    }
    place
        .plant(
            "UPDATE overlaybd_proxy_images SET src_digest = 'x' WHERE reference = '1'; \
             UPDATE overlaybd_proxy_images SET layers = -1 WHERE reference = '2'; \
             UPDATE overlaybd_proxy_images SET converted_at = 9223372036854775807 \
               WHERE reference = '3';",
        )
        .await;
    assert_eq!(names(index).await, ["app:3", "app:4"]);
    // Times after the year 9999 cannot be written.
    let latest = all(index).await[0].time();
    let since = latest.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(since.as_secs(), 253_402_300_799);
}

async fn a_page_is_filled_whatever_rows_are_passed_over(place: Place) {
    let index = &place.index;
    for tag in ["1", "2", "3", "4", "5", "6"] {
        converted(index, &image("app", tag, tag)).await;
    }
    place
        .plant(
            "UPDATE overlaybd_proxy_images SET layers = -1 \
             WHERE reference IN ('1', '2', '4')",
        )
        .await;
    let page = async |order, after: Option<&RecordedImage>, limit| {
        let (every, after) = (ImageFilter::default(), after.map(RecordedImage::position));
        let found = index.images(&every, order, after.as_ref(), limit);
        found.await.unwrap()
    };
    let tags = |page: &[RecordedImage]| {
        let tags = page.iter().map(|one| one.image.reference.to_string());
        tags.collect::<Vec<_>>()
    };
    let by_name = page(ImageOrder::Name, None, 2).await;
    assert_eq!(tags(&by_name), ["3", "5"]);
    let rest = page(ImageOrder::Name, by_name.last(), 2).await;
    assert_eq!(tags(&rest), ["6"]);
    let one = page(ImageOrder::Newest, Some(&by_name[1]), 1).await;
    assert_eq!(tags(&one), ["3"]);
    assert_eq!(page(ImageOrder::Name, None, 3).await.len(), 3);
    assert_eq!(page(ImageOrder::Name, None, 4).await.len(), 3);
}

async fn a_blob_belongs_to_what_it_was_linked_to(place: Place) {
    let index = &place.index;
    let (a, b) = (repo("a"), repo("b"));
    let blobs: Vec<Digest> = (0..250).map(|n| digest(&n.to_string())).collect();
    let mut sources = [digest("one"), digest("two")];
    sources.sort();
    for source in &sources {
        index.link(HOST, &a, source, &blobs).await.unwrap();
        index.link(HOST, &a, source, &blobs).await.unwrap();
    }
    index
        .link(HOST, &b, &sources[0], &blobs[..1])
        .await
        .unwrap();
    index.link(HOST, &b, &sources[0], &[]).await.unwrap();
    assert_eq!(index.sources(HOST, &a, &blobs[249]).await.unwrap(), sources);
    assert_eq!(index.sources(HOST, &b, &blobs[249]).await.unwrap(), []);
    assert_eq!(index.sources("else", &a, &blobs[0]).await.unwrap(), []);
    for (repo, blob, source, is_linked) in [
        (&a, &blobs[249], &sources[1], true),
        (&b, &blobs[0], &sources[0], true),
        (&b, &blobs[1], &sources[0], false),
        (&b, &blobs[0], &sources[1], false),
    ] {
        let found = index.is_linked(HOST, repo, blob, source).await.unwrap();
        assert_eq!(found, is_linked, "{repo} {blob} {source}");
    }
    index.unlink(HOST, &a, &sources[0]).await.unwrap();
    assert_eq!(
        index.sources(HOST, &a, &blobs[0]).await.unwrap(),
        [sources[1].clone()]
    );
    assert_eq!(
        index.sources(HOST, &b, &blobs[0]).await.unwrap(),
        [sources[0].clone()]
    );
}

async fn values_that_the_tables_cannot_hold_are_refused(place: Place) {
    let index = &place.index;
    let (app, base, blob) = (repo("app"), chain("base"), digest("blob"));
    let long = "h".repeat(256);
    for host in ["", "h\u{f6}st", long.as_str()] {
        let result = index.put_layer(host, &app, &base, &blob, 1, "v1").await;
        assert!(matches!(
            result,
            Err(IndexError::Value { what: "host", .. })
        ));
    }
    let longest = "h".repeat(255);
    index
        .put_layer(&longest, &repo(&longest), &base, &blob, 1, &longest)
        .await
        .unwrap();
    index
        .link(
            &longest,
            &repo(&longest),
            &blob,
            std::slice::from_ref(&blob),
        )
        .await
        .unwrap();
    let result = index
        .put_layer(HOST, &app, &base, &blob, u64::MAX, "v1")
        .await;
    assert!(matches!(
        result,
        Err(IndexError::Value { what: "size", .. })
    ));
}

async fn of_eight_that_want_one_lease_one_gets_it(place: Place) {
    let indexes = [place.index.clone(), place.second().await];
    for round in 0..5 {
        let name = format!("chain {round}");
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let (index, name) = (indexes[n % 2].clone(), name.clone());
                // Half of them under one holder's name: that must not help them.
                let holder = format!("holder{}", n.min(4));
                tokio::spawn(async move { index.acquire(&name, &holder, MINUTE).await.unwrap() })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            if let Acquired::Mine(lease) = task.await.unwrap() {
                winners.push(lease);
            }
        }
        assert_eq!(winners.len(), 1);
        assert!(indexes[1].release(&winners[0]).await.unwrap());
        let again = indexes[0].acquire(&name, "later", MINUTE).await.unwrap();
        mine(again);
    }
}

async fn a_lease_that_ran_out_is_taken_over_and_its_holder_learns_it(place: Place) {
    let index = &place.index;
    let first = mine(index.acquire("chain", "first", MINUTE).await.unwrap());
    match index.acquire("chain", "second", MINUTE).await.unwrap() {
        Acquired::Held { holder, remaining } => {
            assert_eq!(holder, "first");
            assert!(remaining <= MINUTE && !remaining.is_zero());
        }
        Acquired::Mine(_) => panic!("two have it"),
    }
    assert!(
        index
            .heartbeat(&first, Duration::from_millis(1))
            .await
            .unwrap()
    );
    tokio::time::sleep(Duration::from_millis(50)).await;
    let second = mine(index.acquire("chain", "second", MINUTE).await.unwrap());
    assert!(!index.heartbeat(&first, MINUTE).await.unwrap());
    assert!(
        !index.release(&first).await.unwrap(),
        "it is not the first's to give back"
    );
    assert!(is_held(
        &index.acquire("chain", "third", MINUTE).await.unwrap()
    ));
    assert!(index.heartbeat(&second, MINUTE).await.unwrap());
    assert!(index.heartbeat(&second, MINUTE).await.unwrap());
    assert!(index.release(&second).await.unwrap());
}

async fn a_kept_lease_outlives_its_time_and_a_lost_one_is_noticed(place: Place) {
    let index = &place.index;
    let ttl = Duration::from_secs(1);
    let lease = mine(index.acquire("chain", "first", ttl).await.unwrap());
    let keeper = lease.keep(index.clone(), ttl);
    tokio::time::sleep(ttl * 2).await;
    assert!(is_held(
        &index.acquire("chain", "second", ttl).await.unwrap()
    ));
    assert!(!keeper.is_lost());
    keeper.release().await;
    let lease = mine(index.acquire("chain", "second", ttl).await.unwrap());
    let keeper = lease.keep(index.clone(), ttl);
    place
        .plant("UPDATE overlaybd_proxy_leases SET holder = 'thief/1'")
        .await;
    tokio::time::timeout(MINUTE, keeper.lost()).await.unwrap();
    assert!(keeper.is_lost());
}

async fn the_leases_of_a_dead_holder_are_freed_and_no_others(place: Place) {
    let index = &place.index;
    for (name, holder) in [("a", "12-34"), ("b", "12-34"), ("c", "12-345"), ("d", "12")] {
        mine(index.acquire(name, holder, MINUTE).await.unwrap());
    }
    assert_eq!(index.release_all("12-34").await.unwrap(), 2);
    for name in ["a", "b"] {
        mine(index.acquire(name, "next", MINUTE).await.unwrap());
    }
    for name in ["c", "d"] {
        assert!(is_held(&index.acquire(name, "next", MINUTE).await.unwrap()));
    }
}

async fn writers_of_the_same_rows_do_not_fail_each_other(place: Place) {
    let indexes = [place.index.clone(), place.second().await];
    let tasks: Vec<_> = (0..8)
        .map(|n: usize| {
            let index = indexes[n % 2].clone();
            tokio::spawn(async move {
                let app = repo("app");
                for round in 0..10 {
                    let chain = chain(&(round % 3).to_string());
                    let blob = digest(&(round % 3).to_string());
                    let put = index.put_layer(HOST, &app, &chain, &blob, 1, "v1");
                    put.await.unwrap();
                    let mut blobs: Vec<_> = (0..20).map(|n| digest(&n.to_string())).collect();
                    blobs.rotate_left(n);
                    let source = digest(&(round % 2).to_string());
                    index.link(HOST, &app, &source, &blobs).await.unwrap();
                    if n == 0 {
                        index.unlink(HOST, &app, &source).await.unwrap();
                    }
                    let row = index.find_layer(HOST, &app, &chain).await.unwrap().unwrap();
                    assert_eq!(row.digest, blob);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_is_no_index_is_an_error_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    std::fs::write(
        &path,
        "this is no database, but it is long enough to be one".repeat(99),
    )
    .unwrap();
    let error = Index::sqlite(path.clone()).await.unwrap_err();
    assert!(error.to_string().contains("remove the file"), "{error}");
    std::fs::remove_file(&path).unwrap();
    drop(Index::sqlite(path.clone()).await.unwrap());
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    let error = Index::sqlite(path).await.unwrap_err();
    assert!(error.to_string().contains("later version"), "{error}");
}

#[tokio::test]
async fn a_log_is_shrunk_and_its_rows_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    let index = Index::sqlite(path.clone()).await.unwrap();
    let (layer, diff) = (digest("layer"), DiffId(digest("tar")));
    index.put_diff_id(&layer, &diff).await.unwrap();
    let log = || std::fs::metadata(directory.path().join("index.sqlite-wal")).unwrap();
    assert!(log().len() > 0);
    index.shrink();
    assert_eq!(log().len(), 0);
    assert_eq!(index.find_diff_id(&layer).await.unwrap(), Some(diff));
    index.close().await;
}

#[tokio::test]
async fn a_file_of_the_first_version_is_migrated_and_keeps_its_rows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    let index = Index::sqlite(path.clone()).await.unwrap();
    let (layer, diff) = (digest("layer"), DiffId(digest("tar")));
    index.put_diff_id(&layer, &diff).await.unwrap();
    index.close().await;
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("DROP INDEX overlaybd_proxy_pushed_by_blob; PRAGMA user_version = 1;")
        .unwrap();
    drop(raw);

    let index = Index::sqlite(path.clone()).await.unwrap();
    assert_eq!(index.find_diff_id(&layer).await.unwrap(), Some(diff));
    index.close().await;
    let raw = rusqlite::Connection::open(&path).unwrap();
    let version: i64 = raw
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    let indexes: i64 = raw
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name = 'overlaybd_proxy_pushed_by_blob'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!((version, indexes), (2, 1));
}

#[tokio::test]
async fn a_file_of_an_earlier_program_gets_the_table_of_images_and_can_be_used_by_that_still() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    let index = Index::sqlite(path.clone()).await.unwrap();
    let (layer, diff) = (digest("layer"), DiffId(digest("tar")));
    index.put_diff_id(&layer, &diff).await.unwrap();
    index.close().await;
    let raw = rusqlite::Connection::open(&path).unwrap();
    let version = || {
        let version = raw.query_row("PRAGMA user_version", [], |row| row.get(0));
        version.unwrap()
    };
    let before: i64 = version();
    raw.execute_batch("DROP TABLE overlaybd_proxy_images")
        .unwrap();

    let index = Index::sqlite(path.clone()).await.unwrap();
    assert_eq!(index.find_diff_id(&layer).await.unwrap(), Some(diff));
    converted(&index, &image("app", "1", "a")).await;
    assert_eq!(names(&index).await, ["app:1"]);
    // That program refuses a file with a higher version.
    let after: i64 = version();
    assert_eq!((before, after), (2, 2));
}

#[tokio::test]
async fn a_file_of_an_earlier_program_is_read_on_a_disk_that_cannot_be_written() {
    let Some(disk) = Disk::new("8m") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("index.sqlite");
    let index = Index::sqlite(made.clone()).await.unwrap();
    let (layer, diff) = (digest("layer"), DiffId(digest("tar")));
    index.put_diff_id(&layer, &diff).await.unwrap();
    let raw = rusqlite::Connection::open(&made).unwrap();
    raw.execute_batch("DROP TABLE overlaybd_proxy_images; PRAGMA wal_checkpoint(TRUNCATE);")
        .unwrap();
    let path = disk.path().join("index.sqlite");
    std::fs::copy(&made, &path).unwrap();
    disk.remount("ro");

    let index = Index::sqlite(path.clone()).await.unwrap();
    assert!(index.read_only().await.unwrap().is_some());
    let found = index.find_diff_id(&layer).await.unwrap();
    assert_eq!(found.as_ref(), Some(&diff));
    // Nobody can be shown the images that it does not know.
    let every = ImageFilter::default();
    let images = index.images(&every, ImageOrder::Name, None, 1).await;
    assert!(images.is_err(), "{images:?}");
    index.close().await;

    disk.remount("rw");
    let index = Index::sqlite(path).await.unwrap();
    assert!(names(&index).await.is_empty());
    assert_eq!(index.find_diff_id(&layer).await.unwrap(), Some(diff));
    index.close().await;
}

#[tokio::test]
async fn images_whose_converted_manifest_is_gone_are_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let index = Index::sqlite(directory.path().join("index.sqlite"))
        .await
        .unwrap();
    for n in 0..600 {
        converted(&index, &image("app", &n.to_string(), &(n % 3).to_string())).await;
    }
    let kept = image("app", "x", "0").digest;
    let pushed = image("app", "x", "1").digest;
    index.put_pushed(HOST, &repo("app"), &pushed).await.unwrap();
    let there = kept.clone();
    let forgotten = index.sweep(move |digest| *digest == there).await.unwrap();
    // 200 of images, and the one that the source became.
    assert_eq!(forgotten, 201);
    let left = all(&index).await;
    assert_eq!(left.len(), 400);
    assert!(
        left.iter()
            .all(|one| [&kept, &pushed].contains(&&one.image.digest))
    );
}

//! The images that a registry's notification says were pushed.
//!
//! Sources: the notifications of distribution (`notifications/event.go`), whose form GitLab, Azure
//! and others have too; Harbor's webhooks (`src/pkg/notifier/model/event.go`) and its `CloudEvents`;
//! zot's `CloudEvents` (`pkg/extensions/events`); the webhooks of Docker Hub; GitHub's
//! `registry_package` and `package` events; Amazon ECR's events of `EventBridge`; Artifact
//! Registry's messages of Pub/Sub.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Most images of one notification.
pub(super) const MAX_IMAGES: usize = 256;
/// What zot calls its event of a tag.
const ZOT_UPDATED: &str = "zotregistry.image.updated";

/// An image that was pushed, as the registry names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pushed {
    /// The registry's host, if the notification says it.
    pub(super) registry: Option<String>,
    pub(super) repository: String,
    pub(super) tag: String,
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    let text = value.pointer(pointer)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

fn pushed(registry: Option<&str>, repository: Option<&str>, tag: Option<&str>) -> Option<Pushed> {
    Some(Pushed {
        registry: registry.map(ToOwned::to_owned),
        repository: repository?.to_owned(),
        tag: tag?.to_owned(),
    })
}

/// `HOST/REPOSITORY:TAG`.
fn named(name: &str) -> Option<Pushed> {
    let (host, rest) = name.split_once('/')?;
    let (repository, tag) = rest.rsplit_once(':')?;
    let tag = Some(tag).filter(|tag| !tag.is_empty() && !tag.contains('/'));
    pushed(Some(host), Some(repository), tag)
}

/// What a service is to be answered that asks whether notifications are wanted: Azure's Event Grid.
pub(super) fn handshake(body: &Value) -> Option<Value> {
    let event = body.as_array()?.first()?;
    let kind = event["eventType"].as_str()?;
    let code = event["data"]["validationCode"].as_str()?;
    (kind == "Microsoft.EventGrid.SubscriptionValidationEvent")
        .then(|| json!({ "validationResponse": code }))
}

/// The images that were pushed; none of what else there may be notifications of (pulls, deletions,
/// blobs, manifests without tags). `None` where this is no notification that is known.
pub(super) fn images(body: &Value) -> Option<Vec<Pushed>> {
    if let Some(events) = body["events"].as_array() {
        return Some(
            events
                .iter()
                .take(MAX_IMAGES)
                .filter_map(of_distribution)
                .collect(),
        );
    }
    // Azure's webhooks have one such event, its Event Grid a list.
    if let Some(events) = body.as_array() {
        let events = events.iter().take(MAX_IMAGES);
        return Some(
            events
                .filter_map(|event| of_distribution(&event["data"]))
                .collect(),
        );
    }
    if body["target"].is_object() && body["action"].is_string() {
        return Some(of_distribution(body).into_iter().collect());
    }
    let event_type = body["type"].as_str().unwrap_or_default();
    if event_type.ends_with(ZOT_UPDATED) {
        let data = &body["data"];
        let tag = text(data, "/reference").filter(|tag| !tag.contains(':'));
        return Some(pushed(None, text(data, "/name"), tag).into_iter().collect());
    }
    if body["event_data"].is_object() {
        let is_push = event_type == "PUSH_ARTIFACT";
        return Some(of_harbor(&body["event_data"], is_push));
    }
    if event_type.starts_with("harbor.") {
        let is_push = event_type == "harbor.artifact.pushed";
        return Some(of_harbor(&body["data"], is_push));
    }
    if body["push_data"].is_object() {
        let (repository, tag) = (
            text(body, "/repository/repo_name"),
            text(body, "/push_data/tag"),
        );
        return Some(
            pushed(Some("docker.io"), repository, tag)
                .into_iter()
                .collect(),
        );
    }
    for package in ["registry_package", "package"] {
        if body[package].is_object() {
            return Some(of_github(body, &body[package]).into_iter().collect());
        }
    }
    if body["source"] == "aws.ecr" {
        return Some(of_ecr(body).into_iter().collect());
    }
    if body["message"]["data"].is_string() {
        return of_pubsub(body);
    }
    // GitHub tells once that it will notify.
    let is_ping = body["zen"].is_string() && body["hook"].is_object();
    (is_ping || event_type.starts_with("zotregistry.")).then(Vec::new)
}

fn of_distribution(event: &Value) -> Option<Pushed> {
    if event["action"] != "push" {
        return None;
    }
    let target = &event["target"];
    pushed(
        text(event, "/request/host"),
        text(target, "/repository"),
        text(target, "/tag"),
    )
}

fn of_harbor(data: &Value, is_push: bool) -> Vec<Pushed> {
    let resources = data["resources"].as_array().filter(|_| is_push);
    let repository = text(data, "/repository/repo_full_name");
    let of = |resource: &Value| {
        // HOST/REPOSITORY:TAG, or with a digest.
        let host = text(resource, "/resource_url").and_then(|url| url.split('/').next());
        pushed(host, repository, text(resource, "/tag"))
    };
    let resources = resources.into_iter().flatten().take(MAX_IMAGES);
    resources.filter_map(of).collect()
}

fn of_github(body: &Value, package: &Value) -> Option<Pushed> {
    let is_container = text(package, "/package_type")?.eq_ignore_ascii_case("container");
    let is_push = matches!(body["action"].as_str(), Some("published" | "updated"));
    if !is_container || !is_push {
        return None;
    }
    let version = &package["package_version"];
    let tag = text(version, "/container_metadata/tag/name");
    // Without a namespace of its own, its owner's name is that.
    let namespace = text(package, "/namespace").or_else(|| text(package, "/owner/login"))?;
    let repository = format!("{namespace}/{}", text(package, "/name")?).to_lowercase();
    let by_url = text(version, "/package_url").and_then(named);
    by_url.or_else(|| pushed(Some("ghcr.io"), Some(&repository), tag))
}

fn of_ecr(body: &Value) -> Option<Pushed> {
    let detail = &body["detail"];
    if detail["action-type"] != "PUSH" || detail["result"] != "SUCCESS" {
        return None;
    }
    let (account, region) = (text(body, "/account")?, text(body, "/region")?);
    let end = if region.starts_with("cn-") { ".cn" } else { "" };
    let registry = format!("{account}.dkr.ecr.{region}.amazonaws.com{end}");
    pushed(
        Some(&registry),
        text(detail, "/repository-name"),
        text(detail, "/image-tag"),
    )
}

/// `None` where the message is no notification of Artifact Registry.
fn of_pubsub(body: &Value) -> Option<Vec<Pushed>> {
    let data = STANDARD.decode(body["message"]["data"].as_str()?).ok()?;
    let message: Value = serde_json::from_slice(&data).ok()?;
    let action = message["action"].as_str()?;
    let tag = text(&message, "/tag").filter(|_| action == "INSERT");
    Some(tag.and_then(named).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(registry: &str, repository: &str, tag: &str) -> Pushed {
        Pushed {
            registry: (!registry.is_empty()).then(|| registry.to_owned()),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        }
    }

    #[test]
    fn each_registrys_notification_names_the_image() {
        let pubsub = json!({ "action": "INSERT", "digest": "us-docker.pkg.dev/p/r/app@sha256:0",
            "tag": "us-docker.pkg.dev/p/r/app:1" });
        let pubsub = STANDARD.encode(pubsub.to_string());
        let cases = [
            (
                json!({ "events": [
                    { "action": "push", "target": { "repository": "team/app", "tag": "1" },
                      "request": { "host": "registry.example:5000" } },
                    { "action": "push", "target": { "repository": "team/app", "digest": "sha256:0" } },
                    { "action": "pull", "target": { "repository": "team/app", "tag": "2" } },
                ] }),
                image("registry.example:5000", "team/app", "1"),
            ),
            (
                json!({ "id": "0", "action": "push",
                    "target": { "repository": "team/app", "tag": "1" },
                    "request": { "host": "x.azurecr.io" } }),
                image("x.azurecr.io", "team/app", "1"),
            ),
            (
                json!([{ "type": "Microsoft.ContainerRegistry.ImagePushed", "data": {
                    "action": "push", "target": { "repository": "team/app", "tag": "1" },
                    "request": { "host": "x.azurecr.io" } } }]),
                image("x.azurecr.io", "team/app", "1"),
            ),
            (
                json!({ "type": "PUSH_ARTIFACT", "event_data": {
                    "resources": [{ "digest": "sha256:0", "tag": "1",
                        "resource_url": "harbor.example/team/app:1" }],
                    "repository": { "name": "app", "namespace": "team",
                        "repo_full_name": "team/app", "repo_type": "private" } } }),
                image("harbor.example", "team/app", "1"),
            ),
            (
                json!({ "specversion": "1.0", "type": "harbor.artifact.pushed", "data": {
                    "resources": [{ "digest": "sha256:0", "tag": "1",
                        "resource_url": "harbor.example/team/app:1" }],
                    "repository": { "repo_full_name": "team/app" } } }),
                image("harbor.example", "team/app", "1"),
            ),
            (
                json!({ "specversion": "1.0", "type": "zotregistry.image.updated",
                    "data": { "name": "team/app", "reference": "1", "digest": "sha256:0" } }),
                image("", "team/app", "1"),
            ),
            (
                json!({ "push_data": { "tag": "1", "pusher": "u" },
                    "repository": { "repo_name": "team/app", "namespace": "team", "name": "app" } }),
                image("docker.io", "team/app", "1"),
            ),
            (
                json!({ "action": "published", "registry_package": {
                    "name": "app", "namespace": "Team", "package_type": "CONTAINER",
                    "package_version": { "container_metadata": { "tag": { "name": "1" } } } } }),
                image("ghcr.io", "team/app", "1"),
            ),
            (
                json!({ "action": "published", "package": {
                    "name": "app", "namespace": "team", "package_type": "container",
                    "package_version": { "package_url": "ghcr.io/team/app:1" } } }),
                image("ghcr.io", "team/app", "1"),
            ),
            (
                json!({ "source": "aws.ecr", "detail-type": "ECR Image Action",
                    "account": "123456789012", "region": "eu-west-1",
                    "detail": { "result": "SUCCESS", "action-type": "PUSH",
                        "repository-name": "team/app", "image-tag": "1" } }),
                image(
                    "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
                    "team/app",
                    "1",
                ),
            ),
            (
                json!({ "message": { "data": pubsub, "messageId": "1" }, "subscription": "s" }),
                image("us-docker.pkg.dev", "p/r/app", "1"),
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(images(&body), Some(vec![expected]), "{body}");
        }
    }

    #[test]
    fn event_grid_is_answered_its_code() {
        let body = json!([{ "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
            "data": { "validationCode": "512d38b6" } }]);
        let expected = json!({ "validationResponse": "512d38b6" });
        assert_eq!(handshake(&body), Some(expected));
        let other = json!([{ "eventType": "other", "data": { "validationCode": "1" } }]);
        assert_eq!(handshake(&other), None);
    }

    #[test]
    fn what_is_no_push_of_a_tag_names_no_image() {
        for body in [
            json!({ "events": [] }),
            json!({ "zen": "Keep it simple.", "hook_id": 1, "hook": {} }),
            json!({ "type": "DELETE_ARTIFACT", "event_data": { "resources": [{ "tag": "1" }],
                "repository": { "repo_full_name": "a/b" } } }),
            json!({ "type": "zotregistry.image.updated",
                "data": { "name": "a", "reference": "sha256:0" } }),
            json!({ "type": "zotregistry.repository.created", "data": { "name": "a" } }),
            json!({ "source": "aws.ecr", "account": "1", "region": "r",
                "detail": { "result": "SUCCESS", "action-type": "DELETE", "repository-name": "a",
                    "image-tag": "1" } }),
            json!({ "action": "published", "package": { "package_type": "npm", "name": "a" } }),
            json!({ "message": { "data": STANDARD.encode(r#"{"action":"DELETE","tag":"h/a:1"}"#) } }),
        ] {
            assert_eq!(images(&body), Some(Vec::new()), "{body}");
        }
    }

    #[test]
    fn what_is_no_notification_is_none() {
        for body in [
            json!(null),
            json!(1),
            json!({}),
            json!({ "a": 1 }),
            json!({ "message": { "data": "no base64!" } }),
            json!({ "message": { "data": STANDARD.encode("[]") } }),
        ] {
            assert_eq!(images(&body), None, "{body}");
        }
    }

    #[test]
    fn no_more_images_are_taken_than_are_allowed() {
        let event = json!({ "action": "push", "target": { "repository": "a", "tag": "1" } });
        let events = vec![event; MAX_IMAGES + 10];
        assert_eq!(
            images(&json!({ "events": events })).unwrap().len(),
            MAX_IMAGES
        );
    }
}

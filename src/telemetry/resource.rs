//! What the spans are of: this service.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use percent_encoding::percent_decode_str;

/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` over what this program says of itself.
pub(super) fn resource() -> Resource {
    let read = |name| std::env::var(name).unwrap_or_default();
    let own = [
        KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let name = Some(read("OTEL_SERVICE_NAME")).filter(|name| !name.is_empty());
    Resource::builder()
        .with_attributes(own)
        .with_attributes(attributes(&read("OTEL_RESOURCE_ATTRIBUTES")))
        .with_attributes(name.map(|name| KeyValue::new("service.name", name)))
        .build()
}

/// `key=value,key=value`, both percent-encoded (Resource SDK, "Specifying resource information via
/// an environment variable"). What is none of that is left out, with all the rest.
fn attributes(text: &str) -> Vec<KeyValue> {
    let decoded = |text: &str| {
        let text = percent_decode_str(text.trim()).decode_utf8().ok()?;
        Some(text.into_owned())
    };
    let entries = text.split(',').filter(|entry| !entry.trim().is_empty());
    let found: Option<Vec<KeyValue>> = entries
        .map(|entry| {
            let (key, value) = entry.split_once('=')?;
            let key = decoded(key).filter(|key| !key.is_empty())?;
            Some(KeyValue::new(key, decoded(value)?))
        })
        .collect();
    found.unwrap_or_else(|| {
        tracing::warn!(
            "OTEL_RESOURCE_ATTRIBUTES is not used: key=value,key=value is expected, both \
             percent-encoded"
        );
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_decoded_and_one_mistake_leaves_all_out() {
        let found = attributes("a=b%2Cc, d.e = f%20g,");
        let wanted = [KeyValue::new("a", "b,c"), KeyValue::new("d.e", "f g")];
        assert_eq!(found, wanted);
        for bad in ["a", "a=b,c", "=b", "a=%ff"] {
            assert!(attributes(bad).is_empty(), "{bad}");
        }
    }
}

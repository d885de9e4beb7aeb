//! Spans as the body of a request: OTLP over HTTP, binary (`ExportTraceServiceRequest`).

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::trace::SpanData;
use prost::Message as _;

/// The body of a request with these spans.
pub(super) fn encode(spans: Vec<SpanData>, resource: &ResourceAttributesWithSchema) -> Bytes {
    let request = ExportTraceServiceRequest {
        resource_spans: group_spans_by_resource_and_scope(spans, resource),
    };
    request.encode_to_vec().into()
}

/// The same, compressed; `None` if that fails.
pub(super) fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// How many spans a collector refused that took the others, and why.
pub(super) fn refused(body: Bytes) -> Option<(usize, String)> {
    let answer = ExportTraceServiceResponse::decode(body).ok()?;
    let partial = answer.partial_success?;
    let refused = usize::try_from(partial.rejected_spans).ok()?;
    (refused > 0).then_some((refused, partial.error_message))
}

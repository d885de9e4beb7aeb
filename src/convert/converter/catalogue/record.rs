//! Records layers in this program's own tables.

use super::super::context::Context;
use super::layer::Layer;
use crate::convert::error::ConvertError;
use crate::convert::plan::Step;

/// Records a layer that this program made, and whose blob is durable.
pub(in super::super) async fn record(
    context: &Context,
    step: &Step,
    layer: &Layer,
) -> Result<(), ConvertError> {
    let variant = layer.base.variant(&context.variant_of(step));
    let index = context.store.index();
    index
        .put_built(&step.chain_id, &variant, &layer.digest, layer.size)
        .await?;
    Ok(())
}

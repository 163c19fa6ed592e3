//! Between the house's words and the link's messages. Pure; the tensor bytes are never copied.

use crate::forecast::Outlook;
use crate::frame::Body;
use bytes::Bytes;
use penstock_admission::{Caution, ServiceLine};
use penstock_domain::{
    BatchReport, Datatype, ErrorCode, Parameter, ParameterValue, Refusal, RequestedOutput, ShedReason, Tensor,
};
use penstock_proto::link;
use std::time::{Duration, Instant};

/// What a peer on the link got wrong. Both ends are ours, so this is a defect, not an input error.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MessageError {
    #[error("tensor '{0}' has unknown datatype number {1}")]
    Datatype(String, u32),
    #[error("the tensors need {0} bytes, the body has {1}")]
    Body(u64, usize),
}

/// Most bytes of names, shapes and parameters in one message: far below what a frame's header may have.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// Whether a message may cross the link. A larger one would end the link, and with it everyone who shares it.
pub(crate) fn fits(head: &impl prost::Message, body_bytes: u64, body_bytes_max: u64) -> Result<(), Refusal> {
    if body_bytes > body_bytes_max {
        let text =
            format!("the tensors have {body_bytes} bytes, at most {body_bytes_max} (limits.message_bytes) are taken");
        return Err(Refusal::new(ErrorCode::TooLarge, text));
    }
    let head_bytes = head.encoded_len();
    if head_bytes > HEAD_BYTES_MAX {
        let text = format!("names, shapes and parameters have {head_bytes} bytes, at most {HEAD_BYTES_MAX} are taken");
        return Err(Refusal::new(ErrorCode::TooLarge, text));
    }
    Ok(())
}

/// Splits tensors into heads and body.
pub(crate) fn tensors_out(tensors: Vec<Tensor>) -> (Vec<link::TensorHead>, Body) {
    let mut body = Body::new();
    let heads = tensors
        .into_iter()
        .map(|tensor| {
            let bytes = tensor.data.len() as u64;
            body.push(tensor.data);
            link::TensorHead {
                name: tensor.name,
                datatype: datatype_number(tensor.datatype),
                shape: tensor.shape.into_vec(),
                bytes,
            }
        })
        .collect();
    (heads, body)
}

/// Puts heads and body together again; the tensors share the body's buffer.
pub(crate) fn tensors_in(heads: Vec<link::TensorHead>, mut body: Bytes) -> Result<Vec<Tensor>, MessageError> {
    let needed: u64 = heads.iter().map(|head| head.bytes).sum();
    if needed != body.len() as u64 {
        return Err(MessageError::Body(needed, body.len()));
    }
    heads
        .into_iter()
        .map(|head| {
            let datatype = Datatype::ALL
                .get(head.datatype as usize)
                .copied()
                .ok_or_else(|| MessageError::Datatype(head.name.clone(), head.datatype))?;
            let data = body.split_to(head.bytes as usize);
            Ok(Tensor { name: head.name, datatype, shape: head.shape.into(), data })
        })
        .collect()
}

fn datatype_number(datatype: Datatype) -> u32 {
    Datatype::ALL.iter().position(|known| *known == datatype).unwrap_or_default() as u32
}

pub(crate) fn parameters_out(parameters: Vec<Parameter>) -> Vec<link::Parameter> {
    use link::parameter::Value;
    let value = |value| match value {
        ParameterValue::Bool(value) => Value::BoolValue(value),
        ParameterValue::Int(value) => Value::IntValue(value),
        ParameterValue::Uint(value) => Value::UintValue(value),
        ParameterValue::Double(value) => Value::DoubleValue(value),
        ParameterValue::String(value) => Value::StringValue(value),
    };
    parameters.into_iter().map(|(name, v)| link::Parameter { name, value: Some(value(v)) }).collect()
}

/// A parameter without a value (from a newer peer) is left out.
pub(crate) fn parameters_in(parameters: Vec<link::Parameter>) -> Vec<Parameter> {
    use link::parameter::Value;
    let value = |value| match value {
        Value::BoolValue(value) => ParameterValue::Bool(value),
        Value::IntValue(value) => ParameterValue::Int(value),
        Value::UintValue(value) => ParameterValue::Uint(value),
        Value::DoubleValue(value) => ParameterValue::Double(value),
        Value::StringValue(value) => ParameterValue::String(value),
    };
    parameters.into_iter().filter_map(|p| Some((p.name, value(p.value?)))).collect()
}

pub(crate) fn wanted_out(outputs: Vec<RequestedOutput>) -> Vec<link::Wanted> {
    outputs.into_iter().map(|o| link::Wanted { name: o.name, classification: o.classification }).collect()
}

pub(crate) fn wanted_in(outputs: Vec<link::Wanted>) -> Vec<RequestedOutput> {
    outputs.into_iter().map(|o| RequestedOutput { name: o.name, classification: o.classification }).collect()
}

pub(crate) fn batch_out(batch: &BatchReport, outlook: Option<Outlook>) -> link::Batch {
    let BatchReport { items, tokens, padded_tokens, compute_input_ns, compute_ns, compute_output_ns } = *batch;
    let outlook = outlook.map(|Outlook { line, caution }| link::Outlook {
        fixed_s: line.fixed_s,
        per_unit_s: line.per_unit_s,
        size_max: line.size_max,
        deviation_s: line.deviation_s,
        margin: caution.margin(),
    });
    link::Batch { items, tokens, padded_tokens, compute_input_ns, compute_ns, compute_output_ns, outlook }
}

/// Of a batch that ended just before `now`, and what its environment reckons with since.
pub(crate) fn batch_in(batch: link::Batch, now: Instant) -> (BatchReport, Option<Outlook>) {
    let link::Batch { items, tokens, padded_tokens, compute_input_ns, compute_ns, compute_output_ns, outlook } = batch;
    let outlook = outlook.and_then(|told| {
        let link::Outlook { fixed_s, per_unit_s, size_max, deviation_s, margin } = told;
        let line = ServiceLine { fixed_s, per_unit_s, size_max, deviation_s, observed: now };
        line.is_plausible().then(|| Outlook { line, caution: Caution::with_margin(margin) })
    });
    (BatchReport { items, tokens, padded_tokens, compute_input_ns, compute_ns, compute_output_ns }, outlook)
}

/// Failure reasons that cross the link.
const REASONS: [&str; 3] = [reason::OUT_OF_MEMORY, reason::OUT_OF_HOST_MEMORY, reason::EXECUTION_FAILED];

/// Stable texts for failures (sheds have their own list in the domain).
pub(crate) mod reason {
    pub(crate) const OUT_OF_MEMORY: &str = "out_of_device_memory";
    /// A request's tensors do not fit into the memory that its environment may have.
    pub const OUT_OF_HOST_MEMORY: &str = "out_of_host_memory";
    pub(crate) const EXECUTION_FAILED: &str = "execution_failed";
}

pub(crate) fn refusal_out(refusal: Refusal) -> link::Refused {
    link::Refused {
        code: refusal.code.index() as u32,
        shed: refusal.shed.map_or("", ShedReason::name).to_owned(),
        reason: refusal.reason.unwrap_or_default().to_owned(),
        // 0 is for none: a wait of less than a microsecond is one.
        retry_after_us: refusal.retry_after.map_or(0, |wait| (wait.as_micros() as u64).max(1)),
        message: refusal.message,
    }
}

pub(crate) fn refusal_in(refused: link::Refused) -> Refusal {
    Refusal {
        code: ErrorCode::ALL.get(refused.code as usize).copied().unwrap_or(ErrorCode::Internal),
        shed: ShedReason::parse(&refused.shed),
        reason: REASONS.into_iter().find(|reason| *reason == refused.reason),
        retry_after: (refused.retry_after_us > 0).then(|| Duration::from_micros(refused.retry_after_us)),
        message: refused.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // a test needs some instant to start from
    fn what_an_environment_reckons_with_crosses_the_link() {
        let observed = Instant::now();
        let line = ServiceLine { fixed_s: 1.0, per_unit_s: 2.0, size_max: f64::INFINITY, deviation_s: 3.0, observed };
        let outlook = Outlook { line, caution: Caution::with_margin(0.5) };
        let report = BatchReport {
            items: 1,
            tokens: 2,
            padded_tokens: 3,
            compute_input_ns: 4,
            compute_ns: 5,
            compute_output_ns: 6,
        };
        let sent = batch_out(&report, Some(outlook));
        assert_eq!(batch_in(sent, observed), (report, Some(outlook)));
        assert_eq!(batch_in(batch_out(&report, None), observed), (report, None));
        for (fixed_s, size_max) in [(f64::NAN, 1.0), (f64::INFINITY, 1.0), (-1.0, 1.0), (1.0, f64::NAN)] {
            let told = sent.outlook.map(|told| link::Outlook { fixed_s, size_max, ..told });
            let (_, outlook) = batch_in(link::Batch { outlook: told, ..sent }, observed);
            assert_eq!(outlook, None, "{fixed_s} {size_max}");
        }
    }
}

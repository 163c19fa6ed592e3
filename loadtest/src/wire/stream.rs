//! Streaming gRPC on one HTTP/2 connection: all requests are messages of one stream, answers are matched by `id`.
//!
//! Called by `drive`. A stream that the server ends is opened again with the next request.

use super::h2::{Event, H2};
use super::protobuf::Fields;
use super::{Answer, Loss, Reply, Ticket, WireError};
use bytes::Bytes;
use std::collections::VecDeque;

/// Length of the `id` field that is written into each request.
pub const ID_DIGITS: usize = 8;
/// Where it stands: after the gRPC frame head, the field's key and its length. `payload` puts it there.
pub const ID_OFFSET: usize = 5 + 2;

/// One connection with one stream.
pub struct Stream {
    h2: H2,
    stream: Option<u32>,
    /// Requests by id, from `first` on; answered ones are `None`.
    slots: VecDeque<Option<Ticket>>,
    first: u32,
    in_flight: usize,
    inbox: Vec<u8>,
    trailers: Reply,
}

impl Stream {
    /// A connection whose streams have this head.
    pub fn new(head: &[(&str, &str)]) -> Self {
        Self {
            h2: H2::new(head),
            stream: None,
            slots: VecDeque::new(),
            first: 0,
            in_flight: 0,
            inbox: Vec::new(),
            trailers: Reply::default(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.h2.is_open()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.h2.is_closing() && self.in_flight == 0
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.h2.out
    }

    pub(super) fn send(&mut self, ticket: Ticket, body: &Bytes) {
        let stream = *self.stream.get_or_insert_with(|| self.h2.open(None));
        let id = self.first.wrapping_add(self.slots.len() as u32);
        let mut body = body.to_vec();
        body[ID_OFFSET..ID_OFFSET + ID_DIGITS].copy_from_slice(format!("{id:08x}").as_bytes());
        self.slots.push_back(Some(ticket));
        self.in_flight += 1;
        self.h2.send(stream, body.into());
    }

    pub(super) fn receive(&mut self, bytes: &[u8], answers: &mut Vec<Answer>) -> Result<(), WireError> {
        let Self { h2, stream: open, slots, first, in_flight, inbox, trailers } = self;
        let outcome = h2.receive(bytes, &mut |event| match event {
            Event::Field { name, value, .. } => trailers.field(name, value),
            Event::Data { bytes } => {
                inbox.extend_from_slice(bytes);
                let used = messages(inbox, |id, reply| {
                    let at = id.wrapping_sub(*first) as usize;
                    if let Some(ticket) = slots.get_mut(at).and_then(Option::take) {
                        answers.push(Answer { ticket, result: Ok(reply) });
                        *in_flight -= 1;
                    }
                });
                inbox.drain(..used);
            }
            Event::End { .. } => {
                *open = None;
                let last = std::mem::take(trailers);
                inbox.clear();
                end_all(slots, first, in_flight, &Ok(last), answers);
            }
            Event::Reset { .. } => {
                *open = None;
                inbox.clear();
                end_all(slots, first, in_flight, &Err(Loss::StreamReset), answers);
            }
        });
        while let Some(None) = slots.front() {
            slots.pop_front();
            *first = first.wrapping_add(1);
        }
        Ok(outcome?)
    }

    pub(super) fn abandon(&mut self, answers: &mut Vec<Answer>) {
        end_all(&mut self.slots, &mut self.first, &mut self.in_flight, &Err(Loss::ConnectionLost), answers);
    }
}

/// Ends all that is in flight. A stream that ends with status OK has left these requests without an answer.
fn end_all(
    slots: &mut VecDeque<Option<Ticket>>,
    first: &mut u32,
    in_flight: &mut usize,
    result: &Result<Reply, Loss>,
    answers: &mut Vec<Answer>,
) {
    let result = match result {
        Ok(reply) if reply.grpc_status == Some(0) => Err(Loss::StreamReset),
        other => other.clone(),
    };
    *first = first.wrapping_add(slots.len() as u32);
    *in_flight = 0;
    for ticket in slots.drain(..).flatten() {
        answers.push(Answer { ticket, result: result.clone() });
    }
}

/// Takes whole `ModelStreamInferResponse` messages from the front of `inbox`; returns the bytes used.
fn messages(inbox: &[u8], mut each: impl FnMut(u32, Reply)) -> usize {
    let mut used = 0;
    while let Some(&[_, a, b, c, d]) = inbox.get(used..).and_then(|rest| rest.first_chunk::<5>()) {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some(message) = inbox.get(used + 5..used + 5 + length) else { break };
        used += 5 + length;
        let mut reply = Reply { http_status: 200, grpc_status: Some(0), ..Reply::default() };
        let mut id = None;
        for (field, content) in Fields(message) {
            match field {
                1 => reply.stream_error = !content.bytes().is_empty(),
                2 => {
                    for (field, content) in Fields(content.bytes()) {
                        match field {
                            3 => {
                                id = std::str::from_utf8(content.bytes())
                                    .ok()
                                    .and_then(|hex| u32::from_str_radix(hex, 16).ok())
                            }
                            4 => parameter(content.bytes(), &mut reply),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if let Some(id) = id {
            each(id, reply);
        }
    }
    used
}

/// A response parameter (text or a whole number) is read as the header of the same name would be.
fn parameter(entry: &[u8], reply: &mut Reply) {
    let (mut name, mut value) = (&[][..], Vec::new());
    for (field, content) in Fields(entry) {
        match field {
            1 => name = content.bytes(),
            // InferParameter: 2 int64_param, 3 string_param.
            2 => match Fields(content.bytes()).next() {
                Some((2, number)) => value = number.number().to_string().into_bytes(),
                Some((3, text)) => value = text.bytes().to_vec(),
                _ => {}
            },
            _ => {}
        }
    }
    reply.field(name, &value);
}

#[cfg(test)]
mod tests {
    use super::messages;
    use penstock_proto::inference::infer_parameter::ParameterChoice;
    use penstock_proto::inference::{InferParameter, ModelInferResponse, ModelStreamInferResponse};
    use prost::Message;

    #[test]
    fn a_refusal_on_a_stream_keeps_its_code_reason_and_wait() {
        let parameters = [
            ("grpc-status", ParameterChoice::Int64Param(8)),
            ("x-penstock-shed-reason", ParameterChoice::StringParam("queue_requests".to_owned())),
            ("grpc-retry-pushback-ms", ParameterChoice::Int64Param(40)),
            ("triton_final_response", ParameterChoice::BoolParam(true)),
        ]
        .map(|(name, choice)| (name.to_owned(), InferParameter { parameter_choice: Some(choice) }));
        let response =
            ModelInferResponse { id: "000000ff".into(), parameters: parameters.into(), ..Default::default() };
        let message = ModelStreamInferResponse { error_message: "full".into(), infer_response: Some(response) };
        let message = message.encode_to_vec();
        let mut framed = vec![0];
        framed.extend((message.len() as u32).to_be_bytes());
        framed.extend(message);
        let mut seen = Vec::new();
        // A second one that is not whole stays.
        let whole = framed.len();
        framed.extend_from_within(..20);
        assert_eq!(messages(&framed, |id, reply| seen.push((id, reply))), whole);
        let (id, reply) = seen.pop().unwrap();
        assert_eq!((id, reply.grpc_status, reply.stream_error), (255, Some(8), true));
        assert_eq!((reply.shed_reason.as_deref(), reply.retry_after_ms), (Some("queue_requests"), Some(40)));
    }
}

//! Rooms 1 and 8: inference messages to and from bytes. Weighs a message before it is decoded, and takes a share of the
//! byte budget for what it becomes; encodes an answer into one buffer of its size.
//!
//! Used by the two inference rpcs; the other rpcs, whose messages are small, have the generated codec.

use crate::convert::weigh;
use crate::status::{OverloadCodes, refusal_to_status};
use bytes::Buf;
use penstock_admission::{ByteBudget, ByteShare};
use penstock_domain::{Refusal, ShedReason};
use penstock_proto::inference::ModelInferRequest;
use prost::Message;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Below this a message takes no share for its decoded form: the slots bound such small change.
const UNWEIGHED_BYTES: u64 = 16 << 10;
/// First allocation of a codec's buffer, in bytes: a small request or answer fits; larger ones reserve what they need.
const BUFFER_BYTES: usize = 1 << 10;
/// Messages of a stream that are ready at once leave together up to so many bytes.
const YIELD_BYTES: usize = 32 << 10;

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

/// A request, with what its decoded form holds of the budget.
pub(super) struct Weighed {
    pub(super) request: ModelInferRequest,
    pub(super) share: Option<ByteShare>,
}

/// Decodes requests and encodes answers of type `T`.
pub(super) struct InferCodec<T> {
    budget: ByteBudget,
    overload_codes: OverloadCodes,
    answer: PhantomData<fn() -> T>,
}

impl<T> InferCodec<T> {
    pub(super) fn new(budget: ByteBudget, overload_codes: OverloadCodes) -> Self {
        Self { budget, overload_codes, answer: PhantomData }
    }
}

impl<T: Message + 'static> Codec for InferCodec<T> {
    type Encode = T;
    type Decode = Weighed;
    type Encoder = AnswerEncoder<T>;
    type Decoder = RequestDecoder;

    fn encoder(&mut self) -> AnswerEncoder<T> {
        AnswerEncoder(PhantomData)
    }

    fn decoder(&mut self) -> RequestDecoder {
        RequestDecoder::new(self.budget.clone(), self.overload_codes)
    }
}

/// Encodes answers.
pub(super) struct AnswerEncoder<T>(PhantomData<fn() -> T>);

impl<T: Message> Encoder for AnswerEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.encoded_len());
        item.encode_raw(out);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// Decodes requests.
pub(super) struct RequestDecoder {
    budget: ByteBudget,
    overload_codes: OverloadCodes,
}

impl RequestDecoder {
    pub(super) fn new(budget: ByteBudget, overload_codes: OverloadCodes) -> Self {
        Self { budget, overload_codes }
    }

    /// Weighs and decodes a whole message, which lies in one piece.
    pub(super) fn read(&self, message: impl Buf) -> Result<Weighed, Status> {
        let read = self.admit(message.chunk()).and_then(|share| {
            let request = ModelInferRequest::decode(message)
                .map_err(|error| Refusal::invalid(format!("the message is not a ModelInferRequest: {error}")))?;
            Ok(Weighed { request, share })
        });
        read.map_err(|refusal| {
            penstock_telemetry::unrouted(refusal.outcome());
            refusal_to_status(&refusal, self.overload_codes)
        })
    }

    /// The share of what a message becomes, or why it is refused.
    fn admit(&self, message: &[u8]) -> Result<Option<ByteShare>, Refusal> {
        let decoded = weigh(message)
            .ok_or_else(|| Refusal::invalid("the message is not a ModelInferRequest: it breaks off, or has groups"))?;
        if decoded <= UNWEIGHED_BYTES {
            return Ok(None);
        }
        self.budget.try_take(decoded).map(Some).ok_or_else(|| {
            let (length, taken, budget) = (message.len(), self.budget.taken(), self.budget.limit());
            let words = format!(
                "a message of {length} bytes becomes {decoded} in memory, which does not fit: {taken} of {budget} \
                 bytes of memory for requests are taken; send tensors in raw_input_contents"
            );
            Refusal::shed(ShedReason::MemoryBudget, words, None)
        })
    }
}

impl Decoder for RequestDecoder {
    type Item = Weighed;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Weighed>, Status> {
        // tonic keeps a message in one piece.
        self.read(buffer).map(Some)
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

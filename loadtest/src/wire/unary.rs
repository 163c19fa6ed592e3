//! Unary gRPC on one HTTP/2 connection: one stream a request. Called by `drive`; never looks into a response's message.

use super::h2::{Event, H2};
use super::{Answer, Loss, Reply, Ticket, WireError};
use bytes::Bytes;
use std::collections::VecDeque;

type Slot = Option<(Ticket, Reply)>;

/// One connection.
pub struct Unary {
    h2: H2,
    /// Requests by stream, from `first` on; answered ones are `None`, and leave when they reach the front.
    slots: VecDeque<Slot>,
    first: u32,
    in_flight: usize,
}

impl Unary {
    /// A connection whose requests all have this head.
    pub fn new(head: &[(&str, &str)]) -> Self {
        Self { h2: H2::new(head), slots: VecDeque::new(), first: 1, in_flight: 0 }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.h2.is_open() && self.in_flight < self.h2.stream_limit
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

    pub(super) fn send(&mut self, ticket: Ticket, body: Bytes) {
        let stream = self.h2.open(Some(body));
        if self.slots.is_empty() {
            self.first = stream;
        }
        self.slots.push_back(Some((ticket, Reply::default())));
        self.in_flight += 1;
    }

    pub(super) fn receive(&mut self, bytes: &[u8], answers: &mut Vec<Answer>) -> Result<(), WireError> {
        let Self { h2, slots, first, in_flight } = self;
        let outcome = h2.receive(bytes, &mut |event| match event {
            Event::Field { stream, name, value } => {
                if let Some(Some((_, reply))) = slot(slots, *first, stream) {
                    reply.field(name, value);
                }
            }
            Event::Data { .. } => {}
            Event::End { stream } => {
                if let Some((ticket, reply)) = slot(slots, *first, stream).and_then(Option::take) {
                    answers.push(Answer { ticket, result: Ok(reply) });
                    *in_flight -= 1;
                }
            }
            Event::Reset { stream } => {
                if let Some((ticket, _)) = slot(slots, *first, stream).and_then(Option::take) {
                    answers.push(Answer { ticket, result: Err(Loss::StreamReset) });
                    *in_flight -= 1;
                }
            }
        });
        while let Some(None) = slots.front() {
            slots.pop_front();
            *first += 2;
        }
        Ok(outcome?)
    }

    pub(super) fn abandon(&mut self, answers: &mut Vec<Answer>) {
        for (ticket, _) in self.slots.drain(..).flatten() {
            answers.push(Answer { ticket, result: Err(Loss::ConnectionLost) });
        }
        self.in_flight = 0;
    }
}

fn slot(slots: &mut VecDeque<Slot>, first: u32, stream: u32) -> Option<&mut Slot> {
    slots.get_mut((stream.checked_sub(first)? / 2) as usize)
}

//! One step of load: an open loop that keeps to its times whatever the server does, or a closed loop for peaks.
//!
//! Called by the `run` and `compare` commands. In an open loop every latency counts from the *intended* time, so a
//! server that stalls cannot slow the generator down and thereby hide its stall (coordinated omission).

use crate::arrivals::{Arrivals, Process};
use crate::clock::{Clock, process_cpu_us};
use crate::fleet::{Fleet, FleetError};
use crate::payload::Payloads;
use crate::record::{Class, Tally};
use crate::wire::Ticket;
use std::collections::VecDeque;

/// The name under which requests are counted that the generator could not send.
pub const SATURATED: &str = "not sent: generator saturated";
/// The name under which requests are counted whose answer did not come before the run ended.
pub const UNANSWERED: &str = "no answer before the run ended";
/// An idle wait ends after this long, so that reconnections are tried.
const LONGEST_WAIT_US: u64 = 50_000;

/// How requests come.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// At their own times, whatever the server does.
    #[allow(missing_docs)]
    Open { process: Process, rps: f64, seed: u64 },
    /// The next when one ends, so many at once.
    #[allow(missing_docs)]
    Closed { in_flight: usize },
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// How requests come.
    pub pace: Pace,
    /// For how long.
    pub seconds: f64,
    /// The most requests in flight or waiting for a connection; what comes beyond is counted and not sent.
    pub max_in_flight: usize,
    /// How long to wait for the last answers.
    pub drain_seconds: f64,
}

/// What a step left behind.
pub struct Run {
    /// Every request.
    pub tally: Tally,
    /// When it began and when sending ended, in microseconds of the clock.
    pub span_us: (u64, u64),
    /// Processor time of this process from the beginning to the end of draining, in microseconds.
    pub cpu_us: u64,
    /// Wall time of the same.
    pub wall_us: u64,
    /// Requests that had to wait for a free connection.
    pub waited_for_connection: u64,
    /// Connections that broke.
    pub lost_connections: u64,
}

/// Runs one step to its end.
pub fn run(fleet: &mut Fleet, payloads: &mut Payloads, step: Step, clock: Clock) -> Result<Run, FleetError> {
    let (began, cpu, lost) = (clock.now_us(), process_cpu_us(), fleet.lost_connections);
    let end = began + (step.seconds * 1e6) as u64;
    let mut room = Room { fleet, payloads, clock, tally: Tally::default(), waiting: VecDeque::new(), in_flight: 0 };
    let waited = match step.pace {
        Pace::Open { process, rps, seed } => {
            room.open(Arrivals::new(process, rps, seed).map(|at| began + at), end, step.max_in_flight)?
        }
        Pace::Closed { in_flight } => room.closed(in_flight.min(step.max_in_flight), end)?,
    };
    room.drain(clock.now_us() + (step.drain_seconds * 1e6) as u64)?;
    let Room { fleet, tally, .. } = room;
    Ok(Run {
        tally,
        span_us: (began, end),
        cpu_us: process_cpu_us() - cpu,
        wall_us: clock.now_us() - began,
        waited_for_connection: waited,
        lost_connections: fleet.lost_connections - lost,
    })
}

struct Room<'a> {
    fleet: &'a mut Fleet,
    payloads: &'a mut Payloads,
    clock: Clock,
    tally: Tally,
    /// Intended times of requests that no connection could take yet.
    waiting: VecDeque<u32>,
    in_flight: usize,
}

impl Room<'_> {
    fn open(&mut self, arrivals: impl Iterator<Item = u64>, end: u64, max_in_flight: usize) -> Result<u64, FleetError> {
        let mut arrivals = arrivals.take_while(|at| *at < end).peekable();
        let mut waited = 0;
        while let Some(&next) = arrivals.peek() {
            let now = self.clock.now_us();
            if next > now {
                self.turn((next - now).min(LONGEST_WAIT_US))?;
                continue;
            }
            // Everything that is due leaves together.
            while let Some(intended) = arrivals.next_if(|at| *at <= now) {
                let ticket = Ticket { intended_us: intended as u32, sent_us: intended as u32 };
                if !self.fleet.is_connected() {
                    self.tally.gone(ticket, Class::Lost, "not connected", now);
                } else if self.in_flight + self.waiting.len() >= max_in_flight {
                    self.tally.gone(ticket, Class::NotSent, SATURATED, now);
                } else if !self.waiting.is_empty() || !self.send(intended as u32, now) {
                    self.waiting.push_back(intended as u32);
                    waited += 1;
                }
            }
            self.turn(0)?;
        }
        Ok(waited)
    }

    fn closed(&mut self, in_flight: usize, end: u64) -> Result<u64, FleetError> {
        loop {
            let now = self.clock.now_us();
            if now >= end {
                return Ok(0);
            }
            while self.in_flight < in_flight && self.send(now as u32, now) {}
            self.turn((end - now).min(LONGEST_WAIT_US))?;
        }
    }

    fn drain(&mut self, end: u64) -> Result<(), FleetError> {
        while self.in_flight + self.waiting.len() > 0 {
            let now = self.clock.now_us();
            if now >= end {
                break;
            }
            self.turn((end - now).min(LONGEST_WAIT_US))?;
        }
        if self.in_flight + self.waiting.len() > 0 {
            self.fleet.answers.clear();
            self.fleet.restart(self.clock);
            let now = self.clock.now_us();
            for answer in &self.fleet.answers {
                self.tally.gone(answer.ticket, Class::Lost, UNANSWERED, now);
            }
            for intended_us in self.waiting.drain(..) {
                self.tally.gone(Ticket { intended_us, sent_us: now as u32 }, Class::Lost, UNANSWERED, now);
            }
        }
        Ok(())
    }

    fn send(&mut self, intended_us: u32, now: u64) -> bool {
        if !self.fleet.can_send() {
            return false;
        }
        self.in_flight += 1;
        self.fleet.send(Ticket { intended_us, sent_us: now as u32 }, self.payloads.advance())
    }

    /// One turn of the sockets, its answers recorded, and waiting requests sent where connections came free.
    fn turn(&mut self, wait_us: u64) -> Result<(), FleetError> {
        self.fleet.turn(self.clock, wait_us)?;
        if self.fleet.answers.is_empty() && self.waiting.is_empty() {
            return Ok(());
        }
        let now = self.clock.now_us();
        for answer in &self.fleet.answers {
            self.tally.answer(answer, now);
        }
        self.in_flight -= self.fleet.answers.len();
        while let Some(&intended) = self.waiting.front() {
            if !self.send(intended, now) {
                break;
            }
            self.waiting.pop_front();
        }
        Ok(())
    }
}

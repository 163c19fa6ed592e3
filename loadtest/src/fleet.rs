//! The sockets of one target, turned by one thread: write what is to be sent, wait, read what came.
//!
//! Called by `drive`. It waits with nanosecond timeouts (`ppoll`), because a timer of a whole millisecond would be
//! counted into every latency below one. It never blocks but to connect.

use crate::clock::Clock;
use crate::target::Target;
use crate::wire::{Answer, Client, Ticket};
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_EVERY_US: u64 = 100_000;
const READ_BYTES: usize = 256 * 1024;

/// A fleet that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No connection.
    #[error("cannot connect to {0}: is the server running?")]
    Connect(String, #[source] std::io::Error),
    /// A connection, but not this protocol.
    #[error("{0} took the connection but does not speak the protocol asked for")]
    NotReady(String),
    /// The wait failed.
    #[error("waiting for sockets failed")]
    Poll(#[source] std::io::Error),
}

struct Link {
    socket: Option<TcpStream>,
    client: Client,
    retry_at_us: u64,
}

/// Connections to one target.
pub struct Fleet {
    target: Target,
    deadline_ms: Option<u32>,
    links: Vec<Link>,
    cursor: usize,
    buffer: Vec<u8>,
    /// Requests that ended in the last turn.
    pub answers: Vec<Answer>,
    /// Connections lost since the start.
    pub lost_connections: u64,
}

impl Fleet {
    /// Connects, and waits until every connection can carry requests.
    pub fn open(
        target: &Target,
        connections: usize,
        deadline_ms: Option<u32>,
        clock: Clock,
    ) -> Result<Self, FleetError> {
        let mut fleet = Self {
            target: target.clone(),
            deadline_ms,
            links: Vec::new(),
            cursor: 0,
            buffer: vec![0; READ_BYTES],
            answers: Vec::new(),
            lost_connections: 0,
        };
        for _ in 0..connections {
            let socket = fleet.connect().map_err(|error| FleetError::Connect(target.url.clone(), error))?;
            fleet.links.push(Link { socket: Some(socket), client: target.client(deadline_ms), retry_at_us: 0 });
        }
        let end = clock.now_us() + CONNECT_TIMEOUT.as_micros() as u64;
        while !fleet.links.iter().all(|link| link.client.is_ready()) {
            if clock.now_us() > end || fleet.lost_connections > 0 {
                return Err(FleetError::NotReady(target.url.clone()));
            }
            fleet.turn(clock, 10_000)?;
        }
        Ok(fleet)
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = TcpStream::connect_timeout(&self.target.address, CONNECT_TIMEOUT)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Requests without an answer.
    pub fn in_flight(&self) -> usize {
        self.links.iter().map(|link| link.client.in_flight()).sum()
    }

    /// Whether any connection is up.
    pub fn is_connected(&self) -> bool {
        self.links.iter().any(|link| link.socket.is_some())
    }

    /// Puts a request on the next connection that can take it, round robin; `false` if none can.
    pub fn send(&mut self, ticket: Ticket, body: &Bytes) -> bool {
        for _ in 0..self.links.len() {
            self.cursor = (self.cursor + 1) % self.links.len();
            let link = &mut self.links[self.cursor];
            if link.socket.is_some() && link.client.is_ready() {
                link.client.send(ticket, body);
                return true;
            }
        }
        false
    }

    /// Whether [`Fleet::send`] would succeed.
    pub fn can_send(&self) -> bool {
        self.links.iter().any(|link| link.socket.is_some() && link.client.is_ready())
    }

    /// Writes, waits up to `wait_us` for something to happen, and reads. Ended requests are in [`Fleet::answers`], which
    /// this empties first.
    pub fn turn(&mut self, clock: Clock, wait_us: u64) -> Result<(), FleetError> {
        self.answers.clear();
        for at in 0..self.links.len() {
            self.write(at, clock);
        }
        let (ready, owners): (Vec<PollFlags>, Vec<usize>) = {
            let mut owners = Vec::with_capacity(self.links.len());
            let mut waits = Vec::with_capacity(self.links.len());
            for (at, link) in self.links.iter_mut().enumerate() {
                let writes = !link.client.out().is_empty();
                if let Some(socket) = &link.socket {
                    waits
                        .push(PollFd::new(socket, if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }));
                    owners.push(at);
                }
            }
            // After a lost connection there are answers to hand out already.
            let wait_us = if self.answers.is_empty() { wait_us } else { 0 };
            let timeout =
                Timespec { tv_sec: (wait_us / 1_000_000) as i64, tv_nsec: (wait_us % 1_000_000 * 1000) as i64 };
            match poll(&mut waits, Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(FleetError::Poll(error.into())),
            }
            (waits.iter().map(PollFd::revents).collect(), owners)
        };
        for (flags, at) in ready.into_iter().zip(owners) {
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                self.read(at, clock);
            }
        }
        Ok(())
    }

    /// Drops every connection, so that late answers of this step cannot reach the next, and connects again.
    pub fn restart(&mut self, clock: Clock) {
        for at in 0..self.links.len() {
            self.lose(at, clock, false);
            self.links[at].retry_at_us = 0;
            self.write(at, clock);
        }
    }

    fn write(&mut self, at: usize, clock: Clock) {
        if self.links[at].socket.is_none() {
            let now = clock.now_us();
            if now < self.links[at].retry_at_us {
                return;
            }
            self.links[at].retry_at_us = now + RECONNECT_EVERY_US;
            match self.connect() {
                Ok(socket) => {
                    self.links[at].socket = Some(socket);
                    self.links[at].client = self.target.client(self.deadline_ms);
                }
                Err(_) => return,
            }
        }
        let link = &mut self.links[at];
        let (Some(socket), out) = (link.socket.as_mut(), link.client.out()) else { return };
        let mut written = 0;
        let mut broken = false;
        while written < out.len() {
            match socket.write(&out[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        out.drain(..written);
        if broken {
            self.lose(at, clock, true);
        }
    }

    fn read(&mut self, at: usize, clock: Clock) {
        loop {
            let link = &mut self.links[at];
            let Some(socket) = link.socket.as_mut() else { return };
            match socket.read(&mut self.buffer) {
                Ok(count) if count > 0 => {
                    let outcome = link.client.receive(&self.buffer[..count], &mut self.answers);
                    if outcome.is_err() || link.client.is_finished() {
                        return self.lose(at, clock, outcome.is_err());
                    }
                    if count < self.buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return self.lose(at, clock, true),
            }
        }
    }

    /// A connection is gone; what was in flight on it is answered so. A goodbye in good order is not `counted`.
    fn lose(&mut self, at: usize, clock: Clock, counted: bool) {
        let link = &mut self.links[at];
        link.socket = None;
        link.client.abandon(&mut self.answers);
        link.client.out().clear();
        // At once after a goodbye in good order, else after a pause.
        link.retry_at_us = if counted { clock.now_us() + RECONNECT_EVERY_US } else { 0 };
        self.lost_connections += u64::from(counted);
    }
}

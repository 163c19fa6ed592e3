//! Turns: who of those that share a device runs its next batch.
//!
//! Called by the owner of the device's time, on the front end's side of the link. Start-time fair queueing (Goyal,
//! Vin and Cheng, 1996) over the time that each has used, by weight: whoever uses less than its share waits for one batch
//! of each neighbour at most, however many it has waiting; of time that it did not ask for, little is kept for it. A
//! device has a depth: so many turns are taken at once, by one or by several (as in Jin, Chase and Kaur, "Interposed
//! Proportional Sharing for a Storage Service Utility", 2004).
//!
//! A turn is charged all the time from when it is given until it is over, whatever runs beside it: two that overlap are
//! both charged whole. Charges add up, so those of one member need no names: whichever is said to be over, what they have
//! taken together is the same. Before they are over they count as what its turns take in the mean, or what they have
//! taken if that is more.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Virtual seconds that one who uses less than its share may be ahead of the others: it may come in bursts of so much, and
/// each of its turns still comes next (as in Duda and Cheriton, "Borrowed-Virtual-Time Scheduling", 1999).
const CREDIT: f64 = 0.1;
/// Weight of a new turn in the mean of what a member's turns take. That only orders those who ask: charged is what a turn
/// took.
const SMOOTHING: f64 = 0.25;

/// One that takes turns.
#[derive(Clone, Debug)]
struct Member {
    weight: f64,
    /// Where its turns that are over have brought it in virtual time.
    finish: f64,
    /// When each turn that it has was given; the first is the next to be over.
    given: VecDeque<Instant>,
    /// What a turn takes in the mean; zero as long as none is over.
    takes: Duration,
    /// It asks for a turn: its place among those who asked.
    asked: Option<u64>,
}

impl Member {
    /// Where it is in virtual time, if each turn that it has counts as this much.
    fn at(&self, turn: impl Fn(Instant) -> Duration) -> f64 {
        self.given.iter().map(|given| turn(*given).as_secs_f64() / self.weight).sum::<f64>() + self.finish
    }

    /// With what its turns have taken by now.
    fn used(&self, now: Instant) -> f64 {
        self.at(|given| now.saturating_duration_since(given))
    }

    /// Where its next turn starts: after those that it has.
    fn start(&self, now: Instant) -> f64 {
        self.at(|given| now.saturating_duration_since(given).max(self.takes))
    }

    /// Of the time that it did not ask for little is saved up.
    fn ask(&mut self, place: u64, clock: f64, now: Instant) {
        let under_way = self.used(now) - self.finish;
        self.finish = self.finish.max(clock - CREDIT - under_way);
        self.asked = Some(place);
    }

    /// The oldest of its turns is over. Whether it had one.
    fn over(&mut self, now: Instant) -> bool {
        let Some(given) = self.given.pop_front() else { return false };
        let took = now.saturating_duration_since(given);
        self.finish += took.as_secs_f64() / self.weight;
        self.takes = match self.takes {
            Duration::ZERO => took,
            takes => takes.mul_f64(1.0 - SMOOTHING) + took.mul_f64(SMOOTHING),
        };
        true
    }
}

/// The turns of one device.
#[derive(Debug)]
pub struct Turns {
    depth: usize,
    members: BTreeMap<u64, Member>,
    /// Virtual time: the latest at which a turn was given.
    clock: f64,
    asked: u64,
}

impl Default for Turns {
    /// One at a time.
    fn default() -> Self {
        Self::new(1)
    }
}

impl Turns {
    /// So many may be taken at once; 1 at least.
    pub fn new(depth: u32) -> Self {
        Self { depth: depth.max(1) as usize, members: BTreeMap::new(), clock: 0.0, asked: 0 }
    }

    /// One more member; it has `weight` parts of the device's time, against the parts of the others.
    pub fn join(&mut self, member: u64, weight: u32) {
        let (weight, finish) = (f64::from(weight.max(1)), self.clock);
        let (given, takes, asked) = (VecDeque::new(), Duration::ZERO, None);
        self.members.insert(member, Member { weight, finish, given, takes, asked });
    }

    /// It is gone, and with it all turns that it may have. Who is given a turn now: one name for each.
    pub fn leave(&mut self, member: u64, now: Instant) -> Vec<u64> {
        self.members.remove(&member);
        std::iter::from_fn(|| self.next(now)).collect()
    }

    /// It wants to run a batch, beside those that it may run already. Nothing changes if it asks as it is. Who is given
    /// a turn now.
    pub fn wanted(&mut self, member: u64, now: Instant) -> Option<u64> {
        let (clock, place) = (self.clock, self.asked);
        self.asked += 1;
        if let Some(member) = self.members.get_mut(&member)
            && member.asked.is_none()
        {
            member.ask(place, clock, now);
        }
        self.next(now)
    }

    /// One of its turns is over; whether it asks for another. Who is given a turn now.
    pub fn done(&mut self, member: u64, again: bool, now: Instant) -> Option<u64> {
        let (clock, place) = (self.clock, self.asked);
        let member = self.members.get_mut(&member)?;
        if !member.over(now) {
            return None;
        }
        self.asked += 1;
        if again && member.asked.is_none() {
            member.ask(place, clock, now);
        }
        self.next(now)
    }

    /// Gives a turn, if one is free and wanted.
    fn next(&mut self, now: Instant) -> Option<u64> {
        let taken: usize = self.members.values().map(|member| member.given.len()).sum();
        if taken >= self.depth {
            return None;
        }
        let asked = self.members.iter_mut().filter_map(|(number, member)| Some((member.asked?, *number, member)));
        let first = asked.min_by(|(x, _, a), (y, _, b)| a.start(now).total_cmp(&b.start(now)).then(x.cmp(y)));
        let (_, number, member) = first?;
        self.clock = self.clock.max(member.used(now));
        member.asked = None;
        member.given.push_back(now);
        Some(number)
    }
}

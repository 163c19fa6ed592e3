//! Turns: who of those that share a device runs its next batch.
//!
//! Called by the owner of the device's time, on the front end's side of the link. Start-time fair queueing (Goyal,
//! Vin and Cheng, 1996) over the time that each has used, by weight: whoever uses less than its share waits for one batch
//! of each neighbour at most, however many it has waiting; of time that it did not ask for, little is kept for it.

use std::collections::BTreeMap;
use std::time::Duration;

/// Virtual seconds that one who uses less than its share may be ahead of the others: it may come in bursts of so much, and
/// each of its turns still comes next (as in Duda and Cheriton, "Borrowed-Virtual-Time Scheduling", 1999).
const CREDIT: f64 = 0.1;

/// One that takes turns.
#[derive(Clone, Copy, Debug)]
struct Member {
    weight: f64,
    /// Virtual time at which its next turn may start: when its last one ended.
    finish: f64,
    /// It asks for a turn: where that starts in virtual time, and its place among those who asked.
    asked: Option<(f64, u64)>,
}

/// The turns of one device. One member at a time has one.
#[derive(Debug, Default)]
pub struct Turns {
    members: BTreeMap<u64, Member>,
    holder: Option<u64>,
    /// Where the turn that is taken started in virtual time.
    start: f64,
    /// Virtual time: the latest of these starts.
    clock: f64,
    asked: u64,
}

impl Turns {
    /// One more member; it has `weight` parts of the device's time, against the parts of the others.
    pub fn join(&mut self, member: u64, weight: u32) {
        let weight = f64::from(weight.max(1));
        self.members.insert(member, Member { weight, finish: self.clock, asked: None });
    }

    /// It is gone, and with it the turn that it may have. Whose turn it is now, if that has changed.
    pub fn leave(&mut self, member: u64) -> Option<u64> {
        self.members.remove(&member);
        if self.holder == Some(member) {
            self.holder = None;
        }
        self.next()
    }

    /// It wants to run a batch. Whose turn it is now, if that has changed.
    pub fn wanted(&mut self, member: u64) -> Option<u64> {
        let (clock, place) = (self.clock, self.asked);
        self.asked += 1;
        if let Some(member) = self.members.get_mut(&member)
            && member.asked.is_none()
        {
            // Of the time that it did not ask for little is saved up.
            member.asked = Some((member.finish.max(clock - CREDIT), place));
        }
        self.next()
    }

    /// Its turn is over after so long; whether it asks for another. Whose turn it is now, if that has changed.
    pub fn done(&mut self, member: u64, used: Duration, again: bool) -> Option<u64> {
        if self.holder != Some(member) {
            return None;
        }
        self.holder = None;
        let (start, place) = (self.start, self.asked);
        self.asked += 1;
        if let Some(member) = self.members.get_mut(&member) {
            member.finish = start + used.as_secs_f64() / member.weight;
            member.asked = again.then_some((member.finish, place));
        }
        self.next()
    }

    fn next(&mut self) -> Option<u64> {
        if self.holder.is_some() {
            return None;
        }
        let asked = self.members.iter().filter_map(|(number, member)| Some((member.asked?, *number)));
        let first = asked.min_by(|((a, x), _), ((b, y), _)| a.total_cmp(b).then(x.cmp(y)));
        let ((start, _), number) = first?;
        self.start = start;
        self.clock = self.clock.max(start);
        self.holder = Some(number);
        if let Some(member) = self.members.get_mut(&number) {
            member.asked = None;
        }
        Some(number)
    }
}

//! The environments of the version, with their slots, workers and queues, and which of them takes a request.
//!
//! Used by the world. Each is somewhere in a list of those that take requests while it is ready and has a free slot, so that a
//! choice takes as long among thousands as among two.

use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::VecDeque;

/// A request that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Waiter {
    pub(crate) arrived_ns: u64,
    /// When it got its slot; not yet, as long as it is in line.
    pub(crate) taken_ns: u64,
    pub(crate) service_ns: u64,
}

/// Not in the list of those that take requests.
const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Its place is free for another.
    Gone,
    Starting,
    Ready,
    /// Takes no more, and goes when it is empty.
    Draining,
}

#[derive(Debug)]
struct Environment {
    stage: Stage,
    /// Tells it from others that had its place.
    generation: u32,
    /// The number of its instance.
    instance: u32,
    /// When it was asked for.
    asked_ns: u64,
    taken: u32,
    running: u32,
    queue: VecDeque<Waiter>,
    /// Where it is among those that take requests.
    position: u32,
}

/// All environments.
#[derive(Debug)]
pub(crate) struct Pool {
    slots: u32,
    workers: u32,
    random: SmallRng,
    all: Vec<Environment>,
    gone: Vec<u32>,
    /// Ready, with a free slot.
    open: Vec<u32>,
    ready: u32,
    /// Requests in those that are ready.
    in_flight: u32,
}

impl Pool {
    pub(crate) fn new(slots: u32, workers: u32, random: SmallRng) -> Self {
        Self { slots, workers, random, all: Vec::new(), gone: Vec::new(), open: Vec::new(), ready: 0, in_flight: 0 }
    }

    /// Those that take requests, or would if they had a slot.
    pub(crate) fn ready(&self) -> u32 {
        self.ready
    }

    /// Requests in them.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// One starts on an instance; which, and its generation.
    pub(crate) fn start(&mut self, instance: u32, asked_ns: u64) -> (u32, u32) {
        let new = |generation| Environment {
            stage: Stage::Starting,
            generation,
            instance,
            asked_ns,
            taken: 0,
            running: 0,
            queue: VecDeque::new(),
            position: NOWHERE,
        };
        match self.gone.pop() {
            Some(index) => {
                let place = &mut self.all[index as usize];
                *place = new(place.generation + 1);
                (index, place.generation)
            }
            None => {
                self.all.push(new(0));
                (self.all.len() as u32 - 1, 0)
            }
        }
    }

    /// How long the first in a queue has waited, where that is least; 0 as soon as one queue is empty.
    pub(crate) fn queue_age_ns(&self, now_ns: u64) -> u64 {
        let ready = self.all.iter().filter(|environment| environment.stage == Stage::Ready);
        let mut least = u64::MAX;
        for environment in ready {
            match environment.queue.front() {
                None => return 0,
                Some(first) => least = least.min(now_ns.saturating_sub(first.arrived_ns)),
            }
        }
        if least == u64::MAX { 0 } else { least }
    }

    /// It takes requests from now on; when it was asked for. `None` if it was taken away meanwhile.
    pub(crate) fn becomes_ready(&mut self, index: u32, generation: u32) -> Option<u64> {
        let environment = &mut self.all[index as usize];
        if environment.generation != generation || environment.stage != Stage::Starting {
            return None;
        }
        environment.stage = Stage::Ready;
        self.ready += 1;
        let asked_ns = environment.asked_ns;
        self.opens(index);
        Some(asked_ns)
    }

    /// The less loaded of two random ones that have a free slot.
    pub(crate) fn choose(&mut self) -> Option<u32> {
        let count = self.open.len() as u32;
        match count {
            0 => None,
            1 => self.open.first().copied(),
            _ => {
                let random: u64 = self.random.random();
                let first = (random as u32) % count;
                let second = (first + 1 + ((random >> 32) as u32) % (count - 1)) % count;
                let (a, b) = (self.open[first as usize], self.open[second as usize]);
                let load = |index: u32| self.all[index as usize].taken;
                Some(if load(b) < load(a) { b } else { a })
            }
        }
    }

    /// It gets a request; whether that runs at once. Else it waits in the queue.
    pub(crate) fn take(&mut self, index: u32, waiter: Waiter) -> bool {
        let (slots, workers) = (self.slots, self.workers);
        let environment = &mut self.all[index as usize];
        environment.taken += 1;
        self.in_flight += 1;
        let (runs, full) = (environment.running < workers, environment.taken == slots);
        match runs {
            true => environment.running += 1,
            false => environment.queue.push_back(waiter),
        }
        if full {
            self.closes(index);
        }
        runs
    }

    /// A request that ran there has ended; the next in its queue, which runs now.
    pub(crate) fn ended(&mut self, index: u32) -> Option<Waiter> {
        let environment = &mut self.all[index as usize];
        let next = environment.queue.pop_front();
        environment.running -= u32::from(next.is_none());
        self.releases(index);
        next
    }

    /// The first in its queue gives up, if it came no later than that.
    pub(crate) fn leaves_queue(&mut self, index: u32, came_by_ns: u64) -> Option<Waiter> {
        let queue = &mut self.all[index as usize].queue;
        let late = *queue.front().filter(|waiter| waiter.arrived_ns <= came_by_ns)?;
        queue.pop_front();
        self.releases(index);
        Some(late)
    }

    fn releases(&mut self, index: u32) {
        let slots = self.slots;
        let environment = &mut self.all[index as usize];
        environment.taken -= 1;
        if environment.stage == Stage::Ready {
            let was_full = environment.taken + 1 == slots;
            self.in_flight -= 1;
            if was_full {
                self.opens(index);
            }
        }
    }

    /// It gets no more requests.
    pub(crate) fn drain(&mut self, index: u32) {
        let environment = &mut self.all[index as usize];
        let (before, taken) = (environment.stage, environment.taken);
        environment.stage = Stage::Draining;
        if before == Stage::Ready {
            self.ready -= 1;
            self.in_flight -= taken;
            self.closes(index);
        }
    }

    /// The instance of one that drains and is empty: it is gone.
    pub(crate) fn goes(&mut self, index: u32) -> Option<u32> {
        let environment = &mut self.all[index as usize];
        if environment.stage != Stage::Draining || environment.taken > 0 {
            return None;
        }
        environment.stage = Stage::Gone;
        self.gone.push(index);
        Some(environment.instance)
    }

    /// Which of several to take away: one that is starting, or the one with the fewest requests. Where it is among them.
    pub(crate) fn easiest(&self, among: &[u32]) -> Option<usize> {
        let cost = |index: u32| {
            let environment = &self.all[index as usize];
            (environment.stage != Stage::Starting, environment.taken)
        };
        among.iter().enumerate().min_by_key(|(_, index)| cost(**index)).map(|(position, _)| position)
    }

    /// Whether it takes requests.
    pub(crate) fn is_ready(&self, index: u32) -> bool {
        self.all[index as usize].stage == Stage::Ready
    }

    fn opens(&mut self, index: u32) {
        self.all[index as usize].position = self.open.len() as u32;
        self.open.push(index);
    }

    fn closes(&mut self, index: u32) {
        let position = std::mem::replace(&mut self.all[index as usize].position, NOWHERE);
        if position == NOWHERE {
            return;
        }
        self.open.swap_remove(position as usize);
        if let Some(moved) = self.open.get(position as usize) {
            self.all[*moved as usize].position = position;
        }
    }
}

//! The store under `kill -9`: a process that commits is killed a hundred times, at random and at each step of the write
//! path, and each time what it had been answered must be there, whole, and nothing else but what was in flight.
//!
//! The process that is killed is this test executable, started again for the test `killed`. How far it comes before
//! that is up to the machine, so a seed repeats what was tried, not the whole of a failure.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use bytes::Bytes;
use common::open;
use penstock_registry::store::{Commit, Expect, Limits, LocalStore, LocalStoreOptions, Step, Store, StoreError};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const WRITERS: u64 = 6;
const STEPS: [Step; 5] = [Step::Collected, Step::Filled, Step::Durable, Step::Visible, Step::Answered];
/// Each has a file of its own, and they run at once.
const SEEDS: [u64; 2] = [1, 2];
const KILLS_EACH: u64 = 50;

// What a writer does.

fn value(writer: u64, n: u64) -> Bytes {
    format!("{writer}:{n} ").repeat(1 + (n as usize % 90)).into()
}

/// The `n`th commit of a writer: its head, an entry put and one deleted, a blob; every fourth raises the count of all.
fn nth(writer: u64, n: u64, last: Option<u64>, count: Option<(u64, u64)>) -> Commit {
    let head = format!("head/{writer}");
    let commit = Commit::new().expect(&head, last.map_or(Expect::Absent, Expect::Revision)).put(head, n.to_string());
    let commit = commit.put(format!("slot/{writer}/{}", n % 5), value(writer, n));
    let commit = commit.delete(format!("slot/{writer}/{}", (n + 2) % 5));
    let commit = commit.put_large(format!("{writer}/{}", n % 3), value(writer, n));
    if !n.is_multiple_of(4) {
        return commit;
    }
    let expect = count.map_or(Expect::Absent, |(_, revision)| Expect::Revision(revision));
    commit.expect("count", expect).put("count", (count.map_or(0, |(count, _)| count) + 1).to_string())
}

async fn number(store: &LocalStore, key: &str) -> Option<(u64, u64)> {
    let entry = store.get(key).await.unwrap()?;
    Some((String::from_utf8(entry.value.to_vec()).unwrap().parse().unwrap(), entry.revision))
}

fn say(line: std::fmt::Arguments) {
    // One write, before anything else happens: what is read was answered.
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

async fn write(store: Arc<LocalStore>, writer: u64) {
    let (mut n, mut last) = number(&store, &format!("head/{writer}")).await.map_or((0, None), |(n, at)| (n, Some(at)));
    loop {
        let count = number(&store, "count").await;
        match store.commit(nth(writer, n + 1, last, count)).await {
            Ok(revision) => {
                (n, last) = (n + 1, Some(revision));
                say(format_args!("answered {writer} {n} {revision}"));
            }
            Err(StoreError::Conflict { key, .. }) => assert_eq!(key, "count", "nobody else has the writer's own"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
#[ignore = "the process that is killed: it is started by the test below"]
fn killed() {
    let mut orders = String::new();
    std::io::stdin().read_line(&mut orders).unwrap();
    let Some((folder, at, times)) = parse(&orders) else { return };
    // Not to outlive whoever started it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_line(&mut String::new());
        std::process::exit(1);
    });
    let passed = AtomicU64::new(0);
    let on_step = move |step| {
        if Some(step) == at && passed.fetch_add(1, Ordering::Relaxed) + 1 == times {
            say(format_args!("\nheld"));
            loop {
                std::thread::park();
            }
        }
    };
    let options = LocalStoreOptions { on_step: Some(Arc::new(on_step)), ..Default::default() };
    let store = Arc::new(LocalStore::open(Path::new(folder), options).unwrap());
    say(format_args!("\nopen"));
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(async {
        let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// A folder, the step at which to stop, and how often to pass it before.
fn parse(orders: &str) -> Option<(&str, Option<Step>, u64)> {
    let mut words = orders.trim_end().split('\t');
    let (folder, step, times) = (words.next()?, words.next()?, words.next()?);
    Some((folder, STEPS.get(step.parse::<usize>().ok()?).copied(), times.parse().ok()?))
}

// Who kills it, and looks at what is left.

/// Chance from a seed: splitmix64, by Steele, Lea and Flood.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
enum Kill {
    /// Microseconds after it was started: as it opens the file, mostly.
    Opening(u64),
    /// Microseconds after it opened the file.
    Committing(u64),
    /// When its thread comes to this step the so many'th time.
    At(Step, u64),
}

impl Kill {
    fn the(n: u64, chance: &mut Chance) -> Self {
        match n % 10 {
            0 => Kill::Opening(chance.below(12_000)),
            1..=4 => Kill::Committing(chance.below(60_000)),
            step => Kill::At(STEPS[step as usize - 5], 1 + chance.below(60)),
        }
    }
}

struct Killed {
    child: Child,
    lines: Receiver<String>,
}

impl Killed {
    fn start(folder: &Path, kill: Kill) -> Self {
        let (step, times) = match kill {
            Kill::At(at, times) => (STEPS.iter().position(|step| *step == at).unwrap(), times),
            _ => (STEPS.len(), 0),
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed", "--ignored", "--nocapture", "--test-threads", "2"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = format!("{}\t{step}\t{times}\n", folder.display());
        child.stdin.as_mut().unwrap().write_all(orders.as_bytes()).unwrap();
        let (read, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // What was written before the kill is in the pipe, and the last line may be cut off.
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| read.send(line)));
        Self { child, lines }
    }

    /// Reads until it says this.
    fn until(&self, said: &str, answers: &mut Vec<String>) {
        loop {
            let line = self.lines.recv().expect("it lives until it is killed");
            if line == said {
                return;
            }
            answers.push(line);
        }
    }

    /// Kills it when it is time, and gives what it said of its commits: writer, number, revision.
    #[expect(clippy::disallowed_methods, reason = "when the kill comes is what this test varies")]
    fn kill(mut self, kill: Kill) -> Vec<[u64; 3]> {
        let mut said = Vec::new();
        match kill {
            Kill::Opening(after) => std::thread::sleep(Duration::from_micros(after)),
            Kill::Committing(after) => {
                self.until("open", &mut said);
                std::thread::sleep(Duration::from_micros(after));
            }
            Kill::At(..) => self.until("held", &mut said),
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        said.extend(self.lines.iter());
        let answers = said.iter().filter_map(|line| line.strip_prefix("answered "));
        let numbers = |line: &str| line.split(' ').map(|word| word.parse().unwrap()).collect::<Vec<u64>>();
        answers.map(|line| numbers(line).try_into().unwrap()).collect()
    }
}

/// What is known to be in the file.
struct Ledger {
    /// Of each writer the number of its last commit, and its revision.
    heads: Vec<(u64, u64)>,
    newest: u64,
    own: u64,
}

impl Ledger {
    /// Looks at what a killed process left. Gives how many commits are there that nobody was told of.
    async fn check(&mut self, store: &LocalStore, answers: &[[u64; 3]]) -> u64 {
        let mut told = self.heads.clone();
        for [writer, n, revision] in answers {
            let last = &mut told[*writer as usize];
            assert!(*n == last.0 + 1 && *revision > last.1, "answers of writer {writer} follow each other");
            *last = (*n, *revision);
        }
        let (mut entries, mut blobs) = (BTreeMap::new(), BTreeMap::new());
        let (mut count, mut made, mut untold) = (0, 0, 0);
        for (writer, told) in (0..WRITERS).zip(told) {
            let found = number(store, &format!("head/{writer}")).await.unwrap_or_default();
            let one_more = found.0 == told.0 + 1 && found.1 > told.1;
            assert!(found == told || one_more, "writer {writer} was told {told:?}, and there is {found:?}");
            untold += u64::from(one_more);
            made += found.0 - self.heads[writer as usize].0;
            count += found.0 / 4;
            self.heads[writer as usize] = found;
            for n in found.0.saturating_sub(9).max(1)..=found.0 {
                entries.insert(format!("head/{writer}"), Bytes::from(n.to_string()));
                entries.insert(format!("slot/{writer}/{}", n % 5), value(writer, n));
                entries.remove(&format!("slot/{writer}/{}", (n + 2) % 5));
                blobs.insert(format!("{writer}/{}", n % 3), value(writer, n));
            }
        }
        if count > 0 {
            entries.insert("count".into(), count.to_string().into());
        }
        if self.own > 0 {
            entries.insert("own".into(), self.own.to_string().into());
        }
        let all = store.list("", None, 1000).await.unwrap();
        assert_eq!(all.into_iter().map(|(key, entry)| (key, entry.value)).collect::<BTreeMap<_, _>>(), entries);
        let keys = store.list_blobs("", None, 1000).await.unwrap();
        assert!(keys.iter().map(|(key, _)| key).eq(blobs.keys()), "{keys:?}");
        for (key, value) in blobs {
            assert_eq!(store.get_blob(&key).await.unwrap().unwrap().value, value);
        }
        assert_eq!(*store.watch().borrow(), self.newest + made, "a revision for each commit that is there");
        self.own += 1;
        self.newest = store.commit(Commit::new().put("own", self.own.to_string())).await.unwrap();
        assert_eq!(self.newest, *store.watch().borrow());
        untold
    }
}

/// Kills, one after the other, with the same file. Gives how many commits were answered, and how many found besides.
fn story(seed: u64) -> (u64, u64) {
    let folder = tempfile::TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut chance = Chance(seed);
    let mut ledger = Ledger { heads: vec![(0, 0); WRITERS as usize], newest: 0, own: 0 };
    let mut sums = (0, 0);
    for n in 0..KILLS_EACH {
        let kill = Kill::the(n, &mut chance);
        let answers = Killed::start(folder.path(), kill).kill(kill);
        let store = open(folder.path(), Limits::default());
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let untold = runtime.block_on(ledger.check(&store, &answers));
            if let Kill::At(Step::Durable | Step::Visible, _) = kill {
                assert!(untold > 0, "what was durable when it was killed is there");
            }
            untold
        }));
        let untold = checked.unwrap_or_else(|_| panic!("seed {seed}, kill {n}, {kill:?}; the file was in {folder:?}"));
        sums = (sums.0 + answers.len() as u64, sums.1 + untold);
    }
    sums
}

#[test]
fn what_was_answered_survives_a_hundred_kills() {
    let stories: Vec<_> = SEEDS.map(|seed| std::thread::spawn(move || story(seed))).into();
    for (seed, story) in SEEDS.into_iter().zip(stories) {
        let (answered, untold) = story.join().unwrap_or_else(|_| panic!("seed {seed}: see above"));
        println!("seed {seed}: {KILLS_EACH} kills, {answered} commits answered, {untold} more found");
        assert!(answered > 0);
    }
}

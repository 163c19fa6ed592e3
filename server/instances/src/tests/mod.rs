//! The roster under a clock of its own.

mod agents;
mod devices;
mod fleets;
mod gpus;
mod random;

pub(crate) use agents::specification;

use crate::cost::{Costs, FunctionCost};
use crate::protocol::{Beat, Machine};
use crate::roster::{Action, Deadlines, Gone, Proof, Roster};
use crate::{Address, Launched, Market, Missing, Offer, Outcome};
use penstock_scaler::{Architecture, InstanceType, Needs, Rules, Shape, Why};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

fn shape() -> Shape {
    Shape { vcpu: 5, memory_mib: 9 * 1024, devices: 0, device_memory_mib: 0, architecture: Architecture::OWN }
}

fn needs(vcpu: u32) -> Needs {
    Needs { vcpu, memory_mib: 1024, device_memory_mib: 0, architecture: Architecture::OWN }
}

fn rules(vcpu_max: u32) -> Rules {
    let zones = vec!["here".to_owned()];
    let (allowed, excluded) = (Vec::new(), Vec::new());
    Rules { vcpu_max, allowed, excluded, zones, start_timeout: SECOND * 10, empty_after: SECOND * 60 }
}

fn types() -> Vec<InstanceType> {
    vec![InstanceType { name: "local".into(), shape: shape(), usd_per_hour: 0.0, zones: vec!["here".into()] }]
}

fn deadlines() -> Deadlines {
    Deadlines { beat: SECOND * 5, drain: SECOND * 30, stop: SECOND * 5, age: Some(SECOND * 3600) }
}

/// A roster, its time, and what it asked for.
struct Clocked {
    roster: Roster,
    now: Instant,
}

impl Clocked {
    fn new(vcpu_max: u32) -> Self {
        Self { roster: Roster::new(rules(vcpu_max), types(), deadlines()), now: tokio::time::Instant::now().into_std() }
    }

    fn seek(&mut self, count: u32) -> Vec<u64> {
        (0..count).map(|_| self.roster.seek("f:1".into(), needs(2))).collect()
    }

    fn decide(&mut self) -> Vec<Action> {
        let actions = self.roster.decide(self.now);
        let vcpu = self.roster.vcpu();
        assert!(vcpu <= 15, "{vcpu} vCPU");
        assert_eq!(self.roster.decide(self.now), [], "to decide again changes nothing");
        actions
    }

    /// Those that are launching join.
    fn join(&mut self, actions: &[Action]) -> Vec<String> {
        let mut joined = Vec::new();
        for id in actions.iter().flat_map(ids_of) {
            self.roster.expect(id, format!("token of {id}"));
            assert!(self.join_one(id, Proof::Token("a guess")).is_err());
            assert!(self.join_one(id, Proof::Certificate).is_err(), "it has none yet");
            self.join_one(id, Proof::Token(&format!("token of {id}"))).unwrap();
            let again = self.join_one(id, Proof::Token(&format!("token of {id}")));
            assert_eq!(again, Err("its token was used"));
            assert_eq!(self.join_one(id, Proof::Certificate), Err("it has joined already"));
            joined.push(id.clone());
        }
        joined
    }

    /// All that was ordered comes.
    fn answer(&mut self, actions: &[Action]) {
        for id in actions.iter().flat_map(ids_of) {
            let offer = Offer { instance_type: "local".into(), zone: "here".into() };
            let outcome = Outcome { launched: vec![Launched::by_list(id, &offer)], missing: vec![] };
            assert_eq!(self.roster.ordered(std::slice::from_ref(id), &outcome, self.now), []);
        }
    }

    fn join_one(&mut self, name: &str, proof: Proof<'_>) -> Result<(String, Duration), &'static str> {
        self.roster.join((name, proof), Machine::default(), Address::Unix("/a".into()), self.now)
    }

    fn pass(&mut self, seconds: u32) {
        self.now += SECOND * seconds;
        let ids: Vec<String> = self.roster.instances().keys().cloned().collect();
        ids.iter().for_each(|id| self.roster.beat(id, Beat::default(), self.now));
    }
}

fn ids_of(action: &Action) -> &[String] {
    match action {
        Action::Launch { ids, .. } => ids,
        _ => &[],
    }
}

fn launched(actions: &[Action]) -> usize {
    actions.iter().flat_map(ids_of).count()
}

/// What has its fleet's name, as all have here.
fn terminate(id: &str, leases: Vec<u64>, why: Gone) -> Action {
    Action::Terminate { id: id.to_owned(), name: id.to_owned(), is_answered: true, leases, why }
}

fn given(actions: &[Action]) -> Vec<u64> {
    let given = actions.iter().filter_map(|action| match action {
        Action::Give { seeker, .. } => Some(*seeker),
        _ => None,
    });
    given.collect()
}

fn ended(actions: &[Action]) -> Vec<Gone> {
    let ended = actions.iter().filter_map(|action| match action {
        Action::Terminate { why, .. } => Some(*why),
        _ => None,
    });
    ended.collect()
}

#[test]
fn those_that_seek_get_room_on_as_few_instances_as_there_may_be() {
    let mut all = Clocked::new(15);
    let seekers = all.seek(7);
    let actions = all.decide();
    // Two on each; the seventh would be a fourth instance.
    assert_eq!(launched(&actions), 3);
    let refused: Vec<_> = actions.iter().filter(|action| matches!(action, Action::Refuse { .. })).collect();
    assert_eq!(refused, [&Action::Refuse { seeker: seekers[6], why: Why::VcpuMax }], "who came last");
    all.join(&actions);
    assert_eq!(given(&all.decide()), seekers[..6]);
    // One leaves: its room is the next one's.
    all.roster.release(seekers[0], all.now);
    let next = all.seek(1);
    let actions = all.decide();
    assert_eq!((launched(&actions), given(&actions)), (0, next));
}

#[test]
fn one_that_is_not_ready_in_time_is_given_up_and_its_type_left_alone_for_a_while() {
    let mut all = Clocked::new(15);
    let seekers = all.seek(1);
    let actions = all.decide();
    assert_eq!(launched(&actions), 1);
    all.pass(11);
    assert_eq!(all.decide(), [], "while its order is not answered it may come");
    all.answer(&actions);
    all.pass(10);
    assert_eq!(all.decide(), []);
    all.pass(1);
    let actions = all.decide();
    assert_eq!((ended(&actions), launched(&actions)), (vec![Gone::GivenUp], 0));
    assert!(actions.contains(&Action::Refuse { seeker: seekers[0], why: Why::Unavailable }));
    all.pass(6);
    all.seek(1);
    let actions = all.decide();
    assert_eq!(launched(&actions), 1);
    all.join(&actions);
    assert_eq!(given(&all.decide()).len(), 1);
}

#[test]
fn one_that_is_lost_is_replaced_and_an_empty_one_given_back() {
    let mut all = Clocked::new(15);
    let seekers = all.seek(1);
    let actions = all.decide();
    all.answer(&actions);
    let ids = all.join(&actions);
    all.decide();
    all.now += SECOND * 6;
    let actions = all.decide();
    assert_eq!(actions, [terminate(&ids[0], seekers.clone(), Gone::Lost)]);
    // Its supervisor gives the room back, and asks again.
    all.roster.release(seekers[0], all.now);
    let seekers = all.seek(1);
    let actions = all.decide();
    all.answer(&actions);
    let ids = all.join(&actions);
    assert_eq!(given(&all.decide()), seekers);
    all.roster.release(seekers[0], all.now);
    all.pass(59);
    assert_eq!(all.decide(), []);
    all.pass(2);
    assert_eq!(all.decide(), [Action::Stop { id: ids[0].clone() }]);
    let gone = all.roster.gone(&ids[0], all.now).unwrap();
    assert_eq!(gone, terminate(&ids[0], vec![], Gone::Empty));
    assert!(all.roster.gone(&ids[0], all.now).is_none());
}

#[test]
fn cores_count_until_it_is_known_that_they_have_ended() {
    let mut all = Clocked::new(10);
    all.seek(2);
    let actions = all.decide();
    all.answer(&actions);
    let ids = all.join(&actions);
    all.decide();
    let ends = all.roster.gone(&ids[0], all.now).unwrap();
    assert_eq!(ended(&[ends]), [Gone::Lost]);
    all.seek(4);
    assert_eq!((launched(&all.decide()), all.roster.vcpu()), (1, 10), "beside the one that may run still");
    all.roster.ended(&ids[0]);
    all.roster.set_unknown_vcpu(4);
    let seeker = all.seek(2)[0];
    let refused = Action::Refuse { seeker, why: Why::VcpuMax };
    assert!(all.decide().contains(&refused), "what an earlier server has left may run, too");
    all.roster.set_unknown_vcpu(0);
    all.seek(2);
    assert_eq!((launched(&all.decide()), all.roster.vcpu()), (1, 10));
}

#[test]
fn old_ones_are_replaced_one_after_the_other_and_only_if_a_new_one_fits() {
    let mut all = Clocked::new(15);
    let seekers = all.seek(4);
    let actions = all.decide();
    all.join(&actions);
    all.decide();
    all.pass(3601);
    let actions = all.decide();
    assert_eq!(actions, [Action::Leave { lease: seekers[0] }, Action::Leave { lease: seekers[1] }]);
    // Both look for other room; what they have stays until they have it.
    let moved = all.seek(2);
    let actions = all.decide();
    assert_eq!(launched(&actions), 1);
    let new = all.join(&actions);
    assert_eq!(given(&all.decide()), moved);
    seekers[..2].iter().for_each(|lease| all.roster.release(*lease, all.now));
    let actions = all.decide();
    let [Action::Stop { id }] = &actions[..] else { panic!("{actions:?}") };
    let gone = all.roster.gone(&id.clone(), all.now);
    assert!(matches!(gone, Some(Action::Terminate { why: Gone::Aged, .. })), "{gone:?}");
    assert_eq!(all.decide(), [], "it is not known to have ended: there is no room for a third");
    assert_eq!(all.roster.unreplaced(all.now), 1);
    all.roster.ended(id);
    let actions = all.decide();
    assert_eq!(actions, [Action::Leave { lease: seekers[2] }, Action::Leave { lease: seekers[3] }], "then the second");
    assert_eq!(all.roster.unreplaced(all.now), 0);
    assert_eq!(all.roster.instances()[&new[0]].leases.len(), 2);

    // Another that is old has room, and will not be there for long.
    let mut half = Clocked::new(15);
    half.seek(3);
    let actions = half.decide();
    half.join(&actions);
    half.decide();
    half.pass(3601);
    half.decide();
    let moved = half.seek(2);
    let actions = half.decide();
    let new = half.join(&actions);
    assert_eq!((new.len(), given(&half.decide())), (1, moved));
    assert_eq!(half.roster.instances()[&new[0]].leases.len(), 2);

    let mut full = Clocked::new(5);
    full.seek(1);
    let actions = full.decide();
    full.join(&actions);
    full.decide();
    full.pass(3601);
    assert_eq!(full.decide(), [], "there is no room beside it");
}

#[test]
fn one_that_says_it_is_unhealthy_is_replaced_and_goes_on_if_there_is_no_room() {
    let full = || Beat { unhealthy: Some("its disk is full".into()), ..Beat::default() };
    let mut all = Clocked::new(15);
    let seekers = all.seek(4);
    let actions = all.decide();
    let ids = all.join(&actions);
    all.decide();
    ids.iter().for_each(|id| all.roster.beat(id, full(), all.now));
    let leave = [0, 1].map(|one| Action::Leave { lease: seekers[one] });
    assert_eq!(all.decide(), leave, "one after the other");
    // Nobody finds other room: what answers is not ended.
    all.now += SECOND * 31;
    ids.iter().for_each(|id| all.roster.beat(id, full(), all.now));
    assert_eq!(all.decide(), leave, "it drains again");
    seekers[..2].iter().for_each(|lease| all.roster.release(*lease, all.now));
    let [Action::Stop { id }] = &all.decide()[..] else { panic!("it stops when it is empty") };
    let gone = all.roster.gone(id, all.now);
    assert!(matches!(gone, Some(Action::Terminate { why: Gone::Unhealthy, .. })), "{gone:?}");
    // One that was so from its beginning is not bought again at once.
    let seeker = all.seek(3)[2];
    assert!(all.decide().contains(&Action::Refuse { seeker, why: Why::Unavailable }));
}

#[test]
fn those_that_will_be_taken_away_drain_at_once_and_together() {
    let mut all = Clocked::new(15);
    let seekers = all.seek(6);
    let actions = all.decide();
    let ids = all.join(&actions);
    all.decide();
    let bad = || Some("it will be taken away".to_owned());
    all.roster.beat(&ids[0], Beat { unhealthy: bad(), ..Beat::default() }, all.now);
    assert_eq!(all.decide().len(), 2, "one drains");
    let away = Beat { unhealthy: bad(), is_taken_away: true, ..Beat::default() };
    ids[1..].iter().for_each(|id| all.roster.beat(id, away.clone(), all.now));
    let leave: Vec<Action> = seekers[2..].iter().map(|lease| Action::Leave { lease: *lease }).collect();
    assert_eq!(all.decide(), leave, "the others do not wait for it");
    seekers.iter().for_each(|lease| all.roster.release(*lease, all.now));
    assert_eq!(all.decide().len(), 3, "all stop");
    let gone = all.roster.gone(&ids[2], all.now);
    assert!(matches!(gone, Some(Action::Terminate { why: Gone::TakenAway, .. })), "{gone:?}");
}

#[test]
fn those_that_fail_together_count_once_and_a_pause_of_ones_own_is_nobodys_silence() {
    let mut all = Clocked::new(15);
    all.seek(6);
    let actions = all.decide();
    assert_eq!(launched(&actions), 3);
    all.answer(&actions);
    all.now += SECOND * 11;
    assert_eq!(ended(&all.decide()), [Gone::GivenUp; 3]);
    actions.iter().flat_map(ids_of).for_each(|id| all.roster.ended(id));
    all.now += SECOND * 5;
    all.seek(1);
    let actions = all.decide();
    assert_eq!(launched(&actions), 1, "after the first pause");
    all.join(&actions);
    all.now += SECOND * 60;
    all.roster.stood_still(SECOND * 60);
    assert_eq!(ended(&all.decide()), []);
    all.now += SECOND * 6;
    assert_eq!(ended(&all.decide()), [Gone::Lost]);
}

#[test]
fn a_limit_that_is_lowered_takes_nothing_and_gives_nothing_more() {
    let mut all = Clocked::new(15);
    all.seek(4);
    let actions = all.decide();
    all.join(&actions);
    assert_eq!(given(&all.decide()).len(), 4);
    all.roster.set_vcpu_max(5);
    let seeker = all.seek(1)[0];
    assert_eq!(all.decide(), [Action::Refuse { seeker, why: Why::VcpuMax }]);
    assert_eq!(all.roster.instances().len(), 2);
    all.roster.set_vcpu_max(15);
    all.seek(1);
    assert_eq!(launched(&all.decide()), 1);
}

#[test]
fn costs_are_each_ones_part_of_the_cores_and_go_on_by_the_clock() {
    let mut all = Clocked::new(15);
    let leases = all.seek(1);
    let actions = all.decide();
    all.join(&actions);
    all.decide();
    let mut costs = Costs::default();
    let rates = |costs: &Costs| -> Vec<(String, f64)> {
        costs.of_all().into_iter().map(|cost| (cost.function, cost.usd_per_hour)).collect()
    };
    // Two of the four cores that environments may have.
    costs.look(all.roster.instances(), |_| 8.0, all.now);
    assert_eq!(rates(&costs), [(String::new(), 4.0), ("f".to_owned(), 4.0)]);
    all.pass(900);
    costs.look(all.roster.instances(), |_| 8.0, all.now);
    all.roster.release(leases[0], all.now);
    costs.look(all.roster.instances(), |_| 8.0, all.now);
    assert_eq!(rates(&costs), [(String::new(), 8.0), ("f".to_owned(), 0.0)]);
    all.pass(450);
    costs.look(all.roster.instances(), |_| 8.0, all.now);
    let of = |function: &str, usd_per_hour, usd| FunctionCost { function: function.into(), usd_per_hour, usd };
    assert_eq!(costs.of_all(), [of("", 8.0, 2.0), of("f", 0.0, 1.0)]);
}

#[test]
fn an_order_names_what_would_do_and_its_outcome_is_kept() {
    let of = |name: &str, vcpu, usd_per_hour, zones: &[&str]| InstanceType {
        name: name.into(),
        shape: Shape { vcpu, ..shape() },
        usd_per_hour,
        zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
    };
    let types = vec![
        of("small", 3, 1.0, &["a", "b"]),
        of("dear", 3, 3.0, &["a"]),
        of("old", 3, 2.0, &["b", "c"]),
        of("large", 8, 9.0, &["a", "b"]),
    ];
    let rules = Rules { zones: vec!["a".into(), "b".into()], ..rules(12) };
    let mut roster = Roster::new(rules, types, deadlines());
    let now = tokio::time::Instant::now().into_std();
    for _ in 0..2 {
        roster.seek("f:1".into(), needs(2));
    }
    let offer = |instance_type: &str, zone: &str| Offer { instance_type: instance_type.into(), zone: zone.into() };
    let orders = |actions: Vec<Action>| {
        let orders = actions.into_iter().filter_map(|action| match action {
            Action::Launch { ids, offers, .. } => Some((ids, offers)),
            _ => None,
        });
        orders.collect::<Vec<_>>()
    };
    let all = orders(roster.decide(now));
    assert_eq!(all.len(), 2, "one in each zone");
    let [(first, offers), (second, elsewhere)] = &all[..] else { panic!("{all:?}") };
    let would_do = [("small", "a"), ("small", "b"), ("old", "b"), ("dear", "a")].map(|(one, zone)| offer(one, zone));
    assert_eq!(offers[..], would_do, "no more cores, the cheapest first");
    assert_eq!(elsewhere[0], offer("small", "b"));
    // The first comes as something else, and is known by its own name then; the second does not come.
    let launched = Launched {
        id: first[0].clone(),
        name: "i-0abc".into(),
        offer: offer("old", "b"),
        market: Market::Spot,
        usd_per_hour: Some(0.5),
    };
    let missing = ["small", "old"].map(|one| Missing { offer: offer(one, "b"), reason: "none left".into() });
    let outcome = Outcome { launched: vec![launched], missing: vec![] };
    assert_eq!(roster.ordered(first, &outcome, now), []);
    let entry = &roster.instances()[&first[0]];
    assert_eq!((&*entry.instance_type, &*entry.zone, entry.usd_per_hour), ("old", "b", Some(0.5)));
    roster.expect(&first[0], "token".into());
    let place = Address::Unix("/a".into());
    assert!(
        roster.join((&first[0], Proof::Token("token")), Machine::default(), place.clone(), now).is_err(),
        "its own name"
    );
    assert_eq!(roster.join(("i-0abc", Proof::Token("token")), Machine::default(), place, now).unwrap().0, first[0]);
    let outcome = Outcome { launched: vec![], missing: missing.to_vec() };
    assert_eq!(roster.ordered(second, &outcome, now), [Action::Forget { id: second[0].clone() }]);
    let actions = roster.decide(now);
    assert_eq!(given(&actions).len(), 1);
    let again = orders(actions);
    assert_eq!(again[0].1, [offer("small", "a"), offer("dear", "a")], "what is missing is left alone");
}

#[test]
fn one_that_comes_smaller_than_it_was_to_be_is_not_given_more_than_it_has() {
    let of = |name: &str, vcpu, usd_per_hour| InstanceType {
        name: name.into(),
        shape: Shape { vcpu, ..shape() },
        usd_per_hour,
        zones: vec!["here".into()],
    };
    let mut roster = Roster::new(rules(30), vec![of("large", 9, 1.0), of("small", 3, 2.0)], deadlines());
    let now = tokio::time::Instant::now().into_std();
    let first = roster.seek("f:1".into(), needs(2));
    let actions = roster.decide(now);
    let ids: Vec<String> = actions.iter().flat_map(ids_of).cloned().collect();
    assert_eq!(ids.len(), 1);
    // What comes meanwhile is to go there, too.
    let others = [roster.seek("f:1".into(), needs(2)), roster.seek("f:2".into(), needs(1))];
    assert_eq!(roster.decide(now), []);
    let small = Offer { instance_type: "small".into(), zone: "here".into() };
    let outcome = Outcome { launched: vec![Launched::by_list(&ids[0], &small)], missing: vec![] };
    assert_eq!(roster.ordered(&ids, &outcome, now), []);
    let again = roster.decide(now);
    assert_eq!(launched(&again), 1, "for those that have no room there");
    for id in ids.iter().chain(again.iter().flat_map(ids_of)) {
        roster.expect(id, "token".into());
        roster.join((id, Proof::Token("token")), Machine::default(), Address::Unix("/a".into()), now).unwrap();
    }
    assert_eq!(given(&roster.decide(now)), [first, others[0], others[1]]);
    let on_first: Vec<u64> = roster.instances()[&ids[0]].leases.keys().copied().collect();
    assert_eq!(on_first, [first]);
}

#[test]
fn when_the_provider_cannot_be_asked_nothing_is_launched_for_a_while() {
    let mut all = Clocked::new(15);
    for pause in [1, 2, 4] {
        let seeker = all.seek(1)[0];
        let actions = all.decide();
        let ids: Vec<String> = actions.iter().flat_map(ids_of).cloned().collect();
        assert_eq!(ids.len(), 1);
        assert_eq!(all.roster.not_ordered(&ids, all.now), [Action::Forget { id: ids[0].clone() }]);
        assert_eq!(all.decide(), [Action::Refuse { seeker, why: Why::Unavailable }]);
        all.pass(pause - 1);
        let seeker = all.seek(1)[0];
        assert_eq!(all.decide(), [Action::Refuse { seeker, why: Why::Unavailable }], "after {pause} s");
        all.pass(1);
    }
    // It answers again: the next failure is a first one.
    all.roster.ordered(&[], &Outcome::default(), all.now);
    all.roster.not_ordered(&[], all.now);
    all.pass(1);
    all.seek(1);
    assert_eq!(launched(&all.decide()), 1);
}

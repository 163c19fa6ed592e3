//! Plans, as properties over small worlds of functions and versions.

use super::name;
use crate::control::{Change, ControlMode, plan, settle};
use crate::{ContentRevision, FunctionSource, IdentityDelays, RuntimeSource, UnavailableVersion, VersionSource};
use penstock_domain::VersionNumber;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A version: its revision, or `None` if it is unavailable.
type Versions = BTreeMap<u64, Option<u64>>;
/// A function: its versions, or `None` if it could not be judged at all.
type World = BTreeMap<String, Option<Versions>>;

fn functions(world: &World) -> Vec<FunctionSource> {
    world.iter().map(|(name, versions)| function(name, versions.as_ref())).collect()
}

fn function(text: &str, versions: Option<&Versions>) -> FunctionSource {
    let all = || versions.into_iter().flatten();
    let good = all().filter_map(|(number, revision)| Some(version(*number, (*revision)?))).collect::<Vec<_>>();
    let bad = all().filter(|(_, revision)| revision.is_none());
    let bad = bad.map(|(number, _)| UnavailableVersion { number: VersionNumber(*number), reason: "broken".into() });
    FunctionSource {
        name: name(text),
        origin: crate::Origin::Repository,
        reserved_concurrency: None,
        directory: text.into(),
        config: Default::default(),
        unavailable: good.is_empty().then(|| "broken".into()),
        versions: good,
        unavailable_versions: bad.collect(),
    }
}

fn version(number: u64, revision: u64) -> VersionSource {
    VersionSource {
        number: VersionNumber(number),
        directory: number.to_string().into(),
        runtime: RuntimeSource::Identity { delays: IdentityDelays::default() },
        settings: Default::default(),
        revision: ContentRevision(revision),
        config: None,
        linked_paths: Vec::new(),
    }
}

fn world() -> impl Strategy<Value = World> {
    let versions = prop::collection::btree_map(1..4_u64, prop::option::weighted(0.8, 0..3_u64), 1..4);
    prop::collection::btree_map("[abc]", prop::option::weighted(0.8, versions), 0..4)
}

/// What is served: function and number to revision.
type Served = BTreeMap<(String, u64), u64>;

fn served(functions: &[FunctionSource]) -> Served {
    let versions = functions.iter().flat_map(|f| f.versions.iter().map(move |v| (f, v)));
    versions.map(|(f, v)| ((f.name.to_string(), v.number.0), v.revision.0)).collect()
}

/// Applies a plan, checking that each step makes sense where it stands.
fn apply(mut state: Served, changes: &[Change]) -> Served {
    for change in changes {
        match change {
            Change::Load { function, version } => {
                let old = state.insert((function.to_string(), version.number.0), version.revision.0);
                assert_eq!(old, None, "loaded twice: {change:?}");
            }
            Change::Replace { function, version, previous } => {
                assert_ne!(version.revision, *previous);
                let old = state.insert((function.to_string(), version.number.0), version.revision.0);
                assert_eq!(old, Some(previous.0), "replaced what was not there: {change:?}");
            }
            Change::Unload { function, number } => {
                assert!(state.remove(&(function.to_string(), number.0)).is_some(), "unloaded twice: {change:?}");
            }
        }
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_changes_when_nothing_changed(world in world()) {
        let functions = functions(&world);
        prop_assert_eq!(plan(&functions, &functions), vec![]);
    }

    #[test]
    fn from_nothing_everything_available_is_loaded(world in world()) {
        let functions = functions(&world);
        let changes = plan(&[], &functions);
        let only_loads = changes.iter().all(|change| matches!(change, Change::Load { .. }));
        prop_assert!(only_loads);
        prop_assert_eq!(apply(Served::new(), &changes), served(&functions));
        let gone = apply(served(&functions), &plan(&functions, &[]));
        prop_assert!(gone.is_empty());
    }

    #[test]
    fn a_history_of_polls_is_followed(history in prop::collection::vec(world(), 1..6)) {
        let mut previous = Vec::new();
        let mut state = Served::new();
        for world in &history {
            let next = functions(world);
            let changes = plan(&previous, &next);
            state = apply(state, &changes);
            let settled = settle(&previous, &next);
            prop_assert_eq!(&state, &served(&settled));
            prop_assert_eq!(plan(&settled, &next), vec![]);
            // Everything available is served; what else is served is a version that is there, but broken.
            for (key, revision) in served(&next) {
                prop_assert_eq!(state.get(&key), Some(&revision));
            }
            for (name, number) in state.keys().filter(|key| !served(&next).contains_key(*key)) {
                let broken = match &world[name] {
                    None => true,
                    Some(versions) => versions.get(number) == Some(&None),
                };
                prop_assert!(broken, "{name} {number} should have been unloaded");
            }
            let loads_come_first = changes.is_sorted_by_key(|change| matches!(change, Change::Unload { .. }));
            prop_assert!(loads_come_first);
            previous = settled;
        }
    }
}

#[test]
fn a_broken_edit_keeps_what_is_served() {
    let good = [function("a", Some(&Versions::from([(1, Some(7))])))];
    let broken = [function("a", None)];
    assert_eq!(plan(&good, &broken), []);
    let settled = settle(&good, &broken);
    assert_eq!(served(&settled), served(&good));
    assert!(settled[0].unavailable.is_some());
    let mended = [function("a", Some(&Versions::from([(1, Some(8))])))];
    assert!(matches!(plan(&settled, &mended).as_slice(), [Change::Replace { previous: ContentRevision(7), .. }]));
}

#[test]
fn the_mode_decides_what_is_loaded_at_start() {
    let all = functions(&["a", "b"].map(|name| (name.to_owned(), None)).into_iter().collect());
    let names = |functions: Vec<FunctionSource>| functions.iter().map(|f| f.name.to_string()).collect::<BTreeSet<_>>();
    for mode in [ControlMode::None, ControlMode::Poll, ControlMode::Explicit] {
        assert_eq!(ControlMode::parse(mode.name()), Some(mode));
        let loaded = names(mode.at_start(all.clone(), &["b".to_owned()]).unwrap());
        assert_eq!(loaded.len(), if mode == ControlMode::Explicit { 1 } else { 2 });
    }
    assert_eq!(ControlMode::Explicit.at_start(all.clone(), &["*".to_owned()]).unwrap().len(), 2);
    assert_eq!(ControlMode::Explicit.at_start(all, &["c".to_owned()]).unwrap_err(), ["c"]);
    assert_eq!(ControlMode::parse("always"), None);
}

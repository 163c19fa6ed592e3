//! Fleets of providers that come, change and go.

use super::{deadlines, rules, types};
use crate::{EndError, Fleet, FleetOptions, Fleets, Listen, OpenFleet, Order, Outcome, Provider, Standing};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What was asked of it, and what it answers next: the errors of opening and of closing.
#[derive(Default)]
struct World {
    asked: Mutex<Vec<String>>,
    opening: Mutex<Vec<io::Error>>,
    closing: Mutex<Vec<io::Error>>,
}

struct Opener {
    world: Arc<World>,
    folder: PathBuf,
}

struct Empty(Arc<World>);

#[async_trait]
impl OpenFleet for Opener {
    fn check(&self, _: &str, settings: &Map<String, Value>) -> Result<(), String> {
        settings.get("wrong").map_or(Ok(()), |_| Err("wrong: found".into()))
    }

    fn vcpu_max(&self, settings: &Map<String, Value>) -> u32 {
        settings["CapacityProviderScalingConfig"]["MaxVCpuCount"].as_u64().unwrap_or_default() as u32
    }

    fn tags(&self, settings: &Map<String, Value>) -> BTreeMap<String, String> {
        settings.get("PropagateTags").and_then(|tags| serde_json::from_value(tags.clone()).ok()).unwrap_or_default()
    }

    async fn open(&self, name: &str, settings: &Map<String, Value>) -> io::Result<Arc<Fleet>> {
        self.world.asked.lock().push(format!("open {name} {}", Value::Object(settings.clone())));
        if let Some(error) = self.world.opening.lock().pop() {
            return Err(error);
        }
        let options = FleetOptions {
            name: name.into(),
            rules: rules(10),
            types: types(),
            deadlines: deadlines(),
            folder: self.folder.join(name),
            listen: Listen::Folder,
            disk: None,
            token: || Ok("token".into()),
        };
        Fleet::open(options, Arc::new(Empty(self.world.clone())), CancellationToken::new())
    }
}

#[async_trait]
impl Provider for Empty {
    async fn launch(&self, _: &Order) -> io::Result<Outcome> {
        Ok(Outcome::default())
    }

    async fn terminate(&self, _: &str) {}

    fn set_tags(&self, tags: BTreeMap<String, String>) {
        self.0.asked.lock().push(format!("tags {tags:?}"));
    }

    async fn ended(&self) -> String {
        std::future::pending().await
    }

    async fn close(&self) -> io::Result<()> {
        self.0.asked.lock().push("close".into());
        self.0.closing.lock().pop().map_or(Ok(()), Err)
    }
}

fn settings(vcpu_max: u32) -> Map<String, Value> {
    json!({ "CapacityProviderScalingConfig": { "MaxVCpuCount": vcpu_max } }).as_object().unwrap().clone()
}

async fn open(fleets: &Fleets) -> Arc<Fleet> {
    let mut changed = fleets.changed();
    timeout(Duration::from_secs(30), async {
        loop {
            if let Some(Standing::Open(fleet)) = fleets.standing("p") {
                return fleet;
            }
            changed.changed().await.unwrap();
        }
    })
    .await
    .unwrap()
}

fn fleets() -> (Arc<World>, Arc<Fleets>, tempfile::TempDir) {
    let (world, folder) = (Arc::<World>::default(), tempfile::tempdir().unwrap());
    let opener = Opener { world: world.clone(), folder: folder.path().to_owned() };
    (world, Fleets::new(None, Some(Arc::new(opener))), folder)
}

fn asked(world: &World) -> Vec<String> {
    std::mem::take(&mut *world.asked.lock())
}

const OPENED: &str = r#"open p {"CapacityProviderScalingConfig":{"MaxVCpuCount":10}}"#;

#[tokio::test]
async fn what_a_provider_may_have_changes_without_another_fleet_and_is_told() {
    let (world, fleets, _folder) = fleets();
    fleets.want("p", &settings(10));
    let fleet = open(&fleets).await;
    let mut changed = fleets.changed();
    fleets.want("p", &settings(20));
    assert_eq!((fleet.vcpu_max(), changed.has_changed().unwrap()), (20, true));
    changed.mark_unchanged();
    let mut tagged = settings(20);
    tagged.insert("PropagateTags".into(), json!({ "team": "a" }));
    fleets.want("p", &tagged);
    assert_eq!(asked(&world), [OPENED, "tags {}", "tags {\"team\": \"a\"}"]);
    assert!(fleets.check("p", &settings(1)).is_ok() && fleets.buys());
    let wrong = json!({ "wrong": 1 }).as_object().unwrap().clone();
    assert_eq!(fleets.check("p", &wrong), Err("wrong: found".into()));
}

#[tokio::test]
async fn one_that_ends_is_closed_until_nothing_is_left() {
    let (world, fleets, _folder) = fleets();
    fleets.want("p", &settings(10));
    open(&fleets).await;
    let passes = |why: &str| Err(EndError { why: why.into(), may_pass: true });
    world.closing.lock().push(io::Error::other("some may be left"));
    assert_eq!(fleets.end("p", &settings(10)).await, passes("some may be left"));
    assert!(fleets.standing("p").is_none() && fleets.all().is_empty() && fleets.settings("p").is_none());
    // What is not known is opened, to be ended: as after a restart.
    world.opening.lock().push(io::Error::other("away"));
    assert_eq!(fleets.end("p", &settings(10)).await, passes("away"));
    assert_eq!(fleets.end("p", &settings(10)).await, Ok(()));
    assert_eq!(asked(&world), [OPENED, "close", OPENED, OPENED, "close"]);
    for kind in [io::ErrorKind::InvalidInput, io::ErrorKind::PermissionDenied] {
        world.opening.lock().push(io::Error::new(kind, "no"));
        let ended = fleets.end("p", &settings(10)).await;
        assert_eq!(ended, Err(EndError { why: "no".into(), may_pass: false }));
    }
    // It never could have had any.
    asked(&world);
    assert_eq!(fleets.end("p", json!({ "wrong": 1 }).as_object().unwrap()).await, Ok(()));
    // Where nobody buys any there is nothing to end.
    assert_eq!(Fleets::new(None, None).end("p", &settings(10)).await, Ok(()));
    assert_eq!(asked(&world), [""; 0]);
}

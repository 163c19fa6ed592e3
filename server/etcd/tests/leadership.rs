//! One server leads, and no other changes anything; whatever becomes of it or of etcd, another does soon, and nothing is lost.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Etcd, LEASE, SOON, Way, leads, open, options, until};
use penstock_etcd::{EtcdOptions, EtcdStore};
use penstock_registry::store::{Commit, Expect, Leadership, Store, StoreError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Waits until there is at least this revision.
async fn heard(watch: &mut tokio::sync::watch::Receiver<u64>, revision: u64) {
    timeout(SOON, watch.wait_for(|newest| *newest >= revision)).await.expect("it is heard of in time").unwrap();
}

fn follows(leader: &str) -> impl Fn(&Leadership) -> bool {
    let leader = Some(leader.to_owned());
    move |leadership| *leadership == Leadership::Elsewhere { leader: leader.clone() }
}

#[tokio::test]
async fn one_leads_and_the_others_read_what_it_writes() {
    let etcd = Etcd::start().await;
    // Longer than anybody here waits.
    let options = EtcdOptions { lease: SOON * 2, ..options(etcd.address(), "penstock", "http://one") };
    let one: Arc<dyn Store> = Arc::new(EtcdStore::open(options).await.unwrap());
    let term = leads(&one).await;
    let other = open(etcd.address(), "penstock", "http://other").await;
    until(&other, follows("http://one")).await;
    let refused = other.commit(Commit::new().put("a", "2")).await.unwrap_err();
    assert_eq!(refused, StoreError::NotLeading { leader: Some("http://one".into()) });
    assert!(refused.to_string().contains("http://one leads"), "{refused}");

    let mut watch = other.watch();
    let written = one.commit(Commit::new().put("a", "1").put_large("b", "large").in_term(term)).await.unwrap();
    heard(&mut watch, written).await;
    assert_eq!(other.get("a").await.unwrap().unwrap().revision, written);
    assert_eq!(other.get_blob("b").await.unwrap().unwrap().value, "large");

    // Whoever ends gives its lease back: nobody waits for its end.
    one.close().await.unwrap();
    let next = leads(&other).await;
    assert!(next > term);
    let late = other.commit(Commit::new().put("a", "3").in_term(term)).await.unwrap_err();
    assert!(matches!(late, StoreError::NotLeading { .. }), "{late}");
    assert!(other.commit(Commit::new().put("a", "3").in_term(next)).await.is_ok());
    // Another state is another's to lead.
    leads(&open(etcd.address(), "else", "http://else").await).await;
}

#[tokio::test]
async fn one_that_is_not_leader_any_more_finds_out_when_it_writes() {
    let etcd = Etcd::start().await;
    let one = open(etcd.address(), "penstock", "http://one").await;
    let term = leads(&one).await;
    // As a lease that has run out would.
    etcd.client().await.delete("penstock/leader", None).await.unwrap();
    let mut leadership = one.leadership();
    let refused = one.commit(Commit::new().put("a", "1")).await.unwrap_err();
    assert_eq!(refused, StoreError::NotLeading { leader: None });
    timeout(SOON, leadership.wait_for(|now| now.term().is_some_and(|now| now > term))).await.unwrap().unwrap();
    assert!(one.commit(Commit::new().expect("a", Expect::Absent).put("a", "1")).await.is_ok());
}

#[tokio::test]
async fn one_that_is_cut_off_is_followed_by_another_and_no_change_is_lost_or_doubled() {
    let etcd = Etcd::start().await;
    let way = Way::to(etcd.address()).await;
    let one = open(way.address, "penstock", "http://one").await;
    leads(&one).await;
    let others =
        [open(etcd.address(), "penstock", "http://2").await, open(etcd.address(), "penstock", "http://3").await];
    let stores: Vec<Arc<dyn Store>> = [vec![one.clone()], others.to_vec()].concat();
    let mut writers = JoinSet::new();
    let ended = Instant::now() + 4 * LEASE;
    for (writer, store) in stores.iter().cloned().enumerate() {
        writers.spawn(async move {
            let mut done = BTreeSet::new();
            for n in 0.. {
                if Instant::now() > ended {
                    break;
                }
                if increment(&*store, &format!("w/{writer}/{n:05}")).await {
                    done.insert(format!("w/{writer}/{n:05}"));
                }
                sleep(Duration::from_millis(2)).await;
            }
            done
        });
    }
    sleep(LEASE / 2).await;
    let (at, mut led) = (Instant::now(), one.leadership());
    way.cut();
    // It says so itself, though etcd cannot tell it.
    timeout(SOON, led.wait_for(|now| now.term().is_none())).await.unwrap().unwrap();
    let stepped_down = at.elapsed();
    let [two, three] = &others;
    tokio::select! {
        _ = leads(two) => {}
        _ = leads(three) => {}
    }
    println!("cut off: it leads no more after {stepped_down:?}, another leads after {:?}", at.elapsed());
    assert!(at.elapsed() < SOON, "{:?}", at.elapsed());
    sleep(LEASE / 2).await;
    way.heal();
    let done: BTreeSet<String> = writers.join_all().await.into_iter().flatten().collect();
    let mut kept = BTreeSet::new();
    loop {
        let after = kept.last().cloned();
        let page = two.list("w/", after.as_deref(), 500).await.unwrap();
        let last = page.len() < 500;
        kept.extend(page.into_iter().map(|(key, _)| key));
        if last {
            break;
        }
    }
    assert!(done.is_subset(&kept), "lost: {:?}", done.difference(&kept).collect::<Vec<_>>());
    // What was not answered for may have happened: once.
    let counted = two.get("n").await.unwrap().unwrap();
    assert_eq!(counted.value, kept.len().to_string());
    println!("{} done, {} kept", done.len(), kept.len());
    assert!(done.len() > 10, "{} done", done.len());
    let writers: BTreeSet<char> = done.iter().filter_map(|key| key.chars().nth(2)).collect();
    assert!(writers.len() > 1, "only {writers:?} wrote");
    until(&one, |now| now.term().is_none() && *now != Leadership::Elsewhere { leader: None }).await;
}

/// One more, and who made it; whether that is known to have happened.
async fn increment(store: &dyn Store, own: &str) -> bool {
    for _ in 0..20 {
        let Ok(found) = store.get("n").await else { return false };
        let (n, expect) = found.map_or((0, Expect::Absent), |entry| {
            let n: u64 = String::from_utf8(entry.value.to_vec()).unwrap().parse().unwrap();
            (n, Expect::Revision(entry.revision))
        });
        let commit = Commit::new().expect("n", expect).expect(own, Expect::Absent);
        match store.commit(commit.put("n", (n + 1).to_string()).put(own, "")).await {
            Ok(_) => return true,
            Err(StoreError::Conflict { .. }) => {}
            Err(_) => return false,
        }
    }
    false
}

#[tokio::test]
async fn etcd_may_stand_still_and_go_on() {
    let etcd = Etcd::start().await;
    let one = open(etcd.address(), "penstock", "http://one").await;
    let term = leads(&one).await;
    one.commit(Commit::new().put("a", "1")).await.unwrap();
    etcd.stop();
    let at = Instant::now();
    let unanswered = one.commit(Commit::new().put("a", "2")).await.unwrap_err();
    assert!(matches!(&unanswered, StoreError::Failed(why) if why.contains("not known")), "{unanswered}");
    assert!(at.elapsed() < SOON, "each request has its deadline: {:?}", at.elapsed());
    let next = one.commit(Commit::new().put("a", "3")).await.unwrap_err();
    assert_eq!(next, StoreError::NotLeading { leader: None }, "nothing follows on what is not known");
    assert!(matches!(one.get("a").await, Err(StoreError::Away(_))));
    until(&one, |now| now.term().is_none()).await;
    println!("it leads no more after {:?}", at.elapsed());
    let refused = one.commit(Commit::new().put("a", "3")).await.unwrap_err();
    assert_eq!(refused, StoreError::NotLeading { leader: None });
    etcd.go_on();
    assert!(leads(&one).await > term);
    // What was not answered for may have been done when etcd went on; what was refused was not.
    let value = one.get("a").await.unwrap().unwrap().value;
    assert!(value == "1" || value == "2", "{value:?}");
    let (mut watch, written) = (one.watch(), one.commit(Commit::new().put("a", "4")).await.unwrap());
    heard(&mut watch, written).await;
}

#[tokio::test]
async fn etcd_may_be_killed_and_come_back() {
    let mut etcd = Etcd::start().await;
    let one = open(etcd.address(), "penstock", "http://one").await;
    leads(&one).await;
    // Had it been open before, it might have led.
    let other = open(etcd.address(), "penstock", "http://other").await;
    one.commit(Commit::new().put("a", "1")).await.unwrap();
    etcd.restart().await;
    let leading = tokio::select! {
        _ = leads_anew(&one) => &one,
        _ = leads_anew(&other) => &other,
    };
    let mut watches = [one.watch(), other.watch()];
    let written = leading.commit(Commit::new().put("a", "2")).await.unwrap();
    for watch in &mut watches {
        heard(watch, written).await;
    }
    assert_eq!(other.get("a").await.unwrap().unwrap().value, "2");
}

/// Waits until a commit of this store's is done.
async fn leads_anew(store: &Arc<dyn Store>) {
    loop {
        leads(store).await;
        if store.commit(Commit::new().put("b", "")).await.is_ok() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_that_has_fallen_behind_what_etcd_has_kept_hears_of_the_newest() {
    let etcd = Etcd::start().await;
    let way = Way::to(etcd.address()).await;
    let one = open(etcd.address(), "penstock", "http://one").await;
    leads(&one).await;
    let behind = open(way.address, "penstock", "http://behind").await;
    let mut watch = behind.watch();
    heard(&mut watch, one.commit(Commit::new().put("a", "0")).await.unwrap()).await;
    way.cut();
    let mut newest = 0;
    for n in 0..200 {
        newest = one.commit(Commit::new().put("a", n.to_string())).await.unwrap();
    }
    etcd.client().await.compact(i64::try_from(newest).unwrap(), None).await.unwrap();
    assert!(*watch.borrow() < newest);
    way.heal();
    heard(&mut watch, newest).await;
    assert_eq!(behind.get("a").await.unwrap().unwrap().value, "199");
    heard(&mut watch, one.commit(Commit::new().put("a", "x")).await.unwrap()).await;
}

#[tokio::test]
async fn what_cannot_be_right_is_told_before() {
    let etcd = Etcd::start().await;
    let refused = async |change: fn(&mut penstock_etcd::EtcdOptions)| {
        let mut options = common::options(etcd.address(), "penstock", "http://one");
        change(&mut options);
        penstock_etcd::EtcdStore::open(options).await.err().expect("it is wrong").to_string()
    };
    let text = refused(|options| options.endpoints = vec!["http://127.0.0.1:1".into()]).await;
    assert!(text.starts_with("etcd cannot be reached at http://127.0.0.1:1:"), "{text}");
    let text = refused(|options| options.endpoints = vec!["https://127.0.0.1:1".into()]).await;
    assert!(text.contains("https:// needs the certificate"), "{text}");
    let text = refused(|options| {
        options.tls = Some(penstock_etcd::EtcdTls { authorities: Vec::new(), identity: None });
    })
    .await;
    assert!(text.contains("begin with https://"), "{text}");
    let text = refused(|options| options.user = Some(("me".into(), "word".into()))).await;
    assert!(text.contains("authentication is not enabled"), "{text}");
}

//! Hears of every new revision of the state, for as long as the store is open.
//!
//! Started by the store. Whoever follows reads the state itself when it is woken, so nothing is lost by falling behind: after a
//! lost connection, or where etcd has compacted what was to be heard, the newest revision is asked for and the watch begins
//! after it.

use crate::connection::{Connection, Trouble, pauses, revision};
use crate::keys::Keys;
use crate::newest::Newest;
use etcd_client::{GetOptions, WatchOptions};
use std::sync::Arc;
use std::time::Duration;

/// After so long without a word etcd is asked for one; after twice as long the watch is begun anew.
const SILENCE: Duration = Duration::from_secs(2);

/// The newest revision of all etcd. Whatever was answered before is in it.
pub(crate) async fn newest_revision(connection: &Connection, keys: &Keys) -> Result<u64, Trouble> {
    let answer = connection.get(keys.leader(), GetOptions::new().with_keys_only()).await?;
    revision(answer.header())
}

/// Tells `newest` until it is dropped.
pub(crate) async fn run(connection: Connection, keys: Keys, newest: Arc<Newest>) {
    let (mut waits, mut quiet) = (pauses(), false);
    loop {
        let mut heard = false;
        let ended = watch(&connection, &keys, &newest, &mut heard).await;
        if heard {
            (waits, quiet) = (pauses(), false);
        }
        match ended {
            Err(trouble) if !quiet => tracing::warn!(%trouble, "changes are not heard of for now"),
            Err(_) => {}
            Ok(why) => tracing::info!(why, "changes are heard of anew"),
        }
        quiet = true;
        tokio::time::sleep(waits.next().unwrap_or(SILENCE)).await;
    }
}

/// Until etcd ends it, which it gives the reason for, or something goes wrong.
async fn watch(connection: &Connection, keys: &Keys, newest: &Newest, heard: &mut bool) -> Result<String, Trouble> {
    let known = newest_revision(connection, keys).await?;
    newest.tell(known);
    let (first, end) = keys.state();
    let after = i64::try_from(known + 1).unwrap_or(i64::MAX);
    // In fragments: what several commits have put may be more than one message may be.
    let options = WatchOptions::new().with_range(end).with_start_revision(after).with_fragment();
    let mut client = connection.watch();
    let mut watch = connection.within(client.watch(first, Some(options))).await?;
    let mut asked = false;
    loop {
        let message = match tokio::time::timeout(SILENCE, watch.message()).await {
            Ok(message) => message?.ok_or(Trouble::Odd("ended the watch"))?,
            Err(_) if asked => return Err(Trouble::Late(2 * SILENCE)),
            Err(_) => {
                connection.within(watch.request_progress()).await?;
                asked = true;
                continue;
            }
        };
        (asked, *heard) = (false, true);
        if message.canceled() {
            return Ok(match message.compact_revision() {
                0 => message.cancel_reason().to_owned(),
                compacted => format!("they were compacted up to revision {compacted}"),
            });
        }
        let of_event = |event: &etcd_client::Event| event.kv().map(etcd_client::KeyValue::mod_revision);
        if let Some(last) = message.events().iter().filter_map(of_event).max() {
            newest.tell(u64::try_from(last).unwrap_or_default());
        }
    }
}

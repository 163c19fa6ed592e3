//! Which server leads: the one whose lease holds the leader's key.
//!
//! Started by the store. A server takes the key when there is none, and keeps it by renewing its lease; one that cannot renew
//! it says that it leads no more before etcd says so, and begins anew. All others wait until the key is gone, and try. The
//! revision that made the key is the term: commits compare it, so that nothing here needs a clock to be right.

use crate::connection::{Connection, Trouble, pauses, revision};
use crate::keys::Keys;
use etcd_client::{Compare, CompareOp, EventType, GetOptions, PutOptions, Txn, TxnOp, WatchOptions};
use penstock_registry::store::Leadership;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// What commits have found out about who leads.
#[derive(Default)]
pub(crate) struct Doubt {
    /// The newest term that is over, whatever etcd says.
    over: AtomicU64,
    told: Notify,
}

impl Doubt {
    /// A commit was refused: this server does not lead, as it seems.
    pub(crate) fn tell(&self) {
        self.told.notify_one();
    }

    /// A commit was not answered, and may yet be made: its term ends here and now, and its key is given back, so that what
    /// is read in the next is read after it was made, or when it never will be.
    pub(crate) fn end(&self, term: u64) {
        self.over.fetch_max(term, Ordering::AcqRel);
        self.told.notify_one();
    }

    pub(crate) fn is_over(&self, term: u64) -> bool {
        term <= self.over.load(Ordering::Acquire)
    }
}

/// What takes part in choosing who leads.
pub(crate) struct Candidate {
    pub(crate) connection: Connection,
    pub(crate) keys: Keys,
    /// Where this server is reached.
    pub(crate) address: String,
    /// Of the lease.
    pub(crate) time_to_live: Duration,
    pub(crate) told: watch::Sender<Leadership>,
    pub(crate) doubt: Arc<Doubt>,
    pub(crate) stop: CancellationToken,
}

impl Candidate {
    /// Until it is stopped; what it holds then is given back, so that another leads at once.
    pub(crate) async fn run(self) {
        let (mut waits, mut quiet) = (pauses(), false);
        while !self.stop.is_cancelled() {
            let trouble = match self.follow_or_lead().await {
                Ok(()) => {
                    (waits, quiet) = (pauses(), false);
                    continue;
                }
                Err(trouble) => trouble,
            };
            self.tell(Leadership::Elsewhere { leader: None });
            if !std::mem::replace(&mut quiet, true) {
                tracing::warn!(%trouble, "which server leads is not known for now");
            }
            let pause = waits.next().unwrap_or(self.time_to_live);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
        }
        self.tell(Leadership::Elsewhere { leader: None });
    }

    fn tell(&self, leadership: Leadership) {
        self.told.send_if_modified(|known| {
            let news = *known != leadership;
            *known = leadership;
            news
        });
    }

    /// Until what holds now has ended.
    async fn follow_or_lead(&self) -> Result<(), Trouble> {
        let found = self.connection.get(self.keys.leader(), GetOptions::new()).await?;
        match found.kvs().first() {
            Some(leader) => {
                let leader = String::from_utf8_lossy(leader.value()).into_owned();
                self.tell(Leadership::Elsewhere { leader: Some(leader) });
                let after = revision(found.header())? + 1;
                tokio::select! {
                    gone = self.gone(after) => gone,
                    () = self.stop.cancelled() => Ok(()),
                }
            }
            None => self.lead().await,
        }
    }

    /// Until the leader's key is gone, or it is time to look again.
    async fn gone(&self, after: u64) -> Result<(), Trouble> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let mut client = self.connection.watch();
        let options = WatchOptions::new().with_start_revision(after);
        let mut watch = self.connection.within(client.watch(self.keys.leader(), Some(options))).await?;
        // A watch that hangs keeps nobody from looking.
        let look = Instant::now() + self.time_to_live;
        loop {
            let Ok(message) = timeout_at(look, watch.message()).await else { return Ok(()) };
            let message = message?.ok_or(Trouble::Odd("ended the watch"))?;
            if message.canceled() || message.events().iter().any(|event| event.event_type() == EventType::Delete) {
                return Ok(());
            }
        }
    }

    /// Takes the key, if nobody has it, and keeps it for as long as that can be done.
    async fn lead(&self) -> Result<(), Trouble> {
        let (mut leases, begun) = (self.connection.lease(), Instant::now());
        let seconds = i64::try_from(self.time_to_live.as_secs()).unwrap_or(i64::MAX);
        let lease = self.connection.within(leases.grant(seconds, None)).await?;
        let time_to_live = Duration::from_secs(u64::try_from(lease.ttl()).unwrap_or_default());
        let led = self.lead_by(lease.id(), time_to_live, begun + time_to_live).await;
        self.tell(Leadership::Elsewhere { leader: None });
        // Whoever waits need not wait for its end. If it cannot be said now, etcd will find out.
        if let Err(trouble) = self.connection.within(leases.revoke(lease.id())).await {
            tracing::debug!(%trouble, "a lease was not given back");
        }
        led
    }

    async fn lead_by(&self, lease: i64, time_to_live: Duration, until: Instant) -> Result<(), Trouble> {
        let key = self.keys.leader();
        let own = PutOptions::new().with_lease(lease);
        let take = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key, self.address.as_bytes(), Some(own))]);
        let taken = self.connection.transaction(take).await?;
        if !taken.succeeded() {
            return Ok(());
        }
        let term = revision(taken.header())?;
        tracing::info!(term, address = self.address, "this server leads");
        self.tell(Leadership::Held { term });
        let why = tokio::select! {
            trouble = self.renew(lease, time_to_live, until) => trouble,
            trouble = self.lost(term) => trouble,
            () = self.stop.cancelled() => {
                tracing::info!(term, "this server leads no more: it ends");
                return Ok(());
            }
        };
        tracing::warn!(term, trouble = %why, "this server leads no more");
        Ok(())
    }

    /// Renews the lease for as long as that can be done; gives what went wrong last.
    async fn renew(&self, lease: i64, time_to_live: Duration, mut until: Instant) -> Trouble {
        loop {
            let trouble = self.renew_on_one_stream(lease, time_to_live, &mut until).await;
            if matches!(trouble, Trouble::Odd(_)) || Instant::now() >= until {
                return trouble;
            }
            tracing::debug!(%trouble, "the lease is renewed anew");
            sleep(time_to_live / 30).await;
        }
    }

    /// Until something goes wrong, or the lease has run out: `until` says when that is, and moves on with each answer.
    async fn renew_on_one_stream(&self, lease: i64, time_to_live: Duration, until: &mut Instant) -> Trouble {
        let expired = || Trouble::Odd("has let the lease run out");
        let late = || Trouble::Late(time_to_live);
        let mut sent = Instant::now();
        let mut leases = self.connection.lease();
        let opening = timeout_at(*until, self.connection.within(leases.keep_alive(lease)));
        let (mut keeper, mut answers) = match opening.await {
            Err(_) => return late(),
            Ok(Err(Trouble::Told(etcd_client::Error::LeaseKeepAliveError(_)))) => return expired(),
            Ok(Err(trouble)) => return trouble,
            Ok(Ok(stream)) => stream,
        };
        loop {
            // What etcd counts begins when it has read the word, which is later.
            *until = sent + time_to_live;
            sleep(time_to_live / 3).await;
            sent = Instant::now();
            let answer = async {
                keeper.keep_alive().await?;
                answers.message().await
            };
            match timeout_at(*until, answer).await {
                Err(_) | Ok(Ok(None)) => return late(),
                Ok(Err(error)) => return error.into(),
                Ok(Ok(Some(answer))) if answer.ttl() <= 0 => return expired(),
                Ok(Ok(Some(_))) => {}
            }
        }
    }

    /// Until a commit was not answered, or was refused and the key is found to be another's, or gone.
    async fn lost(&self, term: u64) -> Trouble {
        loop {
            self.doubt.told.notified().await;
            if self.doubt.is_over(term) {
                return Trouble::Odd("did not answer a commit");
            }
            // Whoever does not answer is renewed, or not.
            let Ok(found) = self.connection.get(self.keys.leader(), GetOptions::new().with_keys_only()).await else {
                continue;
            };
            let made = found.kvs().first().and_then(|key| u64::try_from(key.create_revision()).ok());
            if made != Some(term) {
                return Trouble::Odd("has another leader, or none");
            }
        }
    }
}

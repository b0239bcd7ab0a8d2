//! A master stands for election again and again; when it leads, it tells whoever does the work of the office.
//!
//! What leading means is [`Office`]'s: the driver's, or a simulation's. Whoever holds the office decides by its own clock
//! when it stops acting; the lease lasts longer than that. When the office is left for any reason, the leadership is
//! dropped and with it the lease.

use std::{error::Error as StdError, sync::Arc};

use estafet_etcd::{Network, Session, Timing, follow::Copied, node_prefix};
use estafet_runtime::Tasks;
use futures::FutureExt as _;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use crate::{
    assignments::{self, Wanted},
    election::{Candidate, Error, Identity, Leadership},
};

/// A term that the database refuses because of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The term.
    pub term: i64,
    /// The newest that the database knows.
    pub stored: i64,
}

/// Who leads when the process is elected.
pub trait Office: Clone + Send + Sync + 'static {
    /// The process leads in this term; the last successful renewal of its lease was sent then.
    fn elected(&self, term: i64, renewed: Instant) -> impl Future<Output = ()> + Send;

    /// The lease was renewed; that was asked for then.
    fn renewed(&self, sent: Instant) -> impl Future<Output = ()> + Send;

    /// The process does not lead.
    fn deposed(&self) -> impl Future<Output = ()> + Send;

    /// Who is registered in etcd, leader or not.
    fn registered(&self, nodes: Arc<Copied>) -> impl Future<Output = ()> + Send;

    /// What a leader wants to be in etcd.
    fn wanted(&self) -> watch::Receiver<Option<Arc<Wanted>>>;

    /// Told when the database refuses the leader's term.
    fn behind(&self) -> watch::Receiver<Option<Behind>>;

    /// Told when the leadership is to be given back.
    fn resign(&self) -> &Notify;
}

/// Tells the office who is registered in etcd, until the tasks are shut down.
pub async fn follow_nodes(network: Arc<dyn Network>, timing: Timing, prefix: String, office: impl Office, tasks: Tasks) {
    let (told, mut nodes) = watch::channel(Arc::<Copied>::default());
    let prefix = node_prefix(&prefix);
    let telling = async {
        while nodes.changed().await.is_ok() {
            let copied = nodes.borrow_and_update().clone();
            office.registered(copied).await;
        }
    };
    tokio::select! {
        biased;
        () = tasks.shutdown().cancelled() => {}
        () = telling => {}
        () = estafet_etcd::follow(&*network, timing, &prefix, &tasks, &told) => {}
    }
}

/// Stands for election again and again, until the tasks are shut down. `stands` says whether the process is a
/// candidate or leads.
pub async fn stand(
    network: Arc<dyn Network>,
    timing: Timing,
    identity: Identity,
    office: impl Office,
    stands: watch::Sender<bool>,
    tasks: Tasks,
) {
    let shutdown = tasks.shutdown().clone();
    let standing = async {
        let who = &identity.node.address;
        let connect = async || {
            let session = Session::reopen(&*network, timing, who, &tasks).await;
            Candidate::new(network.clone(), session, identity.clone())
        };
        let mut candidate = connect().await;
        let mut backoff = timing.backoff(who);
        loop {
            let led = stand_once(&mut candidate, &identity.prefix, &office, &stands).await;
            stands.send_replace(false);
            match led {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn StdError, "campaign ended");
                    sleep(backoff.next_delay()).await;
                    // With the certificates of now.
                    candidate = connect().await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = standing => {}
    }
}

async fn stand_once(
    candidate: &mut Candidate,
    prefix: &str,
    office: &impl Office,
    stands: &watch::Sender<bool>,
) -> Result<(), Error> {
    let candidacy = candidate.stand().await?;
    stands.send_replace(true);
    let leadership = candidate.win(candidacy).await?;
    lead(leadership, prefix, office).await;
    Ok(())
}

/// Leads until the lease is lost or given back. When this future is dropped, the leadership is too.
async fn lead(mut leadership: Leadership, prefix: &str, office: &impl Office) {
    let (mut renewed, mut behind) = (leadership.renewed(), office.behind());
    let sent = *renewed.borrow_and_update();
    let Some(sent) = sent else { return };
    // A word that came after the end of an earlier term is not meant for this one.
    let _ = office.resign().notified().now_or_never();
    behind.mark_unchanged();
    let term = leadership.term();
    tracing::info!(term, "leading");
    office.elected(term, sent).await;
    let publishing = assignments::publish(leadership.guard(), prefix, term, office.wanted());
    tokio::pin!(publishing);
    loop {
        tokio::select! {
            biased;
            changed = renewed.changed() => {
                let sent = *renewed.borrow_and_update();
                match sent {
                    Some(sent) if changed.is_ok() => office.renewed(sent).await,
                    _ => break,
                }
            }
            () = office.resign().notified() => break,
            Ok(()) = behind.changed() => {
                let refused = *behind.borrow_and_update();
                let Some(refused) = refused.filter(|refused| refused.term == leadership.term()) else { continue };
                if !go_on_above(&mut leadership, refused, office).await {
                    break;
                }
            }
            // The key is gone, and with it the term.
            () = &mut publishing => break,
        }
    }
    tracing::warn!(term = leadership.term(), "not leading any more");
    office.deposed().await;
}

/// The database knows a term from before etcd lost its data: leads on in a higher one. `false`: it could not be had.
async fn go_on_above(leadership: &mut Leadership, Behind { term, stored }: Behind, office: &impl Office) -> bool {
    match leadership.raise_above(stored).await {
        Ok(raised) => {
            let why = if stored > term { "etcd has lost data" } else { "an answer of the database was lost, or etcd's data" };
            tracing::warn!(term, stored, raised, why, "the database knows a term that is not below ours, leading on above it");
            let sent = *leadership.renewed().borrow();
            if let Some(sent) = sent {
                office.elected(raised, sent).await;
            }
            sent.is_some()
        }
        Err(error) => {
            let error = &error as &dyn StdError;
            tracing::warn!(term, stored, error, "the term could not be raised above the one of the database, standing again");
            false
        }
    }
}

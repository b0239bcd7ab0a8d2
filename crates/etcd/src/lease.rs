//! A lease that is kept by a loop of its own until it is dropped or lost.
//!
//! The stream of renewals does not come back by itself, so the loop opens it again. How old the last renewal is
//! counts from *sending* it, by the process's own clock: etcd may end the lease a TTL later, never earlier.

use estafet_runtime::Tasks;
use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Error, Session, session::within};

/// A lease that is kept until this is dropped; then it is revoked, and whatever was under it ends.
pub struct Lease {
    id: i64,
    /// When the last successful renewal was sent; `None`: lost.
    renewed: watch::Receiver<Option<Instant>>,
    _end: DropGuard,
}

impl Lease {
    pub(crate) fn keep(session: Session, id: i64, granted: Instant, tasks: &Tasks) -> Self {
        let (sender, renewed) = watch::channel(Some(granted));
        let end = CancellationToken::new();
        let ended = end.clone();
        tasks.spawn("lease", async move {
            let mut session = session;
            tokio::select! {
                biased;
                () = ended.cancelled() => {}
                () = renew(&mut session, id, granted, &sender) => {}
            }
            sender.send_replace(None);
            if let Err(error) = session.revoke(id).await {
                tracing::debug!(%error, "the lease was not revoked, it ends by itself");
            }
        });
        Self { id, renewed, _end: end.drop_guard() }
    }

    /// Its id.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// When the last successful renewal was sent; `None` when it is lost.
    pub fn renewed(&self) -> watch::Receiver<Option<Instant>> {
        self.renewed.clone()
    }

    /// Whether it is gone or can no longer be believed in.
    pub fn is_lost(&self) -> bool {
        self.renewed.borrow().is_none()
    }

    /// Returns when it is lost.
    pub async fn lost(&mut self) {
        // An error says that the keeper ended, which it does only after the loss.
        let _ = self.renewed.wait_for(Option::is_none).await;
    }
}

/// Renews until the lease is gone or can no longer be believed in.
async fn renew(session: &mut Session, id: i64, granted: Instant, renewed: &watch::Sender<Option<Instant>>) {
    let timing = session.timing;
    let (mut last, mut stream) = (granted, None);
    sleep(timing.renew).await;
    while last.elapsed() < timing.ttl {
        let sent = Instant::now();
        match renew_once(session, id, &mut stream).await {
            Ok(true) => {
                last = sent;
                renewed.send_replace(Some(sent));
                sleep_until(sent + timing.renew).await;
            }
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(%error, "the lease was not renewed");
                stream = None;
                sleep(timing.pause).await;
            }
        }
    }
}

/// One renewal; says whether the lease is still there.
async fn renew_once(
    session: &mut Session,
    id: i64,
    stream: &mut Option<(LeaseKeeper, LeaseKeepAliveStream)>,
) -> Result<bool, Error> {
    let (mut keeper, mut answers) = match stream.take() {
        Some(open) => open,
        // Opening sends a first request and reads its answer, so the lease is known to be there.
        None => {
            return match session.keep_alive(id).await {
                Ok(open) => {
                    *stream = Some(open);
                    Ok(true)
                }
                Err(Error::Etcd { source, .. }) if matches!(*source, etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            };
        }
    };
    let answer = within(session.timing.deadline, "renew", async {
        keeper.keep_alive().await?;
        answers.message().await
    })
    .await?;
    let Some(answer) = answer else {
        // The stream ended, which says nothing about the lease.
        return Err(Error::Late("renew"));
    };
    *stream = Some((keeper, answers));
    Ok(answer.ttl() > 0)
}

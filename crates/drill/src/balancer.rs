//! Which webapps callers are sent to, as a load balancer in front of them decides: one that is taken out gets no new
//! requests, and may end once those under way are answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use estafet_harness::client::until;

/// The webapps, by their places in the list.
#[derive(Debug, Default)]
pub(crate) struct Balancer(Vec<Place>);

#[derive(Debug, Default)]
struct Place {
    is_out: AtomicBool,
    under_way: AtomicUsize,
}

/// A request to a webapp; it is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct Pass<'a>(&'a Place);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Balancer {
    /// So many webapps, all of them in.
    pub(crate) fn of(webapps: usize) -> Self {
        Self((0..webapps).map(|_| Place::default()).collect())
    }

    /// Sends a request to a webapp; `None` if it is out.
    pub(crate) fn enter(&self, webapp: usize) -> Option<Pass<'_>> {
        let place = self.0.get(webapp)?;
        place.under_way.fetch_add(1, Ordering::SeqCst);
        // Counted first: whoever takes it out sees this request, or this request sees that it is out.
        let pass = Pass(place);
        (!place.is_out.load(Ordering::SeqCst)).then_some(pass)
    }

    /// Sends nothing more to a webapp, and waits until everything sent is answered.
    pub(crate) async fn take_out(&self, webapp: usize) -> anyhow::Result<()> {
        let Some(place) = self.0.get(webapp) else { return Ok(()) };
        place.is_out.store(true, Ordering::SeqCst);
        until("the webapp has answered what it was asked", async || Ok(place.under_way.load(Ordering::SeqCst) == 0)).await
    }

    /// Sends requests to a webapp again.
    pub(crate) fn put_in(&self, webapp: usize) {
        if let Some(place) = self.0.get(webapp) {
            place.is_out.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_webapp_that_is_taken_out_is_left_when_its_last_request_is_answered() {
        let balancer = Balancer::of(2);
        let pass = balancer.enter(0).expect("it is in");
        let taking_out = balancer.take_out(0);
        let mut taking_out = std::pin::pin!(taking_out);
        assert!(futures::poll!(&mut taking_out).is_pending(), "a request is under way");
        assert!(balancer.enter(0).is_none() && balancer.enter(1).is_some());
        drop(pass);
        taking_out.await.unwrap();
        assert!(balancer.enter(0).is_none(), "still out");
        balancer.put_in(0);
        assert!(balancer.enter(0).is_some());
        assert!(balancer.enter(2).is_none(), "there is no third one");
    }
}

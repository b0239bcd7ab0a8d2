//! The modelled etcd, as far as an election needs it: candidates under leases, the oldest leads. A lease that is
//! not renewed ends three seconds later. The real client and the real election are
//! tested against a real etcd (`master/tests`).

use estafet_etcd::Timing;

use crate::{
    messages::Body,
    world::{Place, SECOND, Time, What, World, micros},
};

/// How long a lease lives without renewal.
const TTL: Time = micros(Timing::REAL.ttl);

#[derive(Default)]
pub(crate) struct Etcd {
    /// In the order of their create revisions.
    candidates: Vec<Candidate>,
    revision: i64,
}

struct Candidate {
    master: usize,
    lease: u64,
    term: i64,
    ends: Time,
}

impl World {
    pub(crate) fn at_etcd(&mut self, what: What) {
        let What::Called { from, call, body } = what else { return };
        let (now, lease) = (self.now, self.fresh());
        let etcd = &mut self.etcd;
        etcd.candidates.retain(|candidate| candidate.ends > now);
        let answer = match body {
            Body::Campaign { master } => {
                etcd.revision += 1;
                let term = etcd.revision;
                etcd.candidates.push(Candidate { master, lease, term, ends: now + TTL });
                Body::Candidate { lease, term }
            }
            Body::Renew { lease } => {
                let own = etcd.candidates.iter_mut().find(|candidate| candidate.lease == lease);
                Body::Renewed(own.map(|own| own.ends = now + TTL).is_some())
            }
            Body::Leader => Body::Leads(etcd.candidates.first().map(|first| (first.master, first.lease, first.term))),
            Body::Revoke { lease } => {
                etcd.candidates.retain(|candidate| candidate.lease != lease);
                Body::Revoked
            }
            _ => return,
        };
        self.answer(Place::Etcd, from, call, answer);
    }

    /// An etcd that comes back renews every lease.
    pub(crate) fn etcd_started(&mut self) {
        let now = self.now;
        self.etcd.candidates.iter_mut().for_each(|candidate| candidate.ends = now + TTL + SECOND);
    }
}

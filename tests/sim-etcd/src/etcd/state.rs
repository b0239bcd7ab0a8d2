//! Keys with revisions, leases, history, transactions: pure, time is an argument.
//!
//! It outlives restarts of the members, as data on disks do. A member that begins to lead renews all leases; a lease ends late (when
//! somebody looks) and never early. As an observer who knows everything it also checks each transaction: whatever is
//! written beside candidacies and registrations must be on condition of the key that leads.

use std::{collections::BTreeMap, time::Duration};

use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbDeleteResponse, PbEvent, PbKeyValue, PbPutRequest, PbPutResponse, PbRangeRequest,
    PbRangeResponse, PbResponseHeader, PbResponseOp, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnResponse,
};
use tonic::Status;

/// Time since the simulation began.
pub(crate) type Time = Duration;

/// What a new leader adds to a lease.
const ELECTION: Duration = Duration::from_secs(1);

struct Lease {
    ttl: Duration,
    ends: Time,
    renewed: Time,
}

/// What etcd knows.
pub(crate) struct State {
    prefix: String,
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Vec<u8>, PbKeyValue>,
    history: Vec<(i64, PbEvent)>,
    leases: BTreeMap<i64, Lease>,
    /// Never given twice, not even after a loss of data.
    next_lease: i64,
    /// A rule that is taken out: writes of a leader are taken whoever leads.
    takes_any_writer: bool,
    /// Writes of leaders that took effect.
    pub(crate) guarded: u64,
    /// Rules that were broken.
    pub(crate) broken: Vec<String>,
}

impl State {
    pub(crate) fn new(prefix: &str, takes_any_writer: bool) -> Self {
        Self {
            prefix: prefix.to_owned(),
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            history: Vec::new(),
            leases: BTreeMap::new(),
            next_lease: 0x100,
            takes_any_writer,
            guarded: 0,
            broken: Vec::new(),
        }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    pub(crate) fn compacted(&self) -> i64 {
        self.compacted
    }

    pub(crate) fn header(&self) -> Option<PbResponseHeader> {
        Some(PbResponseHeader { cluster_id: 1, member_id: 1, revision: self.revision, raft_term: 1 })
    }

    /// All data are gone.
    pub(crate) fn wipe(&mut self) {
        (self.revision, self.compacted) = (1, 0);
        self.keys.clear();
        self.history.clear();
        self.leases.clear();
    }

    /// Another member leads.
    pub(crate) fn led(&mut self, now: Time) {
        self.leases.values_mut().for_each(|lease| lease.ends = now + lease.ttl + ELECTION);
    }

    /// Forgets what happened up to a revision.
    pub(crate) fn compact(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision.min(self.revision));
        let compacted = self.compacted;
        self.history.retain(|(revision, _)| *revision > compacted);
    }

    /// What happened from a revision on, to keys of a range.
    pub(crate) fn since(&self, revision: i64, key: &[u8], end: &[u8]) -> Vec<PbEvent> {
        let within = |event: &PbEvent| event.kv.as_ref().is_some_and(|kv| is_within(&kv.key, key, end));
        self.history.iter().filter(|(at, event)| *at >= revision && within(event)).map(|(_, event)| event.clone()).collect()
    }

    /// Keys below the prefix and `below`, without both.
    pub(crate) fn listed(&self, below: &str) -> BTreeMap<String, String> {
        let start = format!("{}/{below}", self.prefix);
        let named = |kv: &PbKeyValue| {
            let name = String::from_utf8_lossy(&kv.key).strip_prefix(&start)?.to_owned();
            Some((name, String::from_utf8_lossy(&kv.value).into_owned()))
        };
        self.keys.values().filter_map(named).collect()
    }

    /// Address and lease of the one whose key leads.
    pub(crate) fn leader(&self) -> Option<(String, i64)> {
        let oldest = self.oldest_candidate()?;
        Some((String::from_utf8_lossy(&oldest.value).into_owned(), oldest.lease))
    }

    /// When the leader's lease was renewed last.
    pub(crate) fn leader_renewed(&self) -> Option<Time> {
        self.leases.get(&self.oldest_candidate()?.lease).map(|lease| lease.renewed)
    }

    fn oldest_candidate(&self) -> Option<&PbKeyValue> {
        let start = format!("{}/leader/", self.prefix).into_bytes();
        self.keys.values().filter(|kv| kv.key.starts_with(&start)).min_by_key(|kv| kv.create_revision)
    }

    // -- leases --

    pub(crate) fn grant(&mut self, now: Time, seconds: i64) -> i64 {
        self.next_lease += 1;
        let ttl = Duration::from_secs(seconds.unsigned_abs());
        self.leases.insert(self.next_lease, Lease { ttl, ends: now + ttl, renewed: now });
        self.next_lease
    }

    /// Seconds it lives on; 0: it is gone.
    pub(crate) fn renew(&mut self, now: Time, id: i64) -> i64 {
        match self.leases.get_mut(&id).filter(|lease| lease.ends > now) {
            Some(lease) => {
                (lease.ends, lease.renewed) = (now + lease.ttl, now);
                i64::try_from(lease.ttl.as_secs()).unwrap_or(i64::MAX)
            }
            None => 0,
        }
    }

    pub(crate) fn revoke(&mut self, id: i64) -> Result<(), Status> {
        if self.leases.remove(&id).is_none() {
            return Err(no_lease());
        }
        let revision = self.revision + 1;
        let under: Vec<Vec<u8>> = self.keys.values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect();
        for key in &under {
            self.delete_at(revision, key, &[]);
        }
        if !under.is_empty() {
            self.revision = revision;
        }
        Ok(())
    }

    /// Ends what has run out.
    pub(crate) fn expire(&mut self, now: Time) {
        let over: Vec<i64> = self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        for id in over {
            // It is there: it was just listed.
            let _ = self.revoke(id);
        }
    }

    // -- keys --

    fn matching(&self, key: &[u8], end: &[u8]) -> Vec<Vec<u8>> {
        self.keys.keys().filter(|other| is_within(other, key, end)).cloned().collect()
    }

    pub(crate) fn range(&self, request: &PbRangeRequest) -> PbRangeResponse {
        const CREATE: i32 = 2;
        const DESCENDING: i32 = 2;
        let mut kvs: Vec<PbKeyValue> =
            self.matching(&request.key, &request.range_end).iter().map(|key| self.keys[key].clone()).collect();
        if request.sort_target == CREATE {
            kvs.sort_by_key(|kv| kv.create_revision);
        }
        if request.sort_order == DESCENDING {
            kvs.reverse();
        }
        let count = kvs.len() as i64;
        if let Ok(limit) = usize::try_from(request.limit)
            && limit > 0
        {
            kvs.truncate(limit);
        }
        PbRangeResponse { header: self.header(), more: (kvs.len() as i64) < count, kvs, count }
    }

    pub(crate) fn put(&mut self, request: &PbPutRequest) -> Result<PbPutResponse, Status> {
        let revision = self.revision + 1;
        let answer = self.put_at(revision, request)?;
        self.revision = revision;
        Ok(answer)
    }

    fn put_at(&mut self, revision: i64, request: &PbPutRequest) -> Result<PbPutResponse, Status> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(no_lease());
        }
        let fresh = || PbKeyValue { key: request.key.clone(), create_revision: revision, ..PbKeyValue::default() };
        let kv = self.keys.entry(request.key.clone()).or_insert_with(fresh);
        (kv.mod_revision, kv.version) = (revision, kv.version + 1);
        (kv.value, kv.lease) = (request.value.clone(), request.lease);
        let event = PbEvent { r#type: 0, kv: Some(kv.clone()), prev_kv: None };
        self.history.push((revision, event));
        Ok(PbPutResponse { header: self.header(), prev_kv: None })
    }

    pub(crate) fn delete(&mut self, request: &PbDeleteRequest) -> PbDeleteResponse {
        let revision = self.revision + 1;
        let deleted = self.delete_at(revision, &request.key, &request.range_end);
        if deleted > 0 {
            self.revision = revision;
        }
        PbDeleteResponse { header: self.header(), deleted, prev_kvs: Vec::new() }
    }

    fn delete_at(&mut self, revision: i64, key: &[u8], end: &[u8]) -> i64 {
        let gone = self.matching(key, end);
        for key in &gone {
            self.keys.remove(key);
            let kv = PbKeyValue { key: key.clone(), mod_revision: revision, ..PbKeyValue::default() };
            self.history.push((revision, PbEvent { r#type: 1, kv: Some(kv), prev_kv: None }));
        }
        gone.len() as i64
    }

    // -- transactions --

    pub(crate) fn txn(&mut self, request: &PbTxnRequest) -> Result<PbTxnResponse, Status> {
        let (revision, before) = (self.revision + 1, self.history.len());
        let leader = self.oldest_candidate().map(|kv| (kv.key.clone(), kv.create_revision));
        let answer = self.txn_at(revision, request)?;
        if self.history.len() > before {
            self.revision = revision;
            self.check_writer(request, leader, before);
        }
        Ok(PbTxnResponse { header: self.header(), ..answer })
    }

    fn txn_at(&mut self, revision: i64, request: &PbTxnRequest) -> Result<PbTxnResponse, Status> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match op.request.as_ref() {
                Some(PbTxnOpRequest::RequestRange(range)) => PbTxnOpResponse::ResponseRange(self.range(range)),
                Some(PbTxnOpRequest::RequestPut(put)) => PbTxnOpResponse::ResponsePut(self.put_at(revision, put)?),
                Some(PbTxnOpRequest::RequestDeleteRange(delete)) => {
                    let deleted = self.delete_at(revision, &delete.key, &delete.range_end);
                    let (header, prev_kvs) = (self.header(), Vec::new());
                    PbTxnOpResponse::ResponseDeleteRange(PbDeleteResponse { header, deleted, prev_kvs })
                }
                Some(PbTxnOpRequest::RequestTxn(inner)) => PbTxnOpResponse::ResponseTxn(self.txn_at(revision, inner)?),
                None => continue,
            };
            responses.push(PbResponseOp { response: Some(response) });
        }
        Ok(PbTxnResponse { header: self.header(), succeeded, responses })
    }

    fn holds(&self, compare: &PbCompare) -> bool {
        let absent = PbKeyValue::default();
        let kv = self.keys.get(&compare.key).unwrap_or(&absent);
        let order = match compare.target_union.as_ref() {
            Some(PbTargetUnion::CreateRevision(wanted)) => {
                if self.takes_any_writer && *wanted > 0 {
                    return true;
                }
                kv.create_revision.cmp(wanted)
            }
            Some(PbTargetUnion::ModRevision(wanted)) => kv.mod_revision.cmp(wanted),
            Some(PbTargetUnion::Version(wanted)) => kv.version.cmp(wanted),
            // A key that is absent has no value to compare.
            Some(PbTargetUnion::Value(wanted)) if kv.create_revision > 0 => kv.value.cmp(wanted),
            Some(PbTargetUnion::Lease(wanted)) => kv.lease.cmp(wanted),
            Some(PbTargetUnion::Value(_)) | None => return false,
        };
        match compare.result {
            0 => order.is_eq(),
            1 => order.is_gt(),
            2 => order.is_lt(),
            _ => order.is_ne(),
        }
    }

    /// Whether the transaction that wrote everything from `before` on may have done so.
    fn check_writer(&mut self, request: &PbTxnRequest, leader: Option<(Vec<u8>, i64)>, before: usize) {
        let free = ["leader/", "node/"].map(|below| format!("{}/{below}", self.prefix).into_bytes());
        let of_leaders = |event: &PbEvent| event.kv.as_ref().is_some_and(|kv| !free.iter().any(|free| kv.key.starts_with(free)));
        if !self.history[before..].iter().any(|(_, event)| of_leaders(event)) {
            return;
        }
        self.guarded += 1;
        let named = request.compare.iter().find_map(|compare| match compare.target_union {
            Some(PbTargetUnion::CreateRevision(created)) if created > 0 => Some((compare.key.clone(), created)),
            _ => None,
        });
        if named.is_none() || named != leader {
            let show = |key: &Option<(Vec<u8>, i64)>| {
                key.as_ref().map(|(key, created)| format!("{} of {created}", String::from_utf8_lossy(key)))
            };
            self.broken.push(format!("a write on condition of {:?} took effect while {:?} leads", show(&named), show(&leader)));
        }
    }
}

fn no_lease() -> Status {
    Status::not_found("etcdserver: requested lease not found")
}

fn is_within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, lease: i64) -> PbPutRequest {
        PbPutRequest { key: key.into(), value: b"v".to_vec(), lease, ..PbPutRequest::default() }
    }

    #[test]
    fn a_lease_takes_its_keys_along_and_only_after_its_time() {
        let mut state = State::new("/p", false);
        let lease = state.grant(Time::ZERO, 3);
        state.put(&put("/p/node/a", lease)).unwrap();
        state.expire(Time::from_millis(2_999));
        assert_eq!(state.listed("node/").len(), 1);
        assert_eq!(state.renew(Time::from_secs(2), lease), 3);
        state.expire(Time::from_secs(4));
        assert_eq!(state.listed("node/").len(), 1);
        state.expire(Time::from_secs(5));
        assert!(state.listed("node/").is_empty());
        assert_eq!(state.renew(Time::from_secs(5), lease), 0);
        assert!(state.put(&put("/p/node/a", lease)).is_err(), "nothing is put under a lease that is gone");
    }

    #[test]
    fn a_watch_from_a_revision_sees_everything_since_and_compaction_ends_that() {
        let mut state = State::new("/p", false);
        state.put(&put("/p/a", 0)).unwrap();
        let from = state.revision() + 1;
        state.put(&put("/p/b", 0)).unwrap();
        state.delete(&PbDeleteRequest { key: b"/p/a".to_vec(), ..PbDeleteRequest::default() });
        assert_eq!(state.since(from, b"/p/", b"/p0").len(), 2);
        assert_eq!(state.since(from, b"/p/b", b"").len(), 1);
        state.compact(state.revision());
        assert!(state.compacted() >= from && state.since(from, b"/p/", b"/p0").is_empty());
    }

    #[test]
    fn a_write_that_is_not_on_condition_of_the_leading_key_is_told() {
        let mut state = State::new("/p", false);
        let lease = state.grant(Time::ZERO, 3);
        state.put(&put("/p/leader/1", lease)).unwrap();
        let unconditional = PbTxnRequest {
            success: vec![etcd_client::proto::PbTxnRequestOp {
                request: Some(PbTxnOpRequest::RequestPut(put("/p/assign/1", 0))),
            }],
            ..PbTxnRequest::default()
        };
        state.txn(&unconditional).unwrap();
        assert_eq!(state.broken.len(), 1);
        let created = state.oldest_candidate().unwrap().create_revision;
        let condition = PbCompare {
            key: b"/p/leader/1".to_vec(),
            target_union: Some(PbTargetUnion::CreateRevision(created)),
            target: 1,
            ..PbCompare::default()
        };
        let guarded = PbTxnRequest { compare: vec![condition], ..unconditional };
        assert!(state.txn(&guarded).unwrap().succeeded);
        state.revoke(lease).unwrap();
        assert!(!state.txn(&guarded).unwrap().succeeded, "the key is gone");
        assert_eq!((state.broken.len(), state.guarded), (1, 2));
    }
}

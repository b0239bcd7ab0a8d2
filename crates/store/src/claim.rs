//! Taking shards on a database server: what PostgreSQL and MySQL have in common.
//!
//! A claim waits for commits in progress, which hold a share lock on the row, but not for long; then the sessions of the
//! former owner's process are ended, and it is tried again. The shards of a node that died are taken together, in one
//! transaction that waits less; what it leaves open is taken each by itself.

use async_trait::async_trait;
use estafet_model::BootId;
use futures::future::join_all;

use crate::{Claim, Error, Fence, Result, session_name};

/// How often a claim ends the former owner's sessions before it is unavailable.
const EVICTIONS: u32 = 2;

/// The new epoch, as it is stored; `None`: something was not as the claim says.
pub(crate) type Answer = Option<i64>;

/// What a try to take a shard came to.
pub(crate) enum Tried {
    Answered(Answer),
    /// Somebody holds the row for longer than was waited.
    Held(Error),
}

/// The steps of a claim on one kind of server.
#[async_trait]
pub(crate) trait Server: Sync {
    /// Makes the term known (see [`crate::Store::raise_term`]), by itself a transaction.
    async fn raise_term(&self, term: i64) -> Result<i64>;

    /// One transaction: epoch + 1 and a line in the audit.
    async fn take(&self, claim: &Claim<'_>) -> Result<Tried>;

    /// The same for many shards that have owners, under one term; `None` for those whose rows somebody may hold.
    async fn take_together(&self, claims: &[Claim<'_>]) -> Result<Vec<Option<Answer>>>;

    /// Node and process that own the shard now.
    async fn owner(&self, claim: &Claim<'_>) -> Result<Option<(String, Vec<u8>)>>;

    /// Ends the sessions of this name, wherever in a transaction they are; how many.
    async fn end_sessions(&self, name: &str) -> Result<u64>;
}

/// Takes shards that had owners together, others one by one. `ourselves` names the sessions of this process, which are
/// never ended.
pub(crate) async fn claim_all(server: &impl Server, ourselves: &str, claims: &[Claim<'_>]) -> Vec<Result<Option<Fence>>> {
    let answers = match is_one_leaders(claims) {
        true => together(server, claims).await,
        false => vec![None; claims.len()],
    };
    let each = claims.iter().zip(answers).map(|(one, answer)| async move {
        match answer {
            Some(answer) => granted(one, answer),
            None => claim(server, ourselves, one).await,
        }
    });
    join_all(each).await
}

/// Whether these are several shards that one leader takes from their owners.
fn is_one_leaders(claims: &[Claim<'_>]) -> bool {
    let [first, _, ..] = claims else { return false };
    claims.iter().all(|claim| claim.seen.is_some() && claim.master_term == first.master_term)
}

async fn together(server: &impl Server, claims: &[Claim<'_>]) -> Vec<Option<Answer>> {
    let taken = async {
        server.raise_term(claims[0].master_term).await?;
        server.take_together(claims).await
    };
    taken.await.unwrap_or_else(|error| {
        tracing::info!(claims = claims.len(), %error, "not taken together, taking each by itself");
        vec![None; claims.len()]
    })
}

/// Takes one shard.
pub(crate) async fn claim(server: &impl Server, ourselves: &str, claim: &Claim<'_>) -> Result<Option<Fence>> {
    server.raise_term(claim.master_term).await?;
    let mut evictions = 0;
    loop {
        match server.take(claim).await? {
            Tried::Answered(answer) => return granted(claim, answer),
            Tried::Held(error) => {
                evictions += 1;
                if evictions > EVICTIONS || evict(server, ourselves, claim).await? == 0 {
                    return Err(error);
                }
            }
        }
    }
}

fn granted(claim: &Claim<'_>, answer: Answer) -> Result<Option<Fence>> {
    answer.map(|stored| claim.granted(stored)).transpose()
}

/// Ends the sessions of the present owner's process; how many.
async fn evict(server: &impl Server, ourselves: &str, claim: &Claim<'_>) -> Result<u64> {
    let Some((owner, boot)) = server.owner(claim).await? else { return Ok(0) };
    let Some(boot) = BootId::from_slice(&boot) else { return Ok(0) };
    let name = session_name(&owner, boot);
    if name == ourselves {
        return Ok(0);
    }
    tracing::warn!(owner = name, "the former owner holds the row of its shard, ending its sessions");
    server.end_sessions(&name).await
}

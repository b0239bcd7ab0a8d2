//! Who is at the other end of a request, and whether they may ask.
//!
//! Every method of a service names the roles that may call it. Requests of a plain-text listener are let pass:
//! there nobody can be told from anybody, which is why such a listener belongs on loopback only.

use std::{net::SocketAddr, sync::Arc};

use tokio::time::Instant;
use tonic::{Request, Status};

use crate::{
    identity::{Identity, Role},
    warnings::Warnings,
};

static DENIALS: Warnings = Warnings::new();

/// The other end of a connection, in the extensions of its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: Option<SocketAddr>,
    /// What its certificate says; `None` on a connection without TLS.
    pub identity: Option<Arc<Identity>>,
}

impl Peer {
    /// The identity behind a request, or the refusal when its role may not call. `None`: nobody is told apart,
    /// because the listener has no TLS.
    pub fn admit<T>(request: &Request<T>, roles: &[Role]) -> Result<Option<Arc<Identity>>, Status> {
        let Some(peer) = request.extensions().get::<Self>() else { return Ok(None) };
        let Some(identity) = &peer.identity else { return Ok(None) };
        if roles.contains(&identity.role()) {
            return Ok(Some(identity.clone()));
        }
        if let Some(left_out) = DENIALS.may_be_said(Instant::now()) {
            tracing::warn!(peer = ?peer.address, %identity, left_out, "a call that the certificate does not allow");
        }
        Err(Status::permission_denied(format!("a certificate of the role {} does not allow this call", identity.role())))
    }
}

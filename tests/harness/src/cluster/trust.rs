//! The certificates of a cluster whose roles do not trust just anybody.

use std::{path::PathBuf, time::Duration};

use estafet_runtime::Clock;
use estafet_tls::{Files, Identity, Role, Transport, issue::Authority};

use super::member;

/// Longer than any test or drill.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
const CLUSTER: &str = "test";

/// A certificate authority of its own.
pub(super) struct Trust {
    authority: Authority,
    operator: Transport,
}

impl Trust {
    pub(super) fn new(directory: PathBuf) -> anyhow::Result<Self> {
        let authority = Authority::open(&directory, CLUSTER, Clock::system().now_ms())?;
        let operator = transport(&authority, Role::Operator, "harness")?;
        Ok(Self { authority, operator })
    }

    /// Who looks at masters.
    pub(super) fn operator(&self) -> Transport {
        self.operator.clone()
    }

    pub(super) fn transport(&self, role: Role, node: &str) -> anyhow::Result<Transport> {
        transport(&self.authority, role, node)
    }

    /// The flags with which a process is given its certificate.
    pub(super) fn flags(&self, role: member::Role, node: &str) -> anyhow::Result<Vec<String>> {
        let role = match role {
            member::Role::Master => Role::Master,
            member::Role::Coreapp => Role::Coreapp,
            member::Role::Webapp => Role::Webapp,
            // The network has a key of its own.
            member::Role::Chatd => return Ok(Vec::new()),
        };
        let Files { ca, cert, key } = issue(&self.authority, role, node)?;
        let flags = [("--tls-ca", ca), ("--tls-cert", cert), ("--tls-key", key)];
        Ok(flags.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()]).collect())
    }
}

fn issue(authority: &Authority, role: Role, node: &str) -> anyhow::Result<Files> {
    let identity = Identity::new(CLUSTER, role, node)?;
    Ok(authority.issue(&identity, &["127.0.0.1".to_owned()], Clock::system().now_ms(), LIFE)?)
}

fn transport(authority: &Authority, role: Role, node: &str) -> anyhow::Result<Transport> {
    Ok(Transport::load(issue(authority, role, node)?, role, None, Clock::system())?)
}

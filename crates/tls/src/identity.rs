//! Who a certificate is for: a URI among its subject alternative names, `spiffe://estafet/CLUSTER/ROLE/NODE`.
//!
//! The role decides what its holder may call; the node is the only name a coreapp may report under; the
//! cluster keeps two clusters of one certificate authority apart. A certificate has exactly one such URI.

use std::{fmt, str::FromStr};

/// What every URI begins with.
const PREFIX: &str = "spiffe://estafet/";
/// Longest cluster or node name.
const LONGEST: usize = 128;

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Decides who owns which shard.
    Master,
    /// Owns shards.
    Coreapp,
    /// Serves the API.
    Webapp,
    /// A person's tool: may look, not act.
    Operator,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Master, Self::Coreapp, Self::Webapp, Self::Operator];

    /// The role's name in a URI.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Coreapp => "coreapp",
            Self::Webapp => "webapp",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No URI of ours.
    #[error("no subject alternative name spiffe://estafet/CLUSTER/ROLE/NODE")]
    Missing,
    /// More than one.
    #[error("more than one subject alternative name spiffe://estafet/...")]
    Several,
    /// The role is none.
    #[error("the role is not master, coreapp, webapp or operator")]
    Role,
    /// Cluster or node is empty, too long, or has other characters.
    #[error("cluster and node are 1 to 128 letters, digits, `.`, `-` and `_`")]
    Name,
}

impl FromStr for Role {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(Invalid::Role)
    }
}

/// What a certificate says about its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    cluster: String,
    role: Role,
    node: String,
}

impl Identity {
    /// An identity of these parts.
    pub fn new(cluster: &str, role: Role, node: &str) -> Result<Self, Invalid> {
        let is_name = |name: &str| {
            (1..=LONGEST).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        };
        if !is_name(cluster) || !is_name(node) {
            return Err(Invalid::Name);
        }
        Ok(Self { cluster: cluster.to_owned(), role, node: node.to_owned() })
    }

    /// The one identity among the URIs of a certificate; URIs of others are passed over.
    pub fn among<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Self, Invalid> {
        let mut ours = uris.filter(|uri| uri.starts_with(PREFIX));
        let first = ours.next().ok_or(Invalid::Missing)?;
        if ours.next().is_some() {
            return Err(Invalid::Several);
        }
        first.parse()
    }

    /// The cluster it belongs to.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its name within the role.
    pub fn node(&self) -> &str {
        &self.node
    }
}

impl FromStr for Identity {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut parts = text.strip_prefix(PREFIX).ok_or(Invalid::Missing)?.split('/');
        let (Some(cluster), Some(role), Some(node), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(Invalid::Missing);
        };
        Self::new(cluster, role.parse()?, node)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/{}/{}", self.cluster, self.role, self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_uri() {
        for role in Role::ALL {
            let identity = Identity::new("live-1", role, "node_0.eu").unwrap();
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
    }

    #[test]
    fn what_is_not_exactly_one_identity_is_none() {
        let of = |uris: &[&str]| Identity::among(uris.iter().copied());
        let good = "spiffe://estafet/c/master/m";
        assert_eq!(of(&["https://other.example/", good]).map(|identity| identity.role()), Ok(Role::Master));
        assert_eq!(of(&[]), Err(Invalid::Missing));
        assert_eq!(of(&["spiffe://other/c/master/m"]), Err(Invalid::Missing));
        assert_eq!(of(&[good, "spiffe://estafet/c/webapp/w"]), Err(Invalid::Several));
        assert_eq!(of(&["spiffe://estafet/c/master"]), Err(Invalid::Missing));
        assert_eq!(of(&["spiffe://estafet/c/master/m/x"]), Err(Invalid::Missing));
        assert_eq!(of(&["spiffe://estafet/c/Master/m"]), Err(Invalid::Role));
        assert_eq!(of(&["spiffe://estafet/c/root/m"]), Err(Invalid::Role));
        assert_eq!(of(&["spiffe://estafet//master/m"]), Err(Invalid::Name));
        assert_eq!(of(&["spiffe://estafet/c/master/m?x"]), Err(Invalid::Name));
        assert_eq!(of(&[&format!("spiffe://estafet/c/master/{}", "m".repeat(129))]), Err(Invalid::Name));
    }
}

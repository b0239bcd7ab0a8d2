//! Which versions of what the roles of a cluster say to each other go together. A release speaks one version, and talks
//! to releases of the version before and after it: so a cluster is upgraded process by process, and back, while it works.
//! Whoever is further away is refused, with both versions, before it can misunderstand or be misunderstood.
//!
//! A version is raised when an older release would do something wrong with what a newer one says. Fields that an older
//! one may ignore raise nothing.

/// The version that this release speaks.
pub const PROTOCOL: u32 = 1;

/// What a peer's releases did before they told their version.
const FIRST: u32 = 1;

/// Two releases that do not understand each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {peer} speaks version {theirs} of the protocol between roles, and this process version {ours}: they may be one apart, \
     upgrade (or go back) one release at a time"
)]
pub struct TooFar {
    /// The role of the other one.
    pub peer: &'static str,
    /// Its version.
    pub theirs: u32,
    /// Ours.
    pub ours: u32,
}

/// The version that both speak, the lower one. 0 is said by whoever does not say its version.
pub fn agree(peer: &'static str, theirs: u32) -> Result<u32, TooFar> {
    agree_on(PROTOCOL, peer, theirs)
}

fn agree_on(ours: u32, peer: &'static str, theirs: u32) -> Result<u32, TooFar> {
    let theirs = theirs.max(FIRST);
    if ours.abs_diff(theirs) <= 1 { Ok(ours.min(theirs)) } else { Err(TooFar { peer, theirs, ours }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r190_versions_go_together_with_the_one_before_and_the_one_after() {
        for (ours, theirs, agreed) in
            [(1, 0, Some(1)), (1, 1, Some(1)), (1, 2, Some(1)), (1, 3, None), (2, 0, Some(1)), (2, 3, Some(2))]
        {
            assert_eq!(agree_on(ours, "master", theirs).ok(), agreed, "{ours} and {theirs}");
        }
        for (ours, theirs) in [(3, 0), (3, 1), (3, 5), (1, u32::MAX), (u32::MAX, 1)] {
            assert!(agree_on(ours, "master", theirs).is_err(), "{ours} and {theirs}");
        }
        assert!(agree("master", PROTOCOL).is_ok());
    }

    #[test]
    fn r190_a_refusal_names_both_versions() {
        let said = agree_on(5, "coreapp", 3).unwrap_err().to_string();
        assert!(said.contains("coreapp speaks version 3") && said.contains("this process version 5"), "{said}");
    }
}

//! Roads between the processes of a cluster with a fault proxy on each.
//!
//! A road is named by who dials and who listens: `coreapp-0` to `database`, `webapp-1` to `master-0`. Addresses
//! that a process announces to everybody have one road, from `anybody`. A process that is started again with the
//! same name keeps its roads.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use crate::{
    Proxy,
    cluster::Roads,
    proxy::{Counts, End, Faults},
};

/// From whom to whom.
type Road = (String, String);

/// A proxy on each road that was asked for.
#[derive(Debug)]
pub struct FaultyRoads {
    seed: u64,
    proxies: Mutex<BTreeMap<Road, Arc<Proxy>>>,
}

impl FaultyRoads {
    /// Roads without faults. `seed` decides what chance decides in them.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, proxies: Mutex::default() })
    }

    /// The proxies of the roads from `from` to `to`, each a whole name or the beginning of several (`master-`).
    pub fn between(&self, from: &str, to: &str) -> Vec<Arc<Proxy>> {
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |((begin, end), _): &(&Road, &Arc<Proxy>)| begin.starts_with(from) && end.starts_with(to);
        proxies.iter().filter(fits).map(|(_, proxy)| proxy.clone()).collect()
    }

    /// Does this on the roads from `from` to `to`; an error if there is none.
    pub async fn set(&self, from: &str, to: &str, faults: Faults) -> anyhow::Result<()> {
        let roads = self.between(from, to);
        anyhow::ensure!(!roads.is_empty(), "there is no road from {from} to {to}");
        futures::future::join_all(roads.iter().map(|proxy| proxy.set(faults))).await;
        Ok(())
    }

    /// Ends all faults on all roads.
    pub async fn heal(&self) {
        futures::future::join_all(self.between("", "").iter().map(|proxy| proxy.heal())).await;
    }

    /// Ends the live connections from `from` to `to`.
    pub fn cut(&self, from: &str, to: &str, end: End) {
        self.between(from, to).iter().for_each(|proxy| proxy.cut(end));
    }

    /// What was carried from `from` to `to`.
    pub fn counts(&self, from: &str, to: &str) -> Counts {
        self.between(from, to).iter().map(|proxy| proxy.counts()).sum()
    }
}

#[async_trait]
impl Roads for FaultyRoads {
    async fn road(&self, from: &str, to: &str, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        let road = (from.to_owned(), to.to_owned());
        let known = self.proxies.lock().unwrap_or_else(PoisonError::into_inner).get(&road).cloned();
        if let Some(proxy) = known {
            proxy.aim(address);
            return Ok(proxy.address());
        }
        let seed = self.between("", "").len() as u64;
        let proxy = Arc::new(Proxy::start(Some(address), self.seed.wrapping_add(seed)).await?);
        let address = proxy.address();
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).insert(road, proxy);
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Connects;

    #[tokio::test]
    async fn a_fault_is_on_the_roads_it_was_meant_for() {
        let roads = FaultyRoads::new(1);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let mut dialled = BTreeMap::new();
        for (from, to) in [("coreapp-0", "master-0"), ("coreapp-0", "master-1"), ("coreapp-1", "master-0")] {
            dialled.insert((from, to), roads.road(from, to, nowhere).await.unwrap());
        }
        assert_eq!(roads.road("coreapp-0", "master-0", nowhere).await.unwrap(), dialled[&("coreapp-0", "master-0")]);
        let refused = Faults { connects: Connects::Refused, ..Faults::default() };
        roads.set("coreapp-0", "master-", refused).await.unwrap();
        for ((from, _), address) in dialled {
            assert_eq!(tokio::net::TcpStream::connect(address).await.is_err(), from == "coreapp-0");
        }
        assert!(roads.set("webapp-0", "master-", refused).await.is_err(), "no such road");
    }
}

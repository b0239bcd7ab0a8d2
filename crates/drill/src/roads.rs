//! Proxies on every road from and to a coreapp, so that one can be cut off from everybody.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use estafet_harness::{
    cluster::Roads,
    proxy::{Faults, Proxy},
};

type Pair = (String, String);

/// The proxies, by who connects to whom.
#[derive(Default)]
pub(crate) struct Proxied(Mutex<HashMap<Pair, Arc<Proxy>>>);

#[async_trait]
impl Roads for Proxied {
    async fn road(&self, from: &str, to: &str, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        if !from.starts_with("coreapp-") && !to.starts_with("coreapp-") {
            return Ok(address);
        }
        let proxy = Arc::new(Proxy::start(Some(address), 1).await?);
        let road = proxy.address();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((from.to_owned(), to.to_owned()), proxy);
        Ok(road)
    }
}

impl Proxied {
    /// Cuts a process off from everybody, or connects it again.
    pub(crate) async fn cut(&self, node: &str, is_cut: bool) {
        let ours: Vec<Arc<Proxy>> = {
            let proxies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let of_node = proxies.iter().filter(|((from, to), _)| from == node || to == node);
            of_node.map(|(_, proxy)| proxy.clone()).collect()
        };
        for proxy in ours {
            if is_cut { proxy.set(Faults::partition()).await } else { proxy.heal().await }
        }
    }
}

//! A business in small, for the tests of the network: keys, sessions, ids, and a link that is heard.
#![allow(missing_docs, unreachable_pub, dead_code)]

use std::{collections::HashMap, path::Path, time::Duration};

use estafet_chatd::{Chatd, Config, noise::StaticKey};
use estafet_model::{BootId, Epoch, IdKey, Seq, Shard, ShardCount, Slot, Status, WaId};
use estafet_runtime::{Clock, Tasks};
use estafet_upstream::{
    Command, ConnectError, Delivery, Envelope, Event, Item, Link, Login, Upstream as _, Verdict,
    chat::ChatUpstream,
    e2e::{Account, Ratchet},
};
use serde_json::json;

/// Longer than anything takes; only a test that has failed waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn phone(at: u64) -> WaId {
    WaId::from_u64(15_550_001_001 + at).unwrap()
}

/// A running network that can be stopped and started again.
pub struct Network {
    pub chatd: Chatd,
    tasks: Tasks,
}

impl Network {
    pub async fn start(dir: &Path) -> Self {
        Self::start_with(Config { phones: 20, ..Config::new(dir) }).await
    }

    pub async fn start_with(config: Config) -> Self {
        Self::start_at(config, Clock::system()).await
    }

    pub async fn start_at(config: Config, clock: Clock) -> Self {
        let tasks = Tasks::new();
        let chatd = estafet_chatd::start(config, clock, tasks.clone()).await.unwrap();
        Self { chatd, tasks }
    }

    pub async fn stop(self) {
        assert!(self.tasks.stop(PATIENCE).await);
    }

    pub fn address(&self) -> String {
        self.chatd.addresses[0].to_string()
    }

    pub async fn inbox(&self, phone: WaId) -> Vec<String> {
        let inbox = self.chatd.phones.inbox(phone).await.unwrap();
        assert_eq!(inbox.duplicates, 0);
        let orders: Vec<u64> = inbox.messages.iter().map(|message| message.order).collect();
        assert!(orders.is_sorted());
        inbox.messages.iter().map(|message| message.content["text"]["body"].as_str().unwrap().to_owned()).collect()
    }

    pub fn assert_clean(&self) -> estafet_chatd::audit::Summary {
        estafet_chatd::audit::check(&self.chatd.audit_path).unwrap()
    }
}

/// What a link has told.
#[derive(Default)]
pub struct Heard {
    pub verdicts: Vec<Verdict>,
    pub deliveries: Vec<Delivery>,
    pub conflicts: Vec<String>,
    pub replaced: Option<u64>,
    pub closed: Option<String>,
}

impl Heard {
    /// Statuses of a message, in the order they came.
    pub fn statuses(&self, key: IdKey) -> Vec<Status> {
        let status = |delivery: &Delivery| match delivery.item {
            Item::Receipt { id_key, status, .. } if id_key == key => Some(status),
            _ => None,
        };
        self.deliveries.iter().filter_map(status).collect()
    }
}

pub struct Business {
    pub number: WaId,
    pub account: Account,
    pub static_key: StaticKey,
    pub ratchets: HashMap<WaId, Ratchet>,
    pub next: i64,
}

impl Business {
    pub fn new() -> Self {
        Self::of(15_550_000_001)
    }

    pub fn of(number: u64) -> Self {
        Self {
            number: WaId::from_u64(number).unwrap(),
            account: Account::new(),
            static_key: StaticKey::generate(),
            ratchets: HashMap::new(),
            next: 0,
        }
    }

    pub fn login(&self, epoch: u32, boot: u8) -> Login {
        Login {
            number: self.number,
            shard: Shard::ZERO,
            count: ShardCount::ONE,
            epoch: Epoch::new(epoch),
            boot: BootId([boot; 16]),
            holder: format!("node {boot}"),
            keys: self.account.public_keys(),
            static_key: self.static_key.clone(),
        }
    }

    pub async fn connect(&self, network: &Network, epoch: u32, boot: u8) -> Result<Connected, ConnectError> {
        self.connect_as(network, self.login(epoch, boot)).await
    }

    pub async fn connect_as(&self, network: &Network, login: Login) -> Result<Connected, ConnectError> {
        let upstream = ChatUpstream::new(vec![network.address()], Some(network.chatd.public_key), Tasks::new());
        upstream.connect(login).await.map(|link| Connected { link, heard: Heard::default() })
    }

    /// Opens sessions to phones there are none with.
    pub async fn open_sessions(&mut self, connected: &mut Connected, phones: &[WaId]) {
        connected.command(Command::FetchKeys(phones.to_vec())).await;
        let mut missing = phones.len();
        while missing > 0 {
            if let Some(Event::Keys(keys)) = connected.hear().await {
                for (phone, bundle) in keys {
                    let ratchet = Ratchet::outbound(&self.account, &bundle.expect("is a phone")).unwrap();
                    self.ratchets.insert(phone, ratchet);
                    missing -= 1;
                }
            }
        }
    }

    /// A text to a phone, encrypted, with the next position.
    pub fn text(&mut self, to: WaId, body: &str) -> Envelope {
        let plaintext = json!({"type": "text", "text": {"body": body}}).to_string();
        let sealed = self.ratchets.get_mut(&to).unwrap().encrypt(plaintext.as_bytes());
        self.next += 1;
        let mut key = [0; IdKey::LEN];
        key[1..].copy_from_slice(&self.next.to_be_bytes());
        Envelope { recipient: to, slot: Slot::of(to), seq: Seq::new(self.next), id_key: IdKey(key), sealed, is_template: false }
    }
}

pub struct Connected {
    pub link: Link,
    pub heard: Heard,
}

impl Connected {
    pub async fn command(&mut self, command: Command) {
        tokio::time::timeout(PATIENCE, self.link.commands.send(command)).await.unwrap().unwrap();
    }

    /// The next event; verdicts, deliveries and ends are kept, anything else is returned.
    pub async fn hear(&mut self) -> Option<Event> {
        let event = tokio::time::timeout(PATIENCE, self.link.events.recv()).await.expect("the network answers");
        match event.expect("the link has not ended") {
            Event::Verdicts(verdicts) => self.heard.verdicts.extend(verdicts),
            Event::Deliveries(deliveries) => self.heard.deliveries.extend(deliveries),
            Event::Conflict { holder } => self.heard.conflicts.push(holder),
            Event::Replaced { epoch } => self.heard.replaced = Some(epoch),
            Event::Closed { reason } => self.heard.closed = Some(reason),
            other => return Some(other),
        }
        None
    }

    pub async fn hear_until(&mut self, done: impl Fn(&Heard) -> bool) {
        while !done(&self.heard) {
            self.hear().await;
        }
    }

    pub async fn acknowledge_all(&mut self) {
        let ids = self.heard.deliveries.iter().map(|delivery| delivery.id).collect();
        self.command(Command::Acknowledge(ids)).await;
    }

    /// Asks twice: the second answer proves that what came of everything before the first has arrived.
    pub async fn settle(&mut self) {
        for query in [77, 78] {
            self.command(Command::CheckContacts { query, wa_ids: Vec::new() }).await;
            while !matches!(self.hear().await, Some(Event::Contacts { query: answered, .. }) if answered == query) {}
        }
    }
}

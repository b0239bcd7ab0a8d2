//! A shard against a real database and an upstream the test holds in its hand.

#[path = "shard/collecting.rs"]
mod collecting;
#[path = "shard/identity.rs"]
mod identity;
#[path = "shard/keys.rs"]
mod keys;
#[path = "shard/limits.rs"]
mod limits;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use estafet_coreapp::{
    Config, Deps, Node, ShardEnded, Target,
    core::life::Reason,
    request::{Action, Reply},
};
use estafet_model::{BootId, EndpointId, Epoch, IdGenerator, IdKey, MessageId, Shard, ShardCount, Slot, Status, WaId};
use estafet_proto::v1::{self, outcome::Result as Answer};
use estafet_runtime::{Clock, Tasks};
use estafet_store::{Fence, SharedStore};
use estafet_upstream::{
    BlobError, BlobStream, Command, ConnectError, Delivery, Envelope, Event, Item, Link, Login, Upstream, Verdict,
    e2e::{Account, Ratchet},
};
use tokio::sync::{mpsc, oneshot};

/// The other end of a connection.
struct Peer {
    login: Login,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
}

/// An upstream whose connections arrive at the test.
struct Hands(mpsc::Sender<Peer>);

#[async_trait]
impl Upstream for Hands {
    async fn connect(&self, login: Login) -> Result<Link, ConnectError> {
        let (command_sender, commands) = mpsc::channel(16);
        let (events, event_receiver) = mpsc::channel(16);
        let peer = Peer { login, commands, events };
        self.0.send(peer).await.map_err(|_| ConnectError::Unreachable("the test is over".to_owned()))?;
        Ok(Link { commands: command_sender, events: event_receiver })
    }

    async fn put_blob(&self, _: BlobStream) -> Result<String, BlobError> {
        Err(BlobError::Unreachable("no files in these tests".to_owned()))
    }

    async fn get_blob(&self, _: &str) -> Result<BlobStream, BlobError> {
        Err(BlobError::Missing)
    }
}

struct Bench {
    node: Node,
    clock: Clock,
    endings: mpsc::Receiver<ShardEnded>,
    connections: mpsc::Receiver<Peer>,
    store: SharedStore,
    fence: Fence,
    ids: Mutex<IdGenerator>,
    _dir: tempfile::TempDir,
}

fn number() -> WaId {
    "15550000001".parse().unwrap()
}

fn phone() -> WaId {
    "15550001001".parse().unwrap()
}

const BOOT: BootId = BootId([7; 16]);

async fn bench() -> Bench {
    bench_with(Config::default()).await
}

async fn bench_with(config: Config) -> Bench {
    estafet_runtime::install_crypto();
    let dir = tempfile::tempdir().unwrap();
    let store = estafet_store::open(&format!("sqlite:{}", dir.path().join("t.db").display()), "test").await.unwrap();
    store.migrate().await.unwrap();
    let (sender, connections) = mpsc::channel(4);
    let clock = Clock::manual(1_800_000_000_000);
    let deps = Deps {
        store: store.clone(),
        blobs: estafet_media::Blobs::directory(&dir.path().join("media")).unwrap(),
        links: estafet_media::guard::Policy::default(),
        upstream: Arc::new(Hands(sender)),
        clock: clock.clone(),
        tasks: Tasks::new(),
        boot: BOOT,
        holder: "test".to_owned(),
    };
    let (node, endings) = Node::new(config, deps).unwrap();
    let fence = store.claim(number(), Shard::ZERO, ShardCount::ONE, None, "a", BOOT, 0, 0).await.unwrap().unwrap();
    node.acquire(fence).await.unwrap();
    Bench { node, clock, endings, connections, store, fence, ids: Mutex::new(IdGenerator::new(1)), _dir: dir }
}

impl Bench {
    fn submit_with(&self, id_key: IdKey, body: &str) -> oneshot::Receiver<v1::Outcome> {
        let (reply, outcome) = oneshot::channel();
        let action = Action::Submit { recipient: phone(), id_key, body: Bytes::copy_from_slice(body.as_bytes()), key: None };
        self.node.dispatch(number(), Slot::of(phone()), action, Reply::Single(reply));
        outcome
    }

    async fn accept(&self, body: &str) -> IdKey {
        let id_key = self.ids.lock().unwrap().generate(1_800_000_000_000);
        let outcome = self.submit_with(id_key, body).await.unwrap();
        assert!(matches!(outcome.result, Some(Answer::Done(_))), "{outcome:?}");
        id_key
    }

    async fn statuses(&self, envelope: &Envelope) -> Option<u8> {
        let rows = self.store.statuses(number(), &[(envelope.slot, envelope.seq)]).await.unwrap();
        rows.first().map(|row| row.statuses.bits())
    }

    async fn stored_events(&self) -> Vec<serde_json::Value> {
        let events =
            self.store.events(number(), EndpointId::MAIN, &[(Slot::of(phone()), estafet_model::Seq::ZERO)], 100).await.unwrap();
        events.iter().map(|event| serde_json::from_slice(&event.body).unwrap()).collect()
    }
}

impl Peer {
    /// Answers key requests with the phone's keys until envelopes come.
    async fn envelopes(&mut self, account: &mut Account) -> Vec<Envelope> {
        loop {
            match self.commands.recv().await.unwrap() {
                Command::FetchKeys(peers) => {
                    let bundles =
                        peers.into_iter().map(|peer| (peer, (peer == phone()).then(|| account.take_bundle()))).collect();
                    self.events.send(Event::Keys(bundles)).await.unwrap();
                }
                Command::Send(envelopes) => return envelopes,
                _ => {}
            }
        }
    }

    async fn take(&self, envelopes: &[Envelope]) {
        let verdicts = envelopes
            .iter()
            .map(|e| Verdict { slot: e.slot, seq: e.seq, id_key: e.id_key, error_code: None, at_ms: 1_800_000_000_500 })
            .collect();
        self.events.send(Event::Verdicts(verdicts)).await.unwrap();
    }

    /// Sends deliveries and waits until the shard acknowledges them.
    async fn deliver(&mut self, deliveries: Vec<Delivery>) {
        let expected: Vec<u64> = deliveries.iter().map(|delivery| delivery.id).collect();
        self.events.send(Event::Deliveries(deliveries)).await.unwrap();
        loop {
            if let Command::Acknowledge(ids) = self.commands.recv().await.unwrap() {
                assert_eq!(ids, expected);
                return;
            }
        }
    }
}

fn receipt(id: u64, envelope: &Envelope, status: Status) -> Delivery {
    let Envelope { recipient, slot, seq, id_key, .. } = envelope.clone();
    Delivery { id, item: Item::Receipt { recipient, slot, seq, id_key, status, at_ms: 1_800_000_001_000, error_code: None } }
}

#[tokio::test]
async fn accepted_messages_are_sent_in_order_and_again_after_a_lost_connection() {
    let mut bench = bench().await;
    let mut peer = bench.connections.recv().await.unwrap();
    let mut account = Account::new();
    let first = bench.accept("one").await;
    let sent = peer.envelopes(&mut account).await;
    assert_eq!(sent.iter().map(|e| e.id_key).collect::<Vec<_>>(), [first]);
    assert_eq!(bench.statuses(&sent[0]).await, None, "no verdict yet");

    drop(peer);
    let mut peer = bench.connections.recv().await.unwrap();
    assert_eq!(peer.login.epoch, Epoch::new(1));
    let second = bench.accept("two").await;
    let mut again = peer.envelopes(&mut account).await;
    while again.len() < 2 {
        again.extend(peer.envelopes(&mut account).await);
    }
    assert_eq!(again.iter().map(|e| e.id_key).collect::<Vec<_>>(), [first, second]);
    let (mut ratchet, plaintext) = Ratchet::inbound(&mut account, &again[0].sealed, &peer.login.keys.identity_key).unwrap();
    assert_eq!(plaintext, b"one");
    let plaintext = ratchet.decrypt(&mut account, &again[1].sealed, &peer.login.keys.identity_key).unwrap();
    assert_eq!(plaintext, b"two");
}

#[tokio::test]
async fn r101_a_message_is_sent_again_for_as_long_as_the_network_has_not_taken_it() {
    let mut bench = bench().await;
    let peer = bench.connections.recv().await.unwrap();
    let accepted = bench.accept("one").await;
    bench.clock.set(1_800_000_000_000 + 90 * 24 * 3600 * 1000);
    drop(peer);
    let mut peer = bench.connections.recv().await.unwrap();
    let sent = peer.envelopes(&mut Account::new()).await;
    assert_eq!(sent.iter().map(|e| e.id_key).collect::<Vec<_>>(), [accepted], "after ninety days");
    assert!(bench.stored_events().await.is_empty(), "nothing was told meanwhile");
    peer.take(&sent).await;
    peer.deliver(vec![receipt(1, &sent[0], Status::Delivered)]).await;
    assert_eq!(bench.statuses(&sent[0]).await, Some(0b011));
}

#[tokio::test]
async fn r158_a_code_that_the_api_does_not_have_is_500_and_is_told() {
    let mut bench = bench().await;
    let mut peer = bench.connections.recv().await.unwrap();
    bench.accept("one").await;
    let sent = peer.envelopes(&mut Account::new()).await;
    let Envelope { recipient, slot, seq, id_key, .. } = sent[0].clone();
    let (status, at_ms, error_code) = (Status::Failed, 1_800_000_001_000, Some(999));
    let item = Item::Receipt { recipient, slot, seq, id_key, status, at_ms, error_code };
    peer.deliver(vec![Delivery { id: 1, item }]).await;
    let told = bench.stored_events().await;
    let error = &told.last().unwrap()["statuses"][0]["errors"][0];
    let expected = serde_json::json!({ "code": 500, "title": "Generic error", "details": "The network's code is 999" });
    assert_eq!(*error, expected, "{told:?}");
}

#[tokio::test]
async fn receipts_are_stored_with_their_callback_before_they_are_acknowledged_and_only_once() {
    let mut bench = bench().await;
    let mut peer = bench.connections.recv().await.unwrap();
    let id_key = bench.accept("one").await;
    let sent = peer.envelopes(&mut Account::new()).await;
    peer.take(&sent).await;
    peer.deliver(vec![receipt(1, &sent[0], Status::Delivered)]).await;
    assert_eq!(bench.statuses(&sent[0]).await, Some(0b011));
    peer.deliver(vec![receipt(1, &sent[0], Status::Delivered), receipt(2, &sent[0], Status::Read)]).await;
    assert_eq!(bench.statuses(&sent[0]).await, Some(0b111));
    let events = bench.stored_events().await;
    let told: Vec<_> = events.iter().map(|e| e["statuses"][0]["status"].as_str().unwrap()).collect();
    assert_eq!(told, ["delivered", "read"], "`sent` is off by default, nothing twice");
    assert_eq!(events[0]["statuses"][0]["id"], MessageId::outgoing(phone(), id_key).to_string());
}

#[tokio::test]
async fn an_incoming_message_delivered_twice_is_told_once() {
    let mut bench = bench().await;
    let mut peer = bench.connections.recv().await.unwrap();
    let account = Account::new();
    let mut ratchet = Ratchet::outbound(&account, &peer.login.keys.bundle()).unwrap();
    let sealed = ratchet.encrypt(br#"{"type":"text","text":{"body":"hi"}}"#);
    let inbound = |id| Delivery {
        id,
        item: Item::Inbound {
            sender: phone(),
            message_id: MessageId::incoming(phone(), [3; 10]).to_string(),
            at_ms: 1_800_000_000_000,
            profile_name: "Kerry".to_owned(),
            sealed: sealed.clone(),
            identity_key: account.identity_key(),
        },
    };
    peer.deliver(vec![inbound(1)]).await;
    peer.deliver(vec![inbound(2)]).await;
    let events = bench.stored_events().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["messages"][0]["text"]["body"], "hi");
}

#[tokio::test]
async fn a_repeated_submission_is_accepted_and_sent_once() {
    let mut bench = bench().await;
    let mut peer = bench.connections.recv().await.unwrap();
    let id_key = bench.accept("one").await;
    let sent = peer.envelopes(&mut Account::new()).await;
    peer.take(&sent).await;
    let outcome = bench.submit_with(id_key, "one").await.unwrap();
    assert!(matches!(outcome.result, Some(Answer::Done(_))));
    let next = bench.accept("two").await;
    let sent = peer.envelopes(&mut Account::new()).await;
    assert_eq!(sent.iter().map(|e| e.id_key).collect::<Vec<_>>(), [next]);
}

#[tokio::test]
async fn a_recipient_that_is_not_on_the_network_fails_with_1013() {
    let mut bench = bench().await;
    let mut peer = bench.connections.recv().await.unwrap();
    bench.accept("one").await;
    let Command::FetchKeys(peers) = peer.commands.recv().await.unwrap() else { panic!("keys are asked for first") };
    peer.events.send(Event::Keys(peers.into_iter().map(|peer| (peer, None)).collect())).await.unwrap();
    let known = bench.accept("two").await;
    // The next transaction follows the one that settled the first message.
    let Command::FetchKeys(peers) = peer.commands.recv().await.unwrap() else { panic!("asked again for the next message") };
    let mut account = Account::new();
    peer.events.send(Event::Keys(peers.into_iter().map(|p| (p, Some(account.take_bundle()))).collect())).await.unwrap();
    assert_eq!(peer.envelopes(&mut account).await[0].id_key, known);
    let events = bench.stored_events().await;
    assert_eq!(events[0]["statuses"][0]["status"], "failed");
    assert_eq!(events[0]["statuses"][0]["errors"][0]["code"], 1013);
}

#[tokio::test]
async fn an_owner_that_was_fenced_accepts_nothing_and_ends() {
    let mut bench = bench().await;
    let _peer = bench.connections.recv().await.unwrap();
    bench.accept("one").await;
    let other = BootId([8; 16]);
    bench.store.claim(number(), Shard::ZERO, ShardCount::ONE, Some(bench.fence.epoch), "b", other, 0, 0).await.unwrap().unwrap();
    let id_key = bench.ids.lock().unwrap().generate(1_800_000_000_000);
    let outcome = bench.submit_with(id_key, "two").await.unwrap();
    assert!(matches!(outcome.result, Some(Answer::NotOwner(_))), "{outcome:?}");
    let ended = bench.endings.recv().await.unwrap();
    assert_eq!((ended.fence, ended.reason), (bench.fence, Reason::Fenced));
    let stored = bench.store.outbox(number(), &[(Slot::of(phone()), estafet_model::Seq::ZERO)], 10).await.unwrap();
    assert_eq!(stored.len(), 1, "nothing of the fenced transaction is stored");
}

fn target(term: i64) -> Target {
    Target { node: "b".to_owned(), boot: BootId([8; 16]), address: "b:1".to_owned(), term }
}

/// Lets the shard take an order that was sent: every task runs on this thread, and the order has woken it.
async fn taken() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_owner_that_hands_off_raises_the_epoch_itself_and_sends_who_waits_to_the_target() {
    let mut bench = bench().await;
    let mut peer = bench.connections.recv().await.unwrap();
    let accepted = bench.accept("one").await;
    let sent = peer.envelopes(&mut Account::new()).await;
    assert_eq!(sent.len(), 1, "{accepted:?}");
    // The network has not answered, so the shard waits; what is asked meanwhile is accepted, and left to the target.
    bench.node.hand_off(&bench.fence, target(0));
    let id_key = bench.ids.lock().unwrap().generate(1_800_000_000_000);
    let asked = bench.submit_with(id_key, "two");
    peer.take(&sent).await;
    let ended = bench.endings.recv().await.unwrap();
    let epoch = bench.fence.epoch.next();
    assert_eq!((ended.reason, ended.target), (Reason::HandedOff { epoch }, Some(target(0))));
    let hinted = |outcome: v1::Outcome| match outcome.result {
        Some(Answer::NotOwner(answer)) => (answer.hint, answer.epoch),
        other => panic!("{other:?}"),
    };
    let asked = asked.await.unwrap();
    assert!(matches!(asked.result, Some(Answer::Done(_))), "{asked:?}");
    let later = bench.ids.lock().unwrap().generate(1_800_000_000_000);
    assert_eq!(hinted(bench.submit_with(later, "three").await.unwrap()), ("b:1".to_owned(), 2));
    let rows = bench.store.owners().await.unwrap();
    assert_eq!((rows[0].epoch, rows[0].owner.as_str(), rows[0].boot), (epoch, "b", BootId([8; 16])));
    assert_eq!(bench.statuses(&sent[0]).await, Some(0b001), "the answer of the network was stored before");
    let stored = bench.store.outbox(number(), &[(Slot::of(phone()), estafet_model::Seq::ZERO)], 10).await.unwrap();
    assert!(stored.iter().any(|row| row.id_key == id_key), "what was accepted is there for the target");
    assert!(stored.iter().all(|row| row.id_key != later), "what came too late is not");
}

#[tokio::test]
async fn an_order_of_a_former_leader_is_refused_and_the_shard_goes_on() {
    let mut bench = bench().await;
    let _peer = bench.connections.recv().await.unwrap();
    let epoch = bench.fence.epoch;
    // The same node gets the shard again from a later leader.
    let fence = bench.store.claim(number(), Shard::ZERO, ShardCount::ONE, Some(epoch), "a", BOOT, 9, 0).await.unwrap().unwrap();
    bench.node.release(&bench.fence);
    bench.endings.recv().await.unwrap();
    bench.node.prepare((number(), ShardCount::ONE, Shard::ZERO)).await.unwrap();
    bench.node.acquire(fence).await.unwrap();
    bench.accept("one").await;
    bench.node.hand_off(&fence, target(8));
    taken().await;
    // It waits until the order is refused.
    bench.accept("two").await;
    assert_eq!(bench.node.owned(), [fence]);
    let rows = bench.store.owners().await.unwrap();
    assert_eq!((rows[0].epoch, rows[0].owner.as_str()), (fence.epoch, "a"));
    // It comes too early as long as the other one is not refused, and is given again.
    let ended = loop {
        bench.node.hand_off(&fence, target(9));
        taken().await;
        if let Ok(ended) = bench.endings.try_recv() {
            break ended;
        }
    };
    assert_eq!(ended.target, Some(target(9)), "an order of the present one is obeyed");
}

#[tokio::test]
async fn requests_wait_for_a_shard_that_is_about_to_be_here_and_not_for_ever() {
    let mut bench = bench().await;
    let key = (number(), ShardCount::ONE, Shard::ZERO);
    bench.node.release(&bench.fence);
    bench.endings.recv().await.unwrap();
    let id = |bench: &Bench| bench.ids.lock().unwrap().generate(1_800_000_000_000);
    let is_turned_away = |outcome: v1::Outcome| matches!(outcome.result, Some(Answer::NotOwner(_)));
    assert!(is_turned_away(bench.submit_with(id(&bench), "nobody awaits it").await.unwrap()));

    bench.node.prepare(key).await.unwrap();
    assert!(is_turned_away(bench.submit_with(id(&bench), "the order to start does not come").await.unwrap()));
    let mut waits = bench.submit_with(id(&bench), "nor does it later");
    assert!(waits.try_recv().is_err(), "no answer yet");
    bench.node.unprepare(&key);
    assert!(is_turned_away(waits.await.unwrap()));

    bench.node.prepare(key).await.unwrap();
    let mut waiting = [bench.submit_with(id(&bench), "first"), bench.submit_with(id(&bench), "second")];
    assert!(waiting.iter_mut().all(|outcome| outcome.try_recv().is_err()), "no answer yet");
    let epoch = Some(bench.fence.epoch);
    let next = bench.store.claim(number(), Shard::ZERO, ShardCount::ONE, epoch, "a", BOOT, 0, 0).await.unwrap().unwrap();
    bench.node.acquire(next).await.unwrap();
    for outcome in waiting {
        assert!(matches!(outcome.await.unwrap().result, Some(Answer::Done(_))));
    }
    let stored = bench.store.outbox(number(), &[(Slot::of(phone()), estafet_model::Seq::ZERO)], 10).await.unwrap();
    assert_eq!(stored.iter().map(|row| &row.body[..]).collect::<Vec<_>>(), [&b"first"[..], b"second"], "in order");
}

#[tokio::test]
async fn a_phone_that_cannot_decrypt_gets_the_message_again_over_a_new_session() {
    let mut bench = bench().await;
    let mut peer = bench.connections.recv().await.unwrap();
    let id_key = bench.accept("one").await;
    let sent = peer.envelopes(&mut Account::new()).await;
    peer.take(&sent).await;
    let Envelope { recipient, slot, seq, .. } = sent[0].clone();
    let retry = Delivery { id: 1, item: Item::Retry { recipient, slot, seq, id_key } };
    peer.events.send(Event::Deliveries(vec![retry])).await.unwrap();
    let mut reinstalled = Account::new();
    let again = peer.envelopes(&mut reinstalled).await;
    assert_eq!(again.iter().map(|e| (e.id_key, e.seq)).collect::<Vec<_>>(), [(id_key, seq)]);
    let (_, plaintext) = Ratchet::inbound(&mut reinstalled, &again[0].sealed, &peer.login.keys.identity_key).unwrap();
    assert_eq!(plaintext, b"one");
}

#[tokio::test]
async fn pass_through_keeps_nothing_of_a_delivered_message_and_does_not_tell_read() {
    let mut bench = bench().await;
    let mut peer = bench.connections.recv().await.unwrap();
    bench.store.put_settings(number(), 0, r#"{"pass_through":true}"#).await.unwrap();
    bench.node.reload_settings(number(), 1).await.unwrap();
    bench.accept("one").await;
    let sent = peer.envelopes(&mut Account::new()).await;
    peer.take(&sent).await;
    peer.deliver(vec![receipt(1, &sent[0], Status::Delivered)]).await;
    assert!(bench.store.messages(number(), &[(sent[0].slot, sent[0].seq)]).await.unwrap().is_empty());
    peer.deliver(vec![receipt(2, &sent[0], Status::Read)]).await;
    let events = bench.stored_events().await;
    let told: Vec<_> = events.iter().map(|e| e["statuses"][0]["status"].as_str().unwrap()).collect();
    assert_eq!(told, ["delivered"]);
    assert_eq!(bench.statuses(&sent[0]).await, None);
}

#[tokio::test]
async fn an_ownership_that_is_released_while_it_is_being_started_never_runs_and_is_reported_as_over() {
    let mut bench = bench().await;
    let other: WaId = "15550000002".parse().unwrap();
    let fence = bench.store.claim(other, Shard::ZERO, ShardCount::ONE, None, "a", BOOT, 0, 0).await.unwrap().unwrap();
    {
        let node = bench.node.clone();
        let mut starting = std::pin::pin!(node.acquire(fence));
        assert!(futures::poll!(&mut starting).is_pending(), "the keys are being read");
        assert!(node.current().contains(&fence) && !node.owned().contains(&fence));
        let mut let_go = std::pin::pin!(node.let_go(&fence));
        assert!(futures::poll!(&mut let_go).is_pending(), "it has not ended yet");
        starting.await.unwrap();
        let_go.await;
    }
    let ended = bench.endings.recv().await.unwrap();
    assert_eq!((ended.fence, ended.reason), (fence, estafet_coreapp::core::life::Reason::Drained));
    assert_eq!(bench.node.current(), [bench.fence]);
    let (_peer, more) = (bench.connections.recv().await.unwrap(), bench.connections.try_recv());
    assert!(more.is_err(), "it was connected to the network");
}

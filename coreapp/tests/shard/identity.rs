//! Identities of users: told once, held until acknowledged, whoever owns the shard.

use sha2::{Digest as _, Sha256};

use super::*;

fn hash(account: &Account) -> Vec<u8> {
    Sha256::digest(account.identity_key())[..8].to_vec()
}

fn changed(id: u64, account: &Account) -> Delivery {
    let identity_key = account.identity_key().as_ref().try_into().unwrap();
    Delivery { id, item: Item::IdentityChanged { user: phone(), identity_key, at_ms: 1_800_000_002_000 } }
}

fn moved(id: u64, user: WaId) -> Delivery {
    let (new_user, profile_name) = ("16315559999".parse().unwrap(), "Kerry".to_owned());
    Delivery { id, item: Item::NumberChanged { user, new_user, profile_name, at_ms: 1_800_000_002_000 } }
}

fn refusal(answer: &Answer) -> u32 {
    match answer {
        Answer::Refused(refused) => refused.code,
        _ => 0,
    }
}

impl Bench {
    async fn settings(&self, settings: &str) {
        self.store.put_settings(number(), 0, settings).await.unwrap();
        self.node.reload_settings(number(), 1).await.unwrap();
        taken().await;
    }

    async fn ask(&self, action: Action) -> Answer {
        let (reply, outcome) = oneshot::channel();
        self.node.dispatch(number(), Slot::of(phone()), action, Reply::Single(reply));
        outcome.await.unwrap().result.unwrap()
    }

    async fn submit(&self, body: &str) -> Answer {
        let id_key = self.ids.lock().unwrap().generate(1_800_000_000_000);
        self.submit_with(id_key, body).await.unwrap().result.unwrap()
    }

    async fn identity(&self) -> (Vec<u8>, bool) {
        match self.ask(Action::ReadIdentity { user: phone() }).await {
            Answer::Identity(identity) => (identity.hash.to_vec(), identity.acknowledged),
            other => panic!("{other:?}"),
        }
    }

    async fn acknowledge(&self, hash: Vec<u8>) -> Answer {
        self.ask(Action::AcknowledgeIdentity { user: phone(), hash: hash.into() }).await
    }

    /// The stored notices about users.
    async fn notices(&self) -> Vec<serde_json::Value> {
        let messages = self.stored_events().await.into_iter().map(|event| event["messages"][0].clone());
        messages.filter(|message| message["type"] == "system").collect()
    }
}

const TELLS: &str = r#"{"show_security_notifications":true}"#;

/// A shard that has sent a message to the phone, with these settings.
async fn acquainted(settings: &str) -> (Bench, Peer, Account) {
    let mut bench = bench().await;
    bench.settings(settings).await;
    let mut peer = bench.connections.recv().await.unwrap();
    let mut account = Account::new();
    bench.accept("one").await;
    let sent = peer.envelopes(&mut account).await;
    peer.take(&sent).await;
    (bench, peer, account)
}

#[tokio::test]
async fn a_changed_identity_is_told_once_and_holds_messages_until_it_is_acknowledged() {
    let (bench, mut peer, account) = acquainted(TELLS).await;
    assert_eq!(bench.identity().await, (hash(&account), true), "the first one is accepted by itself");
    let mut reinstalled = Account::new();
    peer.deliver(vec![changed(1, &reinstalled)]).await;
    peer.deliver(vec![changed(2, &reinstalled)]).await;
    let notices = bench.notices().await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    let system = &notices[0]["system"];
    assert_eq!((&system["type"], &system["user"]), (&"user_identity_changed".into(), &phone().to_string().into()));
    assert_eq!((&system["identity"], &notices[0]["from"]), (&notices[0]["identity"], &phone().to_string().into()));
    assert_eq!(
        (&system["identity"]["acknowledged"], &system["identity"]["created_timestamp"]),
        (&false.into(), &1_800_000_002_000_i64.into())
    );

    assert_eq!(refusal(&bench.submit("two").await), 1028);
    assert_eq!(bench.identity().await, (hash(&reinstalled), false));
    for wrong in [hash(&account), vec![0; 8], Vec::new()] {
        assert_eq!(refusal(&bench.acknowledge(wrong).await), 1009);
    }
    assert_eq!(refusal(&bench.submit("three").await), 1028);
    assert!(matches!(bench.acknowledge(hash(&reinstalled)).await, Answer::Done(_)));
    assert!(matches!(bench.acknowledge(hash(&reinstalled)).await, Answer::Done(_)), "again it changes nothing");
    bench.accept("four").await;
    let sent = peer.envelopes(&mut reinstalled).await;
    let (_, plaintext) = Ratchet::inbound(&mut reinstalled, &sent[0].sealed, &peer.login.keys.identity_key).unwrap();
    assert_eq!(plaintext, b"four", "what was refused is not sent");
}

#[tokio::test]
async fn the_next_owner_holds_what_its_predecessor_held() {
    let (mut bench, mut peer, _) = acquainted(TELLS).await;
    let reinstalled = Account::new();
    peer.deliver(vec![changed(1, &reinstalled)]).await;
    bench.node.release(&bench.fence);
    bench.endings.recv().await.unwrap();
    let epoch = bench.fence.epoch;
    let fence = bench.store.claim(number(), Shard::ZERO, ShardCount::ONE, Some(epoch), "a", BOOT, 9, 0).await.unwrap().unwrap();
    bench.node.acquire(fence).await.unwrap();
    assert_eq!(refusal(&bench.submit("two").await), 1028);
    assert_eq!(bench.identity().await, (hash(&reinstalled), false));
    // The notice that the network was not seen to have got comes again, and changes nothing.
    let mut peer = bench.connections.recv().await.unwrap();
    peer.deliver(vec![changed(1, &reinstalled)]).await;
    assert_eq!(bench.notices().await.len(), 1);
    assert!(matches!(bench.acknowledge(hash(&reinstalled)).await, Answer::Done(_)));
    bench.accept("three").await;
}

#[tokio::test]
async fn what_cannot_be_read_after_a_change_fails_with_480_until_it_is_acknowledged() {
    let mut bench = bench().await;
    bench.settings(TELLS).await;
    let mut peer = bench.connections.recv().await.unwrap();
    let id_key = bench.accept("one").await;
    let sent = peer.envelopes(&mut Account::new()).await;
    peer.take(&sent).await;
    let mut reinstalled = Account::new();
    let Envelope { recipient, slot, seq, .. } = sent[0].clone();
    let retry = Delivery { id: 2, item: Item::Retry { recipient, slot, seq, id_key } };
    peer.events.send(Event::Deliveries(vec![changed(1, &reinstalled), retry])).await.unwrap();
    loop {
        match peer.commands.recv().await.unwrap() {
            Command::FetchKeys(_) => {
                let bundle = Some(reinstalled.take_bundle());
                peer.events.send(Event::Keys(vec![(phone(), bundle)])).await.unwrap();
            }
            Command::Acknowledge(ids) => break assert_eq!(ids, [1, 2]),
            other => panic!("nothing is sent: {other:?}"),
        }
    }
    // Stored after what came before it.
    peer.deliver(vec![changed(3, &reinstalled)]).await;
    let events = bench.stored_events().await;
    let failed = &events.last().unwrap()["statuses"][0];
    assert_eq!((&failed["status"], &failed["errors"][0]["code"]), (&"failed".into(), &480.into()), "{events:?}");
    assert_eq!(events.len(), 2, "the notice and the failure: {events:?}");
}

#[tokio::test]
async fn without_the_setting_a_change_is_neither_told_nor_held() {
    let (bench, mut peer, _) = acquainted("{}").await;
    let mut reinstalled = Account::new();
    peer.deliver(vec![changed(1, &reinstalled)]).await;
    bench.accept("two").await;
    let sent = peer.envelopes(&mut reinstalled).await;
    assert!(Ratchet::inbound(&mut reinstalled, &sent[0].sealed, &peer.login.keys.identity_key).is_ok());
    assert_eq!(bench.identity().await, (hash(&reinstalled), true));
    assert_eq!(bench.notices().await.len(), 0);
}

#[tokio::test]
async fn a_message_from_a_new_identity_follows_the_notice_and_shows_the_identity() {
    let (bench, mut peer, _) = acquainted(TELLS).await;
    let reinstalled = Account::new();
    let mut ratchet = Ratchet::outbound(&reinstalled, &peer.login.keys.bundle()).unwrap();
    let mut written = |id: u64, identity_key| Delivery {
        id,
        item: Item::Inbound {
            sender: phone(),
            message_id: MessageId::incoming(phone(), [u8::try_from(id).unwrap(); 10]).to_string(),
            at_ms: 1_800_000_002_000,
            profile_name: "Kerry".to_owned(),
            sealed: ratchet.encrypt(br#"{"type":"text","text":{"body":"hi"}}"#),
            identity_key,
        },
    };
    // Nobody changes an identity by saying so: the message must open a session with it.
    peer.deliver(vec![written(1, Account::new().identity_key())]).await;
    assert_eq!((bench.notices().await.len(), bench.submit("two").await), (0, Answer::Done(v1::Done::default())));
    peer.deliver(vec![written(2, reinstalled.identity_key())]).await;
    let events = bench.stored_events().await;
    let told: Vec<_> = events.iter().map(|event| event["messages"][0]["type"].as_str().unwrap()).collect();
    assert_eq!(told, ["unknown", "system", "text"]);
    assert_eq!(events[2]["messages"][0]["identity"], events[1]["messages"][0]["identity"]);
    assert_eq!(bench.identity().await, (hash(&reinstalled), false));
}

#[tokio::test]
async fn a_number_change_is_told_once_and_only_of_users_it_has_talked_with() {
    let (bench, mut peer, _) = acquainted(r#"{"notify_user_change_number":true}"#).await;
    let stranger: WaId = "15550001002".parse().unwrap();
    peer.deliver(vec![moved(1, phone()), moved(2, stranger)]).await;
    peer.deliver(vec![moved(3, phone())]).await;
    let notices = bench.notices().await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(
        notices[0]["system"],
        serde_json::json!({
            "type": "user_changed_number", "new_wa_id": "16315559999",
            "body": format!("Kerry changed from {} to 16315559999", phone()),
        })
    );
    let events =
        bench.store.events(number(), EndpointId::MAIN, &[(Slot::of(stranger), estafet_model::Seq::ZERO)], 9).await.unwrap();
    assert!(events.is_empty());
}

#[tokio::test]
async fn nothing_is_known_of_a_user_nobody_talked_with() {
    let bench = bench().await;
    assert_eq!(refusal(&bench.ask(Action::ReadIdentity { user: phone() }).await), 1006);
    assert_eq!(refusal(&bench.acknowledge(vec![0; 8]).await), 1006);
}

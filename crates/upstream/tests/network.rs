//! The network and its client over real sockets: every rule that needs both.

#[path = "support/business.rs"]
mod business;

use std::time::Duration;

use business::{Business, Network, phone};
use estafet_chatd::{
    Config,
    frames::Error as TransportError,
    noise,
    phones::{self, Mode},
};
use estafet_model::{Shard, ShardCount, Slot, Status, WaId};
use estafet_proto::chat::{self, ClientFrame, ServerFrame, client_frame, server_frame};
use estafet_runtime::{Clock, Tasks};
use estafet_upstream::{
    Command, ConnectError, Envelope, Event, Item, Login, Upstream as _,
    chat::ChatUpstream,
    e2e::{Ratchet, Sealed},
};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

#[tokio::test]
async fn a_thousand_messages_arrive_once_in_order_and_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    let phones: Vec<WaId> = (0..20).map(phone).collect();
    business.open_sessions(&mut link, &phones).await;
    let envelopes: Vec<_> = (0..1000).map(|n| business.text(phones[n % 20], &n.to_string())).collect();
    for part in envelopes.chunks(30) {
        link.command(Command::Send(part.to_vec())).await;
    }
    link.hear_until(|heard| heard.verdicts.len() >= 1000 && heard.deliveries.len() >= 976).await;
    link.acknowledge_all().await;
    link.hear_until(|heard| heard.deliveries.len() >= 2000).await;
    link.acknowledge_all().await;
    link.settle().await;
    assert!(link.heard.verdicts.iter().map(|verdict| verdict.seq).eq(envelopes.iter().map(|envelope| envelope.seq)));
    assert!(link.heard.verdicts.iter().all(|verdict| verdict.error_code.is_none()));
    assert!(link.heard.deliveries.is_sorted_by(|a, b| a.id < b.id) && link.heard.deliveries.len() == 2000);
    for envelope in &envelopes {
        assert_eq!(link.heard.statuses(envelope.id_key), [Status::Delivered, Status::Read]);
    }
    for (at, phone) in phones.iter().enumerate() {
        let expected: Vec<String> = (0..50).map(|n| (n * 20 + at).to_string()).collect();
        assert_eq!(network.inbox(*phone).await, expected);
    }
    drop(link);
    let mut again = business.connect(&network, 1, 1).await.unwrap();
    again.settle().await;
    assert!(again.heard.deliveries.is_empty(), "what was acknowledged does not come again");
    assert_eq!(network.assert_clean().accepted, 1000);
    network.stop().await;
}

#[tokio::test]
async fn what_is_sent_again_after_a_reconnect_is_answered_and_goes_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    business.open_sessions(&mut link, &[phone(0)]).await;
    let envelopes: Vec<_> = (0..100).map(|n| business.text(phone(0), &n.to_string())).collect();
    link.command(Command::Send(envelopes[..60].to_vec())).await;
    link.hear_until(|heard| heard.verdicts.len() >= 60).await;
    drop(link);
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    link.command(Command::Send(envelopes.clone())).await;
    link.hear_until(|heard| heard.verdicts.len() >= 100).await;
    assert!(link.heard.verdicts.iter().all(|verdict| verdict.error_code.is_none()));
    assert_eq!(network.inbox(phone(0)).await, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    let summary = network.assert_clean();
    assert_eq!((summary.accepted, summary.duplicates), (100, 60));
    network.stop().await;
}

#[tokio::test]
async fn epochs_decide_who_is_connected() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let business = Business::new();
    let mut old = business.connect(&network, 5, 1).await.unwrap();
    assert!(matches!(business.connect(&network, 4, 2).await, Err(ConnectError::StaleEpoch { highest: 5 })));
    let conflict = business.connect(&network, 5, 2).await;
    assert!(matches!(conflict, Err(ConnectError::Conflict { holder }) if holder == "node 1"));
    old.hear_until(|heard| !heard.conflicts.is_empty()).await;
    assert_eq!(old.heard.conflicts, ["node 2"]);
    let mut new = business.connect(&network, 6, 2).await.unwrap();
    old.hear_until(|heard| heard.closed.is_some()).await;
    assert_eq!(old.heard.replaced, Some(6));
    assert!(old.link.events.recv().await.is_none());
    new.settle().await;
    let thief = Business { static_key: noise::StaticKey::generate(), ..Business::new() };
    assert!(matches!(thief.connect(&network, 9, 3).await, Err(ConnectError::Refused(_))));
    let unsigned = Login {
        keys: estafet_upstream::e2e::PublicKeys { fallback_key: vec![1; 32].into(), ..business.login(7, 1).keys },
        ..business.login(7, 1)
    };
    assert!(matches!(business.connect_as(&network, unsigned).await, Err(ConnectError::Refused(_))));
    let summary = network.assert_clean();
    assert_eq!((summary.logins, summary.refused, summary.replaced), (2, 3, 1));
    network.stop().await;
}

#[tokio::test]
async fn a_standby_takes_over_with_its_login_and_one_that_broke_connects_anew() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let business = Business::new();
    let mut old = business.connect(&network, 5, 1).await.unwrap();
    let upstream = ChatUpstream::new(vec![network.address()], Some(network.chatd.public_key), Tasks::new());
    let standby = upstream.warm(&business.static_key).await.unwrap();
    let late = upstream.warm(&business.static_key).await.unwrap();
    old.settle().await;
    assert!(old.heard.closed.is_none(), "a standby without an epoch disturbs nobody");
    let mut new = standby.activate(business.login(6, 2)).await.unwrap();
    old.hear_until(|heard| heard.closed.is_some()).await;
    assert_eq!(old.heard.replaced, Some(6));
    assert!(matches!(late.activate(business.login(5, 3)).await, Err(ConnectError::StaleEpoch { highest: 6 })));
    assert!(new.events.try_recv().is_err(), "the one that took over stays");
    let broken = upstream.warm(&business.static_key).await.unwrap();
    let address = network.address();
    network.assert_clean();
    network.stop().await;
    let network = Network::start_with(Config { listen: vec![address.parse().unwrap()], ..Config::new(dir.path()) }).await;
    assert!(broken.activate(business.login(7, 4)).await.is_ok());
    network.stop().await;
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let foreign = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = vec![closed, foreign.local_addr().unwrap().to_string(), network.address()];
    let tasks = Tasks::new();
    tasks.spawn("a server of another kind", async move {
        let (mut stream, _) = foreign.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let business = Business::new();
    let upstream = ChatUpstream::new(addresses, Some(network.chatd.public_key), tasks.clone());
    let link = upstream.connect(business.login(1, 1)).await.unwrap();
    drop(link);
    let pinned = ChatUpstream::new(vec![network.address()], Some([9; 32]), tasks.clone());
    assert!(matches!(pinned.connect(business.login(2, 1)).await, Err(ConnectError::Unreachable(why)) if why.contains("key")));
    network.stop().await;
}

#[tokio::test]
async fn an_offline_phone_gets_everything_in_order_when_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let phones = &network.chatd.phones;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    phones.set_mode(phone(0), Mode::Offline).await.unwrap();
    business.open_sessions(&mut link, &[phone(0)]).await;
    let envelopes: Vec<_> = (0..600).map(|n| business.text(phone(0), &n.to_string())).collect();
    link.command(Command::Send(envelopes[..500].to_vec())).await;
    link.hear_until(|heard| heard.verdicts.len() >= 500).await;
    assert!(link.heard.deliveries.is_empty() && network.inbox(phone(0)).await.is_empty());
    assert_eq!(phones.list().await.unwrap()[0].waiting, 500);
    phones.set_mode(phone(0), Mode::Deliver).await.unwrap();
    link.command(Command::Send(envelopes[500..].to_vec())).await;
    link.hear_until(|heard| heard.deliveries.len() >= 600).await;
    assert!(envelopes.iter().all(|envelope| link.heard.statuses(envelope.id_key) == [Status::Delivered]));
    assert_eq!(network.inbox(phone(0)).await, (0..600).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(phones.list().await.unwrap()[0].waiting, 0);
    network.assert_clean();
    network.stop().await;
}

#[tokio::test]
async fn r103_messages_wait_thirty_days_for_their_phone_and_are_then_dropped() {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    const START_MS: i64 = 1_800_000_000_000;
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START_MS);
    let network = Network::start_at(Config { phones: 1, ..Config::new(dir.path()) }, clock.clone()).await;
    let phones = &network.chatd.phones;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    phones.set_mode(phone(0), Mode::Offline).await.unwrap();
    business.open_sessions(&mut link, &[phone(0)]).await;
    for (day, body) in [(0, "first"), (2, "second")] {
        clock.set(START_MS + day * DAY_MS);
        let envelope = business.text(phone(0), body);
        link.command(Command::Send(vec![envelope])).await;
        link.settle().await;
    }
    // The first has waited for 31 days now, the second for 29.
    clock.set(START_MS + 31 * DAY_MS);
    while phones.list().await.unwrap()[0].waiting > 1 {
        tokio::task::yield_now().await;
    }
    phones.set_mode(phone(0), Mode::Deliver).await.unwrap();
    link.hear_until(|heard| !heard.deliveries.is_empty()).await;
    link.settle().await;
    assert_eq!(network.inbox(phone(0)).await, ["second"]);
    assert_eq!(link.heard.deliveries.len(), 1, "nothing is told of what was dropped");
    network.stop().await;
}

#[tokio::test]
async fn r122_a_business_cannot_write_to_another_business() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let (mut one, other) = (Business::new(), Business::of(15_550_000_002));
    let mut link = one.connect(&network, 1, 1).await.unwrap();
    let mut others = other.connect(&network, 1, 2).await.unwrap();
    one.open_sessions(&mut link, &[phone(0)]).await;
    link.command(Command::FetchKeys(vec![other.number])).await;
    let Some(Event::Keys(keys)) = link.hear().await else { panic!("keys are answered") };
    assert!(matches!(&keys[..], [(number, None)] if *number == other.number), "it is no user: {keys:?}");
    // Who sends all the same, with a session to somebody else, is told so.
    let envelope = Envelope { recipient: other.number, slot: Slot::of(other.number), ..one.text(phone(0), "hello") };
    link.command(Command::Send(vec![envelope])).await;
    link.hear_until(|heard| !heard.verdicts.is_empty()).await;
    assert_eq!(link.heard.verdicts[0].error_code, Some(1013));
    others.settle().await;
    assert!(others.heard.deliveries.is_empty());
    network.stop().await;
}

#[tokio::test]
async fn r189_a_network_that_does_not_speak_our_version_any_more_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let too_old = Config { oldest_protocol: estafet_chatd::PROTOCOL + 1, ..Config::new(dir.path()) };
    // No date counts: ten years from now this build is as good as today.
    let network = Network::start_at(too_old, Clock::manual(1_800_000_000_000 + 3_653 * 24 * 3600 * 1000)).await;
    let refused = Business::new().connect(&network, 1, 1).await;
    assert!(matches!(&refused, Err(ConnectError::Version(why)) if why.contains("version 1")), "{:?}", refused.err());
    network.stop().await;
    let same = Config { oldest_protocol: estafet_chatd::PROTOCOL, ..Config::new(dir.path()) };
    let network = Network::start_at(same, Clock::manual(1_800_000_000_000 + 3_653 * 24 * 3600 * 1000)).await;
    Business::new().connect(&network, 1, 1).await.unwrap().settle().await;
    network.stop().await;
}

#[tokio::test]
async fn modes_decide_which_receipts_come() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    for (at, mode) in [(0, Mode::Block), (1, Mode::Ignore), (2, Mode::Deliver)] {
        network.chatd.phones.set_mode(phone(at), mode).await.unwrap();
    }
    let phones: Vec<WaId> = (0..4).map(phone).collect();
    business.open_sessions(&mut link, &phones).await;
    let envelopes: Vec<_> = phones.iter().map(|phone| business.text(*phone, "hi")).collect();
    link.command(Command::Send(envelopes.clone())).await;
    link.settle().await;
    let statuses: Vec<_> = envelopes.iter().map(|envelope| link.heard.statuses(envelope.id_key)).collect();
    assert_eq!(statuses, [vec![], vec![], vec![Status::Delivered], vec![Status::Delivered, Status::Read]]);
    assert_eq!(link.heard.verdicts.len(), 4);
    assert!(network.inbox(phone(0)).await.is_empty());
    assert_eq!(network.inbox(phone(1)).await, ["hi"]);
    network.stop().await;
}

#[tokio::test]
async fn a_restart_on_the_same_directory_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let mut business = Business::new();
    let mut link = business.connect(&network, 3, 1).await.unwrap();
    network.chatd.phones.set_mode(phone(1), Mode::Offline).await.unwrap();
    business.open_sessions(&mut link, &[phone(0), phone(1)]).await;
    let envelopes: Vec<_> = (0..40).map(|n| business.text(phone(n % 2), &n.to_string())).collect();
    link.command(Command::Send(envelopes.clone())).await;
    link.hear_until(|heard| heard.verdicts.len() >= 40 && heard.deliveries.len() >= 40).await;
    let before: Vec<u64> = link.heard.deliveries.iter().map(|delivery| delivery.id).collect();
    let (inbox, key) = (network.inbox(phone(0)).await, network.chatd.public_key);
    network.stop().await;
    link.hear_until(|heard| heard.closed.is_some()).await;

    let network = Network::start(dir.path()).await;
    assert_eq!(network.chatd.public_key, key);
    assert_eq!(network.inbox(phone(0)).await, inbox);
    assert!(matches!(business.connect(&network, 2, 2).await, Err(ConnectError::StaleEpoch { highest: 3 })));
    let mut link = business.connect(&network, 4, 2).await.unwrap();
    link.command(Command::Send(envelopes.clone())).await;
    link.hear_until(|heard| heard.verdicts.len() >= 40 && heard.deliveries.len() >= 40).await;
    assert_eq!(link.heard.deliveries.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), before);
    link.acknowledge_all().await;
    network.chatd.phones.set_mode(phone(1), Mode::Read).await.unwrap();
    link.hear_until(|heard| heard.deliveries.len() >= 80).await;
    assert!(link.heard.deliveries.is_sorted_by(|a, b| a.id < b.id), "delivery ids go on growing");
    let odd: Vec<String> = (0..40).filter(|n| n % 2 == 1).map(|n| n.to_string()).collect();
    assert_eq!(network.inbox(phone(1)).await, odd);
    let more = business.text(phone(0), "after");
    link.command(Command::Send(vec![more])).await;
    link.settle().await;
    assert_eq!(network.inbox(phone(0)).await.last().unwrap(), "after");
    let summary = network.assert_clean();
    assert_eq!((summary.accepted, summary.duplicates, summary.starts), (41, 40, 2));
    network.stop().await;
}

#[tokio::test]
async fn deliveries_come_again_in_order_until_they_are_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let business = Business::new();
    drop(business.connect(&network, 1, 1).await.unwrap());
    let mut ids = Vec::new();
    for n in 0..30 {
        let content = json!({"type": "text", "text": {"body": n.to_string()}});
        ids.push(network.chatd.phones.send(phone(n % 3), None, content).await.unwrap());
    }
    let message_ids = |connected: &business::Connected| -> Vec<String> {
        let id = |delivery: &estafet_upstream::Delivery| match &delivery.item {
            Item::Inbound { message_id, .. } => message_id.clone(),
            other => panic!("{other:?}"),
        };
        connected.heard.deliveries.iter().map(id).collect()
    };
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    link.hear_until(|heard| heard.deliveries.len() >= 30).await;
    assert_eq!(message_ids(&link), ids);
    let first: Vec<u64> = link.heard.deliveries[..10].iter().map(|delivery| delivery.id).collect();
    link.command(Command::Acknowledge(first)).await;
    link.settle().await;
    drop(link);
    let mut link = business.connect(&network, 2, 2).await.unwrap();
    link.hear_until(|heard| heard.deliveries.len() >= 20).await;
    assert_eq!(message_ids(&link), ids[10..]);
    network.stop().await;
}

#[tokio::test]
async fn a_phone_writes_and_the_business_decrypts_answers_and_marks_as_read() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let phones = &network.chatd.phones;
    let mut business = Business::new();
    assert!(phones.send(phone(0), None, json!({"type": "text"})).await.is_err(), "no business yet");
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    let content = json!({"type": "text", "text": {"body": "Hello"}});
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(phones.send(phone(0), None, content.clone()).await.unwrap());
    }
    link.hear_until(|heard| heard.deliveries.len() >= 2).await;
    for (at, delivery) in link.heard.deliveries.iter().enumerate() {
        let Item::Inbound { sender, message_id, profile_name, sealed, identity_key, .. } = &delivery.item else { panic!() };
        assert_eq!((*sender, message_id, profile_name.as_str()), (phone(0), &ids[at], "Phone 1001"));
        let plaintext = match business.ratchets.get_mut(sender) {
            Some(ratchet) => ratchet.decrypt(&mut business.account, sealed, identity_key).unwrap(),
            None => {
                let (ratchet, plaintext) = Ratchet::inbound(&mut business.account, sealed, identity_key).unwrap();
                business.ratchets.insert(*sender, ratchet);
                plaintext
            }
        };
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&plaintext).unwrap(), content);
    }
    link.acknowledge_all().await;
    let answer = business.text(phone(0), "Hi");
    assert_eq!(answer.sealed.kind, 1, "the phone's session carries the answer");
    link.command(Command::Send(vec![answer])).await;
    link.command(Command::MarkRead(vec![(phone(0), ids[0].clone())])).await;
    link.settle().await;
    assert_eq!(network.inbox(phone(0)).await, ["Hi"]);
    let sent = phones.sent(phone(0)).await.unwrap();
    assert_eq!(
        sent.iter().map(|sent| (&sent.id, sent.read_by_business)).collect::<Vec<_>>(),
        [(&ids[0], true), (&ids[1], false)]
    );
    network.stop().await;
}

#[tokio::test]
async fn a_phone_that_cannot_decrypt_asks_again_and_gives_up_after_three_times() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    business.open_sessions(&mut link, &[phone(0), phone(1)]).await;
    let garbage = Sealed { kind: 1, ciphertext: vec![3; 80].into() };
    let good = business.text(phone(0), "again");
    let mut broken = good.clone();
    broken.sealed = garbage.clone();
    link.command(Command::Send(vec![broken.clone()])).await;
    link.hear_until(|heard| heard.deliveries.len() == 1).await;
    assert!(matches!(link.heard.deliveries[0].item, Item::Retry { id_key, .. } if id_key == good.id_key));
    link.command(Command::Send(vec![good.clone(), good.clone()])).await;
    link.hear_until(|heard| heard.deliveries.len() == 3).await;
    assert_eq!(link.heard.statuses(good.id_key), [Status::Delivered, Status::Read]);
    assert_eq!(network.inbox(phone(0)).await, ["again"]);

    let mut lost = business.text(phone(1), "never");
    lost.sealed = garbage;
    for _ in 0..5 {
        link.command(Command::Send(vec![lost.clone()])).await;
        link.settle().await;
    }
    let retries = link
        .heard
        .deliveries
        .iter()
        .filter(|delivery| matches!(delivery.item, Item::Retry { id_key, .. } if id_key == lost.id_key));
    assert_eq!((retries.count(), link.heard.statuses(lost.id_key)), (3, vec![Status::Failed]));
    network.assert_clean();
    network.stop().await;
}

#[tokio::test]
async fn new_keys_of_a_phone_are_announced_and_what_waits_for_the_old_ones_is_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    business.open_sessions(&mut link, &[phone(0)]).await;
    let read = business.text(phone(0), "read before");
    link.command(Command::Send(vec![read.clone()])).await;
    link.hear_until(|heard| heard.deliveries.len() == 2).await;
    network.chatd.phones.set_mode(phone(0), Mode::Offline).await.unwrap();
    let waiting = business.text(phone(0), "on its way");
    link.command(Command::Send(vec![waiting.clone()])).await;
    link.settle().await;
    network.chatd.phones.new_identity(phone(0)).await.unwrap();
    network.chatd.phones.set_mode(phone(0), Mode::Read).await.unwrap();
    link.hear_until(|heard| heard.deliveries.len() == 4).await;
    let Item::IdentityChanged { user, identity_key, .. } = link.heard.deliveries[2].item else { panic!("not announced") };
    assert!(user == phone(0) && matches!(link.heard.deliveries[3].item, Item::Retry { id_key, .. } if id_key == waiting.id_key));

    link.command(Command::FetchKeys(vec![phone(0)])).await;
    let Some(Event::Keys(keys)) = link.hear().await else { panic!("no keys") };
    let bundle = keys[0].1.clone().unwrap();
    assert_eq!(bundle.identity_key.as_ref(), identity_key);
    let mut ratchet = Ratchet::outbound(&business.account, &bundle).unwrap();
    let again = Envelope { sealed: ratchet.encrypt(br#"{"type":"text","text":{"body":"on its way"}}"#), ..waiting.clone() };
    // The one that was read is not read again, whatever is sent.
    link.command(Command::Send(vec![read.clone(), again.clone(), again])).await;
    link.hear_until(|heard| heard.statuses(waiting.id_key).len() == 2).await;
    assert_eq!(network.inbox(phone(0)).await, ["read before", "on its way"]);
    network.assert_clean();
    network.stop().await;
}

#[tokio::test]
async fn a_user_who_moves_is_announced_and_leaves_the_old_number() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    business.open_sessions(&mut link, &[phone(0)]).await;
    let first = business.text(phone(0), "before");
    link.command(Command::Send(vec![first])).await;
    link.hear_until(|heard| heard.deliveries.len() == 2).await;
    let (phones, new) = (&network.chatd.phones, WaId::from_u64(16_315_559_999).unwrap());
    phones.set_mode(phone(0), Mode::Offline).await.unwrap();
    assert!(matches!(phones.change_number(phone(0), new).await, Err(phones::Error::OutOfReach(_))));
    phones.set_mode(phone(0), Mode::Deliver).await.unwrap();
    assert!(matches!(phones.change_number(phone(0), phone(1)).await, Err(phones::Error::Exists(_))));
    assert!(matches!(phones.change_number(phone(0), business.number).await, Err(phones::Error::IsBusiness(_))));
    phones.change_number(phone(0), new).await.unwrap();
    link.hear_until(|heard| heard.deliveries.len() == 3).await;
    assert!(
        matches!(link.heard.deliveries[2].item, Item::NumberChanged { user, new_user, .. } if (user, new_user) == (phone(0), new))
    );

    link.command(Command::CheckContacts { query: 5, wa_ids: vec![phone(0), new] }).await;
    assert!(matches!(link.hear().await, Some(Event::Contacts { on_network, .. }) if on_network == [new]));
    let late = business.text(phone(0), "after");
    business.open_sessions(&mut link, &[new]).await;
    let moved = business.text(new, "hello again");
    link.command(Command::Send(vec![late, moved.clone()])).await;
    link.hear_until(|heard| heard.verdicts.len() == 3 && heard.statuses(moved.id_key).len() == 1).await;
    assert_eq!(link.heard.verdicts[1].error_code, Some(1013), "the old number is nobody's");
    assert!(phones.send(phone(0), None, json!({"type": "text", "text": {"body": "x"}})).await.is_err());
    phones.send(new, None, json!({"type": "text", "text": {"body": "x"}})).await.unwrap();
    link.hear_until(|heard| heard.deliveries.len() == 5).await;
    assert_eq!(
        (network.inbox(phone(0)).await, network.inbox(new).await),
        (vec!["before".to_owned()], vec!["hello again".to_owned()])
    );

    network.stop().await;
    let network = Network::start(dir.path()).await;
    assert!(network.chatd.phones.list().await.unwrap().iter().all(|phone| phone.number != self::phone(0)), "it stays left");
    network.chatd.phones.add(phone(0), None).await.unwrap();
    network.chatd.phones.send(phone(0), None, json!({"type": "text", "text": {"body": "somebody else"}})).await.unwrap();
    network.stop().await;
}

#[tokio::test]
async fn outside_the_customer_window_only_templates_pass_until_the_phone_writes() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    business.open_sessions(&mut link, &[phone(0), phone(1)]).await;
    let rules = |seconds| phones::Rules { customer_window_s: Some(seconds) };
    network.chatd.phones.set_rules(rules(86_400)).await.unwrap();
    let codes = async |business: &mut Business, link: &mut business::Connected, is_template: bool| {
        let before = link.heard.verdicts.len();
        let to = [phone(0), phone(1)].map(|phone| Envelope { is_template, ..business.text(phone, "hi") });
        link.command(Command::Send(to.to_vec())).await;
        link.hear_until(|heard| heard.verdicts.len() == before + 2).await;
        link.heard.verdicts[before..].iter().map(|verdict| verdict.error_code).collect::<Vec<_>>()
    };
    assert_eq!(codes(&mut business, &mut link, false).await, [Some(470), Some(470)]);
    assert_eq!(codes(&mut business, &mut link, true).await, [None, None]);
    network.chatd.phones.send(phone(0), None, json!({"type": "text", "text": {"body": "x"}})).await.unwrap();
    assert_eq!(codes(&mut business, &mut link, false).await, [None, Some(470)], "each user has a window");
    network.stop().await;

    let network = Network::start(dir.path()).await;
    assert_eq!(network.chatd.phones.rules().await.unwrap(), rules(86_400), "it stays");
    let mut link = business.connect(&network, 2, 1).await.unwrap();
    assert_eq!(codes(&mut business, &mut link, false).await, [None, Some(470)], "and so do the windows");
    network.chatd.phones.set_rules(rules(0)).await.unwrap();
    assert_eq!(codes(&mut business, &mut link, false).await, [Some(470), Some(470)], "a window that is over");
    network.chatd.phones.set_rules(phones::Rules::default()).await.unwrap();
    assert_eq!(codes(&mut business, &mut link, false).await, [None, None]);
    network.assert_clean();
    network.stop().await;
}

#[tokio::test]
async fn a_phone_can_be_made_one_that_the_network_refuses_messages_to() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    let users: Vec<WaId> = (0..4).map(phone).collect();
    business.open_sessions(&mut link, &users).await;
    for (at, mode) in [(0, Mode::Limit), (1, Mode::Spam), (2, Mode::Experiment)] {
        network.chatd.phones.set_mode(phone(at), mode).await.unwrap();
    }
    let envelopes = users.iter().map(|user| business.text(*user, "hi")).collect();
    link.command(Command::Send(envelopes)).await;
    link.hear_until(|heard| heard.verdicts.len() == 4).await;
    let codes: Vec<_> = link.heard.verdicts.iter().map(|verdict| verdict.error_code).collect();
    assert_eq!(codes, [Some(429), Some(471), Some(472), None]);
    assert!(network.inbox(phone(1)).await.is_empty());
    network.assert_clean();
    network.stop().await;
}

#[tokio::test]
async fn who_is_not_on_the_network_has_no_keys_and_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    let stranger = WaId::from_u64(15_550_009_001).unwrap();
    link.command(Command::CheckContacts { query: 5, wa_ids: vec![stranger, phone(3)] }).await;
    assert!(matches!(link.hear().await, Some(Event::Contacts { query: 5, on_network }) if on_network == [phone(3)]));
    link.command(Command::FetchKeys(vec![stranger])).await;
    assert!(matches!(link.hear().await, Some(Event::Keys(keys)) if matches!(keys[..], [(user, None)] if user == stranger)));
    business.open_sessions(&mut link, &[phone(0)]).await;
    let (first, second) = (business.text(phone(0), "1"), business.text(phone(0), "2"));
    let mut lost = business.text(phone(0), "3");
    (lost.recipient, lost.slot) = (stranger, Slot::of(stranger));
    let mut misplaced = business.text(phone(0), "4");
    misplaced.slot = Slot::new(u32::from(misplaced.slot.get()) ^ 1).unwrap();
    link.command(Command::Send(vec![second, first, lost, misplaced])).await;
    link.hear_until(|heard| heard.verdicts.len() >= 4).await;
    let codes: Vec<_> = link.heard.verdicts.iter().map(|verdict| verdict.error_code).collect();
    assert_eq!(codes, [None, Some(1025), Some(1013), Some(1025)], "below the last accepted, unknown, wrong slot");
    assert_eq!(network.assert_clean().rejected, 3);
    network.stop().await;
}

#[tokio::test]
async fn a_business_that_does_not_listen_locks_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let mut business = Business::new();
    let mut link = business.connect(&network, 1, 1).await.unwrap();
    business.open_sessions(&mut link, &[phone(0)]).await;
    let envelopes: Vec<_> = (0..3000).map(|n| business.text(phone(0), &n.to_string())).collect();
    let (commands, is_sent) = (link.link.commands.clone(), std::cell::Cell::new(false));
    let sending = async {
        for envelope in &envelopes {
            commands.send(Command::Send(vec![envelope.clone()])).await.unwrap();
        }
        is_sent.set(true);
    };
    let hearing = async {
        // Nothing is heard until everything is sent or every queue is full.
        while !is_sent.get() && commands.capacity() > 0 {
            tokio::task::yield_now().await;
        }
        let mut acknowledged = 0;
        while link.heard.verdicts.len() < 3000 || acknowledged < 6000 {
            link.hear().await;
            let ids: Vec<u64> = link.heard.deliveries[acknowledged..].iter().map(|delivery| delivery.id).collect();
            acknowledged += ids.len();
            if !ids.is_empty() {
                commands.send(Command::Acknowledge(ids)).await.unwrap();
            }
        }
    };
    tokio::join!(sending, hearing);
    assert!(link.heard.deliveries.iter().zip(1..).all(|(delivery, id)| delivery.id == id));
    assert_eq!(network.inbox(phone(0)).await.len(), 3000);
    network.assert_clean();
    network.stop().await;
}

#[tokio::test]
async fn shards_hear_of_their_own_users_and_a_child_takes_over_what_its_parent_left() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let business = Business::new();
    let two = ShardCount::new(2).unwrap();
    let shard = |shard, epoch| Login { shard: Shard::new(shard, two).unwrap(), count: two, ..business.login(epoch, 1) };
    let mut parent = business.connect(&network, 1, 1).await.unwrap();
    for at in 0..20 {
        network.chatd.phones.send(phone(at), None, json!({"type": "text", "text": {"body": "x"}})).await.unwrap();
    }
    parent.hear_until(|heard| heard.deliveries.len() == 20).await;
    let mut low = business.connect_as(&network, shard(0, 2)).await.unwrap();
    parent.hear_until(|heard| heard.closed.is_some()).await;
    let mut high = business.connect_as(&network, shard(1, 2)).await.unwrap();
    low.settle().await;
    high.settle().await;
    let slots = |connected: &business::Connected| -> Vec<u16> {
        let slot = |delivery: &estafet_upstream::Delivery| match delivery.item {
            Item::Inbound { sender, .. } => Slot::of(sender).get(),
            _ => panic!(),
        };
        connected.heard.deliveries.iter().map(slot).collect()
    };
    assert!(slots(&low).iter().all(|slot| *slot < 512) && slots(&high).iter().all(|slot| *slot >= 512));
    assert_eq!(slots(&low).len() + slots(&high).len(), 20);
    assert_eq!(network.assert_clean().replaced, 1);
    network.stop().await;
}

/// A bare client: handshakes, and then does as the test says.
async fn bare(network: &Network, key: &noise::StaticKey) -> noise::Transport<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::connect(network.address()).await.unwrap();
    noise::connect(stream, key, None).await.unwrap()
}

#[tokio::test]
async fn a_standby_is_warm_before_it_logs_in_and_silence_ends_a_connection() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { heartbeat: Duration::from_millis(50), ..Config::new(dir.path()) };
    let network = Network::start_with(config).await;
    let mut client = bare(&network, &noise::StaticKey::generate()).await;
    client.writer.feed(&ClientFrame { frame: Some(client_frame::Frame::Warm(chat::Warm {})) }).unwrap();
    client.writer.flush().await.unwrap();
    let answer = client.reader.next::<ServerFrame>().await.unwrap().unwrap();
    assert!(matches!(answer.frame, Some(server_frame::Frame::Warmed(_))));
    assert!(client.reader.next::<ServerFrame>().await.unwrap().is_none(), "closed for silence");
    network.stop().await;
}

#[tokio::test]
async fn a_silent_network_ends_the_link() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tasks = Tasks::new();
    let (_keep, hold) = tokio::sync::oneshot::channel::<()>();
    tasks.spawn("a network that falls silent", async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut server = noise::accept(stream, &noise::StaticKey::generate()).await.unwrap();
        server.reader.next::<ClientFrame>().await.unwrap();
        let logged_in = server_frame::Frame::LoggedIn(chat::LoggedIn { epoch: 1, heartbeat_ms: 30 });
        server.writer.feed(&ServerFrame { frame: Some(logged_in) }).unwrap();
        server.writer.flush().await.unwrap();
        let _ = hold.await;
    });
    let mut link = ChatUpstream::new(vec![address], None, tasks.clone()).connect(Business::new().login(1, 1)).await.unwrap();
    assert!(matches!(link.events.recv().await, Some(Event::Closed { reason }) if reason.contains("silent")));
    assert!(link.events.recv().await.is_none());
}

#[tokio::test]
async fn garbage_after_the_handshake_and_frames_without_a_login_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::start(dir.path()).await;
    let key = noise::StaticKey::generate();
    for garbage in [&b"\x00\x20garbage"[..], &[0xff; 4000], &[0, 0], &[0; 40]] {
        let mut stream = tokio::net::TcpStream::connect(network.address()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
    }
    let mut client = bare(&network, &key).await;
    client.writer.feed(&prost::bytes::Bytes::from(vec![0xff; 64])).unwrap();
    client.writer.flush().await.unwrap();
    let end = client.reader.next::<ServerFrame>().await;
    assert!(matches!(end, Ok(None) | Err(TransportError::Io(_))), "{end:?}");

    let mut client = bare(&network, &key).await;
    let envelope =
        chat::Envelope { recipient: u64::MAX, slot: u32::MAX, seq: i64::MIN, id_key: vec![0; 500].into(), ..Default::default() };
    let frames = [
        client_frame::Frame::Send(chat::Send { epoch: 1, envelopes: vec![envelope] }),
        client_frame::Frame::Acknowledge(chat::Acknowledge { epoch: 1, deliveries: vec![0, u64::MAX] }),
        client_frame::Frame::FetchKeys(chat::FetchKeys { wa_ids: vec![0, u64::MAX] }),
        client_frame::Frame::Ping(chat::Ping { nonce: 42 }),
        client_frame::Frame::Login(chat::Login { shard_count: 3, ..Default::default() }),
    ];
    for frame in frames {
        client.writer.feed(&ClientFrame { frame: Some(frame) }).unwrap();
    }
    client.writer.flush().await.unwrap();
    let pong = client.reader.next::<ServerFrame>().await.unwrap().unwrap().frame;
    assert!(matches!(pong, Some(server_frame::Frame::Pong(chat::Pong { nonce: 42 }))));
    let refused = client.reader.next::<ServerFrame>().await.unwrap().unwrap().frame;
    assert!(matches!(refused, Some(server_frame::Frame::Refused(refused)) if refused.reason() == chat::RefusedReason::Invalid));
    assert!(client.reader.next::<ServerFrame>().await.unwrap().is_none());
    Business::new().connect(&network, 1, 1).await.unwrap().settle().await;
    assert_eq!(network.assert_clean().discarded, 1);
    network.stop().await;
}

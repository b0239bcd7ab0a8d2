//! What is refused when more is asked than may be, or than can be carried: counts and order, no times.

use super::*;

fn refusal(answer: &Answer) -> Option<u32> {
    match answer {
        Answer::Refused(refused) => Some(refused.code),
        _ => None,
    }
}

fn user(i: u64) -> WaId {
    WaId::from_u64(15_550_001_001 + i).unwrap()
}

impl Bench {
    /// Asks for many messages at once, one to each of the users; the answers, in the same order.
    async fn flood(&self, users: impl Iterator<Item = u64>) -> Vec<(IdKey, Option<u32>)> {
        let asked: Vec<_> = users
            .map(|i| {
                let id_key = self.ids.lock().unwrap().generate(1_800_000_000_000);
                let (reply, outcome) = oneshot::channel();
                let action = Action::Submit { recipient: user(i), id_key, body: Bytes::from(format!("{i}")), key: None };
                self.node.dispatch(number(), Slot::of(user(i)), action, Reply::Single(reply));
                (id_key, outcome)
            })
            .collect();
        let mut answers = Vec::new();
        for (id_key, outcome) in asked {
            answers.push((id_key, refusal(&outcome.await.unwrap().result.unwrap())));
        }
        answers
    }
}

fn accepted(answers: &[(IdKey, Option<u32>)]) -> Vec<IdKey> {
    answers.iter().filter(|(_, refused)| refused.is_none()).map(|(id_key, _)| *id_key).collect()
}

/// A network that takes a tenth of what is asked: the rest is refused at once, not kept waiting, and what was
/// accepted goes before everything that is accepted later.
#[tokio::test]
async fn ten_times_what_a_shard_may_hold_is_refused_early_and_what_it_holds_keeps_its_place() {
    const HELD: usize = 50;
    let config = Config { max_outbox: HELD as u64, ..Config::default() };
    let mut bench = bench_with(config).await;
    // The network is connected and answers nothing.
    let mut peer = bench.connections.recv().await.unwrap();
    let answers = bench.flood(std::iter::repeat_n(0, 10 * HELD)).await;
    let first = accepted(&answers);
    assert_eq!(first.len(), HELD);
    assert!(answers.iter().skip(HELD).all(|(_, refused)| *refused == Some(1016)), "the first ones are taken, all others refused");

    let mut account = Account::new();
    let mut sent = Vec::new();
    while sent.len() < HELD {
        let envelopes = peer.envelopes(&mut account).await;
        peer.take(&envelopes).await;
        sent.extend(envelopes.iter().map(|envelope| envelope.id_key));
    }
    assert_eq!(sent, first, "in the order they were accepted");
    let mut later = Vec::new();
    while later.is_empty() {
        later = accepted(&bench.flood(std::iter::repeat_n(0, 1)).await);
    }
    assert_eq!(peer.envelopes(&mut account).await[0].id_key, later[0], "and there is room again");
}

#[tokio::test]
async fn one_recipient_has_a_limit_that_others_do_not_feel() {
    let config = Config { pair_per_minute: 10, pair_burst: 5, ..Config::default() };
    let bench = bench_with(config).await;
    let answers = bench.flood(std::iter::repeat_n(0, 20).chain(1..11)).await;
    let (one, others) = answers.split_at(20);
    assert_eq!(accepted(one).len(), 5);
    assert!(one[5..].iter().all(|(_, refused)| *refused == Some(1015)));
    assert_eq!(accepted(others).len(), 10);
}

#[tokio::test]
async fn a_number_has_a_limit_over_all_its_recipients() {
    let config = Config { number_per_second: 1, number_burst: 7, ..Config::default() };
    let bench = bench_with(config).await;
    let answers = bench.flood(0..100).await;
    // A slow machine may take longer than a second for all of them.
    let taken = accepted(&answers).len();
    assert!((7..50).contains(&taken), "{taken}");
    assert!(answers.iter().all(|(_, refused)| refused.is_none_or(|code| code == 1015)));
}

#[tokio::test]
async fn the_network_is_told_which_messages_are_templates() {
    let mut bench = bench_with(Config::default()).await;
    let mut peer = bench.connections.recv().await.unwrap();
    bench.accept(r#"{"type":"text","text":{"body":"hi"}}"#).await;
    bench.accept(r#"{"type":"template","template":{}}"#).await;
    let mut sent = Vec::new();
    while sent.len() < 2 {
        sent.extend(peer.envelopes(&mut Account::new()).await);
    }
    assert_eq!(sent.iter().map(|envelope| envelope.is_template).collect::<Vec<_>>(), [false, true]);
}

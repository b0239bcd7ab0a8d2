//! Callbacks that were given up: seen, tried again and dropped, over the API and with the command.

use estafet_harness::{Api, Sandbox, client::until, environment, sink::Reply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{ANA, KERRY, World};

const DEAD: &str = "/v1/estafet/callbacks/dead-letters";

/// A world in which a callback is given up at its first failure.
async fn impatient() -> anyhow::Result<World> {
    World::start_with(Sandbox::options().flag("--callback-max-age-days", "0")).await
}

async fn dead(admin: &Api, query: &str) -> anyhow::Result<Vec<Value>> {
    let answer = admin.call(Method::GET, &format!("{DEAD}?{query}"), None).await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.text);
    Ok(answer.body["callbacks"].as_array().cloned().unwrap_or_default())
}

fn ids(letters: &[Value]) -> Vec<&str> {
    letters.iter().filter_map(|letter| letter["body"]["messages"][0]["id"].as_str()).collect()
}

/// Messages of a phone whose callbacks were all given up.
async fn given_up(world: &World, phone: &str, count: usize) -> anyhow::Result<Vec<String>> {
    world.sink.reply_next_about(phone, std::iter::repeat_with(|| Reply::Status(500)).take(count));
    let mut sent = Vec::new();
    for n in 0..count {
        sent.push(world.admin.phone_sends_text(phone, &format!("message {n}")).await?);
    }
    let query = format!("contact={phone}");
    until("the callbacks are dead letters", async || Ok(dead(&world.admin, &query).await?.len() == count)).await?;
    Ok(sent)
}

async fn moved(admin: &Api, change: Value) -> anyhow::Result<Value> {
    let answer = admin.call(Method::POST, DEAD, Some(&change)).await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.text);
    Ok(answer.body["matched"].clone())
}

#[tokio::test]
async fn dead_letters_are_requeued_in_their_order_and_then_taken() -> anyhow::Result<()> {
    let world = impatient().await?;
    let sent = given_up(&world, KERRY, 3).await?;
    let letters = dead(&world.admin, &format!("contact={KERRY}")).await?;
    assert_eq!(ids(&letters), sent);
    assert_eq!((&letters[0]["contact"], &letters[0]["kind"]), (&json!(KERRY), &json!("inbound_message")));
    assert_eq!(letters[0]["reason"], "answered 500");

    let dry = moved(&world.admin, json!({"action": "requeue", "contact": KERRY, "dry_run": true})).await?;
    assert_eq!(dry, 3);
    assert_eq!(dead(&world.admin, "").await?.len(), 3, "a dry run changes nothing");

    assert_eq!(moved(&world.admin, json!({"action": "requeue", "contact": KERRY})).await?, 3);
    for id in &sent {
        world.sink.wait_for_one(|arrival| arrival.status == 200 && arrival.messages().any(|brought| brought == id)).await?;
    }
    let arrivals = world.sink.arrivals();
    let taken: Vec<&str> = arrivals.iter().filter(|a| a.status == 200).flat_map(|a| a.messages()).collect();
    assert_eq!(taken, sent, "each once, in order");
    assert_eq!(dead(&world.admin, "").await?, Vec::<Value>::new());
    assert_eq!(moved(&world.admin, json!({"action": "requeue", "all": true})).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_selection_drops_what_it_names_and_nothing_is_dropped_without_one() -> anyhow::Result<()> {
    let world = impatient().await?;
    let (of_kerry, of_ana) = (given_up(&world, KERRY, 2).await?, given_up(&world, ANA, 1).await?);
    let refused = world.admin.call(Method::POST, DEAD, Some(&json!({"action": "drop"}))).await?;
    assert_eq!((refused.status, refused.error_code()), (400, Some(1008)), "{}", refused.text);
    let refused = world.admin.call(Method::POST, DEAD, Some(&json!({"action": "burn", "all": true}))).await?;
    assert_eq!((refused.status, refused.error_code()), (400, Some(1009)), "{}", refused.text);
    assert_eq!(dead(&world.admin, "").await?.len(), 3);

    assert_eq!(moved(&world.admin, json!({"action": "drop", "until": 1000})).await?, 0);
    assert_eq!(moved(&world.admin, json!({"action": "drop", "message_id": of_kerry[0]})).await?, 1);
    assert_eq!(ids(&dead(&world.admin, &format!("contact={KERRY}")).await?), [of_kerry[1].as_str()]);
    assert_eq!(ids(&dead(&world.admin, &format!("message_id={}", of_ana[0])).await?), [of_ana[0].as_str()]);
    Ok(())
}

#[tokio::test]
async fn only_an_administrator_sees_and_moves_callbacks() -> anyhow::Result<()> {
    let world = World::start().await?;
    let user = world.admin.create_user("clerk", "Cl3rk!pass").await?;
    for (method, path) in [(Method::GET, "/v1/estafet/callbacks"), (Method::GET, DEAD), (Method::POST, DEAD)] {
        let body = (method == Method::POST).then(|| json!({"action": "drop", "all": true}));
        let answer = user.call(method.clone(), path, body.as_ref()).await?;
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text);
        let answer = world.sandbox.anonymous()?.call(method, path, body.as_ref()).await?;
        assert_eq!(answer.status, 401, "{path}: {}", answer.text);
    }
    Ok(())
}

#[tokio::test]
async fn the_command_lists_what_waits_and_requeues_dead_letters() -> anyhow::Result<()> {
    let mut world = impatient().await?;
    let sent = given_up(&world, KERRY, 2).await?;
    let command = async |args: &[&str]| -> anyhow::Result<String> {
        let mut command = std::process::Command::new(environment::estafet_binary()?);
        command.arg("callbacks").args(args).args([
            "--url",
            world.admin.base_url(),
            "--password",
            estafet_harness::sandbox::ADMIN_PASSWORD,
        ]);
        let ended = tokio::task::spawn_blocking(move || command.output()).await??;
        anyhow::ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        Ok(String::from_utf8(ended.stdout)?)
    };
    let listed = command(&["dead-letter", "list", "--contact", KERRY, "--from", "1h", "--json"]).await?;
    let listed: Vec<Value> = listed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(ids(&listed), sent);
    assert_eq!(command(&["list", "--contact", KERRY, "--json"]).await?, "");
    assert!(command(&["dead-letter", "drop"]).await.is_err(), "nothing is dropped without a word about which");
    let dry = command(&["dead-letter", "requeue", "--all", "--dry-run", "--json"]).await?;
    let dry: Vec<Value> = dry.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(
        (ids(&dry[..2]), &dry[2]),
        (sent.iter().map(String::as_str).collect(), &json!({"action": "requeue", "matched": 2, "dry_run": true}))
    );
    let done = command(&["dead-letter", "requeue", "--message-id", &sent[1]]).await?;
    assert_eq!(done, "requeue: 1 callbacks\n");
    world.sink.wait_for_one(|arrival| arrival.status == 200 && arrival.messages().any(|id| id == sent[1])).await?;
    assert_eq!(ids(&dead(&world.admin, "").await?), [sent[0].as_str()]);
    world.sandbox.terminate().await.map(drop)
}

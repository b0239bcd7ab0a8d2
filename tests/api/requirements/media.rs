//! Media: where files are, how large they may be, and what phones show of them.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use estafet_harness::{Sandbox, environment::estafet_binary, files};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::world::{ANA, KERRY, World};

/// Bytes that cannot be there by chance.
const CANARY: &[u8] = b"a canary in a document that nobody but the phone may read";

async fn send_document(world: &World, id: &str) -> anyhow::Result<String> {
    world.admin.send(&json!({ "to": KERRY, "type": "document", "document": { "id": id, "filename": "a.pdf" } })).await
}

/// Whether any file below a directory contains these bytes.
fn holds(directory: &Path, bytes: &[u8]) -> anyhow::Result<bool> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let found = match path.is_dir() {
            true => holds(&path, bytes)?,
            false => fs::read(&path)?.windows(bytes.len()).any(|window| window == bytes),
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What `estafet media list` prints, as JSON.
async fn listed(store: &str, number: &str) -> anyhow::Result<Value> {
    let mut command = Command::new(estafet_binary()?);
    let output = command.args(["media", "list", number, "--json", "--media-store", store]).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test]
async fn r124_r126_r131_r140_files_are_plain_ones_where_the_operator_wants_them_and_sealed_elsewhere() -> anyhow::Result<()> {
    let elsewhere = tempfile::tempdir()?;
    let store = format!("file://{}", elsewhere.path().display());
    let world = World::start_with(Sandbox::options().flag("--media-store", &store)).await?;
    let number = world.sandbox.ready().business_number.clone();
    let directory = elsewhere.path().join(&number);
    let content = [CANARY, &vec![7; 300_000]].concat();
    let sent = world.admin.upload("application/pdf", content.clone()).await?;
    assert!(fs::read(directory.join(&sent))? == content, "one plain file under its id");
    let message = send_document(&world, &sent).await?;
    world.sink.wait_for_status(&message, "read").await?;
    let network = world.sandbox.data_dir().join("chatd/blobs");
    assert_eq!(fs::read_dir(&network)?.count(), 1, "the network has a copy");
    assert!(!holds(&network, CANARY)?, "the network can read it");
    let shown = world.admin.inbox(KERRY).await?.messages[0].content["document"].clone();
    assert_eq!((&shown["downloaded"], &shown["filename"]), (&json!(true), &json!("a.pdf")));

    // A file that a phone sends is there too.
    let left = world.admin.request(Method::POST, "/sandbox/files", Some(("image/jpeg", files::jpeg()))).await?.body;
    let received = world.admin.phone_sends(KERRY, &json!({ "type": "image", "image": left })).await?;
    let event = world.sink.wait_for_message(&received).await?.event;
    let received = event["messages"][0]["image"]["id"].as_str().context("no id")?.to_owned();
    let list = listed(&store, &number).await?;
    let row = |id: &str| list.as_array()?.iter().find(|file| file["id"] == id)?["bytes"].as_u64();
    let sizes = [Some(content.len() as u64), Some(files::jpeg().len() as u64)];
    assert_eq!([row(&sent), row(&received)], sizes, "{list}");

    // Files may be deleted by hand.
    let unsent = world.admin.upload("application/pdf", content).await?;
    for id in [&received, &unsent] {
        fs::remove_file(directory.join(id))?;
        assert_eq!(world.admin.call(Method::GET, &format!("/v1/media/{id}"), None).await?.status, 404);
    }
    let message = send_document(&world, &unsent).await?;
    let failed = world.sink.wait_for_status(&message, "failed").await?.event;
    assert_eq!(failed["statuses"][0]["errors"][0]["code"], 1014, "{failed}");
    Ok(())
}

#[tokio::test]
async fn r128_an_upload_of_64_mib_is_taken_and_one_byte_more_is_not() -> anyhow::Result<()> {
    const LARGEST: usize = 67_108_864;
    let sandbox = Sandbox::start().await?;
    let admin = sandbox.login().await?;
    for announced in [false, true] {
        for (size, expected) in [(LARGEST, (200, None)), (LARGEST + 1, (413, Some(1009)))] {
            let body = match announced {
                true => reqwest::Body::from(vec![b'x'; size]),
                false => {
                    let pieces =
                        vec![vec![b'x'; LARGEST], vec![b'x'; size - LARGEST]].into_iter().filter(|piece| !piece.is_empty());
                    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = pieces.map(Ok).collect();
                    reqwest::Body::wrap_stream(futures::stream::iter(pieces))
                }
            };
            let answer = admin.begin_upload("application/pdf", body).await?;
            assert_eq!((answer.status, answer.error_code()), expected, "{size} bytes: {}", answer.text);
        }
    }
    Ok(())
}

#[tokio::test]
async fn r109_r111_r134_r136_pictures_travel_with_whole_captions_and_albums_and_trust_are_the_phones() -> anyhow::Result<()> {
    let world = World::start().await?;
    let picture = world.admin.upload("image/jpeg", files::jpeg()).await?;
    let image = |to: &str| json!({ "to": to, "type": "image", "image": { "id": picture } });
    let caption = "ü".repeat(1024);
    let mut captioned = image(KERRY);
    captioned["image"]["caption"] = json!(caption);
    world.admin.send(&captioned).await?;
    let mut last = String::new();
    for _ in 0..4 {
        last = world.admin.send(&image(KERRY)).await?;
    }
    world.sink.wait_for_status(&last, "read").await?;
    let path = format!("/sandbox/phones/{KERRY}/inbox");
    let inbox = world.admin.call(Method::GET, &path, None).await?.body;
    let messages = inbox["messages"].as_array().context("no messages")?;
    assert_eq!(messages[0]["content"]["image"]["caption"], caption);
    let albums: Vec<Option<u64>> = messages.iter().map(|message| message["album"].as_u64()).collect();
    assert_eq!(albums, [None, Some(2), Some(2), Some(2), Some(2)], "four in a row, adjacent and in order");

    // A cautious phone fetches nothing from a business that it does not know; a template makes it known.
    world.admin.send(&image(ANA)).await?;
    let hello = json!({ "namespace": "estafet_sandbox", "name": "hello_world", "language": { "code": "en_US" } });
    world.admin.send(&json!({ "to": ANA, "type": "template", "template": hello })).await?;
    let last = world.admin.send(&image(ANA)).await?;
    world.sink.wait_for_status(&last, "read").await?;
    for (question, before) in [("?cautious=true", false), ("", true)] {
        let inbox = world.admin.call(Method::GET, &format!("/sandbox/phones/{ANA}/inbox{question}"), None).await?.body;
        let fetched = |index: usize| inbox["messages"][index]["content"]["image"]["downloaded"].clone();
        assert_eq!([fetched(0), fetched(2)], [json!(before), json!(true)], "{question}: {inbox}");
        let shown = &inbox["messages"][0]["content"]["image"];
        assert!(shown.get("key").is_none() && shown.get("blob").is_none(), "{shown}");
    }
    Ok(())
}

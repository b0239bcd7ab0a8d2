//! Files there and back: what is uploaded is what is downloaded, what is sent is what the phone decrypts, and what a
//! phone sends is what can be downloaded (spec/media.md).

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use estafet_harness::{Api, Sandbox, client::until, environment::estafet_binary, files, volume, web::Web};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::world::{ANA, KERRY, World};

/// Type of the message, MIME type, content.
fn kinds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    vec![
        ("image", "image/jpeg", files::jpeg()),
        ("audio", "audio/mpeg", files::mp3()),
        ("audio", "audio/ogg; codecs=opus", files::opus()),
        ("video", "video/mp4", files::mp4()),
        // Over the pieces of encryption and transport.
        ("document", "application/pdf", (0..700_001_u32).map(|n| (n % 251) as u8).collect()),
        ("sticker", "image/webp", files::webp()),
    ]
}

#[tokio::test]
async fn every_kind_by_id_reaches_the_phone_byte_by_byte() -> anyhow::Result<()> {
    let world = World::start().await?;
    let mut sent = Vec::new();
    for (kind, mime_type, content) in kinds() {
        let id = world.admin.upload(mime_type, content.clone()).await?;
        let mut message = json!({ "to": KERRY, "type": kind, kind: { "id": id } });
        if ["image", "video", "document"].contains(&kind) {
            message[kind]["caption"] = json!("a caption");
        }
        if kind == "document" {
            message[kind]["filename"] = json!("a.pdf");
        }
        sent.push((world.admin.send(&message).await?, kind, mime_type, content));
    }
    let last = sent.last().context("nothing was sent")?.0.clone();
    world.sink.wait_for_status(&last, "read").await?;
    let inbox = world.admin.inbox(KERRY).await?;
    assert_eq!(
        inbox.messages.iter().map(|m| &m.id).collect::<Vec<_>>(),
        sent.iter().map(|s| &s.0).collect::<Vec<_>>(),
        "in order"
    );
    for (message, (id, kind, mime_type, content)) in inbox.messages.iter().zip(&sent) {
        let shown = &message.content[kind];
        assert_eq!((shown["mime_type"].as_str(), shown["file_size"].as_u64()), (Some(*mime_type), Some(content.len() as u64)));
        assert_eq!(shown["downloaded"], true, "{shown}");
        let has_caption = ["image", "video", "document"].contains(kind);
        assert_eq!(shown["caption"].as_str(), has_caption.then_some("a caption"));
        assert!(shown.get("key").is_none() && shown.get("id").is_none(), "{shown}");
        let file = world.admin.call(Method::GET, &format!("/sandbox/phones/{KERRY}/messages/{id}/file"), None).await?;
        assert!(file.bytes == content, "{kind}");
    }
    Ok(())
}

#[tokio::test]
async fn a_template_and_an_interactive_header_carry_their_file() -> anyhow::Result<()> {
    let world = World::start().await?;
    let id = world.admin.upload("image/jpeg", files::jpeg()).await?;
    let header = json!({ "type": "image", "image": { "id": id } });
    let button = json!({ "type": "reply", "reply": { "id": "y", "title": "Yes" } });
    let interactive = json!({ "type": "button", "header": header, "body": { "text": "b" }, "action": { "buttons": [button] } });
    let template = json!({ "namespace": "estafet_sandbox", "name": "promo_image", "language": { "code": "en_US" }, "components": [
        { "type": "header", "parameters": [header] },
        { "type": "body", "parameters": [{ "type": "text", "text": "Ana" }] },
        { "type": "button", "sub_type": "url", "index": 1, "parameters": [{ "type": "text", "text": "x" }] }] });
    world.admin.send(&json!({ "to": KERRY, "type": "interactive", "interactive": interactive })).await?;
    let last = world.admin.send(&json!({ "to": KERRY, "type": "template", "template": template })).await?;
    world.sink.wait_for_status(&last, "read").await?;
    let inbox = world.admin.inbox(KERRY).await?;
    for (message, pointer) in inbox.messages.iter().zip(["/interactive/header/image", "/rendered/header/image"]) {
        let shown = message.content.pointer(pointer).context("no header")?;
        assert_eq!((shown["downloaded"].as_bool(), shown["mime_type"].as_str()), (Some(true), Some("image/jpeg")), "{shown}");
    }
    Ok(())
}

#[tokio::test]
async fn a_link_is_fetched_with_the_credentials_of_its_provider_and_what_follows_waits() -> anyhow::Result<()> {
    let (world, web) = (World::start().await?, Web::start().await?);
    let provider = json!([{ "name": "p1", "type": "www", "config": { "basic": { "username": "u", "password": "p" } } }]);
    let path = "/v1/settings/application/media/providers";
    ensure!(world.admin.call(Method::POST, path, Some(&provider)).await?.status == 200);
    let link = format!("{}/a.jpg", web.url());
    world.admin.send(&json!({ "to": KERRY, "type": "image", "image": { "link": link, "provider": { "name": "p1" } } })).await?;
    world.admin.send(&json!({ "to": KERRY, "type": "image", "image": { "link": link } })).await?;
    let last = world.admin.send_text(KERRY, "after them").await?;
    world.sink.wait_for_status(&last, "read").await?;
    let contents: Vec<Value> = world.admin.inbox(KERRY).await?.messages.into_iter().map(|m| m.content).collect();
    assert_eq!(contents.iter().map(|c| c["type"].as_str().unwrap_or_default()).collect::<Vec<_>>(), ["image", "image", "text"]);
    assert_eq!((&contents[0]["image"]["mime_type"], &contents[0]["image"]["downloaded"]), (&json!("image/jpeg"), &json!(true)));
    let asked = [("a.jpg".to_owned(), Some("Basic dTpw".to_owned())), ("a.jpg".to_owned(), None)];
    assert_eq!(web.seen(), asked);
    Ok(())
}

#[tokio::test]
async fn a_link_that_cannot_be_sent_fails_its_message_and_no_other() -> anyhow::Result<()> {
    let (world, web) = (World::start().await?, Web::start().await?);
    let url = web.url();
    let table = [
        ("image", format!("{url}/missing.jpg"), "404 (Not Found)"),
        ("image", format!("{url}/c.mp3"), "the file is of a type that is not supported"),
        ("sticker", format!("{url}/a.jpg"), "the file is of a type that is not supported"),
        ("image", "http://169.254.169.254/a.jpg".to_owned(), "the address is not public"),
        ("image", "http://10.0.0.1/a.jpg".to_owned(), "the address is not public"),
    ];
    for (kind, link, problem) in table {
        let id = world.admin.send(&json!({ "to": KERRY, "type": kind, kind: { "link": link } })).await?;
        let event = world.sink.wait_for_status(&id, "failed").await?.event;
        let error = &event["statuses"][0]["errors"][0];
        let title = format!("Request for url {link} failed with error: {problem}");
        assert_eq!((error["code"].as_u64(), error["title"].as_str()), (Some(1014), Some(title.as_str())));
    }
    let text = world.admin.send_text(KERRY, "goes on").await?;
    world.sink.wait_for_status(&text, "read").await?;
    assert_eq!(world.admin.inbox(KERRY).await?.messages.len(), 1);
    Ok(())
}

#[tokio::test]
async fn files_that_do_not_fit_are_refused_before_they_are_sent() -> anyhow::Result<()> {
    let world = World::start().await?;
    let jpeg = world.admin.upload("image/jpeg", files::jpeg()).await?;
    let large = world.admin.upload("image/png", [b"\x89PNG\r\n\x1a\n".to_vec(), vec![0; 5 << 20]].concat()).await?;
    let mut small = files::webp();
    small[21] = 0;
    let small = world.admin.upload("image/webp", small).await?;
    for (kind, id) in [("video", &jpeg), ("sticker", &jpeg), ("audio", &jpeg), ("image", &large), ("sticker", &small)] {
        let message = json!({ "to": KERRY, "type": kind, kind: { "id": id } });
        let answer = world.admin.call(Method::POST, "/v1/messages", Some(&message)).await?;
        assert_eq!((answer.status, answer.error_code()), (400, Some(1009)), "{kind}: {}", answer.text);
    }
    let refused = [
        (Some("image/jpeg"), b"<html>".to_vec(), 400, 1014),
        (Some("image/jpeg"), Vec::new(), 400, 1008),
        (Some("jpeg"), files::jpeg(), 400, 1009),
    ];
    for (content_type, content, status, code) in refused {
        let body = content_type.map(|content_type| (content_type, content));
        let answer = world.admin.request(Method::POST, "/v1/media", body).await?;
        assert_eq!((answer.status, answer.error_code()), (status, Some(code)), "{}", answer.text);
    }
    Ok(())
}

#[tokio::test]
async fn a_form_is_taken_too_and_ranges_are_given() -> anyhow::Result<()> {
    let world = World::start().await?;
    let form = "--x\r\nContent-Disposition: form-data; name=\"messaging_product\"\r\n\r\nwhatsapp\r\n\
        --x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\n0123456789\r\n--x--\r\n";
    let body = Some(("multipart/form-data; boundary=x", form.as_bytes().to_vec()));
    let answer = world.admin.request(Method::POST, "/v1/media", body).await?;
    let id = answer.text_at("/media/0/id").context("no id")?.to_owned();
    let path = format!("/v1/media/{id}");
    let whole = world.admin.call(Method::GET, &path, None).await?;
    assert_eq!((whole.status, whole.text.as_str()), (200, "0123456789"));
    let header = |name: &str| whole.headers.get(name).and_then(|value| value.to_str().ok());
    assert_eq!((header("content-type"), header("content-length")), (Some("text/plain"), Some("10")));
    assert_eq!(header("etag"), Some("\"84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882\""));
    let part = world.admin.get_range(&path, "bytes=2-4").await?;
    let range = part.headers.get("content-range").and_then(|value| value.to_str().ok());
    assert_eq!((part.status, part.text.as_str(), range), (206, "234", Some("bytes 2-4/10")));
    assert_eq!(world.admin.get_range(&path, "bytes=10-").await?.status, 416);
    let deleted = world.admin.call(Method::DELETE, &path, None).await?;
    assert_eq!(deleted.status, 200);
    let again = world.admin.call(Method::DELETE, &path, None).await?;
    assert_eq!((again.status, again.error_code()), (404, Some(1006)));
    Ok(())
}

/// Makes a phone send a file with `estafet phone send`; the id of its message.
async fn phone_sends(world: &World, options: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(estafet_binary()?);
    command.args(["phone", "send", "--url", world.admin.base_url(), "--from", KERRY]).args(options);
    let output = command.output().await?;
    ensure!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[tokio::test]
async fn what_a_phone_sends_is_told_and_can_be_downloaded_byte_by_byte() -> anyhow::Result<()> {
    let world = World::start().await?;
    let directory = tempfile::tempdir()?;
    let mut expected = BTreeMap::new();
    let table = [("image", "a.jpg", files::jpeg()), ("audio", "a.mp3", files::mp3()), ("voice", "a.ogg", files::opus())];
    let large: Vec<u8> = (0..600_001_u32).map(|n| (n % 249) as u8).collect();
    for (kind, name, content) in table.into_iter().chain([
        ("video", "a.mp4", files::mp4()),
        ("document", "a.pdf", large),
        ("sticker", "a.webp", files::webp()),
    ]) {
        let path = directory.path().join(name);
        std::fs::write(&path, &content)?;
        let path = path.display().to_string();
        let option = format!("--{kind}");
        let caption: &[&str] = if kind == "image" { &["--caption", "look"] } else { &[] };
        let id = phone_sends(&world, &[&[option.as_str(), path.as_str()], caption].concat()).await?;
        expected.insert(id, (kind, name, content));
    }
    for (id, (kind, name, content)) in &expected {
        let event = world.sink.wait_for_message(id).await?.event;
        let media = &event["messages"][0][kind];
        let mime_type = media["mime_type"].as_str().context("no type")?;
        let allowed = ["caption", "filename", "id", "mime_type", "sha256"];
        let members: Vec<&String> = media.as_object().context("no object")?.keys().collect();
        assert!(members.iter().all(|member| allowed.contains(&member.as_str())), "{media}");
        assert_eq!(
            media["caption"].as_str(),
            match *kind {
                "image" => Some("look"),
                "document" => Some(*name),
                _ => None,
            }
        );
        let file = world.admin.call(Method::GET, &format!("/v1/media/{}", media["id"].as_str().context("no id")?), None).await?;
        assert!(file.bytes == content, "{kind}");
        assert_eq!(file.headers["content-type"], mime_type);
        assert_eq!(file.headers["etag"], format!("\"{}\"", media["sha256"].as_str().context("no hash")?));
    }
    Ok(())
}

#[tokio::test]
async fn a_file_the_network_lost_is_told_as_not_downloaded() -> anyhow::Result<()> {
    let world = World::start().await?;
    let left = world.admin.request(Method::POST, "/sandbox/files", Some(("image/jpeg", files::jpeg()))).await?.body;
    for entry in std::fs::read_dir(world.sandbox.data_dir().join("chatd/blobs"))? {
        std::fs::remove_file(entry?.path())?;
    }
    let id = world.admin.phone_sends(KERRY, &json!({ "type": "image", "image": left })).await?;
    let message = world.sink.wait_for_message(&id).await?.event["messages"][0].clone();
    assert_eq!((&message["image"]["status"], &message["errors"][0]["code"]), (&json!("undownloaded"), &json!(400)));
    assert!(message["image"].get("id").is_none(), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_process_killed_within_an_upload_leaves_nothing_to_see() -> anyhow::Result<()> {
    let mut sandbox = Sandbox::start().await?;
    let admin = sandbox.login().await?;
    let media = sandbox.data_dir().join("media/15550000001");
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = reqwest::Body::wrap_stream(futures::stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    }));
    let upload = estafet_runtime::Tasks::new();
    let request = admin.begin_upload("application/pdf", body);
    upload.spawn("upload", async move { drop(request.await) });
    for _ in 0..12 {
        sender.send(Ok(vec![7; 256 * 1024])).await?;
    }
    let written = async || Ok(std::fs::read_dir(&media).is_ok_and(|entries| entries.count() > 0));
    until("a part of the upload is written", written).await?;
    sandbox.kill();
    sandbox.restart().await?;
    let admin = sandbox.login().await?;
    for entry in std::fs::read_dir(&media)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        assert_eq!(admin.call(Method::GET, &format!("/v1/media/{name}"), None).await?.status, 404, "{name}");
        let id = name.split('#').next().unwrap_or_default();
        assert_eq!(admin.call(Method::GET, &format!("/v1/media/{id}"), None).await?.status, 404, "{id}");
    }
    Ok(())
}

/// An upload, whatever became of it: the answer's status and code, or the id.
async fn try_upload(admin: &Api, content: Vec<u8>) -> anyhow::Result<Result<String, (u16, Option<u64>)>> {
    let answer = admin.request(Method::POST, "/v1/media", Some(("application/pdf", content))).await?;
    let id = answer.text_at("/media/0/id").map(str::to_owned);
    Ok(id.ok_or_else(|| (answer.status, answer.error_code())))
}

#[test]
fn a_full_volume_refuses_uploads_and_loses_nothing() -> anyhow::Result<()> {
    /// Five of these have room in 6 MiB, six have not.
    const SIZE: usize = (1 << 20) + 1;
    let directory = tempfile::tempdir()?;
    volume::run(&directory.path().join("media"), 6, async || {
        let world = World::start_with(Sandbox::options().data_dir(directory.path())).await?;
        world.retry_soon().await?;
        let mut stored = Vec::new();
        let refusal = loop {
            let content = vec![stored.len() as u8; SIZE];
            match try_upload(&world.admin, content).await? {
                Ok(id) => stored.push(id),
                Err(refusal) => break refusal,
            }
        };
        assert_eq!((refusal, stored.len()), ((500, Some(1005)), 5), "what is left does not hold a sixth");
        let left = std::fs::read_dir(directory.path().join("media/15550000001"))?.count();
        assert_eq!(left, stored.len(), "nothing of what was refused stays");
        // What is left of the volume is filled, so that not even a small file has room.
        let filler = directory.path().join("media/filler");
        ensure!(std::fs::write(&filler, vec![9; 2 << 20]).is_err(), "the volume is larger than it should be");
        assert_eq!(try_upload(&world.admin, vec![9; 4096]).await?, Err((500, Some(1005))));
        let image = world.admin.request(Method::POST, "/sandbox/files", Some(("image/jpeg", files::jpeg()))).await?.body;
        let image = world.admin.phone_sends(KERRY, &json!({ "type": "image", "image": image })).await?;
        let text = world.admin.phone_sends_text(KERRY, "behind the picture").await?;
        let other = world.admin.phone_sends_text(ANA, "not behind it").await?;
        world.sink.wait_for_message(&other).await?;
        assert!(
            !world.sink.arrivals().iter().any(|arrival| arrival.messages().any(|id| [&image, &text].contains(&&id.to_owned())))
        );
        for (n, id) in stored.iter().enumerate().rev() {
            let path = format!("/v1/media/{id}");
            let file = world.admin.call(Method::GET, &path, None).await?;
            assert!(file.status == 200 && file.bytes == vec![n as u8; SIZE], "file {n}");
            assert_eq!(world.admin.call(Method::DELETE, &path, None).await?.status, 200);
        }
        let picture = world.sink.wait_for_message(&image).await?;
        assert!(picture.event["messages"][0]["image"]["id"].is_string(), "{}", picture.event);
        assert!(world.sink.wait_for_message(&text).await?.n > picture.n, "in order");
        assert!(try_upload(&world.admin, vec![1; SIZE]).await?.is_ok());
        Ok(())
    })
}

#[tokio::test]
async fn a_collection_is_asked_for_and_its_end_is_told() -> anyhow::Result<()> {
    let world = World::start().await?;
    let kept = world.admin.upload("image/jpeg", files::jpeg()).await?;
    let media = world.sandbox.data_dir().join("media/15550000001");
    // What a process left that was killed days ago.
    let forgotten = media.join("5f0c3ad2-46a5-4c3b-8a43-5a4a8a1f0001#1");
    std::fs::write(&forgotten, "half")?;
    let touched = Command::new("touch").args(["-d", "3 days ago"]).arg(&forgotten).status().await?;
    ensure!(touched.success(), "touch failed");
    let path = "/v1/services/media/gc";
    let answer = world.admin.call(Method::PUT, path, None).await?;
    assert_eq!((answer.status, &answer.body["services"]), (200, &json!({ "media": { "gc": { "status": "processing" } } })));
    let told = world.sink.wait_for_one(|arrival| arrival.event.get("services").is_some()).await?.event;
    assert_eq!(told, json!({ "services": [{ "media": { "gc": { "items_deleted": 1, "status": "complete" } } }] }));
    assert!(!forgotten.exists());
    assert_eq!(world.admin.call(Method::GET, &format!("/v1/media/{kept}"), None).await?.status, 200);
    let agent = world.admin.create_user("agent", "Ag3nt!pass").await?;
    assert_eq!(agent.call(Method::PUT, path, None).await?.status, 403);
    Ok(())
}

#[tokio::test]
async fn memory_stays_flat_while_eight_uploads_of_64_mib_run() -> anyhow::Result<()> {
    const SIZE: usize = 64 << 20;
    let sandbox = Sandbox::start().await?;
    let admin = sandbox.login().await?;
    let small = admin.upload("application/pdf", vec![1; 1 << 20]).await?;
    admin.call(Method::GET, &format!("/v1/media/{small}"), None).await?;
    let before = peak_kib(sandbox.pid())?;
    let upload = async |admin: &Api| {
        let pieces = (0..SIZE / (1 << 20)).map(|n| Ok::<_, std::io::Error>(vec![n as u8; 1 << 20]));
        let answer = admin.begin_upload("application/pdf", reqwest::Body::wrap_stream(futures::stream::iter(pieces))).await?;
        ensure!(answer.status == 200, "{}", answer.text);
        anyhow::Ok(())
    };
    futures::future::try_join_all((0..8).map(|_| upload(&admin))).await?;
    let grown = peak_kib(sandbox.pid())? - before;
    assert!(grown < 8 * 6 * 1024, "{grown} KiB more at the peak, for 512 MiB");
    Ok(())
}

/// The most memory a process has had resident, in KiB.
fn peak_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}

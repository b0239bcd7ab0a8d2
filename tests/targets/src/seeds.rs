//! Where looking begins: the requests of the vectors, and one good example of everything else; and what was found.

use std::{
    io,
    path::{Path, PathBuf},
};

use estafet_model::{Slot, WaId};
use estafet_proto::{chat, v1};
use prost::Message;
use serde_json::{Value, json};

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "message" => messages(),
        "template" => templates(),
        "phone" => {
            texts(&["16315551234", "+1 (631) 555-1234", "5511987654321", "525512345678", "541112345678", "0049301234", "+"])
        }
        "webhook_url" => texts(&[
            "https://hooks.example.net:8443/wa?x=1",
            "http://127.0.0.1:8080/",
            "http://[::1]/",
            "https://u:p@h/",
            "https://h/#f",
            "http://localhost",
        ]),
        "media" => media(),
        "chatd" => chatd(),
        "data" => data(),
        _ => Vec::new(),
    }
}

/// Most files of a directory that are replayed.
const MOST_FILES: usize = 2000;

/// What was found before: the files of this target below `fuzz/regressions`, which stay, and below `fuzz/corpus`, where
/// libFuzzer keeps what led it to new code.
pub fn found(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let mut found = Vec::new();
    for directory in ["regressions", "corpus"] {
        for file in files(&fuzz.join(directory).join(target))? {
            found.push(std::fs::read(file)?);
        }
    }
    Ok(found)
}

/// The first files of a directory, by name; none if there is no such directory.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    files.truncate(MOST_FILES);
    Ok(files)
}

/// Puts the seeds of a target and what was found before into its corpus below `fuzz`, for libFuzzer to begin with.
pub fn sow(fuzz: &Path, target: &str) -> io::Result<()> {
    let corpus = fuzz.join("corpus").join(target);
    std::fs::create_dir_all(&corpus)?;
    for (n, seed) in of(target).into_iter().enumerate() {
        std::fs::write(corpus.join(format!("seed-{n:03}")), seed)?;
    }
    for file in files(&fuzz.join("regressions").join(target))? {
        if let Some(name) = file.file_name() {
            std::fs::copy(&file, corpus.join(name))?;
        }
    }
    Ok(())
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The bodies of all requests to send in the vectors.
fn messages() -> Vec<Vec<u8>> {
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/vectors.json")).unwrap_or_default();
    let mut found = Vec::new();
    collect(&vectors, &mut found);
    found
}

fn collect(value: &Value, found: &mut Vec<Vec<u8>>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(members) if members.contains_key("to") => found.push(value.to_string().into_bytes()),
        Value::Object(members) => members.values().for_each(|value| collect(value, found)),
        _ => {}
    }
}

fn templates() -> Vec<Vec<u8>> {
    let list = json!({ "namespace": "ns", "templates": [{ "name": "a", "language": "en_US", "components": [
        { "type": "HEADER", "format": "TEXT", "text": "For {{1}}" },
        { "type": "BODY", "text": "Hello {{1}}, {{2}}" },
        { "type": "FOOTER", "text": "Bye" },
        { "type": "BUTTONS", "buttons": [
            { "type": "URL", "text": "Open", "url": "https://example.org/{{1}}" },
            { "type": "QUICK_REPLY", "text": "Yes" }] }] }] });
    let text = |text: &str| json!({ "type": "text", "text": text });
    let components = json!([
        { "type": "header", "parameters": [text("Ana")] },
        { "type": "body", "parameters": [text("Ana"), { "type": "currency",
            "currency": { "fallback_value": "10 USD", "code": "USD", "amount_1000": 10000 } }] },
        { "type": "button", "sub_type": "url", "index": "0", "parameters": [text("x")] }]);
    let language = json!({ "policy": "deterministic", "code": "en_US" });
    let template = json!({ "namespace": "ns", "name": "a", "language": language, "components": components });
    let hsm = json!({ "namespace": "ns", "element_name": "a", "language": language,
        "localizable_params": [{ "default": "Ana" }, { "default": "2" }] });
    let plain =
        json!({ "namespace": "ns", "name": "b", "language": "en", "components": [{ "type": "BODY", "text": "{{1}} {{2}}" }] });
    let (to, line) = ("16315551234", |list: &Value, request: &Value| format!("{list}\n{request}").into_bytes());
    let request = json!({ "to": to, "type": "template", "template": template });
    let legacy = json!({ "to": to, "type": "hsm", "hsm": hsm });
    vec![line(&list, &request), line(&list, &legacy), line(&plain, &request)]
}

fn media() -> Vec<Vec<u8>> {
    let with = |kind: &str, head: &[u8]| [kind.as_bytes(), b"\n", head].concat();
    vec![
        with("image/jpeg", b"\xff\xd8\xff\xe0\x00\x10JFIF"),
        with("image/png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
        with("image/webp", b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\xff\xc1\x7f\x00\0\0\0\0"),
        with("image/webp", b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\xff\x01\0\xff\x01\0"),
        with("image/webp", b"RIFF\x1a\0\0\0WEBPVP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a\0\x02\0\x02"),
        with("audio/ogg; codecs=opus", b"OggS\0\x02\0\0\0\0\0\0\0\0OpusHead"),
        with("video/mp4", b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2"),
        with("audio/mpeg; charset=\"x\"", b"ID3\x04\0\0\0"),
    ]
}

fn chatd() -> Vec<Vec<u8>> {
    use chat::{client_frame::Frame as Client, delivery::Item, server_frame::Frame as Server};
    let of_client = |frame| chat::ClientFrame { frame: Some(frame) }.encode_length_delimited_to_vec();
    let of_server = |frame| chat::ServerFrame { frame: Some(frame) }.encode_length_delimited_to_vec();
    let sealed = chat::Sealed { kind: 1, ciphertext: vec![3; 40].into() };
    let (epoch, recipient, slot, seq) = (7, 16_315_551_234, 5, 1 << 32);
    let id_key = bytes::Bytes::from_static(&[9; 9]);
    let keys = chat::BusinessKeys { identity_key: vec![1; 32].into(), ..chat::BusinessKeys::default() };
    let login = chat::Login { number: 15_550_000_001, shard_count: 4, epoch, keys: Some(keys), ..chat::Login::default() };
    let envelope = chat::Envelope { recipient, slot, seq, id_key: id_key.clone(), sealed: Some(sealed), is_template: true };
    let send = chat::Send { epoch, envelopes: vec![envelope] };
    let contacts = chat::CheckContacts { query: 1, wa_ids: vec![recipient, 0, u64::MAX] };
    let receipt = chat::Receipt { recipient, slot, seq, id_key: id_key.clone(), status: 1, at_ms: 5, error_code: 0 };
    let delivery = chat::Delivery { delivery: 1, item: Some(Item::Receipt(receipt)) };
    let verdict = chat::Verdict { slot, seq, id_key, error_code: 0, at_ms: 5 };
    let client = [Client::Login(login), Client::Send(send), Client::CheckContacts(contacts)].map(of_client);
    let server = [
        Server::LoggedIn(chat::LoggedIn { epoch, heartbeat_ms: 1000 }),
        Server::Accepted(chat::Accepted { verdicts: vec![verdict] }),
        Server::Deliver(chat::Deliver { deliveries: vec![delivery] }),
    ]
    .map(of_server);
    let odd = [&b"\xff\xff\xff\xff\x01"[..], b"\x80", b"\0\0\0", b"\x80\x80\x40"].map(<[u8]>::to_vec);
    let whole = [client.concat(), server.concat()];
    client.into_iter().chain(server).chain(whole).chain(odd).collect()
}

fn data() -> Vec<Vec<u8>> {
    use v1::request::Action;
    let Ok(recipient) = WaId::from_u64(16_315_551_234) else { return Vec::new() };
    let slot = u32::from(Slot::of(recipient).get());
    let user = recipient.as_u64();
    let submit = v1::Submit {
        recipient: user,
        id_key: vec![7; 9].into(),
        body: br#"{"type":"text","text":{"body":"hi"}}"#.to_vec().into(),
        submitted_at_ms: 1,
        key_hash: vec![1; 16].into(),
        fingerprint: vec![2; 16].into(),
    };
    let moved = v1::MoveCallbacks { how: v1::move_callbacks::How::Requeue.into(), seqs: vec![1, 2], endpoint: 1 };
    let actions = [
        Action::Submit(submit.clone()),
        Action::Submit(v1::Submit { fingerprint: vec![2; 15].into(), ..submit }),
        Action::MarkRead(v1::MarkRead { message_id: "ABGGFlA5FpafAgo6tHcNmNjXmuSf".to_owned() }),
        Action::MoveCallbacks(moved),
        Action::CheckContacts(v1::CheckContacts { wa_ids: vec![user, 0, u64::MAX] }),
        Action::ReadIdentity(v1::ReadIdentity { user }),
        Action::AcknowledgeIdentity(v1::AcknowledgeIdentity { user, hash: vec![4; 8].into() }),
        Action::CollectMedia(v1::CollectMedia {}),
    ];
    let requests = actions.map(|action| v1::Request { correlation: 1, number: 15_550_000_001, slot, action: Some(action) });
    vec![v1::RequestFrame { requests: requests.to_vec(), protocol: 1 }.encode_to_vec(), Vec::new()]
}

//! Which number a request is for, and `/v1/account/shards`.

use estafet_model::{Layout, ShardCount, WaId};
use estafet_store::{NumberRow, Switch};
use estafet_webapp::Config;
use reqwest::Method;
use serde_json::{Value, json};

use super::world::{ADMIN_PASSWORD, Got, NUMBER, START_MS, Webapp, World, check, eventually, number, registered};

const OTHER: u64 = NUMBER + 1;

fn every_number() -> Config {
    Config { number: None, ..registered() }
}

fn count(value: u32) -> ShardCount {
    ShardCount::new(value).unwrap()
}

async fn add(world: &World, number: u64, host: Option<&str>) {
    let row = NumberRow::new(WaId::from_u64(number).unwrap(), count(1), host.map(str::to_owned), START_MS);
    assert!(world.store.add_number(&row).await.unwrap());
}

/// A request with more headers than the usual ones.
async fn ask(webapp: &Webapp, path: &str, headers: &[(&str, &str)]) -> Got {
    let method = if path.ends_with("login") { Method::POST } else { Method::GET };
    let mut request = webapp.client.request(method, webapp.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    check(request.send().await.unwrap()).await
}

fn basic() -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("admin:{ADMIN_PASSWORD}")))
}

fn token(got: &Got) -> String {
    format!("Bearer {}", got.body["users"][0]["token"].as_str().unwrap())
}

fn wa_id(got: &Got) -> &Value {
    &got.body["settings"]["application"]["wa_id"]
}

#[tokio::test]
async fn a_single_number_need_not_be_named() {
    let world = World::new().await;
    add(&world, NUMBER, None).await;
    let webapp = world.webapp(every_number()).await;
    let admin = webapp.admin().await;
    assert_eq!(*wa_id(&webapp.get("/v1/settings/application", &admin).await.is(200)), json!(NUMBER.to_string()));
}

#[tokio::test]
async fn the_header_the_host_or_the_token_chooses_among_several() {
    let world = World::new().await;
    add(&world, NUMBER, None).await;
    add(&world, OTHER, Some("other.example")).await;
    let webapp = world.webapp(every_number()).await;
    let login = |more: Vec<(&'static str, &'static str)>| {
        let webapp = webapp.clone();
        async move {
            let basic = basic();
            let headers: Vec<(&str, &str)> = more.into_iter().chain([("authorization", basic.as_str())]).collect();
            ask(&webapp, "/v1/users/login", &headers).await
        }
    };
    let unnamed = login(vec![]).await;
    assert_eq!(unnamed.refusal(), (400, 1008));
    assert!(unnamed.body["errors"][0]["details"].as_str().unwrap().contains("X-Estafet-Number"), "{}", unnamed.body);
    let first = token(&login(vec![("x-estafet-number", "15550000001")]).await.is(200));
    let second = token(&login(vec![("host", "Other.Example:443")]).await.is(200));
    for (token, number) in [(&first, NUMBER), (&second, OTHER)] {
        let got = ask(&webapp, "/v1/settings/application", &[("authorization", token)]).await.is(200);
        assert_eq!(*wa_id(&got), json!(number.to_string()));
    }
    let crossed = [("x-estafet-number", "15550000002"), ("authorization", first.as_str())];
    assert_eq!(ask(&webapp, "/v1/settings/application", &crossed).await.refusal(), (401, 1005));
    for wrong in ["15550000009", "abc", ""] {
        let got = ask(&webapp, "/v1/health", &[("x-estafet-number", wrong), ("authorization", "Apikey key-0123456789")]).await;
        assert_eq!(got.refusal(), (400, 1009), "{wrong}");
    }
    assert_eq!(ask(&webapp, "/metrics", &[("authorization", "Apikey key-0123456789")]).await.status, 200, "it needs no number");
}

#[tokio::test]
async fn users_and_settings_belong_to_their_number() {
    let world = World::new().await;
    add(&world, NUMBER, Some("one.example")).await;
    let webapp = world.webapp(every_number()).await;
    let first = webapp.admin().await;
    webapp.user(&first, "kerry").await;
    webapp.patch("/v1/settings/application", &first, json!({ "callback_persist": false })).await.is(200);
    add(&world, OTHER, Some("two.example")).await;
    let basic = basic();
    let named = [("x-estafet-number", "15550000002"), ("authorization", basic.as_str())];
    eventually("the new number is served", || async { ask(&webapp, "/v1/users/login", &named).await.status == 200 }).await;
    let second = token(&ask(&webapp, "/v1/users/login", &named).await);
    assert_eq!(ask(&webapp, "/v1/users/kerry", &[("authorization", &second)]).await.refusal(), (404, 1006));
    let settings = ask(&webapp, "/v1/settings/application", &[("authorization", &second)]).await.is(200);
    assert_eq!(settings.body["settings"]["application"]["callback_persist"], json!(true));
    assert!(world.store.remove_number(number()).await.unwrap());
    eventually("the removed number is let go", || async {
        webapp.get("/v1/settings/application", &first).await.refusal() == (401, 1005)
    })
    .await;
}

#[tokio::test]
async fn without_any_number_the_service_is_not_ready() {
    let world = World::new().await;
    let webapp = world.webapp(every_number()).await;
    let got = ask(&webapp, "/v1/users/login", &[("authorization", &basic())]).await;
    assert_eq!(got.refusal(), (503, 1011));
}

fn shards(value: Value) -> Value {
    json!({ "cc": "1", "phone_number": "5550000001", "shards": value, "cert": "CmkKJQjX", "pin": "" })
}

#[tokio::test]
async fn the_shard_count_is_asked_for_and_read() {
    let world = World::new().await;
    add(&world, NUMBER, None).await;
    let webapp = world.webapp(every_number()).await;
    let admin = webapp.admin().await;
    let read = async || webapp.get("/v1/account/shards", &admin).await.is(200).body["account"]["shards"].clone();
    assert_eq!(read().await, json!(1));
    webapp.post("/v1/account/shards", &admin, shards(json!("8"))).await.is(201);
    assert_eq!(read().await, json!(8));
    webapp.post("/v1/account/shards", &admin, shards(json!(8))).await.is(201);
    let another = webapp.post("/v1/account/shards", &admin, shards(json!(4))).await;
    assert_eq!(another.refusal(), (409, 1025));
    assert!(another.body["errors"][0]["details"].as_str().unwrap().contains("0 %"), "{}", another.body);
    for (body, code) in [(shards(json!(3)), 1009), (shards(json!(64)), 1009), (shards(Value::Null), 1008), (json!({}), 1008)] {
        assert_eq!(webapp.post("/v1/account/shards", &admin, body).await.refusal(), (400, code));
    }
    let user = webapp.user(&admin, "kerry").await;
    assert_eq!(webapp.post("/v1/account/shards", &user, shards(json!(8))).await.refusal(), (403, 1005));
    let row = &world.store.numbers().await.unwrap()[0];
    assert_eq!((row.wanted, row.layout), (count(8), Layout::Stable(count(1))));
}

#[tokio::test]
async fn a_change_under_way_tells_how_far_it_is() {
    let world = World::new().await;
    add(&world, NUMBER, None).await;
    let webapp = world.webapp(every_number()).await;
    let admin = webapp.admin().await;
    let (one, two) = (count(1), count(2));
    let (store, number) = (&world.store, number());
    let parent = store.claim(number, one.shards().next().unwrap(), one, None, "a", estafet_model::BootId([1; 16]), 0, START_MS);
    let parent = parent.await.unwrap().unwrap();
    webapp.post("/v1/account/shards", &admin, shards(json!(2))).await.is(201);
    let (prepare, switch) = (Layout::Prepare { from: one, to: two }, Layout::Switch { from: one, to: two });
    assert!(store.set_layout(number, Layout::Stable(one), prepare, 0).await.unwrap());
    assert!(store.set_layout(number, prepare, switch, 0).await.unwrap());
    let claim = two.shards().map(|shard| (shard, "a".to_owned(), estafet_model::BootId([1; 16]))).collect();
    let (retire, above) = (vec![(parent.shard, parent.epoch)], parent.epoch);
    let done = Switch { number, from: one, to: two, retire, claim, above, master_term: 0, now_ms: START_MS };
    assert!(store.switch_shards(&done).await.unwrap().is_some());
    let refused = webapp.post("/v1/account/shards", &admin, shards(json!(1))).await;
    assert_eq!(refused.refusal(), (409, 1025));
    assert!(refused.body["errors"][0]["details"].as_str().unwrap().contains("switch, 100 %"), "{}", refused.body);
}

#[tokio::test]
async fn before_registration_there_is_nothing_to_shard() {
    let world = World::new().await;
    add(&world, NUMBER, None).await;
    let webapp = world.webapp(Config { registered: false, ..every_number() }).await;
    let admin = webapp.admin().await;
    assert_eq!(webapp.post("/v1/account/shards", &admin, shards(json!(2))).await.refusal(), (503, 1011));
}

//! The guard against a web server and a resolver of the test's own (S31-S34, S38).

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use estafet_media::guard::{Authorization, Error, Fetcher, Limits, Policy, Resolve};
use futures::TryStreamExt as _;
use tokio::net::TcpListener;

const LIMITS: Limits = Limits { bytes: 1000, time: Duration::from_secs(20) };
const LOOPBACK: Policy = Policy { allow_private: false, allow_loopback: true };

/// Answers of names, in turn; the last one again and again.
#[derive(Default)]
struct Names {
    answers: HashMap<&'static str, Vec<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let n = self.asked.fetch_add(1, Ordering::Relaxed);
        let answers = self.answers.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(answers[n.min(answers.len() - 1)].clone())
    }
}

fn names(entries: &[(&'static str, &[&[&str]])]) -> Arc<Names> {
    estafet_runtime::install_crypto();
    let parse = |address: &&str| address.parse().unwrap();
    let answers =
        entries.iter().map(|(name, answers)| (*name, answers.iter().map(|one| one.iter().map(parse).collect()).collect()));
    Arc::new(Names { answers: answers.collect(), asked: AtomicUsize::new(0) })
}

/// Path and `Authorization` of each request a server got.
type Seen = Arc<Mutex<Vec<(String, Option<String>)>>>;

async fn serve(redirect_to: &'static str) -> (u16, Seen) {
    let seen = Seen::default();
    let answer = move |State(seen): State<Seen>, Path(path): Path<String>, headers: HeaderMap| async move {
        let authorization = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        seen.lock().unwrap().push((path.clone(), authorization));
        match path.split_once('/').unwrap_or((path.as_str(), "")) {
            ("file", size) => vec![b'x'; size.parse().unwrap()].into_response(),
            ("chunked", size) => {
                let pieces =
                    std::iter::repeat_with(|| Ok::<_, io::Error>(vec![b'x'; 100])).take(size.parse::<usize>().unwrap() / 100);
                Body::from_stream(futures::stream::iter(pieces)).into_response()
            }
            ("hang", _) => Body::from_stream(futures::stream::pending::<io::Result<Vec<u8>>>()).into_response(),
            ("loop", _) => redirect(302, "/loop"),
            ("redirect", status) => redirect(status.parse().unwrap(), redirect_to),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    };
    let router = Router::new().route("/{*path}", get(answer)).with_state(seen.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    estafet_runtime::Tasks::new().spawn("server", async move { axum::serve(listener, router).await.unwrap() });
    (port, seen)
}

fn redirect(status: u16, to: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), [(header::LOCATION, to.to_owned())]).into_response()
}

async fn fetch(fetcher: &Fetcher, link: &str) -> Result<usize, Error> {
    let fetched = fetcher.fetch(link, None, LIMITS).await?;
    Ok(fetched.stream.try_fold(0, async |sum, piece| Ok(sum + piece.len())).await.unwrap())
}

#[tokio::test]
async fn s31_a_name_is_refused_if_any_of_its_addresses_is_private() {
    let private: &[&[&str]] = &[
        &["127.0.0.1"],
        &["10.0.0.1"],
        &["169.254.169.254"],
        &["::1"],
        &["::ffff:127.0.0.1"],
        &["64:ff9b::7f00:1"],
        &["2002:7f00:1::1"],
        &["fd00::1"],
        &["93.184.216.34", "10.0.0.1"],
        &["127.0.0.1", "93.184.216.34"],
        &[],
    ];
    let (port, seen) = serve("/").await;
    for addresses in private {
        for name in ["victim.example", "localhost."] {
            let fetcher = Fetcher::new(names(&[(name, &[*addresses])]), Policy::default()).unwrap();
            let result = fetch(&fetcher, &format!("http://{name}:{port}/file/1")).await;
            assert_eq!(result, Err(Error::Refused("the address is not public")), "{name} {addresses:?}");
        }
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn s32_the_connection_goes_to_the_address_that_was_checked() {
    // With loopback allowed the first answer is fine, the second one is not.
    let (port, seen) = serve("/").await;
    let rebinding = names(&[("rebind.example", &[&["127.0.0.1"], &["10.0.0.1"]])]);
    let fetcher = Fetcher::new(rebinding.clone(), LOOPBACK).unwrap();
    assert_eq!(fetch(&fetcher, &format!("http://rebind.example:{port}/file/7")).await, Ok(7));
    assert_eq!(rebinding.asked.load(Ordering::Relaxed), 1, "one question, whose answer was used");
    assert_eq!(seen.lock().unwrap().len(), 1);
    // Public first, private at the connection: the private one is never given to the connection.
    let rebinding = names(&[("rebind.example", &[&["10.0.0.1"], &["127.0.0.1"]])]);
    let fetcher = Fetcher::new(rebinding, LOOPBACK).unwrap();
    assert!(matches!(fetch(&fetcher, &format!("http://rebind.example:{port}/file/7")).await, Err(Error::Refused(_))));
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn s33_redirects_are_checked_like_the_first_address_and_counted() {
    let resolver = names(&[("web.example", &[&["127.0.0.1"]]), ("inside.example", &[&["10.0.0.1"]])]);
    for to in [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://inside.example/",
        "file:///etc/passwd",
        "//[fe80::1]/",
    ] {
        let (port, _) = serve(to).await;
        let fetcher = Fetcher::new(resolver.clone(), LOOPBACK).unwrap();
        for status in [301, 302, 303, 307, 308] {
            let result = fetch(&fetcher, &format!("http://web.example:{port}/redirect/{status}")).await;
            assert!(matches!(result, Err(Error::Refused(_))), "{status} to {to}: {result:?}");
        }
    }
    let (port, seen) = serve("/file/9").await;
    let fetcher = Fetcher::new(resolver, LOOPBACK).unwrap();
    assert_eq!(fetch(&fetcher, &format!("http://web.example:{port}/redirect/302")).await, Ok(9));
    assert_eq!(fetch(&fetcher, &format!("http://web.example:{port}/loop")).await, Err(Error::TooManyRedirects));
    assert_eq!(seen.lock().unwrap().iter().filter(|(path, _)| path == "loop").count(), 6);
}

#[tokio::test]
async fn s34_what_no_url_of_ours_may_have_is_refused_before_a_name_is_asked_for() {
    let resolver = names(&[]);
    let fetcher = Fetcher::new(resolver.clone(), LOOPBACK).unwrap();
    for link in [
        "ftp://web.example/",
        "file:///etc/passwd",
        "http://u:p@web.example/",
        "http://web.example:0/",
        "http://web.example:25/",
        "x",
    ] {
        assert!(matches!(fetch(&fetcher, link).await, Err(Error::Refused(_))), "{link}");
    }
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn s38_credentials_go_to_the_first_origin_only() {
    let (other, seen_there) = serve("/").await;
    let to: &'static str = Box::leak(format!("http://other.example:{other}/file/3").into_boxed_str());
    let (port, seen_here) = serve(to).await;
    let resolver = names(&[("web.example", &[&["127.0.0.1"]]), ("other.example", &[&["127.0.0.1"]])]);
    let fetcher = Fetcher::new(resolver, LOOPBACK).unwrap();
    for (authorization, header) in [
        (Authorization::Bearer("tok".to_owned()), "Bearer tok"),
        (Authorization::Basic("u".to_owned(), "p".to_owned()), "Basic dTpw"),
    ] {
        let link = format!("http://web.example:{port}/redirect/302");
        fetcher.fetch(&link, Some(&authorization), LIMITS).await.unwrap();
        let last = |seen: &Seen| seen.lock().unwrap().last().unwrap().1.clone();
        assert_eq!((last(&seen_here).as_deref(), last(&seen_there)), (Some(header), None));
    }
}

#[tokio::test]
async fn statuses_sizes_and_times_are_told() {
    let (port, _) = serve("/").await;
    let fetcher = Fetcher::new(names(&[]), LOOPBACK).unwrap();
    let link = |path: &str| format!("http://127.0.0.1:{port}/{path}");
    assert_eq!(fetch(&fetcher, &link("file/1000")).await, Ok(1000));
    assert_eq!(fetch(&fetcher, &link("nothing")).await.unwrap_err().to_string(), "404 (Not Found)");
    assert_eq!(fetch(&fetcher, &link("file/1001")).await, Err(Error::TooLarge(1000)));
    let capped = |path: &'static str, limits| {
        let (fetcher, link) = (fetcher.clone(), link(path));
        async move { fetcher.fetch(&link, None, limits).await.unwrap().stream.try_collect::<Vec<_>>().await.unwrap_err().kind() }
    };
    assert_eq!(capped("chunked/1100", LIMITS).await, io::ErrorKind::FileTooLarge);
    let soon = Limits { time: Duration::from_millis(300), ..LIMITS };
    assert_eq!(capped("hang/1", soon).await, io::ErrorKind::TimedOut);
}

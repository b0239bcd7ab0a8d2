//! Every fault over real sockets, on connections that live when it begins.

use std::num::NonZeroU64;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::PATIENCE;

/// Long enough to notice bytes that should not come; a slow machine can only miss a failure, not make one.
const A_WHILE: Duration = Duration::from_millis(100);

/// Sends everything back.
async fn echo() -> (SocketAddr, Tasks) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, tasks) = (listener.local_addr().unwrap(), Tasks::new());
    let inner = tasks.clone();
    tasks.spawn("echo", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            inner.spawn("echo", async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    (address, tasks)
}

struct World {
    proxy: Proxy,
    client: TcpStream,
    _echo: Tasks,
}

impl World {
    async fn new() -> Self {
        let (address, echo) = echo().await;
        let proxy = Proxy::start(Some(address), 7).await.unwrap();
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        let mut world = Self { proxy, client, _echo: echo };
        world.there_and_back(b"hello").await;
        world
    }

    async fn there_and_back(&mut self, text: &[u8]) {
        assert_eq!(self.answer(text).await.unwrap(), text);
    }

    async fn answer(&mut self, text: &[u8]) -> io::Result<Vec<u8>> {
        self.client.write_all(text).await?;
        self.read(text.len()).await
    }

    async fn read(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut back = vec![0; len];
        timeout(PATIENCE, self.client.read_exact(&mut back)).await.expect("an answer")?;
        Ok(back)
    }

    async fn hears_nothing(&mut self) {
        let mut byte = [0];
        assert!(timeout(A_WHILE, self.client.read(&mut byte)).await.is_err(), "something came");
    }
}

#[tokio::test]
async fn a_stopped_direction_keeps_what_was_sent_until_it_heals() {
    for faults in [
        Faults::black_hole(),
        Faults { to_client: Flow { stopped: true, ..Flow::default() }, ..Faults::default() },
        Faults { to_server: Flow { stopped: true, ..Flow::default() }, ..Faults::default() },
    ] {
        let mut world = World::new().await;
        world.proxy.set(faults).await;
        world.client.write_all(b"late").await.unwrap();
        world.hears_nothing().await;
        world.proxy.heal().await;
        assert_eq!(world.read(4).await.unwrap(), b"late");
    }
}

#[tokio::test]
async fn a_stop_of_one_direction_lets_the_other_pass() {
    let mut world = World::new().await;
    let before = world.proxy.counts().bytes;
    world.proxy.set(Faults { to_client: Flow { stopped: true, ..Flow::default() }, ..Faults::default() }).await;
    world.client.write_all(b"0123456789").await.unwrap();
    let arrived = crate::client::until("the bytes reach the server", async || Ok(world.proxy.counts().bytes == before + 10));
    arrived.await.unwrap();
    world.hears_nothing().await;
}

#[tokio::test]
async fn dials_into_a_black_hole_are_accepted_and_hear_nothing() {
    let mut world = World::new().await;
    world.proxy.set(Faults::black_hole()).await;
    world.client = TcpStream::connect(world.proxy.address()).await.unwrap();
    world.client.write_all(b"hello?").await.unwrap();
    world.hears_nothing().await;
    world.proxy.heal().await;
    assert_eq!(world.read(6).await.unwrap(), b"hello?");
}

#[tokio::test]
async fn dials_in_a_partition_get_no_answer_until_it_heals() {
    let mut world = World::new().await;
    world.proxy.set(Faults::partition()).await;
    let dial = TcpStream::connect(world.proxy.address());
    tokio::pin!(dial);
    assert!(timeout(A_WHILE, &mut dial).await.is_err(), "the dial was answered");
    world.proxy.heal().await;
    // The kernel repeats the dial after a second.
    world.client = timeout(PATIENCE, dial).await.expect("an answer to the dial").unwrap();
    world.there_and_back(b"again").await;
}

#[tokio::test]
async fn refused_dials_are_refused_and_live_connections_go_on() {
    let mut world = World::new().await;
    let refused = Faults { connects: Connects::Refused, ..Faults::default() };
    world.proxy.set(refused).await;
    let error = TcpStream::connect(world.proxy.address()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    world.there_and_back(b"still here").await;
    world.proxy.heal().await;
    world.client = TcpStream::connect(world.proxy.address()).await.unwrap();
    world.there_and_back(b"again").await;
}

#[tokio::test]
async fn a_cut_is_a_reset_or_an_orderly_end_as_asked() {
    for (end, kind) in [(End::Reset, Some(io::ErrorKind::ConnectionReset)), (End::Close, None)] {
        let mut world = World::new().await;
        world.proxy.cut(end);
        let read = timeout(PATIENCE, world.client.read(&mut [0])).await.expect("an end");
        assert_eq!(read.as_ref().err().map(io::Error::kind), kind);
        assert_eq!(read.unwrap_or_default(), 0);
        world.client = TcpStream::connect(world.proxy.address()).await.unwrap();
        world.there_and_back(b"again").await;
    }
}

#[tokio::test]
async fn a_connection_ends_after_exactly_so_many_bytes() {
    let mut world = World::new().await;
    let ending = Flow { end_after: Some((6, End::Close)), ..Flow::default() };
    world.proxy.set(Faults { to_client: ending, ..Faults::default() }).await;
    world.client.write_all(b"0123456789").await.unwrap();
    let mut all = Vec::new();
    timeout(PATIENCE, world.client.read_to_end(&mut all)).await.expect("an end").unwrap();
    assert_eq!(all, b"012345");
}

#[tokio::test]
async fn flips_change_bits_and_nothing_else() {
    let mut world = World::new().await;
    let flips = Flow { flip_one_in: NonZeroU64::new(50), ..Flow::default() };
    world.proxy.set(Faults { to_client: flips, ..Faults::default() }).await;
    let sent = vec![0x55; 10_000];
    let back = world.answer(&sent).await.unwrap();
    let flipped: u32 = back.iter().zip(&sent).map(|(back, sent)| (back ^ sent).count_ones()).sum();
    assert_eq!(u64::from(flipped), world.proxy.counts().flipped);
    assert!((100..400).contains(&flipped), "{flipped} bits of 10,000 bytes");
    world.proxy.heal().await;
    world.there_and_back(b"whole again").await;
}

#[tokio::test]
async fn late_bytes_are_late_and_in_order() {
    let mut world = World::new().await;
    let (latency, began) = (Duration::from_millis(30), tokio::time::Instant::now());
    world.proxy.set(Faults::delay(latency, Duration::from_millis(10))).await;
    for _ in 0..5 {
        world.client.write_all(b"0123456789").await.unwrap();
    }
    assert_eq!(world.read(50).await.unwrap(), b"0123456789".repeat(5));
    assert!(began.elapsed() >= 2 * latency, "earlier than both ways take");
}

#[tokio::test]
async fn a_narrow_link_takes_its_time() {
    let mut world = World::new().await;
    let narrow = Flow { bytes_per_second: NonZeroU64::new(20_000), ..Flow::default() };
    world.proxy.set(Faults { to_server: narrow, ..Faults::default() }).await;
    let began = tokio::time::Instant::now();
    world.there_and_back(&[1; 6_000]).await;
    // The first tenth of a second's bytes are free.
    assert!(began.elapsed() >= Duration::from_millis(180), "faster than the link");
}

#[tokio::test]
async fn before_it_is_aimed_dials_wait_and_a_new_aim_is_for_new_connections() {
    let (first, _first) = echo().await;
    let proxy = Proxy::start(None, 1).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(b"one").await.unwrap();
    proxy.aim(first);
    let mut back = [0; 3];
    timeout(PATIENCE, client.read_exact(&mut back)).await.expect("an answer").unwrap();
    // Nobody listens there: a connection that is made ends at once.
    let nowhere = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    proxy.aim(nowhere);
    let mut other = TcpStream::connect(proxy.address()).await.unwrap();
    let read = timeout(PATIENCE, other.read(&mut back)).await.expect("an end");
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    client.write_all(b"two").await.unwrap();
    timeout(PATIENCE, client.read_exact(&mut back)).await.expect("an answer").unwrap();
    assert_eq!(&back, b"two");
}

#[tokio::test]
async fn an_orderly_end_of_one_side_reaches_the_other_with_everything_before_it() {
    let mut world = World::new().await;
    world.client.write_all(b"last words").await.unwrap();
    world.client.shutdown().await.unwrap();
    let mut all = Vec::new();
    timeout(PATIENCE, world.client.read_to_end(&mut all)).await.expect("an end").unwrap();
    assert_eq!(all, b"last words");
}

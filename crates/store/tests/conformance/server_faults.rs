//! What PostgreSQL alone can do to us: other sessions' locks, ended sessions, many processes.

use std::time::Duration;

use estafet_model::{Shard, ShardCount};
use estafet_store::{Error, Holder, SharedStore};
use futures::future::join_all;
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

use crate::{given::*, postgres_server::PostgresServer};

const PROCESS: &str = "coreapp/core-1/0101";

async fn store(url: &str) -> SharedStore {
    let store = estafet_store::open(url, PROCESS).await.unwrap();
    store.migrate().await.unwrap();
    store
}

/// A session beside the store's.
async fn stranger(server: &PostgresServer, database: &str) -> PgConnection {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(server.port())
        .username("wa")
        .database(database)
        .connect()
        .await
        .unwrap()
}

async fn run(connection: &mut PgConnection, sql: &'static str) {
    sqlx::query(sql).execute(connection).await.unwrap();
}

/// `FOR SHARE` in the fence conflicts with the update of a claim (I2).
pub(crate) async fn a_takeover_does_not_overtake_a_commit_in_progress(server: &PostgresServer) {
    let store = store(&server.create_database("takeover")).await;
    let old = owner(&*store).await;
    let mut paused = stranger(server, "takeover").await;
    run(&mut paused, "BEGIN").await;
    run(&mut paused, "SELECT estafet.fence(15550000001, 0, 1, 1)").await;

    let claim = || store.claim(number(), Shard::ZERO, ShardCount::ONE, Some(old.epoch), "core-2", boot(2), 1, NOW);
    match claim().await {
        Err(error @ Error::Unavailable(_)) => assert!(error.is_retryable()),
        other => panic!("the claim overtook a commit in progress: {other:?}"),
    }
    store.commit(&old, &messages([message((1, 1), 1)])).await.expect("commits of the same owner do not wait for each other");
    run(&mut paused, "COMMIT").await;
    let new = claim().await.unwrap().expect("nothing holds the row any more");
    assert!(matches!(store.commit(&old, &messages([message((1, 2), 2)])).await, Err(Error::Fenced { .. })));
    store.commit(&new, &messages([message((1, 3), 3)])).await.unwrap();
}

/// Among shards that are claimed together one may be held up: the others are not.
pub(crate) async fn a_shard_that_is_held_up_holds_up_no_other(server: &PostgresServer) {
    let store = store(&server.create_database("held_up")).await;
    let (held, free) = (owner(&*store).await, claim(&*store, other_number(), None).await.unwrap());
    let mut paused = stranger(server, "held_up").await;
    run(&mut paused, "BEGIN").await;
    run(&mut paused, "SELECT estafet.fence(15550000001, 0, 1, 1)").await;
    let mut outcomes = store.claim_all(&[next(&held), next(&free)]).await;
    assert!(matches!(outcomes.pop(), Some(Ok(Some(fence))) if fence.number == other_number()));
    assert!(matches!(outcomes.pop(), Some(Err(Error::Unavailable(_)))));
    run(&mut paused, "COMMIT").await;
    let outcomes = store.claim_all(&[next(&held), next(&free)]).await;
    assert!(matches!(outcomes[..], [Ok(Some(_)), Ok(None)]), "{outcomes:?}");
}

/// One commit, and what single claims would have written.
pub(crate) async fn shards_claimed_together_are_one_transaction(server: &PostgresServer) {
    let store = store(&server.create_database("together")).await;
    let held = owners(&*store, 4).await;
    store.claim_all(&held.iter().map(next).collect::<Vec<_>>()).await;
    let mut stranger = stranger(server, "together").await;
    let written: Vec<(i32, i64, String, Vec<u8>, i64, String)> = sqlx::query_as(
        "SELECT o.shard, a.epoch, a.owner_id, a.owner_boot, a.at, o.xmin::text FROM estafet.shard_owner o JOIN estafet.epoch_audit a
           USING (number, shard_count, shard, epoch, owner_id, owner_boot)
         WHERE o.state = 'claimed' AND o.updated_at = a.at AND o.master_term = 1 ORDER BY o.shard",
    )
    .fetch_all(&mut stranger)
    .await
    .unwrap();
    let transaction = &written[0].5;
    let expected: Vec<_> =
        (0..4).map(|shard| (shard, 2, "core-2".to_owned(), boot(2).0.to_vec(), NOW, transaction.clone())).collect();
    assert_eq!(written, expected);
}

/// A paused owner inside a transaction holds its row; its sessions are ended, and nobody else's (F4).
pub(crate) async fn a_takeover_ends_the_sessions_of_a_paused_owner(server: &PostgresServer) {
    let store = store(&server.create_database("paused_owner")).await;
    let old = owner(&*store).await;
    let mut bystander = stranger(server, "paused_owner").await;
    let mut paused = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(server.port())
        .username("wa")
        .database("paused_owner")
        .application_name(&estafet_store::session_name("core-1", boot(1)))
        .connect()
        .await
        .unwrap();
    run(&mut paused, "BEGIN").await;
    run(&mut paused, "SELECT estafet.fence(15550000001, 0, 1, 1)").await;
    let claimed = store.claim(number(), Shard::ZERO, ShardCount::ONE, Some(old.epoch), "core-2", boot(2), 1, NOW).await;
    assert_eq!(claimed.unwrap().map(|fence| fence.epoch), Some(old.epoch.next()));
    assert!(sqlx::query("COMMIT").execute(&mut paused).await.is_err(), "the session of the paused owner is gone");
    run(&mut bystander, "SELECT 1").await;
}

pub(crate) async fn ended_sessions_are_replaced(server: &PostgresServer) {
    let store = store(&server.create_database("ended_sessions")).await;
    let fence = owner(&*store).await;
    let mut stranger = stranger(server, "ended_sessions").await;
    for round in 1..=5 {
        let warm = join_all((0..4).map(|_| store.owners())).await;
        assert!(warm.iter().all(Result::is_ok));
        run(
            &mut stranger,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'coreapp/core-1/0101' AND datname = 'ended_sessions'",
        )
        .await;
        let batch = messages([message((1, round), round as u64)]);
        // Each session of the two pools may fail one call; the same batch is simply sent again (I9).
        let mut committed = store.commit(&fence, &batch).await;
        for _ in 0..2 {
            if let Err(error) = &committed {
                assert!(matches!(error, Error::Unavailable(_)), "{error}");
                committed = store.commit(&fence, &batch).await;
            }
        }
        committed.unwrap();
        let mut read = store.outbox(number(), &[(slot(1), seq(0))], 10).await;
        for _ in 0..4 {
            if let Err(error) = &read {
                assert!(matches!(error, Error::Unavailable(_)), "{error}");
                read = store.outbox(number(), &[(slot(1), seq(0))], 10).await;
            }
        }
        assert_eq!(read.unwrap().len(), round as usize);
    }
    assert_eq!(open_transactions(&mut stranger).await, 0);
}

async fn open_transactions(stranger: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
        .fetch_one(stranger)
        .await
        .unwrap()
}

pub(crate) async fn a_hold_ends_with_its_session(server: &PostgresServer) {
    let store = store(&server.create_database("hold")).await;
    let holder = |node: &str| Holder { node: node.to_owned(), host: "box".to_owned(), pid: 42, since_ms: NOW, base_url: None };
    let held = store.hold(number(), &holder("first")).await.unwrap();
    let mut stranger = stranger(server, "hold").await;
    run(&mut stranger, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = 'hold')").await;
    let noticed = async {
        while held.is_held() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), noticed).await.expect("the holder notices");
    assert!(store.hold(number(), &holder("second")).await.unwrap().is_held());
}

/// A stranger's lock is a passing failure, and a caller that gives up leaves no transaction open.
pub(crate) async fn a_locked_table_is_not_waited_for(server: &PostgresServer) {
    let store = store(&server.create_database("locked")).await;
    let fence = owner(&*store).await;
    let mut stranger = stranger(server, "locked").await;
    let mut lock = stranger.begin().await.unwrap();
    run(&mut lock, "LOCK TABLE estafet.message_out").await;
    let batch = messages([message((1, 1), 1)]);
    assert!(matches!(store.commit(&fence, &batch).await, Err(Error::Unavailable(_))));
    let given_up = tokio::time::timeout(Duration::from_millis(20), store.commit(&fence, &batch)).await;
    assert!(given_up.is_err(), "still locked");
    lock.rollback().await.unwrap();
    store.commit(&fence, &batch).await.unwrap();
    assert_eq!(store.backlog(number(), fence.slots()).await.unwrap(), (0, 1));
    assert_eq!(open_transactions(&mut stranger).await, 0);
}

pub(crate) async fn migrations_run_once_from_many_processes(server: &PostgresServer) {
    let url = server.create_database("migrations");
    let stores = join_all((0..4).map(|_| estafet_store::open(&url, PROCESS))).await;
    let stores: Vec<SharedStore> = stores.into_iter().map(Result::unwrap).collect();
    for migrated in join_all(stores.iter().map(|store| store.migrate())).await {
        migrated.unwrap();
    }
    let mut stranger = stranger(server, "migrations").await;
    let outside: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetch_one(&mut stranger).await.unwrap();
    assert_eq!(outside, 0, "everything is in the schema estafet");
}

//! What MySQL and MariaDB can do to us: other sessions' locks, ended sessions, migrations cut short.

use std::{sync::mpsc::sync_channel, time::Duration};

use estafet_model::{Shard, ShardCount};
use estafet_store::{Claim, Error, Holder, SharedStore};
use futures::future::join_all;
use sqlx::{ConnectOptions, Executor, MySqlConnection, mysql::MySqlConnectOptions};
use tokio::sync::oneshot;

use crate::{given::*, mysql_server::MySqlServer};

const FEW: Duration = Duration::from_secs(10);

async fn store(url: &str) -> SharedStore {
    let store = estafet_store::open(url, "conformance").await.unwrap();
    store.migrate().await.unwrap();
    store
}

/// A session beside the store's.
async fn stranger(server: &MySqlServer, database: &str) -> MySqlConnection {
    MySqlConnectOptions::new().socket(server.socket()).username("root").database(database).connect().await.unwrap()
}

async fn run(connection: &mut MySqlConnection, sql: &'static str) {
    connection.execute(sql).await.unwrap();
}

/// Ends all sessions of the database but this one.
async fn end_sessions(stranger: &mut MySqlConnection) {
    let sql = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()";
    let ids: Vec<i64> = sqlx::query_scalar(sql).fetch_all(&mut *stranger).await.unwrap();
    for id in ids {
        // It may have ended by itself.
        let _ = sqlx::query("KILL ?").bind(id).execute(&mut *stranger).await;
    }
}

/// The share lock of the fence conflicts with the update of a claim (I2).
pub(crate) async fn a_takeover_does_not_overtake_a_commit_in_progress(server: &MySqlServer) {
    let store = store(&server.create_database("takeover")).await;
    let old = owner(&*store).await;
    let mut paused = stranger(server, "takeover").await;
    run(&mut paused, "BEGIN").await;
    run(
        &mut paused,
        "SELECT epoch FROM shard_owner WHERE number = 15550000001 AND shard_count = 1 AND shard = 0 LOCK IN SHARE MODE",
    )
    .await;

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
pub(crate) async fn a_shard_that_is_held_up_holds_up_no_other(server: &MySqlServer) {
    let store = store(&server.create_database("held_up")).await;
    let held = owners(&*store, 4).await;
    let claims: Vec<Claim<'_>> = held.iter().map(next).collect();
    let mut paused = stranger(server, "held_up").await;
    run(&mut paused, "BEGIN").await;
    run(
        &mut paused,
        "SELECT epoch FROM shard_owner WHERE number = 15550000001 AND shard_count = 4 AND shard = 1 LOCK IN SHARE MODE",
    )
    .await;
    let commits = commits(&mut paused).await;
    let outcomes = store.claim_all(&claims).await;
    assert!(matches!(outcomes[..], [Ok(Some(_)), Err(Error::Unavailable(_)), Ok(Some(_)), Ok(Some(_))]), "{outcomes:?}");
    assert_eq!(self::commits(&mut paused).await, commits + 1, "those that are free are one transaction");
    run(&mut paused, "COMMIT").await;
    let outcomes = store.claim_all(&claims).await;
    assert!(matches!(outcomes[..], [Ok(None), Ok(Some(_)), Ok(None), Ok(None)]), "{outcomes:?}");
}

/// How often any session has ended a transaction with COMMIT.
async fn commits(stranger: &mut MySqlConnection) -> i64 {
    let sql = "SHOW GLOBAL STATUS LIKE 'Com_commit'";
    let (_, count): (String, String) = sqlx::query_as(sql).fetch_one(stranger).await.unwrap();
    count.parse().unwrap()
}

/// One commit, and what single claims would have written.
pub(crate) async fn shards_claimed_together_are_one_transaction(server: &MySqlServer) {
    let store = store(&server.create_database("together")).await;
    let held = owners(&*store, 4).await;
    let mut stranger = stranger(server, "together").await;
    let before = commits(&mut stranger).await;
    store.claim_all(&held.iter().map(next).collect::<Vec<_>>()).await;
    assert_eq!(commits(&mut stranger).await, before + 1);
    let written: Vec<(i32, i64, String, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT o.shard, a.epoch, a.owner_id, a.owner_boot, a.at FROM shard_owner o JOIN epoch_audit a
           USING (number, shard_count, shard, epoch, owner_id, owner_boot)
         WHERE o.state = 'claimed' AND o.updated_at = a.at AND o.master_term = 1 ORDER BY o.shard",
    )
    .fetch_all(&mut stranger)
    .await
    .unwrap();
    let expected: Vec<_> = (0..4).map(|shard| (shard, 2, "core-2".to_owned(), boot(2).0.to_vec(), NOW)).collect();
    assert_eq!(written, expected);
}

/// A paused owner inside a transaction holds its row; its sessions are ended, and nobody else's (F4).
pub(crate) async fn a_takeover_ends_the_sessions_of_a_paused_owner(server: &MySqlServer) {
    let url = server.create_database("paused_owner");
    let owners = estafet_store::open(&url, &estafet_store::session_name("core-1", boot(1))).await.unwrap();
    owners.migrate().await.unwrap();
    let old = owner(&*owners).await;
    owners.commit(&old, &messages([message((1, 1), 1)])).await.unwrap();
    let mut paused = stranger(server, "paused_owner").await;
    // Beside the sessions of the owner's store, which have announced themselves.
    let lock = estafet_store::mysql::session_lock(&estafet_store::session_name("core-1", boot(1)), 7);
    sqlx::query("SELECT GET_LOCK(?, 0)").bind(lock).execute(&mut paused).await.unwrap();
    run(&mut paused, "BEGIN").await;
    run(
        &mut paused,
        "SELECT epoch FROM shard_owner WHERE number = 15550000001 AND shard_count = 1 AND shard = 0 LOCK IN SHARE MODE",
    )
    .await;
    let mut bystander = stranger(server, "paused_owner").await;
    let announced: Option<i64> = sqlx::query_scalar("SELECT CAST(IS_USED_LOCK(?) AS SIGNED)")
        .bind(estafet_store::mysql::session_lock(&estafet_store::session_name("core-1", boot(1)), 0))
        .fetch_one(&mut bystander)
        .await
        .unwrap();
    assert!(announced.is_some(), "a session that writes is found by the name of its process");
    let claimed =
        store(&url).await.claim(number(), Shard::ZERO, ShardCount::ONE, Some(old.epoch), "core-2", boot(2), 1, NOW).await;
    assert_eq!(claimed.unwrap().map(|fence| fence.epoch), Some(old.epoch.next()));
    assert!(paused.execute("COMMIT").await.is_err(), "the session of the paused owner is gone");
    run(&mut bystander, "SELECT 1").await;
}

pub(crate) async fn ended_sessions_are_replaced(server: &MySqlServer) {
    let store = store(&server.create_database("ended_sessions")).await;
    let fence = owner(&*store).await;
    let mut stranger = stranger(server, "ended_sessions").await;
    for round in 1..=5 {
        let warm = join_all((0..4).map(|_| store.owners())).await;
        assert!(warm.iter().all(Result::is_ok));
        end_sessions(&mut stranger).await;
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
    no_transaction_stays_open(&mut stranger).await;
}

/// The server notices a moment later that a session is closed.
async fn no_transaction_stays_open(stranger: &mut MySqlConnection) {
    let none_open = async {
        let sql = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id <> CONNECTION_ID()";
        while sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *stranger).await.unwrap() > 0 {}
    };
    tokio::time::timeout(FEW, none_open).await.expect("no transaction stays open");
}

pub(crate) async fn a_hold_ends_with_its_session(server: &MySqlServer) {
    let store = store(&server.create_database("hold")).await;
    let holder = |node: &str| Holder { node: node.to_owned(), host: "box".to_owned(), pid: 42, since_ms: NOW, base_url: None };
    let held = store.hold(number(), &holder("first")).await.unwrap();
    end_sessions(&mut stranger(server, "hold").await).await;
    let noticed = async {
        while held.is_held() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(FEW, noticed).await.expect("the holder notices");
    assert!(store.hold(number(), &holder("second")).await.unwrap().is_held());
}

pub(crate) async fn a_hold_is_of_one_database(server: &MySqlServer) {
    let (one, other) = (store(&server.create_database("hold_one")).await, store(&server.create_database("hold_other")).await);
    let holder = Holder { node: "core-1".to_owned(), host: "box".to_owned(), pid: 42, since_ms: NOW, base_url: None };
    let held = (one.hold(number(), &holder).await.unwrap(), other.hold(number(), &holder).await.unwrap());
    assert!(held.0.is_held() && held.1.is_held());
}

/// A stranger's lock is a passing failure, and a caller that gives up leaves no transaction open.
pub(crate) async fn a_locked_table_is_not_waited_for(server: &MySqlServer) {
    let store = store(&server.create_database("locked")).await;
    let fence = owner(&*store).await;
    let mut stranger = stranger(server, "locked").await;
    run(&mut stranger, "LOCK TABLES message_out WRITE").await;
    let batch = messages([message((1, 1), 1)]);
    match store.commit(&fence, &batch).await {
        Err(Error::Unavailable(_)) => {}
        other => panic!("{other:?}"),
    }
    let given_up = tokio::time::timeout(Duration::from_millis(20), store.commit(&fence, &batch)).await;
    assert!(given_up.is_err(), "still locked");
    run(&mut stranger, "UNLOCK TABLES").await;
    store.commit(&fence, &batch).await.unwrap();
    assert_eq!(store.backlog(number(), fence.slots()).await.unwrap(), (0, 1));
    no_transaction_stays_open(&mut stranger).await;
}

/// Its process stops between two statements of a commit and wakes up after the takeover (R9).
pub(crate) async fn a_paused_owner_does_not_keep_its_row(server: &MySqlServer) {
    let url = server.create_database("paused");
    let store = store(&url).await;
    let old = owner(&*store).await;
    let mut stranger = stranger(server, "paused").await;
    run(&mut stranger, "LOCK TABLES message_out WRITE").await;
    let (pause, paused) = oneshot::channel();
    let (asleep, sleeping) = sync_channel(1);
    let (wake, awake) = sync_channel(1);
    let owner = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = estafet_store::open(&url, "conformance").await.unwrap();
            let pause = async {
                paused.await.unwrap();
                asleep.send(()).unwrap();
                awake.recv().unwrap();
            };
            let batch = messages([message((1, 1), 1)]);
            futures::join!(store.commit(&old, &batch), pause).0
        })
    });
    let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND state LIKE 'Waiting for table%'";
    while sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut stranger).await.unwrap() == 0 {}
    pause.send(()).unwrap();
    sleeping.recv().unwrap();
    run(&mut stranger, "UNLOCK TABLES").await;

    let taken = async {
        loop {
            match store.claim(number(), Shard::ZERO, ShardCount::ONE, Some(old.epoch), "core-2", boot(2), 1, NOW).await {
                Err(Error::Unavailable(_)) => {}
                other => break other.unwrap().unwrap(),
            }
        }
    };
    let new = tokio::time::timeout(FEW, taken).await.expect("the server ends the session of the paused owner");
    wake.send(()).unwrap();
    owner.join().unwrap().expect_err("its commit did not take place");
    assert_eq!(store.backlog(number(), new.slots()).await.unwrap(), (0, 0));
}

pub(crate) async fn migrations_run_once_from_many_processes(server: &MySqlServer) {
    let url = server.create_database("migrations");
    let stores = join_all((0..4).map(|_| estafet_store::open(&url, "conformance"))).await;
    let stores: Vec<SharedStore> = stores.into_iter().map(Result::unwrap).collect();
    for migrated in join_all(stores.iter().map(|store| store.migrate())).await {
        migrated.unwrap();
    }
}

pub(crate) async fn a_migration_cut_short_is_run_again(server: &MySqlServer) {
    let store = store(&server.create_database("cut_short")).await;
    let fence = owner(&*store).await;
    let mut stranger = stranger(server, "cut_short").await;
    run(&mut stranger, "UPDATE _sqlx_migrations SET success = FALSE; DROP TABLE contact, change_counter").await;
    store.migrate().await.unwrap();
    assert!(store.contacts(number(), &[recipient(1)]).await.unwrap().is_empty());
    store.commit(&fence, &messages([message((1, 1), 1)])).await.expect("what was there is there");
}

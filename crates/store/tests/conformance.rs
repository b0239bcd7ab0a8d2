//! One body of checks, run against every back end. Each check gets a database of its own.
//!
//! `checks!` lists them; the bodies are in `conformance/`. A PostgreSQL or MariaDB server is started once
//! for the test function that needs it.

#[path = "conformance/garbage.rs"]
mod garbage;
#[path = "conformance/given.rs"]
mod given;
#[path = "conformance/letters.rs"]
mod letters;
#[path = "conformance/media.rs"]
mod media;
#[path = "conformance/mysql_faults.rs"]
mod mysql_faults;
#[path = "conformance/mysql_server.rs"]
mod mysql_server;
#[path = "conformance/numbers.rs"]
mod numbers;
#[path = "conformance/ownership.rs"]
mod ownership;
#[path = "conformance/postgres_server.rs"]
mod postgres_server;
#[path = "conformance/records.rs"]
mod records;
#[path = "conformance/roles.rs"]
mod roles;
#[path = "conformance/server_faults.rs"]
mod server_faults;

use std::sync::Arc;

use estafet_store::{Error, Holder, SharedStore, SqliteStore, Store};

/// Runs `$run!(check)` for each check of the suite.
macro_rules! checks {
    ($run:ident) => {
        $run! {
            ownership: a_claim_raises_the_epoch, a_warm_up_changes_nothing, two_claims_of_the_same_epoch_have_one_winner, many_shards_are_claimed_each_for_its_own_node,
                a_stale_claim_among_others_is_refused_alone, claims_together_under_an_older_term_take_nothing,
                each_shard_of_two_claims_of_many_has_one_winner, an_older_master_term_claims_nothing, a_term_that_is_made_known_refuses_older_ones, a_fenced_commit_writes_nothing, a_shard_without_owner_takes_no_commit,
                a_number_is_held_once;
            numbers: numbers_are_added_listed_and_removed, one_change_of_the_shard_count_at_a_time,
                a_split_fences_the_parent_and_its_halves_number_above_it, a_retired_shard_is_never_claimed,
                a_merge_goes_above_both_halves_and_back_again, a_former_leader_changes_no_layout_and_switches_no_shards,
                a_layout_and_a_switch_make_their_term_known;
            records: a_message_comes_back_as_it_was_written, messages_stored_before_are_reported,
                a_position_taken_by_another_message_is_an_error, a_repeated_batch_is_harmless,
                the_outbox_is_ordered_and_leaves_out_what_is_settled, the_outbox_cursor_only_moves_up,
                statuses_are_replaced, times_of_a_message_stay_as_they_were_noted_first, the_same_row_twice_in_a_batch_takes_the_last, events_wait_until_done,
                dead_letters_leave_the_queue, sessions_come_back_as_written, incoming_messages_are_stored_once,
                a_key_stands_for_its_message_and_old_ones_go, what_there_is_is_counted, forgotten_messages_are_gone, a_large_batch_is_written_whole, numbers_do_not_see_each_other;
            garbage: states_are_gone_through_page_by_page, incoming_messages_are_gone_through_and_removed_by_id, tables_have_sizes;
            letters: callbacks_are_listed_by_page_time_and_contact, a_dead_letter_is_requeued_once_as_a_new_event,
                dropped_dead_letters_are_gone_and_others_stay, a_delivered_callback_is_kept_and_replayed_as_a_new_event,
                a_callback_given_up_again_keeps_what_it_was_at_first, delivered_callbacks_are_forgotten_by_age_the_oldest_first,
                each_receiver_has_a_queue_of_its_own, what_is_stored_for_removed_receivers_is_dropped_and_nothing_else;
            roles: a_secret_is_the_same_for_all_callers, tags_differ, users_are_added_changed_and_removed, names_are_compared_byte_by_byte,
                a_revoked_token_is_kept_until_it_expires, settings_are_compared_before_they_are_set, contact_checks_are_replaced;
            media: a_file_is_stored_once_and_comes_back, what_was_not_used_for_long_is_removed_oldest_first, providers_are_replaced_by_name;
        }
    };
}

mod sqlite {
    use super::*;

    async fn with_store<F: Future<Output = ()>>(check: impl FnOnce(SharedStore) -> F) {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("estafet.db")).await.unwrap();
        store.migrate().await.unwrap();
        check(Arc::new(store)).await;
    }

    macro_rules! tests {
        ($($module:ident: $($check:ident),*;)*) => {
            $($(
                #[tokio::test]
                async fn $check() {
                    with_store($module::$check).await;
                }
            )*)*
        };
    }
    checks!(tests);

    #[tokio::test]
    async fn a_second_opener_of_the_file_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("estafet.db");
        let (first, second) = (SqliteStore::open(&path).await.unwrap(), SqliteStore::open(&path).await.unwrap());
        let holder = |node: &str| Holder { node: node.to_owned(), host: "box".to_owned(), pid: 42, since_ms: 0, base_url: None };
        let held = first.hold(given::number(), &holder("first")).await.unwrap();
        let also = first.hold(given::other_number(), &holder("first")).await.unwrap();
        for number in [given::number(), given::other_number()] {
            match second.hold(number, &holder("second")).await {
                Err(Error::Held { holder, .. }) => assert_eq!(holder.unwrap().to_string(), "first (process 42 on box)"),
                _ => panic!("held twice"),
            }
        }
        drop((held, also));
        assert!(second.hold(given::number(), &holder("second")).await.unwrap().is_held());
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("estafet.db").display());
        let store = estafet_store::open(&url, "conformance").await.unwrap();
        store.migrate().await.unwrap();
        let fence = given::owner(&*store).await;
        store.commit(&fence, &given::messages([given::message((1, 1), 1)])).await.unwrap();
        drop(store);
        let store = estafet_store::open(&url, "conformance").await.unwrap();
        store.migrate().await.unwrap();
        assert_eq!(store.backlog(given::number(), fence.slots()).await.unwrap(), (0, 1));
    }

    #[tokio::test]
    async fn a_database_in_memory_works_like_a_file() {
        let store = SqliteStore::memory().await.unwrap();
        store.migrate().await.unwrap();
        records::a_repeated_batch_is_harmless(Arc::new(store)).await;
    }
}

/// All in one function: each test function has a process of its own, and with it a server.
mod postgres {
    use super::*;
    use crate::postgres_server::PostgresServer;

    macro_rules! tests {
        ($($module:ident: $($check:ident),*;)*) => {
            #[tokio::test]
            async fn every_check_holds() {
                let server = PostgresServer::start();
                $($({
                    println!("{}", stringify!($check));
                    let store = estafet_store::open(&server.create_database(stringify!($check)), "conformance").await.unwrap();
                    store.migrate().await.unwrap();
                    store.migrate().await.unwrap();
                    $module::$check(store).await;
                })*)*
            }
        };
    }
    checks!(tests);

    #[tokio::test]
    async fn connections_are_encrypted_and_checked_as_the_url_says() {
        let directory = tempfile::tempdir().unwrap();
        let issue = |name: &str| {
            let now = estafet_runtime::Clock::system().now_ms();
            let authority = estafet_tls::issue::Authority::open(&directory.path().join(name), "test", now).unwrap();
            let hosts = ["127.0.0.1".to_owned()];
            authority.issue_for_hosts("database", &hosts, now, std::time::Duration::from_secs(3600)).unwrap()
        };
        let (ours, other) = (issue("ours"), issue("other"));
        let server = PostgresServer::start_encrypted(&ours);
        let url = server.create_database("encrypted");
        let elsewhere = url.replace("127.0.0.1", "localhost");
        let root = format!("sslrootcert={}", ours.ca.display());
        let other = format!("sslrootcert={}", other.ca.display());
        let works = async |url: &str, parameters: &str| {
            let store = estafet_store::open(&format!("{url}?{parameters}"), "conformance").await?;
            store.migrate().await
        };
        for fine in ["", "sslmode=prefer", "sslmode=require", &format!("sslmode=require&{root}")] {
            works(&url, fine).await.unwrap_or_else(|error| panic!("{fine}: {error}"));
        }
        works(&url, &format!("sslmode=verify-ca&{root}")).await.unwrap();
        works(&elsewhere, &format!("sslmode=verify-ca&{root}")).await.unwrap();
        works(&url, &format!("sslmode=verify-full&{root}")).await.unwrap();
        works(&elsewhere, &format!("sslmode=verify-full&{root}")).await.expect_err("another name");
        works(&url, "sslmode=disable").await.expect_err("the server asks for encryption");
        works(&url, &format!("sslmode=require&{other}")).await.expect_err("another authority");
        works(&url, &format!("sslmode=verify-ca&{other}")).await.expect_err("another authority");
        works(&url, "sslmode=verify-full").await.expect_err("no public authority");
        works(&url, "sslmode=verify-full&sslrootcert=/absent.pem").await.expect_err("no file");
    }

    #[tokio::test]
    async fn encryption_that_the_server_does_not_have_is_not_given_up() {
        let server = PostgresServer::start();
        let url = format!("{}?sslmode=require", server.create_database("plain"));
        assert!(estafet_store::open(&url, "conformance").await.is_err());
    }

    #[tokio::test]
    async fn faults_of_the_server_pass() {
        let server = PostgresServer::start();
        server_faults::a_takeover_does_not_overtake_a_commit_in_progress(&server).await;
        server_faults::a_shard_that_is_held_up_holds_up_no_other(&server).await;
        server_faults::shards_claimed_together_are_one_transaction(&server).await;
        server_faults::a_takeover_ends_the_sessions_of_a_paused_owner(&server).await;
        server_faults::ended_sessions_are_replaced(&server).await;
        server_faults::a_hold_ends_with_its_session(&server).await;
        server_faults::a_locked_table_is_not_waited_for(&server).await;
        server_faults::migrations_run_once_from_many_processes(&server).await;
    }
}

/// Like PostgreSQL, on MariaDB.
mod mysql {
    use super::*;
    use crate::mysql_server::MySqlServer;

    macro_rules! tests {
        ($($module:ident: $($check:ident),*;)*) => {
            #[tokio::test]
            async fn every_check_holds() {
                let server = MySqlServer::start();
                $($({
                    println!("{}", stringify!($check));
                    let store = estafet_store::open(&server.create_database(stringify!($check)), "conformance").await.unwrap();
                    store.migrate().await.unwrap();
                    store.migrate().await.unwrap();
                    $module::$check(store).await;
                })*)*
            }
        };
    }
    checks!(tests);

    #[tokio::test]
    async fn faults_of_the_server_pass() {
        let server = MySqlServer::start();
        mysql_faults::a_takeover_does_not_overtake_a_commit_in_progress(&server).await;
        mysql_faults::a_shard_that_is_held_up_holds_up_no_other(&server).await;
        mysql_faults::shards_claimed_together_are_one_transaction(&server).await;
        mysql_faults::a_takeover_ends_the_sessions_of_a_paused_owner(&server).await;
        mysql_faults::ended_sessions_are_replaced(&server).await;
        mysql_faults::a_hold_ends_with_its_session(&server).await;
        mysql_faults::a_locked_table_is_not_waited_for(&server).await;
        mysql_faults::a_hold_is_of_one_database(&server).await;
        mysql_faults::migrations_run_once_from_many_processes(&server).await;
        mysql_faults::a_paused_owner_does_not_keep_its_row(&server).await;
        mysql_faults::a_migration_cut_short_is_run_again(&server).await;
    }
}

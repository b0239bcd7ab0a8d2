//! The network's database: one SQLite file, one connection, one transaction per batch.
//!
//! WAL with `synchronous=NORMAL`: what was committed survives the death of the process (F70); a power cut may
//! take the last moments, which a network of simulated phones can bear. Statements carry many rows, in chunks
//! of a few fixed sizes so that each is prepared once: this is the hot path of every load test.

use std::{collections::HashMap, path::Path};

use estafet_model::{BootId, IdKey, MessageId, Shard, ShardCount, Slot, WaId};
use sqlx::{
    ConnectOptions as _, Connection as _, QueryBuilder, Row as _, Sqlite, SqliteConnection,
    query_builder::Separated,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};

use crate::{
    e2e::Sealed,
    network::changes::{Changes, NumberRow, Parcel, PhoneRow, Retry, Stored, WaitingRow},
    phones::{Inbox, Mode, Received, Sent},
    session::Claim,
};

/// Rows a statement carries: as many as fit, largest first.
const CHUNKS: [usize; 3] = [128, 16, 1];

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS numbers (number INTEGER PRIMARY KEY, static_key BLOB NOT NULL, identity_key BLOB NOT NULL, fallback_key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS admissions (number INTEGER, count INTEGER, shard INTEGER, epoch INTEGER NOT NULL, boot BLOB NOT NULL, holder TEXT NOT NULL,
  PRIMARY KEY (number, count, shard)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slots (number INTEGER, slot INTEGER, seq INTEGER NOT NULL, PRIMARY KEY (number, slot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (number INTEGER, id_key BLOB, at_ms INTEGER NOT NULL, PRIMARY KEY (number, id_key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS seen_at ON seen (at_ms);
CREATE TABLE IF NOT EXISTS retries (number INTEGER, id_key BLOB, asked INTEGER NOT NULL, pending INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  PRIMARY KEY (number, id_key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (number INTEGER PRIMARY KEY, last_delivery INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (number INTEGER, delivery INTEGER, slot INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (number, delivery)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS phones (phone INTEGER PRIMARY KEY, name TEXT NOT NULL, mode TEXT NOT NULL, account BLOB NOT NULL,
  received INTEGER NOT NULL, sent INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ratchets (phone INTEGER, number INTEGER, state BLOB NOT NULL, PRIMARY KEY (phone, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waiting (id INTEGER PRIMARY KEY AUTOINCREMENT, phone INTEGER NOT NULL, number INTEGER NOT NULL, slot INTEGER NOT NULL,
  seq INTEGER NOT NULL, id_key BLOB NOT NULL, kind INTEGER NOT NULL, ciphertext BLOB NOT NULL, at_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS waiting_phone ON waiting (phone, id);
CREATE INDEX IF NOT EXISTS waiting_at ON waiting (at_ms);
CREATE TABLE IF NOT EXISTS inbox (phone INTEGER, number INTEGER, id_key BLOB, position INTEGER NOT NULL, at_ms INTEGER NOT NULL, content TEXT NOT NULL,
  copies INTEGER NOT NULL DEFAULT 1, PRIMARY KEY (phone, number, id_key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sent (phone INTEGER, position INTEGER, number INTEGER NOT NULL, message_id TEXT NOT NULL, at_ms INTEGER NOT NULL,
  content TEXT NOT NULL, is_read INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (phone, position)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sent_id ON sent (phone, message_id);
CREATE TABLE IF NOT EXISTS windows (phone INTEGER, number INTEGER, wrote_at_ms INTEGER NOT NULL, PRIMARY KEY (phone, number)) WITHOUT ROWID;
";

/// The database failed or holds something that is not ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation failed.
    #[error("database: {0}")]
    Sql(#[from] sqlx::Error),
    /// A stored value is out of its range.
    #[error("damaged row in table {0}")]
    Damaged(&'static str),
}

/// The open database.
#[derive(Debug)]
pub(crate) struct Storage {
    db: SqliteConnection,
}

impl Storage {
    pub(crate) async fn open(path: &Path) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .pragma("cache_size", "-32768")
            .disable_statement_logging();
        let mut db = options.connect().await?;
        sqlx::raw_sql(SCHEMA).execute(&mut db).await?;
        Ok(Self { db })
    }

    /// The value of `name`, stored as `fresh` if there is none.
    pub(crate) async fn meta(&mut self, name: &str, fresh: Vec<u8>) -> Result<Vec<u8>, Error> {
        sqlx::query("INSERT OR IGNORE INTO meta VALUES (?, ?)").bind(name).bind(fresh).execute(&mut self.db).await?;
        Ok(sqlx::query_scalar("SELECT value FROM meta WHERE name = ?").bind(name).fetch_one(&mut self.db).await?)
    }

    /// Everything the network keeps in memory.
    pub(crate) async fn load(&mut self) -> Result<Stored, Error> {
        let db = &mut self.db;
        let rules: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT value FROM meta WHERE name = 'rules'").fetch_optional(&mut *db).await?;
        let rules = rules.map(|text| serde_json::from_slice(&text)).transpose().map_err(|_| Error::Damaged("meta"))?;
        Ok(Stored {
            rules: rules.unwrap_or_default(),
            windows: rows(db, "SELECT phone, number, wrote_at_ms FROM windows", |row| {
                Some((wa_id(row, 0)?, wa_id(row, 1)?, row.get(2)))
            })
            .await?,
            numbers: rows(db, "SELECT number, static_key, identity_key, fallback_key FROM numbers ORDER BY rowid", read_number)
                .await?,
            admissions: rows(db, "SELECT number, count, shard, epoch, boot, holder FROM admissions", read_claim).await?,
            last_seq: rows(db, "SELECT number, slot, seq FROM slots", |row| Some((wa_id(row, 0)?, slot(row, 1)?, row.get(2))))
                .await?,
            retries: rows(db, "SELECT number, id_key, asked, pending, at_ms FROM retries", read_retry).await?,
            last_delivery: rows(db, "SELECT number, last_delivery FROM counters", |row| {
                Some((wa_id(row, 0)?, unsigned(row, 1)?))
            })
            .await?,
            phones: rows(db, "SELECT phone, name, mode, account, received, sent FROM phones", read_phone).await?,
            ratchets: rows(db, "SELECT phone, number, state FROM ratchets", |row| {
                Some((wa_id(row, 0)?, wa_id(row, 1)?, row.get(2)))
            })
            .await?,
            waiting: rows(db, "SELECT phone, COUNT(*) FROM waiting GROUP BY phone", |row| {
                Some((wa_id(row, 0)?, unsigned(row, 1)?))
            })
            .await?,
        })
    }

    /// Which of these ids were accepted before, and when.
    pub(crate) async fn seen(&mut self, number: WaId, keys: &[IdKey]) -> Result<HashMap<(WaId, IdKey), i64>, Error> {
        let mut known = HashMap::new();
        for part in chunks(keys) {
            let mut query = QueryBuilder::<Sqlite>::new("SELECT id_key, at_ms FROM seen WHERE number = ");
            query.push_bind(number.as_i64()).push(" AND id_key IN (");
            let mut list = query.separated(", ");
            part.iter().for_each(|key| {
                list.push_bind(key.0.to_vec());
            });
            query.push(")");
            for row in query.build().fetch_all(&mut self.db).await? {
                let key = id_key(&row, 0).ok_or(Error::Damaged("seen"))?;
                known.insert((number, key), row.get(1));
            }
        }
        Ok(known)
    }

    /// Writes a batch, all or nothing.
    pub(crate) async fn commit(&mut self, changes: &Changes) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        write_sessions(&mut tx, changes).await?;
        write_messages(&mut tx, changes).await?;
        write_phones(&mut tx, changes).await?;
        Ok(tx.commit().await?)
    }

    /// Deliveries of a number after `after`, for the slots `first..=last`, in order.
    pub(crate) async fn deliveries(
        &mut self,
        number: WaId,
        after: u64,
        slots: (u16, u16),
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let query =
            "SELECT body FROM deliveries WHERE number = ? AND delivery > ? AND slot BETWEEN ? AND ? ORDER BY delivery LIMIT ?";
        let query = sqlx::query_scalar(query).bind(number.as_i64()).bind(after as i64).bind(slots.0).bind(slots.1);
        Ok(query.bind(limit as i64).fetch_all(&mut self.db).await?)
    }

    /// The oldest parcels that wait for a phone.
    pub(crate) async fn waiting(&mut self, phone: WaId, limit: usize) -> Result<Vec<WaitingRow>, Error> {
        let query = "SELECT id, phone, number, slot, seq, id_key, kind, ciphertext, at_ms FROM waiting WHERE phone = ? ORDER BY id LIMIT ?";
        let found = sqlx::query(query).bind(phone.as_i64()).bind(limit as i64).fetch_all(&mut self.db).await?;
        found.iter().map(|row| read_waiting(row).ok_or(Error::Damaged("waiting"))).collect()
    }

    /// Forgets ids accepted before `seen_before` and parcels that waited since before `waiting_before`;
    /// returns how many parcels each phone lost.
    pub(crate) async fn sweep(&mut self, seen_before: i64, waiting_before: i64) -> Result<HashMap<WaId, u64>, Error> {
        let mut tx = self.db.begin().await?;
        sqlx::query("DELETE FROM seen WHERE at_ms < ?").bind(seen_before).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM retries WHERE at_ms < ?").bind(seen_before).execute(&mut *tx).await?;
        let expired = sqlx::query("DELETE FROM waiting WHERE at_ms < ? RETURNING phone").bind(waiting_before);
        let mut lost = HashMap::new();
        for row in expired.fetch_all(&mut *tx).await? {
            *lost.entry(wa_id(&row, 0).ok_or(Error::Damaged("waiting"))?).or_insert(0) += 1;
        }
        tx.commit().await?;
        Ok(lost)
    }

    /// What a phone has received.
    pub(crate) async fn inbox(&mut self, phone: WaId) -> Result<Inbox, Error> {
        let query = "SELECT id_key, number, at_ms, position, content, copies FROM inbox WHERE phone = ? ORDER BY position";
        let mut inbox = Inbox { number: phone, duplicates: 0, messages: Vec::new() };
        for row in sqlx::query(query).bind(phone.as_i64()).fetch_all(&mut self.db).await? {
            let read = || {
                Some(Received {
                    id: MessageId::outgoing(phone, id_key(&row, 0)?).to_string(),
                    from: wa_id(&row, 1)?,
                    received_at: row.get(2),
                    order: unsigned(&row, 3)?,
                    content: serde_json::from_str(row.get(4)).ok()?,
                    album: None,
                    trusted: None,
                })
            };
            inbox.messages.push(read().ok_or(Error::Damaged("inbox"))?);
            inbox.duplicates += unsigned(&row, 5).unwrap_or(1).saturating_sub(1);
        }
        Ok(inbox)
    }

    /// What a phone has sent.
    pub(crate) async fn sent(&mut self, phone: WaId) -> Result<Vec<Sent>, Error> {
        let query = "SELECT message_id, number, at_ms, is_read, content FROM sent WHERE phone = ? ORDER BY position";
        let read = |row: &SqliteRow| {
            Some(Sent {
                id: row.get(0),
                to: wa_id(row, 1)?,
                sent_at: row.get(2),
                read_by_business: row.get(3),
                content: serde_json::from_str(row.get(4)).ok()?,
            })
        };
        let found = sqlx::query(query).bind(phone.as_i64()).fetch_all(&mut self.db).await?;
        found.iter().map(|row| read(row).ok_or(Error::Damaged("sent"))).collect()
    }

    /// Folds the log into the file and closes it.
    pub(crate) async fn close(self) -> Result<(), Error> {
        Ok(self.db.close().await?)
    }
}

async fn write_sessions(db: &mut SqliteConnection, changes: &Changes) -> Result<(), Error> {
    upsert(db, "INSERT OR REPLACE INTO numbers ", &changes.numbers, "", |row, values| {
        values.push_bind(row.number.as_i64()).push_bind(row.static_key.to_vec());
        values.push_bind(row.identity_key.to_vec()).push_bind(row.fallback_key.to_vec());
    })
    .await?;
    upsert(db, "INSERT OR REPLACE INTO admissions ", &changes.admissions, "", |claim, values| {
        values.push_bind(claim.number.as_i64()).push_bind(claim.count.get()).push_bind(claim.shard.get());
        values.push_bind(claim.epoch as i64).push_bind(claim.boot.0.to_vec()).push_bind(claim.holder.clone());
    })
    .await?;
    for number in &changes.ratchets_dropped {
        sqlx::query("DELETE FROM ratchets WHERE number = ?").bind(number.as_i64()).execute(&mut *db).await?;
    }
    for phone in &changes.phones_reset {
        sqlx::query("DELETE FROM ratchets WHERE phone = ?").bind(phone.as_i64()).execute(&mut *db).await?;
    }
    Ok(())
}

async fn write_messages(db: &mut SqliteConnection, changes: &Changes) -> Result<(), Error> {
    let last_seq: Vec<_> = changes.last_seq.iter().collect();
    upsert(db, "INSERT OR REPLACE INTO slots ", &last_seq, "", |((number, slot), seq), values| {
        values.push_bind(number.as_i64()).push_bind(slot.get()).push_bind(**seq);
    })
    .await?;
    upsert(db, "INSERT INTO seen ", &changes.seen, "", |(number, key, at_ms), values| {
        values.push_bind(number.as_i64()).push_bind(key.0.to_vec()).push_bind(*at_ms);
    })
    .await?;
    let retries: Vec<_> = changes.retries.iter().collect();
    upsert(db, "INSERT OR REPLACE INTO retries ", &retries, "", |((number, key), retry), values| {
        values.push_bind(number.as_i64()).push_bind(key.0.to_vec());
        values.push_bind(retry.asked).push_bind(retry.pending).push_bind(retry.at_ms);
    })
    .await?;
    upsert(db, "INSERT INTO deliveries ", &changes.deliveries, "", |row, values| {
        values
            .push_bind(row.number.as_i64())
            .push_bind(row.delivery as i64)
            .push_bind(row.slot.get())
            .push_bind(row.body.clone());
    })
    .await?;
    let counters: HashMap<WaId, u64> = changes.deliveries.iter().map(|row| (row.number, row.delivery)).collect();
    let counters: Vec<_> = counters.into_iter().collect();
    upsert(db, "INSERT OR REPLACE INTO counters ", &counters, "", |(number, last), values| {
        values.push_bind(number.as_i64()).push_bind(*last as i64);
    })
    .await?;
    delete_acknowledged(db, &changes.acknowledged).await
}

async fn delete_acknowledged(db: &mut SqliteConnection, acknowledged: &[(WaId, u64)]) -> Result<(), Error> {
    let mut by_number: HashMap<WaId, Vec<u64>> = HashMap::new();
    for (number, delivery) in acknowledged {
        by_number.entry(*number).or_default().push(*delivery);
    }
    for (number, deliveries) in by_number {
        for part in chunks(&deliveries) {
            let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM deliveries WHERE number = ");
            query.push_bind(number.as_i64()).push(" AND delivery IN (");
            let mut list = query.separated(", ");
            part.iter().for_each(|delivery| {
                list.push_bind(*delivery as i64);
            });
            query.push(")").build().execute(&mut *db).await?;
        }
    }
    Ok(())
}

async fn write_phones(db: &mut SqliteConnection, changes: &Changes) -> Result<(), Error> {
    upsert(db, "INSERT OR REPLACE INTO phones ", &changes.phones, "", |row, values| {
        values.push_bind(row.phone.as_i64()).push_bind(row.name.clone()).push_bind(row.mode.as_str());
        values.push_bind(row.account.clone()).push_bind(row.received as i64).push_bind(row.sent as i64);
    })
    .await?;
    let ratchets: Vec<_> = changes.ratchets.iter().collect();
    upsert(db, "INSERT OR REPLACE INTO ratchets ", &ratchets, "", |((phone, number), state), values| {
        values.push_bind(phone.as_i64()).push_bind(number.as_i64()).push_bind((*state).clone());
    })
    .await?;
    let columns = "INSERT INTO waiting (phone, number, slot, seq, id_key, kind, ciphertext, at_ms) ";
    upsert(db, columns, &changes.waiting, "", |parcel, values| {
        values
            .push_bind(parcel.phone.as_i64())
            .push_bind(parcel.number.as_i64())
            .push_bind(parcel.slot.get())
            .push_bind(parcel.seq);
        values.push_bind(parcel.id_key.0.to_vec()).push_bind(parcel.sealed.kind);
        values.push_bind(parcel.sealed.ciphertext.to_vec()).push_bind(parcel.at_ms);
    })
    .await?;
    for part in chunks(&changes.waiting_done) {
        let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM waiting WHERE id IN (");
        let mut list = query.separated(", ");
        part.iter().for_each(|row| {
            list.push_bind(*row);
        });
        query.push(")").build().execute(&mut *db).await?;
    }
    let columns = "INSERT INTO inbox (phone, number, id_key, position, at_ms, content) ";
    let again = " ON CONFLICT DO UPDATE SET copies = copies + 1";
    upsert(db, columns, &changes.inbox, again, |row, values| {
        values.push_bind(row.phone.as_i64()).push_bind(row.number.as_i64()).push_bind(row.id_key.0.to_vec());
        values.push_bind(row.position as i64).push_bind(row.at_ms).push_bind(row.content.clone());
    })
    .await?;
    let columns = "INSERT INTO sent (phone, position, number, message_id, at_ms, content) ";
    upsert(db, columns, &changes.sent, "", |row, values| {
        values.push_bind(row.phone.as_i64()).push_bind(row.position as i64).push_bind(row.number.as_i64());
        values.push_bind(row.message_id.clone()).push_bind(row.at_ms).push_bind(row.content.clone());
    })
    .await?;
    let windows: Vec<_> = changes.windows.iter().collect();
    upsert(db, "INSERT OR REPLACE INTO windows ", &windows, "", |((phone, number), at_ms), values| {
        values.push_bind(phone.as_i64()).push_bind(number.as_i64()).push_bind(**at_ms);
    })
    .await?;
    if let Some(rules) = &changes.rules {
        let text = serde_json::to_vec(rules).expect("numbers always serialise");
        sqlx::query("INSERT OR REPLACE INTO meta VALUES ('rules', ?)").bind(text).execute(&mut *db).await?;
    }
    for (phone, id) in &changes.read_marks {
        let query = sqlx::query("UPDATE sent SET is_read = 1 WHERE phone = ? AND message_id = ?");
        query.bind(phone.as_i64()).bind(id).execute(&mut *db).await?;
    }
    Ok(())
}

/// Cuts rows into chunks of the sizes there are statements for.
fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = CHUNKS.into_iter().find(|size| *size <= rows.len())?;
        let (chunk, rest) = rows.split_at(size);
        rows = rest;
        Some(chunk)
    })
}

async fn upsert<T>(
    db: &mut SqliteConnection,
    head: &'static str,
    rows: &[T],
    tail: &'static str,
    mut bind: impl FnMut(&T, &mut Separated<'_, Sqlite, &'static str>),
) -> Result<(), Error> {
    for part in chunks(rows) {
        let mut query = QueryBuilder::<Sqlite>::new(head);
        query.push_values(part, |mut values, row| bind(row, &mut values)).push(tail);
        query.build().execute(&mut *db).await?;
    }
    Ok(())
}

async fn rows<T>(
    db: &mut SqliteConnection,
    query: &'static str,
    read: impl Fn(&SqliteRow) -> Option<T>,
) -> Result<Vec<T>, Error> {
    sqlx::query(query).fetch_all(db).await?.iter().map(|row| read(row).ok_or(Error::Damaged(query))).collect()
}

fn unsigned(row: &SqliteRow, at: usize) -> Option<u64> {
    row.get::<i64, _>(at).try_into().ok()
}

fn wa_id(row: &SqliteRow, at: usize) -> Option<WaId> {
    WaId::from_u64(unsigned(row, at)?).ok()
}

fn slot(row: &SqliteRow, at: usize) -> Option<Slot> {
    Slot::new(row.get::<i64, _>(at).try_into().ok()?)
}

fn id_key(row: &SqliteRow, at: usize) -> Option<IdKey> {
    IdKey::from_slice(row.get(at))
}

fn read_number(row: &SqliteRow) -> Option<NumberRow> {
    Some(NumberRow {
        number: wa_id(row, 0)?,
        static_key: row.get::<&[u8], _>(1).try_into().ok()?,
        identity_key: row.get::<Vec<u8>, _>(2).into(),
        fallback_key: row.get::<Vec<u8>, _>(3).into(),
    })
}

fn read_claim(row: &SqliteRow) -> Option<Claim> {
    let count = ShardCount::new(row.get::<i64, _>(1).try_into().ok()?)?;
    Some(Claim {
        number: wa_id(row, 0)?,
        count,
        shard: Shard::new(row.get::<i64, _>(2).try_into().ok()?, count)?,
        epoch: unsigned(row, 3)?,
        boot: BootId::from_slice(row.get(4))?,
        holder: row.get(5),
    })
}

fn read_retry(row: &SqliteRow) -> Option<(WaId, IdKey, Retry)> {
    let retry = Retry { asked: row.get::<i64, _>(2).try_into().ok()?, pending: row.get(3), at_ms: row.get(4) };
    Some((wa_id(row, 0)?, id_key(row, 1)?, retry))
}

fn read_phone(row: &SqliteRow) -> Option<PhoneRow> {
    Some(PhoneRow {
        phone: wa_id(row, 0)?,
        name: row.get(1),
        mode: Mode::stored(row.get(2))?,
        account: row.get(3),
        received: unsigned(row, 4)?,
        sent: unsigned(row, 5)?,
    })
}

fn read_waiting(row: &SqliteRow) -> Option<WaitingRow> {
    let parcel = Parcel {
        phone: wa_id(row, 1)?,
        number: wa_id(row, 2)?,
        slot: slot(row, 3)?,
        seq: row.get(4),
        id_key: id_key(row, 5)?,
        sealed: Sealed { kind: row.get::<i64, _>(6).try_into().ok()?, ciphertext: row.get::<Vec<u8>, _>(7).into() },
        at_ms: row.get(8),
    };
    Some(WaitingRow { row: row.get(0), parcel })
}

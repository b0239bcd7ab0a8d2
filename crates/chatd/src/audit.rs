//! The audit log: what the network decided, one JSON line each, and the check of the invariants over it.
//!
//! A line is written after the transaction it tells of and before its answer is sent, without fsync. So a
//! killed process may lose the last lines but never writes one about something that did not happen; a torn
//! last line is closed at the next start, which says so with a `start` line. [`check`] reads the log as a
//! stream and proves **I1**, **I2**, **I4** and **I5** for the run; ids older than two days leave its memory.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    ops::RangeInclusive,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use estafet_model::{Shard, ShardCount, WaId};
use serde::{Deserialize, Serialize};

/// Longest line that is ours.
const MAX_LINE: u64 = 64 * 1024;

/// Violations reported before the check stops looking.
const MAX_VIOLATIONS: usize = 100;

/// How long ids stay in the memory of the check, at least half of it.
const ID_MEMORY_MS: i64 = 2 * 24 * 3600 * 1000;

/// The shard a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRef {
    /// Business number.
    pub number: WaId,
    /// Shard of `count`.
    pub shard: u16,
    /// Shard count.
    pub count: u16,
    /// Epoch of the connection.
    pub epoch: u64,
}

impl ShardRef {
    fn slots(&self) -> Option<RangeInclusive<usize>> {
        let count = ShardCount::new(u32::from(self.count))?;
        let slots = count.slots_of(Shard::new(u32::from(self.shard), count)?);
        Some(usize::from(slots.start().get())..=usize::from(slots.end().get()))
    }
}

/// One envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvelopeRef {
    /// Where it came from.
    #[serde(flatten)]
    pub shard: ShardRef,
    /// Connection it came over.
    pub conn: u64,
    /// Slot of the recipient.
    pub slot: u16,
    /// Position in the slot.
    pub seq: i64,
    /// Unique key of the id, in hexadecimal.
    pub id_key: String,
    /// The user.
    pub recipient: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The server started; no connection is active.
    Start,
    /// A login was admitted.
    Login {
        /// What it claims.
        #[serde(flatten)]
        shard: ShardRef,
        /// Its connection.
        conn: u64,
        /// Start of the client's process.
        boot: String,
        /// Who it is, for people.
        holder: String,
    },
    /// A login was refused.
    Refused {
        /// What it claimed.
        #[serde(flatten)]
        shard: ShardRef,
        /// Its connection.
        conn: u64,
        /// Why.
        reason: String,
    },
    /// A connection lost its shard to a login.
    Replaced {
        /// The connection.
        conn: u64,
        /// Epoch of that login.
        by_epoch: u64,
    },
    /// A connection that had logged in has closed.
    Closed {
        /// The connection.
        conn: u64,
    },
    /// An envelope was accepted for the first time.
    Accepted(EnvelopeRef),
    /// An envelope that was accepted before came again and went nowhere.
    Duplicate(EnvelopeRef),
    /// An envelope a phone had asked for again.
    Retried(EnvelopeRef),
    /// An envelope was refused.
    Rejected {
        /// The envelope.
        #[serde(flatten)]
        envelope: EnvelopeRef,
        /// Code of the verdict.
        code: u32,
    },
    /// A frame of a connection or epoch that is not current was discarded.
    Discarded {
        /// The connection.
        conn: u64,
        /// Epoch of the frame.
        epoch: u64,
        /// Envelopes in it.
        envelopes: usize,
    },
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When, milliseconds since 1970.
    pub at: i64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Appends to the log.
#[derive(Debug)]
pub struct Log {
    file: File,
    buffer: Vec<u8>,
}

impl Log {
    /// Opens the log, closing a line that a kill has torn.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut buffer = Vec::new();
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                buffer.push(b'\n');
            }
        }
        Ok(Self { file, buffer })
    }

    /// Adds a line.
    pub fn add(&mut self, at: i64, event: Event) {
        serde_json::to_writer(&mut self.buffer, &Line { at, event }).expect("a line is plain data and memory does not fail");
        self.buffer.push(b'\n');
    }

    /// Writes the added lines out.
    pub fn write(&mut self) -> std::io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// What a clean log tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Lines read.
    pub lines: u64,
    /// Starts of the server.
    pub starts: u64,
    /// Logins admitted.
    pub logins: u64,
    /// Logins refused.
    pub refused: u64,
    /// Connections that lost their shard.
    pub replaced: u64,
    /// Envelopes accepted.
    pub accepted: u64,
    /// Envelopes that came again.
    pub duplicates: u64,
    /// Envelopes sent again because a phone asked.
    pub retried: u64,
    /// Envelopes refused.
    pub rejected: u64,
    /// Envelopes in frames that were discarded.
    pub discarded: u64,
    /// Lines a kill has torn.
    pub torn: u64,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("line {line}: {rule}: {details}")]
pub struct Violation {
    /// Number of the line, from 1.
    pub line: u64,
    /// `I1`, `I2`, `I4`, `I5`, or `log` if the log itself is damaged.
    pub rule: &'static str,
    /// What is wrong.
    pub details: String,
}

/// Replays the log at `path` and checks the invariants.
pub fn check(path: &Path) -> Result<Summary, Vec<Violation>> {
    let unreadable = |error: std::io::Error| vec![Violation { line: 0, rule: "log", details: error.to_string() }];
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut checker = Checker::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
            return checker.finish();
        }
        checker.line(&line);
        if checker.violations.len() >= MAX_VIOLATIONS {
            return checker.finish();
        }
    }
}

/// What is known of one number.
struct Seen {
    highest_epoch: [u64; 1024],
    last_seq: [i64; 1024],
}

#[derive(Default)]
struct Checker {
    summary: Summary,
    violations: Vec<Violation>,
    active: HashMap<u64, ShardRef>,
    numbers: HashMap<WaId, Box<Seen>>,
    /// Accepted ids of this period and of the one before.
    ids: [HashSet<(WaId, String)>; 2],
    period: i64,
    /// A line that does not parse: allowed at the end and before a start.
    torn: Option<u64>,
}

impl Checker {
    fn line(&mut self, bytes: &[u8]) {
        self.summary.lines += 1;
        let Ok(line) = serde_json::from_slice::<Line>(bytes) else {
            self.check_torn(false);
            self.torn = Some(self.summary.lines);
            return;
        };
        self.check_torn(line.event == Event::Start);
        self.event(line);
    }

    fn check_torn(&mut self, tolerated: bool) {
        if let Some(line) = self.torn.take() {
            self.summary.torn += 1;
            if !tolerated {
                self.violations.push(Violation { line, rule: "log", details: "not a line of the audit log".to_owned() });
            }
        }
    }

    fn finish(mut self) -> Result<Summary, Vec<Violation>> {
        self.check_torn(true);
        if self.violations.is_empty() { Ok(self.summary) } else { Err(self.violations) }
    }

    fn violated(&mut self, rule: &'static str, details: String) {
        self.violations.push(Violation { line: self.summary.lines, rule, details });
    }

    fn event(&mut self, line: Line) {
        match line.event {
            Event::Start => {
                self.summary.starts += 1;
                self.active.clear();
            }
            Event::Login { shard, conn, .. } => self.login(shard, conn),
            Event::Refused { .. } => self.summary.refused += 1,
            Event::Replaced { conn, .. } => {
                self.summary.replaced += 1;
                self.active.remove(&conn);
            }
            Event::Closed { conn } => {
                self.active.remove(&conn);
            }
            Event::Accepted(envelope) => self.accepted(envelope, line.at),
            Event::Duplicate(_) => self.summary.duplicates += 1,
            Event::Retried(envelope) => {
                self.summary.retried += 1;
                self.fenced(&envelope);
            }
            Event::Rejected { .. } => self.summary.rejected += 1,
            Event::Discarded { envelopes, .. } => self.summary.discarded += envelopes as u64,
        }
    }

    fn seen(&mut self, number: WaId) -> &mut Seen {
        self.numbers.entry(number).or_insert_with(|| Box::new(Seen { highest_epoch: [0; 1024], last_seq: [i64::MIN; 1024] }))
    }

    fn login(&mut self, shard: ShardRef, conn: u64) {
        self.summary.logins += 1;
        let Some(slots) = shard.slots() else {
            return self.violated("log", format!("{} of {} is not a shard", shard.shard, shard.count));
        };
        let overlaps = |other: &ShardRef| {
            other.number == shard.number
                && other.slots().is_some_and(|theirs| theirs.start() <= slots.end() && slots.start() <= theirs.end())
        };
        let others: Vec<u64> = self.active.iter().filter(|(_, other)| overlaps(other)).map(|(conn, _)| *conn).collect();
        for other in others {
            self.violated("I1", format!("connections {other} and {conn} of {} are active on the same slots", shard.number));
        }
        let lower = {
            let seen = &mut self.seen(shard.number).highest_epoch[slots];
            let lower = seen.iter().copied().max().filter(|highest| *highest > shard.epoch);
            seen.iter_mut().for_each(|highest| *highest = shard.epoch.max(*highest));
            lower
        };
        if let Some(highest) = lower {
            self.violated("I2", format!("login of {} at epoch {} after {highest}", shard.number, shard.epoch));
        }
        self.active.insert(conn, shard);
    }

    /// The envelope came over the active connection of its slot, under the highest epoch.
    fn fenced(&mut self, envelope: &EnvelopeRef) {
        let EnvelopeRef { shard, conn, slot, .. } = envelope;
        let at = usize::from(*slot).min(1023);
        let highest = self.seen(shard.number).highest_epoch[at];
        if highest > shard.epoch {
            self.violated("I2", format!("{} accepted under epoch {} after {highest}", envelope.id_key, shard.epoch));
        }
        let covers = self.active.get(conn) == Some(shard) && shard.slots().is_some_and(|slots| slots.contains(&at));
        if !covers {
            self.violated("I1", format!("{} accepted over connection {conn}, which is not active for it", envelope.id_key));
        }
    }

    fn accepted(&mut self, envelope: EnvelopeRef, at: i64) {
        self.summary.accepted += 1;
        self.fenced(&envelope);
        let number = envelope.shard.number;
        let last = &mut self.seen(number).last_seq[usize::from(envelope.slot).min(1023)];
        let previous = std::mem::replace(last, envelope.seq.max(*last));
        if previous >= envelope.seq {
            self.violated("I5", format!("{} has seq {} after {previous}", envelope.id_key, envelope.seq));
        }
        let period = at.div_euclid(ID_MEMORY_MS / 2);
        if period > self.period {
            self.period = period;
            self.ids.swap(0, 1);
            self.ids[0].clear();
        }
        let id = (number, envelope.id_key);
        if self.ids[1].contains(&id) || self.ids[0].contains(&id) {
            self.violated("I4", format!("{} accepted twice", id.1));
        } else {
            self.ids[0].insert(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(shard: u16, count: u16, epoch: u64) -> ShardRef {
        ShardRef { number: WaId::from_u64(15_550_000_001).unwrap(), shard, count, epoch }
    }

    fn login(conn: u64, shard: ShardRef) -> Event {
        Event::Login { shard, conn, boot: "00".to_owned(), holder: "node".to_owned() }
    }

    fn accepted(conn: u64, shard: ShardRef, slot: u16, seq: i64, id: &str) -> Event {
        Event::Accepted(EnvelopeRef { shard, conn, slot, seq, id_key: id.to_owned(), recipient: 15_550_001_001 })
    }

    fn checked(events: Vec<Event>) -> Result<Summary, Vec<&'static str>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = Log::open(&path).unwrap();
        events.into_iter().for_each(|event| log.add(1, event));
        log.write().unwrap();
        check(&path).map_err(|violations| violations.iter().map(|violation| violation.rule).collect())
    }

    #[test]
    fn an_orderly_handover_is_clean() {
        let (parent, low, high) = (shard(0, 1, 1), shard(0, 2, 2), shard(1, 2, 2));
        let summary = checked(vec![
            Event::Start,
            login(1, parent),
            accepted(1, parent, 700, 5, "a"),
            Event::Replaced { conn: 1, by_epoch: 2 },
            login(2, low),
            login(3, high),
            accepted(3, high, 700, 6, "b"),
            Event::Closed { conn: 3 },
            login(4, high),
            Event::Start,
            login(5, high),
        ]);
        let summary = summary.unwrap();
        assert_eq!((summary.logins, summary.accepted, summary.replaced, summary.starts), (5, 2, 1, 2));
    }

    #[test]
    fn two_active_connections_on_a_slot_break_i1() {
        assert_eq!(checked(vec![login(1, shard(0, 1, 1)), login(2, shard(1, 4, 2))]), Err(vec!["I1"]));
        let one = shard(0, 1, 1);
        assert_eq!(checked(vec![login(1, one), Event::Closed { conn: 1 }, accepted(1, one, 3, 1, "a")]), Err(vec!["I1"]));
    }

    #[test]
    fn an_old_epoch_breaks_i2() {
        let (old, new) = (shard(0, 1, 1), shard(0, 2, 2));
        let events = vec![login(1, old), Event::Replaced { conn: 1, by_epoch: 2 }, login(2, new), login(3, shard(1, 2, 0))];
        assert_eq!(checked(events), Err(vec!["I2"]));
        let events = vec![login(1, new), login(2, shard(1, 2, 1)), accepted(1, shard(0, 2, 1), 3, 1, "a")];
        assert_eq!(checked(events), Err(vec!["I2", "I1"]));
    }

    #[test]
    fn an_id_twice_breaks_i4_and_a_falling_seq_breaks_i5() {
        let one = shard(0, 1, 1);
        let twice = vec![login(1, one), accepted(1, one, 3, 1, "a"), accepted(1, one, 3, 2, "a")];
        assert_eq!(checked(twice), Err(vec!["I4"]));
        let falling = vec![login(1, one), accepted(1, one, 3, 2, "a"), accepted(1, one, 4, 1, "b"), accepted(1, one, 3, 1, "c")];
        assert_eq!(checked(falling), Err(vec!["I5"]));
    }

    #[test]
    fn a_line_torn_by_a_kill_is_tolerated_and_garbage_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = Log::open(&path).unwrap();
        log.add(1, login(1, shard(0, 1, 1)));
        log.write().unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(br#"{"at":1,"event":"acc"#).unwrap();
        assert_eq!(check(&path).unwrap().torn, 1);
        let mut log = Log::open(&path).unwrap();
        log.add(2, Event::Start);
        log.add(2, login(2, shard(0, 1, 1)));
        log.write().unwrap();
        let summary = check(&path).unwrap();
        assert_eq!((summary.torn, summary.logins, summary.starts), (1, 2, 1));
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"garbage\n").unwrap();
        log.add(3, Event::Closed { conn: 2 });
        log.write().unwrap();
        assert_eq!(check(&path).unwrap_err()[0].rule, "log");
    }
}

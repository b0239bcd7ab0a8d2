//! The shards of a coreapp: what their tasks do with orders, one input after the other as long as there is room, and what
//! becomes of their questions to the database and their posts.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use estafet_coreapp::{
    callbacks::{Failure, Posted},
    core::life::Reason,
    media::Collected,
    request::{Reply, ShardRequest, not_owner},
    shard::{Input, Order as ShardOrder, Shard},
};
use estafet_store::{Batch, Error, EventRef, Fence};
use estafet_upstream::{ConnectError, Event, chat::wire};

use crate::{
    coreapps::DATABASE,
    lines::Line,
    messages::{Body, Read, Rows},
    moves::Raising,
    world::{MS, Place, SECOND, Time, Timer, World},
};

/// When a shard is told that a commit is unknown.
const PATIENCE: Duration = Duration::from_millis(500);
const POST: Time = 2 * SECOND;

/// The task of a shard.
pub(crate) struct Task {
    pub(crate) shard: Shard,
    pub(crate) line: Line,
    pub(crate) failures: u32,
    pub(crate) events: VecDeque<Event>,
    pub(crate) requests: VecDeque<ShardRequest>,
    pub(crate) told_to_drain: bool,
}

/// What a call was made for.
pub(crate) enum Asked {
    Acquire(Fence),
    Probe { began: Instant },
    Prepare(Fence),
    Raise(Raising),
    RaisedRow(Raising),
    Commit { task: u64, batch: Arc<Batch>, retried: bool, since: Duration },
    Read { task: u64, read: Read },
    Find { task: u64, message_id: String, reply: Reply },
    Post { task: u64, event: EventRef },
    Login { task: u64, stream: u64 },
}

impl World {
    pub(crate) fn take(&mut self, i: usize, id: u64, input: Input) {
        let (now, now_ms) = (self.instant(Place::Coreapp(i)), self.wall_ms(Place::Coreapp(i)));
        if let Some(task) = self.coreapps[i].tasks.get_mut(&id) {
            task.shard.take(now, now_ms, input);
            self.turn(i, id);
        }
    }

    /// Goes on until nothing waits that may be taken.
    pub(crate) fn turn(&mut self, i: usize, id: u64) {
        let (now, now_ms) = (self.instant(Place::Coreapp(i)), self.wall_ms(Place::Coreapp(i)));
        loop {
            let Some(task) = self.coreapps[i].tasks.get_mut(&id) else { return };
            task.shard.advance();
            self.carry_out(i, id);
            let Some(task) = self.coreapps[i].tasks.get_mut(&id) else { return };
            if let Some(reason) = task.shard.released() {
                return self.ended(i, id, reason);
            }
            let (room, accepts, wants) = (task.shard.room(), task.shard.accepts(), task.shard.wants_events());
            let input = if room > 0
                && accepts
                && let Some(request) = task.requests.pop_front()
            {
                Input::Request(request)
            } else if wants && let Some(event) = task.events.pop_front() {
                Input::Upstream(Some(event))
            } else if accepts && task.told_to_drain {
                Input::ToldToDrain
            } else {
                break;
            };
            task.shard.take(now, now_ms, input);
        }
        let due = self.coreapps[i].tasks.get(&id).and_then(|task| task.shard.next_due());
        if let Some(due) = due {
            let delay = due.saturating_duration_since(now).max(Duration::from_millis(1));
            self.wake(Place::Coreapp(i), delay.as_micros() as Time, Timer::Due(id));
        }
    }

    fn carry_out(&mut self, i: usize, id: u64) {
        let Some(task) = self.coreapps[i].tasks.get_mut(&id) else { return };
        let (orders, posts) = (task.shard.take_orders(), task.shard.take_posts());
        let mut commands = Vec::new();
        if let Line::Up(stream) = task.line {
            commands.extend(task.shard.commands().drain(..));
            let epoch = u64::from(task.shard.fence().epoch.get());
            let (frames, _) = wire::frames(epoch, commands);
            for frame in frames.into_iter().filter_map(|frame| frame.frame) {
                self.send(Place::Coreapp(i), stream, Body::Client(frame));
            }
        }
        for order in orders {
            self.shard_order(i, id, order);
        }
        for post in posts {
            let call = self.fresh();
            self.coreapps[i].calls.insert(call, Asked::Post { task: id, event: post.event });
            self.call(Place::Coreapp(i), Place::Receiver, call, POST, Body::Post(post));
        }
    }

    fn shard_order(&mut self, i: usize, task: u64, order: ShardOrder) {
        let read = |read| Asked::Read { task, read };
        let asked = match order {
            ShardOrder::Commit { batch, retried } => {
                let since = self.moment(Place::Coreapp(i));
                Asked::Commit { task, batch, retried, since }
            }
            ShardOrder::LoadOutbox(asked) => read(Read::Outbox(asked)),
            ShardOrder::LoadEvents(endpoint, asked) => read(Read::Events(endpoint, asked)),
            ShardOrder::LoadSessions { generation, peers } => read(Read::Sessions(generation, peers)),
            ShardOrder::LookUp(lookup) => read(Read::LookUp(lookup)),
            ShardOrder::LearnFacts(questions) => read(Read::Facts(questions)),
            ShardOrder::FindInbound { message_id, reply } => Asked::Find { task, message_id, reply },
            ShardOrder::Raise { target, deadline } => {
                return self.raise(i, Raising { task, target, deadline });
            }
            ShardOrder::Connect { at_once } => return self.connect(i, task, at_once),
            // Nobody here sends files; if somebody did, the network would have them at once.
            ShardOrder::PrepareFiles(message) => {
                let prepared = Input::FilesPrepared((message.slot, message.seq), Ok(message.body));
                return self.take(i, task, prepared);
            }
            // Nor has anybody files that could be old.
            ShardOrder::CollectMedia => {
                return self.take(i, task, Input::MediaCollected(Collected { removed: 0, is_complete: true }));
            }
        };
        self.ask(i, asked);
    }

    pub(crate) fn ask(&mut self, i: usize, asked: Asked) {
        let body = match &asked {
            Asked::Commit { task, batch, .. } => {
                let Some(fence) = self.coreapps[i].tasks.get(task).map(|task| *task.shard.fence()) else { return };
                Body::Commit { fence, boot: self.boot(i), batch: batch.clone() }
            }
            Asked::Read { read, .. } => Body::Read(read.clone()),
            Asked::Find { message_id, .. } => Body::Read(Read::Inbound(message_id.clone())),
            Asked::Probe { .. } | Asked::Acquire(_) | Asked::Prepare(_) | Asked::Raise(_) | Asked::RaisedRow(_) => return,
            Asked::Post { .. } | Asked::Login { .. } => return,
        };
        let call = self.fresh();
        self.coreapps[i].calls.insert(call, asked);
        self.call(Place::Coreapp(i), Place::Database, call, DATABASE, body);
    }

    pub(crate) fn ask_again(&mut self, i: usize, call: u64) {
        if let Some(asked) = self.coreapps[i].calls.remove(&call) {
            self.ask(i, asked);
        }
    }

    pub(crate) fn coreapp_answered(&mut self, i: usize, call: u64, body: Body) {
        if let Body::Locked(transaction) = body {
            let finish = self.fresh();
            return self.call(Place::Coreapp(i), Place::Database, finish, DATABASE, Body::Finish(transaction));
        }
        let Some(asked) = self.coreapps[i].calls.remove(&call) else { return };
        match (asked, body) {
            (Asked::Probe { began }, body) => self.database_probed(i, began, matches!(body, Body::Rows(_))),
            (Asked::Acquire(fence), body) => self.acquired(i, fence, matches!(body, Body::Rows(_))),
            (Asked::Prepare(owned), body) => self.prepared(i, &owned, matches!(body, Body::Rows(_))),
            (Asked::Raise(raising), body) => self.raised(i, raising, body),
            (Asked::RaisedRow(raising), body) => self.row_of_raised(i, raising, body),
            (Asked::Commit { task, batch, since, retried }, body) => self.committed(i, task, batch, since, retried, body),
            (Asked::Read { task, .. }, Body::Rows(rows)) => {
                if let Some(input) = loaded(rows) {
                    self.take(i, task, input);
                }
            }
            (Asked::Find { task, reply, .. }, Body::Rows(Rows::Inbound(row))) => {
                self.take(i, task, Input::InboundFound(reply, row))
            }
            (asked @ (Asked::Read { .. } | Asked::Find { .. }), _) => self.later(i, asked),
            (Asked::Post { task, event }, body) => {
                let result = match body {
                    Body::Posted(true) => Ok(()),
                    Body::Posted(false) => Err(Failure::Status(500)),
                    _ => Err(Failure::Timeout),
                };
                self.take(i, task, Input::Posted(Posted { event, result }));
            }
            (Asked::Login { task, stream }, _) => {
                let waits = self.coreapps[i].tasks.get(&task).is_some_and(|task| task.line == Line::LoggingIn(stream));
                if waits {
                    self.hang_up(stream);
                    self.failed_to_connect(i, task, ConnectError::Unreachable("no answer to the login".to_owned()));
                }
            }
        }
    }

    fn later(&mut self, i: usize, asked: Asked) {
        let (call, pause) = (self.fresh(), self.between(5 * MS, 100 * MS));
        self.coreapps[i].calls.insert(call, asked);
        self.wake(Place::Coreapp(i), pause, Timer::Again(call));
    }

    fn committed(&mut self, i: usize, task: u64, batch: Arc<Batch>, since: Duration, retried: bool, body: Body) {
        let took = self.moment(Place::Coreapp(i)).saturating_sub(since);
        let Some(fence) = self.coreapps[i].tasks.get(&task).map(|task| *task.shard.fence()) else { return };
        let result = match body {
            Body::Committed(committed) => Ok(committed),
            Body::Fenced => Err(Error::Fenced { number: fence.number, shard: fence.shard, ours: fence.epoch }),
            _ if took < PATIENCE => return self.later(i, Asked::Commit { task, batch, retried: true, since }),
            _ => Err(Error::Unavailable("no answer".to_owned())),
        };
        let retried = retried || matches!(result, Err(Error::Unavailable(_)));
        self.take(i, task, Input::Committed { result, retried, took });
    }

    fn ended(&mut self, i: usize, id: u64, reason: Reason) {
        let Some(task) = self.coreapps[i].tasks.remove(&id) else { return };
        if let Line::Up(stream) | Line::LoggingIn(stream) = task.line {
            self.hang_up(stream);
        }
        task.requests.into_iter().for_each(|request| request.reply.send(not_owner()));
        let fence = *task.shard.fence();
        self.note(|now| {
            format!("{now:>9} Coreapp({i}) {}/{} in epoch {} ended: {reason:?}", fence.shard, fence.count.get(), fence.epoch)
        });
        let handed = task.shard.handed().map(|(target, epoch)| (Fence { epoch, ..fence }, target.clone()));
        task.shard.abandon();
        if let Some((fence, target)) = handed {
            self.coreapps[i].duties.handed_off(fence, target);
            return self.report(i);
        }
        let above = if let Reason::StaleUpstream { highest } = reason { highest } else { 0 };
        self.coreapps[i].duties.ended(fence, above);
        self.report(i);
    }
}

fn loaded(rows: Rows) -> Option<Input> {
    Some(match rows {
        Rows::Outbox(asked, rows) => Input::OutboxLoaded(asked, rows),
        Rows::Events(endpoint, asked, rows) => Input::EventsLoaded(endpoint, asked, rows),
        Rows::Sessions(generation, rows) => Input::SessionsLoaded(generation, rows),
        Rows::LookedUp(asked, rows) => Input::LookedUp(asked, rows, Vec::new()),
        Rows::Facts(facts) => Input::FactsLoaded(Box::new(Arc::try_unwrap(facts).ok()?)),
        Rows::Keys | Rows::Inbound(_) => return None,
    })
}

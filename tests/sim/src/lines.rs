//! The connections of a coreapp's shards to the network: dial, login, frames, and the pause after a failure.

use estafet_coreapp::shard::Input;
use estafet_proto::chat::{RefusedReason, client_frame, server_frame};
use estafet_upstream::{ConnectError, Login, chat::wire};
use rand::RngExt as _;

use crate::{
    coreapps::keys,
    masters::name,
    messages::Body,
    tasks::{Asked, Task},
    world::{MS, Place, SECOND, Time, Timer, World},
};

const LOGIN: Time = 3 * SECOND;

/// The connection of a shard.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Down,
    LoggingIn(u64),
    Up(u64),
}

impl World {
    pub(crate) fn connect(&mut self, i: usize, id: u64, at_once: bool) {
        let bound = |failures: u32| ((50 * MS) << failures.min(8)).min(10 * SECOND);
        let Some(task) = self.coreapps[i].tasks.get_mut(&id) else { return };
        let (line, bound) = (task.line, bound(task.failures));
        task.line = Line::Down;
        task.failures = if at_once { task.failures } else { task.failures + 1 };
        task.events.clear();
        if let Line::Up(stream) | Line::LoggingIn(stream) = line {
            self.hang_up(stream);
        }
        let pause = if at_once { 0 } else { self.chance.random_range(0..=bound) };
        self.wake(Place::Coreapp(i), pause, Timer::Connect(id));
    }

    pub(crate) fn chatd_dialled(&mut self, i: usize, id: u64, stream: Option<u64>) {
        let boot = self.boot(i);
        let Some(task) = self.coreapps[i].tasks.get_mut(&id) else {
            stream.into_iter().for_each(|stream| self.hang_up(stream));
            return;
        };
        let Some(stream) = stream else {
            return self.failed_to_connect(i, id, ConnectError::Unreachable("no answer".to_owned()));
        };
        task.line = Line::LoggingIn(stream);
        let (fence, keys) = (*task.shard.fence(), keys());
        let login = wire::login(&Login {
            number: fence.number,
            shard: fence.shard,
            count: fence.count,
            epoch: fence.epoch,
            boot,
            holder: name(i),
            keys: keys.public,
            static_key: keys.static_key,
        });
        let call = self.fresh();
        self.coreapps[i].calls.insert(call, Asked::Login { task: id, stream });
        self.wake(Place::Coreapp(i), LOGIN, Timer::Late(call));
        self.send(Place::Coreapp(i), stream, Body::Client(client_frame::Frame::Login(login)));
    }

    pub(crate) fn failed_to_connect(&mut self, i: usize, id: u64, error: ConnectError) {
        if let Some(task) = self.coreapps[i].tasks.get_mut(&id) {
            task.line = Line::Down;
        }
        self.take(i, id, Input::Connected(Err(error)));
    }

    pub(crate) fn network_said(&mut self, i: usize, stream: u64, frame: server_frame::Frame) {
        let on = |task: &Task| matches!(task.line, Line::Up(s) | Line::LoggingIn(s) if s == stream);
        let Some(id) = self.coreapps[i].tasks.iter().find(|(_, task)| on(task)).map(|(id, _)| *id) else { return };
        let Some(task) = self.coreapps[i].tasks.get_mut(&id) else { return };
        match (task.line, frame) {
            (Line::LoggingIn(_), server_frame::Frame::LoggedIn(_)) => {
                (task.line, task.failures) = (Line::Up(stream), 0);
                self.take(i, id, Input::Connected(Ok(())));
            }
            (Line::LoggingIn(_), server_frame::Frame::Refused(refused)) => {
                let error = match refused.reason() {
                    RefusedReason::StaleEpoch => ConnectError::StaleEpoch { highest: refused.highest_epoch },
                    RefusedReason::Conflict => ConnectError::Conflict { holder: refused.holder },
                    _ => ConnectError::Refused(refused.details),
                };
                self.hang_up(stream);
                self.failed_to_connect(i, id, error);
            }
            (_, frame) => {
                if let Ok(wire::Heard::Event(event)) = wire::heard(frame) {
                    task.events.push_back(event);
                    self.turn(i, id);
                }
            }
        }
    }
}

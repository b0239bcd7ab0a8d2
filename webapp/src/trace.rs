//! What happened to one message, as one timeline: pure, from what the database holds.
//!
//! Each step says what was waited for since the one before. Clocks of several processes differ a little, so a step may
//! seem to come before what it follows from; such a wait is none. A step whose time was not noted is left out.

use estafet_model::{Status, StatusSet};
use estafet_store::{End, Times};
use serde::Serialize;

/// An outgoing message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    /// When the webapp made its id.
    pub(crate) made_ms: i64,
    /// When its owner took it to store it.
    pub(crate) accepted_ms: i64,
    /// What became of it.
    pub(crate) statuses: StatusSet,
    /// And when.
    pub(crate) times: Times,
    /// Why it failed.
    pub(crate) error_code: Option<u16>,
}

/// An incoming message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming {
    /// When the network took it from the phone.
    pub(crate) sent_ms: i64,
    /// When it was stored.
    pub(crate) stored_ms: Option<i64>,
    /// When the business said that it was read.
    pub(crate) read_ms: Option<i64>,
}

/// A callback about the message.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// What it tells: a status, or `message`.
    pub(crate) about: String,
    /// Its receiver.
    pub(crate) endpoint: String,
    /// When what it tells happened, or it was posted anew.
    pub(crate) since_ms: i64,
    /// What became of it.
    pub(crate) end: End,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    /// What.
    pub(crate) step: &'static str,
    /// When, milliseconds since 1970; of something that is awaited, now.
    pub(crate) at_ms: i64,
    /// What was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wait: Option<&'static str>,
    /// How long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waited_ms: Option<i64>,
    /// It has not happened yet.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) awaited: bool,
    /// Of a callback: what it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) about: Option<String>,
    /// Of a callback: its receiver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    /// Why it failed or was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The steps so far, and the one that is due next, each with its wait since the step before.
struct Steps {
    steps: Vec<Step>,
    last_ms: i64,
}

impl Steps {
    fn beginning(step: &'static str, at_ms: i64) -> Self {
        let first = Step { step, at_ms, wait: None, waited_ms: None, awaited: false, about: None, endpoint: None, reason: None };
        Self { steps: vec![first], last_ms: at_ms }
    }

    fn reached(&mut self, step: &'static str, wait: &'static str, at_ms: Option<i64>) {
        if let Some(at_ms) = at_ms {
            self.push(step, wait, at_ms);
            self.last_ms = self.last_ms.max(at_ms);
        }
    }

    fn awaited(&mut self, step: &'static str, wait: &'static str, now_ms: i64) {
        self.push(step, wait, now_ms).awaited = true;
    }

    fn push(&mut self, step: &'static str, wait: &'static str, at_ms: i64) -> &mut Step {
        let waited_ms = Some((at_ms - self.last_ms).max(0));
        let none = (None, None, None);
        let (about, endpoint, reason) = none;
        self.steps.push(Step { step, at_ms, wait: Some(wait), waited_ms, awaited: false, about, endpoint, reason });
        self.steps.last_mut().expect("pushed just now")
    }
}

/// The timeline of an outgoing message.
pub(crate) fn outgoing(message: &Outgoing, told: &[Told], now_ms: i64) -> Vec<Step> {
    let Outgoing { made_ms, accepted_ms, statuses, times, error_code } = *message;
    let mut steps = Steps::beginning("made", made_ms);
    steps.reached("accepted", "routing", Some(accepted_ms));
    steps.reached("left", "queue", times.left);
    let left = if times.left.is_some() { "network" } else { "queue and network" };
    steps.reached("sent", left, times.sent);
    if !statuses.is_settled() {
        // Nothing is noted of a message under way until the network answers for it.
        steps.awaited("sent", "queue and network", now_ms);
    }
    steps.reached("delivered", "phone", times.delivered);
    steps.reached("read", "reader", times.seen);
    if statuses.contains(Status::Failed) {
        steps.reached("failed", "network", times.failed);
        if let Some(last) = steps.steps.last_mut().filter(|last| last.step == "failed") {
            last.reason = error_code.map(|code| format!("error {code}"));
        }
    } else if statuses.contains(Status::Sent) && !statuses.contains(Status::Delivered) && !statuses.contains(Status::Read) {
        steps.awaited("delivered", "phone", now_ms);
    }
    with_callbacks(steps.steps, told, now_ms)
}

/// The timeline of an incoming message.
pub(crate) fn incoming(message: &Incoming, told: &[Told], now_ms: i64) -> Vec<Step> {
    let mut steps = Steps::beginning("sent", message.sent_ms);
    steps.reached("stored", "network", message.stored_ms);
    steps.reached("read", "business", message.read_ms);
    with_callbacks(steps.steps, told, now_ms)
}

/// Callbacks go beside the message, each from what it tells to its end.
fn with_callbacks(mut steps: Vec<Step>, told: &[Told], now_ms: i64) -> Vec<Step> {
    for Told { about, endpoint, since_ms, end } in told {
        let (step, at_ms, reason) = match end {
            End::Open => ("callback taken", now_ms, None),
            End::Taken { at_ms } => ("callback taken", *at_ms, None),
            End::GivenUp { reason, at_ms } => ("callback given up", *at_ms, Some(reason.clone())),
        };
        steps.push(Step {
            step,
            at_ms,
            wait: Some("receiver"),
            waited_ms: Some((at_ms - since_ms).max(0)),
            awaited: *end == End::Open,
            about: Some(about.clone()),
            endpoint: Some(endpoint.clone()),
            reason,
        });
    }
    // The sort is stable: what happened at the same time stays in its order, and what is awaited is last.
    steps.sort_by_key(|step| (step.awaited, step.at_ms));
    steps
}

/// The step that was or is waited for longest.
pub(crate) fn longest(steps: &[Step]) -> Option<&Step> {
    // Of equal ones the first.
    steps.iter().filter(|step| step.waited_ms.is_some()).rev().max_by_key(|step| step.waited_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(left: i64, sent: i64) -> Times {
        Times { left: Some(left), sent: Some(sent), ..Times::default() }
    }

    fn message(bits: u8, times: Times) -> Outgoing {
        Outgoing { made_ms: 1000, accepted_ms: 1004, statuses: StatusSet::from_bits(bits), times, error_code: None }
    }

    fn told(about: &str, since_ms: i64, end: End) -> Told {
        Told { about: about.to_owned(), endpoint: "main".to_owned(), since_ms, end }
    }

    fn shown(steps: &[Step]) -> Vec<(&str, i64, &str, i64, bool)> {
        steps.iter().map(|s| (s.step, s.at_ms, s.wait.unwrap_or_default(), s.waited_ms.unwrap_or_default(), s.awaited)).collect()
    }

    #[test]
    fn a_message_that_was_read_shows_every_wait_and_the_longest() {
        let message = message(0b0111, Times { delivered: Some(1100), seen: Some(9000), ..times(1010, 1030) });
        let callbacks = [told("delivered", 1100, End::Taken { at_ms: 1150 }), told("read", 9000, End::Taken { at_ms: 30_000 })];
        let steps = outgoing(&message, &callbacks, 99_000);
        assert_eq!(
            shown(&steps),
            [
                ("made", 1000, "", 0, false),
                ("accepted", 1004, "routing", 4, false),
                ("left", 1010, "queue", 6, false),
                ("sent", 1030, "network", 20, false),
                ("delivered", 1100, "phone", 70, false),
                ("callback taken", 1150, "receiver", 50, false),
                ("read", 9000, "reader", 7900, false),
                ("callback taken", 30_000, "receiver", 21_000, false),
            ]
        );
        let longest = longest(&steps).unwrap();
        assert_eq!((longest.wait, longest.about.as_deref()), (Some("receiver"), Some("read")));
    }

    #[test]
    fn what_has_not_happened_yet_is_awaited_until_now() {
        let queued = outgoing(&message(0, Times::default()), &[], 5004);
        assert_eq!(shown(&queued)[2], ("sent", 5004, "queue and network", 4000, true));
        let sent = outgoing(&message(1, times(1010, 1030)), &[told("sent", 1030, End::Open)], 2030);
        assert_eq!(
            shown(&sent)[4..],
            [("delivered", 2030, "phone", 1000, true), ("callback taken", 2030, "receiver", 1000, true)]
        );
        assert_eq!(longest(&sent).unwrap().wait, Some("phone"), "of equal ones the first");
    }

    #[test]
    fn a_failure_and_a_callback_that_was_given_up_say_why() {
        let failed = Times { failed: Some(1040), left: Some(1010), ..Times::default() };
        let message = Outgoing { error_code: Some(1013), ..message(0b1000, failed) };
        let end = End::GivenUp { reason: "answered 500".to_owned(), at_ms: 9000 };
        let steps = outgoing(&message, &[told("failed", 1040, end)], 99_000);
        assert_eq!(shown(&steps)[3], ("failed", 1040, "network", 30, false));
        let reasons: Vec<&str> = steps.iter().filter_map(|step| step.reason.as_deref()).collect();
        assert_eq!(reasons, ["error 1013", "answered 500"]);
    }

    #[test]
    fn clocks_that_differ_make_no_negative_wait_and_times_that_were_not_noted_no_step() {
        let steps = outgoing(
            &Outgoing { made_ms: 1010, ..message(0b0011, Times { delivered: Some(1500), ..Times::default() }) },
            &[],
            1500,
        );
        assert_eq!(
            shown(&steps),
            [("accepted", 1004, "routing", 0, false), ("made", 1010, "", 0, false), ("delivered", 1500, "phone", 490, false)]
        );
    }

    #[test]
    fn an_incoming_message_goes_from_the_network_to_the_business() {
        let message = Incoming { sent_ms: 1000, stored_ms: Some(1020), read_ms: Some(4000) };
        let steps = incoming(&message, &[told("message", 1000, End::Taken { at_ms: 1050 })], 9000);
        assert_eq!(
            shown(&steps),
            [
                ("sent", 1000, "", 0, false),
                ("stored", 1020, "network", 20, false),
                ("callback taken", 1050, "receiver", 50, false),
                ("read", 4000, "business", 2980, false),
            ]
        );
    }
}

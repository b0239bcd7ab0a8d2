//! The receiver of callbacks: takes them, refuses them, or takes them and loses the answer.

use crate::{
    messages::Body,
    world::{Place, What, World},
};

#[derive(Default)]
pub(crate) struct Receiver {
    /// Percent of the posts that fail while faults last.
    pub(crate) fails: u32,
}

impl World {
    pub(crate) fn at_receiver(&mut self, what: What) {
        let What::Called { from, call, body: Body::Post(post) } = what else { return };
        let fails = self.receiver.fails;
        let (taken, told) = (!self.odds(fails), !self.odds(fails / 2));
        self.ledger.posted(&post, taken);
        if told {
            self.answer(Place::Receiver, from, call, Body::Posted(taken));
        }
    }
}

//! Rows of the requirement list (tests/requirements.txt) that a whole sandbox shows, by section. Names begin with the
//! rows they prove; one sandbox serves as many of them as fit into one story.

mod errors;
mod media;
mod sending;
mod templates;
mod webhooks;

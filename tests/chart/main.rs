//! The Helm chart and the manifests, rendered by real Helm (`.ci/tools` puts it below the target directory).
//!
//! [`roles`] hands what is rendered to the binary, which must know every option and variable; [`objects`] is about single
//! kinds of objects, [`whole`] about the chart as a whole: versions, schemas, values that are refused. No cluster takes
//! part: what only a cluster shows (scheduling, volumes, policies in force) is not tested here.

mod objects;
mod rendered;
mod roles;
mod whole;

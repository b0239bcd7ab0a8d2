//! Requests made from an OpenAPI document, and what is wrong with their answers: schemathesis, which `make test` puts
//! below the target directory. How many requests there are follows from the document and `cases`, not from time.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::{process::Command, time::timeout};

use crate::environment::tool;

/// What every answer must be: declared, with its status, type and schema, and no failure of the server.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
/// Ends a run that hangs.
const DEADLINE: Duration = Duration::from_secs(280);

/// One run.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// Where the document is.
    pub document: &'a str,
    /// Value of the header `Authorization`.
    pub authorization: &'a str,
    /// Requests made up for each operation, beside those for the edges of its schemas.
    pub cases: u32,
    /// Options that choose operations, or replace those that are usual here.
    pub options: &'a [&'a str],
    /// Python code that looks at each request before it is sent.
    pub hooks: &'a Path,
    /// What that code knows: `ESTAFET_KNOWN`.
    pub known: &'a Value,
}

impl Run<'_> {
    /// Fails with what was found.
    pub async fn finds_nothing(&self) -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let cases = self.cases.to_string();
        let mut command = Command::new(tool("schemathesis/bin/schemathesis")?);
        command.arg("run").arg(self.document).args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing"]);
        command.args(["--seed", "1", "--max-examples", &cases, "--generation-database", "none", "--no-shrink"]);
        command.args(["--suppress-health-check", "all", "--warnings", "off", "--no-color"]);
        command.args(["-H", &format!("Authorization: {}", self.authorization)]).args(self.options);
        // A configuration above the directory is not for this run, and no proxy stands before loopback.
        command.current_dir(directory.path()).env("NO_PROXY", "*").env("no_proxy", "*").env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("SCHEMATHESIS_HOOKS", self.hooks).env("ESTAFET_KNOWN", self.known.to_string());
        let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(DEADLINE, run).await.context("schemathesis does not end")??;
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}\n{said}\n{complained}", output.status);
        Ok(())
    }
}

//! What the chart starts, handed to the binary: every variable is one that the role reads, every file has the name that
//! `estafet certs` gives it, and each role accepts all of it and gets as far as its database.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use estafet_harness::{
    PATIENCE,
    environment::estafet_binary,
    process::{Announces, Process},
};
use serde_json::Value;

use crate::rendered::{CLUSTERS, Chart, EVALUATION, PRODUCTION, Rendered, items};

/// The first pod of a StatefulSet, or a pod of anything else.
const POD: &str = "estafet-coreapp-0";
/// Refuses connections.
const NO_DATABASE: &str = "postgres://estafet@127.0.0.1:1/estafet";

/// The environment of a pod's first container, secrets replaced by texts of their kind.
fn environment(pod: &Value) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for variable in items(&pod["containers"][0]["env"]) {
        let name = variable["name"].as_str().context("a variable without a name")?;
        let value = match (&variable["value"], &variable["valueFrom"]["secretKeyRef"]["key"]) {
            // Kubernetes replaces what was defined before.
            (Value::String(text), _) => {
                let replaced = |text: String, (name, value): (&String, &String)| text.replace(&format!("$({name})"), value);
                all.iter().fold(text.clone(), replaced)
            }
            (_, Value::String(_)) if name == "ESTAFET_DATABASE_URL" => NO_DATABASE.to_owned(),
            (_, Value::String(key)) => format!("{key}-0123456789"),
            _ if variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name" => POD.to_owned(),
            _ => anyhow::bail!("a value from nowhere: {variable}"),
        };
        ensure!(!value.contains("$("), "{name} is not replaced: {value}");
        ensure!(all.insert(name.to_owned(), value).is_none(), "{name} is there twice");
    }
    Ok(all)
}

/// The arguments of a pod's first container.
fn arguments(pod: &Value) -> Vec<&str> {
    items(&pod["containers"][0]["args"]).iter().filter_map(Value::as_str).collect()
}

/// The role that a pod starts; none for the servers of an evaluation.
fn role(pod: &Value) -> Option<&str> {
    arguments(pod).first().copied()
}

fn estafet(arguments: &[&str], environment: &BTreeMap<String, String>) -> anyhow::Result<Command> {
    let mut command = Command::new(estafet_binary()?);
    command.args(arguments).env_clear().envs(environment);
    Ok(command)
}

#[test]
fn every_option_and_variable_of_a_container_is_known_to_its_role() -> anyhow::Result<()> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for values in CLUSTERS {
        for (part, pod) in Chart::with(values).render()?.pods() {
            let Some(role) = role(pod) else {
                ensure!(["postgresql", "etcd"].contains(&part), "{part} starts nothing");
                continue;
            };
            if !known.contains_key(role) {
                let output = estafet(&[role, "--help"], &BTreeMap::new())?.output()?;
                ensure!(output.status.success(), "there is no role {role}");
                // Long lines are wrapped, anywhere.
                let words: Vec<&str> = std::str::from_utf8(&output.stdout)?.split_whitespace().collect();
                known.insert(role.to_owned(), words.join(" "));
            }
            let help = &known[role];
            for name in environment(pod)?.keys().filter(|name| name.starts_with("ESTAFET_") && *name != "ESTAFET_LOG") {
                let told = help.contains(&format!("[env: {name}=")) || help.contains(&format!("[env: {name}]"));
                ensure!(told, "{values}: {role} does not read {name}");
            }
            for flag in arguments(pod).iter().filter(|argument| argument.starts_with("--")) {
                let flag = flag.split('=').next().unwrap_or_default();
                ensure!(help.contains(flag), "{values}: {role} has no {flag}");
            }
        }
    }
    ensure!(known.keys().eq(["chatd", "coreapp", "master", "status", "webapp"]), "{:?}", known.keys());
    Ok(())
}

/// Makes the certificates that NOTES.txt of the chart tells to make.
fn certificates(directory: &Path) -> anyhow::Result<()> {
    let hosts = "*.estafet-master.chat.svc,*.estafet-coreapp.chat.svc";
    let arguments = ["certs", "--dir", directory.to_str().context("a plain path")?, "--cluster", "estafet", "--host", hosts];
    let holders = ["master/master", "webapp/webapp", "operator/operator", "coreapp/estafet-coreapp-0"];
    let made = estafet(&[&arguments[..], &holders].concat(), &BTreeMap::new())?.output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

/// What waits for its database says so again and again, and does not end.
const WAITS: &str = "Unable to initialize config store";

/// Starts a pod's first container here: files of certificates below `files`, ports of loopback. What it says until it ends or
/// waits for its database.
fn start(rendered: &Rendered, part: &str, files: &Path) -> anyhow::Result<String> {
    let pod = rendered.pod(part)?;
    let mut environment = environment(pod)?;
    let files = files.to_str().context("a plain path")?;
    for value in environment.values_mut() {
        *value = value.replace("/etc/estafet/tls", files).replace("0.0.0.0:", "127.0.0.1:").replace("/var/lib/estafet", files);
    }
    environment.insert("ESTAFET_OPS_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
    let mut process = estafet(&arguments(pod), &environment)?.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut said = String::new();
    for line in BufReader::new(process.stderr.take().context("no stderr")?).lines() {
        said += &line?;
        said.push('\n');
        if said.contains(WAITS) {
            break;
        }
    }
    // It may have ended by itself.
    let _ = process.kill();
    process.wait()?;
    Ok(said)
}

#[test]
fn every_role_accepts_what_it_is_given_up_to_its_database() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    certificates(directory.path())?;
    let encrypted = Chart::with(PRODUCTION).render()?;
    let plain = Chart::with(EVALUATION).render()?;
    for (rendered, what) in [(&encrypted, "with certificates"), (&plain, "in plain text")] {
        for role in ["master", "coreapp", "webapp"] {
            let said = start(rendered, role, directory.path())?;
            ensure!(said.contains(WAITS), "{role} {what}: {said}");
        }
        let said = start(rendered, "operator", directory.path())?;
        ensure!(said.contains("no master answers"), "status {what}: {said}");
    }
    // The files matter: another coreapp's certificate is refused before the database is asked for.
    for name in ["coreapp-estafet-coreapp-0.pem", "coreapp-estafet-coreapp-0-key.pem"] {
        fs::copy(directory.path().join(name.replace("coreapp-estafet-coreapp-0", "webapp-webapp")), directory.path().join(name))?;
    }
    let said = start(&encrypted, "coreapp", directory.path())?;
    ensure!(said.contains("--tls-cert") && !said.contains("config store"), "{said}");
    Ok(())
}

#[tokio::test]
async fn chatd_starts_with_what_it_is_given() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let rendered = Chart::with(EVALUATION).render()?;
    let pod = rendered.pod("chatd")?;
    let mut environment = environment(pod)?;
    let data = directory.path().to_str().context("a plain path")?;
    environment.values_mut().for_each(|value| *value = value.replace("/var/lib/estafet", data));
    for name in ["ESTAFET_LISTEN", "ESTAFET_CONTROL", "ESTAFET_OPS_LISTEN"] {
        ensure!(environment.insert(name.to_owned(), "127.0.0.1:0".to_owned()).is_some(), "{name} is not given");
    }
    let command = estafet(&arguments(pod), &environment)?;
    let ready = |line: &str| line.contains("\"ready\":true").then(|| line.to_owned());
    let log = directory.path().join("log");
    let (_process, line) = Process::start("chatd", command, &log, Announces::OnStdout, ready, PATIENCE).await?;
    let line: Value = serde_json::from_str(&line)?;
    ensure!(line["role"] == "chatd" && directory.path().join("chatd").is_dir(), "{line}");
    Ok(())
}

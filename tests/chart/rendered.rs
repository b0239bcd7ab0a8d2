//! Renders the chart, and finds things in what comes out.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde::Deserialize as _;
use serde_json::Value;

/// The versions of Helm that are tried.
pub(crate) const HELMS: [&str; 2] = ["helm3", "helm4"];
/// Values of clusters that differ as much as possible.
pub(crate) const CLUSTERS: [&str; 4] = [
    "deploy/k8s/values.yaml",
    "helm/estafet/ci/full-values.yaml",
    "helm/estafet/ci/csi-values.yaml",
    "helm/estafet/ci/evaluation-values.yaml",
];
/// Everything outside the cluster.
pub(crate) const PRODUCTION: &str = CLUSTERS[0];
/// Every option that can be on at the same time.
pub(crate) const FULL: &str = CLUSTERS[1];
/// Database, etcd and network inside.
pub(crate) const EVALUATION: &str = CLUSTERS[3];

/// The root of the source.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The target directory this test was built in.
pub(crate) fn target() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    // target/<profile>/deps/<test>
    test.ancestors().nth(3).map(Path::to_owned).context("the test has no target directory")
}

/// What `.ci/tools` installed.
pub(crate) fn tool(path: &str) -> anyhow::Result<PathBuf> {
    let tool = target()?.join("tools").join(path);
    ensure!(tool.is_file(), "{} is missing: run `.ci/tools`, with the CARGO_TARGET_DIR of the tests", tool.display());
    Ok(tool)
}

/// What is rendered, and how.
pub(crate) struct Chart {
    helm: &'static str,
    release: String,
    arguments: Vec<OsString>,
}

impl Chart {
    /// The chart with a file of values, named from the root.
    pub(crate) fn with(values: &str) -> Self {
        let file = root().join(values).into();
        Self { helm: HELMS[1], release: "estafet".to_owned(), arguments: vec!["--values".into(), file] }
    }

    /// With its own values alone.
    pub(crate) fn bare() -> Self {
        Self { helm: HELMS[1], release: "estafet".to_owned(), arguments: Vec::new() }
    }

    pub(crate) fn helm(mut self, helm: &'static str) -> Self {
        self.helm = helm;
        self
    }

    pub(crate) fn release(mut self, name: &str) -> Self {
        name.clone_into(&mut self.release);
        self
    }

    /// One more argument pair, for instance `--set` and an assignment.
    pub(crate) fn option(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.into(), value.into()]);
        self
    }

    pub(crate) fn set(self, assignment: &str) -> Self {
        self.option("--set", assignment)
    }

    /// What Kubernetes would be given; the error of Helm if it refuses.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        self.run(&["template", &self.release])
    }

    /// `helm lint --strict`.
    pub(crate) fn lint(&self) -> anyhow::Result<String> {
        self.run(&["lint", "--strict"])
    }

    fn run(&self, verb: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(tool(&format!("{}/helm", self.helm))?);
        command.args(verb).arg(root().join("helm/estafet")).args(["--namespace", "chat"]).args(&self.arguments);
        let done = command.output()?;
        ensure!(done.status.success(), "{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?)
    }

    pub(crate) fn render(&self) -> anyhow::Result<Rendered> {
        let text = self.text()?;
        let documents = serde_norway::Deserializer::from_str(&text).map(Value::deserialize);
        let mut objects = documents.collect::<Result<Vec<_>, _>>().with_context(|| format!("not YAML: {text}"))?;
        objects.retain(|object| !object.is_null());
        ensure!(!objects.is_empty(), "nothing was rendered");
        Ok(Rendered { objects })
    }

    /// Why Helm does not render it.
    pub(crate) fn refusal(&self) -> anyhow::Result<String> {
        match self.text() {
            Ok(_) => anyhow::bail!("it was rendered with {:?}", self.arguments),
            Err(error) => Ok(error.to_string()),
        }
    }
}

/// Objects for Kubernetes.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) objects: Vec<Value>,
}

impl Rendered {
    /// All objects of a kind.
    pub(crate) fn kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The object of this kind that belongs to a part (a role, most often).
    pub(crate) fn of(&self, kind: &str, part: &str) -> anyhow::Result<&Value> {
        let mut found = self.kind(kind).filter(|object| component(object) == Some(part));
        let first = found.next().with_context(|| format!("no {kind} of {part}"))?;
        ensure!(found.next().is_none(), "more than one {kind} of {part}");
        Ok(first)
    }

    /// The specifications of all pods, by the part they belong to.
    pub(crate) fn pods(&self) -> Vec<(&str, &Value)> {
        let spec = |object: &'static str| move |value: &'_ Value| value["kind"] == object;
        let (alone, of_set) = (spec("Pod"), |value: &Value| !value["spec"]["template"]["spec"].is_null());
        let pods = self.objects.iter().filter(|object| alone(object) || of_set(object));
        pods.map(|object| {
            let own = if alone(object) { &object["spec"] } else { &object["spec"]["template"]["spec"] };
            (component(object).unwrap_or("?"), own)
        })
        .collect()
    }

    /// The pod of a role.
    pub(crate) fn pod(&self, part: &str) -> anyhow::Result<&Value> {
        let pods = self.pods();
        pods.into_iter().find(|(of, _)| *of == part).map(|(_, pod)| pod).with_context(|| format!("no pod of {part}"))
    }
}

fn component(object: &Value) -> Option<&str> {
    object["metadata"]["labels"]["app.kubernetes.io/component"].as_str()
}

/// The members of an array; none if it is not there.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A variable of the first container of a pod: `value`, or where it comes from.
pub(crate) fn variable<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    items(&pod["containers"][0]["env"]).iter().find(|variable| variable["name"] == name)
}

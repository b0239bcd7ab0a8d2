//! The chart as a whole: with which Helm and Kubernetes it works, and what it refuses.

use std::{fs, process::Command};

use anyhow::ensure;
use serde_json::Value;

use crate::rendered::{CLUSTERS, Chart, EVALUATION, HELMS, PRODUCTION, root, target, tool};

/// The oldest Kubernetes that Chart.yaml names, and the newest that is known.
const KUBERNETES: [&str; 2] = ["1.27", "1.37"];

#[test]
fn helm_3_and_4_render_the_same_and_find_no_fault() -> anyhow::Result<()> {
    for values in CLUSTERS {
        let rendered = |helm| -> anyhow::Result<Vec<Value>> {
            Chart::with(values).helm(helm).lint()?;
            let mut objects = Chart::with(values).helm(helm).render()?.objects;
            // The password of the evaluation's database is made anew each time, until it is stored.
            objects.iter_mut().for_each(|object| drop(object["stringData"].take()));
            objects.sort_by_key(ToString::to_string);
            Ok(objects)
        };
        let (three, four) = (rendered(HELMS[0])?, rendered(HELMS[1])?);
        for (three, four) in three.iter().zip(&four) {
            ensure!(three == four, "{values}: Helm 3 and 4 differ:\n{three}\n{four}");
        }
        ensure!(three.len() == four.len());
    }
    HELMS.into_iter().try_for_each(|helm| Chart::bare().helm(helm).lint().map(drop))
}

#[test]
fn what_is_rendered_is_in_the_schemas_of_the_oldest_and_newest_kubernetes() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    for version in KUBERNETES {
        let mut files = Vec::new();
        for values in CLUSTERS {
            let file = directory.path().join(format!("{version}-{}", values.replace('/', "-")));
            fs::write(&file, Chart::with(values).option("--kube-version", version).text()?)?;
            files.push(file);
        }
        let checked = Command::new(tool("kubernetes/bin/kubernetes-validate")?)
            .args(["--strict", "--no-warn", "-k", version])
            .args(files)
            .output()?;
        ensure!(
            checked.status.success(),
            "{}{}",
            String::from_utf8_lossy(&checked.stdout),
            String::from_utf8_lossy(&checked.stderr)
        );
    }
    let too_old = Chart::with(PRODUCTION).option("--kube-version", "1.26").refusal()?;
    ensure!(too_old.contains("1.27"), "{too_old}");
    Ok(())
}

#[test]
fn all_that_is_missing_or_contradicts_is_told_at_once() -> anyhow::Result<()> {
    let nothing = Chart::bare().refusal()?;
    for told in ["numbers:", "database.existingSecret:", "etcd.endpoints:", "network.addresses:", "media.bucket.url, or"] {
        ensure!(nothing.contains(told), "{told} is not told: {nothing}");
    }
    for (setting, told) in [
        ("etcd.endpoints={https://a:2379,http://b:2379}", "https:// for all members"),
        ("etcd.caSecret=ca", "https:// for all members"),
        ("etcd.clientSecret=client", "needs etcd.caSecret"),
        ("evaluation.etcd.enabled=true", "etcd.endpoints, evaluation.etcd.enabled: one of both"),
        ("evaluation.postgresql.enabled=true", "database.existingSecret, evaluation.postgresql.enabled: one of both"),
        ("chatd.enabled=true", "network.addresses, chatd.enabled: one of both"),
        ("media.claim.size=1Gi", "media.bucket.url, media.claim: one of both"),
        ("tls.mode=csi", "tls.issuer.name"),
        ("coreapp.drainSeconds=50", "coreapp.terminationGracePeriodSeconds: at least drainSeconds and 15"),
    ] {
        let refusal = Chart::with(PRODUCTION).set(setting).refusal()?;
        ensure!(refusal.contains(told), "{setting}: {refusal}");
    }
    Ok(())
}

#[test]
fn values_that_do_not_exist_or_cannot_be_are_refused() -> anyhow::Result<()> {
    for helm in HELMS {
        for (setting, told) in [
            ("coreap.replicas=3", "coreap"),
            ("coreapp.replica=3", "replica"),
            ("coreapp.replicas=0", "replicas"),
            ("shards=3", "shards"),
            ("numbers[0]=+15550000001", "numbers"),
            ("tls.mode=plain", "mode"),
            ("network.key=abc", "key"),
            ("chatd.replicas=2", "replicas"),
        ] {
            let refusal = Chart::with(PRODUCTION).helm(helm).set(setting).refusal()?;
            ensure!(refusal.contains("schema") && refusal.contains(told), "{setting}: {refusal}");
        }
    }
    Ok(())
}

#[test]
fn the_manifests_are_what_the_chart_renders() -> anyhow::Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let done = Command::new(root().join(".ci/manifests")).arg(file.path()).env("CARGO_TARGET_DIR", target()?).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let (rendered, kept) = (fs::read_to_string(file.path())?, fs::read_to_string(root().join("deploy/k8s/estafet.yaml"))?);
    ensure!(rendered == kept, "deploy/k8s/estafet.yaml is not up to date: run `make manifests`");
    ensure!(!kept.contains("helm.sh/"), "hooks and labels of Helm mean nothing to kubectl");
    Ok(())
}

/// A database that the chart owned could be replaced by an upgrade of the chart.
#[test]
fn r162_an_upgrade_has_no_database_in_it() -> anyhow::Result<()> {
    let old = Chart::with(PRODUCTION).set("image.tag=1.0.0").render()?;
    let new = Chart::with(PRODUCTION).set("image.tag=1.1.0").set("coreapp.replicas=5").set("shards=8").render()?;
    let changed = |one: &Value| !old.objects.contains(one);
    let names = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    let mut changes: Vec<String> = new.objects.iter().filter(|object| changed(object)).map(names).collect();
    changes.sort();
    ensure!(
        changes
            == [
                r#""Deployment" "estafet-webapp""#,
                r#""Pod" "estafet-operator""#,
                r#""StatefulSet" "estafet-coreapp""#,
                r#""StatefulSet" "estafet-master""#
            ],
        "{changes:?}"
    );
    for kept in ["Secret", "PersistentVolumeClaim"] {
        ensure!(new.kind(kept).next().is_none(), "the chart owns a {kept}");
    }
    for (part, pod) in new.pods() {
        ensure!(part == "operator" || pod["volumes"].to_string().find("persistentVolumeClaim").is_none(), "{part} keeps data");
    }
    ensure!(new.kind("StatefulSet").all(|set| set["spec"]["volumeClaimTemplates"].is_null()), "a set keeps data");
    // For trials it has one, and its password outlives the release.
    let trial = Chart::with(EVALUATION).render()?;
    let secret = trial.of("Secret", "postgresql")?;
    ensure!(secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", "{secret}");
    Ok(())
}

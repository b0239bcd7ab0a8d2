//! Single kinds of objects: what holds for each of them, whatever the values.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, ensure};
use estafet_harness::{Sandbox, client::until};
use estafet_tls::{Identity, Role};
use serde_json::{Value, json};

use crate::rendered::{CLUSTERS, Chart, EVALUATION, FULL, PRODUCTION, Rendered, items, root, variable};

/// What Kubernetes puts behind the name of a StatefulSet, in the label `controller-revision-hash`: `-` and ten characters.
const REVISION: usize = 11;
/// The longest label, and the longest name of a Service or host.
const LONGEST: usize = 63;

/// Labels and names of hosts, and what is made of the names of sets.
fn lengths(rendered: &Rendered) -> Vec<(String, usize)> {
    let mut all = Vec::new();
    for object in &rendered.objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let more = if object["kind"] == "StatefulSet" { REVISION } else { 0 };
        all.push((name.clone(), name.len() + more));
        let labels = [&object["metadata"]["labels"], &object["spec"]["template"]["metadata"]["labels"]];
        for value in labels.into_iter().filter_map(Value::as_object).flat_map(|labels| labels.values()) {
            let value = value.as_str().unwrap_or_default();
            all.push((value.to_owned(), value.len()));
        }
        for host in items(&object["spec"]["dnsNames"]).iter().filter_map(Value::as_str).flat_map(|host| host.split('.')) {
            all.push((host.to_owned(), host.len()));
        }
    }
    for pod in ["master", "coreapp", "webapp"] {
        let variable =
            |name| rendered.pod(pod).ok().and_then(|pod| variable(pod, name)).and_then(|found| found["value"].as_str());
        let hosts =
            ["ESTAFET_MASTER", "ESTAFET_ADVERTISE"].into_iter().filter_map(variable).flat_map(|list| list.split([',', '.']));
        all.extend(hosts.map(|host| (host.to_owned(), host.len())));
    }
    all
}

#[test]
fn r167_r192_names_stay_within_63_characters_whatever_the_release_is_called() -> anyhow::Result<()> {
    let long =
        |end: &str| format!("{}{end}", "a-very-long-name-of-a-release-".repeat(2).get(..53 - end.len()).unwrap_or_default());
    for values in CLUSTERS {
        for release in [long("1"), "x".repeat(53), "7.days".to_owned()] {
            let rendered = Chart::with(values).release(&release).set("fullnameOverride=").render()?;
            for (name, length) in lengths(&rendered) {
                ensure!(length <= LONGEST, "{values}: `{name}` is too long by {}", length - LONGEST);
            }
            for service in rendered.kind("Service") {
                let name = service["metadata"]["name"].as_str().unwrap_or_default();
                let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
                ensure!(plain && name.starts_with(|first: char| first.is_ascii_lowercase()), "no name of a service: {name}");
            }
        }
    }
    // Cut names of two releases do not meet, and short ones are not changed.
    let names = |release: &str| -> anyhow::Result<BTreeSet<String>> {
        let rendered = Chart::with(PRODUCTION).release(release).render()?;
        Ok(rendered.objects.iter().map(|object| format!("{} {}", object["kind"], object["metadata"]["name"])).collect())
    };
    ensure!(names(&long("1"))?.is_disjoint(&names(&long("2"))?));
    ensure!(names("live")?.contains(r#""StatefulSet" "live-coreapp""#));
    Ok(())
}

/// The value of a metric with a label, in the text of Prometheus.
fn metric(text: &str, name: &str, label: &str) -> f64 {
    let of = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(label);
    text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test]
async fn r98_few_deliveries_are_an_alert_over_metrics_that_exist() -> anyhow::Result<()> {
    let rendered = Chart::with(FULL).option("--set-json", "metrics.rules.deliveredRatio=0.6").render()?;
    let rules = items(&rendered.of("PrometheusRule", "ops")?["spec"]["groups"][0]["rules"]);
    let rule = |kind: &str, name: &str| rules.iter().find(|rule| rule[kind] == name).and_then(|rule| rule["expr"].as_str());
    let ratio = rule("record", "estafet:delivered_ratio_1h").context("no ratio")?;
    let (delivered, sent) = ratio.split_once('/').context("no ratio")?;
    ensure!(
        delivered.contains(r#"status="delivered""#) && sent.contains(r#"status="sent""#) && ratio.matches("[1h]").count() == 2
    );
    let alert = rule("alert", "EstafetFewDelivered").context("no alert")?;
    ensure!(alert.contains("estafet:delivered_ratio_1h") && alert.contains("< 0.6") && alert.contains(">= 100"), "{alert}");

    // Half of the phones are off: the ratio is one half.
    let sandbox = Sandbox::options().start().await?;
    let admin = sandbox.login().await?;
    admin.set_phone("15550001002", "offline").await?;
    for phone in ["15550001001", "15550001002"] {
        admin.send_text(phone, "Hello").await?;
    }
    let receipts =
        |text: &str| ["sent", "delivered"].map(|status| metric(text, "receipts_total", &format!("status=\"{status}\"")));
    until("one of two is delivered", async || Ok(receipts(&admin.metrics().await?) == [2.0, 1.0])).await?;

    let told = admin.metrics().await?;
    let code = fs::read_to_string(root().join("coreapp/src/shard/metrics.rs"))?
        + &fs::read_to_string(root().join("crates/tls/src/transport.rs"))?;
    let names: BTreeSet<&str> = rules
        .iter()
        .filter_map(|rule| rule["expr"].as_str())
        .flat_map(|expression| {
            expression.split("{namespace=").map(|before| before.rsplit([' ', '(', '\n']).next().unwrap_or_default())
        })
        .filter(|name| name.contains('_') && !name.contains(['"', '}', ':']))
        .collect();
    ensure!(names.len() >= 5, "{names:?}");
    for name in names {
        let counted = name.strip_suffix("_total").unwrap_or(name);
        ensure!(told.contains(name) || code.contains(&format!("\"{counted}\"")), "no metric is called {name}");
    }
    Ok(())
}

#[test]
fn r127_files_are_in_a_bucket_or_in_one_claim_of_all() -> anyhow::Result<()> {
    let store = |rendered: &Rendered, role: &str| -> anyhow::Result<Value> {
        Ok(variable(rendered.pod(role)?, "ESTAFET_MEDIA_STORE").context("no store")?["value"].clone())
    };
    let bucket = Chart::with(PRODUCTION).render()?;
    let made = Chart::with(FULL).render()?;
    let given = Chart::with(PRODUCTION).set("media.bucket.url=").set("media.claim.existingClaim=nfs").render()?;
    for role in ["coreapp", "webapp"] {
        ensure!(store(&bucket, role)? == "s3://estafet-media");
        let secret =
            &variable(bucket.pod(role)?, "ESTAFET_MEDIA_SECRET_ACCESS_KEY").context("no key")?["valueFrom"]["secretKeyRef"];
        ensure!(*secret == json!({ "name": "estafet-bucket", "key": "secret-access-key" }), "{secret}");
        for (rendered, claim) in [(&made, "relay-media"), (&given, "nfs")] {
            ensure!(store(rendered, role)? == "file:///var/lib/estafet/media");
            let pod = rendered.pod(role)?;
            let volume = items(&pod["volumes"]).iter().find(|volume| volume["name"] == "media").context("no volume")?;
            ensure!(volume["persistentVolumeClaim"]["claimName"] == claim, "{volume}");
            let mounts = items(&pod["containers"][0]["volumeMounts"]);
            ensure!(mounts.contains(&json!({ "name": "media", "mountPath": "/var/lib/estafet/media" })), "{mounts:?}");
        }
    }
    ensure!(bucket.kind("PersistentVolumeClaim").next().is_none() && given.kind("PersistentVolumeClaim").next().is_none());
    let claim = made.of("PersistentVolumeClaim", "media")?;
    ensure!(claim["spec"]["accessModes"] == json!(["ReadWriteMany"]), "{claim}");
    ensure!(claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", "files outlive the release");
    ensure!(made.objects.iter().all(|object| !object.to_string().contains("hostPath")), "a path of a machine is mounted");
    Ok(())
}

/// Ports that pods of a part may reach outside (no `to`), or within the given peers.
fn ports(policy: &Value, to: &Value) -> BTreeSet<u64> {
    let ways = items(&policy["spec"]["egress"]).iter().filter(|way| way["to"] == *to);
    ways.flat_map(|way| items(&way["ports"])).filter_map(|port| port["port"].as_u64()).collect()
}

fn peer(part: &str) -> Value {
    let labels = json!({ "app.kubernetes.io/name": "estafet", "app.kubernetes.io/instance": "estafet", "app.kubernetes.io/component": part });
    json!({ "podSelector": { "matchLabels": labels } })
}

#[test]
fn r148_coreapps_reach_receivers_and_the_network_and_only_roles_reach_roles() -> anyhow::Result<()> {
    let rendered = Chart::with(PRODUCTION).render()?;
    let policy = |role: &str| rendered.of("NetworkPolicy", role);
    let anywhere = ports(policy("coreapp")?, &Value::Null);
    ensure!(anywhere == BTreeSet::from([53, 80, 443, 2379, 5222, 5432]), "{anywhere:?}");
    ensure!(ports(policy("webapp")?, &Value::Null) == BTreeSet::from([53, 443, 5432]), "a webapp posts to nobody");
    for (role, port, callers) in
        [("coreapp", 6250, &["master", "webapp"][..]), ("master", 6260, &["master", "coreapp", "webapp", "operator"])]
    {
        let way = &policy(role)?["spec"]["ingress"][0];
        ensure!(way["ports"] == json!([{ "protocol": "TCP", "port": port }]));
        ensure!(items(&way["from"]).to_vec() == callers.iter().map(|part| peer(part)).collect::<Vec<_>>(), "{way}");
        for caller in callers.iter().filter(|caller| **caller != "operator") {
            ensure!(ports(policy(caller)?, &json!([peer(role)])).contains(&port), "{caller} may not dial {role}");
        }
    }
    ensure!(policy("webapp")?["spec"]["ingress"][0]["from"].is_null(), "everybody is a client");

    // Receivers that are known can be named, with ports of their own.
    let narrow = Chart::with(FULL).render()?;
    let receivers = ports(narrow.of("NetworkPolicy", "coreapp")?, &json!([{ "ipBlock": { "cidr": "203.0.113.0/24" } }]));
    ensure!(receivers == BTreeSet::from([443, 8443]), "{receivers:?}");
    let clients = &narrow.of("NetworkPolicy", "webapp")?["spec"]["ingress"][0]["from"];
    ensure!(*clients == json!([{ "ipBlock": { "cidr": "10.0.0.0/8" } }]), "{clients}");
    let trial = Chart::with(EVALUATION).render()?;
    for (role, port) in [("chatd", 5222), ("postgresql", 5432), ("etcd", 2379)] {
        let way = &trial.of("NetworkPolicy", role)?["spec"]["ingress"][0];
        ensure!(way["ports"][0]["port"] == port && items(&way["from"]).contains(&peer("coreapp")), "{way}");
    }
    Ok(())
}

#[test]
fn pods_keep_to_the_restricted_standard_and_secrets_are_named_and_not_shown() -> anyhow::Result<()> {
    for values in CLUSTERS {
        for (part, pod) in Chart::with(values).render()?.pods() {
            let of_pod = &pod["securityContext"];
            ensure!(of_pod["runAsNonRoot"] == true && of_pod["seccompProfile"]["type"] == "RuntimeDefault", "{values} {part}");
            ensure!(pod["automountServiceAccountToken"] == false && pod["enableServiceLinks"] == false, "{values} {part}");
            for container in items(&pod["containers"]).iter().chain(items(&pod["initContainers"])) {
                let security = &container["securityContext"];
                ensure!(security["allowPrivilegeEscalation"] == false && security["readOnlyRootFilesystem"] == true, "{part}");
                ensure!(security["capabilities"]["drop"] == json!(["ALL"]), "{values} {part}");
                for variable in items(&container["env"]) {
                    let name = variable["name"].as_str().unwrap_or_default();
                    let is_secret = name.ends_with("PASSWORD") || name.contains("SECRET") || name == "ESTAFET_DATABASE_URL";
                    ensure!(!is_secret || variable["valueFrom"]["secretKeyRef"]["name"].is_string(), "{part}: {variable}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_coreapp_has_time_to_hand_over_and_is_found_while_it_does() -> anyhow::Result<()> {
    let rendered = Chart::with(PRODUCTION).render()?;
    let pod = rendered.pod("coreapp")?;
    let drain = variable(pod, "ESTAFET_DRAIN_SECONDS").and_then(|found| found["value"].as_str()?.parse::<u64>().ok());
    let grace = pod["terminationGracePeriodSeconds"].as_u64();
    ensure!(grace >= drain.map(|drain| drain + 15) && drain.is_some(), "{grace:?} for a drain of {drain:?}");
    for role in ["master", "coreapp"] {
        let service = &rendered.of("Service", role)?["spec"];
        ensure!(service["clusterIP"] == "None" && service["publishNotReadyAddresses"] == true, "{service}");
        let set = rendered.of("StatefulSet", role)?;
        ensure!(set["spec"]["serviceName"] == rendered.of("Service", role)?["metadata"]["name"], "pods of {role} have no names");
    }
    for role in ["master", "coreapp", "webapp"] {
        let container = &rendered.pod(role)?["containers"][0];
        for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
            ensure!(container[probe]["httpGet"] == json!({ "path": path, "port": "ops" }), "{role}: {}", container[probe]);
        }
        ensure!(rendered.of("PodDisruptionBudget", role)?["spec"]["maxUnavailable"] == 1);
        ensure!(rendered.pod(role)?["topologySpreadConstraints"][0]["topologyKey"] == "topology.kubernetes.io/zone");
    }
    // A budget for a single pod would keep its machine from ever being emptied.
    let alone = Chart::with(EVALUATION).render()?;
    ensure!(alone.of("PodDisruptionBudget", "master").is_err() && alone.of("PodDisruptionBudget", "coreapp").is_ok());
    Ok(())
}

/// A certificate is for one role, under one cluster, and good for the names under which its holder is dialled.
#[test]
fn every_holder_has_a_certificate_of_its_role_and_address() -> anyhow::Result<()> {
    let rendered = Chart::with(FULL).set("coreapp.replicas=12").render()?;
    let mut holders = BTreeSet::new();
    for certificate in rendered.kind("Certificate") {
        let spec = &certificate["spec"];
        let uris = items(&spec["uris"]).iter().filter_map(Value::as_str);
        let identity = Identity::among(uris)?;
        let hosts: Vec<&str> = items(&spec["dnsNames"]).iter().filter_map(Value::as_str).collect();
        match identity.role() {
            Role::Master => ensure!(hosts == ["*.relay-master.chat.svc"], "{hosts:?}"),
            Role::Coreapp => ensure!(hosts == [format!("{}.relay-coreapp.chat.svc", identity.node())], "{hosts:?}"),
            Role::Webapp | Role::Operator => ensure!(hosts.is_empty(), "nobody dials it: {hosts:?}"),
        }
        ensure!(spec["usages"] == json!(["digital signature", "server auth", "client auth"]));
        holders.insert(format!("{}/{}", identity.role(), identity.node()));
        let secret = spec["secretName"].as_str().context("no secret")?;
        let pod = rendered.pod(identity.role().as_str())?;
        let volume = items(&pod["volumes"]).iter().find(|volume| volume["name"] == "tls").context("no volume")?;
        ensure!(volume.to_string().contains(&format!("\"{secret}\"")), "{secret} is not mounted: {volume}");
    }
    let coreapps = (0..12).map(|index| format!("coreapp/relay-coreapp-{index}"));
    let expected = coreapps.chain(["master/master", "webapp/webapp", "operator/operator"].map(str::to_owned)).collect();
    ensure!(holders == expected, "{holders:?}");
    Ok(())
}

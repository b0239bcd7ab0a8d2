//! `estafet certs`: a certificate authority and certificates of roles, for clusters without an authority of their own.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use estafet_runtime::Clock;
use estafet_tls::{Identity, Role, issue::Authority};

/// Options of `estafet certs`.
#[derive(Debug, Args)]
pub(crate) struct CertsArgs {
    /// Where the authority is, or is made: ca.pem and ca-key.pem. Keep ca-key.pem away from the cluster.
    #[arg(long)]
    dir: PathBuf,
    /// Name of the cluster; certificates of another name are refused.
    #[arg(long, default_value = "local")]
    cluster: String,
    /// Hosts that the certificates are good for, names (also *.name) or addresses.
    #[arg(long, value_delimiter = ',', default_value = "localhost,127.0.0.1,::1")]
    host: Vec<String>,
    /// Days that the certificates are good for.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Whom to make certificates for: master/NAME, coreapp/NAME, webapp/NAME or operator/NAME. The name of a
    /// coreapp is its --node.
    #[arg(required = true, value_name = "ROLE/NAME")]
    holders: Vec<String>,
}

/// Makes the certificates and prints their files, one a line.
pub(crate) fn run(args: CertsArgs) -> anyhow::Result<()> {
    let now = Clock::system().now_ms();
    let life = Duration::from_secs(u64::from(args.days) * 24 * 3600);
    let holders: Vec<Identity> = args.holders.iter().map(|holder| identity(&args.cluster, holder)).collect::<Result<_, _>>()?;
    let authority = Authority::open(&args.dir, &args.cluster, now)?;
    for holder in &holders {
        let files = authority.issue(holder, &args.host, now, life)?;
        crate::output::line(&files.cert.display().to_string())?;
    }
    Ok(())
}

fn identity(cluster: &str, holder: &str) -> anyhow::Result<Identity> {
    let parse = || {
        let (role, name) = holder.split_once('/').context("ROLE/NAME is expected")?;
        Ok::<_, anyhow::Error>(Identity::new(cluster, role.parse::<Role>()?, name)?)
    };
    parse().with_context(|| format!("certificate for {holder}"))
}

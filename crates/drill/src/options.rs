//! The command line of `estafet drill`, and the drills there are.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Subcommand, ValueEnum};
use estafet_tls::Flags;
use serde::Serialize;

use crate::core::verdict::Bound;

/// Arguments of `estafet drill`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show the drills and what each promises.
    List,
    /// Run drills under load, check the ledgers, and print a verdict.
    Run(Box<Options>),
}

/// How drills are run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The drills; `all` runs every one.
    #[arg(required = true, value_enum)]
    pub drills: Vec<Choice>,
    /// Messages a second over all shards, probes among them. More are sent when the probes alone are more.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// How often each fault is done, within one cluster; `etcd-away` and `rolling` are done once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repeat: u32,
    /// Milliseconds between two probes of a shard.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub probe_ms: u64,
    /// Shards of the number: a power of two. In `reshard` with a cluster of its own, the most it is given.
    #[arg(long, default_value_t = 8)]
    pub shards: u32,
    /// Numbers of the cluster of its own, each with `--shards` shards; more than one not in `reshard`.
    #[arg(long, default_value_t = 1, conflicts_with = "webapp", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub numbers: u32,
    /// The release that `rolling` begins and ends with (a binary); without it this one.
    #[arg(long, value_name = "BIN", conflicts_with = "webapp")]
    pub from: Option<PathBuf>,
    /// The release that `rolling` changes to and back from; without it the one of `--from`.
    #[arg(long, value_name = "BIN", conflicts_with = "webapp")]
    pub to: Option<PathBuf>,
    /// Seconds that etcd is away in `etcd-away`.
    #[arg(long, default_value_t = 600)]
    pub etcd_away_secs: u64,
    /// Write a JSON report to this file.
    #[arg(long)]
    pub report: Option<PathBuf>,
    /// Start a cluster of its own for each drill: 2 masters, 3 coreapps, 2 webapps, etcd, PostgreSQL with fsync.
    /// This is the default when no --webapp is given.
    #[arg(long, conflicts_with = "webapp")]
    pub local: bool,
    /// Do not wait for the disk in the cluster of its own (figures are worth nothing then).
    #[arg(long)]
    pub no_fsync: bool,
    /// Base URLs of the webapps of a running cluster.
    #[arg(long, value_delimiter = ',', requires_all = ["masters", "phones_url"])]
    pub webapp: Vec<String>,
    /// Masters of the running cluster (host:port).
    #[arg(long, value_delimiter = ',')]
    pub masters: Vec<String>,
    /// How its masters are dialled, with the certificate of an operator.
    #[command(flatten)]
    pub tls: Flags,
    /// Certificates of authorities (PEM) that its webapps may be from, beside those that the system trusts.
    #[arg(long, value_name = "FILE", requires = "webapp")]
    pub webapp_ca: Option<PathBuf>,
    /// Where the phones' control interface of its network answers.
    #[arg(long)]
    pub phones_url: Option<String>,
    /// Password of `admin`.
    #[arg(long, env = "ESTAFET_ADMIN_PASSWORD", hide_env_values = true)]
    pub admin_password: Option<String>,
    /// Audit log of its network, if it can be read from here.
    #[arg(long)]
    pub audit: Option<PathBuf>,
    /// Where the drill receives callbacks of the running cluster; without it callbacks are not checked.
    #[arg(long)]
    pub sink: Option<SocketAddr>,
    /// What does something to the running cluster: VERB=COMMAND, may be repeated (docs/drills.md). `{node}` in the
    /// command becomes the name of the node.
    #[arg(long, value_name = "VERB=COMMAND")]
    pub hook: Vec<Hook>,
}

impl Options {
    /// Drills in clusters of their own, with the defaults of the command line.
    pub fn local(drills: impl IntoIterator<Item = Drill>) -> Self {
        Self {
            drills: drills.into_iter().map(Choice::One).collect(),
            rate: 500,
            repeat: 3,
            probe_ms: 5,
            shards: 8,
            numbers: 1,
            from: None,
            to: None,
            etcd_away_secs: 600,
            report: None,
            local: true,
            no_fsync: false,
            webapp: Vec::new(),
            masters: Vec::new(),
            tls: Flags::default(),
            webapp_ca: None,
            phones_url: None,
            admin_password: None,
            audit: None,
            sink: None,
            hook: Vec::new(),
        }
    }

    /// The drills, each once.
    pub fn chosen(&self) -> Vec<Drill> {
        let all = self.drills.contains(&Choice::All);
        Drill::ALL.into_iter().filter(|drill| all || self.drills.contains(&Choice::One(*drill))).collect()
    }

    /// Time between two probes of a shard.
    pub fn probe(&self) -> Duration {
        Duration::from_millis(self.probe_ms)
    }

    /// Shards of all numbers at first.
    pub(crate) fn shards_of_all(&self, drill: Drill) -> u32 {
        self.numbers * drill.begins_with(self)
    }

    /// Messages a second beside the probes of so many shards: what the rate leaves, and never less than a fifth of it, so that full
    /// cycles with receipts and callbacks are always among the traffic.
    pub fn load(&self, ranges: u32) -> u32 {
        let probes = u64::from(ranges) * 1000 / self.probe_ms.max(1);
        let left = self.rate.saturating_sub(u32::try_from(probes).unwrap_or(u32::MAX));
        left.max(self.rate / 5).max(1)
    }
}

/// A command that does something to a running cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What it does: `kill`, `hang`, `wake`, `drain`, `restore` ...
    pub verb: String,
    /// Given to `sh -c`.
    pub command: String,
}

impl FromStr for Hook {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (verb, command) = text.split_once('=').ok_or("VERB=COMMAND")?;
        Ok(Self { verb: verb.to_owned(), command: command.to_owned() })
    }
}

/// A drill, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Every drill.
    All,
    /// This one.
    One(Drill),
}

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        const CHOICES: &[Choice] = &[
            Choice::All,
            Choice::One(Drill::KillOwner),
            Choice::One(Drill::HangOwner),
            Choice::One(Drill::PartitionOwner),
            Choice::One(Drill::Drain),
            Choice::One(Drill::KillMaster),
            Choice::One(Drill::HangMaster),
            Choice::One(Drill::KillEtcdLeader),
            Choice::One(Drill::KillTrio),
            Choice::One(Drill::EtcdAway),
            Choice::One(Drill::RestartDb),
            Choice::One(Drill::Reshard),
            Choice::One(Drill::Rolling),
        ];
        CHOICES
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(match self {
            Self::All => "all",
            Self::One(drill) => drill.name(),
        }))
    }
}

/// A failover done on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drill {
    /// The coreapp with the most shards is killed.
    KillOwner,
    /// It stops in the middle of what it does, and wakes after it was overtaken.
    HangOwner,
    /// It is cut off from everybody, and comes back after it was overtaken.
    PartitionOwner,
    /// It is asked to end.
    Drain,
    /// The leading master is killed.
    KillMaster,
    /// The leading master stops in the middle of what it does, and wakes.
    HangMaster,
    /// The leader of etcd is killed.
    KillEtcdLeader,
    /// The leading master, the coreapp with the most shards and the leader of etcd are killed at once.
    KillTrio,
    /// All of etcd is gone for a while.
    EtcdAway,
    /// The database throws everybody out and starts again.
    RestartDb,
    /// The number gets twice as many shards, three times over, and then half as many.
    Reshard,
    /// Each process of each role is replaced by one of another release, one after the other, and all of them back.
    Rolling,
}

impl Drill {
    /// Every drill.
    pub const ALL: [Self; 12] = [
        Self::KillOwner,
        Self::HangOwner,
        Self::PartitionOwner,
        Self::Drain,
        Self::KillMaster,
        Self::HangMaster,
        Self::KillEtcdLeader,
        Self::KillTrio,
        Self::EtcdAway,
        Self::RestartDb,
        Self::Reshard,
        Self::Rolling,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillOwner => "kill-owner",
            Self::HangOwner => "hang-owner",
            Self::PartitionOwner => "partition-owner",
            Self::Drain => "drain",
            Self::KillMaster => "kill-master",
            Self::HangMaster => "hang-master",
            Self::KillEtcdLeader => "kill-etcd-leader",
            Self::KillTrio => "kill-trio",
            Self::EtcdAway => "etcd-away",
            Self::RestartDb => "restart-db",
            Self::Reshard => "reshard",
            Self::Rolling => "rolling",
        }
    }

    /// What happens, and what is promised, in a line.
    pub fn describe(self) -> &'static str {
        match self {
            Self::KillOwner => "kill -9 of the coreapp with the most shards: gap p50 <= 250 ms, p99 <= 500 ms",
            Self::HangOwner => "SIGSTOP of that coreapp until it was overtaken: gap p99 <= 1.5 s, nothing accepted when it wakes",
            Self::PartitionOwner => "that coreapp cut off from everybody: gap p99 <= 1.5 s, nothing accepted when it is back",
            Self::Drain => "SIGTERM to that coreapp: gap p99 <= 100 ms, no request fails",
            Self::KillMaster => "kill -9 of the leading master: no gap, new leader <= 1 s, no request fails",
            Self::HangMaster => "SIGSTOP of the leading master: no gap, new leader <= 3 s, no request fails",
            Self::KillEtcdLeader => "kill -9 of the leader of an etcd of three: no gap, no request fails, no shard moves",
            Self::KillTrio => "leading master, owner and leader of etcd killed at once: gap <= 4 s",
            Self::EtcdAway => "all of etcd gone for --etcd-away-secs: no request fails, no shard moves",
            Self::RestartDb => "the database restarted: every shard accepts within 1 s after it takes connections",
            Self::Reshard => "shard count doubled up to three times, then halved: gap p99 <= 500 ms, no request fails",
            Self::Rolling => "every master, coreapp and webapp replaced by another release, then back: no request fails",
        }
    }

    /// What it promises beside the ledgers.
    pub fn bounds(self) -> Vec<Bound> {
        let ms = Duration::from_millis;
        match self {
            Self::KillOwner => vec![Bound::GapP50(ms(250)), Bound::GapP99(ms(500))],
            Self::HangOwner | Self::PartitionOwner => vec![Bound::GapP99(ms(1500))],
            Self::Drain => vec![Bound::GapP99(ms(100)), Bound::NoFailures],
            Self::KillMaster => vec![Bound::GapAsUndisturbed, Bound::Leader(ms(1000)), Bound::NoFailures],
            Self::HangMaster => vec![Bound::GapAsUndisturbed, Bound::Leader(ms(3000)), Bound::NoFailures],
            Self::KillEtcdLeader => vec![Bound::GapAsUndisturbed, Bound::NoFailures, Bound::NoMoves],
            Self::KillTrio => vec![Bound::GapP99(ms(4000))],
            Self::EtcdAway => vec![Bound::NoFailures, Bound::NoMoves],
            Self::RestartDb => vec![Bound::Recovered(ms(1000))],
            Self::Reshard => vec![Bound::GapP99(ms(500)), Bound::NoFailures],
            Self::Rolling => vec![Bound::NoFailures],
        }
    }

    /// How often it is done when each fault is to be done `repeat` times: the long absence of etcd only once, and so what is
    /// done to every process.
    pub(crate) fn repeats(self, repeat: u32) -> u32 {
        if matches!(self, Self::EtcdAway | Self::Rolling) { 1 } else { repeat }
    }

    /// The shard count that the number has at first.
    pub(crate) fn begins_with(self, options: &Options) -> u32 {
        let is_local = options.webapp.is_empty();
        if self == Self::Reshard && is_local { (options.shards >> DOUBLINGS).max(1) } else { options.shards }
    }

    /// The shard counts that the number is given, one after the other.
    pub(crate) fn counts(self, options: &Options) -> Vec<u32> {
        let most = if options.webapp.is_empty() { options.shards.clamp(2, MOST_SHARDS) } else { MOST_SHARDS };
        if self == Self::Reshard { counts_up_to(most, self.begins_with(options)) } else { Vec::new() }
    }

    /// How many ranges of slots of a number are watched apart: as many as it has shards when it has most of them.
    pub(crate) fn ranges(self, options: &Options) -> u32 {
        self.counts(options).into_iter().fold(self.begins_with(options), u32::max)
    }

    /// Members of etcd in a cluster of its own.
    pub(crate) fn etcd_members(self) -> usize {
        if matches!(self, Self::KillEtcdLeader | Self::KillTrio) { 3 } else { 1 }
    }
}

/// How often `reshard` doubles a count.
const DOUBLINGS: u32 = 3;
/// Most shards that the API gives a number.
const MOST_SHARDS: u32 = 32;

/// Up by doubling, and one down.
fn counts_up_to(most: u32, first: u32) -> Vec<u32> {
    let up = (1..=DOUBLINGS).map(|n| first << n).filter(|count| *count <= most);
    let mut counts: Vec<u32> = up.collect();
    counts.push((counts.last().copied().unwrap_or(first) / 2).max(1));
    counts
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn options(line: &[&str]) -> Options {
        match Line::try_parse_from([&["drill", "run"], line].concat()).unwrap().args.command {
            Command::Run(options) => *options,
            Command::List => panic!("not a run"),
        }
    }

    #[test]
    fn every_drill_can_be_chosen_by_its_name_and_all_are_all() {
        assert_eq!(options(&["all"]).chosen(), Drill::ALL);
        for drill in Drill::ALL {
            assert_eq!(options(&[drill.name()]).chosen(), [drill]);
        }
        assert_eq!(options(&["drain", "kill-owner", "drain"]).chosen(), [Drill::KillOwner, Drill::Drain]);
    }

    #[test]
    fn the_options_of_code_are_the_defaults_of_the_command_line() {
        let (code, line) = (Options::local([Drill::Drain]), options(&["drain", "--local"]));
        assert_eq!(format!("{code:?}"), format!("{line:?}"));
    }

    #[test]
    fn probes_count_into_the_rate_and_full_cycles_are_always_there() {
        assert_eq!(options(&["all", "--rate", "500", "--probe-ms", "50"]).load(8), 500 - 160);
        assert_eq!(options(&["all", "--rate", "500", "--probe-ms", "5"]).load(8), 100);
    }

    #[test]
    fn shard_counts_go_up_by_doubling_and_one_down() {
        for (first, counts) in
            [(1, vec![2, 4, 8, 4]), (4, vec![8, 16, 32, 16]), (16, vec![32, 16]), (32, vec![16]), (64, vec![32])]
        {
            assert_eq!(counts_up_to(MOST_SHARDS, first), counts);
        }
        let local = options(&["reshard"]);
        assert_eq!((Drill::Reshard.begins_with(&local), Drill::Reshard.ranges(&local)), (1, 8));
        assert_eq!(Drill::Reshard.counts(&local), [2, 4, 8, 4]);
        assert_eq!(Drill::Reshard.counts(&options(&["reshard", "--shards", "4"])), [2, 4, 2]);
        let running = ["reshard", "--shards", "4", "--webapp", "http://a", "--masters", "b", "--phones-url", "http://c"];
        assert_eq!((Drill::Reshard.begins_with(&options(&running)), Drill::Reshard.ranges(&options(&running))), (4, 32));
        assert_eq!((Drill::Drain.begins_with(&local), Drill::Drain.ranges(&local)), (8, 8));
        assert!(Drill::Drain.counts(&local).is_empty());
    }

    #[test]
    fn a_hook_is_a_verb_and_a_command_that_may_hold_an_equals_sign() {
        let hook = options(&["drain", "--hook", "kill=kubectl delete pod --grace-period=0 {node}"]).hook.remove(0);
        assert_eq!((hook.verb.as_str(), hook.command.as_str()), ("kill", "kubectl delete pod --grace-period=0 {node}"));
    }
}

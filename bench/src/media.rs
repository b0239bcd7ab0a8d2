//! Files: how fast they are uploaded and downloaded side by side, and what memory each takes of the server.
//!
//! Every transfer is read to its last byte and counted. The memory of a transfer is what the server's highest
//! use during a round is above its use after a warm-up, divided by the transfers that ran at once. It holds for
//! directories; a bucket needs parts of 5 MiB.

use std::{
    convert::Infallible,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use estafet_harness::{Api, Sandbox};
use futures::{StreamExt as _, future::try_join_all, stream};
use reqwest::{Body, Method};
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    backlog::memory_mib,
    progress,
    report::{as_json, median, publish, spread},
    rig,
};

const MIB: u64 = 1 << 20;
/// Bytes given to the connection at once.
const PIECE: usize = 256 * 1024;

/// Rounds before the first that counts.
const WARM_UPS: u32 = 2;

/// How it is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Size of a file, MiB.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub size_mib: u64,
    /// Transfers at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub parallel: u64,
    /// Rounds: each uploads all files, downloads and removes them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub rounds: u64,
    /// Memory the server may take for a transfer, MiB; more fails the bench.
    #[arg(long, default_value_t = 2.0)]
    pub max_transfer_mib: f64,
    /// Rate below which uploads or downloads fail the bench, MB/s. Without it none does.
    #[arg(long)]
    pub min_rate: Option<f64>,
    /// Keep files below this directory. Default: the system's directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print the report as a section of docs/benchmarks.md instead of JSON.
    #[arg(long)]
    pub markdown: bool,
}

/// One direction, over all rounds.
#[derive(Debug, Default, Serialize)]
struct Direction {
    /// Of each round: bytes of all files by the time until the last was done; 1 MB is 1,000,000 bytes.
    mb_per_second: Vec<f64>,
    /// Of each round.
    transfer_mib: Vec<f64>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    command: String,
    machine: String,
    upload: Direction,
    download: Direction,
}

/// Measures, prints the report, and fails if bytes were lost or a bound was not held.
pub(crate) async fn run(binary: &Path, options: &Options) -> anyhow::Result<()> {
    let mut directory = tempfile::Builder::new();
    directory.prefix("estafet-bench-");
    let data = match &options.dir {
        Some(within) => directory.tempdir_in(within)?,
        None => directory.tempdir()?,
    };
    let limit = (options.size_mib * MIB).to_string();
    let flags = Sandbox::options().binary(binary).data_dir(data.path()).phones(0).flag("--max-upload-bytes", &limit);
    let mut sandbox = flags.start().await?;
    let client = Client { api: sandbox.login().await?, pid: sandbox.pid(), size: options.size_mib * MIB };
    progress("warming up");
    let (mut upload, mut download) = (Direction::default(), Direction::default());
    // The first rounds make threads and buffers that the process keeps: some 40 MiB for eight transfers, once.
    for _ in 0..WARM_UPS {
        client.round(options.parallel, &mut Direction::default(), &mut Direction::default()).await?;
    }
    for round in 1..=options.rounds {
        progress(&format!("round {round} of {}: {} files of {} MiB", options.rounds, options.parallel, options.size_mib));
        client.round(options.parallel, &mut upload, &mut download).await?;
    }
    sandbox.terminate().await?;
    let Options { size_mib, parallel, rounds, .. } = options;
    let report = Report {
        bench: "media",
        command: format!("estafet bench media --size-mib {size_mib} --parallel {parallel} --rounds {rounds}"),
        machine: rig::machine(options.dir.as_ref()),
        upload,
        download,
    };
    report.publish(options)?;
    report.check(options)
}

/// Uploads and downloads at one server.
struct Client {
    api: Api,
    pid: u32,
    size: u64,
}

impl Client {
    /// Uploads all files side by side, downloads them, removes them.
    async fn round(&self, parallel: u64, up: &mut Direction, down: &mut Direction) -> anyhow::Result<()> {
        let ids = self.measure(up, (0..parallel).map(|_| self.upload()).collect()).await?;
        self.measure(down, ids.iter().map(|id| self.download(id)).collect()).await?;
        for id in &ids {
            let answer = self.api.call(Method::DELETE, &format!("/v1/media/{id}"), None).await?;
            ensure!(answer.status == 200, "a file could not be removed: {}", answer.text);
        }
        Ok(())
    }

    async fn measure<T>(
        &self,
        direction: &mut Direction,
        transfers: Vec<impl Future<Output = anyhow::Result<T>>>,
    ) -> anyhow::Result<Vec<T>> {
        let count = transfers.len() as f64;
        let memory = |name| memory_mib(self.pid, name).context("the sandbox is gone");
        let before = memory("VmRSS:")?;
        // 5 makes the present use the highest.
        std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5").context("the highest memory use cannot be reset")?;
        let started = Instant::now();
        let results = try_join_all(transfers).await?;
        let seconds = started.elapsed().as_secs_f64();
        direction.mb_per_second.push(count * self.size as f64 / seconds / 1e6);
        direction.transfer_mib.push((memory("VmHWM:")? - before).max(0.0) / count);
        Ok(results)
    }

    async fn upload(&self) -> anyhow::Result<String> {
        let piece = Bytes::from(vec![0x5a; PIECE]);
        let pieces = stream::iter(0..self.size / PIECE as u64).map(move |_| Ok::<_, Infallible>(piece.clone()));
        let answer = self.api.begin_upload("application/octet-stream", Body::wrap_stream(pieces)).await?;
        ensure!(answer.status == 200, "an upload was answered with {}: {}", answer.status, answer.text);
        Ok(answer.text_at("/media/0/id").context("an upload without id")?.to_owned())
    }

    async fn download(&self, id: &str) -> anyhow::Result<()> {
        let size = self.api.drain(&format!("/v1/media/{id}")).await?;
        ensure!(size == self.size, "{size} of {} bytes came", self.size);
        Ok(())
    }
}

impl Direction {
    fn sorted(values: &[f64]) -> Vec<f64> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn rate(&self) -> f64 {
        median(&Self::sorted(&self.mb_per_second)).unwrap_or_default()
    }

    fn worst_transfer_mib(&self) -> f64 {
        self.transfer_mib.iter().copied().fold(0.0, f64::max)
    }
}

impl Report {
    fn directions(&self) -> [(&'static str, &Direction); 2] {
        [("upload", &self.upload), ("download", &self.download)]
    }

    fn publish(&self, options: &Options) -> anyhow::Result<()> {
        let text = if options.markdown { self.markdown() } else { as_json(self)? };
        publish(self, options.report.as_deref(), text)
    }

    fn markdown(&self) -> String {
        let mut text = format!("### media\n\n{}\n\n    {}\n\n", self.machine, self.command);
        text.push_str("| | MB/s | memory of a transfer, MiB |\n| --- | ---: | ---: |\n");
        for (name, direction) in self.directions() {
            let show = |values: &[f64], digits| spread(&Direction::sorted(values), digits);
            let (rate, memory) = (show(&direction.mb_per_second, 0), show(&direction.transfer_mib, 2));
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {name} | {rate} | {memory} |");
        }
        text + "\nMedian (lowest to highest) of the rounds."
    }

    /// Whether the bounds were held: the median rate, and the memory of every round.
    fn check(&self, options: &Options) -> anyhow::Result<()> {
        for (name, direction) in self.directions() {
            let (rate, memory) = (direction.rate(), direction.worst_transfer_mib());
            ensure!(
                memory <= options.max_transfer_mib,
                "{name}: {memory:.2} MiB of memory for a transfer, {} allowed",
                options.max_transfer_mib
            );
            if let Some(least) = options.min_rate {
                ensure!(rate >= least, "{name}: {rate:.0} MB/s, {least} wanted");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_round_with_too_much_memory_or_a_median_too_slow_fails() {
        let options = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().options;
        let direction =
            |rates: &[f64], memory: &[f64]| Direction { mb_per_second: rates.to_vec(), transfer_mib: memory.to_vec() };
        let report =
            |upload, download| Report { bench: "media", command: String::new(), machine: String::new(), upload, download };
        let good = || direction(&[100.0, 250.0, 300.0], &[1.9, 2.0, 0.0]);
        assert!(report(good(), good()).check(&options("media --min-rate 250")).is_ok());
        assert!(report(good(), good()).check(&options("media --min-rate 251")).is_err());
        assert!(report(good(), direction(&[900.0], &[0.0, 2.1])).check(&options("media")).is_err());
        assert!(report(direction(&[900.0], &[2.1]), good()).check(&options("media --max-transfer-mib 2.5")).is_ok());
        assert!(report(good(), good()).markdown().contains("| upload | 250 (100 to 300) | 1.90 (0.00 to 2.00) |"));
    }
}

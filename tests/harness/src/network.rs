//! A private network for a test, where the kernel drops packets: real partitions, with retransmissions and dials
//! that hear nothing.
//!
//! [`run`] gives the calling thread, and every thread and process that is started from it, a network namespace with
//! nothing but loopback. It ends with its last process, so nothing is ever left behind, whatever happens to the
//! test. Rules match ports: each way of [`FaultyRoads`](crate::FaultyRoads) has one of its own.

use std::{
    future::Future,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, unshare};

/// Which packets of a connection are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Those of who dialled.
    ToServer,
    /// Those of who was dialled.
    ToClient,
    /// All.
    Both,
}

/// A network of one's own.
#[derive(Debug)]
pub struct Network(());

/// Runs a test in a network of its own. Where the kernel does not permit one, or the tools are missing, says so on
/// standard error and runs nothing.
#[allow(clippy::print_stderr, reason = "a test that was skipped must say so")]
pub fn run<F: Future<Output = anyhow::Result<()>>>(test: impl FnOnce(Network) -> F) -> anyhow::Result<()> {
    if let Err(reason) = isolate() {
        eprintln!("skipped, no network of its own for this test: {reason:#}");
        return Ok(());
    }
    // Its threads are started from this one, so they are in the same network.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(test(Network(())))
}

/// Moves this thread into a network of its own, if there is everything to work with.
fn isolate() -> anyhow::Result<()> {
    for tool in ["ip", "nft"] {
        let found = Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        ensure!(found.is_ok(), "`{tool}` is not installed (Debian: iproute2, nftables)");
    }
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace is not permitted (CAP_SYS_ADMIN)")?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).output()?;
    ensure!(up.status.success(), "loopback: {}", String::from_utf8_lossy(&up.stderr).trim());
    apply(&rules(&[]))
}

impl Network {
    /// From now on packets to and from these ports are lost as told, and no others.
    pub fn lose(&self, ports: &[(u16, Lost)]) -> anyhow::Result<()> {
        apply(&rules(ports))
    }

    /// From now on nothing is lost.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.lose(&[])
    }
}

/// The whole table, replaced in one step.
fn rules(ports: &[(u16, Lost)]) -> String {
    let list = |lost: fn(Lost) -> bool| {
        let ports: Vec<String> = ports.iter().filter(|(_, what)| lost(*what)).map(|(port, _)| port.to_string()).collect();
        ports.join(", ")
    };
    let drop = |side: &str, ports: String| if ports.is_empty() { ports } else { format!("tcp {side} {{ {ports} }} drop\n") };
    let there = drop("dport", list(|lost| lost != Lost::ToClient));
    let back = drop("sport", list(|lost| lost != Lost::ToServer));
    format!(
        "table inet fault {{}}\ndelete table inet fault\ntable inet fault {{\nchain in {{\ntype filter hook input priority 0;\n{there}{back}}}\n}}\n"
    )
}

fn apply(rules: &str) -> anyhow::Result<()> {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    nft.stdin.take().context("nft has no input")?.write_all(rules.as_bytes())?;
    let done = nft.wait_with_output()?;
    ensure!(done.status.success(), "nft: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::PATIENCE;

    /// Long enough to notice bytes that should not come.
    const A_WHILE: Duration = Duration::from_millis(100);

    #[test]
    fn lost_packets_are_lost_by_direction_and_come_after_the_heal() {
        run(async |network: Network| {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            let address = listener.local_addr()?;
            for lost in [Lost::ToServer, Lost::ToClient, Lost::Both] {
                let mut client = TcpStream::connect(address).await?;
                let (mut server, _) = listener.accept().await?;
                network.lose(&[(address.port(), lost)])?;
                client.write_all(b"?").await?;
                server.write_all(b"!").await?;
                let (mut there, mut back) = ([0], [0]);
                assert_eq!(timeout(A_WHILE, server.read_exact(&mut there)).await.is_ok(), lost == Lost::ToClient);
                assert_eq!(timeout(A_WHILE, client.read_exact(&mut back)).await.is_ok(), lost == Lost::ToServer);
                assert!(timeout(A_WHILE, TcpStream::connect(address)).await.is_err(), "a dial was answered");
                network.heal()?;
                let server_hears = async { if there == [0] { server.read_exact(&mut there).await.map(drop) } else { Ok(()) } };
                timeout(PATIENCE, server_hears).await.context("it did not come")??;
                let client_hears = async { if back == [0] { client.read_exact(&mut back).await.map(drop) } else { Ok(()) } };
                timeout(PATIENCE, client_hears).await.context("it did not come")??;
                assert_eq!((there, back), (*b"?", *b"!"));
                // Dials that were given up are still in the line.
                while timeout(A_WHILE, listener.accept()).await.is_ok() {}
            }
            Ok(())
        })
        .unwrap();
    }
}

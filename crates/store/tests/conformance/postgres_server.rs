//! A PostgreSQL server as a child process: own data directory, own port, gone with its handle.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use estafet_tls::Files;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User, chown},
};
use tempfile::TempDir;

pub(crate) struct PostgresServer {
    child: Child,
    port: u16,
    programs: PathBuf,
    directory: TempDir,
}

impl PostgresServer {
    /// Starts a server whose superuser `wa` needs no password.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts one that has this certificate and refuses whoever does not encrypt.
    pub(crate) fn start_encrypted(files: &Files) -> Self {
        Self::start_with(Some(files))
    }

    fn start_with(certificate: Option<&Files>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if let Some(user) = server_user() {
            chown(directory.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        let shown = Command::new("pg_config").arg("--bindir").output().expect("PostgreSQL is installed");
        let programs = PathBuf::from(String::from_utf8(shown.stdout).unwrap().trim());
        let data = directory.path().join("data");
        let mut initdb = command(&programs.join("initdb"), directory.path());
        initdb.arg("-D").arg(&data).args(["-U", "wa", "--auth=trust", "--no-sync", "--no-instructions"]);
        run(initdb.args(["-E", "UTF8", "--locale=C"]));

        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut server = command(&programs.join("postgres"), directory.path());
        server.arg("-D").arg(&data).arg("-k").arg(directory.path()).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        for setting in ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=64MB"] {
            server.args(["-c", setting]);
        }
        if let Some(files) = certificate {
            let hba = "local all all trust\nhostssl all all 127.0.0.1/32 trust\nhostssl all all ::1/128 trust\n";
            std::fs::write(data.join("pg_hba.conf"), hba).unwrap();
            // The server reads them as its own user, and a key only if nobody else may.
            for (from, name) in [(&files.cert, "server.crt"), (&files.key, "server.key")] {
                let to = data.join(name);
                std::fs::copy(from, &to).unwrap();
                if let Some(user) = server_user() {
                    chown(&to, Some(user.uid), Some(user.gid)).unwrap();
                }
            }
            server.args(["-c", "ssl=on"]);
        }
        let child = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, port, programs, directory };
        server.wait_until_ready();
        server
    }

    /// Creates an empty database; its URL.
    pub(crate) fn create_database(&self, name: &str) -> String {
        // PostgreSQL cuts longer names.
        let name = &name[..name.len().min(60)];
        let mut createdb = command(&self.programs.join("createdb"), self.directory.path());
        run(createdb.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "wa", name]));
        format!("postgres://wa:p@ss/w%rd@127.0.0.1:{}/{name}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn wait_until_ready(&self) {
        let port = self.port.to_string();
        let ready = || {
            let mut probe = command(&self.programs.join("pg_isready"), self.directory.path());
            probe.args(["-q", "-h", "127.0.0.1", "-p", &port, "-t", "5"]).status().unwrap().success()
        };
        assert!((0..2000).any(|_| ready()), "the server did not become ready");
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        // Fast shutdown: sessions are ended, not waited for.
        if kill(pid, Signal::SIGINT).is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// PostgreSQL refuses to run as root.
fn server_user() -> Option<User> {
    Uid::effective().is_root().then(|| User::from_name("postgres").unwrap().expect("a user postgres"))
}

fn command(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    // Clients look for certificates at home, which is not this user's.
    command.current_dir(directory).env("HOME", directory);
    if let Some(user) = server_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

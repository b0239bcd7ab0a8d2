//! A MariaDB server as a child process: own data directory, own port, gone with its handle.
//!
//! It stands in for MySQL, which Debian does not have.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use nix::unistd::Uid;
use tempfile::TempDir;

/// As the URL has it; the server is told the same.
const PASSWORD: &str = "p@ss/w%rd:'\"\\?#";

pub(crate) struct MySqlServer {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl MySqlServer {
    /// Starts a server that lets the user `wa` in by password.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let data = format!("--datadir={}", path("data"));
        // Servers that share a directory for temporary tables take each other's.
        let temporary = format!("--tmpdir={}", path(""));
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", &data, &temporary, "--auth-root-authentication-method=normal", "--skip-test-db"]);
        succeeded(&run(install.arg("--innodb-log-file-size=8M")));

        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        // Debian keeps it where only root looks.
        let program = if Path::new("/usr/sbin/mariadbd").exists() { "/usr/sbin/mariadbd" } else { "mariadbd" };
        let mut server = Command::new(program);
        server.args(["--no-defaults", &data, &temporary, &format!("--port={port}"), &format!("--socket={}", path("s"))]);
        server.args(["--bind-address=127.0.0.1", "--skip-name-resolve", &format!("--pid-file={}", path("pid"))]);
        server.args(["--skip-log-bin", "--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0", "--sync-frm=OFF"]);
        server.args([
            "--innodb-doublewrite=OFF",
            "--innodb-log-file-size=8M",
            "--innodb-buffer-pool-size=64M",
            "--performance-schema=OFF",
        ]);
        // What a session asks for must not depend on these.
        server.args(["--sql-mode=", "--transaction-isolation=SERIALIZABLE", "--character-set-server=latin1"]);
        if Uid::effective().is_root() {
            server.arg("--user=root");
        }
        let log = fs::File::create(path("log")).unwrap();
        let child = server.stdout(Stdio::null()).stderr(log).spawn().unwrap_or_else(|cause| absent(program, &cause));
        let mut server = Self { child, port, directory };
        server.wait_until_ready();
        let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
        server.sql(&format!("CREATE USER wa@'127.0.0.1' IDENTIFIED BY '{password}'; GRANT ALL ON *.* TO wa@'127.0.0.1'"));
        server
    }

    /// Creates an empty database; its URL.
    pub(crate) fn create_database(&self, name: &str) -> String {
        // The server refuses longer names.
        let name = &name[..name.len().min(64)];
        self.sql(&format!("CREATE DATABASE {name}"));
        format!("mysql://wa:{PASSWORD}@127.0.0.1:{}/{name}", self.port)
    }

    /// The socket of the user `root`, who needs no password.
    pub(crate) fn socket(&self) -> String {
        self.directory.path().join("s").display().to_string()
    }

    fn sql(&self, sql: &str) {
        succeeded(&run(Command::new("mariadb").args(["--no-defaults", "-u", "root", "-S", &self.socket(), "-e", sql])));
    }

    fn wait_until_ready(&mut self) {
        let socket = self.socket();
        let ping = || run(Command::new("mariadb-admin").args(["--no-defaults", "-u", "root", "-S", &socket, "ping"]));
        for _ in 0..2000 {
            if ping().status.success() {
                return;
            }
            if self.child.try_wait().unwrap().is_some() {
                break;
            }
        }
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        panic!("the server did not become ready:\n{log}");
    }
}

impl Drop for MySqlServer {
    fn drop(&mut self) {
        // Its data directory goes too, so there is nothing to shut down in order.
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|cause| absent(&command.get_program().display().to_string(), &cause))
}

fn absent(program: &str, cause: &std::io::Error) -> ! {
    panic!("{program}: {cause}; `make setup` installs it (Debian package mariadb-server)")
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

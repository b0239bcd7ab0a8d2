//! The options of the roles of a cluster; each is also read from `ESTAFET_` and its name in capitals.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use estafet_model::WaId;
use estafet_tls::Flags;

use crate::media::MediaArgs;

/// For probes and collectors of metrics (docs/operations.md).
#[derive(Debug, Args)]
pub(crate) struct OpsArgs {
    /// Where /livez, /readyz and /metrics answer, to anybody who asks; port 0 takes a free one.
    #[arg(long, env = "ESTAFET_OPS_LISTEN", default_value = "127.0.0.1:9102")]
    pub(crate) ops_listen: SocketAddr,
}

/// Where etcd is, and how it is told who asks.
#[derive(Debug, Args)]
pub(crate) struct EtcdArgs {
    /// Members of the etcd cluster. A coreapp without them works, and is not registered there.
    #[arg(long, env = "ESTAFET_ETCD", value_delimiter = ',', value_name = "URL")]
    pub(crate) etcd: Vec<String>,
    /// Prefix of this cluster's keys in etcd.
    #[arg(long, env = "ESTAFET_ETCD_PREFIX", default_value = "/estafet")]
    pub(crate) etcd_prefix: String,
    /// Certificates of the authorities that etcd's members are from (PEM), for https:// addresses.
    #[arg(long, env = "ESTAFET_ETCD_CA", value_name = "FILE", requires = "etcd")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// Certificate shown to etcd (PEM).
    #[arg(long, env = "ESTAFET_ETCD_CERT", value_name = "FILE", requires_all = ["etcd_ca", "etcd_key"])]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "ESTAFET_ETCD_KEY", value_name = "FILE", requires = "etcd_cert")]
    pub(crate) etcd_key: Option<PathBuf>,
    /// User of etcd.
    #[arg(long, env = "ESTAFET_ETCD_USER", requires_all = ["etcd", "etcd_secret"])]
    pub(crate) etcd_user: Option<String>,
    /// The user's password.
    #[arg(long, env = "ESTAFET_ETCD_PASSWORD", hide_env_values = true, group = "etcd_secret", requires = "etcd_user")]
    pub(crate) etcd_password: Option<String>,
    /// A file with the user's password; a line end behind it does not count.
    #[arg(long, env = "ESTAFET_ETCD_PASSWORD_FILE", value_name = "FILE", group = "etcd_secret", requires = "etcd_user")]
    pub(crate) etcd_password_file: Option<PathBuf>,
}

/// Options of `estafet master`.
#[derive(Debug, Args)]
#[command(mut_arg("etcd", |etcd| etcd.required(true).help("Members of the etcd cluster")))]
pub(crate) struct MasterArgs {
    /// Where coreapps, webapps and other masters connect; port 0 takes a free one.
    #[arg(long, env = "ESTAFET_LISTEN", default_value = "127.0.0.1:6260")]
    pub(crate) listen: SocketAddr,
    /// The same as others see it (host:port). Without it the listening address.
    #[arg(long, env = "ESTAFET_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,
    /// Message database: postgres://USER:PASSWORD@HOST/NAME
    #[arg(long, env = "ESTAFET_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,
    #[command(flatten)]
    pub(crate) tls: Flags,
    #[command(flatten)]
    pub(crate) ops: OpsArgs,
    /// Business numbers, written to a database that has none yet. Later `estafet number` adds and removes them.
    #[arg(long, env = "ESTAFET_NUMBER", value_delimiter = ',', default_value = "15550000001")]
    pub(crate) number: Vec<WaId>,
    /// Shards these begin with: a power of two, 1 to 256.
    #[arg(long, env = "ESTAFET_SHARDS", default_value_t = 1)]
    pub(crate) shards: u32,
}

/// Options of `estafet coreapp`.
#[derive(Debug, Args)]
pub(crate) struct CoreappArgs {
    /// Name of the node, unique in the cluster.
    #[arg(long, env = "ESTAFET_NODE")]
    pub(crate) node: String,
    /// Where webapps connect; port 0 takes a free one.
    #[arg(long, env = "ESTAFET_LISTEN", default_value = "127.0.0.1:6250")]
    pub(crate) listen: SocketAddr,
    /// The same as others see it (host:port). Without it the listening address.
    #[arg(long, env = "ESTAFET_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    /// The masters (host:port).
    #[arg(long, env = "ESTAFET_MASTER", value_delimiter = ',', required = true)]
    pub(crate) master: Vec<String>,
    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,
    /// Message database: postgres://USER:PASSWORD@HOST/NAME
    #[arg(long, env = "ESTAFET_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,
    #[command(flatten)]
    pub(crate) tls: Flags,
    #[command(flatten)]
    pub(crate) ops: OpsArgs,
    /// The network (host:port, may be repeated for fallback).
    #[arg(long, env = "ESTAFET_NETWORK", value_delimiter = ',', required = true)]
    pub(crate) network: Vec<String>,
    /// Public key of the network in hexadecimal; any other is refused.
    #[arg(long, env = "ESTAFET_NETWORK_KEY")]
    pub(crate) network_key: Option<String>,
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// Accepted messages a shard may hold that the network has not taken; past it 503.
    #[arg(long, env = "ESTAFET_MAX_OUTBOX", default_value_t = 1_000_000)]
    pub(crate) max_outbox: u64,
    /// Messages of a number in a second, in all its shards together; past it 429. 0: no limit.
    #[arg(long, env = "ESTAFET_NUMBER_PER_SECOND", default_value_t = 0)]
    pub(crate) number_per_second: u32,
    /// Messages to one recipient in a minute, with bursts of 45; past it 429. 0: no limit. WhatsApp has 10.
    #[arg(long, env = "ESTAFET_PAIR_PER_MINUTE", default_value_t = 0)]
    pub(crate) pair_per_minute: u32,
    /// Days for which messages stay in the database that were read, failed, or came in.
    #[arg(long, env = "ESTAFET_KEEP_FINISHED_DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) keep_finished_days: u32,
    /// Fetch links of messages from private addresses too.
    #[arg(long, env = "ESTAFET_MEDIA_ALLOW_PRIVATE_LINKS")]
    pub(crate) media_allow_private_links: bool,
    /// Seconds that handing the shards over may take at the end.
    #[arg(long, env = "ESTAFET_DRAIN_SECONDS", default_value_t = 20)]
    pub(crate) drain_seconds: u64,
}

/// Options of `estafet webapp`.
#[derive(Debug, Args)]
pub(crate) struct WebappArgs {
    /// Where the API listens; port 0 takes a free one.
    #[arg(long, env = "ESTAFET_LISTEN", default_value = "127.0.0.1:9090")]
    pub(crate) listen: SocketAddr,
    /// The masters (host:port).
    #[arg(long, env = "ESTAFET_MASTER", value_delimiter = ',', required = true)]
    pub(crate) master: Vec<String>,
    /// Message database: postgres://USER:PASSWORD@HOST/NAME
    #[arg(long, env = "ESTAFET_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,
    #[command(flatten)]
    pub(crate) tls: Flags,
    #[command(flatten)]
    pub(crate) ops: OpsArgs,
    /// Serve this number alone. Without it every number of the database (docs/numbers.md).
    #[arg(long, env = "ESTAFET_NUMBER")]
    pub(crate) number: Option<WaId>,
    /// Password with which `admin` may log in at once, when the database has no account yet. Without it the
    /// initial password is `secret` and must be changed at the first login.
    #[arg(long, env = "ESTAFET_ADMIN_PASSWORD", hide_env_values = true)]
    pub(crate) admin_password: Option<String>,
    /// Initial webhooks.url.
    #[arg(long, env = "ESTAFET_WEBHOOK_URL")]
    pub(crate) webhook_url: Option<String>,
    /// Key for health and metrics (`Authorization: Apikey ...`), 12 to 128 characters.
    #[arg(long, env = "ESTAFET_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Certificate of the API, intermediates behind it (PEM): serves https. Read again when it changes.
    #[arg(long, env = "ESTAFET_HTTPS_CERT", value_name = "FILE", requires = "https_key")]
    pub(crate) https_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "ESTAFET_HTTPS_KEY", value_name = "FILE", requires = "https_cert")]
    pub(crate) https_key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// Templates that may be sent (docs/templates.md), may be repeated. The network must know them too.
    #[arg(long, env = "ESTAFET_TEMPLATES", value_name = "FILE", value_delimiter = ',')]
    pub(crate) templates: Vec<PathBuf>,
    /// Largest upload in bytes, up to 104857600.
    #[arg(long, env = "ESTAFET_MAX_UPLOAD_BYTES", default_value_t = 64 << 20)]
    pub(crate) max_upload_bytes: u64,
    /// POST /v1/messages in a second, for each number and webapp, with bursts of three times as many; past it 429.
    #[arg(long, env = "ESTAFET_MESSAGES_PER_SECOND", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) messages_per_second: u32,
    /// All other requests in a second, for each number and webapp, with bursts of three times as many; past it 429.
    #[arg(long, env = "ESTAFET_REQUESTS_PER_SECOND", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) requests_per_second: u32,
    /// Accept `http://` callback URLs to loopback hosts.
    #[arg(long, env = "ESTAFET_ALLOW_LOOPBACK_HTTP")]
    pub(crate) allow_loopback_http: bool,
    /// Do not serve /openapi.json and /docs.
    #[arg(long, env = "ESTAFET_NO_DOCS")]
    pub(crate) no_docs: bool,
}

/// Options of `estafet chatd`.
#[derive(Debug, Args)]
pub(crate) struct ChatdArgs {
    /// Where coreapps connect; may be repeated; port 0 takes a free one.
    #[arg(long, env = "ESTAFET_LISTEN", value_delimiter = ',', default_value = "127.0.0.1:5222")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where its database, key and audit log are.
    #[arg(long, env = "ESTAFET_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// How many simulated phones: 15550001001, 15550001002, ...
    #[arg(long, env = "ESTAFET_PHONES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) phones: u32,
    /// Where the phones' control interface listens, for `estafet phone --url`. It asks nobody who they are:
    /// loopback only.
    #[arg(long, env = "ESTAFET_CONTROL", default_value = "127.0.0.1:0")]
    pub(crate) control: SocketAddr,
    /// Templates that the phones know (docs/templates.md), may be repeated: those that the webapps may send.
    #[arg(long, env = "ESTAFET_TEMPLATES", value_name = "FILE", value_delimiter = ',')]
    pub(crate) templates: Vec<PathBuf>,
    /// Days that messages wait for a phone that is out of reach; then they are dropped.
    #[arg(long, env = "ESTAFET_KEEP_MESSAGES_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) keep_messages_days: u32,
    /// Days that encrypted files of messages are kept.
    #[arg(long, env = "ESTAFET_KEEP_FILES_DAYS", default_value_t = 14, value_parser = clap::value_parser!(u32).range(2..=3650))]
    pub(crate) keep_files_days: u32,
    /// Refuse coreapps that speak an older version of the protocol; they tell their business to upgrade.
    #[arg(long, env = "ESTAFET_OLDEST_PROTOCOL", default_value_t = 1)]
    pub(crate) oldest_protocol: u32,
    #[command(flatten)]
    pub(crate) ops: OpsArgs,
}

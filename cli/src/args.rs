//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use estafet_model::WaId;

use crate::{
    cluster::args::{ChatdArgs, CoreappArgs, MasterArgs, WebappArgs},
    local_cluster::ClusterArgs,
    media::MediaArgs,
};

/// A self-hosted server with the On-Premises API.
#[derive(Debug, Parser)]
#[command(name = "estafet", version, propagate_version = true)]
pub(crate) struct Cli {
    /// Write logs as JSON lines. Which logs: ESTAFET_LOG (for instance `debug` or `estafet_coreapp=debug,info`).
    #[arg(long, global = true, env = "ESTAFET_LOG_JSON")]
    pub(crate) log_json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything in one process: API, network and simulated phones.
    Sandbox(Box<SandboxArgs>),
    /// Start a master of a cluster: elects a leader over etcd, gives shards to coreapps.
    Master(Box<MasterArgs>),
    /// Start a coreapp of a cluster: owns shards, sends, delivers callbacks.
    Coreapp(Box<CoreappArgs>),
    /// Start a webapp of a cluster: the API.
    Webapp(Box<WebappArgs>),
    /// Start the chat network on its own.
    Chatd(Box<ChatdArgs>),
    /// Make certificates for the roles of a cluster (docs/tls.md).
    Certs(crate::certs::CertsArgs),
    /// Look at, add, remove and reshard the numbers of a cluster.
    Number(NumberArgs),
    /// Look at the callbacks that wait or were given up, try dead letters again or drop them, and replay delivered ones.
    Callbacks(crate::callbacks::CallbacksArgs),
    /// Look at the files of a number: uploaded and received ones.
    Media(crate::media::FilesArgs),
    /// Show what happened to a message, step by step, and what it waited for longest.
    Trace(crate::trace::TraceArgs),
    /// Look at the simulated phones of a sandbox and make them act.
    Phone(Box<PhoneArgs>),
    /// Look at, add and remove the templates of a sandbox.
    Template(TemplateArgs),
    /// Start a whole cluster on this machine: etcd, PostgreSQL, the network, 2 masters, 3 coreapps, 2 webapps.
    Cluster(Box<ClusterArgs>),
    /// Do failovers on purpose, under load, and print a verdict.
    Drill(estafet_drill::Args),
    /// Show shards, owners, epochs, backlog and connections of a sandbox or, with --masters, of a cluster.
    Status(StatusArgs),
    /// Gather health, settings, statistics, status, configuration and logs in one file, without secrets, for whoever helps.
    SupportBundle(Box<crate::support::SupportArgs>),
    /// Measure: accept rate and full cycles, with and without batching.
    Bench(estafet_bench::Args),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Options of `estafet number`.
#[derive(Debug, Args)]
pub(crate) struct NumberArgs {
    /// Message database of the cluster: postgres:// or mysql://USER:PASSWORD@HOST/NAME
    #[arg(long, env = "ESTAFET_DATABASE_URL", hide_env_values = true, global = true, default_value = "")]
    pub(crate) database_url: String,
    #[command(subcommand)]
    pub(crate) action: NumberAction,
}

/// What to do with numbers.
#[derive(Debug, Subcommand)]
pub(crate) enum NumberAction {
    /// Add a number.
    Add {
        /// The number.
        number: WaId,
        /// Shards it begins with: a power of two, 1 to 256.
        #[arg(long, default_value_t = 1)]
        shards: u32,
        /// Host name under which requests for it come.
        #[arg(long)]
        host: Option<String>,
    },
    /// Show all numbers.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let go of a number. Its messages, users and settings stay in the database.
    Remove {
        /// The number.
        number: WaId,
    },
    /// Change the shard count of a number while messages flow.
    Reshard {
        /// The number.
        number: WaId,
        /// The count: a power of two, 1 to 256. The present one calls off what has not begun.
        #[arg(value_name = "COUNT")]
        shards: u32,
    },
}

/// Options of `estafet sandbox`; each is also read from `ESTAFET_SANDBOX_` and its name in capitals.
#[derive(Debug, Args)]
pub(crate) struct SandboxArgs {
    /// Where the API listens; port 0 takes a free one.
    #[arg(long, env = "ESTAFET_SANDBOX_LISTEN", default_value = "127.0.0.1:9090")]
    pub(crate) listen: SocketAddr,
    /// Where everything is kept. Without it a temporary directory, removed at exit.
    #[arg(long, env = "ESTAFET_SANDBOX_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Message database instead of SQLite in the data directory: postgres:// or mysql://USER:PASSWORD@HOST/NAME
    #[arg(long, env = "ESTAFET_SANDBOX_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    /// Business number.
    #[arg(long, env = "ESTAFET_SANDBOX_NUMBER", default_value = "15550000001")]
    pub(crate) number: WaId,
    /// Password with which `admin` may log in at once. Without it the initial password is `secret` and
    /// must be changed at the first login.
    #[arg(long, env = "ESTAFET_SANDBOX_ADMIN_PASSWORD", hide_env_values = true)]
    pub(crate) admin_password: Option<String>,
    /// Initial webhooks.url.
    #[arg(long, env = "ESTAFET_SANDBOX_WEBHOOK_URL")]
    pub(crate) webhook_url: Option<String>,
    /// Key for health and metrics (`Authorization: Apikey ...`), 12 to 128 characters.
    #[arg(long, env = "ESTAFET_SANDBOX_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// How many simulated phones: 15550001001, 15550001002, ...
    #[arg(long, env = "ESTAFET_SANDBOX_PHONES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) phones: u32,
    /// Makes the phones' random choices repeatable.
    #[arg(long, env = "ESTAFET_SANDBOX_SEED")]
    pub(crate) seed: Option<u64>,
    /// Shards of the number: a power of two, 1 to 256. Without it as many as the database knows, or 1.
    #[arg(long, env = "ESTAFET_SANDBOX_SHARDS")]
    pub(crate) shards: Option<u32>,
    /// What /v1/contacts answers: the network's word, or `valid` for every number.
    #[arg(long, env = "ESTAFET_SANDBOX_CONTACT_MODE", default_value = "live")]
    pub(crate) contact_mode: ContactMode,
    /// Refuse messages to contacts that were not checked before (the original before v2.39).
    #[arg(long, env = "ESTAFET_SANDBOX_LEGACY_CONTACT_CHECK")]
    pub(crate) legacy_contact_check: bool,
    /// Begin as if the number were not registered.
    #[arg(long, env = "ESTAFET_SANDBOX_UNREGISTERED")]
    pub(crate) unregistered: bool,
    /// Seconds a login token lives.
    #[arg(long, env = "ESTAFET_SANDBOX_TOKEN_LIFETIME", default_value_t = 7 * 24 * 3600)]
    pub(crate) token_lifetime: u64,
    /// One lane for all callbacks, in the order they happened.
    #[arg(long, env = "ESTAFET_SANDBOX_STRICT_GLOBAL_ORDER")]
    pub(crate) strict_global_order: bool,
    /// Days an undeliverable callback is kept before it becomes a dead letter.
    #[arg(long, env = "ESTAFET_SANDBOX_CALLBACK_MAX_AGE_DAYS", default_value_t = 7)]
    pub(crate) callback_max_age_days: u32,
    /// POST /v1/messages in a second, with bursts of three times as many; past it 429. The original had 50.
    #[arg(long, env = "ESTAFET_SANDBOX_MESSAGES_PER_SECOND")]
    pub(crate) messages_per_second: Option<u32>,
    /// All other requests in a second, health and statistics excepted; past it 429. The original had 20.
    #[arg(long, env = "ESTAFET_SANDBOX_REQUESTS_PER_SECOND")]
    pub(crate) requests_per_second: Option<u32>,
    /// Accepted messages a shard may hold that the network has not taken; past it 503.
    #[arg(long, env = "ESTAFET_SANDBOX_MAX_OUTBOX", default_value_t = 1_000_000)]
    pub(crate) max_outbox: u64,
    /// Messages of the number in a second; past it 429. 0: no limit.
    #[arg(long, env = "ESTAFET_SANDBOX_NUMBER_PER_SECOND", default_value_t = 0)]
    pub(crate) number_per_second: u32,
    /// Messages to one recipient in a minute, with bursts of 45; past it 429. 0: no limit. WhatsApp has 10.
    #[arg(long, env = "ESTAFET_SANDBOX_PAIR_PER_MINUTE", default_value_t = 0)]
    pub(crate) pair_per_minute: u32,
    /// Days for which messages stay in the database that were read, failed, or came in.
    #[arg(long, env = "ESTAFET_SANDBOX_KEEP_FINISHED_DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) keep_finished_days: u32,
    /// Templates that may be sent beside the samples (docs/templates.md), may be repeated.
    #[arg(long, env = "ESTAFET_SANDBOX_TEMPLATES", value_name = "FILE", value_delimiter = ',')]
    pub(crate) templates: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// Largest upload in bytes, up to 104857600.
    #[arg(long, env = "ESTAFET_SANDBOX_MAX_UPLOAD_BYTES", default_value_t = 64 << 20)]
    pub(crate) max_upload_bytes: u64,
    /// Do not serve /openapi.json and /docs.
    #[arg(long, env = "ESTAFET_SANDBOX_NO_DOCS")]
    pub(crate) no_docs: bool,
    /// Use a network that runs elsewhere (host:port, may be repeated for fallback) instead of one in this process.
    #[arg(long, env = "ESTAFET_SANDBOX_NETWORK", value_delimiter = ',')]
    pub(crate) network: Vec<String>,
    /// Switch group commit and stream batching off, for comparison.
    #[arg(long, hide = true)]
    pub(crate) naive: bool,
    /// Accept and store only; do not connect to the network.
    #[arg(long, hide = true)]
    pub(crate) hold_upstream: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum ContactMode {
    Live,
    AlwaysValid,
}

/// Where a sandbox answers.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Address of the sandbox.
    #[arg(long, env = "ESTAFET_URL", default_value = "http://127.0.0.1:9090", global = true)]
    pub(crate) url: String,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Masters of a cluster (host:port); the leader is asked, or whichever answers.
    #[arg(long, env = "ESTAFET_MASTERS", value_delimiter = ',')]
    pub(crate) masters: Vec<String>,
    #[command(flatten)]
    pub(crate) tls: estafet_tls::Flags,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print again every second until interrupted.
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TemplateArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(subcommand)]
    pub(crate) command: TemplateCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List the templates.
    List {
        /// Print JSON, in the layout that `add` reads.
        #[arg(long)]
        json: bool,
    },
    /// Add the templates of a file; one that is there already is replaced. They are gone when the
    /// sandbox ends: `estafet sandbox --templates FILE` adds them each time.
    Add {
        /// The file (docs/templates.md).
        file: PathBuf,
    },
    /// Look for templates that cannot be sent in a language which others of their namespace have; there, a message
    /// that changes its language fails. Exit status 1 if there are any.
    Check,
    /// Remove a template.
    Remove {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Only in this language, for instance en_US.
        #[arg(long)]
        language: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PhoneArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(subcommand)]
    pub(crate) command: PhoneCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PhoneCommand {
    /// List the phones and what each does with messages.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put one more phone on the network.
    Add {
        /// Its number.
        number: WaId,
        /// Profile name.
        #[arg(long)]
        name: Option<String>,
    },
    /// Say what a phone does with messages from now on.
    Set {
        /// The phone.
        number: WaId,
        /// deliver: delivered only; read: delivered and read; ignore: takes them without a word;
        /// offline: the network keeps them; block: never gets them; outdated: cannot show templates, and fails them;
        /// soldout: warns of messages that show products; limit,
        /// spam, experiment: the network refuses them with 429, 471, 472.
        #[arg(value_parser = ["deliver", "read", "ignore", "offline", "block", "outdated", "soldout", "limit", "spam", "experiment"])]
        mode: String,
    },
    /// Show what the network asks of businesses, or change it.
    Network {
        /// Seconds after a message of a user in which anything may be sent to that user, later only templates (470);
        /// `off`: always. WhatsApp has 86400.
        #[arg(long, value_name = "SECONDS|off")]
        customer_window: Option<String>,
    },
    /// Install the app of a phone again: it gets new keys, and businesses with security notifications on hear of it.
    NewIdentity {
        /// The phone.
        number: WaId,
    },
    /// Move the user of a phone to another number; the one that is left is not on the network any more.
    ChangeNumber {
        /// The phone.
        number: WaId,
        /// The number that is taken.
        new_number: WaId,
    },
    /// Delete a message that a phone has sent, for everybody: the business is told with the status `deleted`.
    Delete {
        /// The phone.
        number: WaId,
        /// The message, as `sent` and callbacks have it.
        message_id: String,
    },
    /// Make a phone write to the business.
    Send(Box<PhoneSendArgs>),
    /// Show what a phone received.
    Inbox {
        /// The phone.
        number: WaId,
        /// As a cautious app shows it: files and links of a business are held back until the phone has written to it or
        /// got a template from it.
        #[arg(long)]
        cautious: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what a phone sent, and whether the business read it.
    Sent {
        /// The phone.
        number: WaId,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("message").required(true))]
pub(crate) struct PhoneSendArgs {
    /// The phone that writes.
    #[arg(long)]
    pub(crate) from: WaId,
    /// A text.
    #[arg(group = "message")]
    pub(crate) text: Option<String>,
    /// A place: LATITUDE,LONGITUDE
    #[arg(long, group = "message", value_name = "LAT,LON", allow_hyphen_values = true)]
    pub(crate) location: Option<String>,
    /// A tap on a template's quick-reply button, with this payload.
    #[arg(long, group = "message", value_name = "PAYLOAD")]
    pub(crate) button: Option<String>,
    /// A tap on a button of an interactive message: ID:TITLE
    #[arg(long, group = "message", value_name = "ID:TITLE")]
    pub(crate) button_reply: Option<String>,
    /// A choice from a list: ID:TITLE or ID:TITLE:DESCRIPTION
    #[arg(long, group = "message", value_name = "ID:TITLE[:DESCRIPTION]")]
    pub(crate) list_reply: Option<String>,
    /// What a user filled in a flow, as JSON.
    #[arg(long, group = "message", value_name = "JSON")]
    pub(crate) flow_reply: Option<String>,
    /// An order, as JSON: {"catalog_id":"1","product_items":[...],"text":"..."}
    #[arg(long, group = "message", value_name = "JSON")]
    pub(crate) order: Option<String>,
    /// Contacts, as a JSON array: [{"name":{"formatted_name":"Ana"},"phones":[{"phone":"+1 650 555 1234"}]}]
    #[arg(long, group = "message", value_name = "JSON")]
    pub(crate) contacts: Option<String>,
    /// A message of a type the API does not have; the business is told of an unknown one.
    #[arg(long, group = "message")]
    pub(crate) unsupported: bool,
    /// A reaction to the message given with --context; an empty one takes it back.
    #[arg(long, group = "message", value_name = "EMOJI")]
    pub(crate) reaction: Option<String>,
    /// A picture.
    #[arg(long, group = "message", value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Sound.
    #[arg(long, group = "message", value_name = "FILE")]
    pub(crate) audio: Option<PathBuf>,
    /// A recording made while speaking (Ogg with Opus).
    #[arg(long, group = "message", value_name = "FILE")]
    pub(crate) voice: Option<PathBuf>,
    /// A film.
    #[arg(long, group = "message", value_name = "FILE")]
    pub(crate) video: Option<PathBuf>,
    /// Any file.
    #[arg(long, group = "message", value_name = "FILE")]
    pub(crate) document: Option<PathBuf>,
    /// A sticker (WebP, 512 x 512 pixels).
    #[arg(long, group = "message", value_name = "FILE")]
    pub(crate) sticker: Option<PathBuf>,
    /// What is said about a picture, a film or a document.
    #[arg(long, value_name = "TEXT")]
    pub(crate) caption: Option<String>,
    /// Any message as JSON, for instance {"type":"text","text":{"body":"Hi"}}
    #[arg(long, group = "message", value_name = "JSON")]
    pub(crate) content: Option<String>,
    /// Id of the message this one answers.
    #[arg(long, value_name = "ID")]
    pub(crate) context: Option<String>,
}

/// Settings at fault, all of them; the process ends with status 64 (EX_USAGE) and has opened no port.
#[derive(Debug)]
pub(crate) struct Misconfigured(pub(crate) Vec<String>);

impl std::fmt::Display for Misconfigured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Misconfigured {}

/// Prints the completion script of a shell.
pub(crate) fn completions(shell: Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "estafet", &mut std::io::stdout());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

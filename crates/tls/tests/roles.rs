//! Roles over real sockets: who is let in, who is told to go, and what a reload changes.

use std::{path::Path, pin::Pin, time::Duration};

use estafet_proto::v1::{
    ClusterStatus, MapUpdate, MasterOrder, NodeReport, ReachAnswer, ReachReport, StatusRequest, WatchMapRequest,
    cluster_client::ClusterClient,
    cluster_server::{Cluster, ClusterServer},
};
use estafet_runtime::{Clock, Tasks};
use estafet_tls::{Error, Files, Identity, Peer, Role, Transport, issue::Authority};
use futures::Stream;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming, transport::Endpoint};

const NOW: i64 = 1_800_000_000_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Answers its status to coreapps and webapps only.
struct Service;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Cluster for Service {
    type AttachStream = Answers<MasterOrder>;
    type WatchMapStream = Answers<MapUpdate>;

    async fn attach(&self, _: Request<Streaming<NodeReport>>) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn watch_map(&self, _: Request<WatchMapRequest>) -> Result<Response<Self::WatchMapStream>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn report_reach(&self, _: Request<ReachReport>) -> Result<Response<ReachAnswer>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<ClusterStatus>, Status> {
        Peer::admit(&request, &[Role::Coreapp, Role::Webapp])?;
        Ok(Response::new(ClusterStatus::default()))
    }
}

fn identity(cluster: &str, role: Role) -> Identity {
    Identity::new(cluster, role, "node-0").unwrap()
}

/// Makes the files of a role for loopback.
fn issue(directory: &Path, cluster: &str, role: Role) -> Files {
    let authority = Authority::open(directory, cluster, NOW).unwrap();
    authority.issue(&identity(cluster, role), &["127.0.0.1".to_owned(), "localhost".to_owned()], NOW, DAY).unwrap()
}

fn load(files: &Files, role: Role, clock: &Clock) -> Transport {
    Transport::load(files.clone(), role, Some("node-0"), clock.clone()).unwrap()
}

/// Serves with this transport; the port.
async fn serve(transport: &Transport, tasks: &Tasks) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = transport.incoming(listener, tasks);
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("server", async move {
        let server = tonic::transport::Server::builder().add_service(ClusterServer::new(Service));
        server.serve_with_incoming_shutdown(incoming, async move { shutdown.cancelled().await }).await.unwrap();
    });
    port
}

/// One call on a new connection to a server expected to be a master.
async fn call(transport: &Transport, host: &str, port: u16) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}")).unwrap();
    let channel = transport.connect(&endpoint, Role::Master).await;
    let channel = channel.map_err(|error| Status::unavailable(format!("{error:?}")))?;
    ClusterClient::new(channel).status(StatusRequest {}).await.map(drop)
}

struct World {
    directory: tempfile::TempDir,
    clock: Clock,
    tasks: Tasks,
}

impl World {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), clock: Clock::manual(NOW), tasks: Tasks::new() }
    }

    fn transport(&self, role: Role) -> Transport {
        load(&issue(self.directory.path(), "one", role), role, &self.clock)
    }
}

#[tokio::test]
async fn only_the_roles_that_a_method_names_may_call_it() {
    let world = World::new();
    let port = serve(&world.transport(Role::Master), &world.tasks).await;
    for role in Role::ALL {
        let answer = call(&world.transport(role), "127.0.0.1", port).await;
        if [Role::Coreapp, Role::Webapp].contains(&role) {
            answer.unwrap();
        } else {
            assert_eq!(answer.unwrap_err().code(), tonic::Code::PermissionDenied, "{role}");
        }
    }
    call(&world.transport(Role::Webapp), "localhost", port).await.unwrap();
}

#[tokio::test]
async fn who_shows_no_certificate_of_this_authority_and_cluster_is_not_served() {
    let (world, stranger) = (World::new(), World::new());
    let port = serve(&world.transport(Role::Master), &world.tasks).await;
    call(&Transport::plain(), "127.0.0.1", port).await.unwrap_err();
    call(&stranger.transport(Role::Webapp), "127.0.0.1", port).await.unwrap_err();
    // The stranger trusts our authority, so it is the server that refuses.
    let mut files = issue(stranger.directory.path(), "one", Role::Webapp);
    let trusting = stranger.directory.path().join("both.pem");
    let authorities = [world.directory.path(), stranger.directory.path()].map(|from| std::fs::read(from.join("ca.pem")).unwrap());
    std::fs::write(&trusting, authorities.concat()).unwrap();
    files.ca = trusting;
    call(&load(&files, Role::Webapp, &world.clock), "127.0.0.1", port).await.unwrap_err();
}

#[tokio::test]
async fn certificates_of_another_cluster_are_refused_under_the_same_authority() {
    let world = World::new();
    let port = serve(&world.transport(Role::Master), &world.tasks).await;
    let directory = world.directory.path();
    let other = Identity::new("other", Role::Webapp, "node-0").unwrap();
    let authority = Authority::open(directory, "one", NOW).unwrap();
    let files = authority.issue(&other, &["127.0.0.1".to_owned()], NOW, DAY).unwrap();
    call(&load(&files, Role::Webapp, &world.clock), "127.0.0.1", port).await.unwrap_err();
}

#[tokio::test]
async fn who_answers_must_be_of_the_expected_role_and_have_the_dialled_name() {
    let world = World::new();
    let webapp = world.transport(Role::Webapp);
    let false_master = serve(&world.transport(Role::Coreapp), &world.tasks).await;
    let error = call(&webapp, "127.0.0.1", false_master).await.unwrap_err();
    assert!(error.message().contains("where a master was expected"), "{error}");
    let authority = Authority::open(world.directory.path(), "one", NOW).unwrap();
    let elsewhere = authority.issue(&identity("one", Role::Master), &["master.example".to_owned()], NOW, DAY).unwrap();
    let misnamed = serve(&load(&elsewhere, Role::Master, &world.clock), &world.tasks).await;
    let error = call(&webapp, "127.0.0.1", misnamed).await.unwrap_err();
    assert!(error.message().contains("NotValidForName"), "{error}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_at_the_start_and_by_peers() {
    let world = World::new();
    let (server, files) = (world.transport(Role::Master), issue(world.directory.path(), "one", Role::Webapp));
    let webapp = load(&files, Role::Webapp, &world.clock);
    let port = serve(&server, &world.tasks).await;
    call(&webapp, "127.0.0.1", port).await.unwrap();
    world.clock.set(NOW + 2 * DAY.as_millis() as i64);
    let error = call(&webapp, "127.0.0.1", port).await.unwrap_err();
    assert!(error.message().contains("Expired"), "{error}");
    let error = Transport::load(files, Role::Webapp, None, world.clock.clone()).unwrap_err();
    assert!(matches!(&error, Error::Unusable { .. }) && error.to_string().contains("expired"), "{error}");
}

#[tokio::test]
async fn new_connections_take_new_files_and_broken_ones_change_nothing() {
    let world = World::new();
    let files = issue(world.directory.path(), "one", Role::Master);
    let (server, webapp) = (load(&files, Role::Master, &world.clock), world.transport(Role::Webapp));
    let port = serve(&server, &world.tasks).await;
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    let mut open = ClusterClient::new(webapp.connect(&endpoint, Role::Master).await.unwrap());
    open.status(StatusRequest {}).await.unwrap();
    std::fs::write(&files.cert, "no certificate").unwrap();
    assert!(!server.reload() && !server.reload());
    call(&webapp, "127.0.0.1", port).await.unwrap();
    // The certificate of a stranger, under the same names: only who trusts the stranger may be served now.
    let stranger = World::new();
    let new = issue(stranger.directory.path(), "one", Role::Master);
    for (from, to) in [(&new.ca, &files.ca), (&new.cert, &files.cert), (&new.key, &files.key)] {
        assert!(!server.reload(), "half a set is not taken");
        std::fs::copy(from, to).unwrap();
    }
    assert!(server.reload());
    call(&webapp, "127.0.0.1", port).await.unwrap_err();
    call(&stranger.transport(Role::Webapp), "127.0.0.1", port).await.unwrap();
    open.status(StatusRequest {}).await.expect("an open connection goes on");
}

#[test]
fn files_that_do_not_go_together_are_named() {
    let world = World::new();
    let directory = world.directory.path();
    let (master, webapp) = (issue(directory, "one", Role::Master), issue(directory, "one", Role::Webapp));
    let refused = |files: &Files, role, node| {
        let error = Transport::load(files.clone(), role, node, world.clock.clone()).unwrap_err();
        error.to_string()
    };
    let mixed = Files { key: webapp.key.clone(), ..master.clone() };
    assert!(refused(&mixed, Role::Master, None).contains("master-node-0.pem"));
    assert!(refused(&webapp, Role::Master, None).contains("not for master"));
    assert!(refused(&master, Role::Master, Some("node-1")).contains("not for master node-1"));
    let absent = Files { key: directory.join("absent.pem"), ..master.clone() };
    assert!(refused(&absent, Role::Master, None).contains("absent.pem"));
    let swapped = Files { key: master.cert.clone(), ..master.clone() };
    assert!(refused(&swapped, Role::Master, None).contains("no private key"));
    let authority = Authority::open(directory, "one", NOW).unwrap();
    let without_role = authority.issue_for_hosts("api", &["localhost".to_owned()], NOW, DAY).unwrap();
    assert!(refused(&without_role, Role::Master, None).contains("for no role"));
}

#[test]
fn an_authority_is_made_once_and_its_key_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    let first = issue(world.directory.path(), "one", Role::Master);
    let ca = std::fs::read(&first.ca).unwrap();
    let second = issue(world.directory.path(), "one", Role::Webapp);
    assert_eq!(std::fs::read(&second.ca).unwrap(), ca);
    for key in [&first.key, &second.key, &world.directory.path().join("ca-key.pem")] {
        assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let misnamed = Authority::open(world.directory.path(), "two", NOW).unwrap();
    assert!(misnamed.issue(&identity("two", Role::Master), &["localhost".to_owned()], NOW, DAY).is_err());
}

/// The common names in a certificate: that of who issued it, and its own.
fn common_names(der: &[u8]) -> Vec<&[u8]> {
    // The object identifier 2.5.4.3, then a string: its tag, its length, its bytes.
    const COMMON_NAME: &[u8] = &[0x06, 3, 0x55, 4, 3];
    let starts = der.windows(COMMON_NAME.len()).enumerate().filter(|(_, window)| *window == COMMON_NAME);
    let texts = starts.map(|(at, _)| at + COMMON_NAME.len());
    texts.map(|at| &der[at + 2..at + 2 + usize::from(der[at + 1])]).collect()
}

#[test]
fn r193_host_names_of_any_length_are_alternative_names_and_the_common_name_is_short() {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
    let world = World::new();
    let authority = Authority::open(world.directory.path(), "one", NOW).unwrap();
    let host = format!("{}.example.org", ["a"; 3].map(|label| label.repeat(62)).join("."));
    assert_eq!(host.len(), 200);
    let files = authority.issue_for_hosts(&"f".repeat(100), std::slice::from_ref(&host), NOW, DAY).unwrap();
    let der = CertificateDer::from_pem_file(&files.cert).unwrap();
    let names = common_names(&der);
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().all(|name| !name.is_empty() && name.len() <= 64), "{names:?}");
    let certificate = webpki::EndEntityCert::try_from(&der).unwrap();
    certificate.verify_is_valid_for_subject_name(&ServerName::try_from(host).unwrap()).unwrap();
}

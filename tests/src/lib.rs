//! Tests over real sockets and real processes; the library itself is empty.
//!
//! `api/` proves what callers of the API rely on, one file a rule, and runs the shared vectors. `drills/`
//! proves what holds when processes die. Both drive `estafet sandbox` through `estafet-harness`. `cluster/` does
//! the same with each role in a process of its own, on etcd and PostgreSQL.
//! `chart/` renders the Helm chart with real Helm and checks it against the binary and the schemas of Kubernetes.

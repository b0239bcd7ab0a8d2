//! Contact checks (spec/contacts.md §1): inputs to rows, with a cache of seven days in the store.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use estafet_model::{ApiError, Slot, WaId};
use estafet_proto::v1::{CheckContacts, request::Action};
use estafet_runtime::{Clock, Tasks};
use estafet_store::{ContactRow, SharedStore};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::{
    json::{Json, parse_object},
    route::{Reply, Router},
};

/// Most inputs of one call.
const MOST: usize = 1000;
/// Life of a result, milliseconds.
const CACHE_MS: i64 = 7 * 24 * 3600 * 1000;
/// Look-ups in the background at the same time; more are left to the next call.
const BACKGROUND: usize = 16;
/// Numbers known to be valid that are kept in memory for `legacy_contact_check`.
const KNOWN_VALID: u64 = 100_000;

/// A request as understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// Every input with the number it means, if it means one.
    pub(crate) inputs: Vec<(String, Option<WaId>)>,
    /// Answer after the look-up.
    pub(crate) wait: bool,
    /// Skip the cache.
    pub(crate) force: bool,
}

/// What is known of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Valid,
    Invalid,
    Processing,
    Failed,
}

/// One row of the answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row<'a> {
    input: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    wa_id: Option<WaId>,
}

/// Reads the body of `POST /v1/contacts`.
pub(crate) fn read(body: &[u8]) -> Result<Query, ApiError> {
    let request = parse_object(body)?;
    let wait = match request.text("blocking", "blocking")? {
        None | Some("no_wait") => false,
        Some("wait") => true,
        Some(_) => return Err(ApiError::invalid("blocking", "must be wait or no_wait")),
    };
    let force = match request.get("force_check") {
        None => false,
        Some(Json::Bool(force)) => *force,
        Some(Json::Text(text)) if text == "true" => true,
        Some(Json::Text(text)) if text == "false" => false,
        Some(_) => return Err(ApiError::invalid("force_check", "must be true or false")),
    };
    let list = match request.get("contacts") {
        None => return Err(ApiError::missing("contacts")),
        Some(Json::List(list)) => list,
        Some(_) => return Err(ApiError::invalid("contacts", "must be a list of phone numbers")),
    };
    if list.is_empty() {
        return Err(ApiError::missing("contacts"));
    }
    if list.len() > MOST {
        return Err(ApiError::invalid("contacts", format_args!("must not have more than {MOST} elements")));
    }
    let inputs = list.iter().enumerate().map(|(index, element)| match element {
        Json::Text(input) => Ok((input.to_string(), WaId::from_input(input).ok())),
        _ => Err(ApiError::invalid(&format!("contacts[{index}]"), "must be a string")),
    });
    Ok(Query { inputs: inputs.collect::<Result<_, _>>()?, wait, force })
}

/// Puts findings into rows, in the order of the inputs.
pub(crate) fn rows<'a>(query: &'a Query, finding: impl Fn(WaId) -> Finding) -> Vec<Row<'a>> {
    let row = |(input, number): &'a (String, Option<WaId>)| {
        let (status, wa_id) = match number.map(|number| (number, finding(number))) {
            Some((number, Finding::Valid)) => ("valid", Some(number)),
            Some((_, Finding::Processing)) => ("processing", None),
            Some((_, Finding::Failed)) => ("failed", None),
            Some((_, Finding::Invalid)) | None => ("invalid", None),
        };
        Row { input, status, wa_id }
    };
    query.inputs.iter().map(row).collect()
}

/// Looks contacts up.
pub(crate) struct Contacts {
    number: WaId,
    store: SharedStore,
    clock: Clock,
    tasks: Tasks,
    router: Arc<Router>,
    background: Arc<Semaphore>,
    known_valid: moka::future::Cache<WaId, ()>,
}

impl Contacts {
    pub(crate) fn new(number: WaId, store: SharedStore, clock: Clock, tasks: Tasks, router: Arc<Router>) -> Self {
        let background = Arc::new(Semaphore::new(BACKGROUND));
        Self { number, store, clock, tasks, router, background, known_valid: moka::future::Cache::new(KNOWN_VALID) }
    }

    /// Finds out about the numbers of a query on the live network.
    pub(crate) async fn find(self: &Arc<Self>, query: &Query) -> HashMap<WaId, Finding> {
        let mut wanted: Vec<WaId> = query.inputs.iter().filter_map(|(_, number)| *number).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut found = if query.force { HashMap::new() } else { self.cached(&wanted).await };
        wanted.retain(|number| !found.contains_key(number));
        if wanted.is_empty() {
            return found;
        }
        if query.wait {
            found.extend(self.look_up(&wanted).await);
        } else if let Ok(permit) = self.background.clone().try_acquire_owned() {
            let contacts = self.clone();
            self.tasks.spawn("webapp-contact-check", async move {
                contacts.look_up(&wanted).await;
                drop(permit);
            });
        }
        found
    }

    /// Whether a look-up (or a message of theirs) has shown that the number is on the network.
    pub(crate) async fn is_known_valid(&self, number: WaId) -> bool {
        if self.known_valid.contains_key(&number) {
            return true;
        }
        let valid = self.cached(&[number]).await.get(&number) == Some(&Finding::Valid);
        if valid {
            self.known_valid.insert(number, ()).await;
        }
        valid
    }

    async fn cached(&self, numbers: &[WaId]) -> HashMap<WaId, Finding> {
        let oldest = self.clock.now_ms() - CACHE_MS;
        match self.store.contacts(self.number, numbers).await {
            Ok(rows) => rows
                .into_iter()
                .filter(|row| row.checked_at_ms > oldest)
                .map(|row| (row.wa_id, if row.on_network { Finding::Valid } else { Finding::Invalid }))
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "contact cache not read");
                HashMap::new()
            }
        }
    }

    /// Asks the owners; what could not be asked is failed.
    async fn look_up(&self, numbers: &[WaId]) -> HashMap<WaId, Finding> {
        let mut groups: BTreeMap<Option<String>, Vec<WaId>> = BTreeMap::new();
        for number in numbers {
            groups.entry(self.router.owner_address(self.number, Slot::of(*number))).or_default().push(*number);
        }
        let answers = futures::future::join_all(groups.into_values().map(|group| self.ask(group))).await;
        let checked_at_ms = self.clock.now_ms();
        let rows: Vec<ContactRow> =
            answers.into_iter().flatten().map(|(wa_id, on_network)| ContactRow { wa_id, on_network, checked_at_ms }).collect();
        let mut found: HashMap<WaId, Finding> = numbers.iter().map(|number| (*number, Finding::Failed)).collect();
        found.extend(rows.iter().map(|row| (row.wa_id, if row.on_network { Finding::Valid } else { Finding::Invalid })));
        if !rows.is_empty()
            && let Err(error) = self.store.put_contact_checks(self.number, &rows).await
        {
            tracing::warn!(%error, "contact checks not kept");
        }
        found
    }

    /// Asks one owner. A number the answer does not name is not on the network.
    async fn ask(&self, group: Vec<WaId>) -> Vec<(WaId, bool)> {
        let Some(first) = group.first() else { return Vec::new() };
        let action = Action::CheckContacts(CheckContacts { wa_ids: group.iter().map(|number| number.as_u64()).collect() });
        match self.router.call(self.number, Slot::of(*first), action).await {
            Ok(Reply::Contacts(states)) => {
                let there: HashSet<u64> = states.iter().filter(|state| state.on_network).map(|state| state.wa_id).collect();
                group.into_iter().map(|number| (number, there.contains(&number.as_u64()))).collect()
            }
            Ok(Reply::Done(_) | Reply::Identity(_)) => Vec::new(),
            Err(error) => {
                tracing::debug!(%error, "contacts not looked up");
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn query(body: Value) -> Result<Query, ApiError> {
        read(body.to_string().as_bytes())
    }

    #[test]
    fn inputs_keep_their_order_their_bytes_and_their_duplicates() {
        let query = query(json!({"contacts": ["+1 (631) 555-1234", "nope", "16315551234", "nope", "nul\u{0}"]})).unwrap();
        let shown = serde_json::to_value(rows(&query, |_| Finding::Valid)).unwrap();
        assert_eq!(
            shown,
            json!([
                {"input": "+1 (631) 555-1234", "status": "valid", "wa_id": "16315551234"},
                {"input": "nope", "status": "invalid"},
                {"input": "16315551234", "status": "valid", "wa_id": "16315551234"},
                {"input": "nope", "status": "invalid"},
                {"input": "nul\u{0}", "status": "invalid"},
            ])
        );
    }

    #[test]
    fn only_valid_rows_have_a_wa_id() {
        let query = query(json!({"contacts": ["16315551234"]})).unwrap();
        for (finding, status) in [(Finding::Invalid, "invalid"), (Finding::Processing, "processing"), (Finding::Failed, "failed")]
        {
            assert_eq!(
                serde_json::to_value(rows(&query, |_| finding)).unwrap(),
                json!([{"input": "16315551234", "status": status}])
            );
        }
    }

    #[test]
    fn waiting_and_forcing_are_read_in_all_their_forms() {
        let flags = |body: Value| query(body).map(|query| (query.wait, query.force));
        assert_eq!(flags(json!({"contacts": ["1"]})).unwrap(), (false, false));
        assert_eq!(flags(json!({"contacts": ["1"], "blocking": "wait", "force_check": true})).unwrap(), (true, true));
        assert_eq!(flags(json!({"contacts": ["1"], "blocking": "no_wait", "force_check": "true"})).unwrap(), (false, true));
        assert_eq!(flags(json!({"contacts": ["1"], "force_check": "false"})).unwrap(), (false, false));
    }

    #[test]
    fn refusals_have_the_codes_of_the_table() {
        for (body, code) in [
            (json!({}), 1008),
            (json!({"contacts": []}), 1008),
            (json!({"contacts": "16315551234"}), 1009),
            (json!({"contacts": ["16315551234", 5]}), 1009),
            (json!({"contacts": ["16315551234"], "blocking": "maybe"}), 1009),
            (json!({"contacts": ["16315551234"], "blocking": true}), 1009),
            (json!({"contacts": ["16315551234"], "force_check": "yes"}), 1009),
            (json!({"contacts": vec!["16315551234"; 1001]}), 1009),
        ] {
            assert_eq!(query(body.clone()).unwrap_err().code.number(), code, "{body:.60}");
        }
        assert!(query(json!({"contacts": vec!["16315551234"; 1000]})).is_ok());
        assert_eq!(read(b"{\"contacts\": [\"+16315551234\"").unwrap_err().code.number(), 1008);
    }
}

//! `/v1/account/shards` (spec/registration.md §6). A change is stored, and made by the master while messages
//! flow; asked for again it is answered as done.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use estafet_model::{ApiError, Code, Layout, ShardCount, WaId};
use estafet_store::NumberRow;
use serde_json::json;

use super::{Call, messages::ready};
use crate::{
    answer::{Answer, Outcome},
    app::App,
    error::store_failure,
    json::{Json, Object, parse_object},
};

/// The counts of the original.
pub(crate) const MOST: u16 = 32;
/// Bytes of a certificate.
const CERTIFICATE: std::ops::RangeInclusive<usize> = 1..=8192;

pub(super) async fn read(app: Arc<App>, call: Call) -> Outcome {
    let row = row(&app, call.tenant()?.number).await?;
    Ok(Answer::ok(&json!({ "account": { "shards": row.wanted.get() } })))
}

pub(super) async fn change(app: Arc<App>, mut call: Call) -> Outcome {
    let body = call.json(&app).await?;
    ready(&app)?;
    let number = call.tenant()?.number;
    let count = check(&parse_object(&body)?, number, app.config.require_cert_for_shards)?;
    let row = row(&app, number).await?;
    if row.wanted != count {
        let accepted = app.store.want_shards(number, count).await;
        if !accepted.map_err(|error| store_failure("change the shard count", &error))? {
            return Err(under_way(&app, number).await?.into());
        }
        tracing::info!(%number, from = row.wanted.get(), to = count.get(), "another shard count is wanted");
    }
    Ok(Answer::created(&json!({})))
}

async fn row(app: &App, number: WaId) -> Result<NumberRow, ApiError> {
    let rows = app.store.numbers().await.map_err(|error| store_failure("read the numbers", &error))?;
    let row = rows.into_iter().find(|row| row.number == number);
    row.ok_or_else(|| ApiError::new(Code::NotReady, "The number has no shards yet"))
}

/// The count that is asked for, if the request is in order.
fn check(request: &Object<'_>, number: WaId, certificate: bool) -> Result<ShardCount, ApiError> {
    let cc = request.required_text("cc", "cc")?;
    let phone: String =
        request.required_text("phone_number", "phone_number")?.chars().filter(|c| !matches!(c, ' ' | '-' | '(' | ')')).collect();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(cc) || cc.len() > 3 {
        return Err(ApiError::invalid("cc", "must be a country code of 1 to 3 digits"));
    }
    if !digits(&phone) || format!("{cc}{phone}") != number.to_string() {
        return Err(ApiError::invalid("phone_number", "is not the number that is registered here"));
    }
    let count = match request.get("shards") {
        None => return Err(ApiError::missing("shards")),
        Some(Json::Number(value)) => value.as_u64(),
        Some(Json::Text(value)) => value.parse().ok(),
        Some(_) => None,
    };
    let count = count.and_then(|count| ShardCount::new(u32::try_from(count).ok()?)).filter(|count| count.get() <= MOST);
    let count = count.ok_or_else(|| ApiError::invalid("shards", "must be 1, 2, 4, 8, 16 or 32"))?;
    if let Some(pin) = request.text("pin", "pin")?.filter(|pin| !pin.is_empty())
        && (!digits(pin) || pin.len() != 6)
    {
        return Err(ApiError::invalid("pin", "must be 6 digits"));
    }
    match request.text("cert", "cert")? {
        None if certificate => Err(ApiError::missing("cert")),
        Some(text) if !STANDARD.decode(text).is_ok_and(|cert| CERTIFICATE.contains(&cert.len())) => {
            Err(ApiError::invalid("cert", "must be a certificate in base64"))
        }
        _ => Ok(count),
    }
}

/// The refusal while another change is under way.
async fn under_way(app: &App, number: WaId) -> Result<ApiError, ApiError> {
    let row = row(app, number).await?;
    let owners = app.store.owners().await.map_err(|error| store_failure("read the owners", &error))?;
    let retired =
        |count: ShardCount| owners.iter().filter(|row| row.number == number && row.count == count && row.retired).count();
    let percentage = match row.layout {
        Layout::Switch { from, .. } => retired(from) * 100 / usize::from(from.get()),
        Layout::Stable(_) | Layout::Prepare { .. } => 0,
    };
    let (phase, from, wanted) = (row.layout.phase(), row.layout.count().get(), row.wanted.get());
    let details = format!("The change from {from} to {wanted} shards is under way: {phase}, {percentage} %");
    Ok(ApiError::new(Code::InvalidRequest, details).with_status(409))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn checked(change: impl FnOnce(&mut Value)) -> Result<u16, (u16, String)> {
        let mut body = json!({ "cc": "1", "phone_number": "5550000001", "shards": 8, "pin": "", "cert": "CmkKJQ==" });
        change(&mut body);
        let body = body.to_string();
        let number = "15550000001".parse().unwrap();
        check(&parse_object(body.as_bytes()).unwrap(), number, true)
            .map(ShardCount::get)
            .map_err(|error| (error.code.number(), error.details.into_owned()))
    }

    #[test]
    fn a_request_names_the_number_a_power_of_two_and_a_certificate() {
        assert_eq!(checked(|_| {}), Ok(8));
        assert_eq!(checked(|body| body["shards"] = json!("32")), Ok(32));
        assert_eq!(checked(|body| body["phone_number"] = json!("(555) 000-0001")), Ok(8));
        assert_eq!(checked(|body| body["pin"] = json!("012345")), Ok(8));
    }

    #[test]
    fn every_member_at_fault_is_named() {
        for name in ["cc", "phone_number", "shards", "cert"] {
            let error = checked(|body| body[name] = Value::Null).unwrap_err();
            assert!(error.0 == 1008 && error.1.contains(name), "{error:?}");
        }
        for (name, wrong) in [
            ("cc", json!("+1")),
            ("cc", json!(1)),
            ("phone_number", json!("5550000002")),
            ("phone_number", json!("")),
            ("shards", json!(3)),
            ("shards", json!(64)),
            ("shards", json!("eight")),
            ("shards", json!(-1)),
            ("shards", json!([8])),
            ("pin", json!("12345")),
            ("pin", json!(123_456)),
            ("cert", json!("%%%")),
            ("cert", json!("")),
        ] {
            let error = checked(|body| body[name] = wrong.clone()).unwrap_err();
            assert!(error.0 == 1009 && error.1.contains(name), "{name} {wrong}: {error:?}");
        }
    }
}

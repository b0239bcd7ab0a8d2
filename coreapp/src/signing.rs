//! Optional signatures of callbacks, extensions that are off until a secret is set: Meta's `X-Hub-Signature-256`
//! and the headers of Standard Webhooks. The body stays as it is; both sign the bytes that are sent.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use estafet_model::{Seq, Slot, WaId, settings::secret::Secret};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

const HUB_SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature-256");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Signs callbacks as the settings want it.
#[derive(Clone)]
pub(crate) struct Signer {
    number: WaId,
    app: Option<Hmac<Sha256>>,
    standard: Option<Hmac<Sha256>>,
}

impl Signer {
    /// The signer of the number's callbacks to a receiver with these secrets.
    pub(crate) fn new(number: WaId, app: Option<&Secret>, standard: Option<&Secret>) -> Self {
        let keyed = |key: &[u8]| Hmac::new_from_slice(key).ok();
        Self {
            number,
            app: app.and_then(|secret| keyed(secret.expose().as_bytes())),
            standard: standard.and_then(|secret| keyed(&secret.standard_key()?)),
        }
    }

    /// The headers of one try. `webhook-id` is that of the event's first place, for good, so a receiver knows a
    /// repetition by it; the timestamp is that of the try, so a receiver may refuse old ones.
    pub(crate) fn headers(&self, slot: Slot, origin: Seq, at_ms: i64, body: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        };
        if let Some(app) = &self.app {
            let mac = app.clone().chain_update(body).finalize().into_bytes();
            put(HUB_SIGNATURE, mac.iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}")));
        }
        if let Some(standard) = &self.standard {
            let (id, seconds) = (format!("cb_{}_{}_{}", self.number, slot.get(), origin.get()), at_ms.div_euclid(1000));
            let mac = standard.clone().chain_update(format!("{id}.{seconds}.")).chain_update(body).finalize().into_bytes();
            put(WEBHOOK_SIGNATURE, format!("v1,{}", STANDARD.encode(mac)));
            put(WEBHOOK_ID, id);
            put(WEBHOOK_TIMESTAMP, seconds.to_string());
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(signer: &Signer, at_ms: i64) -> HeaderMap {
        signer.headers(Slot::new(7).unwrap(), Seq::new(9), at_ms, b"{}")
    }

    fn number() -> WaId {
        "15550000001".parse().unwrap()
    }

    #[test]
    fn without_secrets_no_header_is_added() {
        assert!(headers(&Signer::new(number(), None, None), 0).is_empty());
    }

    #[test]
    fn the_app_secret_signs_the_body_in_hexadecimal() {
        let secret = Secret::app("0123456789abcdef");
        let headers = headers(&Signer::new(number(), secret.as_ref(), None), 0);
        assert_eq!(headers["x-hub-signature-256"], APP_SIGNATURE);
        assert_eq!(headers.len(), 1);
    }

    const APP_SIGNATURE: &str = "sha256=f91e3e9f05cc2df64ac1c26f8adccdffda8d1e4a7a8c50a1a08eeadac6ddfec5";

    #[test]
    fn standard_webhooks_sign_id_time_and_body_and_keep_the_id() {
        let secret = Secret::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signer = Signer::new(number(), None, secret.as_ref());
        let first = headers(&signer, 1_614_265_330_000);
        assert_eq!(
            (&first["webhook-id"], &first["webhook-timestamp"]),
            (&"cb_15550000001_7_9".parse().unwrap(), &"1614265330".parse().unwrap())
        );
        assert_eq!(first["webhook-signature"], STANDARD_SIGNATURE);
        let again = headers(&signer, 1_614_265_333_000);
        assert_eq!(first["webhook-id"], again["webhook-id"]);
        assert_ne!(first["webhook-signature"], again["webhook-signature"]);
    }

    const STANDARD_SIGNATURE: &str = "v1,5zRcQtEgEtf4Gte7S5KQpsC8FZHbspC5f+TQanXyBHo=";
}

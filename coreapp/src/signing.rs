//! Optional signatures of callbacks, extensions that are off until a secret is set: Meta's `X-Hub-Signature-256`
//! and the headers of Standard Webhooks. The body stays as it is; both sign the bytes that are sent.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use estafet_model::{WaId, settings::WebhookSettings};
use estafet_store::EventRef;
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
    /// The signer of the number's callbacks for these settings.
    pub(crate) fn new(number: WaId, settings: &WebhookSettings) -> Self {
        let keyed = |key: &[u8]| Hmac::new_from_slice(key).ok();
        Self {
            number,
            app: settings.app_secret.as_ref().and_then(|secret| keyed(secret.expose().as_bytes())),
            standard: settings.signing_secret.as_ref().and_then(|secret| keyed(&secret.standard_key()?)),
        }
    }

    /// The headers of one try. `webhook-id` is the event's for good, so a receiver knows a repetition by it; the
    /// timestamp is that of the try, so a receiver may refuse old ones.
    pub(crate) fn headers(&self, event: EventRef, at_ms: i64, body: &[u8]) -> HeaderMap {
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
            let (id, seconds) = (format!("cb_{}_{}_{}", self.number, event.slot.get(), event.seq.get()), at_ms.div_euclid(1000));
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
    use estafet_model::{Seq, Slot, settings::secret::Secret};

    use super::*;

    fn event() -> EventRef {
        EventRef { slot: Slot::new(7).unwrap(), seq: Seq::new(9) }
    }

    fn number() -> WaId {
        "15550000001".parse().unwrap()
    }

    #[test]
    fn without_secrets_no_header_is_added() {
        assert!(Signer::new(number(), &WebhookSettings::default()).headers(event(), 0, b"{}").is_empty());
    }

    #[test]
    fn the_app_secret_signs_the_body_in_hexadecimal() {
        let settings = WebhookSettings { app_secret: Secret::app("0123456789abcdef"), ..WebhookSettings::default() };
        let headers = Signer::new(number(), &settings).headers(event(), 0, b"{}");
        assert_eq!(headers["x-hub-signature-256"], APP_SIGNATURE);
        assert_eq!(headers.len(), 1);
    }

    const APP_SIGNATURE: &str = "sha256=f91e3e9f05cc2df64ac1c26f8adccdffda8d1e4a7a8c50a1a08eeadac6ddfec5";

    #[test]
    fn standard_webhooks_sign_id_time_and_body_and_keep_the_id() {
        let settings = WebhookSettings {
            signing_secret: Secret::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            ..WebhookSettings::default()
        };
        let signer = Signer::new(number(), &settings);
        let first = signer.headers(event(), 1_614_265_330_000, b"{}");
        assert_eq!(
            (&first["webhook-id"], &first["webhook-timestamp"]),
            (&"cb_15550000001_7_9".parse().unwrap(), &"1614265330".parse().unwrap())
        );
        assert_eq!(first["webhook-signature"], STANDARD_SIGNATURE);
        let again = signer.headers(event(), 1_614_265_333_000, b"{}");
        assert_eq!(first["webhook-id"], again["webhook-id"]);
        assert_ne!(first["webhook-signature"], again["webhook-signature"]);
    }

    const STANDARD_SIGNATURE: &str = "v1,5zRcQtEgEtf4Gte7S5KQpsC8FZHbspC5f+TQanXyBHo=";
}

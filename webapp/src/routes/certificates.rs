//! `/v1/certificates/webhooks/ca` (spec/settings.md §6): authorities that callbacks trust beside the system's, in
//! force at once.

use std::sync::Arc;

use estafet_model::{ApiError, Code};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::Call;
use crate::{
    answer::{Answer, Outcome},
    app::App,
};

/// Certificates in one bundle.
const MOST: usize = 256;

pub(super) async fn read(_: Arc<App>, call: Call) -> Outcome {
    match call.tenant()?.settings.read().await?.webhooks.ca {
        Some(pem) => Ok(Answer::text("text/plain", pem)),
        None => Err(ApiError::new(Code::NotFound, "No CA certificate for webhooks was uploaded").into()),
    }
}

pub(super) async fn write(app: Arc<App>, mut call: Call) -> Outcome {
    let body = call.text(&app).await?;
    call.tenant()?.settings.set_webhook_ca(Some(authorities("body", &body)?)).await?;
    Ok(Answer::nothing())
}

pub(super) async fn remove(_: Arc<App>, call: Call) -> Outcome {
    call.tenant()?.settings.set_webhook_ca(None).await?;
    Ok(Answer::nothing())
}

/// The bundle, if each of its certificates can be trusted and nothing in it is secret. Errors call it `name`.
pub(super) fn authorities<'a>(name: &str, body: &'a [u8]) -> Result<&'a str, ApiError> {
    let refused = |why: &str| ApiError::invalid(name, why);
    let text = std::str::from_utf8(body).map_err(|_| refused("must be certificates in PEM form"))?;
    if text.trim().is_empty() {
        return Err(ApiError::new(Code::ParameterMissing, "The request body must hold certificates in PEM form"));
    }
    if text.contains("PRIVATE KEY-----") {
        return Err(refused("must hold certificates only; a private key does not belong here"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(body) {
        let certificate = certificate.map_err(|_| refused("must be certificates in PEM form"))?;
        roots.add(certificate).map_err(|_| refused("holds a certificate that cannot be read"))?;
        if roots.len() > MOST {
            return Err(refused("holds too many certificates"));
        }
    }
    if roots.is_empty() { Err(refused("must be certificates in PEM form")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
        for (body, code) in [
            ("", Code::ParameterMissing),
            (" \n", Code::ParameterMissing),
            ("hello", Code::ParameterInvalid),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", Code::ParameterInvalid),
            ("-----BEGIN CERTIFICATE-----\nAAAA", Code::ParameterInvalid),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", Code::ParameterInvalid),
        ] {
            assert_eq!(authorities("body", body.as_bytes()).unwrap_err().code, code, "{body:?}");
        }
        assert_eq!(authorities("body", b"\xff").unwrap_err().code, Code::ParameterInvalid);
    }
}

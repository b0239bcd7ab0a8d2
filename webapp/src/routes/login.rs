//! `/v1/users/login` and `/v1/users/logout` (spec/auth-and-users.md §3, §4).

use std::sync::Arc;

use chrono::DateTime;
use estafet_model::{ApiError, Code, WaId};
use estafet_store::UserRow;
use serde::Serialize;
use tokio::time::Instant;

use super::Call;
use crate::{
    answer::{Answer, Outcome, Refusal},
    app::App,
    auth::{self, Caller, password::check_password, token::Claims},
    config::LogoutScope,
    json::parse_object,
    numbers::Tenant,
};

#[derive(Serialize)]
struct Tokens {
    users: [Token; 1],
}

#[derive(Serialize)]
struct Token {
    token: String,
    expires_after: String,
}

pub(super) async fn login(app: Arc<App>, mut call: Call) -> Outcome {
    let (username, password) = auth::basic(&call.parts.headers).ok_or_else(auth::denied)?;
    let tenant = call.tenant()?.clone();
    let body = call.optional_json(&app).await?;
    let new_password = match &body {
        Some(body) => parse_object(body)?.text("new_password", "new_password")?.map(str::to_owned),
        None => None,
    };
    let (user_key, address) = (app.user_key(tenant.number, &username), call.address());
    throttle(&app).begin(user_key, address, Instant::now()).map_err(|wait| Refusal {
        error: ApiError::new(Code::TooManyRequests, "Too many failed logins"),
        retry_after: Some(wait.as_secs() + 1),
    })?;
    let verified = verify(&app, &tenant, &username, &password).await;
    // Only a wrong name or password counts as a failure.
    if !matches!(verified, Ok(None)) {
        throttle(&app).forgive(user_key, address);
    }
    let user = verified?.ok_or_else(auth::denied)?;
    let user = match new_password {
        Some(new_password) => set_password(&app, &tenant, user, &password, &new_password).await?,
        None if user.must_change => {
            return Err(ApiError::new(Code::PasswordChangeRequired, "Send new_password with the login").into());
        }
        None => user,
    };
    Ok(Answer::ok(&Tokens { users: [issue(&app, tenant.number, &user)] }))
}

pub(super) async fn logout(app: Arc<App>, call: Call) -> Outcome {
    let Caller::Account(_, claims) = &call.caller else { return Err(auth::denied().into()) };
    match app.config.logout_scope {
        LogoutScope::User => call.tenant()?.accounts.log_out(claims).await?,
        LogoutScope::Token => call.tenant()?.accounts.revoke(claims).await?,
    }
    Ok(Answer::nothing())
}

fn throttle(app: &App) -> std::sync::MutexGuard<'_, auth::throttle::Throttle> {
    app.throttle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The account, if name and password are right. Costs the same for unknown names.
async fn verify(app: &App, tenant: &Tenant, username: &str, password: &str) -> Result<Option<UserRow>, ApiError> {
    let user = tenant.accounts.read_fresh(username).await?;
    let right = app.hasher.verify(password, user.as_ref().map(|user| user.password_hash.as_str())).await?;
    Ok(user.filter(|_| right))
}

async fn set_password(
    app: &App,
    tenant: &Tenant,
    user: UserRow,
    password: &str,
    new_password: &str,
) -> Result<UserRow, ApiError> {
    if new_password == password {
        if user.must_change {
            return Err(ApiError::invalid("new_password", "must differ from the initial password"));
        }
        return Ok(user);
    }
    check_password(new_password, "new_password")?;
    let hash = app.hasher.hash(new_password).await?;
    tenant.accounts.set_password(&user.username, hash).await?.ok_or_else(auth::denied)
}

fn issue(app: &App, number: WaId, user: &UserRow) -> Token {
    let now_ms = app.clock.now_ms();
    let iat = now_ms.div_euclid(1000);
    let exp = iat.saturating_add(i64::try_from(app.config.token_lifetime.as_secs()).unwrap_or(i64::MAX));
    let claims = Claims {
        user: user.username.clone(),
        iat,
        exp,
        id: format!("{:032x}", rand::random::<u128>()),
        // Later than any logout so far, even one of this very millisecond.
        iat_ms: now_ms.max(user.tokens_valid_after_ms.saturating_add(1)),
        generation: user.generation,
        number: Some(number),
    };
    let expires_after = DateTime::from_timestamp(exp, 0).unwrap_or(DateTime::<chrono::Utc>::MAX_UTC);
    Token { token: app.gate.signer().sign(&claims), expires_after: expires_after.format("%Y-%m-%d %H:%M:%S+00:00").to_string() }
}

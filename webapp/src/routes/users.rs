//! `/v1/users` (spec/auth-and-users.md §5).

use std::sync::Arc;

use estafet_model::{ApiError, Code};
use estafet_store::Role;
use serde::Serialize;

use super::Call;
use crate::{
    answer::{Answer, Outcome},
    app::App,
    auth::{
        self, Caller,
        accounts::ADMIN,
        password::{check_password, check_username},
    },
    error::store_failure,
    json::parse_object,
};

#[derive(Serialize)]
struct Users<'a> {
    users: [User<'a>; 1],
}

#[derive(Serialize)]
struct User<'a> {
    #[serde(rename = "ROLES", skip_serializing_if = "Option::is_none")]
    roles: Option<&'static str>,
    username: &'a str,
}

fn named(username: &str) -> Users<'_> {
    Users { users: [User { roles: None, username }] }
}

fn unknown() -> ApiError {
    ApiError::new(Code::NotFound, "No such user")
}

pub(super) async fn create(app: Arc<App>, mut call: Call) -> Outcome {
    let body = call.json(&app).await?;
    let request = parse_object(&body)?;
    let username = request.required_text("username", "username")?;
    let password = request.required_text("password", "password")?;
    check_username(username)?;
    check_password(password, "password")?;
    let hash = app.hasher.hash(password).await?;
    let created = call.tenant()?.accounts.create(username, Role::User, hash, false).await;
    if !created.map_err(|error| store_failure("create a user", &error))? {
        return Err(ApiError::new(Code::Internal, "Unable to create user. Already exist?").with_status(400).into());
    }
    Ok(Answer::created(&named(username)))
}

pub(super) async fn read(_: Arc<App>, mut call: Call) -> Outcome {
    let username = own_or_admin(&mut call).await?;
    let user = call.tenant()?.accounts.read_fresh(&username).await?.ok_or_else(unknown)?;
    let roles = Some(match user.role {
        Role::Admin => "ROLE_ADMIN",
        Role::User => "ROLE_USER",
    });
    Ok(Answer::ok(&Users { users: [User { roles, username: &user.username }] }))
}

pub(super) async fn update(app: Arc<App>, mut call: Call) -> Outcome {
    let username = own_or_admin(&mut call).await?;
    let body = call.json(&app).await?;
    let request = parse_object(&body)?;
    let password = request.required_text("password", "password")?;
    check_password(password, "password")?;
    if call.tenant()?.accounts.read_fresh(&username).await?.is_none() {
        return Err(unknown().into());
    }
    let hash = app.hasher.hash(password).await?;
    call.tenant()?.accounts.set_password(&username, hash).await?.ok_or_else(unknown)?;
    Ok(Answer::ok(&named(&username)))
}

pub(super) async fn delete(_: Arc<App>, mut call: Call) -> Outcome {
    let username = call.path_parameter().await.ok_or_else(unknown)?;
    if username == ADMIN {
        return Err(ApiError::invalid("username", "names the built-in account, which cannot be deleted").into());
    }
    if !call.tenant()?.accounts.delete(&username).await? {
        return Err(unknown().into());
    }
    Ok(Answer::ok(&named(&username)))
}

/// The user the path names, if the caller may look at that one.
async fn own_or_admin(call: &mut Call) -> Result<String, ApiError> {
    let username = call.path_parameter().await.ok_or_else(unknown)?;
    match &call.caller {
        Caller::Account(Role::Admin, _) => Ok(username),
        Caller::Account(Role::User, claims) if claims.user == username => Ok(username),
        _ => Err(auth::forbidden()),
    }
}

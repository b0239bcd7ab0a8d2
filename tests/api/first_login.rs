//! The first login (spec/auth-and-users.md §3).

use estafet_harness::Sandbox;

#[tokio::test]
async fn the_initial_password_must_be_changed_at_the_first_login() -> anyhow::Result<()> {
    let sandbox = Sandbox::options().with_initial_password().start().await?;
    let api = sandbox.anonymous()?;

    let refused = api.try_login("admin", "secret", None).await?;
    assert_eq!((refused.status, refused.error_code()), (403, Some(1024)), "{}", refused.text);
    let weak = api.try_login("admin", "secret", Some("password")).await?;
    assert_eq!((weak.status, weak.error_code()), (400, Some(1009)), "{}", weak.text);
    let changed = api.try_login("admin", "secret", Some("N3w!secret")).await?;
    assert_eq!(changed.status, 200, "{}", changed.text);

    let old = api.try_login("admin", "secret", None).await?;
    assert_eq!((old.status, old.error_code()), (401, Some(1005)), "{}", old.text);
    api.login("admin", "N3w!secret").await?;
    Ok(())
}

#[tokio::test]
async fn a_changed_password_and_its_tokens_outlive_a_restart() -> anyhow::Result<()> {
    let mut sandbox = Sandbox::options().with_initial_password().start().await?;
    let api = sandbox.anonymous()?;
    let changed = api.try_login("admin", "secret", Some("N3w!secret")).await?;
    let token = changed.text_at("/users/0/token").expect("a login answers with a token").to_owned();

    sandbox.terminate().await?;
    sandbox.restart().await?;

    let api = sandbox.anonymous()?;
    assert_eq!(api.try_login("admin", "secret", None).await?.status, 401);
    api.with_authorization(format!("Bearer {token}")).settings().await?;
    Ok(())
}

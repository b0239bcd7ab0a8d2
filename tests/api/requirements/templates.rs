//! Templates: what the operator sees of them.

use estafet_harness::environment::estafet_binary;
use tokio::process::Command;

use crate::world::World;

/// Whether `estafet template ...` succeeds, and what it prints.
async fn template(world: &World, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(estafet_binary()?);
    let output = command.arg("template").args(arguments).args(["--url", world.admin.base_url()]).output().await?;
    Ok((output.status.success(), String::from_utf8(output.stdout)?))
}

#[tokio::test]
async fn r182_r183_the_operator_sees_parameters_and_gaps_between_languages() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (listed, list) = template(&world, &["list"]).await?;
    let row = |name: &str, language: &str| {
        let mut rows = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.find(|row| row[1..3] == [name, language]).map(|row| row[3..].join(" "))
    };
    assert!(listed);
    assert_eq!(row("hello_world", "en_US").as_deref(), Some("APPROVED"));
    assert_eq!(row("order_update", "id").as_deref(), Some("APPROVED body 2"));
    assert_eq!(row("promo_image", "en_US").as_deref(), Some("APPROVED header 1, body 1, buttons 1"));
    let (whole, gaps) = template(&world, &["check"]).await?;
    let expected = ["hello_world", "promo_image"].map(|name| format!("{name} of estafet_sandbox cannot be sent in id"));
    assert_eq!((whole, gaps.lines().collect::<Vec<_>>()), (false, expected.iter().map(String::as_str).collect()));
    template(&world, &["remove", "estafet_sandbox", "order_update", "--language", "id"]).await?;
    assert_eq!(template(&world, &["check"]).await?, (true, String::new()));
    Ok(())
}

//! `estafet template`: the templates that may be sent in a sandbox.

use anyhow::{Context as _, ensure};
use reqwest::{Method, Url};
use serde_json::Value;

use crate::{
    api::Api,
    args::{TemplateArgs, TemplateCommand},
    output::line,
};

const PATH: &str = "/sandbox/templates";

pub(crate) async fn run(args: TemplateArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.target.url)?;
    match args.command {
        TemplateCommand::List { json } => list(&api, json).await,
        TemplateCommand::Add { file } => {
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let templates: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
            let added = api.call(Method::POST, PATH, Some(&templates)).await.with_context(|| file.display().to_string())?;
            show(&added)
        }
        TemplateCommand::Check => check(&api).await,
        TemplateCommand::Remove { namespace, name, language } => {
            let path = removal(&namespace, &name, language.as_deref())?;
            let answer = api.call(Method::DELETE, &path, None).await?;
            line(&format!("{} removed", answer.get("removed").and_then(Value::as_u64).unwrap_or_default()))
        }
    }
}

async fn list(api: &Api, as_json: bool) -> anyhow::Result<()> {
    let answer = api.get(PATH).await?;
    if as_json { line(&serde_json::to_string_pretty(&answer)?) } else { show(&answer) }
}

fn show(answer: &Value) -> anyhow::Result<()> {
    line(&format!("{:<24} {:<24} {:<8} {:<12} PARAMETERS", "NAMESPACE", "NAME", "LANGUAGE", "STATUS"))?;
    for template in answer.get("templates").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| template.get(key).and_then(Value::as_str).unwrap_or("-");
        let row = format!("{:<24} {:<24} {:<8} {:<12}", text("namespace"), text("name"), text("language"), text("status"));
        line(format!("{row} {}", parameters(&template["parameters"])).trim_end())?;
    }
    Ok(())
}

/// How many parameters the parts of a template take; nothing for what takes none.
fn parameters(counts: &Value) -> String {
    let count = |part: &str| counts.get(part).and_then(Value::as_u64).filter(|count| *count > 0);
    let parts = ["header", "body", "buttons"].into_iter().filter_map(|part| Some(format!("{part} {}", count(part)?)));
    parts.collect::<Vec<_>>().join(", ")
}

/// Prints the gaps; they are an error.
async fn check(api: &Api) -> anyhow::Result<()> {
    let answer = api.get("/sandbox/templates/gaps").await?;
    let gaps = answer.get("gaps").and_then(Value::as_array).context("the answer has no gaps")?;
    for gap in gaps {
        let text = |key: &str| gap.get(key).and_then(Value::as_str).unwrap_or("-");
        line(&format!("{} of {} cannot be sent in {}", text("name"), text("namespace"), text("language")))?;
    }
    ensure!(gaps.is_empty(), "gaps: {}", gaps.len());
    Ok(())
}

/// Where a template is removed; names from the command line may hold anything.
fn removal(namespace: &str, name: &str, language: Option<&str>) -> anyhow::Result<String> {
    let mut url = Url::parse("http://sandbox.invalid")?;
    url.path_segments_mut().ok().context("no path")?.extend(["sandbox", "templates", namespace, name]);
    if let Some(language) = language {
        url.query_pairs_mut().append_pair("language", language);
    }
    Ok(url.to_string().trim_start_matches("http://sandbox.invalid").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r182_a_row_tells_how_many_parameters_there_are() {
        assert_eq!(parameters(&serde_json::json!({ "header": 1, "body": 2, "buttons": 0 })), "header 1, body 2");
        assert_eq!(parameters(&serde_json::json!({ "header": 0, "body": 0, "buttons": 0 })), "");
    }

    #[test]
    fn names_stay_within_their_part_of_the_path() {
        assert_eq!(removal("ns", "a", None).unwrap(), "/sandbox/templates/ns/a");
        assert_eq!(removal("n/s", "a?b", Some("en&x=1")).unwrap(), "/sandbox/templates/n%2Fs/a%3Fb?language=en%26x%3D1");
    }
}

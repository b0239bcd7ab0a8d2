//! What a process was started with, for people who look for a cause: every option of its command with its value and
//! where that comes from. Options whose value help hides are secret, and masked; of addresses only the place is shown.

use clap::{Arg, ArgMatches, Command, parser::ValueSource};
use serde_json::{Map, Value, json};

use crate::support::redaction;

/// The options of the sub-command that was given.
pub(crate) fn of(command: &Command, matches: &ArgMatches) -> Value {
    let Some((name, given)) = matches.subcommand() else { return Value::Null };
    let arguments = command.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
    let options: Map<String, Value> =
        arguments.filter_map(|argument| Some((argument.get_id().to_string(), option(argument, given)?))).collect();
    json!({ "command": name, "version": env!("CARGO_PKG_VERSION"), "options": options })
}

/// `None`: it has no value.
fn option(argument: &Arg, given: &ArgMatches) -> Option<Value> {
    let id = argument.get_id().as_str();
    let shown = |text: &str| {
        if argument.is_hide_env_values_set() { redaction::secret_option(text) } else { redaction::option(text) }
    };
    let mut values: Vec<Value> = given.try_get_raw(id).ok()??.map(|value| Value::from(shown(&value.to_string_lossy()))).collect();
    let from = match given.value_source(id)? {
        ValueSource::DefaultValue => "default",
        ValueSource::EnvVariable => "environment",
        ValueSource::CommandLine => "command line",
        _ => "elsewhere",
    };
    let value = if values.len() == 1 { values.remove(0) } else { Value::from(values) };
    Some(json!({ "value": value, "from": from }))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    fn of_line(line: &[&str]) -> Value {
        of(&Cli::command(), &Cli::command().try_get_matches_from(line).unwrap())
    }

    #[test]
    fn options_are_told_with_their_source_and_secrets_are_masked() {
        let told = of_line(&[
            "estafet",
            "webapp",
            "--master",
            "a:1,b:2",
            "--database-url",
            "postgres://me:c4nary@db.example.net/messages",
            "--admin-password",
            "c4nary",
            "--api-key",
            "c4nary-c4nary",
            "--webhook-url",
            "https://u:c4nary@hooks.example.net/c4nary?x=c4nary",
            "--media-secret-access-key",
            "c4nary",
            "--media-access-key-id",
            "c4nary",
        ]);
        assert!(!told.to_string().contains("c4nary"), "{told}");
        let options = &told["options"];
        assert_eq!(options["database_url"]["value"], "postgres://********@db.example.net/messages");
        assert_eq!(options["webhook_url"]["value"], "https://hooks.example.net/...");
        assert_eq!(options["master"], json!({ "value": ["a:1", "b:2"], "from": "command line" }));
        assert_eq!(options["requests_per_second"], json!({ "value": "2000", "from": "default" }));
        assert_eq!((&told["command"], options.get("https_key")), (&json!("webapp"), None), "what has no value is left out");
    }

    #[test]
    fn every_option_that_sounds_secret_hides_its_value() {
        let command = Cli::command();
        for argument in command.get_subcommands().flat_map(Command::get_arguments) {
            let name = argument.get_id().as_str();
            let is_path = argument.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str() == "FILE"));
            if redaction::names_a_secret(name) && !is_path {
                assert!(argument.is_hide_env_values_set(), "{name}: hide_env_values = true");
            }
        }
    }
}

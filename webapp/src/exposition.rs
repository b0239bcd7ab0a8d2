//! Statistics in the two forms of the original (spec/health-and-stats.md §2): JSON, and the Prometheus text format.
//! Pure.

use std::fmt::Write as _;

use estafet_model::ApiError;
use serde_json::{Map, Value, json};

/// One metric.
#[derive(Clone, Debug)]
pub(crate) struct Metric {
    /// Name, byte-exact as in the original.
    pub(crate) name: String,
    /// Whether it only grows.
    pub(crate) is_counter: bool,
    /// What it says, for people.
    pub(crate) help: String,
    /// Its values.
    pub(crate) data: Vec<Sample>,
}

/// One value of a metric.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

impl Metric {
    /// A metric with one value and no labels.
    pub(crate) fn one(name: &str, is_counter: bool, help: &str, value: f64) -> Self {
        let data = vec![Sample { labels: Vec::new(), value }];
        Self { name: name.to_owned(), is_counter, help: help.to_owned(), data }
    }

    fn kind(&self) -> &'static str {
        if self.is_counter { "counter" } else { "gauge" }
    }

    fn json(&self) -> Value {
        let sample = |sample: &Sample| {
            let mut shown = Map::new();
            if !sample.labels.is_empty() {
                let labels = sample.labels.iter().map(|(name, value)| (name.clone(), json!(value)));
                shown.insert("labels".to_owned(), labels.collect());
            }
            shown.insert("value".to_owned(), number(sample.value));
            Value::Object(shown)
        };
        json!({ "type": self.kind(), "help": self.help, "data": self.data.iter().map(sample).collect::<Vec<_>>() })
    }
}

/// Whole numbers are shown without a fraction.
fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT { json!(value as i64) } else { json!(value) }
}

/// Which form is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Prometheus,
}

impl Format {
    /// Reads `format` of a query; `None` if it is not there.
    pub(crate) fn asked(query: Option<&str>) -> Result<Option<Self>, ApiError> {
        let parameters = query.into_iter().flat_map(|query| query.split('&')).filter_map(|part| part.split_once('='));
        match parameters.filter(|(name, _)| *name == "format").map(|(_, value)| value).next_back() {
            None => Ok(None),
            Some("json") => Ok(Some(Self::Json)),
            Some("prometheus") => Ok(Some(Self::Prometheus)),
            Some(_) => Err(ApiError::invalid("format", "must be json or prometheus")),
        }
    }
}

/// Metrics by name.
pub(crate) fn to_json(metrics: &[Metric]) -> Value {
    metrics.iter().map(|metric| (metric.name.clone(), metric.json())).collect::<Map<_, _>>().into()
}

/// The text of the metrics of several nodes; where there is a name, it becomes the label `node`.
pub(crate) fn to_text(nodes: &[(Option<&str>, &[Metric])]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for metric in nodes.iter().flat_map(|(_, metrics)| metrics.iter()) {
        if !names.contains(&metric.name.as_str()) {
            names.push(&metric.name);
        }
    }
    let mut text = String::new();
    for name in names {
        let mut head = true;
        for (node, metrics) in nodes {
            for metric in metrics.iter().filter(|metric| metric.name == name) {
                if std::mem::take(&mut head) {
                    let help = metric.help.replace('\\', "\\\\").replace('\n', "\\n");
                    push(&mut text, format_args!("# HELP {name} {help}\n# TYPE {name} {}\n", metric.kind()));
                }
                metric.data.iter().for_each(|sample| line(&mut text, name, *node, sample));
            }
        }
    }
    text
}

fn line(text: &mut String, name: &str, node: Option<&str>, sample: &Sample) {
    let node = node.map(|node| ("node", node));
    let own = sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let labels: Vec<String> = node.into_iter().chain(own).map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    push(text, format_args!("{name}{labels} {}\n", number(sample.value)));
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a string takes any text");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(labels: &[(&str, &str)], value: f64) -> Sample {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Sample { labels: labels.iter().map(own).collect(), value }
    }

    #[test]
    fn both_forms_are_those_of_the_page() {
        let sent = Metric {
            name: "out_message_sent_duration_ms_count".to_owned(),
            is_counter: true,
            help: "Messages sent".to_owned(),
            data: vec![labelled(&[("retry", "0"), ("type", "")], 2.0)],
        };
        let metrics = [Metric::one("callback_queue_size", false, "Queue", 450.0), sent];
        assert_eq!(
            to_json(&metrics),
            json!({
                "callback_queue_size": { "type": "gauge", "help": "Queue", "data": [{ "value": 450 }] },
                "out_message_sent_duration_ms_count": { "type": "counter", "help": "Messages sent",
                    "data": [{ "labels": { "retry": "0", "type": "" }, "value": 2 }] },
            })
        );
        assert_eq!(
            to_text(&[(None, &metrics)]),
            "# HELP callback_queue_size Queue\n# TYPE callback_queue_size gauge\ncallback_queue_size 450\n\
             # HELP out_message_sent_duration_ms_count Messages sent\n# TYPE out_message_sent_duration_ms_count counter\n\
             out_message_sent_duration_ms_count{retry=\"0\",type=\"\"} 2\n"
        );
    }

    #[test]
    fn nodes_become_labels_under_one_head_and_values_are_escaped() {
        let metric = |value| {
            [Metric { data: vec![labelled(&[("app", "a\"b\\c\nd")], value)], ..Metric::one("x_ms", true, "h\nelp", 0.0) }]
        };
        let (one, two) = (metric(1.5), metric(2.0));
        assert_eq!(
            to_text(&[(Some("core-0"), &one), (Some("core-1"), &two)]),
            "# HELP x_ms h\\nelp\n# TYPE x_ms counter\nx_ms{node=\"core-0\",app=\"a\\\"b\\\\c\\nd\"} 1.5\n\
             x_ms{node=\"core-1\",app=\"a\\\"b\\\\c\\nd\"} 2\n"
        );
    }

    #[test]
    fn only_the_two_forms_can_be_asked_for() {
        assert_eq!(Format::asked(None).unwrap(), None);
        assert_eq!(Format::asked(Some("a=1&format=json")).unwrap(), Some(Format::Json));
        assert_eq!(Format::asked(Some("format=prometheus&b")).unwrap(), Some(Format::Prometheus));
        for wrong in ["format=", "format=xml", "format=JSON"] {
            assert_eq!(Format::asked(Some(wrong)).unwrap_err().code.number(), 1009, "{wrong}");
        }
    }
}

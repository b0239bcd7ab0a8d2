//! `type: hsm`, the older form of a template message: the name is `element_name`, and the
//! parameters are those of the body (spec/templates.md §2). It cannot address richer templates.

use std::borrow::Cow;

use estafet_model::ApiError;

use super::template::{At, Filled, currency, date_time, language, name, namespace};
use crate::{
    json::Object,
    template::{Call, DateTime, Library, Parameter},
};

pub(super) fn read<'a>(request: &'a Object<'_>, library: &Library) -> Result<Filled<'a>, ApiError> {
    let hsm = request.object("hsm", "hsm")?.ok_or_else(|| super::object_missing("hsm"))?;
    let hsm = At { object: hsm, path: "hsm".to_owned() };
    let namespace = namespace(&hsm)?;
    let name = name(&hsm, "element_name")?;
    let (language, asked_fallback) = language(&hsm)?;
    let body = hsm.objects("localizable_params")?.iter().map(parameter).collect::<Result<_, _>>()?;
    let call = Call {
        namespace,
        name,
        language,
        asked_fallback,
        is_legacy: true,
        header: None,
        body,
        footer: Vec::new(),
        buttons: Vec::new(),
    };
    Filled::new(call, library)
}

fn parameter<'a>(parameter: &At<'a>) -> Result<Parameter<'a>, ApiError> {
    let shown = parameter.filled_text("default")?;
    if let Some(amount) = parameter.object("currency")? {
        return Ok(Parameter::Currency { currency: currency(&amount, Some(shown))? });
    }
    if let Some(moment) = parameter.object("date_time")? {
        return Ok(Parameter::DateTime { date_time: moment_of(&moment, shown)? });
    }
    Ok(Parameter::Text { text: Cow::Borrowed(shown) })
}

/// The members of a moment are one level deeper here.
fn moment_of<'a>(moment: &At<'a>, shown: &'a str) -> Result<DateTime<'a>, ApiError> {
    match (moment.object("component")?, moment.object("unix_epoch")?) {
        (Some(inner), _) | (None, Some(inner)) => date_time(&inner, Some(shown)),
        (None, None) => Err(ApiError::missing(&moment.name_of("component"))),
    }
}

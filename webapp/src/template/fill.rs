//! Compares a request with its template and puts the parameters into the texts: checks 6 to 13 of
//! spec/templates.md §3, in that order over the whole message, and what a person will see.

use std::borrow::Cow;

use estafet_model::{ApiError, Code};
use serde::Serialize;

use super::{
    BODY_LIMIT, HEADER_LIMIT, URL_LIMIT,
    call::{ButtonCall, Call, Parameter},
    model::{Action, Button, Header, MediaKind, Parameters, Template},
};
use crate::json::Object;

/// Longest payload of a quick reply, in characters.
const PAYLOAD_LIMIT: usize = 256;
/// Longest coupon code, in characters.
const COUPON_LIMIT: usize = 15;
/// More spaces than this in a row are not for bodies.
const SPACES_LIMIT: usize = 4;

/// What a person sees.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Rendered<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Parameter<'a>>,
    body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    footer: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    buttons: Vec<RenderedButton<'a>>,
}

#[derive(Debug, PartialEq, Serialize)]
struct RenderedButton<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: String,
    #[serde(flatten)]
    does: Does<'a>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Does<'a> {
    Payload(Cow<'a, str>),
    Url(String),
    PhoneNumber(String),
    CouponCode(&'a str),
    Action(Option<&'a Object<'a>>),
}

/// Checks the request against the template and renders it.
pub(super) fn fill<'a>(template: &Template, call: &Call<'a>) -> Result<Rendered<'a>, ApiError> {
    if call.is_legacy && (template.header.is_some() || !template.buttons.is_empty()) {
        let details = format!("{} is a rich template and needs the template message API to be used", call.name);
        return Err(ApiError::new(Code::TemplateParameterFormat, details));
    }
    required_components(template, call)?;
    counts(template, call)?;
    formats(template, call)?;
    let rendered = render(template, call);
    lengths(call, &rendered)?;
    white_space_and_characters(call)?;
    rendered.buttons.iter().try_for_each(|button| address(&button.does))?;
    buttons_exist(template, call)?;
    Ok(rendered)
}

/// What a button takes from the sender.
#[derive(PartialEq, Eq)]
enum Takes {
    Nothing,
    Allowed,
    Needed,
}

fn takes_parameter(button: &Button) -> Takes {
    match button.action {
        Action::Url { has_suffix: true, .. } | Action::CopyCode | Action::Products => Takes::Needed,
        Action::QuickReply | Action::Flow | Action::Catalog => Takes::Allowed,
        Action::Url { has_suffix: false, .. } | Action::Call(_) => Takes::Nothing,
    }
}

fn call_of<'c, 'a>(call: &'c Call<'a>, index: usize) -> Option<&'c ButtonCall<'a>> {
    call.buttons.iter().find(|button| button.index == index)
}

fn required_components(template: &Template, call: &Call<'_>) -> Result<(), ApiError> {
    let missing = |details| Err(ApiError::new(Code::TemplateComponentMissing, details));
    if let (Some(Header::Media(kind)), None) = (&template.header, &call.header) {
        return missing(format!("header: the component with the {} is missing", kind.word()));
    }
    let is_missing =
        |(index, button): &(usize, &Button)| takes_parameter(button) == Takes::Needed && call_of(call, *index).is_none();
    match template.buttons.iter().enumerate().find(is_missing) {
        Some((index, _)) => missing(format!("button {index}: the component is missing")),
        None => Ok(()),
    }
}

impl Template {
    /// How many parameters its parts take.
    pub(super) fn parameters(&self) -> Parameters {
        let header = match &self.header {
            None => 0,
            Some(Header::Text(pattern)) => pattern.count(),
            Some(Header::Media(_)) => 1,
        };
        let buttons = self.buttons.iter().filter(|button| takes_parameter(button) == Takes::Needed).count();
        Parameters { header, body: self.body.count(), buttons }
    }
}

fn counts(template: &Template, call: &Call<'_>) -> Result<(), ApiError> {
    let parameters = template.parameters();
    count("header", call.header.as_ref().map_or(0, Vec::len), parameters.header)?;
    count("body", call.body.len(), parameters.body)?;
    count("footer", call.footer.len(), 0)?;
    for (index, button) in template.buttons.iter().enumerate() {
        let Some(given) = call_of(call, index) else { continue };
        let expected = match takes_parameter(button) {
            Takes::Nothing => 0,
            Takes::Allowed => given.parameters.len().min(1),
            Takes::Needed => 1,
        };
        count(&format!("button {index}"), given.parameters.len(), expected)?;
    }
    Ok(())
}

fn count(component: &str, given: usize, expected: usize) -> Result<(), ApiError> {
    if given == expected {
        return Ok(());
    }
    let details =
        format!("{component}: number of localizable_params ({given}) does not match the expected number of params ({expected})");
    Err(ApiError::new(Code::TemplateParameterCount, details))
}

fn formats(template: &Template, call: &Call<'_>) -> Result<(), ApiError> {
    for parameter in call.header.iter().flatten() {
        match &template.header {
            Some(Header::Media(kind)) if parameter.media() == Some(*kind) => {}
            // Text is no media, and neither is what belongs to other components.
            Some(Header::Media(_)) if matches!(parameter, Parameter::Other { .. }) => {
                let details = format!("header: {} is not supported", parameter.word());
                return Err(ApiError::new(Code::TemplateMediaFormat, details));
            }
            Some(Header::Media(kind)) => return Err(mismatch("header", kind.word(), parameter)),
            _ if matches!(parameter, Parameter::Text { .. }) => {}
            _ => return Err(mismatch("header", "TEXT", parameter)),
        }
    }
    if let Some(parameter) = call.body.iter().find(|parameter| parameter.shown().is_none()) {
        return Err(mismatch("body", "TEXT", parameter));
    }
    for (index, button) in template.buttons.iter().enumerate() {
        let Some(given) = call_of(call, index) else { continue };
        let (component, sub_type) = (format!("button {index}"), button.action.sub_type());
        if given.sub_type != sub_type && is_known(given.sub_type) {
            let (expected, received) = (sub_type.to_uppercase(), given.sub_type.to_uppercase());
            return Err(mismatch_of(&component, &expected, &received));
        }
        let Some(parameter) = given.parameters.first() else { continue };
        let (fits, expected) = match button.action {
            Action::QuickReply => (matches!(parameter, Parameter::Payload { .. }), "PAYLOAD"),
            Action::Url { .. } => (matches!(parameter, Parameter::Text { .. }), "TEXT"),
            Action::CopyCode => (matches!(parameter, Parameter::CouponCode { .. }), "COUPON_CODE"),
            Action::Flow | Action::Catalog | Action::Products => (matches!(parameter, Parameter::Action { .. }), "ACTION"),
            Action::Call(_) => (true, ""),
        };
        if !fits {
            return Err(mismatch(&component, expected, parameter));
        }
    }
    Ok(())
}

fn mismatch(component: &str, expected: &str, received: &Parameter<'_>) -> ApiError {
    mismatch_of(component, expected, &received.word())
}

fn mismatch_of(component: &str, expected: &str, received: &str) -> ApiError {
    let details = format!("{component}: Format mismatch, expected {expected}, received {received}");
    ApiError::new(Code::TemplateParameterFormat, details)
}

fn render<'a>(template: &Template, call: &Call<'a>) -> Rendered<'a> {
    let shown = |parameters: &'_ [Parameter<'a>]| -> Vec<String> {
        parameters.iter().map(|parameter| parameter.shown().unwrap_or_default().to_owned()).collect()
    };
    let text = |pattern: &super::pattern::Pattern, parameters: &[Parameter<'a>]| {
        let values = shown(parameters);
        pattern.render(&values.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let given = call.header.as_deref().unwrap_or_default();
    let header = match &template.header {
        None => None,
        Some(Header::Text(pattern)) => Some(Parameter::Text { text: Cow::Owned(text(pattern, given)) }),
        Some(Header::Media(_)) => given.first().cloned(),
    };
    let buttons = template.buttons.iter().enumerate().map(|(index, button)| {
        let parameter = call_of(call, index).and_then(|given| given.parameters.first());
        render_button(button, parameter)
    });
    Rendered { header, body: text(&template.body, &call.body), footer: template.footer.clone(), buttons: buttons.collect() }
}

fn render_button<'a>(button: &Button, parameter: Option<&Parameter<'a>>) -> RenderedButton<'a> {
    let does = match (&button.action, parameter) {
        (_, Some(Parameter::Payload { payload })) => Does::Payload(Cow::Borrowed(payload)),
        (_, Some(Parameter::CouponCode { coupon_code })) => Does::CouponCode(coupon_code),
        (_, Some(Parameter::Action { action })) => Does::Action(Some(action)),
        (Action::Url { prefix, .. }, Some(Parameter::Text { text })) => Does::Url(format!("{prefix}{text}")),
        (Action::Url { prefix, .. }, _) => Does::Url(prefix.clone()),
        (Action::Call(number), _) => Does::PhoneNumber(number.clone()),
        // Without a payload the label comes back, as apps do it.
        (Action::QuickReply, _) => Does::Payload(Cow::Owned(button.text.clone())),
        (Action::CopyCode | Action::Flow | Action::Catalog | Action::Products, _) => Does::Action(None),
    };
    RenderedButton { kind: button.action.sub_type(), text: button.text.clone(), does }
}

fn lengths(call: &Call<'_>, rendered: &Rendered<'_>) -> Result<(), ApiError> {
    let longer = |component: &str, limit| {
        let details = format!("{component}: a parameter is longer than {limit} characters");
        Err(ApiError::new(Code::TemplateParameterLength, details))
    };
    let within = |parameters: &[Parameter<'_>], limit| {
        parameters.iter().filter_map(Parameter::shown).all(|text| text.chars().count() <= limit)
    };
    if !within(call.header.as_deref().unwrap_or_default(), HEADER_LIMIT) {
        return longer("header", HEADER_LIMIT);
    }
    if !within(&call.body, BODY_LIMIT) {
        return longer("body", BODY_LIMIT);
    }
    for button in &call.buttons {
        for parameter in &button.parameters {
            let (text, limit): (&str, _) = match parameter {
                Parameter::Payload { payload } => (payload, PAYLOAD_LIMIT),
                Parameter::CouponCode { coupon_code } => (coupon_code, COUPON_LIMIT),
                Parameter::Text { text } => (text, URL_LIMIT),
                _ => continue,
            };
            if text.chars().count() > limit {
                return longer(&format!("button {}", button.index), limit);
            }
        }
    }
    let too_long = |component: &str, limit| {
        let details = format!("{component}: the text with its parameters is longer than {limit} characters");
        Err(ApiError::new(Code::TemplateTextLength, details))
    };
    match &rendered.header {
        Some(Parameter::Text { text }) if text.chars().count() > HEADER_LIMIT => too_long("header", HEADER_LIMIT),
        _ if rendered.body.chars().count() > BODY_LIMIT => too_long("body", BODY_LIMIT),
        _ => Ok(()),
    }
}

fn white_space_and_characters(call: &Call<'_>) -> Result<(), ApiError> {
    for text in call.body.iter().filter_map(Parameter::shown) {
        if text.contains(['\n', '\r', '\t']) || text.contains(&" ".repeat(SPACES_LIMIT + 1)) {
            let details = "body: a parameter must not have new lines, tabs or more than 4 spaces in a row";
            return Err(ApiError::new(Code::TemplateWhiteSpace, details));
        }
    }
    let header = call.header.iter().flatten().map(|parameter| ("header", parameter));
    let body = call.body.iter().map(|parameter| ("body", parameter));
    for (component, parameter) in header.chain(body) {
        if parameter.shown().is_some_and(|text| text.contains(char::is_control)) {
            let details = format!("{component}: a parameter must not have control characters");
            return Err(ApiError::new(Code::TemplateCharacters, details));
        }
    }
    Ok(())
}

fn address(does: &Does<'_>) -> Result<(), ApiError> {
    match does {
        Does::Url(url) if url.chars().count() > URL_LIMIT || !super::is_web_address(url) => {
            Err(ApiError::new(Code::TemplateUrl, "button: the url with its parameter is not an http or https address"))
        }
        _ => Ok(()),
    }
}

fn buttons_exist(template: &Template, call: &Call<'_>) -> Result<(), ApiError> {
    let refused = |button: &&ButtonCall<'_>| button.index >= template.buttons.len() || !is_known(button.sub_type);
    match call.buttons.iter().find(refused) {
        None => Ok(()),
        Some(button) => {
            let details = format!("button {}: the template has no {} button there", button.index, button.sub_type);
            Err(ApiError::new(Code::TemplateButtons, details))
        }
    }
}

fn is_known(sub_type: &str) -> bool {
    ["quick_reply", "url", "phone_number", "copy_code", "flow", "catalog", "mpm"].contains(&sub_type)
}

impl MediaKind {
    fn word(self) -> &'static str {
        match self {
            Self::Image => "IMAGE",
            Self::Video => "VIDEO",
            Self::Document => "DOCUMENT",
        }
    }
}

//! `type: template` (spec/templates.md §1 and §2): reads the request, and has it compared with the
//! template. What clients in the field send is taken: parameters that are absent, `null` or empty
//! are the same, indexes may be numbers, a missing policy is `deterministic`.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use estafet_model::{ApiError, Code};
use serde::Serialize;

use crate::{
    json::{Json, Object},
    template::{self, ButtonCall, Call, Currency, DateTime, Language, Library, Media, Parameter, Provider},
};

/// Most parameters of a component; more than any template takes.
const PARAMETER_LIMIT: usize = 1000;
/// Highest index of a button.
const HIGHEST_INDEX: usize = 9;
/// Longest file name of a document, in characters.
const FILENAME_LIMIT: usize = 240;

/// The canonical form of a request that fits its template: names and parameters. The text does not travel, phones
/// have it.
#[derive(Serialize)]
pub(super) struct Filled<'a> {
    template: Call<'a>,
}

impl<'a> Filled<'a> {
    /// Compares a request with its template.
    pub(super) fn new(call: Call<'a>, library: &Library) -> Result<Self, ApiError> {
        template::render(library, &call)?;
        Ok(Self { template: call })
    }

    /// The member of the request it came in.
    pub(super) fn member(&self) -> &'static str {
        if self.template.is_legacy { "hsm" } else { "template" }
    }

    /// Whether the request had the policy `fallback`.
    pub(super) fn asked_fallback(&self) -> bool {
        self.template.asked_fallback
    }
}

pub(super) fn read<'a>(request: &'a Object<'_>, library: &Library) -> Result<Filled<'a>, ApiError> {
    let template = request.object("template", "template")?.ok_or_else(|| super::object_missing("template"))?;
    let template = At { object: template, path: "template".to_owned() };
    let namespace = namespace(&template)?;
    let name = name(&template, "name")?;
    let (language, asked_fallback) = language(&template)?;
    let mut call = Call {
        namespace,
        name,
        language,
        asked_fallback,
        is_legacy: false,
        header: None,
        body: Vec::new(),
        footer: Vec::new(),
        buttons: Vec::new(),
    };
    let mut seen = Vec::new();
    for component in template.objects("components")? {
        let kind = component.required_text("type")?.to_ascii_lowercase();
        let parameters = parameters(&component)?;
        match kind.as_str() {
            "button" => add_button(&mut call, &component, parameters)?,
            _ if seen.contains(&kind) => return Err(component.invalid("type", "comes up twice")),
            "header" => call.header = Some(parameters),
            "body" => call.body = parameters,
            "footer" => call.footer = parameters,
            _ => return Err(component.invalid("type", "must be header, body, footer or button")),
        }
        seen.push(kind);
    }
    Filled::new(call, library)
}

/// The namespace; without one the refusal is 2014.
pub(super) fn namespace<'a>(template: &At<'a>) -> Result<&'a str, ApiError> {
    match template.text("namespace")? {
        None | Some("") => Err(ApiError::new(Code::TemplateNamespaceEmpty, template.name_of("namespace"))),
        Some(namespace) => Ok(namespace),
    }
}

/// The name of the template, in the member `member`.
pub(super) fn name<'a>(template: &At<'a>, member: &str) -> Result<&'a str, ApiError> {
    match template.required_text(member)? {
        "" => Err(ApiError::missing(&template.name_of(member))),
        name if template::is_name(name) => Ok(name),
        _ => Err(template.invalid(member, "must have at most 512 of a-z, 0-9 and _")),
    }
}

/// The language, and whether the policy `fallback` was asked for.
pub(super) fn language(template: &At<'_>) -> Result<(Language, bool), ApiError> {
    let language = template.object("language")?.ok_or_else(|| ApiError::missing(&template.name_of("language")))?;
    let asked_fallback = match language.text("policy")? {
        None | Some("deterministic") => false,
        Some("fallback") => true,
        Some(_) => return Err(language.invalid("policy", "must be deterministic")),
    };
    let code = Language::parse(language.required_text("code")?);
    Ok((code.ok_or_else(|| language.invalid("code", "is not a language, for instance en or en_US"))?, asked_fallback))
}

fn add_button<'a>(call: &mut Call<'a>, component: &At<'a>, parameters: Vec<Parameter<'a>>) -> Result<(), ApiError> {
    let sub_type = component.required_text("sub_type")?;
    let index = match component.integer("index")?.map(usize::try_from) {
        None => return Err(ApiError::missing(&component.name_of("index"))),
        Some(Ok(index)) if index <= HIGHEST_INDEX => index,
        Some(_) => return Err(component.invalid("index", "must be 0 to 9")),
    };
    if call.buttons.iter().any(|button| button.index == index) {
        return Err(component.invalid("index", "comes up twice"));
    }
    call.buttons.push(ButtonCall { sub_type, index, parameters });
    Ok(())
}

fn parameters<'a>(component: &At<'a>) -> Result<Vec<Parameter<'a>>, ApiError> {
    component.objects("parameters")?.iter().map(parameter).collect()
}

fn parameter<'a>(parameter: &At<'a>) -> Result<Parameter<'a>, ApiError> {
    let part = |name: &str| parameter.object(name)?.ok_or_else(|| ApiError::missing(&parameter.name_of(name)));
    Ok(match parameter.required_text("type")? {
        "text" => Parameter::Text { text: Cow::Borrowed(parameter.filled_text("text")?) },
        "currency" => Parameter::Currency { currency: currency(&part("currency")?, None)? },
        "date_time" => Parameter::DateTime { date_time: date_time(&part("date_time")?, None)? },
        "image" => Parameter::Image { image: media(&part("image")?)? },
        "video" => Parameter::Video { video: media(&part("video")?)? },
        "document" => Parameter::Document { document: document(&part("document")?)? },
        "payload" => Parameter::Payload { payload: parameter.filled_text("payload")? },
        "coupon_code" => Parameter::CouponCode { coupon_code: parameter.filled_text("coupon_code")? },
        "action" => Parameter::Action { action: part("action")?.object },
        word => Parameter::Other { word },
    })
}

/// An amount; the older form has the text to show elsewhere, and another name for the code.
pub(super) fn currency<'a>(currency: &At<'a>, shown: Option<&'a str>) -> Result<Currency<'a>, ApiError> {
    let fallback_value = match shown {
        Some(shown) => shown,
        None => currency.filled_text("fallback_value")?,
    };
    let code = match currency.text("currency_code")? {
        Some(code) if shown.is_some() => code,
        _ => currency.filled_text("code")?,
    };
    if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(currency.invalid("code", "must be a code of ISO 4217"));
    }
    let amount_1000 = currency.integer("amount_1000")?.ok_or_else(|| ApiError::missing(&currency.name_of("amount_1000")))?;
    Ok(Currency { fallback_value, code: code.to_ascii_uppercase(), amount_1000 })
}

/// The members of a moment that are numbers, and what they may be.
const MOMENT: [(&str, i64, i64); 6] = [
    ("day_of_month", 1, 31),
    ("year", 1, 9999),
    ("month", 1, 12),
    ("hour", 0, 23),
    ("minute", 0, 59),
    ("timestamp", 0, i64::MAX),
];
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// A moment. Phones show the text; the other members are for those that can do better.
pub(super) fn date_time<'a>(moment: &At<'a>, shown: Option<&'a str>) -> Result<DateTime<'a>, ApiError> {
    let fallback_value = match shown {
        Some(shown) => shown,
        None => moment.filled_text("fallback_value")?,
    };
    let mut members = Vec::new();
    let mut keep = |name: &'static str| members.extend(moment.object.get(name).map(|value| (name, value)));
    if let Some(day) = moment.object.get("day_of_week") {
        let is_day = match day {
            Json::Text(day) if DAYS.contains(&day.to_ascii_lowercase().as_str()) => true,
            _ => moment.integer("day_of_week").is_ok_and(|day| day.is_some_and(|day| (1..=7).contains(&day))),
        };
        if !is_day {
            return Err(moment.invalid("day_of_week", "must be 1 (Monday) to 7, or the name of a day"));
        }
        keep("day_of_week");
    }
    for (name, from, to) in MOMENT {
        match moment.integer(name)? {
            None => {}
            Some(value) if (from..=to).contains(&value) => keep(name),
            Some(_) => return Err(moment.invalid(name, format_args!("must be {from} to {to}"))),
        }
    }
    match moment.text("calendar")?.map(str::to_ascii_uppercase).as_deref() {
        None => {}
        Some("GREGORIAN" | "SOLAR_HIJRI") => keep("calendar"),
        Some(_) => return Err(moment.invalid("calendar", "must be GREGORIAN or SOLAR_HIJRI")),
    }
    Ok(DateTime { fallback_value, members })
}

fn document<'a>(document: &At<'a>) -> Result<Media<'a>, ApiError> {
    let filename = document.text("filename")?;
    if filename.is_some_and(|name| name.chars().count() > FILENAME_LIMIT) {
        return Err(document.invalid("filename", format_args!("must not be longer than {FILENAME_LIMIT} characters")));
    }
    Ok(Media { filename, ..media(document)? })
}

/// A file by id or by link; with both, the id counts. A header has no caption.
fn media<'a>(media: &At<'a>) -> Result<Media<'a>, ApiError> {
    let id = media.text("id")?.filter(|id| !id.is_empty());
    let link = media.text("link")?.filter(|link| !link.is_empty() && id.is_none());
    if id.is_none() && link.is_none() {
        return Err(ApiError::missing(&media.name_of("id")));
    }
    if link.is_some_and(|link| !template::is_web_address(link)) {
        return Err(media.invalid("link", "must be an http or https address"));
    }
    let provider = match media.object("provider")? {
        Some(provider) if link.is_some() => Some(Provider { name: provider.required_text("name")? }),
        _ => None,
    };
    Ok(Media { id, link, provider, filename: None })
}

/// An object and where it is in the request, so that refusals can name its members.
pub(super) struct At<'a> {
    pub(super) object: &'a Object<'a>,
    pub(super) path: String,
}

impl<'a> At<'a> {
    pub(super) fn name_of(&self, member: &str) -> String {
        format!("{}.{member}", self.path)
    }

    pub(super) fn invalid(&self, member: &str, why: impl std::fmt::Display) -> ApiError {
        ApiError::invalid(&self.name_of(member), why)
    }

    pub(super) fn text(&self, member: &str) -> Result<Option<&'a str>, ApiError> {
        self.object.text(member, &self.name_of(member))
    }

    pub(super) fn required_text(&self, member: &str) -> Result<&'a str, ApiError> {
        self.object.required_text(member, &self.name_of(member))
    }

    /// A text that must be there and not empty.
    pub(super) fn filled_text(&self, member: &str) -> Result<&'a str, ApiError> {
        match self.required_text(member)? {
            "" => Err(ApiError::missing(&self.name_of(member))),
            text => Ok(text),
        }
    }

    pub(super) fn object(&self, member: &str) -> Result<Option<Self>, ApiError> {
        let path = self.name_of(member);
        Ok(self.object.object(member, &path)?.map(|object| At { object, path }))
    }

    /// An integer, also one in a text.
    pub(super) fn integer(&self, member: &str) -> Result<Option<i64>, ApiError> {
        let number = match self.object.get(member) {
            None => return Ok(None),
            Some(Json::Number(number)) => number.as_i64(),
            Some(Json::Text(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| self.invalid(member, "must be an integer"))
    }

    /// The objects of a list; a list that is not there is empty.
    pub(super) fn objects(&self, member: &str) -> Result<Vec<Self>, ApiError> {
        let items = match self.object.get(member) {
            None => return Ok(Vec::new()),
            Some(Json::List(items)) if items.len() <= PARAMETER_LIMIT => items,
            Some(Json::List(_)) => return Err(self.invalid(member, "has too many elements")),
            Some(_) => return Err(self.invalid(member, "must be an array")),
        };
        let item = |(index, item): (usize, &'a Json<'a>)| match item {
            Json::Object(object) => Ok(At { object, path: format!("{}.{member}[{index}]", self.path) }),
            _ => Err(self.invalid(&format!("{member}[{index}]"), "must be an object")),
        };
        items.iter().enumerate().map(item).collect()
    }
}

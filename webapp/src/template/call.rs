//! A request to send a template, read but not yet compared with the template. Serialised it is the
//! canonical form that travels to the phone.

use std::borrow::Cow;

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{language::Language, model::MediaKind};
use crate::json::{Json, Object};

/// What is to be sent.
#[derive(Debug, PartialEq)]
pub(crate) struct Call<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) language: Language,
    /// The policy was `fallback`, which is treated as `deterministic`.
    pub(crate) asked_fallback: bool,
    /// It came as `hsm`, which knows the body only.
    pub(crate) is_legacy: bool,
    /// `None`: the component is not there.
    pub(crate) header: Option<Vec<Parameter<'a>>>,
    pub(crate) body: Vec<Parameter<'a>>,
    pub(crate) footer: Vec<Parameter<'a>>,
    pub(crate) buttons: Vec<ButtonCall<'a>>,
}

/// A component of type `button`.
#[derive(Debug, PartialEq)]
pub(crate) struct ButtonCall<'a> {
    pub(crate) sub_type: &'a str,
    pub(crate) index: usize,
    pub(crate) parameters: Vec<Parameter<'a>>,
}

/// A parameter of any component.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Parameter<'a> {
    Text {
        text: Cow<'a, str>,
    },
    Currency {
        currency: Currency<'a>,
    },
    DateTime {
        date_time: DateTime<'a>,
    },
    Image {
        image: Media<'a>,
    },
    Video {
        video: Media<'a>,
    },
    Document {
        document: Media<'a>,
    },
    Payload {
        payload: &'a str,
    },
    CouponCode {
        coupon_code: &'a str,
    },
    Action {
        action: &'a Object<'a>,
    },
    /// Of a type that no component takes.
    Other {
        word: &'a str,
    },
}

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Currency<'a> {
    pub(crate) fallback_value: &'a str,
    pub(crate) code: String,
    pub(crate) amount_1000: i64,
}

/// A moment; its members were checked and are kept as they came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DateTime<'a> {
    pub(crate) fallback_value: &'a str,
    pub(crate) members: Vec<(&'static str, &'a Json<'a>)>,
}

impl Serialize for DateTime<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.members.len()))?;
        map.serialize_entry("fallback_value", self.fallback_value)?;
        for (name, value) in &self.members {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A file for a header: an uploaded one or a link.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Media<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) provider: Option<Provider<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) filename: Option<&'a str>,
}

/// Whose credentials a link needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Provider<'a> {
    pub(crate) name: &'a str,
}

impl Parameter<'_> {
    /// The type as refusals write it.
    pub(super) fn word(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            Self::Text { .. } => "TEXT",
            Self::Currency { .. } => "CURRENCY",
            Self::DateTime { .. } => "DATE_TIME",
            Self::Image { .. } => "IMAGE",
            Self::Video { .. } => "VIDEO",
            Self::Document { .. } => "DOCUMENT",
            Self::Payload { .. } => "PAYLOAD",
            Self::CouponCode { .. } => "COUPON_CODE",
            Self::Action { .. } => "ACTION",
            Self::Other { word } => return Cow::Owned(word.to_uppercase()),
        })
    }

    /// What stands in a text for it; `None` if it cannot be in one.
    pub(super) fn shown(&self) -> Option<&str> {
        match self {
            Self::Text { text } => Some(text),
            Self::Currency { currency } => Some(currency.fallback_value),
            Self::DateTime { date_time } => Some(date_time.fallback_value),
            _ => None,
        }
    }

    /// The kind of media it is.
    pub(super) fn media(&self) -> Option<MediaKind> {
        match self {
            Self::Image { .. } => Some(MediaKind::Image),
            Self::Video { .. } => Some(MediaKind::Video),
            Self::Document { .. } => Some(MediaKind::Document),
            _ => None,
        }
    }
}

impl Serialize for Call<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Component<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            sub_type: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            index: Option<String>,
            parameters: &'a [Parameter<'a>],
        }
        let plain = |kind, parameters| Component { kind, sub_type: None, index: None, parameters };
        let header = self.header.iter().filter(|parameters| !parameters.is_empty()).map(|parameters| plain("header", parameters));
        let body = Some(&self.body).filter(|parameters| !parameters.is_empty()).map(|parameters| plain("body", parameters));
        let buttons = self.buttons.iter().map(|button| Component {
            kind: "button",
            sub_type: Some(button.sub_type),
            index: Some(button.index.to_string()),
            parameters: &button.parameters,
        });
        let components: Vec<Component<'_>> = header.chain(body).chain(buttons).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("namespace", self.namespace)?;
        map.serialize_entry("name", self.name)?;
        map.serialize_entry("language", &Policy { policy: "deterministic", code: self.language.to_string() })?;
        map.serialize_entry("components", &components)?;
        map.end()
    }
}

#[derive(Serialize)]
struct Policy {
    policy: &'static str,
    code: String,
}

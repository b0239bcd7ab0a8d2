//! Error codes of the On-Premises API with their exact titles (spec/errors.md); clients compare them.

use std::{borrow::Cow, fmt, time::Duration};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $title:literal, $http:literal;)*) => {
        /// A code of the On-Premises API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $name),* }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The number clients see.
            pub const fn number(self) -> u16 { match self { $(Self::$name => $code),* } }

            /// The title, byte-exact.
            pub const fn title(self) -> &'static str { match self { $(Self::$name => $title),* } }

            /// The HTTP status of a synchronous answer with this code, unless the place says otherwise.
            pub const fn http_status(self) -> u16 { match self { $(Self::$name => $http),* } }
        }
    };
}

codes! {
    /// The file of the sender could not be fetched.
    MediaDownloadError = 400, "Media download error", 500;
    /// Payment problem of the business.
    PaymentIssue = 402, "Business eligibility — Payment issue", 500;
    /// Pending for more than a day.
    MessageNotValid = 408, "Message is not valid", 500;
    /// Time to live passed.
    MessageExpired = 410, "Message expired", 500;
    /// Too many messages from this number.
    RateLimitHit = 429, "Rate limit hit", 429;
    /// More than 24 hours since the user's last message.
    ReEngagement = 470, "Re-engagement message", 500;
    /// Quality or tier limit.
    SpamRateLimitHit = 471, "Spam rate limit hit", 429;
    /// The user's number is part of an experiment.
    Experiment = 472, "User's number is part of an experiment", 500;
    /// Identity change not acknowledged.
    UserPotentiallyChanged = 480, "User potentially changed", 500;
    /// Unknown failure of a message.
    MessageGenericError = 500, "Generic error", 500;
    /// Unknown content of an incoming message.
    TypeNotSupported = 501, "Message type is not currently supported", 500;
    /// Anything not listed.
    Generic = 1000, "Generic error", 500;
    /// Text over 4096 characters.
    MessageTooLong = 1001, "Message too long", 400;
    /// Not `individual`.
    InvalidRecipientType = 1002, "Invalid recipient type", 400;
    /// Already there.
    AlreadyExists = 1004, "Resource already exists", 409;
    /// Missing or wrong credentials, or role.
    AccessDenied = 1005, "Access denied", 401;
    /// No such thing.
    NotFound = 1006, "Resource not found", 404;
    /// A mandatory parameter is absent, or the body is not JSON.
    ParameterMissing = 1008, "Required parameter is missing", 400;
    /// Wrong type, value or length.
    ParameterInvalid = 1009, "Parameter value is not valid", 400;
    /// Superfluous parameter.
    ParameterNotRequired = 1010, "Parameter is not required", 400;
    /// Not registered, starting, or without its database.
    NotReady = 1011, "Service not ready", 503;
    /// The recipient is not on the network.
    UserNotValid = 1013, "User is not valid", 400;
    /// Anything that went wrong inside; also unknown endpoints.
    Internal = 1014, "Internal error", 500;
    /// Request rate.
    TooManyRequests = 1015, "Too many requests", 429;
    /// Queues are full.
    Overloaded = 1016, "System overloaded", 503;
    /// A master-only call reached another node.
    NotPrimaryMaster = 1017, "Not Primary Master", 503;
    /// The node does not own the shard.
    NotPrimaryCoreapp = 1018, "Not Primary Coreapp", 503;
    /// Sender and recipient are the same.
    BadUser = 1021, "Bad User", 400;
    /// No URL for callbacks.
    WebhookNotConfigured = 1022, "Webhooks URL is not configured", 412;
    /// The database failed.
    Database = 1023, "Database error occurred", 500;
    /// First login without a new password.
    PasswordChangeRequired = 1024, "Password Change Required", 403;
    /// A request that cannot be processed.
    InvalidRequest = 1025, "Invalid Request", 400;
    /// The phone cannot show this type.
    ReceiverIncapable = 1026, "Receiver incapable", 400;
    /// Identity change must be acknowledged first.
    IdentityChanged = 1028, "A user_identity_changed system notification requires acknowledgement", 400;
    /// Policy.
    SenderLocked = 1031, "Sender account has been locked", 403;
    /// Another number of parameters than the template has.
    TemplateParameterCount = 2000, "Template Param Count Mismatch", 400;
    /// No such template, or not an approved one, in the language.
    TemplateMissing = 2001, "Template Missing", 404;
    /// The templates could not be fetched.
    TemplateFetchFailed = 2002, "Template Fetch Failed", 500;
    /// No templates in the language.
    TemplatePackMissing = 2003, "Template Pack Missing", 404;
    /// A parameter is too long.
    TemplateParameterLength = 2004, "Template Param Length Too Long", 400;
    /// A text is too long once the parameters are in it.
    TemplateTextLength = 2005, "Template Hydrated Text Too Long", 400;
    /// Line breaks, tabs or long runs of spaces in a parameter.
    TemplateWhiteSpace = 2006, "Template White Space Policy Violated", 400;
    /// Characters a parameter must not have.
    TemplateCharacters = 2007, "Template Format Character Policy Violated", 400;
    /// A header cannot show this kind of media.
    TemplateMediaFormat = 2008, "Template Media Format Unsupported", 400;
    /// The template needs a component that is not there.
    TemplateComponentMissing = 2009, "Template Required Component Missing", 400;
    /// A button's URL is none once its parameter is in it.
    TemplateUrl = 2010, "Template Invalid Hydrated URL", 400;
    /// A button's phone number is none.
    TemplatePhoneNumber = 2011, "Template Invalid Phone Number", 400;
    /// A parameter of another type than the template asks for.
    TemplateParameterFormat = 2012, "Template Parameter Format Mismatch", 400;
    /// Buttons where the template has none, or of an unknown type.
    TemplateButtons = 2013, "Template Buttons Unsupported", 400;
    /// No namespace.
    TemplateNamespaceEmpty = 2014, "Expected Namespace is Empty", 400;
    /// Not 1 to 10 sections.
    SectionCount = 2015, "Invalid number of sections", 400;
    /// A section without rows, or more than 10 rows in all.
    RowCount = 2016, "Invalid number of rows", 400;
    /// Emoji or markup where plain text belongs.
    CharacterPolicy = 2017, "Character Policy Violated", 400;
    /// No products, or more than 30.
    ProductCount = 2023, "Invalid number of product", 400;
    /// The catalog does not exist.
    CatalogNotFound = 2024, "Catalog ID not found", 400;
    /// The catalog belongs to another number.
    CatalogNotLinked = 2025, "Catalog ID not linked to API number", 400;
    /// Products are missing from the catalog.
    ProductsMissing = 2026, "Missing products", 400;
    /// None of the products exists.
    NoProducts = 2027, "No products found", 400;
    /// No product of the list is compliant.
    AllProductsNonCompliant = 2028, "List all products failed compliance", 400;
    /// Some products of the list are not compliant.
    SomeProductsNonCompliant = 2029, "List some products failed compliance", 400;
    /// Products are missing or not compliant.
    ProductsMixed = 2030, "List mixed products invalid and failed compliance", 400;
    /// The header of an interactive message is malformed, or there may be none.
    InvalidHeader = 2036, "Invalid Header Structure", 400;
    /// Compliance information is missing.
    ComplianceInfoMissing = 2050, "Missing Compliance Info", 400;
    /// The template was rejected.
    TemplateRejected = 2060, "Template Rejected", 400;
    /// The template is paused for its quality.
    TemplatePaused = 2061, "Template Paused", 400;
    /// The template is disabled for its quality.
    TemplateDisabled = 2062, "Template Disabled", 400;
    /// The flow is blocked.
    FlowBlocked = 2068, "Flow is blocked", 400;
    /// The flow is throttled.
    FlowThrottled = 2069, "Flow is throttled", 400;
}

impl Code {
    /// The code with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }
}

/// One entry of an `errors` array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The code.
    pub code: Code,
    /// What exactly is wrong, for people.
    pub details: Cow<'static, str>,
    /// Another HTTP status than the code's own.
    pub http_status: Option<u16>,
    /// Seconds until it makes sense to try again, where that is known.
    pub retry_after_s: Option<u32>,
}

impl ApiError {
    /// An error with the code's own HTTP status.
    pub fn new(code: Code, details: impl Into<Cow<'static, str>>) -> Self {
        Self { code, details: details.into(), http_status: None, retry_after_s: None }
    }

    /// A mandatory parameter is missing (1008).
    pub fn missing(parameter: &str) -> Self {
        Self::new(Code::ParameterMissing, format!("Parameter '{parameter}' is mandatory."))
    }

    /// A parameter has a wrong value (1009).
    pub fn invalid(parameter: &str, why: impl fmt::Display) -> Self {
        Self::new(Code::ParameterInvalid, format!("Parameter '{parameter}' {why}"))
    }

    /// The same error with another HTTP status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.http_status = Some(status);
        self
    }

    /// The same error with the time until it makes sense to try again, rounded up to seconds.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        self.retry_after_s = Some(seconds.max(1));
        self
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> u16 {
        self.http_status.unwrap_or(self.code.http_status())
    }

    /// Whether the caller may repeat the request as it is.
    pub fn is_retryable(&self) -> bool {
        matches!(self.status(), 429 | 503 | 504)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code.number(), self.code.title(), self.details)
    }
}

impl std::error::Error for ApiError {}

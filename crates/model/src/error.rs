//! Error codes of the On-Premises API with their exact titles (spec/errors.md); clients compare them.

use std::{borrow::Cow, fmt};

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
}

impl ApiError {
    /// An error with the code's own HTTP status.
    pub fn new(code: Code, details: impl Into<Cow<'static, str>>) -> Self {
        Self { code, details: details.into(), http_status: None }
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

//! Rules for names and passwords (spec/auth-and-users.md §3, §5), exactly as documented.

use estafet_model::ApiError;

/// Special characters of which a password needs one.
const SPECIAL: &str = "`!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~";

/// Characters of a password: the least, the most.
pub(crate) const LENGTH: (usize, usize) = (8, 64);
/// Characters of a name.
pub(crate) const NAME_LENGTH: (usize, usize) = (4, 32);

/// Paths under `/v1/users/`.
const RESERVED: [&str; 2] = ["login", "logout"];

/// Checks a password that is about to be set; `parameter` is how the refusal calls it.
pub(crate) fn check_password(password: &str, parameter: &str) -> Result<(), ApiError> {
    let refused = |why: &str| Err(ApiError::invalid(parameter, why));
    let (least, most) = LENGTH;
    if !(least..=most).contains(&password.chars().count()) {
        return Err(ApiError::invalid(parameter, format_args!("must have {least} to {most} characters")));
    }
    if !password.chars().any(|c| c.is_ascii_digit()) {
        return refused("must contain a digit");
    }
    if !password.chars().any(|c| c.is_uppercase()) {
        return refused("must contain an upper-case letter");
    }
    if !password.chars().any(|c| c.is_lowercase()) {
        return refused("must contain a lower-case letter");
    }
    if !password.chars().any(|c| SPECIAL.contains(c)) {
        return refused("must contain a special character");
    }
    Ok(())
}

/// Checks the name of a new account. A colon would make it useless: Basic credentials end there.
pub(crate) fn check_username(username: &str) -> Result<(), ApiError> {
    let refused = |why: &str| Err(ApiError::invalid("username", why));
    let (least, most) = NAME_LENGTH;
    if !(least..=most).contains(&username.chars().count()) {
        return Err(ApiError::invalid("username", format_args!("must have {least} to {most} characters")));
    }
    if username.chars().any(|c| c == ':' || c == '/' || c.is_control()) {
        return refused("must not contain colons, slashes or control characters");
    }
    if RESERVED.contains(&username) {
        return refused("is a reserved name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_follow_the_published_rules() {
        for good in ["Adm1n!pass", "Aa1!aaaa", "Ag3nt'pass", "Aa1`aaaa", "?{}&~!()^Aa1", &format!("Aa1!{}", "x".repeat(60))] {
            assert!(check_password(good, "password").is_ok(), "{good}");
        }
        for bad in
            ["", "Aa1!aaa", "password", "agent123!", "AGENT123!", "Agent!pass", "Agent1234", &format!("Aa1!{}", "x".repeat(61))]
        {
            assert!(check_password(bad, "password").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_password_is_not_repeated() {
        assert!(!check_password("canary", "new_password").unwrap_err().details.contains("canary"));
    }

    #[test]
    fn names_have_4_to_32_characters_and_some_are_reserved() {
        for good in ["abcd", "agent7", "Zoë Ünal", &"a".repeat(32)] {
            assert!(check_username(good).is_ok(), "{good}");
        }
        for bad in ["", "abc", &"a".repeat(33), "login", "logout", "a:bcd", "a/bcd", "ab\ncd", "ab\0cd"] {
            assert!(check_username(bad).is_err(), "{bad}");
        }
    }
}

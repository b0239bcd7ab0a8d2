//! Where the server is: reads a `postgres://` URL so that any character works in a password.
//!
//! Percent-encoding is understood but not demanded: the password reaches to the last `@`, and a `%` that
//! is not followed by two hexadecimal digits stands for itself. One host; a cluster is reached through
//! the name that follows its primary, because ownership is never read from a replica (F59).

use std::path::PathBuf;

/// A parsed URL. No `Debug`: it holds the password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) user: String,
    pub(super) password: Option<String>,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) database: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Name(String),
    /// Directory of a Unix socket.
    Socket(PathBuf),
}

/// Why a URL is refused. Never quotes it: it holds the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("the database URL must begin with postgres://")]
    Scheme,
    #[error("the database URL has no user name")]
    NoUser,
    #[error("the port in the database URL is not a number")]
    Port,
    #[error("the database URL names several hosts; give the name of the primary")]
    SeveralHosts,
    #[error("the database URL is not UTF-8 after decoding")]
    Encoding,
    #[error("the database URL has a parameter other than host, port and sslmode")]
    Parameter,
    #[error("sslmode: encrypted connections to PostgreSQL are not supported, use disable or prefer")]
    Encrypted,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, Invalid> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")).ok_or(Invalid::Scheme)?;
        let (login, place) = rest.rsplit_once('@').ok_or(Invalid::NoUser)?;
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?)),
            None => (login, None),
        };
        let user = decoded(user)?;
        if user.is_empty() {
            return Err(Invalid::NoUser);
        }
        let (place, parameters) = place.split_once('?').unwrap_or((place, ""));
        let (authority, database) = place.split_once('/').unwrap_or((place, ""));
        let (host, port) = host_and_port(authority)?;
        let database = if database.is_empty() { user.clone() } else { decoded(database)? };
        let mut address = Self { user, password, host: host_named(decoded(host)?)?, port, database };
        for parameter in parameters.split('&').filter(|p| !p.is_empty()) {
            address.set(parameter)?;
        }
        Ok(address)
    }

    fn set(&mut self, parameter: &str) -> Result<(), Invalid> {
        let (key, value) = parameter.split_once('=').ok_or(Invalid::Parameter)?;
        match (key, decoded(value)?) {
            ("host", host) => self.host = host_named(host)?,
            ("port", port) => self.port = port.parse().map_err(|_| Invalid::Port)?,
            ("sslmode", mode) if ["disable", "allow", "prefer"].contains(&mode.as_str()) => {}
            ("sslmode", _) => return Err(Invalid::Encrypted),
            _ => return Err(Invalid::Parameter),
        }
        Ok(())
    }
}

fn host_named(host: String) -> Result<Host, Invalid> {
    match host {
        _ if host.contains(',') => Err(Invalid::SeveralHosts),
        _ if host.starts_with('/') => Ok(Host::Socket(host.into())),
        _ if host.is_empty() => Ok(Host::Name("localhost".to_owned())),
        _ => Ok(Host::Name(host)),
    }
}

fn host_and_port(authority: &str) -> Result<(&str, u16), Invalid> {
    const DEFAULT_PORT: u16 = 5432;
    if authority.contains(',') {
        return Err(Invalid::SeveralHosts);
    }
    if let Some((host, rest)) = authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, port.parse().map_err(|_| Invalid::Port)?)),
            None if rest.is_empty() => Ok((host, DEFAULT_PORT)),
            None => Err(Invalid::Port),
        };
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => Ok((host, port.parse().map_err(|_| Invalid::Port)?)),
        None => Ok((authority, DEFAULT_PORT)),
    }
}

fn decoded(text: &str) -> Result<String, Invalid> {
    let hex = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_err(|_| Invalid::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Address {
        Address::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn any_character_works_in_a_password() {
        for (written, password) in [
            ("secret", "secret"),
            ("?{}&~!()^=", "?{}&~!()^="),
            ("p@ss:w/o#r?d", "p@ss:w/o#r?d"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("p%40ss%25", "p@ss%"),
            ("p\u{e4}ss %C3%A4'\"\\", "p\u{e4}ss \u{e4}'\"\\"),
            ("", ""),
        ] {
            let address = parse(&format!("postgres://wa:{written}@db.example:6432/estafet?sslmode=disable"));
            assert_eq!(address.password.as_deref(), Some(password));
            assert_eq!((address.user.as_str(), address.database.as_str(), address.port), ("wa", "estafet", 6432));
            assert!(address.host == Host::Name("db.example".to_owned()));
        }
    }

    #[test]
    fn hosts_are_names_addresses_or_socket_directories() {
        assert!(parse("postgresql://wa@[::1]:1/d").host == Host::Name("::1".to_owned()));
        assert!(parse("postgres://wa@%2Frun%2Fpg/d").host == Host::Socket("/run/pg".into()));
        let socket = parse("postgres://wa@/d?host=/run/pg&port=7");
        assert!(socket.host == Host::Socket("/run/pg".into()) && socket.port == 7);
        let short = parse("postgres://wa@db");
        assert_eq!((short.database.as_str(), short.port, short.password), ("wa", 5432, None));
    }

    #[test]
    fn a_refused_url_is_not_quoted() {
        for (url, reason) in [
            ("mysql://u:p@h/d", Invalid::Scheme),
            ("postgres://h/d", Invalid::NoUser),
            ("postgres://:p@h/d", Invalid::NoUser),
            ("postgres://u:p@h:port/d", Invalid::Port),
            ("postgres://u:p@h:70000/d", Invalid::Port),
            ("postgres://u:p@a,b/d", Invalid::SeveralHosts),
            ("postgres://u:%ff@h/d", Invalid::Encoding),
            ("postgres://u:p@h/d?x=1", Invalid::Parameter),
            ("postgres://u:p@h/d?sslmode=require", Invalid::Encrypted),
        ] {
            assert_eq!(Address::parse(url).err(), Some(reason), "{url}");
        }
    }
}

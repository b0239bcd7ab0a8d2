//! Where the server is: reads a `postgres://` or `mysql://` URL so that any character works in a password.
//!
//! Percent-encoding is understood but not demanded: the password reaches to the last `@`, and a `%` that
//! is not followed by two hexadecimal digits stands for itself. One host; a cluster is reached through
//! the name that follows its primary, because ownership is never read from a replica (F59).

use std::path::PathBuf;

/// The servers that have URLs like these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Postgres,
    MySql,
}

impl Server {
    const fn schemes(self) -> [&'static str; 2] {
        match self {
            Self::Postgres => ["postgres://", "postgresql://"],
            Self::MySql => ["mysql://", "mariadb://"],
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::MySql => 3306,
        }
    }
}

/// A parsed URL. No `Debug`: it holds the password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) database: String,
    /// What follows the `?`, apart from the place.
    pub(crate) parameters: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Name(String),
    /// Directory of a Unix socket.
    Socket(PathBuf),
}

/// Why a URL is refused. Never quotes it: it holds the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("the database URL must begin with {0}")]
    Scheme(&'static str),
    #[error("the database URL has no user name")]
    NoUser,
    #[error("the port in the database URL is not a number")]
    Port,
    #[error("the database URL names several hosts; give the name of the primary")]
    SeveralHosts,
    #[error("the database URL is not UTF-8 after decoding")]
    Encoding,
    #[error("the database URL has a parameter other than {0}")]
    Parameter(&'static str),
    #[error("sslmode must be disable, prefer, require, verify-ca or verify-full")]
    PostgresSslMode,
    #[error("ssl-mode must be disabled, preferred, required, verify_ca or verify_identity")]
    SslMode,
}

impl Address {
    pub(crate) fn parse(url: &str, server: Server) -> Result<Self, Invalid> {
        let schemes = server.schemes();
        let rest = schemes.iter().find_map(|scheme| url.strip_prefix(scheme)).ok_or(Invalid::Scheme(schemes[0]))?;
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
        let (host, port) = host_and_port(authority, server.default_port())?;
        let database = if database.is_empty() { user.clone() } else { decoded(database)? };
        let host = host_named(decoded(host)?)?;
        let mut address = Self { user, password, host, port, database, parameters: Vec::new() };
        for parameter in parameters.split('&').filter(|p| !p.is_empty()) {
            address.set(parameter)?;
        }
        Ok(address)
    }

    fn set(&mut self, parameter: &str) -> Result<(), Invalid> {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (key, decoded(value)?) {
            ("host", host) => self.host = host_named(host)?,
            ("port", port) => self.port = port.parse().map_err(|_| Invalid::Port)?,
            (key, value) => self.parameters.push((key.to_owned(), value)),
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

fn host_and_port(authority: &str, default_port: u16) -> Result<(&str, u16), Invalid> {
    if authority.contains(',') {
        return Err(Invalid::SeveralHosts);
    }
    if let Some((host, rest)) = authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, port.parse().map_err(|_| Invalid::Port)?)),
            None if rest.is_empty() => Ok((host, default_port)),
            None => Err(Invalid::Port),
        };
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => Ok((host, port.parse().map_err(|_| Invalid::Port)?)),
        None => Ok((authority, default_port)),
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
        let server = if url.starts_with("m") { Server::MySql } else { Server::Postgres };
        Address::parse(url, server).unwrap_or_else(|error| panic!("{url}: {error}"))
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
        let other = parse("mariadb://wa@db/d?ssl-mode=required&port=7&x");
        assert_eq!(other.parameters, [("ssl-mode".to_owned(), "required".to_owned()), ("x".to_owned(), String::new())]);
        assert_eq!((other.port, parse("mysql://wa@db/d").port), (7, 3306));
    }

    #[test]
    fn a_refused_url_is_not_quoted() {
        for (url, reason) in [
            ("mysql://u:p@h/d", Invalid::Scheme("postgres://")),
            ("postgres://h/d", Invalid::NoUser),
            ("postgres://:p@h/d", Invalid::NoUser),
            ("postgres://u:p@h:port/d", Invalid::Port),
            ("postgres://u:p@h:70000/d", Invalid::Port),
            ("postgres://u:p@a,b/d", Invalid::SeveralHosts),
            ("postgres://u:%ff@h/d", Invalid::Encoding),
        ] {
            assert_eq!(Address::parse(url, Server::Postgres).err(), Some(reason), "{url}");
        }
    }
}

//! Which database servers are new enough. Older ones are out of support and lack what the fence needs. Pure.

/// A product and the oldest version of it that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    product: &'static str,
    oldest: (u32, u32),
}

const POSTGRES: Floor = Floor { product: "PostgreSQL", oldest: (12, 0) };
const MYSQL: Floor = Floor { product: "MySQL", oldest: (8, 0) };
const MARIADB: Floor = Floor { product: "MariaDB", oldest: (10, 6) };

/// What is wrong with a server: which it is, and which would do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server is {product} {found}; the oldest version that works is {}.{}", oldest.0, oldest.1)]
pub(crate) struct TooOld {
    product: &'static str,
    found: String,
    oldest: (u32, u32),
}

/// Checks what PostgreSQL says to `SHOW server_version`.
pub(crate) fn postgres(said: &str) -> Result<(), TooOld> {
    check(POSTGRES, said)
}

/// Checks what MySQL or MariaDB says to `SELECT VERSION()`. MariaDB 10 says `5.5.5-` before its own version to some.
pub(crate) fn mysql(said: &str) -> Result<(), TooOld> {
    if said.contains("MariaDB") { check(MARIADB, said.strip_prefix("5.5.5-").unwrap_or(said)) } else { check(MYSQL, said) }
}

/// A text that is no version is nobody's fault: a fork may call its versions as it likes.
fn check(floor: Floor, said: &str) -> Result<(), TooOld> {
    let digits = said.trim().split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
    let mut numbers = digits.split('.').map_while(|number| number.parse::<u32>().ok());
    let Some(major) = numbers.next() else { return Ok(()) };
    if (major, numbers.next().unwrap_or(0)) >= floor.oldest {
        return Ok(());
    }
    Err(TooOld { product: floor.product, found: digits.to_owned(), oldest: floor.oldest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r165_old_servers_are_refused_with_their_version_and_the_oldest_that_works() {
        for (check, fine) in [
            (postgres as fn(&str) -> _, ["12.0", "15.5 (Debian 15.5-0+deb12u1)", "18beta1", "someone's own"]),
            (
                mysql,
                ["8.0.36-0ubuntu0.22.04.1", "10.6.0-MariaDB", "5.5.5-10.11.4-MariaDB-1:10.11.4+maria~deb12", "11.4.2-MariaDB"],
            ),
        ] {
            fine.iter().for_each(|said| assert_eq!(check(said), Ok(()), "{said}"));
        }
        for (check, said, told) in [
            (postgres as fn(&str) -> _, "9.5.25", "PostgreSQL 9.5.25; the oldest version that works is 12.0"),
            (postgres, "10.23 (Debian 10.23-1)", "PostgreSQL 10.23; the oldest version that works is 12.0"),
            (mysql, "5.7.44-log", "MySQL 5.7.44; the oldest version that works is 8.0"),
            (mysql, "5.5.5-10.5.29-MariaDB", "MariaDB 10.5.29; the oldest version that works is 10.6"),
            (mysql, "10.5.29-MariaDB-1", "MariaDB 10.5.29; the oldest version that works is 10.6"),
        ] {
            assert_eq!(check(said).unwrap_err().to_string(), format!("the server is {told}"));
        }
    }
}

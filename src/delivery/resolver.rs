//! Name lookup for ureq: a small cache, because ureq asks for every request and its own resolver starts a thread for each.
//!
//! Also where plain http to a public address is stopped: only here is it known which address a name means today.

use crate::destination::Failure;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long an answer of the system's resolver is used. Short: a receiver that moves is followed.
const FRESH: Duration = Duration::from_secs(30);

/// See the module.
pub struct CachingResolver {
    guard: Guard,
    cache: Mutex<HashMap<String, (Instant, Vec<SocketAddr>)>>,
    system: DefaultResolver,
}

impl fmt::Debug for CachingResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachingResolver")
    }
}

/// Which addresses a destination may be reached at.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Plain connections may go to public addresses.
    pub allow_public: bool,
    /// See [`super::Link::deny_private`].
    pub deny_private: bool,
    /// See [`super::Link::own`].
    pub own: Vec<SocketAddr>,
}

impl Guard {
    /// Whether this address may be connected to; `plain`: without TLS.
    pub fn check(&self, address: SocketAddr, plain: bool) -> Result<(), Forbidden> {
        // Whoever connects to the address of nobody reaches this machine.
        let ip = match address.ip().to_canonical() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let to_own = |own: &SocketAddr| {
            own.port() == address.port() && if own.ip().is_unspecified() { is_ours(ip) } else { own.ip().to_canonical() == ip }
        };
        if self.own.iter().any(to_own) {
            return Err(Forbidden::Itself);
        }
        match is_local(ip) {
            true if self.deny_private => Err(Forbidden::Private),
            false if plain && !self.allow_public => Err(Forbidden::Plain),
            _ => Ok(()),
        }
    }
}

/// Why an address is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// Not encrypted, to a public address.
    Plain,
    /// Inside the own network, where the destination may not be.
    Private,
    /// It is this daemon.
    Itself,
}

impl Forbidden {
    /// What it is as a failure.
    pub const fn failure(self) -> Failure {
        match self {
            Forbidden::Plain => Failure::PublicHttp,
            Forbidden::Private => Failure::PrivateAddress,
            Forbidden::Itself => Failure::Itself,
        }
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Forbidden::Plain => "not encrypted, to a public address; use TLS, or set allow_http = true for this destination",
            Forbidden::Private => "its name leads to an address inside the own network, and deny_private = true",
            Forbidden::Itself => "it is leadsbotd's own address: every event would make another one",
        })
    }
}

impl std::error::Error for Forbidden {}

/// Whether this machine has the address at present.
pub fn is_ours(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

impl CachingResolver {
    /// For addresses that `guard` lets through.
    pub fn new(guard: Guard) -> Self {
        Self { guard, cache: Mutex::default(), system: DefaultResolver::default() }
    }

    /// Forgets everything, after a connection could not be made: the address may be old.
    pub fn forget(&self) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn lookup(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<Vec<SocketAddr>, Error> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let key = format!("{host}:{port}");
        if let Some((at, addresses)) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
            && at.elapsed() < FRESH
        {
            return Ok(addresses.clone());
        }
        let found: Vec<SocketAddr> = self.system.resolve(uri, config, timeout).map_err(|_| Error::HostNotFound)?.iter().copied().collect();
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (Instant::now(), found.clone()));
        Ok(found)
    }
}

impl Resolver for CachingResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut found = self.lookup(uri, config, timeout)?;
        let plain = uri.scheme_str() == Some("http");
        let mut kept_from = None;
        found.retain(|address| match self.guard.check(*address, plain) {
            Ok(()) => true,
            Err(why) => {
                kept_from = Some(why);
                false
            }
        });
        if let (true, Some(why)) = (found.is_empty(), kept_from) {
            return Err(Error::Other(Box::new(why)));
        }
        let mut out = self.empty();
        for address in found.into_iter().take(16) {
            out.push(address);
        }
        if out.is_empty() { Err(Error::HostNotFound) } else { Ok(out) }
    }
}

/// Loopback, private (RFC 1918, RFC 4193) and link-local addresses: what a kiosk's own network uses.
pub fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_local(IpAddr::V4(v4)),
            None => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_were_allowed_are_connected_to() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let guard = |allow_public, deny_private, own: &str| Guard { allow_public, deny_private, own: vec![at(own)] };
        let usual = guard(false, false, "0.0.0.0:8080");
        for (guard, address, plain, allowed) in [
            (&usual, "192.0.2.1:80", true, Err(Forbidden::Plain)),
            (&usual, "192.0.2.1:443", false, Ok(())),
            (&usual, "192.168.1.5:80", true, Ok(())),
            (&usual, "[::1]:80", true, Ok(())),
            (&usual, "127.0.0.1:8080", true, Err(Forbidden::Itself)),
            (&usual, "127.0.0.9:8080", false, Err(Forbidden::Itself)),
            (&usual, "192.0.2.1:8080", false, Ok(())),
            (&guard(true, false, "127.0.0.1:8080"), "0.0.0.0:8080", true, Err(Forbidden::Itself)),
            (&guard(true, false, "127.0.0.1:8080"), "[::ffff:127.0.0.1]:8080", true, Err(Forbidden::Itself)),
            (&guard(true, true, "127.0.0.1:8080"), "0.0.0.0:80", true, Err(Forbidden::Private)),
            (&guard(true, false, "127.0.0.1:8080"), "192.0.2.1:80", true, Ok(())),
            (&guard(true, false, "127.0.0.1:8080"), "127.0.0.2:8080", true, Ok(())),
            (&guard(true, true, "127.0.0.1:8080"), "10.0.0.1:443", false, Err(Forbidden::Private)),
            (&guard(true, true, "127.0.0.1:8080"), "[fe80::1]:443", false, Err(Forbidden::Private)),
            (&guard(true, true, "127.0.0.1:8080"), "192.0.2.1:443", false, Ok(())),
        ] {
            assert_eq!(guard.check(at(address), plain), allowed, "{address} {plain} {guard:?}");
        }
    }
}

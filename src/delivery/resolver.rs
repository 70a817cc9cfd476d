//! Name lookup for ureq: a small cache, because ureq asks for every request and its own resolver starts a thread for each.
//!
//! Also where plain http to a public address is stopped: only here is it known which address a name means today.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
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
    allow_public_http: bool,
    cache: Mutex<HashMap<String, (Instant, Vec<SocketAddr>)>>,
    system: DefaultResolver,
}

impl fmt::Debug for CachingResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachingResolver")
    }
}

/// Said when a plain http URL leads to a public address.
#[derive(Debug)]
pub struct PublicHttp;

impl fmt::Display for PublicHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain http to a public address; use https, or set allow_http = true for this destination")
    }
}

impl std::error::Error for PublicHttp {}

impl CachingResolver {
    /// `allow_public_http` is the destination's `allow_http`.
    pub fn new(allow_public_http: bool) -> Self {
        Self { allow_public_http, cache: Mutex::default(), system: DefaultResolver::default() }
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
        if uri.scheme_str() == Some("http") && !self.allow_public_http {
            found.retain(|a| is_local(a.ip()));
            if found.is_empty() {
                return Err(Error::Other(Box::new(PublicHttp)));
            }
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

//! One attempt over HTTP with ureq. The only place that does; it judges nothing.
//!
//! It must never follow a redirect, never read more of an answer than its cap, and never write a URL's path or query to a log: tokens
//! live there.

use super::Link;
use super::resolver::{CachingResolver, Forbidden};
use crate::destination::{Answer, Failure, HttpRequest, Request, Response};
use crate::secret::Hidden;
use std::fmt;
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use ureq::config::Config;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{self, ConnectionDetails, Connector, DefaultConnector, NextTimeout};
use ureq::{Agent, Error, Timeout};

const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Carries a request to a receiver and brings back what came; tests bring their own.
pub trait Transport: Send + Sync + fmt::Debug {
    /// One request. Blocks, at most for the deadlines it was made with.
    fn send(&self, request: &Request) -> Answer;
}

/// HTTP. Keeps connections alive between requests.
#[derive(Debug)]
pub struct Http {
    agent: Agent,
    resolver: Arc<CachingResolver>,
}

// ureq takes its resolver by value; this lets both sides have it.
#[derive(Debug)]
struct Shared(Arc<CachingResolver>);

impl Resolver for Shared {
    fn resolve(&self, uri: &ureq::http::Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        self.0.resolve(uri, config, timeout)
    }
}

/// Calls every deadline that passes before a connection stands that of the connection: nothing was sent, whichever of them came first.
#[derive(Debug, Default)]
struct Connecting(DefaultConnector);

impl Connector<()> for Connecting {
    type Out = Box<dyn transport::Transport>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<()>) -> Result<Option<Self::Out>, Error> {
        self.0.connect(details, chained).map_err(|e| match e {
            Error::Timeout(_) => Error::Timeout(Timeout::Connect),
            Error::Io(io) if matches!(io.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => Error::Timeout(Timeout::Connect),
            other => other,
        })
    }
}

impl Http {
    /// For one destination, all of whose requests go over TLS or may not. Fails with a sentence when the CA file or the proxy is not usable.
    pub fn new(link: &Link, over_tls: bool) -> Result<Self, String> {
        let Link { timeouts, network, .. } = link;
        // What is resolved may be a proxy's name; over TLS it matters to nobody where that is.
        let guard = link.guard(over_tls);
        let mut tls = TlsConfig::builder();
        if let Some(pem) = &network.roots {
            tls = tls.root_certs(RootCerts::from(certificates(pem)?));
        }
        let proxy = match &network.proxy {
            Some(Hidden(text)) => Some(ureq::Proxy::new(text).map_err(|e| format!("the proxy is not usable: {e}"))?),
            None => None,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent("")
            .accept("")
            .accept_encoding("")
            .timeout_global(Some(timeouts.total))
            .timeout_connect(Some(timeouts.connect))
            .timeout_resolve(Some(timeouts.connect))
            .max_response_header_size(HEADER_BYTES_MAX)
            .input_buffer_size(8 * 1024)
            .output_buffer_size(8 * 1024)
            .max_idle_connections(4)
            .max_idle_connections_per_host(4)
            .tls_config(tls.build())
            .proxy(proxy)
            .build();
        let resolver = Arc::new(CachingResolver::new(guard));
        let agent = Agent::with_parts(config, Connecting::default(), Shared(Arc::clone(&resolver)));
        Ok(Self { agent, resolver })
    }
}

/// Whether ureq can use this as a proxy's address.
pub fn proxy_is_usable(address: &str) -> bool {
    ureq::Proxy::new(address).is_ok()
}

/// The certificates of a PEM file.
pub fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(c)) => found.push(c),
            Ok(_) => {}
            Err(e) => return Err(format!("the CA file is no PEM: {e}")),
        }
    }
    if found.is_empty() { Err("the CA file holds no certificate".to_owned()) } else { Ok(found) }
}

impl Transport for Http {
    fn send(&self, request: &Request) -> Answer {
        let Some(request) = request.http() else {
            return Answer::Failure { kind: Failure::Protocol, detail: "a request that is not HTTP".to_owned() };
        };
        match self.exchange(request) {
            Ok(response) => Answer::Response(response),
            Err(e) => {
                let (kind, detail) = classify(&e);
                if matches!(kind, Failure::Refused | Failure::Unreachable | Failure::ConnectTimeout) {
                    self.resolver.forget();
                }
                Answer::Failure { kind, detail }
            }
        }
    }
}

impl Http {
    fn exchange(&self, request: &HttpRequest) -> Result<Response, Error> {
        let mut builder = ureq::http::Request::builder().method(request.method.clone()).uri(request.url.as_str());
        for (name, value) in &request.headers {
            builder = builder.header(name.as_str(), value.as_str());
        }
        for (name, value) in &request.hidden {
            builder = builder.header(name.as_str(), value.0.as_str());
        }
        let mut answer = self.agent.run(builder.body(&request.body[..])?)?;
        let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut response = Response {
            status: answer.status().as_u16(),
            retry_after: header("retry-after"),
            date: header("date"),
            location: header("location"),
            headers: request.wanted.iter().filter_map(|name| Some(((*name).to_owned(), header(name)?))).collect(),
            body: Vec::new(),
        };
        // The status is the answer; a body that breaks off does not unsay it.
        let most = u64::try_from(request.answer_bytes_max).unwrap_or(u64::MAX);
        let _ = answer.body_mut().as_reader().take(most).read_to_end(&mut response.body);
        Ok(response)
    }
}

/// What an error of a socket, or of TLS over one, means.
pub fn io_failure(io: &std::io::Error) -> Failure {
    match io.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown | ErrorKind::AddrNotAvailable => {
            Failure::Unreachable
        }
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Failure::Timeout,
        // rustls hands its own errors through io with this kind.
        ErrorKind::InvalidData => Failure::Tls,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => Failure::Reset,
        _ => Failure::Unreachable,
    }
}

fn classify(e: &Error) -> (Failure, String) {
    let kind = match e {
        Error::HostNotFound | Error::Timeout(Timeout::Resolve) => Failure::Dns,
        Error::ConnectionFailed => Failure::Unreachable,
        Error::Timeout(Timeout::Connect) => Failure::ConnectTimeout,
        Error::Timeout(_) => Failure::Timeout,
        Error::Tls(_) | Error::Rustls(_) | Error::Pem(_) | Error::TlsRequired => Failure::Tls,
        Error::ConnectProxyFailed(_) => Failure::Unreachable,
        Error::Other(inner) if inner.is::<Forbidden>() => {
            inner.downcast_ref::<Forbidden>().map_or(Failure::Protocol, |forbidden| forbidden.failure())
        }
        Error::Io(io) => io_failure(io),
        _ => Failure::Protocol,
    };
    // Only texts that cannot hold a URL are passed on.
    let detail = match e {
        Error::BadUri(_) | Error::RequireHttpsOnly(_) => String::new(),
        // rustls's own words: what is wrong with a certificate.
        Error::Io(io) if io.kind() == ErrorKind::InvalidData => io.to_string(),
        Error::Io(io) => io.kind().to_string(),
        other => other.to_string(),
    };
    (kind, detail)
}

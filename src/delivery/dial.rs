//! Connections for what is not HTTP, under the same rules: deadlines, trusted certificates, and nothing unencrypted to a public address
//! unless it was allowed.

use super::transport::io_failure;
use super::{Link, Network};
use crate::destination::{Failure, Unanswered};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;

/// A connection, encrypted or not.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Through TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// The socket below, for its deadlines.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

/// The addresses of a name that may be connected to. `encrypted`: whatever is said there goes through TLS.
pub fn addresses(link: &Link, host: &str, port: u16, encrypted: bool) -> Result<Vec<SocketAddr>, Unanswered> {
    let guard = link.guard(false);
    let all = (host.trim_matches(['[', ']']), port).to_socket_addrs();
    let all = all.map_err(|_| Unanswered { kind: Failure::Dns, detail: String::new() })?;
    let (mut found, mut kept_from) = (Vec::new(), None);
    for address in all {
        match guard.check(address, !encrypted) {
            Ok(()) => found.push(address),
            Err(why) => kept_from = Some(why),
        }
    }
    match kept_from {
        Some(why) if found.is_empty() => Err(Unanswered { kind: why.failure(), detail: why.to_string() }),
        _ if found.is_empty() => Err(Unanswered { kind: Failure::Dns, detail: String::new() }),
        _ => Ok(found),
    }
}

/// A connection to `host`, with the destination's deadlines on it. With `tls`, its handshake is done.
pub fn dial(link: &Link, host: &str, port: u16, tls: Option<&Arc<ClientConfig>>) -> Result<Stream, Unanswered> {
    let mut last = None;
    for address in addresses(link, host, port, tls.is_some())? {
        match TcpStream::connect_timeout(&address, link.timeouts.connect) {
            Ok(socket) => return opened(link, host, socket, tls),
            Err(e) => last = Some(e),
        }
    }
    let e = last.unwrap_or_else(|| ErrorKind::NotFound.into());
    let kind = match e.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Failure::ConnectTimeout,
        _ => io_failure(&e),
    };
    Err(Unanswered { kind, detail: e.kind().to_string() })
}

fn opened(link: &Link, host: &str, socket: TcpStream, tls: Option<&Arc<ClientConfig>>) -> Result<Stream, Unanswered> {
    let prepared = socket
        .set_read_timeout(Some(link.timeouts.total))
        .and_then(|()| socket.set_write_timeout(Some(link.timeouts.total)))
        .and_then(|()| socket.set_nodelay(true));
    prepared.map_err(|e| broke_off(&e))?;
    match tls {
        None => Ok(Stream::Plain(socket)),
        Some(config) => secure(host, socket, config),
    }
}

/// Makes a plain connection an encrypted one, as STARTTLS does. Nothing of a payload has been sent when it fails.
pub fn secure(host: &str, mut socket: TcpStream, config: &Arc<ClientConfig>) -> Result<Stream, Unanswered> {
    let refused = |detail: String| Unanswered { kind: Failure::Tls, detail };
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|e| refused(e.to_string()))?;
    let mut session = ClientConnection::new(Arc::clone(config), name).map_err(|e| refused(e.to_string()))?;
    while session.is_handshaking() {
        if let Err(e) = session.complete_io(&mut socket) {
            return Err(match e.kind() {
                ErrorKind::InvalidData => refused(e.to_string()),
                ErrorKind::TimedOut | ErrorKind::WouldBlock => Unanswered { kind: Failure::ConnectTimeout, detail: e.kind().to_string() },
                // Broken off before anything was said: nobody is there who can be talked to.
                _ => Unanswered { kind: Failure::Unreachable, detail: e.kind().to_string() },
            });
        }
    }
    Ok(Stream::Tls(Box::new(StreamOwned::new(session, socket))))
}

/// What a connection that broke off while talking comes to.
pub fn broke_off(e: &io::Error) -> Unanswered {
    let detail = if e.kind() == ErrorKind::InvalidData { e.to_string() } else { e.kind().to_string() };
    Unanswered { kind: io_failure(e), detail }
}

/// What is trusted: the certificates of `delivery.ca_file`, or Mozilla's.
pub fn tls_config(network: &Network) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match &network.roots {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|e| format!("the CA file is no PEM: {e}"))?;
                roots.add(certificate).map_err(|e| format!("the CA file holds what is no certificate: {e}"))?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

//! Listening, accepting, routing, draining. An error of accept never ends the daemon.

use super::answer::{Answer, Refusal};
use super::limit::Connections;
use super::public::{Visitor, wants_html};
use super::{Edge, Live};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections the kernel may hold until they are accepted.
const BACKLOG: i32 = 1024;
/// How long an answer may lie unread.
const UNREAD_MS_MAX: u32 = 30_000;

/// Header fields in one request.
const HEADERS_MAX: usize = 100;
/// For so long a connection that has had its last answer is read from.
const LINGER: Duration = Duration::from_secs(2);
/// Connections that are told at once that there are too many.
const TURNED_AWAY_MAX: usize = 64;

/// A server that cannot be.
#[derive(Debug)]
pub struct ServerError(String);

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServerError {}

/// Bound sockets, not yet served.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    /// Where they are, with the ports that were found free.
    pub addresses: Vec<SocketAddr>,
}

impl Server {
    /// Binds every address, or says which one is taken.
    pub async fn bind(addresses: &[SocketAddr]) -> Result<Self, ServerError> {
        let mut listeners = Vec::new();
        let mut bound = Vec::new();
        for address in addresses {
            let failed = |e: std::io::Error| {
                let hint = match e.kind() {
                    std::io::ErrorKind::AddrInUse => {
                        "; another program, perhaps leadsbotd itself, uses that port: stop it, or set another one in server.listen"
                    }
                    std::io::ErrorKind::PermissionDenied => "; ports below 1024 need AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit",
                    std::io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
                    _ => "",
                };
                ServerError(format!("cannot listen at {address}: {e}{hint}"))
            };
            let listener = listen(*address).map_err(failed)?;
            bound.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        Ok(Self { listeners, addresses: bound })
    }

    /// Serves until `stop` says true; then stops accepting, lets running requests finish, and returns when the last has, or after `patience`.
    pub async fn serve(self, edge: Arc<Edge>, stop: watch::Receiver<bool>, patience: Duration) {
        let connections = Connections::default();
        // Waking sixty-four tasks from another thread wakes the runtime's threads again and again; one task that wakes them all does not.
        let runtime = tokio::runtime::Handle::current();
        edge.store.answer_through(move |answers| drop(runtime.spawn(async move { answers.give() })));
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept(listener, Arc::clone(&edge), connections.clone(), stop.clone()));
        }
        let mut open = JoinSet::new();
        while let Some(ended) = accepting.join_next().await {
            if let Ok(mut set) = ended {
                while let Some(connection) = set.try_join_next() {
                    drop(connection);
                }
                open.spawn(async move { while set.join_next().await.is_some() {} });
            }
        }
        let drained = tokio::time::timeout(patience, async { while open.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            log::warn!("some connections were cut: they had not finished {} after the stop", crate::time::human(patience));
        }
    }
}

async fn accept(listener: TcpListener, edge: Arc<Edge>, connections: Connections, mut stop: watch::Receiver<bool>) -> JoinSet<()> {
    let mut open = JoinSet::new();
    let doorway = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let mut failures = 0_u32;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => return open,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(pair) => {
                failures = 0;
                pair
            }
            Err(e) => {
                // Out of descriptors, or the peer was gone already: neither may end us, nor make us spin.
                failures = failures.saturating_add(1);
                if failures.is_power_of_two() {
                    log::warn!("a connection could not be accepted ({failures} in a row): {e}");
                }
                tokio::time::sleep(Duration::from_millis(u64::from(failures.min(50)) * 10)).await;
                continue;
            }
        };
        let live = edge.live();
        // All visitors behind a trusted proxy have its address.
        let proxied = live.options.trusted_proxies.contains(&peer.ip().to_canonical());
        let per_address = if proxied { live.options.connections_max } else { live.options.connections_per_address_max };
        match connections.enter(peer.ip(), live.options.connections_max, per_address) {
            Some(counted) => {
                let (edge, stop) = (Arc::clone(&edge), stop.clone());
                open.spawn(async move {
                    connection(stream, peer, edge, &live, stop).await;
                    drop(counted);
                });
            }
            // A flood of connections must not become a flood of tasks: beyond some, even the short answer is saved.
            None => {
                if let Ok(permit) = Arc::clone(&doorway).try_acquire_owned() {
                    open.spawn(async move {
                        turn_away(stream).await;
                        drop(permit);
                    });
                }
            }
        }
    }
}

/// Returns once the daemon is to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stop.wait_for(|s| *s).await;
}

/// Too many connections: a short answer, whatever was asked.
async fn turn_away(mut stream: TcpStream) {
    let _ = tokio::time::timeout(LINGER, async {
        speak(&mut stream, &Refusal::busy("too many connections; try again soon").closing()).await;
        linger(&mut stream).await;
    })
    .await;
}

/// A listening socket. On IPv6 it takes IPv6 only, so that `0.0.0.0` and `[::]` can be had side by side.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    TcpListener::from_std(std::net::TcpListener::from(socket))
}

async fn connection(stream: TcpStream, peer: SocketAddr, edge: Arc<Edge>, live: &Live, mut stop: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    // Who asks and does not read the answers must not hold the connection for ever; the kernel ends it, a closed window included.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_MS_MAX);
    // Boxed because `poll_without_shutdown` moves it.
    let service = service_fn(move |request| {
        let edge = Arc::clone(&edge);
        Box::pin(async move { Ok::<_, Infallible>(edge.answer(peer.ip(), request).await) })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(live.options.header_timeout)
        .max_buf_size(live.options.header_bytes_max)
        .max_headers(HEADERS_MAX)
        // A client that shuts its side down after the body still gets its lead kept and its answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
        () = stopped(&mut stop) => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    if let Err(e) = &ended {
        log::debug!("a connection ended: {e}");
        // hyper closes such a connection without a word; who was only slow should learn it. An idle connection has sent nothing.
        if e.is_timeout() && !parts.read_buf.is_empty() {
            let late = Refusal::new(StatusCode::REQUEST_TIMEOUT, "header_timeout", "the head of the request did not arrive in time");
            let _ = tokio::time::timeout(LINGER, speak(&mut stream, &late.closing())).await;
        }
    }
    tokio::select! {
        _ = tokio::time::timeout(LINGER, linger(&mut stream)) => {}
        () = stopped(&mut stop) => {}
    }
}

/// Says a refusal where hyper does not speak.
async fn speak(stream: &mut TcpStream, refusal: &Refusal) {
    let (head, body) = refusal.json().into_parts();
    let Ok(body) = body.collect().await;
    let body = body.to_bytes();
    let mut text = format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", head.status, body.len()).into_bytes();
    for (name, value) in &head.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(&body);
    let _ = stream.write_all(&text).await;
}

/// Ends a connection so that its last answer arrives: closing a socket with unread bytes resets it, and a reset makes the other
/// side forget what it has not read yet. A person whose message is too long would see a broken connection instead of the reason.
async fn linger(stream: &mut TcpStream) {
    let _ = stream.shutdown().await;
    let mut unread = vec![0; 8 << 10];
    while stream.read(&mut unread).await.is_ok_and(|n| n > 0) {}
}

impl Edge {
    async fn answer(self: Arc<Self>, peer: IpAddr, request: Request<Incoming>) -> Answer {
        let live = self.live();
        let visitor = Visitor { ip: client(&live, peer, request.headers()) };
        // The body of an answer to HEAD is left out by hyper, which knows its length from it.
        let answer = self.route(&live, peer, visitor, request).await;
        self.answers.count(answer.status());
        answer
    }

    async fn route(self: &Arc<Self>, live: &Arc<Live>, peer: IpAddr, visitor: Visitor, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        // People who type an address add one; to a program an empty id is a mistake.
        let path = path.strip_suffix('/').filter(|shorter| !shorter.is_empty() && !shorter.starts_with("/api/")).unwrap_or(&path);
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let method = request.method().clone();
        let get = method == Method::GET || method == Method::HEAD;
        let form = |id: &str| live.options.forms.iter().find(|f| f.id == id);
        match parts.as_slice() {
            [""] if get => match live.options.forms.first() {
                Some(form) => self.form_page(live, form, request.uri().query()),
                None => self.missing(live, request.headers()),
            },
            [""] => Refusal::method("GET").json(),
            ["assets", "page.css"] if get => self.pages.css(request.headers()),
            ["f", id] => match form(id) {
                Some(form) if get => self.form_page(live, form, request.uri().query()),
                Some(form) if method == Method::POST => self.form_post(live, form, visitor, request).await,
                Some(_) => Refusal::method("GET, POST").json(),
                None => self.missing(live, request.headers()),
            },
            ["f", id, "thanks"] => match form(id) {
                Some(form) if get => self.pages.thanks(live, form),
                Some(_) => Refusal::method("GET").json(),
                None => self.missing(live, request.headers()),
            },
            ["api", "inbound", "w", token, "leads"] => match live.options.sources.iter().find(|s| s.token.0 == *token) {
                Some(source) if method == Method::POST => self.inbound(live, source, visitor, request).await,
                Some(source) if method == Method::OPTIONS => Self::preflight(source, request.headers()),
                Some(_) => Refusal::method("POST, OPTIONS").json(),
                None => Refusal::not_found().json(),
            },
            ["api", "v1", rest @ ..] => match self.api(live, visitor, rest, &method, request).await {
                Ok(answer) => answer,
                Err(refusal) => refusal.json(),
            },
            ["healthz"] if get => self.health().await.unwrap_or_else(|r| r.json()),
            ["readyz"] if get => self.ready(Self::insider(live, peer, request.headers()).is_ok()).await.unwrap_or_else(|r| r.json()),
            ["metrics"] if get => match Self::insider(live, peer, request.headers()) {
                Ok(()) => self.figures().await.unwrap_or_else(|r| r.json()),
                Err(refusal) => self.rate(live, visitor).err().unwrap_or(refusal).json(),
            },
            ["healthz" | "readyz" | "metrics"] | ["assets", "page.css"] => Refusal::method("GET").json(),
            _ => self.missing(live, request.headers()),
        }
    }

    async fn api(
        self: &Arc<Self>,
        live: &Arc<Live>,
        visitor: Visitor,
        path: &[&str],
        method: &Method,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        if let Err(refusal) = Self::authorised(live, request.headers()) {
            // Those who guess are told less often what they got.
            self.rate(live, visitor)?;
            return Err(refusal);
        }
        match (path, method.as_str()) {
            (["leads"], "POST") => self.create(live, visitor, request).await,
            (["leads"], "GET" | "HEAD") => self.list(request.uri().query()).await,
            (["leads"], _) => Err(Refusal::method("GET, POST")),
            (["leads", id], "GET" | "HEAD") => self.show(id).await,
            (["leads", id], "PATCH") => self.patch(live, id, visitor, request).await,
            (["leads", _], _) => Err(Refusal::method("GET, PATCH")),
            (["leads", id, "replies"], "POST") => self.reply(live, id, visitor, request).await,
            (["leads", _, "replies"], _) => Err(Refusal::method("POST")),
            _ => Err(Refusal::not_found()),
        }
    }

    fn missing(&self, live: &Live, headers: &HeaderMap) -> Answer {
        if !wants_html(headers) {
            return Refusal::not_found().json();
        }
        self.pages.message(live, StatusCode::NOT_FOUND, "There is no such page", "Please check the address, or ask the staff.")
    }
}

/// The visitor's address: the peer's, or what a trusted proxy says it is.
fn client(live: &Live, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    if !live.options.trusted_proxies.contains(&peer.to_canonical()) {
        return peer;
    }
    let forwarded = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let hops: Vec<&str> = forwarded.collect();
    // The last address that is not one of our proxies is the visitor's; what stands before it anybody can have written. What cannot be
    // read ends the search: behind it nothing is known.
    for hop in hops.iter().rev() {
        match hop.trim().parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if live.options.trusted_proxies.contains(&ip) => {}
            Ok(ip) => return ip,
            Err(_) => break,
        }
    }
    peer
}

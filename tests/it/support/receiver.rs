//! A receiver whose answers are a closure, on a real socket. It can be taken away and brought back at the same port.

use super::eventually;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use leadsbotd::secret::Secret;
use leadsbotd::signature;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;

/// A request it saw.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub answered: u16,
}

impl Delivery {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v.as_str())
    }

    pub fn event_id(&self) -> &str {
        self.header("x-leadsbot-event-id")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub fn verified(&self, secret: &str) -> bool {
        signature::verify_leadsbot(&Secret::new(secret).unwrap(), &self.body, Some(self.header("x-leadsbot-signature"))).is_ok()
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: String::new() }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }
}

type Script = dyn Fn(&Delivery) -> Reply + Send + Sync;

/// See the module.
pub struct Receiver {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Delivery>>>,
    script: Arc<Mutex<Arc<Script>>>,
    runtime: Option<Runtime>,
    // While it is down: the port, bound and not listened at, so that no other test is given it and nobody answers there.
    port: Option<OwnedFd>,
}

impl Receiver {
    /// Answers by `script`, at a free port.
    pub fn start(script: impl Fn(&Delivery) -> Reply + Send + Sync + 'static) -> Self {
        let mut receiver = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            seen: Arc::default(),
            script: Arc::new(Mutex::new(Arc::new(script))),
            runtime: None,
            port: None,
        };
        receiver.up();
        receiver
    }

    /// Answers 200 to everything.
    pub fn well() -> Self {
        Self::start(|_| Reply::status(200))
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// From now on answers by this.
    pub fn script(&self, script: impl Fn(&Delivery) -> Reply + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    /// Everything seen so far.
    pub fn seen(&self) -> Vec<Delivery> {
        self.seen.lock().unwrap().clone()
    }

    /// Those answered with a 2xx.
    pub fn taken(&self) -> Vec<Delivery> {
        self.seen().into_iter().filter(|d| (200..300).contains(&d.answered)).collect()
    }

    /// Closes the port and every connection.
    pub fn down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
            set_socket_reuseaddr(&socket, true).expect("its option");
            // For a moment the port may be the near end of somebody else's connection.
            eventually("the receiver's port is free", || bind(&socket, &self.address).is_ok());
            self.port = Some(socket);
        }
    }

    /// Opens the port again.
    pub fn up(&mut self) {
        self.port = None;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut listener = None;
        eventually("the receiver's port is free", || {
            listener = runtime.block_on(tokio::net::TcpListener::bind(self.address)).ok();
            listener.is_some()
        });
        let listener = listener.expect("a listener");
        self.address = listener.local_addr().unwrap();
        let (seen, script) = (Arc::clone(&self.seen), Arc::clone(&self.script));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                tokio::spawn(async move {
                    let service = service_fn(move |request: hyper::Request<Incoming>| {
                        let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                        async move {
                            let (parts, body) = request.into_parts();
                            let Ok(body) = body.collect().await else {
                                return Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::new())));
                            };
                            let headers = parts
                                .headers
                                .iter()
                                .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
                                .collect();
                            let mut delivery = Delivery {
                                method: parts.method.to_string(),
                                path: parts.uri.to_string(),
                                headers,
                                body: body.to_bytes().to_vec(),
                                answered: 0,
                            };
                            let script = Arc::clone(&script.lock().unwrap());
                            let reply = script(&delivery);
                            delivery.answered = reply.status;
                            seen.lock().unwrap().push(delivery);
                            let mut answer = hyper::Response::builder().status(reply.status);
                            for (name, value) in reply.headers {
                                answer = answer.header(name, value);
                            }
                            Ok(answer.body(Full::new(Bytes::from(reply.body))).unwrap())
                        }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for Receiver {
    /// Unlike [`Receiver::down`] it does not keep the port: another connection may have it by then.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }
}

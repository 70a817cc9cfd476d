//! Rows into PostgreSQL, with tokio-postgres. The only place that uses it; it judges nothing.
//!
//! Every wait has a deadline, which is why this is not the blocking `postgres` crate: that one waits for an answer for ever. A connection is
//! kept between inserts and brings its own small runtime, which runs only while a lane waits in [`Transport::send`]. It must never write a
//! password or a row to a log.

use super::dial::{addresses, tls_config};
use super::transport::io_failure;
use super::{Link, PostgresWire, Transport};
use crate::destination::postgres::{NO_TLS, SUCCESS};
use crate::destination::{Answer, Failure, Insert, Reply, Request, Unanswered};
use serde_json::Value;
use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Runtime;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, Connection, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Connections to one database: as many as there are workers who insert at once.
pub struct Postgres {
    link: Link,
    wire: PostgresWire,
    tls: Option<MakeRustlsConnect>,
    idle: Mutex<Vec<Session>>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("wire", &self.wire).finish_non_exhaustive()
    }
}

/// A connection, and what it has prepared last.
struct Session {
    runtime: Runtime,
    client: Client,
    prepared: Option<(String, Statement)>,
}

/// Why an insert was not made.
enum Failed {
    /// The server says so.
    Said(Reply),
    /// Nobody says anything.
    Silent(Unanswered),
}

impl Failed {
    /// Whether only this connection is at an end. 57P: the server says so, perhaps long ago.
    fn is_the_connections(&self) -> bool {
        match self {
            Failed::Said(reply) => reply.code.starts_with("57P"),
            Failed::Silent(unanswered) => unanswered.kind == Failure::Reset,
        }
    }
}

impl From<Unanswered> for Failed {
    fn from(unanswered: Unanswered) -> Self {
        Failed::Silent(unanswered)
    }
}

impl Postgres {
    /// For one destination. Fails with a sentence when the CA file is not usable.
    pub fn new(link: &Link, wire: &PostgresWire) -> Result<Self, String> {
        let tls = match wire.tls {
            true => Some(MakeRustlsConnect::new((*tls_config(&link.network)?).clone())),
            false => None,
        };
        Ok(Self { link: link.clone(), wire: wire.clone(), tls, idle: Mutex::default() })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, insert: &Insert) -> Result<(), Failed> {
        let kept = self.idle().pop();
        if let Some(mut session) = kept {
            match session.insert(insert, &self.link) {
                // It may have been ended while nobody looked; and what is there already is not inserted twice.
                Err(failed) if failed.is_the_connections() => {}
                other => return self.ends(session, other),
            }
        }
        let mut session = self.connect()?;
        let result = session.insert(insert, &self.link);
        self.ends(session, result)
    }

    /// Keeps a connection for the next insert unless it is broken or has an answer outstanding.
    fn ends(&self, session: Session, result: Result<(), Failed>) -> Result<(), Failed> {
        let over = matches!(&result, Err(failed) if matches!(failed, Failed::Silent(_)) || failed.is_the_connections());
        if !over && !session.client.is_closed() {
            self.idle().push(session);
        }
        result
    }

    fn connect(&self) -> Result<Session, Failed> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|e| Unanswered { kind: Failure::Unreachable, detail: e.kind().to_string() })?;
        let socket = self.socket()?;
        let client = runtime.block_on(self.greet(socket))?;
        Ok(Session { runtime, client, prepared: None })
    }

    fn socket(&self) -> Result<TcpStream, Unanswered> {
        let mut last = ErrorKind::NotFound.into();
        for address in addresses(&self.link, &self.wire.host, self.wire.port, self.wire.tls)? {
            match self.opened(address) {
                Ok(socket) => return Ok(socket),
                Err(e) => last = e,
            }
        }
        let kind = match last.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Failure::ConnectTimeout,
            _ => io_failure(&last),
        };
        Err(Unanswered { kind, detail: last.kind().to_string() })
    }

    fn opened(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = TcpStream::connect_timeout(&address, self.link.timeouts.connect)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    async fn greet(&self, socket: TcpStream) -> Result<Client, Failed> {
        let mut config = Config::new();
        let wire = &self.wire;
        config.user(&wire.user).dbname(&wire.database).password(&wire.password.0).application_name("leadsbotd");
        let socket =
            tokio::net::TcpStream::from_std(socket).map_err(|e| Unanswered { kind: io_failure(&e), detail: e.kind().to_string() })?;
        let client = match self.tls.clone() {
            None => {
                let (client, connection) = self.soon(config.ssl_mode(SslMode::Disable).connect_raw(socket, NoTls)).await?;
                run(connection);
                client
            }
            Some(mut tls) => {
                let host = wire.host.trim_matches(['[', ']']);
                let Ok(tls) = MakeTlsConnect::<tokio::net::TcpStream>::make_tls_connect(&mut tls, host);
                let (client, connection) = self.soon(config.ssl_mode(SslMode::Require).connect_raw(socket, tls)).await?;
                run(connection);
                client
            }
        };
        // Not as an option at the start: poolers in front of the server refuse those. A little less than we wait ourselves, so that the
        // server gives up first and says so.
        let limit = format!("SET statement_timeout = {}", self.link.timeouts.total.as_millis() * 9 / 10);
        self.soon(client.batch_execute(&limit)).await?;
        Ok(client)
    }

    /// What belongs to connecting, within its deadline. Nothing of a lead has been sent when it fails.
    async fn soon<T>(&self, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failed> {
        match tokio::time::timeout(self.link.timeouts.connect, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(e)) => Err(match said(&e) {
                Failed::Silent(Unanswered { kind: Failure::Reset | Failure::Timeout, detail }) => {
                    Failed::Silent(Unanswered { kind: Failure::Unreachable, detail })
                }
                other => other,
            }),
            Err(_) => Err(Unanswered { kind: Failure::ConnectTimeout, detail: String::new() }.into()),
        }
    }
}

/// Lets the connection work whenever its runtime does. It ends with its client.
fn run<S, T>(connection: Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        // Whoever waits for an answer is told the same.
        let _ = connection.await;
    });
}

impl Session {
    fn insert(&mut self, insert: &Insert, link: &Link) -> Result<(), Failed> {
        let (client, prepared) = (&self.client, &mut self.prepared);
        let work = async {
            let statement = match prepared.take().filter(|(text, _)| *text == insert.statement) {
                Some((_, statement)) => statement,
                None => prepare(client, insert).await?,
            };
            let values: Vec<Text<'_>> = insert.rows.iter().flatten().map(Text).collect();
            let parameters: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
            client.execute(&statement, &parameters).await?;
            *prepared = Some((insert.statement.clone(), statement));
            Ok::<(), tokio_postgres::Error>(())
        };
        match self.runtime.block_on(async { tokio::time::timeout(link.timeouts.total, work).await }) {
            Ok(done) => done.map_err(|e| match said(&e) {
                Failed::Silent(unanswered) => Failed::Silent(unanswered.while_talking()),
                told => told,
            }),
            Err(_) => Err(Unanswered { kind: Failure::Timeout, detail: String::new() }.into()),
        }
    }
}

/// The statement as the server understands it, which also finds a table or a column that is not there. The table is made if it may be.
async fn prepare(client: &Client, insert: &Insert) -> Result<Statement, tokio_postgres::Error> {
    let first = client.prepare(&insert.statement).await;
    let (Err(e), Some(create)) = (&first, &insert.create) else { return first };
    if e.code() != Some(&SqlState::UNDEFINED_TABLE) {
        return first;
    }
    match client.batch_execute(create).await {
        // Another kiosk was faster.
        Err(e) if !matches!(e.code(), Some(&SqlState::UNIQUE_VIOLATION | &SqlState::DUPLICATE_TABLE)) => return Err(e),
        _ => {}
    }
    client.prepare(&insert.statement).await
}

fn said(e: &tokio_postgres::Error) -> Failed {
    if let Some(said) = e.as_db_error() {
        let more = [said.detail(), said.hint()].into_iter().flatten().map(|more| format!("; {more}")).collect::<String>();
        return Failed::Said(Reply { code: said.code().code().to_owned(), text: format!("{}{more}", said.message()) });
    }
    let mut source = e.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            let detail = if io.kind() == ErrorKind::InvalidData { io.to_string() } else { io.kind().to_string() };
            return Failed::Silent(Unanswered { kind: io_failure(io), detail });
        }
        // The crate has no name for this one.
        if cause.to_string() == "server does not support TLS" {
            return Failed::Silent(Unanswered { kind: Failure::Tls, detail: NO_TLS.to_owned() });
        }
        source = cause.source();
    }
    let kind = if e.is_closed() { Failure::Reset } else { Failure::Protocol };
    Failed::Silent(Unanswered { kind, detail: String::new() })
}

impl Transport for Postgres {
    fn send(&self, request: &Request) -> Answer {
        let Request::Insert(insert) = request else {
            return Answer::Failure { kind: Failure::Protocol, detail: "this destination takes rows".to_owned() };
        };
        match self.insert(insert) {
            Ok(()) => Answer::Replies(vec![Reply { code: SUCCESS.to_owned(), text: String::new() }]),
            Err(Failed::Said(reply)) => Answer::Replies(vec![reply]),
            Err(Failed::Silent(unanswered)) => unanswered.into(),
        }
    }
}

/// A value as text, which the server reads as whatever its column is.
#[derive(Debug)]
struct Text<'a>(&'a Value);

impl ToSql for Text<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let json = *kind == Type::JSON || *kind == Type::JSONB;
        match self.0 {
            Value::Null => return Ok(IsNull::Yes),
            Value::String(text) if !json => out.extend_from_slice(text.as_bytes()),
            other => out.extend_from_slice(&serde_json::to_vec(other)?),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// For [`super::connect`].
pub fn transport(link: &Link, wire: &PostgresWire) -> Result<Arc<dyn Transport>, String> {
    Ok(Arc::new(Postgres::new(link, wire)?))
}

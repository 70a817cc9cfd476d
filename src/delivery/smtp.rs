//! One mail over SMTP with lettre. The only place that does; it judges nothing.
//!
//! It must never send a login or a mail before TLS stands, where TLS was asked for, and never tell of a mail's end what it does not know:
//! once the mail is sent whole, only an answer says whether it was taken (RFC 1047).
//!
//! Whoever sits on the way can slip answers in before TLS stands, which lettre reads after it. They put every later answer one step behind
//! its question; that 354 answers DATA alone, and nothing but 2xx a mail, keeps this from being taken for a delivery.

use super::transport::{Transport, certificates, io_failure};
use super::{Link, MailSecurity, MailServer, dial};
use crate::destination::email::{HANDED_OVER, NO_LOGIN, NO_STARTTLS, Step};
use crate::destination::{Answer, Failure, MailRequest, Reply, Request, Unanswered};
use crate::secret::Hidden;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use lettre::Address;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, CertificateStore, SmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use lettre::transport::smtp::{self, client::TlsParametersBuilder};
use std::collections::BTreeSet;
use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

/// A connection that rested longer is not used again. RFC 5321 section 4.5.3.2.7 has servers wait five minutes; routers on the way forget
/// sooner.
const REST_MAX: Duration = Duration::from_secs(20);
/// Mails over one connection: many servers end it after a hundred.
const MAILS_MAX: u32 = 50;
/// Connections that rest; there are as many as workers at most.
const RESTING_MAX: usize = 4;

/// See the module.
pub struct Smtp {
    link: Link,
    server: MailServer,
    tls: Option<TlsParameters>,
    helo: ClientId,
    resting: Mutex<Vec<Resting>>,
    // Recipients whose refusal has been told.
    told: Mutex<BTreeSet<String>>,
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Smtp({}:{})", self.server.host, self.server.port)
    }
}

struct Resting {
    talk: Talk,
    since: Instant,
}

/// A connection that can take a mail.
struct Talk {
    connection: SmtpConnection,
    mails: u32,
}

/// Why a step did not succeed.
enum Broken {
    /// The server said no.
    Said(Reply),
    /// It said nothing that could be understood.
    Silent(Unanswered),
}

impl Broken {
    fn ends_the_connection(&self) -> bool {
        match self {
            Broken::Said(reply) => reply.code.ends_with(" 421"),
            Broken::Silent(_) => true,
        }
    }
}

impl From<Unanswered> for Broken {
    fn from(unanswered: Unanswered) -> Self {
        Broken::Silent(unanswered)
    }
}

impl From<Broken> for Answer {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Said(reply) => Answer::Replies(vec![reply]),
            Broken::Silent(unanswered) => unanswered.into(),
        }
    }
}

impl Smtp {
    /// For one destination. Fails with a sentence when TLS cannot be had as configured.
    pub fn new(link: &Link, server: &MailServer) -> Result<Self, String> {
        let tls = match server.security {
            MailSecurity::None => None,
            MailSecurity::StartTls | MailSecurity::Tls => Some(trusted(link, &server.host)?),
        };
        let helo = server.helo.clone().map_or_else(ClientId::default, ClientId::Domain);
        Ok(Self { link: link.clone(), server: server.clone(), tls, helo, resting: Mutex::default(), told: Mutex::default() })
    }

    fn resting(&self) -> MutexGuard<'_, Vec<Resting>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, mail: &MailRequest, until: Instant) -> Result<Vec<Reply>, Broken> {
        let kept = self.rested(until);
        let reused = kept.is_some();
        let mut talk = match kept {
            Some(talk) => talk,
            None => self.connect(until)?,
        };
        let begun = match talk.begin(mail, until) {
            // It may have been the connection's end, and no more than that.
            Err(e) if reused && e.ends_the_connection() => {
                talk = self.connect(until)?;
                talk.begin(mail, until)
            }
            begun => begun,
        };
        let (takers, mut replies) = begun?;
        let put_off = replies.iter().any(|reply| reply.code.contains(" 4"));
        if takers == 0 || (mail.all_or_none && put_off) {
            self.rest(talk);
            return Ok(replies);
        }
        self.tell(mail, &replies);
        replies.push(talk.hand_over(mail, until)?);
        self.rest(talk);
        Ok(replies)
    }

    /// A connection of an earlier mail that still answers.
    fn rested(&self, until: Instant) -> Option<Talk> {
        loop {
            let Resting { mut talk, since } = self.resting().pop()?;
            // One that nobody remembers must leave time for another.
            let soon = until.min(Instant::now() + self.link.timeouts.connect);
            if since.elapsed() <= REST_MAX && talk.mails < MAILS_MAX && talk.say(soon, Step::Hello, Rset).is_ok() {
                return Some(talk);
            }
        }
    }

    fn rest(&self, mut talk: Talk) {
        talk.mails += 1;
        let mut resting = self.resting();
        resting.retain(|r| r.since.elapsed() <= REST_MAX);
        if resting.len() < RESTING_MAX {
            resting.push(Resting { talk, since: Instant::now() });
        }
    }

    /// The operator learns once that somebody is left out; the lane only hears that the mail was taken.
    fn tell(&self, mail: &MailRequest, refusals: &[Reply]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for refusal in refusals {
            let Some(address) = mail.to.iter().find(|address| refusal.text.starts_with(&format!("<{address}>"))) else { continue };
            if told.insert(address.clone()) {
                log::warn!("{}: {} for the recipient {address}; the others get the mails. Look at to and cc", mail.shown, refusal.code);
            }
        }
    }

    fn connect(&self, until: Instant) -> Result<Talk, Broken> {
        let encrypted = self.tls.is_some();
        let mut last = Unanswered { kind: Failure::Dns, detail: String::new() };
        for address in dial::addresses(&self.link, &self.server.host, self.server.port, encrypted)? {
            match self.greeted(address, until) {
                Ok(connection) => return self.prepared(connection, until),
                // Another address of the same server may do.
                Err(Broken::Silent(unanswered)) if is_offline(unanswered.kind) => last = unanswered,
                Err(broken) => return Err(broken),
            }
        }
        Err(Broken::Silent(last))
    }

    /// Connects and says hello.
    fn greeted(&self, address: SocketAddr, until: Instant) -> Result<SmtpConnection, Broken> {
        let wrapped = self.tls.as_ref().filter(|_| self.server.security == MailSecurity::Tls);
        let patience = self.link.timeouts.connect.min(left(until)?);
        SmtpConnection::connect(address, Some(patience), &self.helo, wrapped, None).map_err(|e| match broken(Step::Hello, &e) {
            // Nothing was said: nobody is there who can be talked to.
            Broken::Silent(u) if u.kind == Failure::Timeout => Unanswered { kind: Failure::ConnectTimeout, ..u }.into(),
            Broken::Silent(u) if u.kind == Failure::Reset => Unanswered { kind: Failure::Unreachable, ..u }.into(),
            other => other,
        })
    }

    /// Encrypts, where it is not yet, and logs in.
    fn prepared(&self, mut connection: SmtpConnection, until: Instant) -> Result<Talk, Broken> {
        if let (MailSecurity::StartTls, Some(tls)) = (self.server.security, &self.tls) {
            if !connection.can_starttls() {
                return Err(Unanswered { kind: Failure::Tls, detail: NO_STARTTLS.to_owned() }.into());
            }
            wait_no_longer(&mut connection, until)?;
            connection.starttls(tls, &self.helo).map_err(|e| broken(Step::StartTls, &e))?;
        }
        if let Some((user, Hidden(password))) = &self.server.login {
            let known = [Mechanism::Plain, Mechanism::Login];
            if connection.server_info().get_auth_mechanism(&known).is_none() {
                return Err(Unanswered { kind: Failure::Protocol, detail: NO_LOGIN.to_owned() }.into());
            }
            wait_no_longer(&mut connection, until)?;
            connection.auth(&known, &Credentials::new(user.clone(), password.clone())).map_err(|e| match broken(Step::Login, &e) {
                // Whatever a server repeats of a login is shown to nobody.
                Broken::Said(reply) if repeats(&reply.text, user, password) => Broken::Said(Reply { text: String::new(), ..reply }),
                other => other,
            })?;
        }
        Ok(Talk { connection, mails: 0 })
    }
}

impl Transport for Smtp {
    fn send(&self, request: &Request) -> Answer {
        let Request::Mail(mail) = request else {
            return Answer::Failure { kind: Failure::Protocol, detail: "a request that is no mail".to_owned() };
        };
        match self.deliver(mail, Instant::now() + self.link.timeouts.total) {
            Ok(replies) => Answer::Replies(replies),
            Err(broken) => broken.into(),
        }
    }
}

impl Talk {
    fn say(&mut self, until: Instant, step: Step, command: impl fmt::Display) -> Result<Response, Broken> {
        wait_no_longer(&mut self.connection, until)?;
        self.connection.command(command).map_err(|e| broken(step, &e))
    }

    /// Names the sender and the recipients. Gives how many of these take the mail, and the replies of those that do not.
    fn begin(&mut self, mail: &MailRequest, until: Instant) -> Result<(usize, Vec<Reply>), Broken> {
        let address = |text: &str| {
            text.parse::<Address>().map_err(|e| Unanswered { kind: Failure::Protocol, detail: format!("an address is not usable: {e}") })
        };
        self.say(until, Step::Sender, Mail::new(Some(address(&mail.from)?), Vec::new()))?;
        let mut takers = 0;
        let mut refusals = Vec::new();
        for recipient in &mail.to {
            match self.say(until, Step::Recipient, Rcpt::new(address(recipient)?, Vec::new())) {
                Ok(_) => takers += 1,
                // The server is about to hang up: it is not about the recipient.
                Err(broken) if broken.ends_the_connection() => return Err(broken),
                Err(Broken::Said(reply)) => refusals.push(Reply { text: format!("<{recipient}> {}", reply.text), ..reply }),
                Err(broken) => return Err(broken),
            }
        }
        Ok((takers, refusals))
    }

    /// Sends the mail and waits for the word that it was taken.
    fn hand_over(&mut self, mail: &MailRequest, until: Instant) -> Result<Reply, Broken> {
        let ready = self.say(until, Step::Mail, Data)?;
        if !ready.has_code(354) {
            return Err(Broken::Said(Step::Mail.reply(399, "no 354 after DATA")));
        }
        wait_no_longer(&mut self.connection, until)?;
        match self.connection.message(&mail.message) {
            Ok(taken) => Ok(Step::Mail.reply(taken.code().into(), &taken.message().collect::<Vec<_>>().join(" "))),
            Err(e) => Err(match broken(Step::Mail, &e) {
                Broken::Silent(u) => {
                    // Whatever ended the connection, TLS included: the server may have the mail.
                    let kind = if u.kind.may_have_sent() { u.kind } else { Failure::Reset };
                    Unanswered { kind, detail: format!("{HANDED_OVER}: {}", u.detail) }.into()
                }
                said @ Broken::Said(_) => said,
            }),
        }
    }
}

/// What is left of the time for this mail.
fn left(until: Instant) -> Result<Duration, Unanswered> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Unanswered { kind: Failure::Timeout, detail: String::new() }) } else { Ok(left) }
}

fn wait_no_longer(connection: &mut SmtpConnection, until: Instant) -> Result<(), Unanswered> {
    // A socket takes no deadline below a microsecond.
    let left = left(until)?.max(Duration::from_millis(1));
    connection.set_timeout(Some(left)).map_err(|e| dial::broke_off(&e))
}

const fn is_offline(kind: Failure) -> bool {
    matches!(kind, Failure::Refused | Failure::Unreachable | Failure::ConnectTimeout)
}

/// What is trusted: the certificates of `delivery.ca_file`, or Mozilla's.
fn trusted(link: &Link, host: &str) -> Result<TlsParameters, String> {
    let failed = |e: smtp::Error| format!("TLS cannot be set up: {e}");
    let mut builder = TlsParametersBuilder::new(host.trim_matches(['[', ']']).to_owned());
    builder = match &link.network.roots {
        None => builder.certificate_store(CertificateStore::WebpkiRoots),
        Some(pem) => {
            builder = builder.certificate_store(CertificateStore::None);
            for certificate in certificates(pem)? {
                builder = builder.add_root_certificate(Certificate::from_der(certificate.der().to_vec()).map_err(failed)?);
            }
            builder
        }
    };
    builder.build_rustls().map_err(failed)
}

/// Whether a text holds a password, as it is or in the form it travels in.
fn repeats(text: &str, user: &str, password: &str) -> bool {
    let encoded = |text: &str| STANDARD_NO_PAD.encode(text);
    [password.to_owned(), encoded(password), encoded(&format!("\0{user}\0{password}"))].iter().any(|form| text.contains(form))
}

/// An error of lettre's. Its words are passed on only where they cannot hold what was sent.
fn broken(step: Step, e: &smtp::Error) -> Broken {
    if let Some(code) = e.status() {
        let text = e.source().map(ToString::to_string).unwrap_or_default();
        return Broken::Said(step.reply(code.into(), &text));
    }
    let mut source = e.source();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            // What is no UTF-8 has the same kind as what is wrong with TLS.
            let foreign = io.kind() == io::ErrorKind::InvalidData && !io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
            let kind = if foreign { Failure::Protocol } else { io_failure(io) };
            return Broken::Silent(Unanswered { kind, ..dial::broke_off(io) });
        }
        if inner.is::<rustls::Error>() {
            return Broken::Silent(Unanswered { kind: Failure::Tls, detail: inner.to_string() });
        }
        source = inner.source();
    }
    // lettre's word for a connection that was closed where an answer should be.
    let kind = if e.is_response() && e.to_string().contains("incomplete response") { Failure::Reset } else { Failure::Protocol };
    Broken::Silent(Unanswered { kind, detail: String::new() })
}

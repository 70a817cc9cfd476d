//! What a mail server's answers mean: RFC 5321 section 4.2, with the enhanced codes of RFC 3463 and their register at
//! <https://www.iana.org/assignments/smtp-enhanced-status-codes>. Pure.
//!
//! The transport says after which step a reply came, as the first word of its code: `RCPT 550`. One reply more than there are refused
//! recipients is the outcome for the others.

use super::super::{Answer, Class, Failure, Moment, Reply, Verdict, failure, printable};

/// Begins the transport's words when the whole mail had been sent and no answer came.
pub const HANDED_OVER: &str = "the mail was handed over";
/// The transport's words when the server does not offer TLS.
pub const NO_STARTTLS: &str = "no STARTTLS";
/// The transport's words when the server does not offer a way to log in that is known here.
pub const NO_LOGIN: &str = "no AUTH PLAIN or LOGIN";

/// A step of handing a mail over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The server's greeting and EHLO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Login,
    /// MAIL FROM.
    Sender,
    /// RCPT TO.
    Recipient,
    /// DATA, and the mail itself.
    Mail,
}

impl Step {
    const ALL: [Step; 6] = [Step::Hello, Step::StartTls, Step::Login, Step::Sender, Step::Recipient, Step::Mail];

    /// The word for it before a reply's code.
    pub const fn word(self) -> &'static str {
        match self {
            Step::Hello => "EHLO",
            Step::StartTls => "STARTTLS",
            Step::Login => "AUTH",
            Step::Sender => "MAIL",
            Step::Recipient => "RCPT",
            Step::Mail => "DATA",
        }
    }

    /// A reply to it.
    pub fn reply(self, code: u16, text: &str) -> Reply {
        Reply { code: format!("{} {code}", self.word()), text: text.to_owned() }
    }
}

/// A reply with its parts.
struct Read<'a> {
    step: Step,
    code: u16,
    text: &'a str,
}

impl<'a> Read<'a> {
    fn new(reply: &'a Reply) -> Option<Self> {
        let (word, code) = reply.code.split_once(' ')?;
        let step = Step::ALL.into_iter().find(|s| s.word() == word)?;
        Some(Self { step, code: code.parse().ok()?, text: &reply.text })
    }

    /// `5.7.1` at the beginning of its words: RFC 2034. The class says nothing new.
    fn enhanced(&self) -> Option<(u16, u16)> {
        // Before a recipient's refusal stands its address.
        self.text.split_whitespace().find_map(|word| {
            let mut numbers = word.split('.');
            let (class, subject, detail) = (numbers.next()?, numbers.next()?, numbers.next()?);
            let whole = matches!(class, "4" | "5") && numbers.next().is_none();
            if whole { Some((subject.parse().ok()?, detail.parse().ok()?)) } else { None }
        })
    }

    fn says(&self, words: &[&str]) -> bool {
        let text = self.text.to_ascii_lowercase();
        words.iter().any(|word| text.contains(word))
    }
}

/// Judges what came of handing a mail over.
pub fn judge(answer: &Answer, moment: &Moment) -> Verdict {
    match answer {
        Answer::Failure { kind, detail } => unanswered(*kind, detail, moment.clock_trusted),
        Answer::Response(_) => Verdict::internal("an answer over HTTP to a mail"),
        Answer::Replies(replies) => {
            let read: Option<Vec<Read<'_>>> = replies.iter().map(Read::new).collect();
            match read.as_deref() {
                None | Some([]) => Verdict::internal("the mail server's answer was not understood"),
                Some(all) => replied(all),
            }
        }
    }
}

fn replied(all: &[Read<'_>]) -> Verdict {
    let put_off = all.iter().find(|r| r.step == Step::Recipient && r.code < 500);
    let Some(last) = all.last() else { return Verdict::internal("the mail server's answer was not understood") };
    let told = if last.step == Step::Recipient { put_off.unwrap_or(last) } else { last };
    let (class, code, mut reason) = class(told);
    let left_out = all.iter().filter(|r| r.step == Step::Recipient).count();
    if class == Class::Delivered && left_out > 0 {
        reason.push_str(&format!("; {left_out} of the recipients did not take it, look at to and cc"));
    }
    let answer: Vec<&str> = all.iter().map(|r| r.text).collect();
    Verdict { class, code, status: Some(told.code), wait: None, reason, answer: printable(answer.join(" | ").as_bytes()) }
}

fn class(reply: &Read<'_>) -> (Class, &'static str, String) {
    let Read { step, code, .. } = reply;
    let said = format!("SMTP {code} after {}", step.word());
    let refused = |what: &str| (Class::Refused, "receiver_5xx", format!("{said}: {what}"));
    let rejected = |what: &str| (Class::Rejected, "rejected_body", format!("{said}: {what}"));
    match (step, code, reply.enhanced()) {
        (Step::Mail, 200..=299, _) => (Class::Delivered, "delivered", format!("SMTP {code}")),
        _ if slow_down(reply) => (Class::Throttled, "throttled", format!("{said}: the mail server asks to slow down; see rate_per_minute")),
        (_, 400..=499, _) => (Class::Temporary, "receiver_4xx", format!("{said}: the mail server puts it off")),
        (_, 0..=499, _) => (Class::Temporary, "protocol_error", format!("{said}: that is no answer to it")),
        (Step::Hello, ..) => refused("the mail server does not talk to this device; is its address blocked?"),
        (Step::StartTls, ..) => refused("the mail server has no TLS at present; look at its certificate"),
        (Step::Login, ..) => refused("the mail server does not accept user and password; many want a password made for one program"),
        (_, 530 | 534 | 535 | 538, _) => refused("the mail server wants a login; set user and its secret"),
        (Step::Sender, 552, _) => rejected("the mail is too large for the server"),
        (Step::Sender, ..) => refused("the mail server does not take mails from this sender; look at from, and at user and its secret"),
        (Step::Recipient, _, Some((7, _))) => {
            refused("the mail server does not pass mails on to this recipient; set user and its secret, or look at to")
        }
        (Step::Recipient, ..) => refused("no recipient can be reached; look at to and cc"),
        // Nobody may send in the name of this domain: it is not about what the mail says.
        (Step::Mail, _, Some((1, 7 | 8) | (7, 20..=27))) => {
            refused("the sender is not believed; look at SPF and DKIM of the domain of from")
        }
        (Step::Mail, 552, _) | (Step::Mail, _, Some((3, 4) | (2, 3))) => rejected("the mail is too large for the server"),
        (Step::Mail, ..) => rejected("the mail server refuses this one mail"),
    }
}

/// Limits are told in many ways; Gmail's are at <https://support.google.com/a/answer/3726730>. The enhanced codes are Gmail's 4.7.28 and
/// 5.4.5 and Exchange Online's 5.1.90.
fn slow_down(reply: &Read<'_>) -> bool {
    let limit = [
        "rate limit",
        "sending limit",
        "daily limit",
        "throttl",
        "relay limit",
        "unusual rate",
        "too quickly",
        "too many messages",
        "too many connections",
        "too much mail",
    ];
    let by_code = match reply.code {
        400..=499 => matches!(reply.enhanced(), Some((7, 28))),
        500..=599 => matches!(reply.enhanced(), Some((4, 5) | (1, 90))),
        _ => return false,
    };
    by_code || reply.says(&limit)
}

fn unanswered(kind: Failure, detail: &str, clock_trusted: bool) -> Verdict {
    let own = |class, code, reason: &str| Verdict::new(class, code, reason);
    match (kind, detail) {
        (_, words) if words.starts_with(HANDED_OVER) => {
            let mut verdict = failure(kind, "", clock_trusted);
            verdict.reason = "no answer came after the whole mail was sent: it may arrive twice, with the same Message-ID. If it happens often, give the destination a longer timeout_seconds".to_owned();
            verdict
        }
        (Failure::Tls, NO_STARTTLS) => own(
            Class::Refused,
            "tls_error",
            "the mail server does not offer STARTTLS; nothing was sent. Set security = \"tls\" with its port (465), or find out who answers there",
        ),
        (Failure::Protocol, NO_LOGIN) => own(
            Class::Refused,
            "protocol_error",
            "the mail server offers no login with user and password (AUTH PLAIN or LOGIN); take another server, or leave user out",
        ),
        (Failure::PublicHttp, _) => own(
            Class::Refused,
            "plain_http",
            "an unencrypted connection to a public address, where anybody on the way can read the leads; set security = \"starttls\" or \"tls\", or allow_http = true",
        ),
        (Failure::Tls, words) if clock_trusted && words.contains("InvalidContentType") => own(
            Class::Refused,
            "tls_error",
            "the mail server does not speak TLS at this port; security = \"tls\" belongs to port 465, \"starttls\" to 587",
        ),
        (Failure::Protocol, _) => own(Class::Temporary, "protocol_error", "what answers there is not SMTP; look at server and port"),
        _ => failure(kind, detail, clock_trusted),
    }
}

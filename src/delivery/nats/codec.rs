//! The client's side of the NATS protocol, <https://docs.nats.io/reference/reference-protocols/nats-protocol>: what a server says, read from
//! its bytes, and a message with headers, written. No socket. Whatever the bytes are, it must never panic.

use crate::destination::broker::Message;

/// Bytes of a line: INFO is the longest there is.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a message to us. Acknowledgements are short.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// About itself, as JSON.
    Info(Vec<u8>),
    /// A message on a subject, its status (of `NATS/1.0 503`) if it has one.
    Msg { subject: String, status: Option<String>, payload: Vec<u8> },
    /// It wants to hear PONG.
    Ping,
    /// It has read everything up to our PING.
    Pong,
    /// It has read something.
    Ok,
    /// It complains.
    Err(String),
}

/// Bytes that are none of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The first thing said in these bytes, and its length; `None` while it is not whole.
pub fn read(bytes: &[u8]) -> Result<Option<(Op, usize)>, Malformed> {
    let Some(end) = bytes.windows(2).take(LINE_BYTES_MAX).position(|w| w == b"\r\n") else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Malformed) };
    };
    let line = bytes.get(..end).ok_or(Malformed)?;
    let after = end + 2;
    let (name, rest) = match line.iter().position(|b| matches!(b, b' ' | b'\t')) {
        Some(at) => (line.get(..at).ok_or(Malformed)?, line.get(at..).ok_or(Malformed)?),
        None => (line, &[][..]),
    };
    let op = match name.to_ascii_uppercase().as_slice() {
        b"INFO" => Op::Info(rest.trim_ascii().to_vec()),
        b"PING" => Op::Ping,
        b"PONG" => Op::Pong,
        b"+OK" => Op::Ok,
        b"-ERR" => Op::Err(String::from_utf8_lossy(rest).trim().trim_matches('\'').to_owned()),
        b"MSG" => return message(rest, bytes, after, false),
        b"HMSG" => return message(rest, bytes, after, true),
        _ => return Err(Malformed),
    };
    Ok(Some((op, after)))
}

/// `MSG <subject> <sid> [reply-to] <bytes>`, `HMSG <subject> <sid> [reply-to] <bytes of headers> <bytes in all>`, then those bytes.
fn message(rest: &[u8], bytes: &[u8], after: usize, with_headers: bool) -> Result<Option<(Op, usize)>, Malformed> {
    let rest = std::str::from_utf8(rest).map_err(|_| Malformed)?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |text: &str| text.parse::<usize>().ok().filter(|n| *n <= MESSAGE_BYTES_MAX).ok_or(Malformed);
    let (subject, headers, total) = match (words.as_slice(), with_headers) {
        ([subject, _, total] | [subject, _, _, total], false) => (*subject, 0, number(total)?),
        ([subject, _, headers, total] | [subject, _, _, headers, total], true) => (*subject, number(headers)?, number(total)?),
        _ => return Err(Malformed),
    };
    if headers > total {
        return Err(Malformed);
    }
    let Some(whole) = bytes.get(after..after + total + 2) else { return Ok(None) };
    let (content, end) = whole.split_at_checked(total).ok_or(Malformed)?;
    let (head, payload) = content.split_at_checked(headers).ok_or(Malformed)?;
    if end != b"\r\n" {
        return Err(Malformed);
    }
    let status = if with_headers { status(head)? } else { None };
    Ok(Some((Op::Msg { subject: subject.to_owned(), status, payload: payload.to_vec() }, after + total + 2)))
}

/// Of `NATS/1.0 503 No Responders`.
fn status(head: &[u8]) -> Result<Option<String>, Malformed> {
    let first = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let first = std::str::from_utf8(first).map_err(|_| Malformed)?;
    let rest = first.strip_prefix("NATS/1.0").ok_or(Malformed)?;
    Ok(rest.split_ascii_whitespace().next().map(str::to_owned))
}

/// A message whose answer is to come to `reply`: HPUB. The second part: the bytes of its headers and body, which the server has a limit for.
pub fn publish(message: &Message, reply: &str) -> (Vec<u8>, usize) {
    let mut head = String::from("NATS/1.0\r\n");
    for (name, value) in &message.headers {
        head.push_str(name);
        head.push_str(": ");
        // Nobody's text may begin a header of its own.
        head.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }));
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    let total = head.len() + message.body.len();
    let mut out = format!("HPUB {} {reply} {} {total}\r\n{head}", message.address, head.len()).into_bytes();
    out.extend_from_slice(&message.body);
    out.extend_from_slice(b"\r\n");
    (out, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut bytes: &[u8]) -> Result<Vec<Op>, Malformed> {
        let mut ops = Vec::new();
        while let Some((op, length)) = read(bytes)? {
            assert!(length > 0);
            ops.push(op);
            bytes = &bytes[length..];
        }
        Ok(ops)
    }

    const TALK: &[u8] = b"INFO {\"server_id\":\"x\",\"max_payload\":1048576} \r\n+OK\r\nPING\r\nPong\r\n\
        MSG _INBOX.a.1 1 26\r\n{\"stream\":\"LEADS\",\"seq\":1}\r\n\
        HMSG _INBOX.a.2 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n\
        HMSG _INBOX.a.3 1 back 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n\
        -ERR 'Authorization Violation'\r\n";

    fn talked() -> Vec<Op> {
        let message = |subject: &str, status: Option<&str>, payload: &[u8]| Op::Msg {
            subject: subject.to_owned(),
            status: status.map(str::to_owned),
            payload: payload.to_vec(),
        };
        vec![
            Op::Info(b"{\"server_id\":\"x\",\"max_payload\":1048576}".to_vec()),
            Op::Ok,
            Op::Ping,
            Op::Pong,
            message("_INBOX.a.1", None, b"{\"stream\":\"LEADS\",\"seq\":1}"),
            message("_INBOX.a.2", Some("503"), b""),
            message("_INBOX.a.3", None, b"hi"),
            Op::Err("Authorization Violation".to_owned()),
        ]
    }

    #[test]
    fn what_a_server_says_is_read_wherever_it_is_cut() {
        assert_eq!(all(TALK), Ok(talked()));
        for cut in 0..TALK.len() {
            let before = all(&TALK[..cut]).unwrap();
            assert!(talked().starts_with(&before), "{cut}");
        }
    }

    #[test]
    fn what_is_not_this_protocol_is_refused() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"MSG a\r\n",
            b"MSG a 1 x\r\n",
            b"MSG a 1 -1\r\n",
            b"MSG a 1 99999999999999999999\r\n",
            b"MSG a 1 2\r\nabcd\r\n",
            b"HMSG a 1 5 4\r\nabcd\r\n",
            b"HMSG a 1 4 4\r\nabcd\r\n",
            b"MSG \xff 1 2\r\nab\r\n",
        ] {
            assert_eq!(read(bytes), Err(Malformed), "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(read(&vec![b'x'; LINE_BYTES_MAX + 1]), Err(Malformed));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..50_000 {
            let mut bytes = TALK.to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                match random.u8(..3) {
                    0 => bytes[at] = random.u8(..),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, random.u8(..)),
                }
            }
            let _ = all(&bytes[random.usize(..bytes.len())..]);
        }
    }

    #[test]
    fn a_message_is_written_with_its_lengths_and_no_header_but_its_own() {
        let message = Message {
            address: "leads.a".to_owned(),
            headers: vec![("Nats-Msg-Id".to_owned(), "evt_1\r\nX: y".to_owned())],
            body: "né".as_bytes().to_vec(),
            ..Message::default()
        };
        let (bytes, total) = publish(&message, "_INBOX.a.1");
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(total, 41);
        assert_eq!(text, "HPUB leads.a _INBOX.a.1 38 41\r\nNATS/1.0\r\nNats-Msg-Id: evt_1  X: y\r\n\r\nné\r\n");
    }
}

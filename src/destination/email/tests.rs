use super::super::{Class, Failure, Identity, Judgement, Reply, Unanswered};
use super::*;
use crate::time::Tick;

const EVENT: &str = r#"{"id":"evt_0000000000000000000000000A","event":"lead.created","created_at":"2026-11-23T12:00:00.123Z","data":{"id":"lead_0000000000000000000000000A","name":"Zoë Smith","email":"zoe@example.com","phone":"+43 664 1234567","company":"Größe & Co","message":"Please call.\r\n.\r\nThanks","score":88,"source":"booth-a","status":"new","fields":{"interest":"<b>solar</b>"},"consent":null},"context":{"device":{"id":"kiosk-7","site":"Hall 3"},"channel":"form","clock":"trusted"}}"#;

fn email() -> Email {
    Email {
        shown: "smtp://mail.example.com:587".to_owned(),
        from: mailbox("Kiosk in hall 3 <kiosk@example.com>").unwrap(),
        to: vec![mailbox("sales@example.com").unwrap(), mailbox("Böhm, Ina <ina@example.com>").unwrap()],
        cc: vec![mailbox("archive@example.com").unwrap(), mailbox("sales@example.com").unwrap()],
        reply_to: ReplyTo::Lead,
        subject: Template::new("subject", SUBJECT).unwrap(),
        text: Template::new("text", TEXT).unwrap(),
        html: Some(Template::html("html", HTML).unwrap()),
        digest: None,
    }
}

fn digest() -> Email {
    let subject = Template::new("digest_subject", DIGEST_SUBJECT).unwrap();
    Email { digest: Some(Digest { linger: Duration::from_secs(3600), events_max: 50, subject }), ..email() }
}

fn moment() -> Moment {
    Moment { wall: Wall(0), tick: Tick::ZERO, clock_trusted: true, vouched: false }
}

const ID: &str = "evt_0000000000000000000000000A";

fn identity(event_id: &str) -> Identity<'_> {
    Identity { event_id, kind: "lead.created", destination: "sales" }
}

fn render(email: &Email, event_id: &str, event: &str) -> Vec<u8> {
    email.render(&Incoming { identity: identity(event_id), bytes: event.as_bytes() }).unwrap().unwrap()
}

fn record<'a>(event_id: &'a str, body: &'a [u8]) -> Record<'a> {
    Record { identity: identity(event_id), body, event: None, attempt: 1 }
}

fn sent(email: &Email, records: &[Record<'_>]) -> MailRequest {
    match email.next(records, &[], &moment(), &mut Memory::default()).unwrap() {
        Next::Send(Request::Mail(mail)) => *mail,
        other => panic!("{other:?}"),
    }
}

fn mail(event: &str) -> String {
    String::from_utf8(render(&email(), ID, event)).unwrap()
}

/// The names of the headers, in order.
fn names(mail: &str) -> Vec<&str> {
    let head = mail.split("\r\n\r\n").next().unwrap();
    head.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])).map(|line| line.split(':').next().unwrap()).collect()
}

#[test]
fn a_lead_is_a_mail_with_the_same_bytes_whenever_it_is_made() {
    let mail = mail(EVENT);
    let expected = include_str!("lead.eml").replace('\n', "\r\n");
    assert_eq!(mail, expected, "{mail}");
    assert_eq!(render(&email(), ID, EVENT), mail.as_bytes());
}

#[test]
fn everything_is_ascii_in_lines_that_every_server_takes() {
    let long = format!("{} {}", "é".repeat(5000), "x".repeat(5000));
    for event in
        [EVENT.to_owned(), EVENT.replace("Zoë Smith", &long), EVENT.replace("Please call.", &long), EVENT.replace("booth-a", &long)]
    {
        let mail = mail(&event);
        assert!(mail.is_ascii());
        assert!(mail.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])), "{mail}");
    }
}

#[test]
fn nothing_a_visitor_typed_becomes_a_header_or_markup() {
    let plain = mail(EVENT);
    for evil in [
        r"Eve\r\nBcc: all@example.org",
        r"Eve\nBcc: all@example.org\n\n<html>",
        r"Eve\rBcc: all@example.org",
        r"Eve\u2028Bcc: all@example.org\u0085X: y\u0000\u000b\u000c",
        r"=?utf-8?q?=0D=0ABcc:_all@example.org?=",
        r"\r\n.\r\nMAIL FROM:<eve@example.org>",
        r"<script>alert(1)</script>{{ 7*7 }}{% raw %}",
        r#"\" onload=\"x"#,
    ] {
        for place in ["Zoë Smith", "Größe & Co", "booth-a", "Please call.", "kiosk-7", "+43 664 1234567", "zoe@example.com", "<b>solar</b>"]
        {
            let mail = mail(&EVENT.replace(place, evil));
            let expected: Vec<&str> = names(&plain).into_iter().filter(|name| *name != "Reply-To" || names(&mail).contains(name)).collect();
            assert_eq!(names(&mail), expected, "{evil} for {place}\n{mail}");
            let html = mail.split("Content-Type: text/html").nth(1).unwrap();
            assert!(!html.contains("<script>") && !html.contains("<b>solar"), "{mail}");
            let subject = mail.split("\r\n").find(|line| line.starts_with("Subject:")).unwrap();
            assert!(!subject.contains("=?utf-8?q?=0D"), "{subject}");
            let request = sent(&email(), &[record(ID, mail.as_bytes())]);
            assert_eq!(request.to, ["sales@example.com", "ina@example.com", "archive@example.com"]);
        }
    }
}

#[test]
fn an_address_that_cannot_be_answered_is_no_reply_to() {
    let reply_to = |address: &str| {
        let mail = mail(&EVENT.replace("zoe@example.com", address));
        mail.split("\r\n").find_map(|line| line.strip_prefix("Reply-To: ").map(str::to_owned))
    };
    assert_eq!(reply_to("zoe@example.com").as_deref(), Some("zoe@example.com"));
    for unusable in ["zoë@example.com", "zoe@exämple.com", "a@b@c", "no address", r"a\r\nb@example.com", "\\\"a b\\\"@example.com", ""] {
        assert_eq!(reply_to(unusable), None, "{unusable}");
    }
    let to_sender = Email { reply_to: ReplyTo::Sender, ..email() };
    assert!(!String::from_utf8(render(&to_sender, ID, EVENT)).unwrap().contains("Reply-To"));
    let fixed = Email { reply_to: ReplyTo::Fixed(mailbox("desk@example.com").unwrap()), ..email() };
    assert!(String::from_utf8(render(&fixed, ID, EVENT)).unwrap().contains("Reply-To: desk@example.com\r\n"));
}

#[test]
fn several_leads_are_one_mail_whose_id_tells_which() {
    let digest = digest();
    let ids: Vec<String> = (0..20).map(|n| format!("evt_000000000000000000000000{n:02}")).collect();
    let bodies: Vec<Vec<u8>> =
        ids.iter().enumerate().map(|(n, id)| render(&digest, id, &EVENT.replace("Zoë Smith", &format!("Visitor <{n}>")))).collect();
    let records: Vec<Record<'_>> = ids.iter().zip(&bodies).map(|(id, body)| record(id, body)).collect();
    let request = sent(&digest, &records);
    assert_eq!(sent(&digest, &records), request, "an attempt more is the same mail");
    let mail = String::from_utf8(request.message).unwrap();
    assert!(mail.contains("Subject: 20 new leads\r\n"), "{mail}");
    assert!(mail.contains("Visitor &lt;7&gt;") && mail.contains("Visitor <19>") && !mail.contains("Reply-To"), "{mail}");
    let id = |records: &[Record<'_>]| {
        let mail = String::from_utf8(sent(&digest, records).message).unwrap();
        mail.split("\r\n").next().unwrap().to_owned()
    };
    assert!(id(&records).starts_with("Message-ID: <digest_"));
    assert_ne!(id(&records), id(&records[1..]));
    assert!(id(&records[..1]).starts_with("Message-ID: <evt_00000000000000000000000000."), "one alone is a mail of its own");
    assert_eq!(digest.batch(), Batch { records: 50, bytes: 1 << 20, linger: Duration::from_secs(3600) });
}

#[test]
fn what_was_made_before_the_kind_of_mail_changed_is_sent_all_the_same() {
    let whole = render(&email(), ID, EVENT);
    assert_eq!(sent(&digest(), &[record(ID, &whole)]).message, whole);
    let piece = render(&digest(), ID, EVENT);
    assert_eq!(sent(&email(), &[record(ID, &piece)]).message, whole);
    // In company it is made anew, if its event can still be read; else the exchange fails and each goes by itself.
    let other = record("evt_0000000000000000000000000B", &piece);
    let with_event = Record { event: Some(EVENT.as_bytes()), ..record(ID, &whole) };
    assert!(String::from_utf8(sent(&digest(), &[with_event, other.clone()]).message).unwrap().contains("Subject: 2 new leads"));
    assert!(digest().next(&[record(ID, &whole), other], &[], &moment(), &mut Memory::default()).is_err());
}

#[test]
fn every_kind_of_event_has_a_mail() {
    use crate::event::{Context, Draft, Kind};
    for kind in Kind::ALL {
        let draft = Draft::sample(kind, Wall(1_795_435_200_000), &Context::default()).unwrap();
        let piece = email().piece(draft.bytes()).unwrap();
        assert!(!piece.subject.is_empty() && !piece.subject.contains("none"), "{piece:?}");
        assert!(!piece.text.contains("undefined") && piece.text.contains(kind.name()), "{}", piece.text);
        assert!(piece.html.unwrap().contains("<td"), "{}", piece.text);
    }
}

#[test]
fn fields_of_every_shape_are_told_in_words() {
    let fields = r#"{"vip":true,"no":false,"topics":["a <b>","c"],"n":1.5,"deep":{"x":["<y>"]},"none":null}"#;
    let piece = email().piece(EVENT.replace(r#"{"interest":"<b>solar</b>"}"#, fields).as_bytes()).unwrap();
    assert!(
        piece.text.contains("vip: yes\nno: no\ntopics: a <b>, c\nn: 1.5\ndeep: {\"x\": [\"") && !piece.text.contains("none:"),
        "{}",
        piece.text
    );
    let html = piece.html.unwrap();
    for cell in [">yes</td>", ">no</td>", ">a &lt;b&gt;, c</td>", ">1.5</td>"] {
        assert!(html.contains(cell), "{html}");
    }
    assert!(!html.contains("<y>"), "{html}");
}

#[test]
fn what_is_too_long_is_cut() {
    let long = Email {
        text: Template::new("text", "{{ data.message }}").unwrap(),
        html: Some(Template::html("html", "{{ data.message }}").unwrap()),
        ..email()
    };
    let piece = long.piece(EVENT.replace("Please call.", &"é".repeat(200_000)).as_bytes()).unwrap();
    assert!(piece.text.len() < TEXT_BYTES_MAX + 10 && piece.text.ends_with("é…\n"));
    assert_eq!(piece.html, None);
}

#[test]
fn addresses_are_taken_as_people_write_them() {
    for (text, address) in [
        ("jane@example.com", "jane@example.com"),
        (" Jane Smith <jane@example.com> ", "jane@example.com"),
        ("\"Smith, Jane\" <jane+x@example.com>", "jane+x@example.com"),
        ("jane@[192.0.2.1]", "jane@[192.0.2.1]"),
    ] {
        assert_eq!(mailbox(text).map(|m| m.email.to_string()).as_deref(), Some(address), "{text}");
    }
    for text in [
        "",
        "jane",
        "jane@",
        "a@example.com, b@example.com",
        "A <a@example.com>, B <b@example.com>",
        "jäne@example.com",
        "a\r\n@example.com",
    ] {
        assert_eq!(mailbox(text), None, "{text}");
    }
}

/// One table of answers.
#[test]
fn every_answer_has_its_class() {
    use Class::*;
    let replies = |list: &[(&str, &str)]| {
        Answer::Replies(list.iter().map(|(code, text)| Reply { code: (*code).to_owned(), text: (*text).to_owned() }).collect())
    };
    let judged = |answer: Answer| match email().next(&[record(ID, b"x")], &[answer], &moment(), &mut Memory::default()).unwrap() {
        Next::Judged(Judgement::All(verdict)) => verdict,
        other => panic!("{other:?}"),
    };
    for (code, text, class, word) in [
        ("DATA 250", "2.0.0 queued as 4F1", Delivered, "delivered"),
        ("DATA 354", "go ahead", Temporary, "protocol_error"),
        ("DATA 399", "no 354 after DATA", Temporary, "protocol_error"),
        ("EHLO 421", "4.3.2 shutting down", Temporary, "receiver_4xx"),
        ("EHLO 554", "5.7.1 your address is blocked", Refused, "receiver_5xx"),
        ("STARTTLS 454", "4.7.0 TLS not available", Temporary, "receiver_4xx"),
        ("STARTTLS 501", "not here", Refused, "receiver_5xx"),
        ("AUTH 535", "5.7.8 authentication failed", Refused, "receiver_5xx"),
        ("AUTH 534", "5.7.9 application-specific password required", Refused, "receiver_5xx"),
        ("AUTH 454", "4.7.0 try later", Temporary, "receiver_4xx"),
        ("MAIL 530", "5.7.0 authentication required", Refused, "receiver_5xx"),
        ("MAIL 550", "5.7.1 sender not owned by user", Refused, "receiver_5xx"),
        ("MAIL 552", "5.3.4 too big", Rejected, "rejected_body"),
        ("MAIL 451", "4.3.0 local error", Temporary, "receiver_4xx"),
        ("MAIL 421", "4.7.0 too many connections", Throttled, "throttled"),
        ("MAIL 550", "5.4.5 Daily user sending limit exceeded", Throttled, "throttled"),
        ("RCPT 450", "<a@b.example> 4.2.0 greylisted", Temporary, "receiver_4xx"),
        ("RCPT 451", "<a@b.example> 4.7.1 try again", Temporary, "receiver_4xx"),
        ("RCPT 452", "<a@b.example> 4.2.2 mailbox full", Temporary, "receiver_4xx"),
        ("RCPT 450", "<a@b.example> 4.7.1 rate limit", Throttled, "throttled"),
        ("MAIL 421", "4.7.0 Our system has detected an unusual rate of unsolicited mail", Throttled, "throttled"),
        ("RCPT 450", "<a@b.example> 4.2.1 The user is receiving mail too quickly", Throttled, "throttled"),
        ("MAIL 550", "5.7.30 Basic authentication is not supported for Client Submission.", Refused, "receiver_5xx"),
        ("RCPT 550", "<a@b.example> 5.1.1 no such user", Refused, "receiver_5xx"),
        ("RCPT 554", "<a@b.example> 5.7.1 relay access denied", Refused, "receiver_5xx"),
        ("RCPT 530", "<a@b.example> login first", Refused, "receiver_5xx"),
        ("DATA 550", "5.7.1 looks like spam", Rejected, "rejected_body"),
        ("DATA 552", "5.3.4 too big", Rejected, "rejected_body"),
        ("DATA 554", "5.6.0 bad content", Rejected, "rejected_body"),
        ("DATA 550", "5.7.26 unauthenticated mail", Refused, "receiver_5xx"),
        ("DATA 530", "5.7.0 login first", Refused, "receiver_5xx"),
        ("DATA 451", "4.7.1 later", Temporary, "receiver_4xx"),
        ("DATA 421", "4.7.28 unusual rate of mail", Throttled, "throttled"),
        ("FROB 250", "", Internal, "internal"),
        ("250", "", Internal, "internal"),
    ] {
        let verdict = judged(replies(&[(code, text)]));
        assert_eq!((verdict.class, verdict.code), (class, word), "{code} {text}");
        assert!(!verdict.reason.contains(text) || text.is_empty(), "the answer may repeat what a lead said: {}", verdict.reason);
    }
    // Some recipients of several.
    let no = ("RCPT 550", "<a@b.example> 5.1.1 no such user");
    let later = ("RCPT 451", "<c@b.example> 4.7.1 greylisted");
    let taken = judged(replies(&[no, ("DATA 250", "ok")]));
    assert_eq!(taken.class, Delivered);
    assert!(taken.reason.contains("1 of the recipients did not take it"), "{}", taken.reason);
    assert_eq!(judged(replies(&[no, later])).class, Temporary);
    assert_eq!(judged(replies(&[later, no])).class, Temporary);
    assert_eq!(judged(replies(&[no, no])).class, Refused);
    assert_eq!(judged(replies(&[no, ("DATA 554", "spam")])).class, Rejected);

    for (kind, detail, class, word) in [
        (Failure::Dns, "", Offline, "dns_error"),
        (Failure::Refused, "", Offline, "connection_refused"),
        (Failure::Unreachable, "", Offline, "network_unreachable"),
        (Failure::ConnectTimeout, "", Offline, "timeout"),
        (Failure::Tls, "invalid peer certificate: Expired", Refused, "tls_error"),
        (Failure::Tls, "received corrupt message of type InvalidContentType", Refused, "tls_error"),
        (Failure::Tls, NO_STARTTLS, Refused, "tls_error"),
        (Failure::Protocol, NO_LOGIN, Refused, "protocol_error"),
        (Failure::Protocol, "", Temporary, "protocol_error"),
        (Failure::Reset, "", Temporary, "connection_reset"),
        (Failure::Timeout, "", Temporary, "timeout"),
        (Failure::Timeout, &format!("{HANDED_OVER}: timed out"), Temporary, "timeout"),
        (Failure::Reset, &format!("{HANDED_OVER}: reset"), Temporary, "connection_reset"),
        (Failure::PublicHttp, "", Refused, "plain_http"),
    ] {
        let verdict = judged(Unanswered { kind, detail: detail.to_owned() }.into());
        assert_eq!((verdict.class, verdict.code), (class, word), "{kind:?} {detail}");
        assert_eq!(verdict.reason.contains("may arrive twice"), detail.starts_with(HANDED_OVER), "{}", verdict.reason);
        assert!(!verdict.reason.contains("HTTP") && !verdict.reason.contains("https"), "{}", verdict.reason);
    }
    let unsure = Moment { clock_trusted: false, ..moment() };
    let answer = Unanswered { kind: Failure::Tls, detail: "invalid peer certificate: NotValidYet".to_owned() }.into();
    assert_eq!(reply::judge(&answer, &unsure).class, Clock);
    let answer = Unanswered { kind: Failure::Tls, detail: NO_STARTTLS.to_owned() }.into();
    assert_eq!(reply::judge(&answer, &unsure).class, Refused, "a server without TLS is not the clock's fault");
}

#[test]
fn recipients_are_waited_for_and_not_for_ever() {
    let whole = render(&email(), ID, EVENT);
    assert!(sent(&email(), &[record(ID, &whole)]).all_or_none);
    assert!(!sent(&email(), &[Record { attempt: PATIENT_ATTEMPTS + 1, ..record(ID, &whole) }]).all_or_none);
}

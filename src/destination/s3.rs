//! The `s3` type: objects of JSON lines in a bucket of any store that speaks Amazon S3's protocol. Pure.
//!
//! An object's name is made of what it holds, so that the same events always overwrite the same object. It must never show a signed
//! URL: whoever has it can write that object while it is valid.

use super::row::unreadable;
use super::{Answer, Batch, Class, Connector, HttpRequest, Incoming, Judgement, Memory, Moment, Next, Record, Response, Verdict};
use super::{judge, place, printable};
use crate::mapping::{Event, MappingError, Shape, Template};
use crate::secret::Hidden;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use jiff_of_s3::Timestamp;
use md5::Md5;
use rusty_s3::{Bucket, Credentials, S3Action};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::Duration;

/// How long a signed request may be on its way.
const VALID: Duration = Duration::from_secs(900);
/// Bytes of an object's key (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html).
pub const KEY_BYTES_MAX: usize = 1024;
/// Objects that one exchange may put; events of more folders than that wait for the next one.
const OBJECTS_MAX: usize = 12;

/// A bucket.
#[derive(Debug)]
pub struct S3 {
    /// The bucket, with its endpoint and region.
    pub bucket: Bucket,
    /// The access key's id.
    pub access_key: Hidden,
    /// The secret access key.
    pub secret_key: Hidden,
    /// The folder an event's object goes into.
    pub folder: Template,
    /// What a line is, instead of the event.
    pub map: Option<Shape>,
    /// `Content-Type` of the objects.
    pub content_type: String,
    /// `x-amz-server-side-encryption`.
    pub encryption: Option<String>,
    /// How many events an object holds, at most.
    pub batch: Batch,
}

/// Some of the records, by their places, and the folder they go into.
struct Object {
    folder: String,
    records: Vec<usize>,
}

impl Connector for S3 {
    fn kind(&self) -> &'static str {
        "s3"
    }

    fn place(&self) -> String {
        place(self.bucket.base_url())
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        if let Some(map) = &self.map {
            let line = map.render(&Event::parse(incoming.bytes)?)?;
            return serde_json::to_vec(&line).map(Some).map_err(|e| unreadable(&e));
        }
        // In JSON a line end can only stand between tokens.
        let broken = incoming.bytes.iter().any(|b| matches!(b, b'\n' | b'\r'));
        Ok(broken.then(|| incoming.bytes.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }).collect()))
    }

    fn batch(&self) -> Batch {
        self.batch
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        let objects = self.objects(records)?;
        // Where nobody answers, the other objects need not be tried.
        let unanswered = matches!(said.last(), Some(Answer::Failure { .. }));
        if let (Some(object), false) = (objects.get(said.len()).filter(|_| said.len() < OBJECTS_MAX), unanswered) {
            return Ok(self.request(object, records, moment)?.send());
        }
        let judged: Vec<Verdict> = said.iter().map(|answer| self.judged(answer, moment)).collect();
        if let [one] = judged.as_slice()
            && objects.len() == 1
        {
            return Ok(one.clone().into());
        }
        let rest = match (unanswered, judged.last()) {
            (true, Some(last)) => last.clone(),
            _ => Verdict::new(Class::Temporary, "receiver_5xx", "too many folders for one exchange; it goes with the next"),
        };
        let verdict_of = |place: usize| {
            let object = objects.iter().position(|object| object.records.contains(&place));
            object.and_then(|n| judged.get(n)).cloned().unwrap_or_else(|| rest.clone())
        };
        Ok(Next::Judged(Judgement::Each((0..records.len()).map(verdict_of).collect())))
    }
}

impl S3 {
    /// What goes into which object. The folder is always that of the event itself, which never changes.
    fn objects(&self, records: &[Record<'_>]) -> Result<Vec<Object>, MappingError> {
        let mut objects: Vec<Object> = Vec::new();
        for (place, record) in records.iter().enumerate() {
            let event = Event::parse(record.event.unwrap_or(record.body))?;
            let folder = self.folder.render(&event)?;
            let folder = folder.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect::<Vec<_>>().join("/");
            match objects.iter_mut().find(|object| object.folder == folder) {
                Some(object) => object.records.push(place),
                None => objects.push(Object { folder, records: vec![place] }),
            }
        }
        Ok(objects)
    }

    fn request(&self, object: &Object, records: &[Record<'_>], moment: &Moment) -> Result<HttpRequest, MappingError> {
        let (mut body, mut ids) = (Vec::new(), Sha256::new());
        for record in object.records.iter().filter_map(|place| records.get(*place)) {
            body.extend_from_slice(record.body);
            body.push(b'\n');
            ids.update(record.identity.event_id);
            ids.update(b"\n");
        }
        let name = ids.finalize().iter().take(16).fold(String::new(), |mut out, byte| {
            // Writing to a String cannot fail.
            let _ = write!(out, "{byte:02x}");
            out
        });
        let key = if object.folder.is_empty() { format!("{name}.jsonl") } else { format!("{}/{name}.jsonl", object.folder) };
        if key.len() > KEY_BYTES_MAX {
            return Err(MappingError { at: "folder".to_owned(), message: format!("makes a key of more than {KEY_BYTES_MAX} bytes") });
        }
        let mut headers = vec![("content-md5".to_owned(), STANDARD.encode(Md5::digest(&body)))];
        headers.extend(self.encryption.iter().map(|how| ("x-amz-server-side-encryption".to_owned(), how.clone())));
        let credentials = Credentials::new(self.access_key.0.as_str(), self.secret_key.0.as_str());
        let mut action = self.bucket.put_object(Some(&credentials), &key);
        action.headers_mut().insert("content-type", self.content_type.as_str());
        for (name, value) in &headers {
            action.headers_mut().insert(name.as_str(), value.as_str());
        }
        let now = Timestamp::from_millisecond(moment.wall.0).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut request = HttpRequest::new(Method::PUT, action.sign_with_time(VALID, &now)).body(&self.content_type, body);
        request.shown = self.bucket.object_url(&key).to_string();
        request.headers.extend(headers);
        Ok(request)
    }

    fn judged(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let verdict = judge(self.bucket.base_url(), answer, moment);
        match answer {
            Answer::Response(response) => refined(verdict, response),
            _ => verdict,
        }
    }
}

/// What stands between two marks.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    Some(text.split_once(from)?.1.split_once(to)?.0)
}

/// The codes are those of https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
fn refined(verdict: Verdict, response: &Response) -> Verdict {
    let body = String::from_utf8_lossy(&response.body);
    let Some(error) = between(&body, "<Error>", "</Error>") else { return verdict };
    let code = between(error, "<Code>", "</Code>").unwrap_or_default();
    // A signed URL that is too old or from the future is an AccessDenied like any other, but for its words.
    let message = between(error, "<Message>", "</Message>").unwrap_or_default();
    let of_time = matches!(message, "Request has expired" | "Request is not valid yet") || message.starts_with("Request is not yet valid");
    let refused = |what: &str| (Class::Refused, "receiver_4xx", format!("{code}: {what}"));
    let (class, word, reason) = match code {
        "RequestTimeTooSkewed" | "RequestExpired" | "ExpiredPresignRequest" => clock(code),
        "AccessDenied" if of_time => clock(code),
        // The status alone was judged while the clock may be wrong; a code that names another cause is surer.
        "NoSuchBucket" => refused("there is no such bucket; make it, or compare bucket, region and url"),
        "InvalidAccessKeyId" => refused("the store does not know access_key"),
        "SignatureDoesNotMatch" => refused("the signature is wrong; compare the secret key, region and url"),
        "AccessDenied" | "AllAccessDisabled" => refused("this key may not write there; give it s3:PutObject on the bucket"),
        "AccountProblem" | "NotSignedUp" | "InvalidPayer" => refused("something is wrong with the account"),
        "ExpiredToken" | "InvalidToken" => refused("the key has expired; make a new one"),
        "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "AuthorizationQueryParametersError"
        | "IllegalLocationConstraintException" => refused("the bucket is in another region; compare region and url"),
        "InvalidBucketName" => refused("the bucket's name is not possible"),
        "NotImplemented" | "MethodNotAllowed" | "InvalidEncryptionAlgorithmError" => {
            refused("the store does not offer that; compare encryption and url")
        }
        "SlowDown" | "TooManyRequests" | "RequestLimitExceeded" | "Throttling" => {
            (Class::Throttled, "throttled", format!("{code}: the store asks to slow down"))
        }
        "BadDigest" | "InvalidDigest" | "IncompleteBody" | "RequestTimeout" | "OperationAborted" => {
            (Class::Temporary, "receiver_4xx", format!("{code}: the object was damaged or cut off on its way"))
        }
        "InternalError" | "ServiceUnavailable" => (Class::Temporary, "receiver_5xx", format!("{code}: the store is not well")),
        _ => return verdict,
    };
    Verdict { class, code: word, reason, answer: printable(&response.body), ..verdict }
}

fn clock(code: &str) -> (Class, &'static str, String) {
    (Class::Clock, "clock", format!("{code}: the store says that this device's clock is wrong; waiting for the clock"))
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::{EVENT, ID, incoming, shape};
    use super::super::{Failure, Identity, Request};
    use super::*;
    use crate::time::{Tick, Wall};
    use rusty_s3::UrlStyle;

    fn connector(map: Option<Shape>) -> S3 {
        S3 {
            bucket: Bucket::new("https://s3.example".parse().unwrap(), UrlStyle::Path, "leads", "eu-central-1").unwrap(),
            access_key: Hidden("AKIAIOSFODNN7EXAMPLE".to_owned()),
            secret_key: Hidden("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
            folder: Template::new("folder", "/kiosk//{{ created_at | date('%Y/%m/%d') }}/../").unwrap(),
            map,
            content_type: "application/x-ndjson".to_owned(),
            encryption: Some("AES256".to_owned()),
            batch: Batch::of(200),
        }
    }

    /// Noon of 2026-11-23.
    fn moment(clock_trusted: bool) -> Moment {
        Moment { wall: Wall(1_795_435_200_000), tick: Tick::ZERO, clock_trusted, vouched: false }
    }

    fn record<'a>(id: &'a str, body: &'a [u8], event: &'a [u8]) -> Record<'a> {
        Record { identity: Identity { event_id: id, kind: "lead.created", destination: "s3" }, body, event: Some(event), attempt: 1 }
    }

    fn next(connector: &S3, records: &[Record<'_>], said: &[Answer]) -> Next {
        connector.next(records, said, &moment(true), &mut Memory::default()).unwrap()
    }

    fn request(next: Next) -> HttpRequest {
        match next {
            Next::Send(Request::Http(request)) => *request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_object_is_named_by_what_it_holds_and_its_signature_is_shown_to_nobody() {
        let made = connector(Some(shape(&[("n", "data.name")])));
        let body = made.render(&incoming()).unwrap().unwrap();
        let records = [record(ID, &body, EVENT), record("evt_2", b"{}", EVENT)];
        let asked = request(next(&made, &records, &[]));
        assert_eq!(asked.method, Method::PUT);
        assert_eq!(asked.body, b"{\"n\":\"Jane \\\"J\\\" Smith\"}\n{}\n");
        assert_eq!(asked.shown, "https://s3.example/leads/kiosk/2026/11/23/2b362bae28b838c90ec5286800b9105c.jsonl");
        assert_eq!(asked.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect::<Vec<_>>()[..1], ["Content-Type: application/x-ndjson"]);
        assert_eq!(asked.value_of("x-amz-server-side-encryption"), Some("AES256"));
        let query: Vec<(String, String)> = asked.url.query_pairs().into_owned().collect();
        let value = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(value("X-Amz-Date"), Some("20261123T120000Z"));
        assert_eq!(value("X-Amz-Credential"), Some("AKIAIOSFODNN7EXAMPLE/20261123/eu-central-1/s3/aws4_request"));
        assert_eq!(value("X-Amz-SignedHeaders"), Some("content-md5;content-type;host;x-amz-server-side-encryption"));
        assert_eq!(request(next(&made, &records, &[])).url, asked.url, "a retry puts the same object");
        let shown = format!("{:?}{made:?}", Request::Http(Box::new(asked.clone())).shown());
        for secret in ["AKIA", "wJalr", "X-Amz"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn events_of_another_folder_go_into_another_object_and_each_is_judged() {
        let made = connector(None);
        let later = br#"{"id":"evt_2","created_at":"2026-11-24T12:00:00.000Z"}"#;
        let records = [record(ID, EVENT, EVENT), record("evt_2", later, later), record("evt_3", EVENT, EVENT)];
        let first = request(next(&made, &records, &[]));
        assert_eq!(first.body.iter().filter(|b| **b == b'\n').count(), 2);
        let ok = Answer::Response(Response { status: 200, ..Response::default() });
        let second = request(next(&made, &records, std::slice::from_ref(&ok)));
        assert!(second.shown.contains("/kiosk/2026/11/24/"), "{}", second.shown);
        let bad = Answer::Response(Response { status: 400, ..Response::default() });
        let Next::Judged(Judgement::Each(verdicts)) = next(&made, &records, &[ok, bad]) else { panic!("not judged") };
        assert_eq!(verdicts.iter().map(|v| v.class).collect::<Vec<_>>(), [Class::Delivered, Class::Rejected, Class::Delivered]);
        let down = Answer::Failure { kind: Failure::Refused, detail: String::new() };
        let Next::Judged(Judgement::Each(verdicts)) = next(&made, &records, &[down]) else { panic!("not judged") };
        assert!(verdicts.iter().all(|v| v.class == Class::Offline), "where nobody answers the second is not tried");
    }

    #[test]
    fn a_line_is_one_line_however_the_event_was_written() {
        let event = b"{\n  \"id\": \"evt_1\",\r\n  \"created_at\": \"2026-11-23T12:00:00.000Z\"\n}";
        let line = connector(None).render(&Incoming { bytes: event, ..incoming() }).unwrap().unwrap();
        assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
        assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
        assert_eq!(connector(None).render(&incoming()).unwrap(), None);
    }

    #[test]
    fn every_code_has_its_class() {
        use Class::*;
        for (status, code, message, class, word) in [
            (403, "RequestTimeTooSkewed", "The difference is too large", Clock, "clock"),
            (403, "AccessDenied", "Request has expired", Clock, "clock"),
            (403, "AccessDenied", "Access Denied", Refused, "receiver_4xx"),
            (403, "InvalidAccessKeyId", "", Refused, "receiver_4xx"),
            (403, "SignatureDoesNotMatch", "", Refused, "receiver_4xx"),
            (404, "NoSuchBucket", "", Refused, "receiver_4xx"),
            (301, "PermanentRedirect", "", Refused, "receiver_4xx"),
            (400, "AuthorizationHeaderMalformed", "", Refused, "receiver_4xx"),
            (400, "ExpiredToken", "", Refused, "receiver_4xx"),
            (501, "NotImplemented", "", Refused, "receiver_4xx"),
            (503, "SlowDown", "", Throttled, "throttled"),
            (503, "ServiceUnavailable", "", Temporary, "receiver_5xx"),
            (500, "InternalError", "", Temporary, "receiver_5xx"),
            (400, "RequestTimeout", "", Temporary, "receiver_4xx"),
            (400, "BadDigest", "", Temporary, "receiver_4xx"),
            (400, "EntityTooLarge", "", Rejected, "rejected_body"),
            (409, "NewCode", "", Rejected, "rejected_body"),
        ] {
            let body = format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>");
            let answer = Answer::Response(Response { status, body: body.into_bytes(), ..Response::default() });
            let verdict = connector(None).judged(&answer, &moment(true));
            assert_eq!((verdict.class, verdict.code, verdict.status), (class, word, Some(status)), "{code} {message}");
            if class == Refused {
                assert_eq!(connector(None).judged(&answer, &moment(false)).class, Refused, "{code} is not the clock's fault");
            }
        }
        let status = |status| connector(None).judged(&Answer::Response(Response { status, ..Response::default() }), &moment(true)).class;
        assert_eq!([status(200), status(403), status(503), status(507)], [Delivered, Refused, Temporary, Temporary]);
    }
}

//! The `telegram` type: a message of a bot. Pure.
//!
//! <https://core.telegram.org/bots/api#sendmessage>. The bot's token is part of the URL, which is shown to nobody.

use super::message::{Count, ECHO_BYTES, Message, by_status, cut, next_piece, rendered, response, seconds, with};
use super::{Answer, Class, Connector, HttpRequest, Incoming, Memory, Moment, Next, Record, Verdict, place};
use crate::mapping::{Chat, MappingError};
use crate::secret::Hidden;
use http::Method;
use serde_json::{Value, json};
use url::Url;

/// Characters of a message "after entities parsing".
const TEXT_MAX: usize = 4096;
/// Characters of a title that are worth reading.
const TITLE_MAX: usize = 250;

/// A chat of Telegram.
#[derive(Debug)]
pub struct Telegram {
    /// The Bot API, up to the part with the token.
    pub url: Url,
    /// The bot's token.
    pub token: Hidden,
    /// A chat's number or `@name`.
    pub chat: String,
    /// A topic of a forum.
    pub thread: Option<u64>,
    /// Without a sound.
    pub silent: bool,
    /// What is said.
    pub message: Message,
}

impl Connector for Telegram {
    fn kind(&self) -> &'static str {
        "telegram"
    }

    fn place(&self) -> String {
        place(&self.url)
    }

    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let said = self.message.render(incoming)?;
        let title = cut(&Chat::Telegram.escape(&said.title), TITLE_MAX, Count::Units, Some(Chat::Telegram));
        let whole = format!("<b>{title}</b>\n{}", said.text);
        let text = closed(cut(whole.trim_end(), TEXT_MAX, Count::Units, Some(Chat::Telegram)));
        Ok(rendered(&json!({ "text": text, "parse_mode": "HTML", "link_preview_options": { "is_disabled": true } })))
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], moment: &Moment, memory: &mut Memory) -> Result<Next, MappingError> {
        let Some(record) = records.first() else { return Err(MappingError::nothing()) };
        let Some(answer) = said.last() else { return self.request(record, memory) };
        match moved(answer) {
            // Once in an exchange: two chats that point at each other must not keep us.
            Some(chat) if said.len() == 1 => {
                memory.moved_to = Some(chat);
                self.request(record, memory)
            }
            _ => Ok(self.judged(answer, moment).into()),
        }
    }
}

impl Telegram {
    fn request(&self, record: &Record<'_>, memory: &Memory) -> Result<Next, MappingError> {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(&format!("bot{}", self.token.0)).push("sendMessage");
        }
        let chat = memory.moved_to.as_ref().unwrap_or(&self.chat);
        let mut first = vec![("chat_id", chat.parse::<i64>().map_or_else(|_| Value::from(chat.as_str()), Value::from))];
        if let Some(thread) = self.thread {
            first.push(("message_thread_id", thread.into()));
        }
        if self.silent {
            first.push(("disable_notification", true.into()));
        }
        let mut request = HttpRequest::new(Method::POST, url).body("application/json", with(&first, record.body)?);
        request.answer_bytes_max = ECHO_BYTES;
        Ok(request.send())
    }

    fn judged(&self, answer: &Answer, moment: &Moment) -> Verdict {
        let mut verdict = by_status(&self.url, answer, moment);
        let Some(response) = response(answer, &verdict) else { return verdict };
        let json = response.json().unwrap_or_default();
        let description = json.get("description").and_then(Value::as_str).unwrap_or_default().to_lowercase();
        let says = |what: &str| description.contains(what);
        match response.status {
            // An answer that was cut off has said the most important thing first.
            200..=299 if json.get("ok") == Some(&Value::from(true)) || response.body.starts_with(b"{\"ok\":true") => verdict,
            200..=299 => verdict.unexpected("a 2xx without Telegram's ok; is url the address of a Bot API?"),
            429 => {
                verdict.wait = seconds(json.pointer("/parameters/retry_after")).or(verdict.wait);
                verdict
            }
            401 | 404 => verdict.refused("Telegram does not know this bot; compare its token with the one from @BotFather"),
            403 => verdict.refused("the bot may not write to this chat: it was blocked or put out; add it again"),
            400 if says("too long") || says("text is empty") => {
                verdict.means(Class::Rejected, "rejected_body", "Telegram does not take this message for its length")
            }
            400 if says("parse entities") => verdict.refused("Telegram cannot read the HTML of text; check the tags that it writes itself"),
            400 if says("upgraded to a supergroup") => {
                verdict.refused("the group has become a supergroup and Telegram does not say which; put its new number into chat_id")
            }
            400 if says("thread not found") || says("topic") => {
                verdict.refused("the chat has no such topic, or it is closed; check thread_id")
            }
            400 if ["chat not found", "rights", "peer_id", "chat_id", "kicked", "deactivated", "chat_write_forbidden"]
                .into_iter()
                .any(says) =>
            {
                verdict.refused("the bot cannot write to this chat; check chat_id, and that the bot is in the chat and may write there")
            }
            _ => verdict,
        }
    }
}

/// `parameters.migrate_to_chat_id`: the group has become a supergroup with another number.
fn moved(answer: &Answer) -> Option<String> {
    let Answer::Response(response) = answer else { return None };
    if response.status != 400 {
        return None;
    }
    response.json()?.pointer("/parameters/migrate_to_chat_id")?.as_i64().map(|id| id.to_string())
}

/// With the tags closed that are open at the end: the text may have been cut between them.
fn closed(mut html: String) -> String {
    let mut open: Vec<String> = Vec::new();
    let mut rest = html.as_str();
    while let Some((piece, after)) = next_piece(rest, Some(Chat::Telegram)) {
        rest = after;
        let Some(tag) = piece.strip_prefix('<').and_then(|p| p.strip_suffix('>')) else { continue };
        match tag.strip_prefix('/') {
            Some(_) => drop(open.pop()),
            None => open.push(tag.split_whitespace().next().unwrap_or_default().to_owned()),
        }
    }
    for tag in open.into_iter().rev() {
        html.push_str(&format!("</{tag}>"));
    }
    html
}

#[cfg(test)]
mod tests {
    use super::super::{Judgement, trial};
    use super::*;
    use crate::event::Kind;
    use crate::mapping::Template;
    use std::time::Duration;

    fn telegram() -> Telegram {
        Telegram {
            url: Url::parse("https://api.telegram.org").unwrap(),
            token: Hidden("123:abc".into()),
            chat: "-100200300".into(),
            thread: None,
            silent: false,
            message: trial::message(Some(Chat::Telegram), ("<b>", "</b>"), "&gt; "),
        }
    }

    #[test]
    fn the_sample_lead_becomes_this_request() {
        let request = trial::request(&telegram(), &trial::event(Kind::LeadCreated));
        assert_eq!(request.url.as_str(), "https://api.telegram.org/bot123:abc/sendMessage");
        assert_eq!((request.method, request.shown.as_str()), (Method::POST, "https://api.telegram.org"));
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            r#"{"chat_id":-100200300,"text":"<b>New lead: Jane Smith</b>\n<b>Name:</b> Jane Smith\n<b>E-mail:</b> jane@example.com\n<b>Phone:</b> +1 555 0100\n<b>Company:</b> Example Ltd\n<b>Score:</b> 88\n<b>Source:</b> test\n<b>Form:</b> contact\n<b>Device:</b> kiosk-12, Hall 3\n<b>Time:</b> 2026-11-23 12:00 UTC\n<b>Message:</b>\n&gt; This is a test by leadsbotd. No person sent it.","parse_mode":"HTML","link_preview_options":{"is_disabled":true}}"#
        );
        let quiet = Telegram { chat: "@sales".into(), thread: Some(7), silent: true, ..telegram() };
        let body = trial::body(&quiet, &trial::event(Kind::LeadCreated));
        assert!(body.starts_with(r#"{"chat_id":"@sales","message_thread_id":7,"disable_notification":true,"text":"#), "{body}");
    }

    #[test]
    fn what_a_visitor_typed_mentions_nobody_and_brings_no_markup() {
        let evil = "<a href='https://evil.example'>Log in</a> @everybody /start j@x.example";
        let body = trial::body(&telegram(), &trial::lead(&[("/data/name", evil.into()), ("/data/message", evil.into())]));
        let body: Value = serde_json::from_str(&body).unwrap();
        let text = body["text"].as_str().unwrap();
        let harmless =
            "&lt;a href=&#39;https://evil.example&#39;&gt;Log in&lt;/\u{2060}a&gt; @\u{2060}everybody /\u{2060}start j@x.example";
        assert_eq!(text.matches(harmless).count(), 3, "{text}");
        assert!(!text.contains("<a"), "{text}");
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_and_stays_html() {
        let said = "<".repeat(9000);
        let bold = Template::chat("text", Chat::Telegram, "<b>x <i class=\"y\">{{ data.message }}</i></b>").unwrap();
        let message = Message { text: bold, ..telegram().message };
        let body = trial::body(&Telegram { message, ..telegram() }, &trial::lead(&[("/data/message", said.into())]));
        let body: Value = serde_json::from_str(&body).unwrap();
        let text = body["text"].as_str().unwrap();
        assert!(text.ends_with("&lt;…</i></b>"), "{text}");
        let shown = text.replace("&lt;", "<").replace("<i class=\"y\">", "").replace("</i>", "").replace("<b>", "").replace("</b>", "");
        assert_eq!(shown.encode_utf16().count(), TEXT_MAX);
    }

    #[test]
    fn a_group_that_has_become_a_supergroup_is_followed_at_once_and_remembered() {
        let (bot, mut memory) = (telegram(), Memory::default());
        let body = trial::render(&bot, &trial::event(Kind::LeadCreated));
        let upgraded = r#"{"ok":false,"error_code":400,"description":"Bad Request: group chat was upgraded to a supergroup chat","parameters":{"migrate_to_chat_id":-1001}}"#;
        let moved = trial::answer(400, upgraded);
        let again = trial::asked(trial::step(&bot, &body, std::slice::from_ref(&moved), &mut memory));
        assert!(String::from_utf8(again.body).unwrap().starts_with(r#"{"chat_id":-1001,"text""#));
        assert_eq!(memory.moved_to.as_deref(), Some("-1001"));
        let next = trial::asked(trial::step(&bot, &body, &[], &mut memory));
        assert!(String::from_utf8(next.body).unwrap().starts_with(r#"{"chat_id":-1001,"#), "the next delivery goes there at once");
        let said = [moved.clone(), moved];
        let Next::Judged(Judgement::All(verdict)) = trial::step(&bot, &body, &said, &mut memory) else { panic!("it goes on for ever") };
        assert_eq!(verdict.class, Class::Refused);
    }

    #[test]
    fn every_answer_has_its_meaning() {
        use Class::{Delivered, Refused, Rejected, Temporary, Throttled};
        trial::answers_mean(
            &telegram(),
            &[
                (200, r#"{"ok":true,"result":{"message_id":1}}"#, Delivered, "delivered", None),
                (200, r#"{"ok":true,"result":{"mess"#, Delivered, "delivered", None),
                (200, r#"{"ok":false}"#, Temporary, "protocol_error", None),
                (200, "", Temporary, "protocol_error", None),
                (400, r#"{"ok":false,"description":"Bad Request: chat not found"}"#, Refused, "receiver_4xx", None),
                (
                    400,
                    r#"{"ok":false,"description":"Bad Request: not enough rights to send text messages to the chat"}"#,
                    Refused,
                    "receiver_4xx",
                    None,
                ),
                (400, r#"{"ok":false,"description":"Bad Request: message thread not found"}"#, Refused, "receiver_4xx", None),
                (400, r#"{"ok":false,"description":"Bad Request: can't parse entities: …"}"#, Refused, "receiver_4xx", None),
                (400, r#"{"ok":false,"description":"Bad Request: message is too long"}"#, Rejected, "rejected_body", None),
                (400, r#"{"ok":false,"description":"Bad Request: something new"}"#, Rejected, "rejected_body", None),
                (401, r#"{"ok":false,"description":"Unauthorized"}"#, Refused, "receiver_4xx", None),
                (403, r#"{"ok":false,"description":"Forbidden: bot was blocked by the user"}"#, Refused, "receiver_4xx", None),
                (404, r#"{"ok":false,"description":"Not Found"}"#, Refused, "receiver_4xx", None),
                (429, r#"{"ok":false,"parameters":{"retry_after":35}}"#, Throttled, "throttled", Some(Duration::from_secs(35))),
                (502, "<html>", Temporary, "receiver_5xx", None),
            ],
        );
    }
}

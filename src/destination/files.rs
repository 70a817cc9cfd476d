//! The `csv`, `excel` and `jsonl` types: a line of a file for each event. Pure; `delivery::file` writes.
//!
//! A record is always one line, whatever a lead holds: only so can an end that a power cut tore off be told from a whole one without
//! reading the file from its beginning. A line must begin with the event's id, and a path must never leave its folder.

use super::columns::Columns;
use super::{Answer, Batch, Class, Connector, Failure, Incoming, Judgement, Memory, Moment, Next, Record, Reply, Request, Shown, Verdict};
use crate::mapping::{Event, MappingError, Template, escape_csv};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::path::PathBuf;

/// Lines that are written, and made safe, together.
const LINES_MAX: usize = 100;
/// Bytes of one part of a path. Linux, FAT and exFAT take 255; a number comes to it when a file is put aside.
const NAME_BYTES_MAX: usize = 200;

/// A destination of lines in files.
#[derive(Debug)]
pub struct Files {
    /// The word for it in the configuration.
    pub kind: &'static str,
    /// Where the files are. Nothing that a lead holds has a part in it.
    pub folder: PathBuf,
    /// What follows, part by part.
    pub parts: Vec<Template>,
    /// A file that would grow beyond this is put aside under a number.
    pub rotate_bytes: Option<u64>,
    /// What a line is.
    pub format: Format,
}

/// What a line is.
#[derive(Debug)]
pub enum Format {
    /// Cells, as RFC 4180 writes them, in UTF-8; the line ends are LF.
    Csv {
        /// What is in it.
        columns: Columns,
        /// Between two cells.
        separator: u8,
        /// A cell that a spreadsheet would take for a formula is made a text.
        escape_formulas: bool,
    },
    /// The only text that every Excel opens in columns and with all letters by a double click, whatever its country: UTF-16LE with a byte
    /// order mark, cells between tabs, line ends CR LF.
    Excel {
        /// What is in it.
        columns: Columns,
    },
    /// A JSON object: the event, or the columns.
    Jsonl {
        /// What is in it; `None`: the event as it is.
        columns: Option<Columns>,
    },
}

/// How a file's text is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8 without a mark.
    Utf8,
    /// UTF-16, low bytes first, with a byte order mark at the beginning of the file.
    Utf16,
}

impl Encoding {
    /// Bytes of its smallest unit: no line begins in between.
    pub const fn unit(self) -> usize {
        match self {
            Encoding::Utf8 => 1,
            Encoding::Utf16 => 2,
        }
    }

    /// The last unit of every line.
    pub const fn line_end(self) -> &'static [u8] {
        match self {
            Encoding::Utf8 => b"\n",
            Encoding::Utf16 => b"\n\0",
        }
    }

    fn encode(self, text: &str) -> Vec<u8> {
        match self {
            Encoding::Utf8 => text.as_bytes().to_vec(),
            Encoding::Utf16 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        }
    }
}

/// Lines to be put at the end of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// How they are shown to people.
    pub shown: String,
    /// What a new file begins with. One that begins otherwise is put aside.
    pub head: Vec<u8>,
    /// How the text is stored.
    pub encoding: Encoding,
    /// A file that would grow beyond this is put aside.
    pub rotate_bytes: Option<u64>,
    /// The lines.
    pub lines: Vec<Line>,
}

/// A line for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The file, as a path below the folder; its parts are plain names.
    pub file: String,
    /// How a line of the same event begins, and no other.
    pub mark: Vec<u8>,
    /// The whole line with its end.
    pub bytes: Vec<u8>,
    /// The same for people.
    pub text: String,
}

impl Append {
    /// What people are shown of it.
    pub fn shown(&self) -> Shown {
        let body = self.lines.iter().map(|line| line.text.as_str()).collect::<String>().into_bytes();
        Shown { verb: "append".to_owned(), place: self.shown.clone(), headers: Vec::new(), body }
    }
}

/// The line stands in the file now.
pub const APPENDED: &str = "appended";
/// The line stood in the file already.
pub const PRESENT: &str = "present";

impl Connector for Files {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }

    /// The file's name, a line end, the line. The name is kept too, so that another attempt looks into the same file.
    fn render(&self, incoming: &Incoming<'_>) -> Result<Option<Vec<u8>>, MappingError> {
        let event = Event::parse(incoming.bytes)?;
        let parts = self.parts.iter().map(|part| part.render(&event).map(|text| plain_name(&text)));
        let file = parts.collect::<Result<Vec<String>, _>>()?.join("/");
        Ok(Some(format!("{file}\n{}", self.format.line(incoming)?).into_bytes()))
    }

    fn batch(&self) -> Batch {
        Batch::of(LINES_MAX)
    }

    fn next(&self, records: &[Record<'_>], said: &[Answer], _: &Moment, _: &mut Memory) -> Result<Next, MappingError> {
        match said.last() {
            None => self.append(records).map(|append| Next::Send(Request::Append(Box::new(append)))),
            Some(answer) => Ok(self.judge(records.len(), answer)),
        }
    }
}

impl Files {
    fn append(&self, records: &[Record<'_>]) -> Result<Append, MappingError> {
        let broken = || MappingError { at: "path".to_owned(), message: "the kept line names no file".to_owned() };
        let encoding = self.format.encoding();
        let mut lines = Vec::with_capacity(records.len());
        for record in records {
            let body = std::str::from_utf8(record.body).map_err(|_| broken())?;
            let (file, text) = body.split_once('\n').ok_or_else(broken)?;
            lines.push(Line {
                file: file.to_owned(),
                mark: encoding.encode(&self.format.mark(record.identity.event_id)),
                bytes: encoding.encode(text),
                text: text.to_owned(),
            });
        }
        let first = lines.first().ok_or_else(MappingError::nothing)?;
        let shown = self.folder.join(&first.file).display().to_string();
        Ok(Append { shown, head: self.format.head()?, encoding, rotate_bytes: self.rotate_bytes, lines })
    }

    fn judge(&self, records: usize, answer: &Answer) -> Next {
        match answer {
            Answer::Failure { kind: Failure::Unreachable, detail } => Verdict::new(Class::Offline, "network_unreachable", detail).into(),
            Answer::Failure { detail, .. } => Verdict::internal(detail).into(),
            Answer::Response(_) => Verdict::internal("an answer over HTTP from a file").into(),
            Answer::Replies(replies) => match replies.as_slice() {
                [one] if records != 1 => self.verdict(one).into(),
                several => Next::Judged(Judgement::Each(several.iter().map(|reply| self.verdict(reply)).collect())),
            },
        }
    }

    /// What is said of errors holds no name of a file: a lead may have a part in it.
    fn verdict(&self, reply: &Reply) -> Verdict {
        let place = self.folder.display();
        let (class, code, reason) = match reply.code.as_str() {
            APPENDED => (Class::Delivered, "delivered", "the line is on the disk".to_owned()),
            PRESENT => (Class::Delivered, "delivered", "the line was on the disk already".to_owned()),
            "ENOSPC" | "EDQUOT" => {
                (Class::Throttled, "throttled", format!("there is no room left at {place}; make room there, what waits is then written"))
            }
            "EFBIG" => (
                Class::Refused,
                "receiver_4xx",
                format!("a file at {place} is as large as its file system allows; set rotate_bytes, or a date in path"),
            ),
            "EROFS" => (
                Class::Refused,
                "receiver_4xx",
                format!(
                    "{place} cannot be written: it is mounted read-only, or the service's sandbox keeps it so (ReadWritePaths= in its unit)"
                ),
            ),
            "EACCES" | "EPERM" => (
                Class::Refused,
                "receiver_4xx",
                format!("{place} may not be written by the user that leadsbotd runs as; check its owner and mode"),
            ),
            "ENOENT" => (Class::Refused, "receiver_4xx", format!("there is no folder {place}; make it, or set mount if it is on a stick")),
            "ENOTDIR" | "EISDIR" | "ELOOP" | "EINVAL" => (
                Class::Refused,
                "receiver_4xx",
                format!("what the path names in {place} is no plain file in plain folders; links are not followed"),
            ),
            "EIO" | "ENXIO" | "ENODEV" | "ESTALE" | "ENOMEDIUM" => (
                Class::Offline,
                "network_unreachable",
                format!("the disk below {place} fails ({}); was it pulled out? If not, it is dying: replace it", reply.code),
            ),
            other => (Class::Temporary, "receiver_5xx", format!("{place} could not be written ({other})")),
        };
        Verdict::new(class, code, reason)
    }
}

impl Format {
    fn encoding(&self) -> Encoding {
        match self {
            Format::Excel { .. } => Encoding::Utf16,
            Format::Csv { .. } | Format::Jsonl { .. } => Encoding::Utf8,
        }
    }

    fn separator(&self) -> u8 {
        if let Format::Csv { separator, .. } = self { *separator } else { b'\t' }
    }

    /// What a new file begins with.
    fn head(&self) -> Result<Vec<u8>, MappingError> {
        match self {
            Format::Csv { columns, .. } => self.cells(columns.names().map(Cow::Borrowed)).map(String::into_bytes),
            Format::Excel { columns } => {
                self.cells(columns.names().map(Cow::Borrowed)).map(|line| Encoding::Utf16.encode(&format!("\u{feff}{line}")))
            }
            Format::Jsonl { .. } => Ok(Vec::new()),
        }
    }

    /// How the line of an event begins.
    fn mark(&self, event_id: &str) -> String {
        match self {
            Format::Csv { .. } | Format::Excel { .. } => format!("{event_id}{}", char::from(self.separator())),
            Format::Jsonl { columns } => {
                let key = columns.as_ref().map_or("id", |columns| &columns.id);
                format!("{{{}:{}", Value::from(key), Value::from(event_id))
            }
        }
    }

    fn line(&self, incoming: &Incoming<'_>) -> Result<String, MappingError> {
        match self {
            Format::Csv { columns, escape_formulas, .. } => {
                self.cells(columns.row(incoming)?.into_iter().map(|(_, value)| Cow::Owned(cell(value, *escape_formulas))))
            }
            Format::Excel { columns } => self.cells(columns.row(incoming)?.into_iter().map(|(_, value)| Cow::Owned(cell(value, true)))),
            Format::Jsonl { columns: Some(columns) } => {
                let row: Map<String, Value> = columns.row(incoming)?.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                Ok(format!("{}\n", Value::Object(row)))
            }
            Format::Jsonl { columns: None } => {
                let broken = |why: String| MappingError { at: "event".to_owned(), message: format!("the stored event {why}") };
                let event: Map<String, Value> =
                    serde_json::from_slice(incoming.bytes).map_err(|e| broken(format!("is no JSON object: {e}")))?;
                let mut line = Map::from_iter([("id".to_owned(), Value::from(incoming.identity.event_id))]);
                line.extend(event.into_iter().filter(|(key, _)| key != "id"));
                Ok(format!("{}\n", Value::Object(line)))
            }
        }
    }

    /// One line of cells.
    fn cells<'c>(&self, cells: impl Iterator<Item = Cow<'c, str>>) -> Result<String, MappingError> {
        let broken = |e: &dyn std::fmt::Display| MappingError { at: "columns".to_owned(), message: format!("make no line: {e}") };
        let terminator = match self {
            Format::Excel { .. } => csv::Terminator::CRLF,
            Format::Csv { .. } | Format::Jsonl { .. } => csv::Terminator::Any(b'\n'),
        };
        let mut writer = csv::WriterBuilder::new().delimiter(self.separator()).terminator(terminator).from_writer(Vec::new());
        for cell in cells {
            writer.write_field(cell.as_bytes()).map_err(|e| broken(&e))?;
        }
        writer.write_record(None::<&[u8]>).map_err(|e| broken(&e))?;
        let bytes = writer.into_inner().map_err(|e| broken(&e.error()))?;
        String::from_utf8(bytes).map_err(|e| broken(&e))
    }
}

/// A value as the text of a cell, always of one line. Only texts can be formulas: a negative number is one.
fn cell(value: Value, escape_formulas: bool) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if escape_formulas => escape_csv(&one_line(&text)),
        Value::String(text) => one_line(&text),
        other => other.to_string(),
    }
}

/// Line breaks become ` / `, other control characters a blank.
fn one_line(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end_matches(['\r', '\n']).chars() {
        match c {
            '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}' => out.push_str(" / "),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A part of a path that names a file or folder in the one before it, whatever a lead holds, on Linux and on a stick that Windows made.
fn plain_name(text: &str) -> String {
    let plain = |c: char| if c.is_control() || "/\\<>:\"|?*\u{85}\u{2028}\u{2029}".contains(c) { '_' } else { c };
    let name: String = text.trim().chars().map(plain).collect();
    // A leading dot hides a file, or is the folder itself or the one above; Windows drops one at the end.
    let name = name.trim_end_matches(['.', ' ']);
    let name = match name.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None => name.to_owned(),
    };
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if extension.len() <= 10 => (stem, format!(".{extension}")),
        _ => (name.as_str(), String::new()),
    };
    let room = NAME_BYTES_MAX.saturating_sub(extension.len());
    let end = stem.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= room).last().unwrap_or(0);
    let stem = stem.get(..end).unwrap_or_default();
    if stem.is_empty() { format!("_{extension}") } else { format!("{stem}{extension}") }
}

#[cfg(test)]
mod tests {
    use super::super::columns::tests::{EVENT, columns, incoming};
    use super::*;
    use crate::destination::Identity;
    use crate::time::{Tick, Wall};

    fn files(format: Format, path: &[&str]) -> Files {
        Files {
            kind: "csv",
            folder: PathBuf::from("/exports"),
            parts: path.iter().map(|part| Template::new("path", part).unwrap()).collect(),
            rotate_bytes: None,
            format,
        }
    }

    fn csv() -> Format {
        Format::Csv { columns: columns("event_id"), separator: b',', escape_formulas: true }
    }

    fn request(files: &Files) -> Append {
        let incoming = incoming();
        let body = files.render(&incoming).unwrap().unwrap();
        let record = Record { identity: incoming.identity, body: &body, event: None, attempt: 1 };
        files.append(&[record]).unwrap()
    }

    const ROW: &str = "evt_aaaaaaaaaaaaaaaaaaaaaaaaaa,2026-11-23T12:00:00.123Z,lead.created,lead_bbbbbbbbbbbbbbbbbbbbbbbbbb,\"Zoë \"\"Z\"\" Smith, \
                       Ltd\",zoe@example.com,'+43 664 1234567,,'=1+1 / two / lines,88,booth-a,new,\"{\"\"vip\"\":true}\",Hall 3\n";

    #[test]
    fn a_line_of_csv_is_one_line_and_no_formula() {
        let append = request(&files(csv(), &["leads-{{ created_at | date('%Y-%m') }}.csv"]));
        assert_eq!(append.lines[0].file, "leads-2026-11.csv");
        assert_eq!(append.lines[0].text, ROW);
        assert_eq!(append.lines[0].bytes, ROW.as_bytes());
        assert_eq!(
            String::from_utf8(append.head).unwrap(),
            "event_id,created_at,event,lead_id,name,email,phone,company,message,score,source,status,fields,site\n"
        );
        assert!(append.lines[0].bytes.starts_with(&append.lines[0].mark) && append.lines[0].mark.ends_with(b"a,"));
        assert_eq!(append.shown, "/exports/leads-2026-11.csv");
        let plain = Format::Csv { columns: columns("event_id"), separator: b';', escape_formulas: false };
        let line = request(&files(plain, &["leads.csv"])).lines.remove(0).text;
        assert!(line.contains(";+43 664 1234567;;=1+1 / two / lines;88;"), "{line}");
    }

    #[test]
    fn excel_gets_utf_16_with_a_mark_and_tabs() {
        let append = request(&files(Format::Excel { columns: columns("event_id") }, &["leads.csv"]));
        assert_eq!(append.head.get(..4), Some(&[0xff, 0xfe, b'e', 0][..]));
        assert!(append.head.ends_with(b"\r\0\n\0"));
        let line = &append.lines[0];
        let units: Vec<u16> = line.bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        let text = String::from_utf16(&units).unwrap();
        assert_eq!(text, line.text);
        assert!(text.contains("\t\"Zoë \"\"Z\"\" Smith, Ltd\"\tzoe@example.com\t'+43 664 1234567\t\t'=1+1 / two / lines\t88\t"), "{text}");
        assert!(text.ends_with("\tHall 3\r\n") && line.bytes.starts_with(&line.mark));
    }

    #[test]
    fn a_line_of_json_is_the_event_or_what_the_columns_say() {
        let append = request(&files(Format::Jsonl { columns: None }, &["leads.jsonl"]));
        assert_eq!(append.lines[0].text, format!("{EVENT}\n"));
        assert!(append.head.is_empty() && append.lines[0].bytes.starts_with(&append.lines[0].mark));
        let append = request(&files(Format::Jsonl { columns: Some(columns("event_id")) }, &["leads.jsonl"]));
        assert!(
            append.lines[0].text.starts_with(r#"{"event_id":"evt_aaaaaaaaaaaaaaaaaaaaaaaaaa","created_at":"#),
            "{}",
            append.lines[0].text
        );
        assert!(append.lines[0].text.contains(r#""company":null,"message":"=1+1\r\ntwo\nlines","score":88"#));
        assert!(append.lines[0].bytes.starts_with(&append.lines[0].mark));
    }

    #[test]
    fn no_lead_can_lead_a_path_out_of_its_folder() {
        for (given, name) in [
            ("../../etc/passwd", "_._.._etc_passwd"),
            ("..", "_"),
            (".", "_"),
            ("", "_"),
            (" / ", "_"),
            ("a\0b\nc.csv", "a_b_c.csv"),
            ("C:\\x", "C__x"),
            (".hidden", "_hidden"),
            ("x. . ", "x"),
            ("Größe.csv", "Größe.csv"),
        ] {
            assert_eq!(plain_name(given), name, "{given:?}");
        }
        let long = plain_name(&format!("{}.csv", "ö".repeat(300)));
        assert!(long.len() <= NAME_BYTES_MAX && long.ends_with("ö.csv"), "{long}");
        let evil = EVENT.replace("booth-a", "../../../etc/x");
        let incoming = Incoming { bytes: evil.as_bytes(), ..incoming() };
        let files = files(csv(), &["{{ data.source }}", "leads.csv"]);
        let body = String::from_utf8(files.render(&incoming).unwrap().unwrap()).unwrap();
        assert!(body.starts_with("_._.._.._etc_x/leads.csv\n"), "{body}");
    }

    #[test]
    fn every_trouble_of_a_disk_has_its_class() {
        use Class::*;
        let files = files(csv(), &["leads.csv"]);
        for (code, class, word) in [
            ("appended", Delivered, "delivered"),
            ("present", Delivered, "delivered"),
            ("ENOSPC", Throttled, "throttled"),
            ("EDQUOT", Throttled, "throttled"),
            ("EFBIG", Refused, "receiver_4xx"),
            ("EROFS", Refused, "receiver_4xx"),
            ("EACCES", Refused, "receiver_4xx"),
            ("ENOENT", Refused, "receiver_4xx"),
            ("ELOOP", Refused, "receiver_4xx"),
            ("EIO", Offline, "network_unreachable"),
            ("ENODEV", Offline, "network_unreachable"),
            ("EMFILE", Temporary, "receiver_5xx"),
        ] {
            let verdict = files.verdict(&Reply { code: code.to_owned(), text: String::new() });
            assert_eq!((verdict.class, verdict.code), (class, word), "{code}");
            assert!(verdict.wait.is_none() && (class == Delivered || verdict.reason.contains("/exports")), "{}", verdict.reason);
        }
    }

    #[test]
    fn each_line_is_judged_by_itself_and_a_stick_that_is_away_is_offline() {
        let files = files(csv(), &["leads.csv"]);
        let incoming = incoming();
        let body = files.render(&incoming).unwrap().unwrap();
        let identity = Identity { event_id: "evt_b", ..incoming.identity };
        let records = [
            Record { identity: incoming.identity, body: &body, event: None, attempt: 1 },
            Record { identity, body: &body, event: None, attempt: 1 },
        ];
        let moment = Moment { wall: Wall(0), tick: Tick::ZERO, clock_trusted: false, vouched: false };
        let judged = |answer| match files.next(&records, &[answer], &moment, &mut Memory::default()).unwrap() {
            Next::Judged(judgement) => judgement,
            Next::Send(_) => panic!("it asks again"),
        };
        let reply = |code: &str| Reply { code: code.to_owned(), text: String::new() };
        let Judgement::Each(each) = judged(Answer::Replies(vec![reply("appended"), reply("ENOSPC")])) else { panic!("one verdict") };
        assert_eq!(each.iter().map(|v| v.class).collect::<Vec<_>>(), [Class::Delivered, Class::Throttled]);
        let Judgement::All(all) = judged(Answer::Replies(vec![reply("EROFS")])) else { panic!("several verdicts") };
        assert_eq!(all.class, Class::Refused);
        let away = Answer::Failure { kind: Failure::Unreachable, detail: "nothing is mounted at /media/usb".to_owned() };
        let Judgement::All(all) = judged(away) else { panic!("several verdicts") };
        assert_eq!((all.class, all.reason.as_str()), (Class::Offline, "nothing is mounted at /media/usb"));
    }
}

//! How a body is written short: what it has in common with a text that both sides know, or with itself, as a reference to it; all else byte
//! by byte, frequent ones in fewer bits than others.
//!
//! It must never believe what it reads: each reference is checked before it is followed. Nothing that the reading depends on may ever
//! change, or what lies on a card could no longer be read; something better gets a number of its own.

use std::sync::LazyLock;

/// Stands before every body. First what most events are made of, in their order, so that one reference goes on where the last one ended;
/// then what may stand in its places; then words.
const TEXT: &[u8] = r#"{"id":"evt_","event":"lead.created","created_at":"2026-","data":{"id":"lead_","name":"","email":"@example.com","phone":"+","company":"","message":"","score":0,"source":"contact","status":"new","fields":{"interest":""},"consent":{"text":"I agree that you keep my details to answer me.","version":"1","at":"2026-"}},"context":{"device":{"id":"kiosk","name":"","site":"","labels":{}},"channel":"form","form":"contact","page_url":"https://www..com/","referrer":"https://www.","utm":{"source":"","medium":"","campaign":""},"ip":"192.168.1.","user_agent":"Mozilla/5.0 (Linux; Android 14; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36","clock":"trusted"}}null,"email":null,"phone":null,"company":null,"message":null,"score":0,"source":"api","status":"new","fields":{},"consent":null},"context":{"device":{"id":"kiosk","site":null},"channel":"api","form":null,"page_url":null,"referrer":null,"utm":{},"ip":"127.0.0.1","user_agent":null,"clock":"untrusted"}}"inbound","form":null,"page_url":null,"lead.updated","created_at":","changed":["score"],"lead.status_changed","created_at":","from":"new","to":"contacted"},"lead.replied","created_at":","status":"qualified","reply":{"text":"","channel":"email","direction":"outbound","author":null}"consent":null,"changed":["fields"]},"from":"contacted","to":"won"},"suspicion":"honeypot"}}"device","form":null"storage.low"(Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36(iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1@gmail.com","@web.de","@gmx.de",".co.uk"," GmbH"," Ltd"," Inc."000Z" would like to  please call me  information about  more  interested in  your  could  you send me  an offer  we need  appointment  next week  the  with  that  for  and  this  have  from  are .\n\nKind regards,\nThank you very much. Guten Tag, ich  möchte  bitte um Rückruf . Vielen Dank und freundliche Grüße"#.as_bytes();

const SYMBOLS: usize = 256 + Kind::ALL.len() * LENGTHS;
/// How many bits each symbol takes, `a` for one: the 256 bytes, then for each [`Kind`] of reference its lengths. Counted over thousands of
/// invented events, the messages in eight languages.
const BITS: &[u8; SYMBOLS] = b"\
    lllllllllllllllllllllllllllllllldjelllljjjliggfieffffffffffklkljjikjkkkjijkiijjjiljihllkllhljllilegffeffffggffeefgeeeggg\
    ggghlhlllkkkkkklkllkllllllllllllllllllllllllllljlllllklljkkkkklljlkkklkklllillllllllllllhilllllliillllllllllkkllklllllll\
    lllllllllllllllljllllggkhlhlkllllllllllllljkhikjjjlkllllllllllllllffffgjghijhlllllllllll";
/// No symbol takes more.
const BITS_MAX: u32 = 12;

/// A reference is `LENGTH_MIN + n` long. The symbol tells the two highest bits of `n`, the others follow it.
const LENGTHS: usize = 24;
const LENGTH_MIN: usize = 3;
const LENGTH_MAX: usize = LENGTH_MIN + 4095;
/// A reference to anywhere that is shorter takes more bits than its bytes.
const FAR_MIN: usize = 5;
/// So much longer must it be than one that goes on where the last one ended.
const FAR_GAIN: usize = 3;
/// One as long as this is gone on from; a shorter one is a word inside something that goes on.
const TURN_MIN: usize = 10;
/// Bits of the distance to what is near.
const NEAR_BITS: u32 = 6;
/// Bits of the hash of four bytes.
const HASH_BITS: u32 = 12;

/// Where a reference points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// To where the last one ended.
    Next,
    /// A little behind that.
    Near,
    /// Anywhere before.
    Far,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Next, Kind::Near, Kind::Far];

    /// Where [`Kind::Next`] points after this one.
    fn next(self, next: usize, from: usize, length: usize) -> usize {
        if self == Kind::Far && length < TURN_MIN { next } else { from + length }
    }
}

struct Tables {
    /// Of each symbol: its code, the first bit lowest, above four bits that say how long it is.
    codes: Vec<u16>,
    /// Of each value that the next bits may have: the symbol that they begin with, above four bits that say how long its code is.
    symbols: Vec<u16>,
    /// Where in the text four bytes with this hash stand last.
    seen: [u16; 1 << HASH_BITS],
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut tables = Tables { codes: vec![0; SYMBOLS], symbols: vec![0; 1 << BITS_MAX], seen: [0; 1 << HASH_BITS] };
    let mut code = 0_u16;
    for length in (1_u8..).take(index(BITS_MAX)) {
        code <<= 1;
        for (symbol, entry) in
            (0_u16..).zip(&mut tables.codes).filter(|(symbol, _)| BITS.get(usize::from(*symbol)) == Some(&(b'a' - 1 + length)))
        {
            let first_lowest = code.reverse_bits() >> (16 - length);
            *entry = first_lowest << 4 | u16::from(length);
            for value in tables.symbols.iter_mut().skip(usize::from(first_lowest)).step_by(1 << length) {
                *value = symbol << 4 | u16::from(length);
            }
            code += 1;
        }
    }
    for (at, window) in (0_u16..).zip(TEXT.windows(4)) {
        if let Some(entry) = four_at(window, 0).and_then(|four| tables.seen.get_mut(hash(four))) {
            *entry = at;
        }
    }
    tables
});

/// What counts bits or is cut to a few of them.
fn index(small: u32) -> usize {
    usize::try_from(small).unwrap_or(usize::MAX)
}

fn four_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn hash(four: u32) -> usize {
    index(four.wrapping_mul(2_654_435_761) >> (32 - HASH_BITS))
}

/// How many bytes at `at` are the same as those at `from`; no more than a reference may have.
fn common(window: &[u8], from: usize, at: usize) -> usize {
    let (Some(mut before), Some(mut here)) = (window.get(from..), window.get(at..)) else { return 0 };
    let mut length = 0;
    // Eight at a time.
    while let (Some((a, before_on)), Some((b, here_on))) = (before.split_first_chunk(), here.split_first_chunk()) {
        let differing = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differing != 0 {
            return length + index(differing.trailing_zeros() / 8);
        }
        length += 8;
        if length >= LENGTH_MAX {
            return LENGTH_MAX;
        }
        (before, here) = (before_on, here_on);
    }
    (length + before.iter().zip(here).take_while(|(a, b)| a == b).count()).min(LENGTH_MAX)
}

/// Bits that tell any place before `at`.
fn place_bits(at: usize) -> u32 {
    usize::BITS - at.leading_zeros()
}

struct Writer<'t> {
    out: Vec<u8>,
    bits: u64,
    // Fewer than 32, so that as many may follow.
    held: u32,
    codes: &'t [u16],
}

impl Writer<'_> {
    #[inline]
    fn put(&mut self, value: u64, count: u32) {
        self.bits |= value << self.held;
        self.held += count;
        if self.held >= 32 {
            let [a, b, c, d, ..] = self.bits.to_le_bytes();
            self.out.extend_from_slice(&[a, b, c, d]);
            self.bits >>= 32;
            self.held -= 32;
        }
    }

    #[inline]
    fn symbol(&mut self, symbol: usize) {
        let code = self.codes.get(symbol).copied().unwrap_or_default();
        self.put(u64::from(code >> 4), u32::from(code & 15));
    }

    fn reference(&mut self, kind: Kind, length: usize) {
        let n = length - LENGTH_MIN;
        let more = if n < 4 { 0 } else { n.ilog2() - 1 };
        let step = if n < 4 { n } else { 2 * (index(more) + 1) + ((n >> more) & 1) };
        self.symbol(256 + kind as usize * LENGTHS + step);
        self.number(n & ((1 << more) - 1), more);
    }

    fn number(&mut self, value: usize, count: u32) {
        self.put(u64::try_from(value).unwrap_or(0), count);
    }

    fn end(mut self) -> Vec<u8> {
        self.out.extend(self.bits.to_le_bytes().into_iter().take(index(self.held.div_ceil(8))));
        self.out
    }
}

/// Writes a body behind what `out` holds.
pub fn write(body: &[u8], out: Vec<u8>) -> Vec<u8> {
    let tables = &*TABLES;
    let window = [TEXT, body].concat();
    let mut seen = tables.seen;
    let mut writer = Writer { out, bits: 0, held: 0, codes: &tables.codes };
    let (mut at, mut next) = (TEXT.len(), 0);
    while let Some(byte) = window.get(at) {
        let going_on = if window.get(next) == Some(byte) { common(&window, next, at) } else { 0 };
        let mut best = (Kind::Next, next, going_on);
        if let Some(four) = four_at(&window, at)
            && let Some(entry) = seen.get_mut(hash(four))
        {
            let from = usize::from(*entry);
            // What stands further behind in a huge event is not pointed to.
            if let Ok(at) = u16::try_from(at) {
                *entry = at;
            }
            if four_at(&window, from) == Some(four) {
                let length = common(&window, from, at);
                let least = if going_on < LENGTH_MIN { FAR_MIN } else { FAR_MIN.max(going_on + FAR_GAIN + 1) };
                if length >= least {
                    let near = from > next && from - next <= 1 << NEAR_BITS;
                    best = (if near { Kind::Near } else { Kind::Far }, from, length);
                }
            }
        }
        let (kind, from, length) = best;
        if length < LENGTH_MIN {
            writer.symbol(usize::from(*byte));
            at += 1;
            continue;
        }
        writer.reference(kind, length);
        match kind {
            Kind::Next => {}
            Kind::Near => writer.number(from - next - 1, NEAR_BITS),
            Kind::Far => writer.number(from, place_bits(at)),
        }
        next = kind.next(next, from, length);
        at += length;
    }
    writer.end()
}

struct Reader<'b> {
    bytes: &'b [u8],
    bits: u64,
    // Below zero once more was taken than there is; only zeros follow then.
    held: i32,
}

impl Reader<'_> {
    /// Afterwards there are 32 bits, or all that are left.
    #[inline]
    fn fill(&mut self) {
        if self.held >= 32 {
            return;
        }
        if let Some((four, rest)) = self.bytes.split_first_chunk() {
            self.bits |= u64::from(u32::from_le_bytes(*four)) << self.held;
            self.held += 32;
            self.bytes = rest;
            return;
        }
        while let Some((byte, rest)) = self.bytes.split_first() {
            self.bits |= u64::from(*byte) << self.held;
            self.held += 8;
            self.bytes = rest;
        }
    }

    #[inline]
    fn drop(&mut self, count: u8) {
        self.bits >>= count;
        self.held -= i32::from(count);
    }

    fn number(&mut self, count: u32) -> Option<usize> {
        self.fill();
        let value = self.bits & ((1 << count) - 1);
        self.drop(u8::try_from(count).ok()?);
        usize::try_from(value).ok()
    }
}

/// Reads a body of this length; `None` where the bytes are not what [`write`] makes of one.
pub fn read(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    let tables = &*TABLES;
    let end = TEXT.len() + length;
    // What is claimed is not believed before there is something to fill it with.
    let mut out = Vec::with_capacity(TEXT.len() + length.min(bytes.len().saturating_mul(8)));
    out.extend_from_slice(TEXT);
    let (mut reader, mut next) = (Reader { bytes, bits: 0, held: 0 }, 0);
    while out.len() < end {
        reader.fill();
        let [low, high, ..] = reader.bits.to_le_bytes();
        let entry = *tables.symbols.get(usize::from(u16::from_le_bytes([low, high]) & ((1 << BITS_MAX) - 1)))?;
        let [length_and_low, _] = entry.to_le_bytes();
        reader.drop(length_and_low & 15);
        if reader.held < 0 {
            return None;
        }
        let symbol = entry >> 4;
        if let Ok(byte) = u8::try_from(symbol) {
            out.push(byte);
            continue;
        }
        let reference = usize::from(symbol) - 256;
        let (kind, step) = (*Kind::ALL.get(reference / LENGTHS)?, reference % LENGTHS);
        let n = if step < 4 {
            step
        } else {
            let more = step / 2 - 1;
            ((2 + (step & 1)) << more) + reader.number(u32::try_from(more).ok()?)?
        };
        let from = match kind {
            Kind::Next => next,
            Kind::Near => next + 1 + reader.number(NEAR_BITS)?,
            Kind::Far => reader.number(place_bits(out.len()))?,
        };
        let length = LENGTH_MIN + n;
        if from >= out.len() || length > end - out.len() {
            return None;
        }
        next = kind.next(next, from, length);
        if from + length <= out.len() {
            out.extend_from_within(from..from + length);
        } else {
            // It runs into what it writes itself.
            for at in from..from + length {
                out.push(*out.get(at)?);
            }
        }
    }
    out.drain(..TEXT.len());
    (reader.bytes.is_empty() && (0..8).contains(&reader.held) && reader.bits == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_begins_with_a_symbol_and_every_place_of_the_text_has_room() {
        assert!(TABLES.symbols.iter().all(|entry| entry & 15 > 0));
        assert!(TABLES.codes.iter().all(|code| code & 15 > 0));
        assert!(TEXT.len() < 1 << HASH_BITS);
    }

    #[test]
    fn whatever_is_written_reads_the_same() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..3000 {
            let mut body = Vec::new();
            let pieces = random.usize(..40);
            for _ in 0..pieces {
                match random.u8(..5) {
                    0 => body.extend((0..random.usize(..40)).map(|_| random.u8(..))),
                    1 => {
                        let from = random.usize(..TEXT.len());
                        body.extend_from_slice(&TEXT[from..TEXT.len().min(from + random.usize(..200))]);
                    }
                    2 => body.extend(std::iter::repeat_n(random.u8(..), random.usize(..300))),
                    3 if !body.is_empty() => {
                        let from = random.usize(..body.len());
                        body.extend_from_within(from..body.len().min(from + random.usize(..6000)));
                    }
                    _ => body.extend((0..random.usize(..60)).map(|_| random.u8(b' '..b'z'))),
                }
            }
            let written = write(&body, vec![9]);
            assert_eq!(read(&written[1..], body.len()).as_deref(), Some(&body[..]), "round {round}");
        }
        let huge: Vec<u8> = (0..300_000).map(|n: u32| if n % 70_000 < 3000 { b'x' } else { random.u8(b'a'..b'e') }).collect();
        assert_eq!(read(&write(&huge, Vec::new()), huge.len()), Some(huge));
    }

    #[test]
    fn what_was_not_written_here_is_no_body() {
        let mut random = fastrand::Rng::with_seed(8);
        let body = &TEXT[..600];
        let written = write(body, Vec::new());
        for length in [0, 1, 599, 620, 1 << 20] {
            assert_eq!(read(&written, length), None, "{length}");
        }
        for _ in 0..20_000 {
            let garbage: Vec<u8> = (0..random.usize(..200)).map(|_| random.u8(..)).collect();
            drop(read(&garbage, random.usize(..5000)));
        }
    }
}

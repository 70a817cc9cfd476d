//! Standard output and error.

use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Standard output. A reader that has gone away ends the program quietly; other failures, a full disk above all, are the writer's to tell.
pub struct Out(std::io::Stdout);

impl Out {
    pub fn new() -> Self {
        Self(std::io::stdout())
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        quiet(self.0.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        quiet(self.0.flush())
    }
}

fn quiet<T>(result: std::io::Result<T>) -> std::io::Result<T> {
    if result.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        std::process::exit(0);
    }
    result
}

/// Prints a line.
pub fn say(line: &str) {
    let mut out = Out::new();
    if let Err(e) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        complain(&format!("the output could not be written: {e}"));
        std::process::exit(1);
    }
}

/// Prints a JSON value on one line.
pub fn say_json(value: &impl Serialize) {
    say(&serde_json::to_string(value).unwrap_or_default());
}

/// Prints to standard error.
pub fn complain(message: &str) {
    // There is nobody left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "leadsbotd: {message}");
}

/// Prints advice to standard error, only when a person is there to read it.
pub fn hint(message: &str) {
    if std::io::stderr().is_terminal() {
        let _ = writeln!(std::io::stderr(), "{message}");
    }
}

/// Text of others, safe to print: control characters cannot move the cursor or fake a line.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints rows in columns as wide as they need to be.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (cell, width) in cells.zip(&widths) {
            out.push_str(&format!("{cell:<width$}  "));
        }
        say(out.trim_end());
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

//! Log lines: for people on a terminal, JSON otherwise, always on standard error. `RUST_LOG` narrows them. What is
//! logged is ids and states, never health data (design D17); the standard output belongs to answers.
//!
//! Promises that no request waits for whoever reads the log: lines are gathered in memory and written by a thread of
//! their own, warnings and errors at once, the others within `PAUSE`, all of them before the program ends. What a
//! killed program said in its last moment is lost. Where nobody reads and `MOST` are waiting, lines are left out, and
//! how many is told as soon as somebody reads again. (tracing-appender wakes its thread and writes for each line, which
//! costs an empty poll what it was to save.)

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::fhir::json::quoted;
use crate::time::Clock;

/// How long a line may wait for others, so that one write takes them all.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes that are written without waiting for more.
const ENOUGH: usize = 1 << 16;
/// Most bytes that wait for a reader.
const MOST: usize = 1 << 23;
/// How long a reader may take for the last lines.
const GOODBYE: Duration = Duration::from_secs(1);

/// Writes the last lines when it is dropped.
#[must_use]
pub struct Log {
    lines: Lines,
    /// Closed when all is written.
    written: Receiver<()>,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.end();
        let _ = self.written.recv_timeout(GOODBYE);
    }
}

/// Starts logging; a second call changes nothing.
pub fn start(default: &str) -> Log {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = Lines::default();
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(lines.clone()).with_target(false);
    let _ = if io::stderr().is_terminal() {
        registry.with(layer.compact()).try_init()
    } else {
        registry.with(layer.with_ansi(false).event_format(Json)).try_init()
    };
    Log { written: lines.written_to(io::stderr()), lines }
}

/// Lines that wait to be written.
#[derive(Clone, Default)]
struct Lines(Arc<(Mutex<Waiting>, Condvar)>);

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Among them is one that should be seen at once.
    urgent: bool,
    left_out: u64,
    ended: bool,
}

impl Lines {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8], urgent: bool) {
        let mut waiting = self.waiting();
        let before = waiting.text.len();
        if before + line.len() > MOST {
            waiting.left_out += 1;
            return;
        }
        waiting.text.extend_from_slice(line);
        waiting.urgent |= urgent;
        let tell = before == 0 || urgent || (before < ENOUGH && waiting.text.len() >= ENOUGH);
        drop(waiting);
        if tell {
            self.0.1.notify_one();
        }
    }

    fn end(&self) {
        self.waiting().ended = true;
        self.0.1.notify_one();
    }

    /// Has them written by a thread of its own; what comes back is closed when the last one is.
    fn written_to(&self, mut out: impl Write + Send + 'static) -> Receiver<()> {
        let (lines, (writing, written)) = (self.clone(), channel());
        thread::spawn(move || {
            let mut text = Vec::new();
            while lines.next(&mut text) {
                // When standard error has gone there is nobody to tell.
                let _ = out.write_all(&text);
            }
            drop(writing);
        });
        written
    }

    /// Waits for the next lines and takes them; false at the end.
    fn next(&self, text: &mut Vec<u8>) -> bool {
        text.clear();
        text.shrink_to(ENOUGH);
        let told = &self.0.1;
        let waiting = told.wait_while(self.waiting(), |waiting| waiting.text.is_empty() && !waiting.ended);
        let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        let more = |waiting: &mut Waiting| !waiting.urgent && !waiting.ended && waiting.text.len() < ENOUGH;
        let (mut waiting, _) = told.wait_timeout_while(waiting, PAUSE, more).unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut waiting.text, text);
        waiting.urgent = false;
        let left_out = mem::take(&mut waiting.left_out);
        let goes_on = !text.is_empty();
        drop(waiting);
        if left_out > 0 {
            text.extend_from_slice(
                format!("{{\"level\":\"WARN\",\"message\":\"{left_out} lines were left out\"}}\n").as_bytes(),
            );
        }
        goes_on
    }
}

/// What one line is written to.
struct Line<'a> {
    lines: &'a Lines,
    urgent: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.add(line, self.urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, urgent: true }
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Line<'a> {
        Line { lines: self, urgent: *of.level() <= Level::WARN }
    }
}

/// A line as one JSON object: the time, the level, then the message and the fields. There are no spans.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (at, level) = (Clock::system().now(), event.metadata().level());
        write!(out, "{{\"timestamp\":\"{at:.6}\",\"level\":\"{level}\"")?;
        let mut fields = Fields { out: out.by_ref(), result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        out.write_str("}\n")
    }
}

/// Writes fields one after the other.
struct Fields<'a> {
    out: Writer<'a>,
    result: fmt::Result,
}

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl fmt::Display) {
        self.result = self.result.and_then(|()| write!(self.out, ",\"{}\":{value}", field.name()));
    }
}

impl Visit for Fields<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, quoted(value));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, quoted(&format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Sender;

    /// What each write was, for a test to see; it returns when the test has taken it.
    struct Seen(Sender<String>, Receiver<()>);

    impl Write for Seen {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.send(String::from_utf8(text.to_vec()).unwrap()).unwrap();
            let _ = self.1.recv();
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_come_in_order_and_none_is_missing_at_the_end() {
        let (lines, (seen, told), (go_on, wait)) = (Lines::default(), channel(), channel());
        drop(go_on);
        let log = Log { written: lines.written_to(Seen(seen, wait)), lines: lines.clone() };
        let said: String = (0..2_000).map(|number| format!("line {number}\n")).collect();
        for line in said.split_inclusive('\n') {
            lines.add(line.as_bytes(), false);
        }
        drop(log);
        let written: Vec<String> = told.iter().collect();
        assert_eq!(written.concat(), said);
        assert!(written.len() < 200, "many lines are one write: {}", written.len());
    }

    #[test]
    fn a_line_is_one_json_object() {
        let (lines, (seen, told), (go_on, wait)) = (Lines::default(), channel(), channel());
        drop(go_on);
        let log = Log { written: lines.written_to(Seen(seen, wait)), lines: lines.clone() };
        let layer = tracing_subscriber::fmt::layer().with_writer(lines).with_ansi(false).event_format(Json);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let none: Option<String> = None;
            tracing::warn!(status = 200_u16, left = -1, good = true, why = "a \"b\"\n", who = ?Some("é"), none, "said");
        });
        drop(log);
        let line = told.iter().collect::<String>();
        let mut said: serde_json::Value = serde_json::from_str(line.strip_suffix('\n').unwrap()).unwrap();
        let at = said["timestamp"].take();
        assert_eq!(at.as_str().unwrap().len(), "2026-11-26T14:00:00.000000Z".len());
        let fields = serde_json::json!({"timestamp": null, "level": "WARN", "message": "said", "status": 200, "left": -1,
            "good": true, "why": "a \"b\"\n", "who": "Some(\"é\")"});
        assert_eq!(said, fields);
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_is_left_out_is_told() {
        let (lines, (seen, told), (go_on, wait)) = (Lines::default(), channel(), channel());
        let log = Log { written: lines.written_to(Seen(seen, wait)), lines: lines.clone() };
        lines.add(b"first\n", true);
        assert_eq!(told.recv().unwrap(), "first\n");
        // The reader stands still now.
        let line = [b'x'; 1 << 20];
        for _ in 0..10 {
            lines.add(&line, false);
        }
        assert_eq!(lines.waiting().text.len(), 8 << 20);
        go_on.send(()).unwrap();
        let rest = told.recv().unwrap();
        assert!(rest.ends_with("2 lines were left out\"}\n"), "{}", rest.len());
        drop(go_on);
        drop(log);
        assert_eq!(told.iter().count(), 0);
    }
}

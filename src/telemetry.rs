//! Log lines: for people on a terminal, JSON otherwise, always on standard error. `RUST_LOG` narrows them. What is
//! logged is ids and states, never health data (design D17); the standard output belongs to answers.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging; a second call changes nothing.
pub fn start(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let _ = if std::io::stderr().is_terminal() {
        registry.with(layer.compact()).try_init()
    } else {
        registry.with(layer.with_ansi(false).json().flatten_event(true)).try_init()
    };
}

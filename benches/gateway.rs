//! What the gateway costs, as ratios: each goal's denominator is measured in the same run, in turn with the product.
//!
//! `cargo bench` runs all of it in about four minutes, `cargo bench -- --quick` in one, `cargo bench -- P3 P4` some of
//! it. The product is the real program in a process of its own, the denominators are bare servers (`gateway/bare.rs`) in
//! processes of theirs; what is divided is CPU time per request of the server, which other work on the machine hardly
//! disturbs. Rates and latencies are printed beside it. The goals are explained in `benches/README.md`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    missing_docs,
    reason = "a program for people who measure"
)]

#[path = "gateway/bare.rs"]
mod bare;
#[path = "gateway/checks.rs"]
mod checks;
#[path = "gateway/client.rs"]
mod client;
#[path = "gateway/fsync.rs"]
mod fsync;
#[path = "gateway/goals.rs"]
mod goals;
#[path = "gateway/outage.rs"]
mod outage;
#[path = "gateway/partners.rs"]
mod partners;
#[path = "gateway/postgres.rs"]
mod postgres;
#[path = "gateway/product.rs"]
mod product;
#[path = "gateway/runner.rs"]
mod runner;
#[path = "gateway/safety.rs"]
mod safety;
#[path = "gateway/scale.rs"]
mod scale;
#[path = "gateway/subscribers.rs"]
mod subscribers;
#[path = "gateway/world.rs"]
mod world;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let [first, what, file] = arguments.as_slice()
        && first == "--bare"
    {
        return runtime.block_on(bare::serve(what, file));
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    // `--large`, or `--large=REFERRALS`.
    let large = arguments.iter().find_map(|argument| match argument.strip_prefix("--large")? {
        "" => Some(100_000),
        many => many.strip_prefix('=')?.parse().ok(),
    });
    let chosen: Vec<String> = arguments.into_iter().filter(|argument| !argument.starts_with("--")).collect();
    runtime.block_on(goals::run(quick, large, &chosen));
}

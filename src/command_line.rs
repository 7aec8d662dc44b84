//! The command line. Answers go to standard output, logs to standard error; exit status 2 is wrong usage.
#![expect(clippy::print_stderr, reason = "a command line says what was wrong with it")]

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use tokio::sync::watch;

use crate::app::people::accounts;
use crate::app::validation;
use crate::config::{Config, Fault, PersonRole};
use crate::delivery::{Network, Transport};
use crate::error::Error;
use crate::fhir::json::Bounds;
use crate::fhir::profile::Profiles;
use crate::fhir::validate::Severity;
use crate::fhir::{json, outcome, validate, xml};
use crate::gateway::Gateway;
use crate::store::Store;
use crate::time::Clock;
use crate::{app, check, demo, http, telemetry};

/// The stack of a worker thread, in bytes.
const STACK: usize = 8 << 20;

/// A FHIR R4 gateway that closes the loop on social-care referrals.
#[derive(Debug, Parser)]
#[command(name = "loopgate", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs referrals round the loop between simulated partners, and keeps serving.
    Demo {
        /// Where the gateway listens.
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: std::net::SocketAddr,
        /// Where its database goes; made anew.
        #[arg(long, default_value = "./loopgate-demo")]
        data: PathBuf,
        /// Stops when every loop is closed: exit status 0, or 1 if one did not close.
        #[arg(long)]
        exit: bool,
    },
    /// Serves.
    Serve {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Checks a configuration: every fault at once, each with its key and line.
    CheckConfig {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Brings the database's schema up to date.
    Migrate {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Validates resources: one OperationOutcome a line, in the order of the files.
    Validate {
        /// Files with one resource each, JSON or XML.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The configuration file: the packages it names count as well.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// A partner's side.
    Partner {
        #[command(subcommand)]
        command: PartnerCommand,
    },
    /// The record of who saw what.
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Accounts of people, where no identity provider is. Passwords are read from standard input: one line.
    User {
        #[command(subcommand)]
        command: UserCommand,
        /// The configuration file.
        #[arg(long, global = true)]
        config: Option<PathBuf>,
    },
    /// Prints the CapabilityStatement.
    Capability {
        /// The configuration file.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Adds an account, and prints what its holder needs for one-time codes: this once.
    Add {
        /// What is typed to sign in.
        name: String,
        /// coordinator, staff, administrator or auditor.
        #[arg(long)]
        role: String,
        /// Whose staff.
        #[arg(long, default_value = "")]
        partner: String,
    },
    /// Gives an account another password and other codes, ends its sessions, and lets it try again.
    Reset {
        /// The account.
        name: String,
    },
    /// Gives an account another role, and ends its sessions.
    Role {
        /// The account.
        name: String,
        /// coordinator, staff, administrator or auditor.
        #[arg(long)]
        role: String,
        /// Whose staff.
        #[arg(long, default_value = "")]
        partner: String,
    },
    /// Removes an account, and ends its sessions.
    Remove {
        /// The account.
        name: String,
    },
    /// Prints names and roles.
    List,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Looks whether anybody changed, removed, added or reordered anything; exit status 1 if so.
    Verify {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// A seal that was written down elsewhere, NUMBER:HASH, as the log and this command print them: the record must
        /// still lead through it.
        #[arg(long)]
        seal: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum PartnerCommand {
    /// Looks at a partner's FHIR server: what works, what is missing, what is done instead; exit status 1 if anything is
    /// missing. Sends no health data.
    Check {
        /// A partner's id, or the base of a FHIR server.
        partner: String,
        /// The configuration file; without one, a server is looked at as one that we know nothing of.
        #[arg(long)]
        config: Option<PathBuf>,
        /// Runs a made-up referral over it too. It writes there: for test servers.
        #[arg(long)]
        practice: bool,
        /// Where the practice's database goes; thrown away.
        #[arg(long, default_value = ".")]
        data: PathBuf,
    },
}

/// Does what the arguments of the process say.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    // One TLS provider for everything in the process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match arguments.command {
        Command::Validate { files, config: None } => validate_files(&files, Profiles::own()),
        Command::Validate { files, config: Some(path) } => {
            match load(&path).and_then(|config| validation::profiles(&config).map_err(tell)) {
                Ok(profiles) => validate_files(&files, &profiles),
                Err(code) => code,
            }
        }
        Command::CheckConfig { config } => match load(&config).and_then(with_packages).and_then(with_certificates) {
            Ok(config) => {
                say(format!("{} partners, no faults.", config.partners.len()));
                ExitCode::SUCCESS
            }
            Err(code) => code,
        },
        Command::Capability { config: None } => {
            say(format!("{:#}", http::capability::statement("http://127.0.0.1:8080/fhir")));
            ExitCode::SUCCESS
        }
        Command::Capability { config: Some(path) } => match load(&path) {
            Ok(config) => {
                say(format!("{:#}", http::capability::statement(&config.base())));
                ExitCode::SUCCESS
            }
            Err(code) => code,
        },
        Command::Migrate { config } => match load(&config) {
            Ok(config) => block_on(migrate(config)),
            Err(code) => code,
        },
        Command::Serve { config } => match load(&config) {
            Ok(config) => {
                let _log = telemetry::start("info");
                block_on(async { serve(config).await })
            }
            Err(code) => code,
        },
        Command::Partner { command: PartnerCommand::Check { partner, config, practice, data } } => {
            let _log = telemetry::start("error,loopgate=error");
            match config.as_deref().map(load).transpose() {
                Ok(config) => block_on(check_partner(config, partner, practice, data)),
                Err(code) => code,
            }
        }
        Command::Audit { command: AuditCommand::Verify { config, seal } } => match load(&config) {
            Ok(config) => block_on(verify_audit(config, seal)),
            Err(code) => code,
        },
        Command::User { command, config } => match config.as_deref().map(load) {
            Some(Ok(config)) => {
                let _log = telemetry::start("error");
                block_on(user(config, command))
            }
            Some(Err(code)) => code,
            None => {
                eprintln!("loopgate: --config FILE is required");
                ExitCode::from(2)
            }
        },
        Command::Demo { listen, data, exit } => {
            let _log = telemetry::start("warn,loopgate=info");
            block_on(demo::run(listen, data, exit, stop_signal))
        }
    }
}

/// A line of the answer. Who reads no further (`| head`) has what was wanted.
fn say(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}

fn load(path: &Path) -> Result<Config, ExitCode> {
    Config::load(path).map_err(tell)
}

/// The configuration, when what its packages hold can be read as well.
fn with_packages(config: Config) -> Result<Config, ExitCode> {
    validation::profiles(&config).map_err(tell)?;
    Ok(config)
}

/// Certificates that do not fit their keys are seen before the start.
fn with_certificates(config: Config) -> Result<Config, ExitCode> {
    match Network::new(&config) {
        Ok(_) => Ok(config),
        Err(error) => {
            say(told(error));
            Err(ExitCode::FAILURE)
        }
    }
}

fn tell(faults: Vec<Fault>) -> ExitCode {
    for fault in faults {
        say(fault);
    }
    ExitCode::FAILURE
}

fn block_on(work: impl Future<Output = Result<bool, String>>) -> ExitCode {
    // SQLite works on these threads, at the end of deep calls; what is not used costs nothing.
    // One of them may wait for the disk, where the store commits: there is one more than there are processors.
    let workers = std::thread::available_parallelism().map_or(2, |count| count.get() + 1);
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let runtime = match threads.worker_threads(workers).thread_stack_size(STACK).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("loopgate: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("loopgate: {text}");
            ExitCode::FAILURE
        }
    }
}

fn told(error: Error) -> String {
    error.cause.unwrap_or_else(|| error.issues.into_iter().map(|issue| issue.text).collect())
}

async fn migrate(config: Config) -> Result<bool, String> {
    let store = Store::open(config.store.url.expose(), Clock::system()).await.map_err(told)?;
    store.migrate().await.map_err(told)?;
    store.reindex(&config.base()).await.map_err(told)?;
    say("The database is up to date.");
    Ok(true)
}

async fn user(config: Config, command: UserCommand) -> Result<bool, String> {
    let role = |role: &str, partner: &str| {
        let read = PersonRole::read(role, partner);
        read.ok_or("--role is coordinator, administrator, auditor, or staff with --partner".to_string())
    };
    let store = Store::open(config.store.url.expose(), Clock::system()).await.map_err(told)?;
    store.migrate().await.map_err(told)?;
    let given = match command {
        UserCommand::Add { name, role: word, partner } => {
            let role = role(&word, &partner)?;
            accounts::add(&store, &config, &name, &role, &password()?).await.map(Some)
        }
        UserCommand::Reset { name } => accounts::reset(&store, &config, &name, &password()?).await.map(Some),
        UserCommand::Role { name, role: word, partner } => {
            accounts::set_role(&store, &config, &name, &role(&word, &partner)?).await.map(|()| None)
        }
        UserCommand::Remove { name } => accounts::remove(&store, &config, &name).await.map(|()| None),
        UserCommand::List => {
            for (name, role, partner) in accounts::list(&store).await.map_err(told)? {
                say(format!("{name} {role} {partner}").trim_end());
            }
            Ok(None)
        }
    };
    if let Some(given) = given.map_err(told)? {
        say(format!("For the authenticator (type its secret in, or make a QR code of it):\n{}", given.authenticator));
        say("Recovery codes, each good once:");
        given.recovery.iter().for_each(say);
    }
    Ok(true)
}

/// One line of standard input: an argument would stand in the list of processes.
fn password() -> Result<String, String> {
    if std::io::stdin().is_terminal() {
        eprintln!("Type the new password, then Enter. It is shown as you type.");
    }
    let mut line = String::new();
    std::io::stdin().lock().take(8 * 1024).read_line(&mut line).map_err(|error| error.to_string())?;
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}

async fn check_partner(config: Option<Config>, named: String, practice: bool, data: PathBuf) -> Result<bool, String> {
    let config = config.map_or_else(check::bare, Ok)?;
    let partner = check::partner(&config, &named)?;
    let network: Arc<dyn Transport> = Arc::new(Network::new(&config).map_err(told)?);
    let say = &mut |line: &str| say(line);
    let ready = check::report(&config, &partner, network.clone(), say).await;
    if !practice {
        return Ok(ready);
    }
    Ok(check::practise(&config, &partner, network, &data, say).await? && ready)
}

async fn verify_audit(config: Config, seal: Option<String>) -> Result<bool, String> {
    let store = Store::open(config.store.url.expose(), Clock::system()).await.map_err(told)?;
    let found = app::verify(&store, &config, seal.as_deref()).await.map_err(told)?;
    found.faults.iter().for_each(say);
    say(format!("{} seals, {} rows in them, {} rows not sealed yet.", found.seals, found.rows, found.unsealed));
    if let Some(last) = &found.last {
        say(format!("The last seal is {last}"));
    }
    say(if found.faults.is_empty() { "No fault." } else { "The record is not as it was written." });
    Ok(found.faults.is_empty())
}

async fn serve(config: Config) -> Result<bool, String> {
    let address = config.server.listen;
    let gateway = Gateway::open(config, Clock::system()).await.map_err(told)?;
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| format!("{address}: {error}"))?;
    gateway.serve(listener, stop_signal()).await.map_err(told)?;
    Ok(true)
}

/// Becomes true at Ctrl-C or SIGTERM.
fn stop_signal() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        let _ = sender.send(true);
        // Kept, so that nobody takes the end of this task for a signal.
        std::future::pending::<()>().await;
    });
    receiver
}

/// Always strict: what a write would store with a warning is an error here (design D16b).
fn validate_files(files: &[PathBuf], profiles: &Profiles) -> ExitCode {
    let mut good = true;
    for file in files {
        let checked = match std::fs::read(file) {
            Err(error) => Err(Error::malformed(format!("This file can't be read: {}.", error.kind()))),
            Ok(bytes) if is_xml(&bytes) => xml::read(&bytes, Bounds::default()),
            Ok(bytes) => json::parse(&bytes, Bounds::default()),
        };
        match checked.and_then(|value| validate::examine_value(&value, profiles, None)) {
            Ok(findings) => {
                good &= findings.iter().all(|finding| finding.severity != Severity::Error);
                say(outcome::of_findings(&findings, "No fault found."));
            }
            Err(error) => {
                good = false;
                say(outcome::of(&error));
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// No JSON begins like this.
fn is_xml(bytes: &[u8]) -> bool {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start().starts_with(b"<")
}

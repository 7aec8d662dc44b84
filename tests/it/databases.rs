//! A fresh database for every test, on both kinds, with nothing to set up.
//!
//! SQLite: a file in a directory of its own. PostgreSQL: the first test that asks starts one throw-away server for the
//! whole test program, from the programs that are installed; each test gets a database in it. A shell that reads from a
//! pipe we hold stops the server and removes its files when the pipe closes: however the program ends, nothing stays.
//!
//! Databases sort as people do (ICU) where the server can, because byte order is what SQLite already tries.
//! Without PostgreSQL its tests say what was left out and pass; `LOOPGATE_REQUIRE_POSTGRES=1` makes them fail.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use loopgate::store::Store;
use loopgate::time::{Clock, Timestamp};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The time at which every test begins.
pub const BEGINNING: Timestamp = Timestamp(1_800_000_000_000_000);

/// How many tests use the server at once: each may open some dozens of connections.
static TURNS: Semaphore = Semaphore::const_new(6);

/// A fresh database and the clock of its test.
pub struct Place {
    url: String,
    /// Stands still until the test moves it.
    pub clock: Clock,
    file: Option<TempDir>,
    _turn: Option<SemaphorePermit<'static>>,
}

impl Place {
    /// An empty SQLite file.
    pub fn sqlite() -> Place {
        let file = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", file.path().join("gateway.db").display());
        Place { url, clock: Clock::manual(BEGINNING), file: Some(file), _turn: None }
    }

    /// An empty SQLite file in memory, where the machine offers that: for runs that make hundreds.
    pub fn in_memory() -> Place {
        let memory = Path::new("/dev/shm");
        let file = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let url = format!("sqlite://{}", file.path().join("gateway.db").display());
        Place { url, clock: Clock::manual(BEGINNING), file: Some(file), _turn: None }
    }

    /// An empty PostgreSQL database; none where PostgreSQL is not installed.
    pub async fn postgres() -> Option<Place> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let server = server()?;
        let turn = TURNS.acquire().await.unwrap();
        let name = format!("t{:03}", NUMBER.fetch_add(1, Ordering::SeqCst));
        let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
        let sorted = format!("create database {name} template template0 locale_provider icu icu_locale 'en-US'");
        if sqlx::raw_sql(AssertSqlSafe(sorted)).execute(&mut connection).await.is_err() {
            let plain = format!("create database {name}");
            sqlx::raw_sql(AssertSqlSafe(plain)).execute(&mut connection).await.unwrap();
        }
        let clock = Clock::manual(BEGINNING);
        Some(Place { url: server.url(&name), clock, file: None, _turn: Some(turn) })
    }

    /// What the configuration would say.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is SQLite, which has one writer.
    pub fn is_sqlite(&self) -> bool {
        self.file.is_some()
    }

    /// The directory of the SQLite file.
    pub fn folder(&self) -> Option<&Path> {
        self.file.as_ref().map(TempDir::path)
    }

    /// One more gateway over this database; the schema may not be there yet.
    pub async fn open(&self) -> Store {
        Store::open(&self.url, self.clock.clone()).await.unwrap()
    }

    /// One more gateway over this database, ready for use.
    pub async fn store(&self) -> Store {
        let store = self.open().await;
        store.migrate().await.unwrap();
        store
    }
}

/// Makes two tests of one: `name::sqlite` and `name::postgres`.
#[macro_export]
macro_rules! on_both {
    ($name:ident, $test:expr) => {
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn sqlite() {
                $crate::databases::run(Place::sqlite(), $test).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn postgres() {
                if let Some(place) = Place::postgres().await {
                    $crate::databases::run(place, $test).await;
                }
            }
        }
    };
}

/// Runs one test in its place.
pub async fn run(place: Place, test: impl AsyncFnOnce(Place)) {
    test(place).await;
}

/// The throw-away server of this test program.
struct Server {
    port: u16,
    /// Closed when this program ends, and then the server is stopped.
    _open: ChildStdin,
    _shell: Child,
}

impl Server {
    fn url(&self, database: &str) -> String {
        format!("postgres://loopgate@127.0.0.1:{}/{database}", self.port)
    }
}

fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| programs().map(|programs| start(&programs))).as_ref();
    if server.is_none() {
        left_out();
    }
    server
}

#[expect(clippy::print_stderr, reason = "whoever runs the tests must see that half of them were left out")]
fn left_out() {
    let required = std::env::var("LOOPGATE_REQUIRE_POSTGRES").is_ok_and(|value| value == "1");
    assert!(!required, "no PostgreSQL server programs found, and LOOPGATE_REQUIRE_POSTGRES=1 requires them");
    eprintln!("left out: no PostgreSQL server programs found");
}

/// The directory with `initdb`, `pg_ctl` and `postgres`: the highest version below Debian's place, else on the path.
fn programs() -> Option<PathBuf> {
    let complete = |folder: &PathBuf| ["initdb", "pg_ctl", "postgres"].iter().all(|name| folder.join(name).is_file());
    let version = |folder: &PathBuf| folder.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|entry| entry.path().join("bin")).filter(complete).max_by_key(version);
    let path = std::env::var_os("PATH").unwrap_or_default();
    debian.or_else(|| std::env::split_paths(&path).find(complete))
}

/// Sets up and starts a server, then waits for the end of its input, stops it and removes it.
/// `$1` is the directory of the programs, the rest are ports to try.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
programs=$1; shift
place=$(mktemp -d /tmp/loopgate-postgres.XXXXXX) || exit 1
cat >"$place/settings" <<'END'
listen_addresses = '127.0.0.1'
max_connections = 200
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
END
if "$programs/initdb" -D "$place/tables" -U loopgate --auth=trust --encoding=UTF8 --locale=C --no-sync >"$place/log" 2>&1
then
    cat "$place/settings" >>"$place/tables/postgresql.conf"
    for port in "$@"; do
        if "$programs/pg_ctl" -D "$place/tables" -w -l "$place/log" -o "-p $port -k $place" start >>"$place/log" 2>&1
        then
            echo "port $port"
            break
        fi
    done
fi
tail -n 20 "$place/log" | sed 's/^/log: /'
exec >/dev/null
cat >/dev/null
"$programs/pg_ctl" -D "$place/tables" -m immediate stop
rm -rf "$place"
"#;

fn start(programs: &Path) -> Server {
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<String> = listeners.iter().map(|one| one.local_addr().unwrap().port().to_string()).collect();
    drop(listeners);
    // PostgreSQL refuses to run as root.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let runuser = ["/usr/sbin/runuser", "/sbin/runuser"].into_iter().find(|name| Path::new(name).is_file());
    let mut command = Command::new(if is_root { runuser.unwrap_or("runuser") } else { "sh" });
    if is_root {
        command.args(["-u", "postgres", "--", "sh"]);
    }
    command.args(["-c", SCRIPT, "sh"]).arg(programs).args(&ports);
    // Nothing of the caller's PostgreSQL settings, and a directory that everybody may enter.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let (open, said) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut log = String::new();
    for line in BufReader::new(said).lines() {
        let line = line.unwrap();
        if let Some(port) = line.strip_prefix("port ") {
            return Server { port: port.parse().unwrap(), _open: open, _shell: child };
        }
        log.push_str(&line);
        log.push('\n');
    }
    drop(open);
    let _ = child.wait();
    panic!("PostgreSQL did not start:\n{log}");
}

//! The gateway as a whole: store, app, worker and router put together, and served until told to stop.

mod connections;
mod tls;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::app::App;
use crate::config::{Certified, Config};
use crate::delivery::{self, Network, Transport, Worker};
use crate::error::Error;
use crate::http;
use crate::store::Store;
use crate::time::Clock;
use connections::{MOST_OF_ONE, Patient, Seats};
use tls::Certificates;

/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(8);
/// How long saying goodbye to open sockets may take after that.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long it may take for the head of a request, and be silent between two.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two seals of the audit record.
const SEAL_EVERY: Duration = Duration::from_secs(1);
/// Most connections at a time; more are accepted when some of these end.
const MOST_CONNECTIONS: usize = 4_096;

/// A gateway on an open, migrated store.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Its use cases.
    pub app: App,
    /// What sends for it.
    pub worker: Worker,
}

impl Gateway {
    /// Opens the configured store, migrates it, and starts on it. Sends over the network.
    pub async fn open(config: Config, clock: Clock) -> Result<Gateway, Error> {
        let network = Arc::new(Network::new(&config)?);
        Gateway::open_with(config, clock, network).await
    }

    /// The same over another transport: simulated partners.
    pub async fn open_with(config: Config, clock: Clock, transport: Arc<dyn Transport>) -> Result<Gateway, Error> {
        let store = Store::open(config.store.url.expose(), clock.clone()).await?;
        store.migrate().await?;
        store.reindex(&config.base()).await?;
        let app = App::start(config, store, clock).await?;
        app.fetch_with(delivery::fetch_key_sets(transport.clone()));
        let worker = Worker::new(app.clone(), transport);
        Ok(Gateway { app, worker })
    }

    /// Its router.
    pub fn router(&self) -> Router {
        http::router(self.app.clone())
    }

    /// Serves on this listener, and works, until `stop` says true; then ends within ten seconds.
    pub async fn serve(self, listener: TcpListener, stop: watch::Receiver<bool>) -> Result<(), Error> {
        let router = self.router();
        let config = self.app.config();
        let certified = config.partners.iter().flat_map(|partner| partner.certificates.clone()).collect();
        let proxies = config.server.trusted_proxies.clone();
        let mut listening = Listening { proxies, certified, ..Listening::default() };
        if let Some(tls) = &config.server.tls {
            let (certificates, current) = Certificates::read(tls)?;
            listening.tls = Some(current);
            tokio::spawn(certificates.keep(stop.clone()));
        }
        if let Some(address) = config.server.metrics_listen {
            let metrics = TcpListener::bind(address).await.map_err(Error::internal)?;
            let (router, stop) = (http::metrics_router(self.app.clone()), stop.clone());
            tokio::spawn(serve(metrics, Listening::default(), router, stop));
        }
        let worker = tokio::spawn(self.worker.clone().run(stop.clone()));
        let sealing = tokio::spawn(seal(self.app.clone(), stop.clone()));
        tracing::info!(address = %address_of(&listener), base = self.app.own(), tls = config.server.tls.is_some(), "serving");
        let (app, stopping) = (self.app.clone(), stop.clone());
        let sockets = tokio::spawn(async move {
            told(stopping).await;
            app.close_sockets().await;
        });
        let mut late = stop.clone();
        let serving = serve(listener, listening, router, stop.clone());
        tokio::select! {
            () = serving => {}
            () = async {
                let _ = late.wait_for(|stop| *stop).await;
                tokio::time::sleep(DRAIN).await;
            } => tracing::warn!("some requests were still being answered"),
        }
        if tokio::time::timeout(GOODBYE, sockets).await.is_err() {
            tracing::warn!("some sockets were still open");
        }
        if worker.await.is_err() {
            tracing::error!("the worker ended in a panic");
        }
        // What was answered last is sealed last.
        let _ = sealing.await;
        sealed(&self.app).await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Seals the audit record until told to stop.
async fn seal(app: App, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        sealed(&app).await;
        tokio::select! {
            () = tokio::time::sleep(SEAL_EVERY) => {}
            _ = stop.changed() => {}
        }
    }
}

async fn sealed(app: &App) {
    if let Err(error) = app.seal_audit().await {
        tracing::error!(cause = error.cause.as_deref().unwrap_or(""), "the audit record could not be sealed");
    }
}

async fn told(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn address_of(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|_| "?".to_string(), |address| address.to_string())
}

/// How a listener is listened at.
struct Listening {
    /// The certificate of the moment; none: plain HTTP.
    tls: Option<watch::Receiver<TlsAcceptor>>,
    /// How long a client may be slow.
    patience: Duration,
    /// Most connections of an address that is no proxy's.
    most_of_one: usize,
    proxies: Vec<IpAddr>,
    /// What client certificates are known by.
    certified: Arc<[Certified]>,
}

impl Default for Listening {
    fn default() -> Self {
        Listening {
            tls: None,
            patience: PATIENCE,
            most_of_one: MOST_OF_ONE,
            proxies: Vec::new(),
            certified: Arc::default(),
        }
    }
}

/// Serves HTTP/1.1 on every connection until told to stop, and then until what is being answered is.
async fn serve(listener: TcpListener, how: Listening, router: Router, stop: watch::Receiver<bool>) {
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(how.patience);
    let (room, seats) = (Arc::new(Semaphore::new(MOST_CONNECTIONS)), Seats::default());
    let (open, mut all_closed) = mpsc::channel::<()>(1);
    loop {
        let accepted = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            both = accepted => both,
            () = told(stop.clone()) => break,
        };
        let Ok((stream, peer)) = accepted else {
            // No file left to open: some connection will end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let address = peer.ip().to_canonical();
        let most = if how.proxies.contains(&address) { MOST_CONNECTIONS } else { how.most_of_one };
        // One too many is closed at once: its client finds nobody here.
        let Some(seat) = seats.take(address, most) else { continue };
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, how.patience);
        let router = router.clone().layer(axum::Extension(http::ClientAddress(address)));
        let (builder, tls) = (builder.clone(), how.tls.as_ref().map(|current| current.borrow().clone()));
        let (stop, open, certified) = (stop.clone(), open.clone(), how.certified.clone());
        tokio::spawn(async move {
            match tls {
                None => answer(builder, stream, router, stop).await,
                Some(acceptor) => {
                    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        let shown = tls::shown(stream.get_ref().1, &certified).map(http::ClientCertificate);
                        let router = match shown {
                            Some(shown) => router.layer(axum::Extension(shown)),
                            None => router,
                        };
                        answer(builder, stream, router, stop).await;
                    }
                }
            }
            drop((place, seat, open));
        });
    }
    drop(open);
    all_closed.recv().await;
}

/// The requests of one connection, one after the other.
async fn answer<S>(builder: Builder, stream: S, router: Router, stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // A connection that becomes a websocket ends here, and goes on with its keeper (`http::sockets`).
    let mut connection =
        pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).with_upgrades());
    tokio::select! {
        _ = connection.as_mut() => return,
        () = told(stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// What comes back until the gateway closes the connection.
    async fn said(address: SocketAddr, sent: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(sent.as_bytes()).await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn slow_clients_are_left_and_the_others_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let router = Router::new().fallback(|| async { "here" });
        let serving = tokio::spawn(serve(
            listener,
            Listening { patience: Duration::from_millis(300), ..Listening::default() },
            router,
            stopped,
        ));
        let slow =
            [tokio::spawn(said(address, "")), tokio::spawn(said(address, "GET / HTTP/1.1\r\nhost: a\r\nx-slow: "))];
        let quick = said(address, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(quick.starts_with("HTTP/1.1 200") && quick.ends_with("here"), "{quick}");
        for one in slow {
            let said = one.await.unwrap();
            assert!(!said.contains("200"), "{said}");
        }
        // One that keeps its connection for a next request is answered, and then left too.
        let kept = said(address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(kept.starts_with("HTTP/1.1 200"), "{kept}");
        stop.send(true).unwrap();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn one_address_does_not_take_all_the_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let router = Router::new().fallback(|| async { "here" });
        let how = Listening { most_of_one: 2, ..Listening::default() };
        let serving = tokio::spawn(serve(listener, how, router, stopped));
        let ask = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut open = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(ask.as_bytes()).await.unwrap();
            stream.read_exact(&mut [0; 12]).await.unwrap();
            open.push(stream);
        }
        let mut third = TcpStream::connect(address).await.unwrap();
        assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0, "a third was let in");
        open.clear();
        // When the gateway has noticed that they are gone, there is room again.
        loop {
            let said = said(address, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            if said.starts_with("HTTP/1.1 200") {
                break;
            }
            tokio::task::yield_now().await;
        }
        stop.send(true).unwrap();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_http_is_400_and_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let router = Router::new().fallback(|| async { "here" });
        let serving = tokio::spawn(serve(listener, Listening::default(), router, stopped));
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1_000));
        for sent in [
            "nonsense\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            "GET / HTTP/1.1\r\nbad header\r\n\r\n",
            "GET / HTTP/1.1\r\nx: a\rb\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, nonsense\r\n\r\n",
            &long,
            &many,
        ] {
            let said = said(address, sent).await;
            assert!(said.starts_with("HTTP/1.1 4"), "{sent:.60}: {said}");
        }
        stop.send(true).unwrap();
        serving.await.unwrap();
    }
}

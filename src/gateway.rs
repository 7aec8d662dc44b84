//! The gateway as a whole: store, app, worker and router put together, and served until told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::app::App;
use crate::config::{Config, Tls};
use crate::delivery::{self, Network, Transport, Worker};
use crate::error::Error;
use crate::http;
use crate::store::Store;
use crate::time::Clock;

/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(8);
/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

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
        let tls = config.server.tls.as_ref().map(acceptor).transpose()?;
        if let Some(address) = config.server.metrics_listen {
            let metrics = TcpListener::bind(address).await.map_err(Error::internal)?;
            let (router, stop) = (http::metrics_router(self.app.clone()), stop.clone());
            tokio::spawn(async move { axum::serve(metrics, router).with_graceful_shutdown(told(stop)).await });
        }
        let worker = tokio::spawn(self.worker.clone().run(stop.clone()));
        tracing::info!(address = %address_of(&listener), base = self.app.own(), tls = tls.is_some(), "serving");
        let (mut late, graceful) = (stop.clone(), told(stop.clone()));
        let serving = async {
            match tls {
                None => axum::serve(listener, router).with_graceful_shutdown(graceful).await,
                Some(acceptor) => {
                    axum::serve(Secured::new(listener, acceptor), router).with_graceful_shutdown(graceful).await
                }
            }
        };
        tokio::select! {
            result = serving => result.map_err(Error::internal)?,
            () = async {
                let _ = late.wait_for(|stop| *stop).await;
                tokio::time::sleep(DRAIN).await;
            } => tracing::warn!("some requests were still being answered"),
        }
        if worker.await.is_err() {
            tracing::error!("the worker ended in a panic");
        }
        tracing::info!("stopped");
        Ok(())
    }
}

async fn told(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn address_of(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|_| "?".to_string(), |address| address.to_string())
}

/// TLS 1.2 and 1.3 with the configured certificate; client certificates are demanded when a CA for them is given.
fn acceptor(tls: &Tls) -> Result<TlsAcceptor, Error> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = |path| -> Result<Vec<CertificateDer<'static>>, Error> {
        CertificateDer::pem_file_iter(path).map_err(Error::internal)?.collect::<Result<_, _>>().map_err(Error::internal)
    };
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(Error::internal)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(Error::internal)?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in chain(path)? {
                roots.add(certificate).map_err(Error::internal)?;
            }
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(Error::internal)?)
        }
    };
    let mut config = builder.with_single_cert(chain(&tls.cert)?, key).map_err(Error::internal)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A listener whose connections have shaken hands; a slow or broken handshake holds nobody else up.
struct Secured {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl Secured {
    fn new(listener: TcpListener, acceptor: TlsAcceptor) -> Secured {
        let address = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let (sender, ready) = mpsc::channel(64);
        tokio::spawn(async move {
            loop {
                let Ok((stream, peer)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                if sender.is_closed() {
                    return;
                }
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    if let Ok(Ok(secured)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        let _ = sender.send((secured, peer)).await;
                    }
                });
            }
        });
        Secured { ready, address }
    }
}

impl axum::serve::Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(one) => one,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address)
    }
}

//! TLS 1.2 and 1.3 with the configured certificate, read again when its files change.
//!
//! Promises that a certificate which can't be used keeps the one before, and that whoever runs the gateway is told; that
//! client certificates are demanded when an authority for them is configured. Connections that are open stay as they are.
//! <https://www.rfc-editor.org/rfc/rfc8446>

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, digest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use webpki::EndEntityCert;

use crate::config::{Certified, Tls};
use crate::error::Error;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What the files held when they were last looked at.
type Held = Vec<u8>;

/// The acceptor of the moment: whoever accepts a connection takes the one that is there.
pub(super) struct Certificates {
    tls: Tls,
    held: Held,
    told: watch::Sender<TlsAcceptor>,
}

impl Certificates {
    /// Reads the files. What is wrong with them now is an error.
    pub(super) fn read(tls: &Tls) -> Result<(Certificates, watch::Receiver<TlsAcceptor>), Error> {
        let (held, acceptor) = (held(tls), acceptor(tls)?);
        let (told, current) = watch::channel(acceptor);
        Ok((Certificates { tls: tls.clone(), held, told }, current))
    }

    /// Looks at the files until told to stop.
    pub(super) async fn keep(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => self.look(),
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Takes what the files hold now, if they have changed and it can be used; each change is told once.
    fn look(&mut self) {
        let held = held(&self.tls);
        if held == self.held {
            return;
        }
        self.held = held;
        match acceptor(&self.tls) {
            Ok(acceptor) => {
                self.told.send_replace(acceptor);
                tracing::info!("the certificate was read again");
            }
            Err(error) => {
                let cause = error.cause.unwrap_or_default();
                tracing::error!(cause, "the changed certificate can't be used; the one before stays");
            }
        }
    }
}

/// A digest of the files; of one that can't be read it is another than of any that can.
fn held(tls: &Tls) -> Held {
    let mut all = Context::new(&SHA256);
    for path in [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()].into_iter().flatten() {
        match std::fs::read(path) {
            Ok(bytes) => all.update(digest(&SHA256, &bytes).as_ref()),
            Err(_) => all.update(b"unreadable"),
        }
    }
    all.finish().as_ref().to_vec()
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, Error> {
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

/// What the certificate that the client has shown is known by: its SHA-256, and what of this it is valid for.
pub(super) fn shown(session: &rustls::ServerConnection, certified: &[Certified]) -> Option<Vec<Certified>> {
    let shown = session.peer_certificates()?.first()?;
    let mut known = vec![Certified::Sha256(digest(&SHA256, shown).as_ref().try_into().ok()?)];
    let parsed = EndEntityCert::try_from(shown).ok()?;
    let valid = |name: &ServerName<'_>| parsed.verify_is_valid_for_subject_name(name).is_ok();
    let named = |one: &&Certified| match one {
        Certified::Sha256(_) => false,
        Certified::Dns(name) => ServerName::try_from(name.as_str()).is_ok_and(|name| valid(&name)),
        Certified::Ip(address) => valid(&ServerName::from(*address)),
        Certified::Uri(uri) => parsed.valid_uri_names().any(|name| name == uri),
    };
    known.extend(certified.iter().filter(named).cloned());
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    // Item 3 of the issue: a bad new certificate keeps the old one.
    #[test]
    fn a_certificate_that_can_not_be_used_keeps_the_one_before() {
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/keys");
        let folder = tempfile::tempdir().unwrap();
        let put = |from: &str, to: &str| std::fs::copy(keys.join(from), folder.path().join(to)).unwrap();
        put("hub.pem", "cert");
        put("hub.key", "key");
        let tls = Tls { cert: folder.path().join("cert"), key: folder.path().join("key"), client_ca: None };
        let (mut certificates, mut current) = Certificates::read(&tls).unwrap();
        certificates.look();
        assert!(!current.has_changed().unwrap(), "nothing has changed");
        // The certificate comes before its key, which does not fit to it yet.
        put("next.pem", "cert");
        certificates.look();
        assert!(!current.has_changed().unwrap(), "a certificate of another key was taken");
        put("next.key", "key");
        certificates.look();
        assert!(current.has_changed().unwrap());
        current.mark_unchanged();
        for broken in ["", "nonsense"] {
            std::fs::write(&tls.cert, broken).unwrap();
            certificates.look();
            assert!(!current.has_changed().unwrap(), "{broken} was taken");
        }
        std::fs::remove_file(&tls.cert).unwrap();
        certificates.look();
        assert!(!current.has_changed().unwrap());
        put("next.pem", "cert");
        certificates.look();
        assert!(current.has_changed().unwrap(), "what is good again is taken");
    }
}

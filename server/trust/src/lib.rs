//! TLS between the roles: who signs, who is who, and how certificates are renewed.
//!
//! ```text
//!  server (FLEET)  <-- agents join, environments' links -->  instance (instance_name)
//!  server (SERVER) <-- changes that are sent on ----------->  server (SERVER)
//! ```
//!
//! Both sides show a certificate of one authority and look at the other's name. The one exception is an agent that has just
//! started: it sees who the fleet is, by the authority that it was told of, and shows its token; for that it gets its
//! certificate. TLS 1.3 alone (RFC 8446), keys on P-256.
//!
//! Called when connections are made, and twice in a certificate's life. Never says what a name may do.

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SubjectPublicKeyInfo,
};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::CryptoProvider, version::TLS13};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name in the certificate of a server as instances know it.
pub const FLEET: &str = "fleet.penstock.internal";
/// The name in the certificate of a server as other servers know it.
pub const SERVER: &str = "server.penstock.internal";
/// How long an authority that is made here is good for: longer than its process, or the state that keeps it.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How often it is looked whether certificates are to be renewed, or files have changed.
const RENEW_TICK: Duration = Duration::from_secs(5);
/// Clocks may differ by so much.
const CLOCKS_DIFFER: Duration = Duration::from_secs(600);
/// Most bytes of a file of certificates.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The name in an instance's certificate: its provider's name for it.
pub fn instance_name(name: &str) -> String {
    format!("{name}.instance.penstock.internal")
}

/// A certificate, and whom to trust, as PEM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Whom to trust.
    pub trust: String,
    /// After which it should be renewed, in milliseconds: half of its life.
    pub renew_after_ms: u64,
}

/// What one side shows, and whom it believes.
pub struct Identity {
    key: PrivateKeyDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    trust: Arc<RootCertStore>,
}

/// What an authority is made of, as PEM. It is never printed.
#[derive(Clone, Serialize, Deserialize)]
pub struct Pem {
    /// Its certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Signs the certificates of this process, and of those that it lets in.
pub struct Authority {
    /// The name of this process.
    own: &'static str,
    source: Source,
    life: Duration,
    clock: fn() -> OffsetDateTime,
    held: Mutex<Held>,
}

/// Where an authority comes from.
enum Source {
    /// In memory, as it was given.
    Memory,
    Files {
        certificates: PathBuf,
        key: PathBuf,
    },
}

struct Held {
    issuer: Issuer<'static, KeyPair>,
    /// All that are believed, as PEM; the first of them signs.
    trust: String,
    /// What the files held.
    read: (Vec<u8>, Vec<u8>),
    own: Arc<Identity>,
    renew_at: OffsetDateTime,
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Authority {
    /// One that is made now and is in memory alone: nobody can take its key from a disk. Its certificates are good for `life`,
    /// that of this process has the name `own`.
    pub fn embedded(own: &'static str, life: Duration, clock: fn() -> OffsetDateTime) -> io::Result<Self> {
        Self::from_pem(own, &Self::make(clock)?, life, clock)
    }

    /// What an authority is made of that is new.
    pub fn make(clock: fn() -> OffsetDateTime) -> io::Result<Pem> {
        let mut params = CertificateParams::new(Vec::new()).map_err(other)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Penstock");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (clock() - CLOCKS_DIFFER, clock() + AUTHORITY_LIFE);
        let key = KeyPair::generate().map_err(other)?;
        let certificate = params.self_signed(&key).map_err(other)?.pem();
        Ok(Pem { certificate, key: key.serialize_pem() })
    }

    /// That of which this is given. Errors: it is of no use, and how.
    pub fn from_pem(own: &'static str, pem: &Pem, life: Duration, clock: fn() -> OffsetDateTime) -> io::Result<Self> {
        let read = (pem.certificate.clone().into_bytes(), pem.key.clone().into_bytes());
        let named = (Path::new("the authority's certificate"), Path::new("the authority's key"));
        let held = Held::read(own, read, named, life, clock())?;
        Ok(Self { own, source: Source::Memory, life, clock, held: Mutex::new(held) })
    }

    /// That of two files in PEM: certificates, of which the first signs and all are believed, and the key of the first. They
    /// are read again when they change. Errors: which of the files is wrong, and how.
    pub fn from_files(
        own: &'static str,
        certificates: PathBuf,
        key: PathBuf,
        life: Duration,
        clock: fn() -> OffsetDateTime,
    ) -> io::Result<Self> {
        let held = Held::read(own, read_both(&certificates, &key)?, (&certificates, &key), life, clock())?;
        Ok(Self { own, source: Source::Files { certificates, key }, life, clock, held: Mutex::new(held) })
    }

    /// Whom others are to believe, as PEM.
    pub fn trust(&self) -> String {
        self.held.lock().trust.clone()
    }

    /// A certificate with this name for whoever has this public key (PEM). Errors: it is none.
    pub fn issue(&self, name: &str, public_key: &str) -> io::Result<Issued> {
        let key = SubjectPublicKeyInfo::from_pem(public_key).map_err(other)?;
        let held = self.held.lock();
        let certificate = sign(&held.issuer, name, &key, (self.clock)(), self.life)?.pem();
        let renew_after_ms = u64::try_from(self.life.as_millis() / 2).unwrap_or(u64::MAX);
        Ok(Issued { certificate, trust: held.trust.clone(), renew_after_ms })
    }

    /// What this process shows.
    pub fn own(&self) -> Arc<Identity> {
        self.held.lock().own.clone()
    }

    /// Reads files again that have changed, and renews its own certificate in time. Whether others are believed now: then those
    /// whom it let in are to know. Errors: the files are wrong; what was read before holds.
    pub fn refresh(&self) -> io::Result<bool> {
        let now = (self.clock)();
        {
            // First: what is wrong with the files keeps nobody from connecting.
            let mut held = self.held.lock();
            if now >= held.renew_at {
                held.own = Arc::new(identity(&held.issuer, self.own, &held.trust, now, self.life)?);
                held.renew_at = now + self.life / 2;
            }
        }
        if let Source::Files { certificates, key } = &self.source {
            let read = read_both(certificates, key)?;
            if read != self.held.lock().read {
                let held = Held::read(self.own, read, (certificates, key), self.life, now)?;
                *self.held.lock() = held;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Held {
    fn read(
        name: &'static str,
        read: (Vec<u8>, Vec<u8>),
        (certificates, key): (&Path, &Path),
        life: Duration,
        now: OffsetDateTime,
    ) -> io::Result<Self> {
        let wrong = |file: &Path, text: String| invalid(format!("{}: {text}", file.display()));
        let text = |file, bytes: &[u8]| {
            String::from_utf8(bytes.to_vec()).map_err(|_| wrong(file, "expected PEM, found other bytes".into()))
        };
        let (trust, pem) = (text(certificates, &read.0)?, text(key, &read.1)?);
        let all = certificates_of(&trust).map_err(|error| wrong(certificates, error.to_string()))?;
        let first = all.first().ok_or_else(|| wrong(certificates, "expected a certificate in PEM".into()))?;
        let pair = KeyPair::from_pem(&pem).map_err(|error| wrong(key, format!("expected a key in PEM: {error}")))?;
        let own = pair.subject_public_key_info();
        let issuer = Issuer::from_ca_cert_der(first, pair).map_err(|error| wrong(certificates, error.to_string()))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(first).map_err(|error| wrong(certificates, error.to_string()))?;
        if parsed.public_key().raw != own {
            let text = format!("it is not the key of the first certificate of {}", certificates.display());
            return Err(wrong(key, text));
        }
        // What does not say what it may be used for may be used for anything.
        let usages = issuer.key_usages();
        if !parsed.is_ca() || !(usages.is_empty() || usages.contains(&KeyUsagePurpose::KeyCertSign)) {
            return Err(wrong(certificates, "the first certificate may not sign others (CA, keyCertSign)".into()));
        }
        let validity = parsed.validity();
        if !(validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now.unix_timestamp()) {
            return Err(wrong(certificates, format!("the first certificate was good until {}", validity.not_after)));
        }
        let identity = identity(&issuer, name, &trust, now, life)?;
        // Else nobody could connect.
        is_believed(&identity, name, now).map_err(|error| wrong(certificates, error))?;
        Ok(Self { issuer, trust, read, own: Arc::new(identity), renew_at: now + life / 2 })
    }
}

fn is_believed(identity: &Identity, name: &'static str, now: OffsetDateTime) -> Result<(), String> {
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(identity.trust.clone(), crypto()).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let seconds = Duration::from_secs(u64::try_from(now.unix_timestamp()).unwrap_or_default());
    let now = rustls::pki_types::UnixTime::since_unix_epoch(seconds);
    let [own, between @ ..] = &identity.chain[..] else { return Err("no certificate".into()) };
    let seen = verifier.verify_server_cert(own, between, &name, &[], now);
    seen.map(drop).map_err(|error| format!("what it signs is not believed: {error}"))
}

fn read_both(certificates: &Path, key: &Path) -> io::Result<(Vec<u8>, Vec<u8>)> {
    Ok((read_file(certificates)?, read_file(key)?))
}

fn read_file(file: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|open| open.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    Ok(bytes)
}

fn certificates_of(pem: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(other)
}

fn roots(pem: &str) -> io::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_of(pem)? {
        roots.add(certificate).map_err(other)?;
    }
    Ok(Arc::new(roots))
}

fn sign(
    issuer: &Issuer<'static, KeyPair>,
    name: &str,
    key: &impl PublicKeyData,
    now: OffsetDateTime,
    life: Duration,
) -> io::Result<rcgen::Certificate> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(other)?;
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (now - CLOCKS_DIFFER, now + life);
    params.signed_by(key, issuer).map_err(other)
}

fn identity(
    issuer: &Issuer<'static, KeyPair>,
    own: &str,
    trust: &str,
    now: OffsetDateTime,
    life: Duration,
) -> io::Result<Identity> {
    let key = KeyPair::generate().map_err(other)?;
    let certificate = sign(issuer, own, &key, now, life)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(other)?;
    Ok(Identity { key, chain: vec![certificate.der().clone()], trust: roots(trust)? })
}

/// Renews an authority's certificates in time and reads its files again, for as long as it is there. `changed` is called when
/// others are believed.
pub async fn keep_fresh(authority: Weak<Authority>, changed: impl Fn()) {
    loop {
        sleep(RENEW_TICK).await;
        let Some(authority) = authority.upgrade() else { return };
        let own = authority.own;
        match spawn_blocking(move || authority.refresh()).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => {
                tracing::info!(own, "the authority has changed");
                changed();
            }
            Ok(Err(error)) => tracing::error!(own, %error, "the authority cannot be read: the one before is kept"),
            Err(error) => tracing::error!(own, %error, "certificates are not renewed"),
        }
    }
}

/// A key that waits for its certificate.
pub struct Key(KeyPair);

impl Key {
    /// A new one.
    pub fn generate() -> io::Result<Self> {
        KeyPair::generate().map(Self).map_err(other)
    }

    /// Its public half, as PEM.
    pub fn public(&self) -> String {
        self.0.public_key_pem()
    }

    /// With its certificate. Errors: it is none.
    pub fn with(self, issued: &Issued) -> io::Result<Identity> {
        let key = PrivateKeyDer::try_from(self.0.serialize_der()).map_err(other)?;
        Ok(Identity { key, chain: certificates_of(&issued.certificate)?, trust: roots(&issued.trust)? })
    }
}

/// Connects to those whom `trust` (PEM) names, and shows nothing.
pub fn unknown_connector(trust: &str) -> io::Result<TlsConnector> {
    let config = ClientConfig::builder_with_provider(crypto()).with_protocol_versions(&[&TLS13]).map_err(other)?;
    Ok(TlsConnector::from(Arc::new(config.with_root_certificates(roots(trust)?).with_no_client_auth())))
}

impl Identity {
    /// Connects, and shows who it is.
    pub fn connector(&self) -> io::Result<TlsConnector> {
        Ok(TlsConnector::from(Arc::new(self.client()?)))
    }

    /// The same, for a library that connects itself.
    pub fn client(&self) -> io::Result<ClientConfig> {
        let config = ClientConfig::builder_with_provider(crypto()).with_protocol_versions(&[&TLS13]).map_err(other)?;
        let config = config.with_root_certificates(self.trust.clone());
        config.with_client_auth_cert(self.chain.clone(), self.key.clone_key()).map_err(other)
    }

    /// Takes connections, of those who show who they are; of others, too, if `strangers`.
    pub fn acceptor(&self, strangers: bool) -> io::Result<TlsAcceptor> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.trust.clone(), crypto());
        let verifier = if strangers { verifier.allow_unauthenticated() } else { verifier };
        let config = ServerConfig::builder_with_provider(crypto()).with_protocol_versions(&[&TLS13]).map_err(other)?;
        let config = config.with_client_cert_verifier(verifier.build().map_err(other)?);
        let mut config = config.with_single_cert(self.chain.clone(), self.key.clone_key()).map_err(other)?;
        // Each connection shows its certificate anew: one that was renewed or is not believed any more is noticed.
        config.send_tls13_tickets = 0;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Whether the other side of a connection has shown a certificate with this name.
pub fn is_named(shown: Option<&[CertificateDer<'_>]>, name: &str) -> bool {
    let certificate = shown.and_then(|shown| webpki::EndEntityCert::try_from(shown.first()?).ok());
    certificate
        .zip(ServerName::try_from(name).ok())
        .is_some_and(|(certificate, name)| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(3600);

    fn now() -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn later() -> OffsetDateTime {
        now() + LIFE / 2 + Duration::from_secs(1)
    }

    fn instance(authority: &Authority, name: &str) -> Identity {
        let key = Key::generate().unwrap();
        let issued = authority.issue(&instance_name(name), &key.public()).unwrap();
        key.with(&issued).unwrap()
    }

    /// Both sides of a handshake: whether each believes the other, and the name that the server saw.
    async fn shake(from: TlsConnector, to: TlsAcceptor, server: &str, client: &str) -> (bool, bool) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let name = ServerName::try_from(server.to_owned()).unwrap();
        let (one, two) = tokio::join!(from.connect(name, near), to.accept(far));
        let seen = two.as_ref().is_ok_and(|stream| is_named(stream.get_ref().1.peer_certificates(), client));
        (one.is_ok(), seen)
    }

    #[tokio::test]
    async fn each_side_knows_the_other_by_its_name_and_nobody_else() {
        let (own, foreign) =
            (Authority::embedded(FLEET, LIFE, now).unwrap(), Authority::embedded(FLEET, LIFE, now).unwrap());
        let (fleet, one) = (own.own(), instance(&own, "i-1"));
        let name = instance_name("i-1");
        let agent = || one.acceptor(false).unwrap();
        assert_eq!(shake(fleet.connector().unwrap(), agent(), &name, FLEET).await, (true, true));
        assert!(!shake(fleet.connector().unwrap(), agent(), &instance_name("i-2"), FLEET).await.0);
        let sibling = instance(&own, "i-2").connector().unwrap();
        assert_eq!(shake(sibling, agent(), &name, FLEET).await, (true, false), "another instance is not the fleet");
        let stranger = foreign.own().connector().unwrap();
        assert_eq!(shake(stranger, agent(), &name, FLEET).await, (false, false));
        // To the fleet one may come without a certificate, and is nobody then.
        let door = || fleet.acceptor(true).unwrap();
        let new = unknown_connector(&own.trust()).unwrap();
        assert_eq!(shake(new, door(), FLEET, &name).await, (true, false));
        assert_eq!(shake(one.connector().unwrap(), door(), FLEET, &name).await, (true, true));
        let misled = unknown_connector(&foreign.trust()).unwrap();
        assert!(!shake(misled, door(), FLEET, &name).await.0);
    }

    #[tokio::test]
    async fn ones_own_authority_is_read_judged_and_changed_while_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
        let make = |not_after: OffsetDateTime| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::OrganizationName, "us");
            params.not_after = not_after;
            let pair = KeyPair::generate().unwrap();
            (params.self_signed(&pair).unwrap().pem(), pair.serialize_pem())
        };
        let write = |(certificates, pair): &(String, String)| {
            std::fs::write(&file, certificates).unwrap();
            std::fs::write(&key, pair).unwrap();
        };
        let open = || Authority::from_files(FLEET, file.clone(), key.clone(), LIFE, now);
        let (first, second) = (make(now() + AUTHORITY_LIFE), make(now() + AUTHORITY_LIFE));
        write(&first);
        let authority = open().unwrap();
        let agent = instance(&authority, "i-1");
        assert!(!authority.refresh().unwrap(), "nothing changed");
        // Both for a while: what was signed by the first is still believed.
        write(&(format!("{}{}", second.0, first.0), second.1.clone()));
        assert!(authority.refresh().unwrap());
        let (fleet, door) = (authority.own(), authority.own().acceptor(true).unwrap());
        let name = instance_name("i-1");
        assert_eq!(shake(agent.connector().unwrap(), door, FLEET, &name).await, (false, false), "it has not heard yet");
        let told = instance(&authority, "i-1");
        let door = fleet.acceptor(true).unwrap();
        assert_eq!(shake(told.connector().unwrap(), door, FLEET, &name).await, (true, true));
        assert!(shake(fleet.connector().unwrap(), agent.acceptor(false).unwrap(), &name, FLEET).await.0);
        // What is wrong is not taken.
        for (wrong, words) in [
            ((first.0.clone(), second.1.clone()), "not the key of the first certificate"),
            ((String::new(), first.1.clone()), "expected a certificate"),
            ((first.0.clone(), "no key".into()), "expected a key"),
            (make(now() - LIFE), "was good until"),
        ] {
            write(&wrong);
            let error = open().err().unwrap().to_string();
            assert!(error.contains(words) && error.contains("/ca."), "{error}");
            assert!(authority.refresh().is_err());
            assert!(authority.trust().starts_with(&second.0), "what was read before holds");
        }
    }

    #[test]
    fn its_own_certificate_is_renewed_in_time() {
        let mut authority = Authority::embedded(FLEET, LIFE, now).unwrap();
        let first = authority.own();
        authority.refresh().unwrap();
        assert!(Arc::ptr_eq(&first, &authority.own()));
        authority.clock = later;
        authority.refresh().unwrap();
        assert!(!Arc::ptr_eq(&first, &authority.own()));
    }
}

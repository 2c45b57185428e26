//! Upstreams over TLS: the keys `ca_file` and `server_name`. Only in builds with the feature `tls`.
//!
//! Who is trusted is read anew with each configuration, so a renewed store counts after a reload; what trusts
//! the same authorities shares them, whether it is one upstream or ten thousand of a list.
//!
//! The cryptography wants a processor with some instructions, and would panic on others: that is told here,
//! as a mistake of the file.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::balance::tls::Tls;
use crate::balance::upstream::{UpstreamProtocol, UpstreamSpec};
use crate::protocol::target::{Authority, Host};

use super::findings::KeyPlace;
use super::reader::{KeyBlock, Located, quote};
use super::secret::Files;

/// Where systems keep whom they trust: Debian, Alpine and Arch; Red Hat; SUSE; BSD.
const SYSTEM_STORES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities that upstreams of one configuration trust, read once each.
#[derive(Default)]
pub(super) struct Authorities {
    system: Option<Result<Trusted, String>>,
    in_files: HashMap<String, Option<Trusted>>,
}

/// Some authorities.
#[derive(Clone)]
struct Trusted {
    client: Arc<ClientConfig>,
    fingerprint: u64,
}

impl Authorities {
    /// Reads what a block says of it; notes what is wrong.
    pub(super) fn read(
        &mut self,
        files: &mut Files,
        block: &KeyBlock<'_>,
        spec: &mut UpstreamSpec,
    ) {
        if spec.protocol != UpstreamProtocol::Https {
            for key in ["ca_file", "server_name"]
                .into_iter()
                .filter(|key| block.has(key))
            {
                block.place_of(key).error(
                    "is for upstreams that are reached over TLS: write `url: https://host:port`",
                );
            }
            return;
        }
        let url = block.place_of("url");
        let name = match block.text("server_name") {
            Some(Located { place, value }) => {
                ServerName::try_from(value.to_owned()).map_err(|error| {
                    place.error(format!("{error}: write a host name or an IP address"));
                })
            }
            None => name_of(&spec.authority).map_err(|said| url.error(said)),
        };
        let trusted = match block.text("ca_file") {
            Some(path) => self.in_file(files, &path),
            None => self.of_system(files).map_err(|said| url.error(said)).ok(),
        };
        spec.tls = trusted
            .zip(name.ok())
            .map(|(trusted, name)| trusted.under(name));
    }

    /// Does the same for upstreams in lists, of which nothing more is said.
    pub(super) fn read_rest(
        &mut self,
        files: &mut Files,
        place: &KeyPlace<'_>,
        specs: &mut [UpstreamSpec],
    ) {
        let is_left = |spec: &&mut UpstreamSpec| {
            spec.protocol == UpstreamProtocol::Https && spec.tls.is_none()
        };
        for spec in specs.iter_mut().filter(is_left) {
            let name = name_of(&spec.authority);
            match name.and_then(|name| Ok(self.of_system(files)?.under(name))) {
                Ok(tls) => spec.tls = Some(tls),
                Err(said) => place.error(format!("{}: {said}", spec.authority)),
            }
        }
    }

    fn of_system(&mut self, files: &mut Files) -> Result<Trusted, String> {
        let read = || {
            let read = |path: &&str| fs::read_to_string(path).ok();
            let content = SYSTEM_STORES.iter().find_map(read).unwrap_or_default();
            files.saw(&content);
            // Whoever put an odd one there did not do it for us.
            let roots = roots_in(&content).filter_map(Result::ok);
            Trusted::of(roots, &content)?.ok_or_else(|| {
                "this system has no store of trusted authorities: install the package ca-certificates, or write \
                 `ca_file`"
                    .to_owned()
            })
        };
        self.system.get_or_insert_with(read).clone()
    }

    fn in_file(&mut self, files: &mut Files, path: &Located<'_, &str>) -> Option<Trusted> {
        if let Some(known) = self.in_files.get(path.value) {
            return known.clone();
        }
        let mut read = || {
            let (content, _) = files.list(path)?;
            let file = quote(path.value);
            let failed = |said: String| path.place.error(format!("{file}: {said}"));
            let roots: Result<Vec<_>, String> = roots_in(&content).collect();
            let trusted = roots.and_then(|roots| Trusted::of(roots, &content));
            let trusted = trusted.map_err(failed).ok()?;
            if trusted.is_none() {
                failed(
                    "has no certificate in it, which begins with -----BEGIN CERTIFICATE-----"
                        .to_owned(),
                );
            }
            trusted
        };
        let trusted = read();
        self.in_files.insert(path.value.to_owned(), trusted.clone());
        trusted
    }
}

impl Trusted {
    /// None: there is none.
    fn of(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
        content: &str,
    ) -> Result<Option<Self>, String> {
        if !graviola::util::is_cpu_supported() {
            return Err(
                "this processor is too old for the TLS of this program, which wants AES, PCLMULQDQ, BMI1, ADX and \
                 AVX2 (x86-64), or AES, PMULL and SHA2 (ARM64): write http://"
                    .to_owned(),
            );
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates);
        if roots.is_empty() {
            return Ok(None);
        }
        let provider = Arc::new(rustls_graviola::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut client = builder.with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Ok(Some(Self {
            client: Arc::new(client),
            fingerprint: hasher.finish(),
        }))
    }

    fn under(&self, name: ServerName<'static>) -> Arc<Tls> {
        Arc::new(Tls {
            client: Arc::clone(&self.client),
            name,
            trusted: self.fingerprint,
        })
    }
}

/// The certificates of a file in PEM, whatever else is in it.
fn roots_in(content: &str) -> impl Iterator<Item = Result<CertificateDer<'static>, String>> {
    let found = CertificateDer::pem_slice_iter(content.as_bytes());
    found.map(|one| one.map_err(|error| format!("a certificate in it is broken: {error}")))
}

/// The name that the certificate of an upstream must have.
fn name_of(authority: &Authority) -> Result<ServerName<'static>, String> {
    match authority.host() {
        Host::V4(address) => Ok(ServerName::IpAddress((*address).into())),
        Host::V6(address) => Ok(ServerName::IpAddress((*address).into())),
        Host::Name(name) => ServerName::try_from(name.to_string()).map_err(|_no_name| {
            "a certificate has no such name: write `server_name`, too".to_owned()
        }),
    }
}

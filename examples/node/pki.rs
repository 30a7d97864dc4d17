//! `node pki`: an authority and its certificates, as files.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use palyra_quic::{
    CertificateAuthority, Fingerprint, Identity, IssuedCertificate, RevocationList, Trust,
    rustls::pki_types::{CertificateRevocationListDer, pem::PemObject},
};

use crate::{
    args::{Pki, ReservedName, Revocations},
    failure::Failure,
    lines::{self, Certificate, Fingerprinted},
};

/// A directory that `node pki` fills and the other commands read.
#[derive(Clone, Copy)]
pub(crate) struct Directory<'a>(pub(crate) &'a Path);

/// The files of one certificate: `stem.pem` and `stem.key`.
struct Issuance {
    stem: String,
    cert_pem: String,
    key_pem: String,
    fingerprint: Fingerprint,
}

pub(crate) fn run(args: Pki) -> Result<(), Failure> {
    let Pki { dir, names, mut clients } = args;
    let dir = Directory(&dir);
    clients.sort();
    clients.dedup();
    let named: Vec<&str> = clients.iter().map(|client| client.as_str()).collect();
    let wanted = if named.is_empty() { vec![Directory::DEFAULT_CLIENT] } else { named.clone() };

    dir.create()?;
    let (mut to_write, mut to_keep) = (Vec::new(), Vec::new());
    let authority = if dir.holds(CA)? {
        to_keep.push(CA);
        dir.authority()?
    } else {
        for stem in [SERVER].iter().chain(&wanted) {
            if dir.holds(stem)? {
                let file = dir.certificate(stem);
                return Err(Failure::new(format_args!(
                    "{} is there, but the authority that it is from is not; choose another directory",
                    file.display()
                )));
            }
        }
        let authority = CertificateAuthority::new("Palyra Node CA")?;
        to_write.push(Issuance {
            stem: CA.into(),
            cert_pem: authority.cert_pem().into(),
            key_pem: authority.key_pem().into(),
            fingerprint: Fingerprint::of(authority.certificate()),
        });
        authority
    };
    if names.is_empty() && dir.holds(SERVER)? {
        to_keep.push(SERVER);
    } else {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        to_write.push(Issuance::new(SERVER, &authority.issue_server(&names)?));
    }
    for client in wanted {
        if named.is_empty() && dir.holds(client)? {
            to_keep.push(client);
        } else {
            to_write.push(Issuance::new(client, &authority.issue_client(client)?));
        }
    }

    let mut kept = Vec::new();
    for stem in to_keep {
        kept.push((dir.certificate(stem), dir.identity(stem)?.fingerprint()));
    }
    // All files before the first line: the reader of the lines may close the pipe.
    for issuance in &to_write {
        dir.write(issuance)?;
    }
    for (file, fingerprint) in kept {
        report(Certificate::Kept, &file, fingerprint)?;
    }
    for issuance in to_write {
        report(Certificate::Wrote, &dir.certificate(&issuance.stem), issuance.fingerprint)?;
    }
    Ok(())
}

fn report(
    certificate: fn(String) -> Certificate,
    file: &Path,
    fingerprint: Fingerprint,
) -> Result<(), Failure> {
    let certificate = certificate(file.display().to_string());
    lines::print(&Fingerprinted { certificate, fingerprint: fingerprint.to_string() })
}

const CA: &str = ReservedName::CA;
const SERVER: &str = ReservedName::SERVER;

impl Issuance {
    fn new(stem: &str, issued: &IssuedCertificate) -> Self {
        Self {
            stem: stem.into(),
            cert_pem: issued.cert_pem().into(),
            key_pem: issued.key_pem().into(),
            fingerprint: issued.fingerprint(),
        }
    }
}

impl Directory<'_> {
    const DEFAULT_CLIENT: &'static str = "client";

    pub(crate) fn trust(self) -> Result<Trust, Failure> {
        let file = self.certificate(CA);
        Trust::from_pem(&read(&file)?).map_err(|error| Failure::from(error).during(file.display()))
    }

    pub(crate) fn server(self) -> Result<Identity, Failure> {
        self.identity(SERVER)
    }

    pub(crate) fn identity(self, stem: &str) -> Result<Identity, Failure> {
        let (certificate, key) = (self.certificate(stem), self.key(stem));
        Identity::from_pem(&read(&certificate)?, &read(&key)?).map_err(|error| {
            Failure::from(error).during(format_args!("{} and {}", certificate.display(), key.display()))
        })
    }

    /// Reads the revocations again; `None` without `--crl` and `--revoke`. The result replaces `held`,
    /// which is not changed. No list may be older than the same list in `held`.
    pub(crate) fn revocations(
        self,
        args: &Revocations,
        held: Option<&RevocationList>,
    ) -> Result<Option<RevocationList>, Failure> {
        let Revocations { crls: files, revoked } = args;
        if files.is_empty() && revoked.is_empty() {
            return Ok(None);
        }
        let list = held.map_or_else(RevocationList::new, RevocationList::fork);
        list.replace(revoked.iter().copied());
        if !files.is_empty() {
            let authorities = self.trust()?;
            let mut crls = Vec::new();
            for file in files {
                let of_file = read_crls(file)?;
                // Each file alone first, so that the error can name the invalid file.
                RevocationList::new()
                    .replace_crls(&authorities, of_file.iter().cloned())
                    .map_err(|error| Failure::from(error).during(file.display()))?;
                crls.extend(of_file);
            }
            list.replace_crls(&authorities, crls)?;
        }
        Ok(Some(list))
    }

    /// `None` where it has no certificate.
    pub(crate) fn default_client(self) -> Result<Option<Identity>, Failure> {
        let present = exists(&self.certificate(Self::DEFAULT_CLIENT))?;
        present.then(|| self.identity(Self::DEFAULT_CLIENT)).transpose()
    }

    /// Whether both files of a certificate exist; one alone is an error.
    fn holds(self, stem: &str) -> Result<bool, Failure> {
        let (certificate, key) = (self.certificate(stem), self.key(stem));
        match (exists(&certificate)?, exists(&key)?) {
            (true, false) => Err(incomplete(&certificate, &key)),
            (false, true) => Err(incomplete(&key, &certificate)),
            (both, _) => Ok(both),
        }
    }

    fn authority(self) -> Result<CertificateAuthority, Failure> {
        let (certificate, key) = (self.certificate(CA), self.key(CA));
        CertificateAuthority::from_pem(&read(&certificate)?, &read(&key)?).map_err(|error| {
            Failure::from(error).during(format_args!("{} and {}", certificate.display(), key.display()))
        })
    }

    fn certificate(self, stem: &str) -> PathBuf {
        self.0.join(format!("{stem}.pem"))
    }

    fn key(self, stem: &str) -> PathBuf {
        self.0.join(format!("{stem}.key"))
    }

    fn create(self) -> Result<(), Failure> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let created = builder.create(self.0);
        created.map_err(|error| Failure::new(error).during(format_args!("cannot make {}", self.0.display())))
    }

    fn write(self, issuance: &Issuance) -> Result<(), Failure> {
        let Issuance { stem, cert_pem, key_pem, fingerprint: _ } = issuance;
        for (file, pem, access) in [
            (self.key(stem), key_pem, Access::OwnerOnly),
            (self.certificate(stem), cert_pem, Access::Everybody),
        ] {
            replace(&file, pem.as_bytes(), access).map_err(|error| {
                Failure::new(error).during(format_args!("cannot write {}", file.display()))
            })?;
        }
        Ok(())
    }
}

fn incomplete(present: &Path, absent: &Path) -> Failure {
    Failure::new(format_args!("{} is there, but {} is not", present.display(), absent.display()))
}

fn exists(file: &Path) -> Result<bool, Failure> {
    file.try_exists().map_err(|error| unreadable(file, &error))
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| unreadable(file, &error))
}

/// All lists of a PEM file, or the one list of a DER file.
fn read_crls(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Failure> {
    let content = fs::read(file)
        .map_err(|error| Failure::new(error).during(format_args!("cannot read {}", file.display())))?;
    // In DER, a list is a SEQUENCE.
    if content.first() == Some(&DER_SEQUENCE) {
        return Ok(vec![content.into()]);
    }
    let no_good = |reason: &str| Failure::new(reason).during(file.display());
    let crls: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&content)
        .collect::<Result<_, _>>()
        .map_err(|_quotes_its_input| no_good("the PEM of the revocation lists is malformed"))?;
    if crls.is_empty() { Err(no_good("no certificate revocation list in it")) } else { Ok(crls) }
}

const DER_SEQUENCE: u8 = 0x30;

fn unreadable(file: &Path, error: &io::Error) -> Failure {
    let hint = if error.kind() == ErrorKind::NotFound { " (`node pki` makes it)" } else { "" };
    Failure::new(format_args!("cannot read {}: {error}{hint}", file.display()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    OwnerOnly,
    Everybody,
}

/// Replaces a file atomically. The new file never has more permissions than it should.
fn replace(file: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if access == Access::OwnerOnly {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    let mut opened = options.open(&new)?;
    opened.write_all(content)?;
    opened.sync_all()?;
    fs::rename(new, file)
}

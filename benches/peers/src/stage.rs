//! Where they take turns: keys for all, and a fresh pair of processes for each turn.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::{
    Error, Result, brokers,
    contenders::Contender,
    link::Measured,
    processes::{Client, Cores, Figures, Process, Strace},
    setup::SERVER_NAME,
};

/// Another process may take the port that a broker was told to use, before the broker does.
const BROKER_STARTS: usize = 3;

/// A directory with an authority, and a certificate for either side.
pub struct Stage {
    directory: PathBuf,
}

impl Stage {
    pub fn new() -> Result<Self> {
        let directory = env::temp_dir().join(format!("peers-{}", process::id()));
        fs::create_dir_all(&directory)?;
        let stage = Self { directory };
        stage.make_keys()?;
        Ok(stage)
    }

    fn make_keys(&self) -> Result<()> {
        let write = |name: &str, text: String| fs::write(self.directory.join(name), text);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Peers CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        write("ca.pem", params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        for (role, purpose) in
            [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new([SERVER_NAME.to_owned()])?;
            params.distinguished_name.push(DnType::CommonName, role);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![purpose];
            write(&format!("{role}.pem"), params.signed_by(&key, &issuer)?.pem())?;
            write(&format!("{role}.key"), key.serialize_pem())?;
        }
        Ok(())
    }

    /// A server out of this program, and a client for it.
    pub fn pair(
        &self,
        contender: &'static Contender,
        events: u32,
        connections: u32,
        cores: Cores,
    ) -> Result<Pair> {
        let args = [self.pki()?, &events.to_string(), &connections.to_string()];
        let start = || Process::peers(&[["server", contender.name].as_slice(), &args].concat(), cores);
        if contender.broker.is_none() {
            return self.with_client(contender, start()?, events, cores);
        }
        let mut failure = Error::from("never tried");
        for _ in 0..BROKER_STARTS {
            let mut server = start()?;
            let address = server.line()?;
            match brokers::wait_until_listening(&mut server, &address) {
                Ok(()) => return self.with_client_of(contender, server, &address, events, cores),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// A server out of a program of its own.
    pub fn node(&self, contender: &'static Contender, program: &Path, connections: u32) -> Result<Pair> {
        let mut command = Command::new(program);
        command.args([self.pki()?, "0", &connections.to_string()]);
        self.with_client(contender, Process::start(command)?, 0, Cores::All)
    }

    fn with_client(
        &self,
        contender: &'static Contender,
        server: Process,
        events: u32,
        cores: Cores,
    ) -> Result<Pair> {
        let address = server.line()?;
        self.with_client_of(contender, server, &address, events, cores)
    }

    fn with_client_of(
        &self,
        contender: &'static Contender,
        server: Process,
        address: &str,
        events: u32,
        cores: Cores,
    ) -> Result<Pair> {
        let client = Client::start(contender.name, &self.directory, address, events, cores)?;
        Ok(Pair { server, client, scratch: self.directory.clone() })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn pki(&self) -> Result<&str> {
        self.directory.to_str().ok_or_else(|| "a path that is no text".into())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub struct Pair {
    pub server: Process,
    pub client: Client,
    scratch: PathBuf,
}

/// What a command brought, and what it cost.
pub struct Work {
    pub figures: Figures,
    /// Seconds of processor time.
    pub server_cpu: f64,
    pub client_cpu: f64,
}

impl Pair {
    pub fn ask(&mut self, command: &str) -> Measured<Figures> {
        self.client.ask(command)
    }

    pub fn work(&mut self, command: &str) -> Measured<Work> {
        let before = (self.server.cpu()?, self.client.process().cpu()?);
        let figures = self.client.ask(command)?;
        let after = (self.server.cpu()?, self.client.process().cpu()?);
        Ok(Work { figures, server_cpu: after.0 - before.0, client_cpu: after.1 - before.1 })
    }

    /// How many system calls the server and the client make for this command.
    pub fn system_calls(&mut self, command: &str) -> Measured<(f64, f64)> {
        let server = Strace::attach(&self.server, &self.scratch.join("strace-server"))?;
        let client = Strace::attach(self.client.process(), &self.scratch.join("strace-client"))?;
        self.client.ask(command)?;
        // What is still to be acknowledged is part of it.
        thread::sleep(Duration::from_millis(50));
        let (server, client) = (server.finish()?, client.finish()?);
        let total = |calls: &std::collections::BTreeMap<String, f64>| calls.get("total").copied();
        Ok((total(&server).ok_or("no total")?, total(&client).ok_or("no total")?))
    }
}

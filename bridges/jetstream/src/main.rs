//! The bridge between palyra-quic nodes and NATS JetStream, as a program.

mod args;

use std::{fs, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use clap::Parser;
use palyra_jetstream::{FromStream, InboundLog, SourceLog, ToStream, ToStreamOptions};
use palyra_quic::{Client, ClientTls, Endpoint, Identity, Router, ServerTls, Trust};
use tokio::signal::unix::{SignalKind, signal};

use self::args::{Command, Direction, FromStreamArgs, ToStreamArgs};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let Command { direction } = Command::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    match run(direction) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("palyra-jetstream: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(direction: Direction) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let bridge = async {
            match direction {
                Direction::ToStream(args) => to_stream(args).await,
                Direction::FromStream(args) => from_stream(args).await,
            }
        };
        tokio::select! {
            ended = bridge => ended,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        }
    })
}

async fn to_stream(args: ToStreamArgs) -> Result<(), BoxError> {
    let mut tls = ClientTls::new(Trust::from_pem(&read(&args.ca)?)?);
    if let Some((cert, key)) = args.cert.as_ref().zip(args.key.as_ref()) {
        tls = tls.identity(Identity::from_pem(&read(cert)?, &read(key)?)?);
    }
    let mut options = ToStreamOptions::new(&args.nats.stream);
    options.missing_stream = args.missing_stream.into();
    options.duplicate_window = Duration::from_secs(args.duplicate_window);
    options.max_in_flight = args.max_in_flight;
    options.consumer.clone_from(&args.consumer);
    // A machine without IPv6 has no such socket.
    let endpoint = Endpoint::builder().client(tls.clone()).bind(SocketAddr::from(([0; 16], 0)));
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(_) => Endpoint::builder().client(tls).bind(SocketAddr::from(([0; 4], 0)))?,
    };
    let mut logs = Vec::with_capacity(args.logs.len());
    for log in args.logs {
        let client = Client::builder(endpoint.clone()).address(log.node).build()?;
        logs.push(SourceLog { client, log: log.log, subject: log.subject });
    }
    let nats = args.nats.options()?.connect().await?;
    Ok(ToStream::new(nats, options, logs)?.run().await?)
}

async fn from_stream(args: FromStreamArgs) -> Result<(), BoxError> {
    let inbound = InboundLog::open(&args.log, args.max_bytes)?;
    let mut tls = ServerTls::new(Identity::from_pem(&read(&args.cert)?, &read(&args.key)?)?);
    if let Some(file) = &args.client_ca {
        tls = tls.require_client_certificates(Trust::from_pem(&read(file)?)?);
    }
    let router = Router::new().events(inbound.log().clone());
    let endpoint = Endpoint::builder().server(tls).router(router).bind(args.listen)?;
    println!("listening on {}", endpoint.local_addr()?);
    let nats = args.nats.options()?.connect().await?;
    let bridge = FromStream::new(nats, &args.nats.stream, &args.subject, &args.durable, inbound);
    Ok(bridge.ack_wait(Duration::from_millis(args.ack_wait_ms)).run().await?)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

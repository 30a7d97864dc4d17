//! Two nodes whose spans OpenTelemetry puts into one trace, each in a process of its own:
//!
//! ```sh
//! opentelemetry-nodes pki DIR             # certificates for both
//! opentelemetry-nodes serve DIR           # prints: listening ADDRESS
//! opentelemetry-nodes call DIR ADDRESS    # calls the first one
//! ```
//!
//! Both print the spans that OpenTelemetry has recorded. `src/trace.rs` connects it to the endpoints.

mod export;
mod trace;

use std::{env, error::Error, fs, net::SocketAddr, path::Path, process::ExitCode};

use palyra_quic::{
    CertificateAuthority, ClientTls, Context, Endpoint, Identity, Method, Router, ServerTls, Trust,
};
use smol::{Unblock, io::AsyncReadExt};
use tracing::{Instrument, info_span};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const ADD: Method<(u32, u32), u64> = Method::new("demo.add");
const USAGE: &str = "usage: opentelemetry-nodes pki DIR | serve DIR | call DIR ADDRESS";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match *arguments {
        ["pki", directory] => make_pki(Path::new(directory)),
        ["serve", directory] => smol::block_on(serve(Path::new(directory))),
        ["call", directory, address] => smol::block_on(call(Path::new(directory), address)),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until standard input ends.
async fn serve(pki: &Path) -> Outcome {
    let provider = export::start();
    let tls = ServerTls::new(identity(pki, "server")?).require_client_certificates(trust(pki)?);
    let node = Endpoint::builder()
        .server(tls)
        .router(Router::new().serve(ADD, add))
        .extract_trace(trace::extract)
        .bind(([127, 0, 0, 1], 0).into())?;
    println!("listening {}", node.local_addr()?);
    Unblock::new(std::io::stdin()).read_to_end(&mut Vec::new()).await?;
    node.shutdown(std::time::Duration::from_secs(1)).await;
    drop(node);
    Ok(provider.shutdown()?)
}

async fn add(_: Context, (a, b): (u32, u32)) -> Result<u64, palyra_quic::MethodError> {
    // A span of the application's within that of the handler.
    let span = info_span!(target: export::OWN, "adding");
    async { Ok(u64::from(a) + u64::from(b)) }.instrument(span).await
}

async fn call(pki: &Path, address: &str) -> Outcome {
    let provider = export::start();
    let tls = ClientTls::new(trust(pki)?).identity(identity(pki, "client")?);
    let endpoint = Endpoint::builder().client(tls).inject_trace(trace::inject);
    let endpoint = endpoint.bind(([127, 0, 0, 1], 0).into())?;
    let connection = endpoint.connect(address.parse::<SocketAddr>()?).await?;
    // What this node does belongs to one trace, which begins here.
    let order = info_span!(target: export::OWN, "order");
    let sum = connection.call(ADD, &(40, 2)).instrument(order).await?;
    println!("sum {sum}");
    drop(connection);
    Ok(provider.shutdown()?)
}

fn make_pki(directory: &Path) -> Outcome {
    fs::create_dir_all(directory)?;
    let authority = CertificateAuthority::new("Example CA")?;
    fs::write(directory.join("ca.pem"), authority.cert_pem())?;
    for (name, issued) in
        [("server", authority.issue_server(&[])?), ("client", authority.issue_client("caller")?)]
    {
        fs::write(directory.join(name).with_extension("pem"), issued.cert_pem())?;
        fs::write(directory.join(name).with_extension("key"), issued.key_pem())?;
    }
    Ok(())
}

fn trust(directory: &Path) -> Outcome<Trust> {
    Ok(Trust::from_pem(&fs::read(directory.join("ca.pem"))?)?)
}

fn identity(directory: &Path, name: &str) -> Outcome<Identity> {
    let read = |extension| fs::read(directory.join(name).with_extension(extension));
    Ok(Identity::from_pem(&read("pem")?, &read("key")?)?)
}

//! Secrets of connections, for those who asked for them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use crate::common::{Pki, loopback, run};
use palyra_quic::{Endpoint, EndpointBuilder, rustls::KeyLog};

/// What the two sides of a connection derive their keys from (RFC 8446, section 7.1).
const TRAFFIC_SECRETS: [&str; 4] = [
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    "CLIENT_TRAFFIC_SECRET_0",
    "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    "SERVER_TRAFFIC_SECRET_0",
];

#[derive(Debug, Default)]
struct Heard(Mutex<BTreeSet<(String, Vec<u8>)>>);

impl KeyLog for Heard {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().insert((label.to_owned(), secret.to_vec()));
    }
}

/// What is heard at either end of one connection, where it is asked for.
async fn heard(
    server: impl FnOnce(EndpointBuilder, Arc<Heard>) -> EndpointBuilder,
    client: impl FnOnce(EndpointBuilder, Arc<Heard>) -> EndpointBuilder,
) -> [BTreeSet<(String, Vec<u8>)>; 2] {
    let pki = Pki::new();
    let logs = [Arc::new(Heard::default()), Arc::new(Heard::default())];
    let builder = Endpoint::builder().server(pki.server_tls());
    let node = server(builder, logs[0].clone()).bind(loopback()).unwrap();
    let builder = Endpoint::builder().client(pki.client_tls());
    let client = client(builder, logs[1].clone()).bind(loopback()).unwrap();
    client.connect(node.local_addr().unwrap()).await.unwrap();
    logs.map(|log| std::mem::take(&mut *log.0.lock().unwrap()))
}

fn asks(builder: EndpointBuilder, log: Arc<Heard>) -> EndpointBuilder {
    let builder = builder.key_log(log.clone());
    log.log("CLIENT_RANDOM", &[], b"a secret");
    assert!(!format!("{builder:?}").contains("CLIENT_RANDOM"));
    log.0.lock().unwrap().clear();
    builder
}

fn does_not(builder: EndpointBuilder, _log: Arc<Heard>) -> EndpointBuilder {
    builder
}

#[test]
fn only_an_endpoint_with_a_key_log_tells_its_secrets() {
    run(async {
        let [server, client] = heard(asks, asks).await;
        assert_eq!(server, client);
        let labels: BTreeSet<_> = server.iter().map(|(label, _secret)| label.as_str()).collect();
        assert!(TRAFFIC_SECRETS.iter().all(|label| labels.contains(label)), "{labels:?}");

        let [server, client] = heard(asks, does_not).await;
        assert!(!server.is_empty() && client.is_empty());
        let [server, client] = heard(does_not, asks).await;
        assert!(server.is_empty() && !client.is_empty());
        assert!(heard(does_not, does_not).await.iter().all(BTreeSet::is_empty));
    });
}

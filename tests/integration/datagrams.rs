//! Large datagrams over real loopback.

use std::{net::SocketAddr, sync::Arc};

use crate::common::{Pki, in_time, loopback, run};
use palyra_quic::{AsyncIoRuntime, Connection, Context, Endpoint, Router, TransportLimits};

fn node(pki: &Pki, runtime: AsyncIoRuntime, limits: TransportLimits, address: SocketAddr) -> Endpoint {
    Endpoint::builder()
        .shared_runtime(Arc::new(runtime))
        .server(pki.server_tls())
        .client(pki.client_tls())
        .limits(limits)
        .router(Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) }))
        .bind(address)
        .unwrap()
}

fn datagrams_of(max_datagram_bytes: u16) -> TransportLimits {
    TransportLimits::builder().max_datagram_bytes(max_datagram_bytes).build().unwrap()
}

/// Makes calls with large payloads until datagrams of this size are sent.
async fn assert_reaches(connection: &Connection, bytes: u16) {
    let payload: Vec<u8> = (0..=255).cycle().take(500_000).collect();
    loop {
        let echoed = connection.call_raw("demo.echo", payload.clone()).await.unwrap();
        assert!(echoed == payload, "{} bytes came back, and not the same", echoed.len());
        if connection.stats().mtu == u64::from(bytes) {
            return;
        }
    }
}

#[test]
fn datagrams_of_any_size_carry_large_payloads_with_and_without_offloads() {
    run(async {
        let pki = Pki::new();
        let plain = AsyncIoRuntime::global;
        for runtime in [plain(), plain().without_gso(), plain().without_gro()] {
            for (limit, reached) in [(1200, 1200), (8972, 8972), (32_768, 32_768), (65_527, 65_507)] {
                let at = |limit| node(&pki, runtime.clone(), datagrams_of(limit), loopback());
                let (server, client) = (at(limit), at(limit));
                let connection = client.connect(server.local_addr().unwrap()).await.unwrap();
                assert_reaches(&connection, reached).await;
            }
        }
    });
}

/// A batch above 64 KiB would be refused by the system, and with it every datagram in it.
#[test]
fn no_batch_of_large_datagrams_is_refused_by_the_system() {
    run(async {
        let pki = Pki::new();
        let at = || node(&pki, AsyncIoRuntime::global(), datagrams_of(16_000), loopback());
        let (server, client) = (at(), at());
        let connection = client.connect(server.local_addr().unwrap()).await.unwrap();
        assert_reaches(&connection, 16_000).await;
        for _ in 0..20 {
            assert_reaches(&connection, 16_000).await;
        }
        assert_eq!(client.stats().datagrams_not_sent, 0);
        assert_eq!(server.stats().datagrams_not_sent, 0);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_endpoint_on_loopback_takes_the_size_of_its_datagrams_from_the_interface() {
    let shown = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap();
    let mtu: u16 = shown.trim().parse().unwrap_or(u16::MAX);
    smol::block_on(in_time(async {
        let pki = Pki::new();
        let fitted = || {
            let limits = TransportLimits::builder().max_datagram_bytes(65_527);
            limits.fit_datagrams_to_interface().build().unwrap()
        };
        let at = || node(&pki, AsyncIoRuntime::global(), fitted(), loopback());
        let (server, client) = (at(), at());
        let connection = client.connect(server.local_addr().unwrap()).await.unwrap();
        assert_reaches(&connection, mtu - 28).await;
        // The interface takes every probe.
        assert_eq!(client.stats().datagrams_not_sent, 0);
    }));
}

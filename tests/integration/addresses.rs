//! Addresses in all their forms: what can be reached is reached, and what cannot is refused immediately,
//! with the reason.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use palyra_quic::{
    CertificateAuthority, Client, ClientTls, Context, Endpoint, ErrorKind, Router, ServerAddress, ServerTls,
    sim::Sim,
};

use crate::common::{Pki, loopback, run};

/// `false`, and says so, on a machine without IPv6.
fn has_ipv6() -> bool {
    let bound = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0));
    if let Err(error) = &bound {
        println!("skipped: no IPv6 here ({error})");
    }
    bound.is_ok()
}

fn any_v6() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, 0).into()
}

fn node(pki: &Pki, address: SocketAddr) -> Endpoint {
    let router = Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) });
    let builder = Endpoint::builder().server(pki.server_tls()).client(pki.client_tls()).router(router);
    builder.bind(address).unwrap()
}

fn v6(ip: Ipv6Addr, port: u16, flowinfo: u32, scope_id: u32) -> SocketAddr {
    SocketAddrV6::new(ip, port, flowinfo, scope_id).into()
}

async fn assert_reached(dialler: &Endpoint, address: SocketAddr, canonical: IpAddr) {
    let connection = dialler.connect(address).await.unwrap();
    assert_eq!(connection.remote_address().ip(), canonical);
    assert_eq!(connection.call_raw("demo.echo", "hello").await.unwrap(), "hello", "{address}");
    let client = Client::builder(dialler.clone()).address(address).build().unwrap();
    assert_eq!(client.call_raw("demo.echo", "hello").await.unwrap(), "hello", "{address}");
}

#[test]
fn scopes_and_flow_labels_that_answers_lack_do_not_matter() {
    if !has_ipv6() {
        return;
    }
    run(async {
        let pki = Pki::new();
        let server = node(&pki, any_v6());
        let port = server.local_addr().unwrap().port();
        for bound in [any_v6(), (Ipv6Addr::LOCALHOST, 0).into()] {
            let dialler = node(&pki, bound);
            for (flowinfo, scope_id) in [(0, 0), (0, 1), (5, 0), (0xf_ffff, 1), (0, 12_345)] {
                let address = v6(Ipv6Addr::LOCALHOST, port, flowinfo, scope_id);
                assert_reached(&dialler, address, Ipv6Addr::LOCALHOST.into()).await;
            }
        }
    });
}

#[test]
fn an_ipv4_address_in_the_form_of_ipv6_is_reached_from_either_family() {
    run(async {
        let pki = Pki::new();
        let server = node(&pki, loopback());
        let port = server.local_addr().unwrap().port();
        let mut bound = vec![loopback(), (Ipv4Addr::UNSPECIFIED, 0).into()];
        if has_ipv6() {
            bound.push(any_v6());
        }
        for bound in bound {
            let dialler = node(&pki, bound);
            for address in [
                SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                v6(Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port, 0, 0),
                v6(Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port, 7, 1),
            ] {
                assert_reached(&dialler, address, Ipv4Addr::LOCALHOST.into()).await;
            }
        }
    });
}

/// In well under the time of a handshake, or the test would hang.
async fn assert_refused(dialler: &Endpoint, address: SocketAddr, reason: &str) {
    let before = dialler.stats();
    let refused = [
        dialler.connect(address).await.unwrap_err(),
        dialler.connect_unconfirmed(address).await.unwrap_err(),
        Client::builder(dialler.clone()).address(address).build().unwrap_err(),
    ];
    for error in refused {
        assert_eq!(*error.kind(), ErrorKind::InvalidConfig, "{address}: {error}");
        assert!(!error.is_retryable());
        assert!(error.to_string().contains(reason), "{address}: {error}");
    }
    assert_eq!(dialler.stats().handshakes_failed, before.handshakes_failed, "{address} was dialled");
}

#[test]
fn an_address_that_cannot_answer_is_refused_with_the_reason() {
    run(async {
        let pki = Pki::new();
        let mut diallers = vec![node(&pki, (Ipv4Addr::UNSPECIFIED, 0).into())];
        if has_ipv6() {
            diallers.push(node(&pki, any_v6()));
        }
        for dialler in &diallers {
            for (address, reason) in [
                ("0.0.0.0:7443", "unspecified"),
                ("[::]:7443", "unspecified"),
                ("[::ffff:0.0.0.0]:7443", "unspecified"),
                ("127.0.0.1:0", "port 0"),
                ("[::1]:0", "port 0"),
                ("224.0.0.1:7443", "multicast"),
                ("[ff02::1%1]:7443", "multicast"),
                ("255.255.255.255:7443", "broadcast"),
                ("[::ffff:255.255.255.255]:7443", "broadcast"),
            ] {
                assert_refused(dialler, address.parse().unwrap(), reason).await;
            }
        }
        assert_refused(&diallers[0], "[::1]:7443".parse().unwrap(), "IPv6").await;
        if let Some(dialler) = diallers.get(1) {
            assert_refused(dialler, "[fe80::1]:7443".parse().unwrap(), "interface").await;
            assert_refused(
                &node(&pki, (Ipv6Addr::LOCALHOST, 0).into()),
                "127.0.0.1:7443".parse().unwrap(),
                "IPv4",
            )
            .await;
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_for_ipv6_alone_refuses_ipv4() {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn6, bind, setsockopt, socket, sockopt::Ipv6V6Only,
    };
    use std::os::fd::AsRawFd;
    if !has_ipv6() {
        return;
    }
    run(async {
        let pki = Pki::new();
        let server = node(&pki, any_v6());
        let port = server.local_addr().unwrap().port();
        let only = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::empty(), None).unwrap();
        setsockopt(&only, Ipv6V6Only, &true).unwrap();
        bind(only.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)))
            .unwrap();
        let dialler =
            Endpoint::builder().client(pki.client_tls()).bind_socket(UdpSocket::from(only)).unwrap();
        assert_refused(&dialler, (Ipv4Addr::LOCALHOST, port).into(), "IPv4").await;
        assert_refused(&dialler, v6(Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port, 0, 0), "IPv4").await;
        let address = v6(Ipv6Addr::LOCALHOST, port, 0, 1);
        assert_reached(&dialler, address, Ipv6Addr::LOCALHOST.into()).await;
        // The twin: a socket for both families reaches it.
        let both = node(&pki, any_v6());
        assert_reached(&both, (Ipv4Addr::LOCALHOST, port).into(), Ipv4Addr::LOCALHOST.into()).await;
    });
}

#[test]
fn a_client_skips_addresses_of_a_family_that_its_socket_lacks() {
    run(async {
        let pki = Pki::new();
        let server = node(&pki, loopback());
        let address = server.local_addr().unwrap();
        let other = v6(Ipv6Addr::LOCALHOST, address.port(), 0, 0);
        let dialler = node(&pki, loopback());
        for addresses in [[other, address], [address, other]] {
            let client = Client::builder(dialler.clone());
            let client =
                addresses.into_iter().fold(client, palyra_quic::ClientBuilder::address).build().unwrap();
            assert_eq!(client.connection().await.unwrap().remote_address(), address);
        }
        let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        let refused = Client::builder(dialler).address(address).address(unspecified).build().unwrap_err();
        assert_eq!(*refused.kind(), ErrorKind::InvalidConfig);
    });
}

#[test]
fn a_server_is_dialled_by_host_name() {
    run(async {
        let pki = Pki::new();
        let (server, dialler) = (node(&pki, loopback()), node(&pki, loopback()));
        let port = server.local_addr().unwrap().port();
        // Where `localhost` has an IPv6 address too, the socket cannot send to it, and passes it over.
        let connection = dialler.connect(("localhost", port)).await.unwrap();
        assert_eq!(connection.call_raw("demo.echo", "hello").await.unwrap(), "hello");
        let client = Client::builder(dialler.clone()).address(("localhost", port)).build().unwrap();
        assert_eq!(client.call_raw("demo.echo", "hello").await.unwrap(), "hello");

        let other_name = ServerAddress::from(("localhost", port)).server_name("other.example");
        let error = dialler.connect(other_name).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::PeerCertificate);
        assert!(error.to_string().ends_with(&format!("(at localhost, 127.0.0.1:{port})")), "{error}");
    });
}

#[test]
fn a_host_that_cannot_be_one_is_refused_before_a_resolver_is_asked() {
    run(async {
        let dialler = node(&Pki::new(), loopback());
        let wrong = ["", "[::1]", "a b", "no\0where", "a\u{1b}b"].map(|host| (host, 7443));
        // The port of a name that no resolver knows, so that a question would end with another error.
        for (host, port) in wrong.into_iter().chain([("port-zero.invalid", 0)]) {
            let server = ServerAddress::from((host, port)).server_name("localhost");
            for error in [
                Client::builder(dialler.clone()).address(server.clone()).build().unwrap_err(),
                dialler.connect(server).await.unwrap_err(),
            ] {
                assert_eq!(*error.kind(), ErrorKind::InvalidConfig, "{host:?}: {error}");
                assert!(!error.to_string().contains(char::is_control), "{error}");
            }
        }
    });
}

#[test]
fn a_closed_endpoint_asks_for_no_addresses() {
    run(async {
        let dialler = node(&Pki::new(), loopback());
        let closing = dialler.clone();
        closing.shutdown(std::time::Duration::ZERO).await;
        let error = dialler.connect(("localhost", 7443)).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Closed);
    });
}

#[test]
fn each_address_of_a_client_has_a_name_of_its_own() {
    run(async {
        let pki = Pki::new();
        let (server, dialler) = (node(&pki, loopback()), node(&pki, loopback()));
        let address = server.local_addr().unwrap();
        let builder = Client::builder(dialler).address((address, "other.example"));
        let error = builder.clone().build().unwrap().connection().await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::PeerCertificate);
        let client = builder.clone().address((address, "gateway.example")).build().unwrap();
        client.connection().await.unwrap();
        let error = builder.address((address, "no name")).build().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::InvalidConfig);
    });
}

#[test]
fn the_name_that_came_with_the_address_is_verified() {
    let (sim, ca) = (Sim::new(1), CertificateAuthority::new("Test CA").unwrap());
    let server = ServerTls::new(ca.issue_server(&["gateway.example", "10.0.0.2"]).unwrap().identity());
    let hosts = [sim.host([10, 0, 0, 1]), sim.host([10, 0, 0, 2])];
    let nodes = hosts.each_ref().map(|host| {
        let builder = Endpoint::builder().server(server.clone()).client(ClientTls::new(ca.trust()));
        host.bind(builder, 7443).unwrap()
    });
    let [first, second] = hosts.each_ref().map(|host| host.address(7443));
    sim.run(async {
        let dialler = sim.host([10, 0, 0, 3]);
        let dialler = dialler.bind(Endpoint::builder().client(ClientTls::new(ca.trust())), 0).unwrap();
        for right in [ServerAddress::from((first, "gateway.example")), second.into()] {
            dialler.connect(right.clone()).await.unwrap();
            dialler.connect_unconfirmed(right).await.unwrap();
        }
        let wrong =
            [ServerAddress::from(first), (second, "10.0.0.1").into(), (first, "other.example").into()];
        for wrong in wrong {
            for error in [
                dialler.connect(wrong.clone()).await.unwrap_err(),
                dialler.connect_unconfirmed(wrong.clone()).await.unwrap_err(),
            ] {
                assert_eq!(*error.kind(), ErrorKind::PeerCertificate, "{wrong:?}: {error}");
            }
        }
        drop(nodes);
    });
}

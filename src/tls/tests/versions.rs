//! Versions of TLS and application protocols, and handshakes that are not full.

use super::*;

fn pair() -> (ClientConfig, HandshakeReport, ServerConfig) {
    let ca = authority();
    let report = HandshakeReport::default();
    let client = ClientTls::new(ca.trust()).config(&TlsContext::default(), &report).unwrap();
    let server = ServerTls::new(ca.issue_server(&[]).unwrap().identity())
        .config(&TlsContext::default(), &HandshakeReport::default())
        .unwrap();
    (client, report, server)
}

#[test]
fn another_alpn_or_none_is_a_mismatch_on_both_sides() {
    let with = |client_alpn: &[&str], server_alpn: &[&str]| {
        let (mut client, report, mut server) = pair();
        client.alpn_protocols = client_alpn.iter().map(|&alpn| alpn.into()).collect();
        server.alpn_protocols = server_alpn.iter().map(|&alpn| alpn.into()).collect();
        handshake_between(client, "localhost", &report, server)
    };
    let ours = std::str::from_utf8(ALPN).unwrap();
    with(&[ours], &[ours]).assert_done();
    with(&["h3", ours], &[ours]).assert_done();
    for outcome in [with(&["h3"], &[ours]), with(&[], &[ours]), with(&[ours], &["h3"]), with(&[ours], &[])] {
        outcome.assert_kinds(ErrorKind::AlpnMismatch, ErrorKind::AlpnMismatch, "ALPN");
    }
}

#[test]
fn a_server_refuses_a_client_that_offers_tls_1_2_only() {
    /// `supported_versions` of a ClientHello, naming TLS 1.3
    /// ([RFC 8446, section 4.2.1](https://www.rfc-editor.org/rfc/rfc8446#section-4.2.1)).
    const TLS_1_3: [u8; 7] = [0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x04];
    const TLS_1_2: [u8; 7] = [0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x03];

    let (client, _report, server) = pair();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(client), Version::V1, name, Vec::new()).unwrap();
    let mut hello = written(&mut Connection::Client(client)).concat();
    let server = Arc::new(server);
    let read_hello = |hello: &[u8]| {
        let server = ServerConnection::new(Arc::clone(&server), Version::V1, Vec::new()).unwrap();
        read(&mut Connection::Server(server), &[hello.to_vec()])
    };
    assert!(read_hello(&hello).is_ok());

    let at = hello.windows(TLS_1_3.len()).position(|bytes| bytes == TLS_1_3).unwrap();
    hello[at..at + TLS_1_2.len()].copy_from_slice(&TLS_1_2);
    let (here, there) = read_hello(&hello).unwrap_err();
    assert_eq!(*classify(&here, None).kind(), ErrorKind::VersionMismatch);
    assert_eq!(*classify(&there, None).kind(), ErrorKind::VersionMismatch);
}

#[test]
fn a_client_refuses_a_server_that_answers_with_tls_1_2() {
    let (client, report, _server) = pair();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(client), Version::V1, name, Vec::new()).unwrap();
    let mut client = Connection::Client(client);
    written(&mut client);

    // A ServerHello as RFC 5246, section 7.4.1.3, has it: version 1.2, random, no session,
    // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no compression, no extensions.
    let mut hello = vec![2, 0, 0, 38, 3, 3];
    hello.extend([0x11; 32]);
    hello.extend([0, 0xc0, 0x2b, 0]);
    let (here, there) = read(&mut client, &[hello]).unwrap_err();
    assert_eq!(*classify(&here, Some(&report)).kind(), ErrorKind::VersionMismatch);
    assert_eq!(*classify(&there, None).kind(), ErrorKind::VersionMismatch);
}

/// The twin has a server that resumes, as nothing here does.
#[test]
fn a_handshake_that_is_not_full_is_noticed() {
    let ca = authority();
    let tls = ServerTls::new(ca.issue_server(&[]).unwrap().identity());
    let tls = tls.require_client_certificates(ca.trust());
    let sessions = rustls::server::ServerSessionMemoryCache::new(8);
    let checked = |client: &ClientConfig, tickets| {
        let report = HandshakeReport::default();
        let mut server = tls.config(&TlsContext::default(), &report).unwrap();
        if tickets > 0 {
            server.send_tls13_tickets = tickets;
            server.session_storage = sessions.clone();
        }
        let outcome = handshake_between(client.clone(), "localhost", &HandshakeReport::default(), server);
        outcome.assert_done();
        assert!(outcome.connections.1.peer_certificates().is_some());
        report.check_full_handshake()
    };
    let identity = ca.issue_client("sensor").unwrap().identity();
    let client = ClientTls::new(ca.trust()).identity(identity);
    let report = HandshakeReport::default();
    let mut client = client.config(&TlsContext::default(), &report).unwrap();
    client.resumption = rustls::client::Resumption::in_memory_sessions(8);
    assert!(report.check_full_handshake().is_err(), "there was none");
    for _ in 0..3 {
        checked(&client, 0).unwrap();
    }
    report.check_full_handshake().unwrap();
    checked(&client, 2).unwrap();
    assert_eq!(*checked(&client, 2).unwrap_err().kind(), ErrorKind::Protocol);
}

#[test]
fn no_ticket_follows_a_handshake() {
    let (client, report, server) = pair();
    let outcome = handshake_between(client.clone(), "localhost", &report, server.clone());
    outcome.assert_done();
    assert!(outcome.from_server_afterwards.is_empty());

    let mut with_tickets = server;
    with_tickets.send_tls13_tickets = 1;
    with_tickets.session_storage = rustls::server::ServerSessionMemoryCache::new(1);
    let outcome = handshake_between(client, "localhost", &report, with_tickets);
    outcome.assert_done();
    assert!(!outcome.from_server_afterwards.is_empty(), "the test would not see a ticket");
}

//! Pins of servers: checked before the client shows its own certificate.

use super::*;

#[test]
fn a_wrong_pin_ends_the_handshake_before_the_client_shows_its_certificate() {
    let ca = authority();
    let (server, sensor) = (ca.issue_server(&[]).unwrap(), ca.issue_client("sensor").unwrap());
    let tls = ServerTls::new(server.identity()).require_client_certificates(ca.trust());
    let client = ClientTls::new(ca.trust()).identity(sensor.identity());

    let wrong = handshake(&client.clone().pin(Pin::of(ca.certificate())), &tls);
    wrong.assert_kinds(ErrorKind::PinMismatch, ErrorKind::CertificateRefused, "wrong pin");
    assert!(!wrong.client_showed(&sensor.chain()[0]));
    assert!(wrong.connections.1.peer_certificates().is_none());
    let error = wrong.client.unwrap_err();
    assert!(error.explanation().unwrap().contains(&server.fingerprint().to_string()), "{error}");

    let right = handshake(&client.pin(server.fingerprint()), &tls);
    right.assert_done();
    assert!(right.client_showed(&sensor.chain()[0]));
    assert_eq!(right.connections.1.peer_certificates(), Some(sensor.chain()));
}

#[test]
fn pins_of_the_present_and_the_next_certificate_overlap() {
    let ca = authority();
    let (present, next, other) =
        (ca.issue_server(&[]).unwrap(), ca.issue_server(&[]).unwrap(), ca.issue_server(&[]).unwrap());
    let client = ClientTls::new(ca.trust()).pins([present.fingerprint(), next.fingerprint()].map(Pin::from));
    for server in [&present, &next] {
        handshake(&client, &ServerTls::new(server.identity())).assert_done();
    }
    let outcome = handshake(&client, &ServerTls::new(other.identity()));
    outcome.assert_kinds(ErrorKind::PinMismatch, ErrorKind::CertificateRefused, "neither");
}

#[test]
fn a_pin_does_not_stand_in_for_a_valid_chain() {
    let server = self_signed();
    let client = ClientTls::new(authority().trust()).pin(server.fingerprint());
    let outcome = handshake(&client, &ServerTls::new(server));
    outcome.assert_kinds(ErrorKind::PeerCertificate, ErrorKind::CertificateRefused, "self-signed");
}

//! Closing connections that make quinn keep more pieces of streams than their memory is reckoned for.

use std::sync::{Arc, Mutex, Weak};

use super::Node;
use crate::{admission::most_pieces, code::Code, connection::Link, socket::SocketHealth, sync::lock};

/// Accepted connections, to be looked at.
#[derive(Debug, Default)]
pub(super) struct Watched(Mutex<Vec<Weak<Link>>>);

impl Watched {
    pub(super) fn add(&self, link: &Arc<Link>) {
        let mut links = lock(&self.0);
        if links.len() == links.capacity() {
            // What is gone still has its memory.
            links.retain(|link| link.strong_count() > 0);
        }
        links.push(Arc::downgrade(link));
    }

    fn count(&self) -> usize {
        lock(&self.0).len()
    }

    fn those(&self, wanted: impl Fn(&Link) -> bool) -> Vec<Arc<Link>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).filter(|link| wanted(link)).collect()
    }
}

/// Looks at all connections as often as so many datagrams have come that it costs next to nothing for each:
/// what an attacker can add in between is bounded by packets, and not by time.
pub(super) async fn watch(node: &Node, socket: &SocketHealth) {
    let most = most_pieces(node.limits.receive_window());
    let mut received = 0;
    loop {
        received = socket.received(node.watched.count() / 2, received).await;
        for link in node.watched.those(|link| link.has_more_pieces_than(most)) {
            if link.is_open() {
                node.counters.excessive.add();
                tracing::debug!(remote = %link.remote_address(), "too many pieces that cannot be read");
                link.close(Code::EXCESSIVE_LOAD, "too many pieces that cannot be read");
            }
        }
    }
}

#[cfg(all(test, feature = "cert", feature = "sim"))]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use std::time::Duration;

    use quinn::SendStream;

    use crate::{
        cert::CertificateAuthority,
        connection::Connection,
        endpoint::Endpoint,
        frame,
        limits::TransportLimits,
        message::{Codec, Notification, Request},
        router::Router,
        sim::{Link, Sim},
        tls::{ClientTls, ServerTls},
    };

    const MILLI: Duration = Duration::from_millis(1);

    /// A node within 16 MiB, and a client of it, at the ends of this link.
    fn with_client(link: Link, test: impl AsyncFn(&Sim, &Endpoint, &Connection)) {
        let (sim, ca) = (Sim::new(7), CertificateAuthority::new("ca").unwrap());
        sim.set_default_link(link);
        let router = Router::new()
            .unary("echo", |_, params| async move { Ok(params) })
            .notification("heard", |_, _| async {});
        let builder = Endpoint::builder()
            .server(ServerTls::new(ca.issue_server(&[]).unwrap().identity()))
            .limits(TransportLimits::within(16 * 1024 * 1024).unwrap())
            .router(router);
        let node = sim.host([10, 0, 0, 1]).bind(builder, 7443).unwrap();
        let builder = Endpoint::builder().client(ClientTls::new(ca.trust()));
        let client = sim.host([10, 0, 0, 2]).bind(builder, 0).unwrap();
        sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            test(&sim, &node, &connection).await;
        });
    }

    fn request() -> Vec<u8> {
        let request = Request { params: Some(vec![7; 100].into()), ..Request::new("echo") };
        frame::encode(1024, |out| Ok(request.encode(Codec::Cbor, out)?)).unwrap()
    }

    fn notification() -> Vec<u8> {
        let notification = Notification { params: Some(vec![7; 30].into()), ..Notification::new("heard") };
        frame::encode(1024, |out| Ok(notification.encode(Codec::Cbor, out)?)).unwrap()
    }

    /// Each byte in a frame of its own, if the path lets it.
    async fn write_bytes(sim: &Sim, send: &mut SendStream, bytes: &[u8], pause: Duration) {
        for byte in bytes {
            send.write_all(&[*byte]).await.unwrap();
            sim.sleep(pause).await;
        }
    }

    #[test]
    fn requests_that_come_byte_by_byte_are_served_whatever_the_path_loses() {
        let path = || Link::new().delay(10 * MILLI);
        for link in [path(), path().loss(0.1), path().reordering(0.3, 15 * MILLI)] {
            with_client(link, async |sim, node, connection| {
                // Stays open all the time, and has had something to say.
                let mut long_lived = connection.link().open_uni().await.unwrap();
                for round in 0..40 {
                    write_bytes(sim, &mut long_lived, &notification(), MILLI).await;
                    let (mut send, mut recv) = connection.link().open_bi().await.unwrap();
                    write_bytes(sim, &mut send, &request(), MILLI).await;
                    send.finish().unwrap();
                    assert!(!recv.read_to_end(1024).await.unwrap().is_empty(), "{round}");
                }
                assert!(connection.close_reason().is_none());
                assert_eq!(node.stats().connections_excessive, 0);
            });
        }
    }
}

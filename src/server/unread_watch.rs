//! Closes connections that make quinn keep more pieces of streams than there is memory for.

use std::{
    collections::BinaryHeap,
    sync::{Arc, Mutex, Weak},
};

use crate::{
    code::Code,
    limits::{TransportLimits, max_unread_pieces},
    link::Link,
    live_list,
    socket::SocketHealth,
    stats::Counters,
    sync::lock,
};

/// A piece may keep a whole packet, which takes as much memory as is estimated for about 16 pieces; so fewer
/// connections than all may have as many as each may.
const PACKET_PER_PIECES: usize = 8;

/// The least that a piece takes of a datagram: the type of its frame, the stream, a length, and a byte.
const MIN_PIECE_BYTES: usize = 4;

/// Accepted connections, to be looked at.
#[derive(Debug, Default)]
pub(super) struct UnreadWatch(Mutex<Vec<Weak<Link>>>);

impl UnreadWatch {
    pub(super) fn add(&self, link: &Arc<Link>) {
        // A link that is gone keeps its allocation while a weak handle is left.
        live_list::push(&mut lock(&self.0), Arc::downgrade(link), |link| link.strong_count() > 0);
    }

    fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// Those that are open.
    pub(super) fn open(&self) -> Vec<Arc<Link>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).filter(|link| link.is_open()).collect()
    }
}

/// Checks all connections when enough datagrams have arrived that more pieces than are tolerated may be kept.
/// Packets, not time, bound what an attacker can add between two checks. See [`until_next_check`].
///
/// The memory of a node is estimated for a number of pieces in each connection. While all connections
/// together keep less than some of them may, one connection may keep more than its number: an honest sender
/// of small messages that have to wait may fill its window with them. Otherwise the connections with the
/// most pieces are closed.
pub(super) async fn watch(
    watched: &UnreadWatch,
    limits: &TransportLimits,
    counters: &Counters,
    socket: &SocketHealth,
) {
    let (each, most) = tolerated(limits);
    let (mut received, mut kept) = (0, 0);
    loop {
        let datagrams = until_next_check(most.saturating_sub(kept), watched.count(), limits);
        received = socket.received(datagrams, received).await;
        let links = watched.open();
        let numbered = links.iter().enumerate().map(|(number, link)| (link.unread_pieces(), number));
        // The most first. Not a sort, since nearly always none but the first is looked at.
        let mut by_unread: BinaryHeap<_> = numbered.collect();
        kept = by_unread.iter().map(|(unread, _)| unread).sum();
        while let Some((unread, number)) = by_unread.pop() {
            if kept <= most || unread <= each {
                break;
            }
            kept -= unread;
            let Some(link) = links.get(number) else { continue };
            counters.excessive.add();
            tracing::debug!(remote = %link.remote_address(), "too many pieces of streams that cannot be read");
            link.close(Code::EXCESSIVE_LOAD, "too many pieces of streams that cannot be read");
        }
    }
}

/// After how many datagrams to check again, while `room` more pieces are tolerated: before that, they cannot
/// have arrived. If there is little room, a check follows when half as many datagrams have arrived as there
/// are connections, so that it costs no more than looking at two connections for each datagram.
fn until_next_check(room: usize, connections: usize, limits: &TransportLimits) -> usize {
    let pieces = usize::from(limits.datagram_size().max_received()) / MIN_PIECE_BYTES;
    (room / pieces).max(connections / 2)
}

/// How many unread pieces one connection may have, and all of them together before that counts. Fewer where
/// packets may be larger, since a piece may keep one.
fn tolerated(limits: &TransportLimits) -> (usize, usize) {
    let each = max_unread_pieces(limits.receive_window()).div_ceil(limits.datagram_size().times_the_usual());
    let connections = usize::try_from(limits.max_connections()).unwrap_or(usize::MAX);
    (each, each.saturating_mul(connections.div_ceil(PACKET_PER_PIECES)))
}

#[cfg(all(feature = "cert", feature = "sim"))]
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::time::Duration;

    use futures_lite::future::{or, pending};
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
            .serve_raw("echo", |_, params| async move { Ok(params) })
            .on_notification_raw("heard", |_, _| async {});
        let builder = Endpoint::builder()
            .server(ServerTls::new(ca.issue_server(&[]).unwrap().identity()))
            .limits(TransportLimits::within(16 * 1024 * 1024).unwrap())
            .router(router);
        let node = sim.host([10, 0, 0, 1]).bind(builder, 7443).unwrap();
        let builder = Endpoint::builder().client(ClientTls::new(ca.trust()));
        let client = sim.host([10, 0, 0, 2]).bind(builder, 0).unwrap();
        sim.run(async {
            let connection = client.connect((node.local_addr().unwrap(), "localhost")).await.unwrap();
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

    /// Each datagram may consist of the shortest pieces.
    #[test]
    fn what_can_arrive_before_a_check_fits_the_room_or_is_what_half_the_connections_send() {
        for bytes in [1200, 1452, 65_527] {
            let limits = TransportLimits::builder().max_datagram_bytes(bytes).build().unwrap();
            let longest = usize::from(limits.datagram_size().max_received());
            for room in [0, 100, 8192, super::tolerated(&limits).1] {
                for connections in [0, 1, 16, 1024] {
                    let datagrams = super::until_next_check(room, connections, &limits);
                    assert!(datagrams >= connections / 2);
                    let pieces = datagrams * (longest / super::MIN_PIECE_BYTES);
                    assert!(datagrams == connections / 2 || pieces <= room, "{bytes} {room} {connections}");
                }
            }
        }
        let limits = TransportLimits::default();
        let (_, most) = super::tolerated(&limits);
        assert!(super::until_next_check(most, 16, &limits) > 500, "checks are rare where there is much room");
    }

    #[test]
    fn pieces_may_keep_as_much_memory_whatever_the_size_of_datagrams() {
        let kept_by_all = |bytes| {
            let limits = TransportLimits::builder().max_datagram_bytes(bytes).build().unwrap();
            super::tolerated(&limits).1 * usize::from(limits.datagram_size().max_received())
        };
        let by_default = kept_by_all(1452);
        assert_eq!(super::tolerated(&TransportLimits::default()), (8192, 8192 * 32));
        for bytes in [1200, 1473, 8972, 32_768, 65_527] {
            let kept = kept_by_all(bytes);
            assert!(kept <= by_default + by_default / 50, "{bytes}: {kept} and {by_default}");
        }
    }

    fn small() -> TransportLimits {
        TransportLimits::within(16 * 1024 * 1024).unwrap()
    }

    /// The same with handlers that take their time, and one that never ends.
    fn with_slow_node(limits: TransportLimits, link: Link, test: impl AsyncFn(&Sim, &Endpoint, &Connection)) {
        let (sim, ca) = (Sim::new(7), CertificateAuthority::new("ca").unwrap());
        sim.set_default_link(link);
        let clock = || crate::runtime::Clock::new(sim.runtime());
        let (slow, short) = (clock(), clock());
        let router = Router::new()
            .on_notification_raw("t", |_, _| async {})
            .on_notification_raw("slow", move |_, _| slow.sleep(20_000 * MILLI))
            .on_notification_raw("short", move |_, _| short.sleep(250 * MILLI))
            .on_notification_raw("endless", |_, _| pending());
        let builder = Endpoint::builder()
            .server(ServerTls::new(ca.issue_server(&[]).unwrap().identity()))
            .limits(limits)
            .router(router);
        let node = sim.host([10, 0, 0, 1]).bind(builder, 7443).unwrap();
        let builder = Endpoint::builder().client(ClientTls::new(ca.trust()));
        let client = sim.host([10, 0, 0, 2]).bind(builder, 0).unwrap();
        sim.run(async {
            let connection = client.connect((node.local_addr().unwrap(), "localhost")).await.unwrap();
            test(&sim, &node, &connection).await;
        });
    }

    /// Flow control alone holds the sender back.
    #[test]
    fn small_notifications_may_fill_the_window_behind_slow_handlers() {
        let path = || Link::new().delay(20 * MILLI);
        for limits in [small(), TransportLimits::default()] {
            for (link, params) in
                [(path(), 0), (path(), 18), (path().reordering(0.5, 30 * MILLI), 0), (path().loss(0.1), 30)]
            {
                with_slow_node(limits.clone(), link, async |sim, node, connection| {
                    let mut notifiers = Vec::new();
                    for _ in 0..2 {
                        let mut notifier = connection.notifier().await.unwrap();
                        notifier.send_raw("slow", "").await.unwrap();
                        notifiers.push(notifier);
                    }
                    let sending = async {
                        loop {
                            for notifier in &mut notifiers {
                                notifier.send_raw("t", vec![1; params]).await.unwrap();
                                sim.sleep(MILLI).await;
                            }
                        }
                    };
                    or(sending, sim.sleep(19_000 * MILLI)).await;
                    assert_eq!(node.stats().connections_excessive, 0, "{params}");
                });
            }
        }
    }

    /// What they kept is gone with them.
    #[test]
    fn streams_may_end_unread_again_and_again_beside_one_that_stays() {
        let rounds = 150;
        for (limits, first) in
            [(small(), "endless"), (small(), "short"), (TransportLimits::default(), "endless")]
        {
            let limits = limits.to_builder().handler_timeout(300 * MILLI).build().unwrap();
            with_slow_node(limits, Link::new().delay(25 * MILLI), async |sim, node, connection| {
                let mut stays = connection.notifier().await.unwrap();
                stays.send_raw("t", "").await.unwrap();
                for _ in 0..rounds {
                    let mut notifier = connection.notifier().await.unwrap();
                    notifier.send_raw(first, "").await.unwrap();
                    for _ in 0..100 {
                        if notifier.send_raw("t", vec![1; 40]).await.is_err() {
                            break;
                        }
                        sim.sleep(2 * MILLI).await;
                    }
                    drop(notifier);
                    sim.sleep(500 * MILLI).await;
                }
                assert_eq!(node.stats().connections_excessive, 0, "{first}");
                drop(stays);
            });
        }
    }
}

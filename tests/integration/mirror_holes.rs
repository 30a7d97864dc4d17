//! Holes of mirrors, and who fills them.

use std::{path::Path, time::Duration};

use palyra_quic::{Client, Cursor, EventLog, EventLogBuilder, Mirror, Raw, Router};

use crate::{
    common::{Pki, loopback, run},
    mirrors::{Directory, EPOCH, LOG, client, expect, holds, next, node, origin, publish},
};

fn bounds() -> EventLogBuilder {
    EventLog::builder().max_bytes(8 << 20).commit_interval(Duration::ZERO)
}

fn mirror(client: &Client, directory: &Directory, bounds: EventLogBuilder, holders: &[&Client]) -> Mirror {
    let builder = Mirror::builder::<Raw>(client, LOG).bounds(bounds);
    let builder = holders.iter().fold(builder, |builder, holder| builder.fill_from(holder));
    builder.open(&directory.0).unwrap()
}

/// A mirror of a gateway that keeps 10 events, which is away while the gateway gets events up to `last`. It
/// has events 1 to 10, and those that the gateway still had.
async fn with_a_hole(gateway: &EventLog, upstream: &Client, directory: &Directory, last: u64) {
    let mirror = mirror(upstream, directory, bounds(), &[]);
    holds(&mirror, 10).await;
    mirror.close().await.unwrap();
    publish(gateway, 11, last - 10, "event");
}

#[test]
fn a_hole_is_filled_by_the_holders_that_have_its_events() {
    let (pki, directory) = (Pki::new(), Directory::new("filled"));
    run(async {
        let gateway = origin(1, 10, 10, "event");
        let newest = node(&pki, Router::new().events(gateway.clone()), loopback());
        // One has the second half of the hole, and the origin has everything.
        let part = node(&pki, Router::new().events(origin(1, 40, 20, "event")), loopback());
        let whole = node(&pki, Router::new().events(origin(1, 40, 100, "event")), loopback());
        let upstream = client(&pki, &[newest.local_addr().unwrap()]);
        let part = client(&pki, &[part.local_addr().unwrap()]);
        let whole = client(&pki, &[whole.local_addr().unwrap()]);
        with_a_hole(&gateway, &upstream, &directory, 40).await;

        let first = mirror(&upstream, &directory, bounds(), &[&part]);
        let served = node(&pki, Router::new().events(first.served()), loopback());
        let subscriber = client(&pki, &[served.local_addr().unwrap()]);
        holds(&first, 40).await;
        first.wait_for(|status| status.filled == 10).await;
        let mut early = subscriber.subscribe_raw().open();
        expect(&mut early, 1..=10, "event").await;
        let gap = next(&mut early).await.unwrap_err();
        assert_eq!((gap.from, gap.next_seq, gap.missed), (11, 21, Some(10)));
        expect(&mut early, 21..=40, "event").await;
        drop(early);
        drop(served);
        first.close().await.unwrap();

        let second = mirror(&upstream, &directory, bounds(), &[&part, &whole]);
        let served = node(&pki, Router::new().events(second.served()), loopback());
        let subscriber = client(&pki, &[served.local_addr().unwrap()]);
        second.wait_for(|status| status.filled == 10 && status.missing == 0).await;
        expect(&mut subscriber.subscribe_raw().open(), 1..=40, "event").await;
        let in_the_hole = Cursor::new(Some(EPOCH), 15);
        expect(&mut subscriber.subscribe_raw().resume(in_the_hole).open(), 16..=40, "event").await;
        assert_eq!(second.status().fill_error, None);
        // And goes on as before.
        publish(&gateway, 41, 5, "event");
        holds(&second, 45).await;
        assert_eq!(second.log().unwrap().health().damaged_events, 0);
    });
}

#[test]
fn the_other_addresses_of_a_client_are_asked() {
    let (pki, directory) = (Pki::new(), Directory::new("addresses"));
    run(async {
        let gateway = origin(1, 10, 10, "event");
        let newest = node(&pki, Router::new().events(gateway.clone()), loopback());
        let whole = node(&pki, Router::new().events(origin(1, 30, 100, "event")), loopback());
        let both = [newest.local_addr().unwrap(), whole.local_addr().unwrap()];
        with_a_hole(&gateway, &client(&pki, &both[..1]), &directory, 30).await;
        let mirror = mirror(&client(&pki, &both), &directory, bounds(), &[]);
        mirror.wait_for(|status| status.filled == 10 && status.missing == 0).await;
        let served = node(&pki, Router::new().events(mirror.served()), loopback());
        let subscriber = client(&pki, &[served.local_addr().unwrap()]);
        expect(&mut subscriber.subscribe_raw().open(), 1..=30, "event").await;
    });
}

/// Changes a byte of this event in a segment.
fn damage(directory: &Path, event: &str) {
    let damaged = std::fs::read_dir(directory).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        path.extension().is_some_and(|extension| extension == "segment").then_some(path)
    });
    for path in damaged {
        let mut content = std::fs::read(&path).unwrap();
        if let Some(at) = content.windows(event.len()).position(|bytes| bytes == event.as_bytes()) {
            content[at] ^= 1;
            std::fs::write(&path, content).unwrap();
            return;
        }
    }
    panic!("{event} is in no segment");
}

#[test]
fn damage_of_a_mirror_is_healed_by_its_origin() {
    let (pki, directory) = (Pki::new(), Directory::new("damaged"));
    run(async {
        let server = node(&pki, Router::new().events(origin(1, 50, 100, "event")), loopback());
        let upstream = client(&pki, &[server.local_addr().unwrap()]);
        let sound = mirror(&upstream, &directory, bounds(), &[]);
        holds(&sound, 50).await;
        sound.close().await.unwrap();
        damage(&directory.0.join(format!("1-{EPOCH}")), "event 7");
        let mirror = mirror(&upstream, &directory, bounds(), &[]);
        mirror.wait_for(|status| status.filled == 1 && status.missing == 0).await;
        let served = node(&pki, Router::new().events(mirror.served()), loopback());
        let subscriber = client(&pki, &[served.local_addr().unwrap()]);
        expect(&mut subscriber.subscribe_raw().open(), 1..=50, "event").await;
        assert_eq!(mirror.log().unwrap().health().damaged_events, 0);
    });
}

#[test]
fn a_holder_with_other_events_fills_nothing() {
    let (pki, directory) = (Pki::new(), Directory::new("other"));
    run(async {
        let gateway = origin(1, 10, 10, "event");
        let newest = node(&pki, Router::new().events(gateway.clone()), loopback());
        let other = node(&pki, Router::new().events(origin(1, 30, 100, "another event")), loopback());
        let upstream = client(&pki, &[newest.local_addr().unwrap()]);
        with_a_hole(&gateway, &upstream, &directory, 30).await;
        let other = client(&pki, &[other.local_addr().unwrap()]);
        let mirror = mirror(&upstream, &directory, bounds(), &[&other]);
        mirror.wait_for(|status| status.fill_error.is_some()).await;
        let status = mirror.status();
        let reason = "event 10 of a holder is another one than that of the mirror";
        assert_eq!(status.fill_error.as_deref(), Some(reason));
        assert_eq!((status.filled, status.missing), (0, 10));
        let served = node(&pki, Router::new().events(mirror.served()), loopback());
        let subscriber = client(&pki, &[served.local_addr().unwrap()]);
        let mut subscription = subscriber.subscribe_raw().open();
        expect(&mut subscription, 1..=10, "event").await;
        let gap = next(&mut subscription).await.unwrap_err();
        assert_eq!((gap.from, gap.next_seq, gap.missed), (11, 21, Some(10)));
        expect(&mut subscription, 21..=30, "event").await;
    });
}

#[test]
fn a_hole_below_what_the_mirror_keeps_is_not_fetched() {
    let (pki, directory) = (Pki::new(), Directory::new("retention"));
    run(async {
        let gateway = origin(1, 10, 10, "event");
        let newest = node(&pki, Router::new().events(gateway.clone()), loopback());
        let upstream = client(&pki, &[newest.local_addr().unwrap()]);
        with_a_hole(&gateway, &upstream, &directory, 30).await;
        for (number, count) in [(31, 30), (61, 0)] {
            let away = mirror(&upstream, &directory, bounds(), &[]);
            holds(&away, number - 1).await;
            away.close().await.unwrap();
            publish(&gateway, number, count, "event");
        }
        let whole = node(&pki, Router::new().events(origin(1, 60, 100, "event")), loopback());
        let whole = client(&pki, &[whole.local_addr().unwrap()]);
        // The holes are 11 to 20 and 31 to 50, and 26 is the oldest event that is kept.
        let mirror = mirror(&upstream, &directory, bounds().max_events(35), &[&whole]);
        mirror.wait_for(|status| status.filled == 20 && status.missing == 0).await;
        let log = mirror.log().unwrap();
        assert_eq!((log.first_seq(), log.last_seq(), mirror.status().filled), (26, 60, 20));
        let served = node(&pki, Router::new().events(mirror.served()), loopback());
        let subscriber = client(&pki, &[served.local_addr().unwrap()]);
        let mut subscription = subscriber.subscribe_raw().resume(Cursor::new(Some(EPOCH), 10)).open();
        let gap = next(&mut subscription).await.unwrap_err();
        assert_eq!((gap.from, gap.next_seq, gap.missed), (11, 26, Some(15)));
        expect(&mut subscription, 26..=60, "event").await;
    });
}

//! What every event store must do.

use std::{io, time::Duration};

use bytes::Bytes;

use super::event_store::{Batch, Clocks, EventStore, Extent, StoredEvent};

/// Checks that a store keeps the promises of [`EventStore`], as far as that can be seen without taking its
/// medium away. For tests of stores.
///
/// `new` makes a new, empty store each time that it is called.
///
/// # Panics
///
/// If the store breaks a promise.
pub fn conformance<S: EventStore>(mut new: impl FnMut() -> S) {
    numbers_are_assigned_in_order(&new());
    a_batch_is_stored_whole(&new());
    reads_stop_at_the_wanted_size(&new());
    other_numbers_are_refused(&new());
    discarded_events_may_go_and_no_others(&new());
    payloads_of_any_content_and_size_come_back(&new());
    reads_and_appends_go_on_together(&new());
    what_is_at_hand_is_what_a_read_returns(&new());
    numbers_that_are_left_out_are_missing_and_no_others(&new());
    holes_are_filled_and_nothing_is_replaced(&new());
    another_epoch_changes_nothing_else(&new());
    let store = new();
    must(store.append(&batch(store.extent().next, 1)));
    must(store.close());
}

fn another_epoch_changes_nothing_else(store: &impl EventStore) {
    let first = store.extent().next;
    let held = batch(first, 3);
    must(store.append(&held));
    let before = store.extent();
    let epoch = before.epoch % 1000 + 1;
    match store.set_epoch(epoch) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
        set => must(set),
    }
    assert_eq!(store.extent(), Extent { epoch, ..before });
    assert_eq!(read(store, first, usize::MAX), (numbered(&held), first + 3));
    must(store.append(&batch(first + 3, 1)));
}

fn numbers_are_assigned_in_order(store: &impl EventStore) {
    let Extent { epoch, first, next } = store.extent();
    assert!((1..1 << 53).contains(&epoch), "epoch {epoch}");
    assert!((1..1 << 53).contains(&next) && first == next, "an empty store is at {first}..{next}");
    assert_eq!(store.last_clocks(), None, "clocks without a batch");
    assert_eq!(read(store, 0, usize::MAX), (vec![], next), "a read of an empty store");
    for n in 0..3 {
        must(store.append(&batch(next + n, 1)));
        assert_eq!(store.extent(), Extent { epoch, first, next: next + n + 1 });
    }
    must(store.append(&Batch { events: Vec::new(), ..batch(next + 3, 0) }));
    assert_eq!(store.extent(), Extent { epoch, first, next: next + 3 }, "an empty batch changes nothing");
}

fn a_batch_is_stored_whole(store: &impl EventStore) {
    let first = store.extent().next;
    let batch = batch(first, 100);
    must(store.append(&batch));
    let (events, next) = read(store, first, usize::MAX);
    assert_eq!(next, first + 100);
    assert_eq!(events, numbered(&batch), "all events with their numbers and times");
    assert_eq!(store.last_clocks(), Some(batch.clocks));
    assert_eq!(read(store, first + 40, usize::MAX).0, numbered(&batch).split_off(40), "from the middle");
    assert_eq!(read(store, first + 100, usize::MAX), (vec![], first + 100), "behind the last event");
    assert_eq!(read(store, u64::MAX, usize::MAX), (vec![], first + 100), "far behind the last event");
}

fn reads_stop_at_the_wanted_size(store: &impl EventStore) {
    let first = store.extent().next;
    let batch = batch(first, 10);
    must(store.append(&batch));
    let sizes: Vec<usize> = batch.events.iter().map(|event| event.payload.len()).collect();
    let mut from = first;
    while from < first + 10 {
        let (events, next) = read(store, from, 0);
        assert_eq!((events.len(), next), (1, from + 1), "one event, however little is wanted");
        from = next;
    }
    let (events, next) = read(store, first, sizes.iter().take(4).sum());
    assert_eq!((events.len(), next), (4, first + 4), "no more events than it takes");
}

fn other_numbers_are_refused(store: &impl EventStore) {
    let first = store.extent().next;
    must(store.append(&batch(first, 2)));
    for wrong in [0, first, first + 1, first + 3, u64::MAX] {
        let refused = store.append(&batch(wrong, 1)).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::InvalidInput), "number {wrong} instead of {}", first + 2);
    }
    assert_eq!(store.extent().next, first + 2, "what was refused is not stored");
    must(store.append(&batch(first + 2, 1)));
    assert_eq!(read(store, first, usize::MAX).0.len(), 3);
}

fn discarded_events_may_go_and_no_others(store: &impl EventStore) {
    let first = store.extent().next;
    for n in 0..50 {
        must(store.append(&batch(first + n, 1)));
    }
    let mut discarded = first;
    for below in [0, first + 20, first + 10, first + 50, u64::MAX] {
        must(store.discard(below));
        discarded = discarded.max(below.min(first + 50));
        let Extent { first: oldest, next, .. } = store.extent();
        assert_eq!(next, first + 50, "discarding assigns no numbers");
        assert!(oldest <= discarded, "event {oldest} is the oldest, below {discarded} discarded");
        let (events, _) = read(store, oldest, usize::MAX);
        let kept: Vec<u64> = (oldest..next).collect();
        assert_eq!(events.iter().map(|(number, _)| *number).collect::<Vec<_>>(), kept);
    }
    must(store.append(&batch(first + 50, 1)));
    assert_eq!(read(store, first + 50, 0).0, numbered(&batch(first + 50, 1)), "numbers go on");
}

fn payloads_of_any_content_and_size_come_back(store: &impl EventStore) {
    let first = store.extent().next;
    let payloads = [vec![], vec![0; 70_000], vec![0xFF; 4096], (0..=255).collect(), vec![0xA5; 512], vec![0]];
    let event = |payload: Vec<u8>| StoredEvent { payload: Bytes::from(payload), published: Duration::ZERO };
    let events: Vec<_> = payloads.into_iter().map(event).collect();
    let batch = Batch { first, events, clocks: Clocks::default() };
    must(store.append(&batch));
    assert_eq!(read(store, first, usize::MAX).0, numbered(&batch));
}

fn reads_and_appends_go_on_together(store: &impl EventStore) {
    const BATCHES: u64 = 50;
    let first = store.extent().next;
    std::thread::scope(|scope| {
        let reader = || {
            let mut from = first;
            while from < first + BATCHES * 3 {
                let (events, next) = read(store, from, 1000);
                for (number, event) in events {
                    assert_eq!(event, self::event(number), "event {number}");
                    assert_eq!(number, from, "no event is left out");
                    from += 1;
                }
                assert_eq!(next, from);
                std::thread::yield_now();
            }
        };
        scope.spawn(reader);
        scope.spawn(reader);
        for n in 0..BATCHES {
            must(store.append(&batch(first + 3 * n, 3)));
        }
    });
}

fn what_is_at_hand_is_what_a_read_returns(store: &impl EventStore) {
    let first = store.extent().next;
    must(store.append(&batch(first, 100)));
    let expected = numbered(&batch(first, 100));
    for wanted in [1, 7, 200] {
        let (mut at_hand, mut calls) = (Vec::new(), 0);
        let (_, from) = read(store, first, 0);
        store.read_cached(from, &mut |number, event| {
            at_hand.push((number, event));
            calls += 1;
            calls < wanted
        });
        assert!(at_hand.len() <= wanted, "no event after `take` returned false");
        let skipped = usize::try_from(from - first).unwrap_or_default();
        let expected = expected.iter().skip(skipped).take(at_hand.len());
        assert!(at_hand.iter().eq(expected), "events from number {from} on, each once and without holes");
    }
}

fn numbers_that_are_left_out_are_missing_and_no_others(store: &impl EventStore) {
    let first = store.extent().next;
    match store.skip(first + 5) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
        skipped => must(skipped),
    }
    assert_eq!(store.extent().first, store.extent().next, "an empty store stays empty");
    assert_eq!(store.extent().next, first + 5);
    must(store.append(&batch(first + 5, 2)));
    must(store.skip(first + 20));
    assert_eq!(read(store, first + 7, usize::MAX), (vec![], first + 20), "the hole behind the last event");
    for back in [0, first, first + 20] {
        must(store.skip(back));
        assert_eq!(store.extent().next, first + 20, "a number that is not above changes nothing");
    }
    let refused = store.append(&batch(first + 7, 1)).map_err(|error| error.kind());
    assert_eq!(refused, Err(io::ErrorKind::InvalidInput), "what was left out is not filled");
    must(store.append(&batch(first + 20, 3)));
    let expected = [numbered(&batch(first + 5, 2)), numbered(&batch(first + 20, 3))].concat();
    assert_eq!(read(store, first + 5, usize::MAX), (expected, first + 23));
    assert_eq!(read(store, first + 10, 0).0, numbered(&batch(first + 20, 1)), "from within the hole");
    assert_eq!(store.damaged(), 0, "what was left out is not damaged");
}

fn holes_are_filled_and_nothing_is_replaced(store: &impl EventStore) {
    let first = store.extent().next;
    must(store.append(&batch(first, 3)));
    match store.skip(first + 10) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
        skipped => must(skipped),
    }
    let below_nothing = store.fill(&batch(first + 5, 1)).map_err(|error| error.kind());
    if below_nothing == Err(io::ErrorKind::Unsupported) {
        return;
    }
    assert_eq!(below_nothing, Err(io::ErrorKind::InvalidInput), "no event is above the hole yet");
    must(store.append(&batch(first + 10, 3)));
    let (extent, clocks) = (store.extent(), store.last_clocks());
    assert!(store.holes().into_iter().flatten().all(|number| (first + 3..first + 10).contains(&number)));
    must(store.fill(&batch(first + 5, 2)));
    let expected = [(first, 3), (first + 5, 2), (first + 10, 3)];
    let refused =
        [(first, 1), (first + 2, 2), (first + 4, 2), (first + 5, 2), (first + 6, 4), (first + 9, 2)];
    for (wrong, count) in refused.into_iter().chain([(first + 13, 1), (first + 12, 2), (0, 2), (u64::MAX, 2)])
    {
        let event = StoredEvent { payload: Bytes::from_static(b"another one"), published: Duration::ZERO };
        let events = vec![event; usize::try_from(count).unwrap_or_default()];
        let refused = store.fill(&Batch { events, ..batch(wrong, 0) }).map_err(|error| error.kind());
        let kinds = [Err(io::ErrorKind::AlreadyExists), Err(io::ErrorKind::InvalidInput)];
        assert!(kinds.contains(&refused), "{count} from number {wrong} on: {refused:?}");
    }
    let expected: Vec<_> =
        expected.into_iter().flat_map(|(first, count)| numbered(&batch(first, count))).collect();
    assert_eq!(read(store, first, usize::MAX), (expected, first + 13), "what was refused changes nothing");
    must(store.fill(&batch(first + 3, 2)));
    must(store.fill(&batch(first + 7, 3)));
    assert_eq!(read(store, first, usize::MAX), (numbered(&batch(first, 13)), first + 13));
    assert_eq!(read(store, first + 6, 0), (numbered(&batch(first + 6, 1)), first + 7), "from within a hole");
    assert_eq!((store.extent(), store.last_clocks()), (extent, clocks), "the end stays as it is");
    assert_eq!((store.holes(), store.damaged()), (Vec::new(), 0));
    must(store.append(&batch(first + 13, 1)));
    must(store.discard(first + 6));
    let (kept, _) = read(store, first + 6, usize::MAX);
    assert_eq!(kept, numbered(&batch(first + 6, 8)), "only what is below may go");
}

/// Events that can be told apart by their content.
fn batch(first: u64, count: u64) -> Batch {
    let clocks =
        Clocks { log: Duration::from_millis(first % 1_000_000), wall: Duration::from_secs(1_700_000_000) };
    Batch { first, events: (first..first.saturating_add(count)).map(event).collect(), clocks }
}

fn event(number: u64) -> StoredEvent {
    let filler = usize::try_from(number % 7).unwrap_or_default() * 30;
    let payload = format!("event {number} {}", "x".repeat(filler));
    StoredEvent { payload: payload.into(), published: Duration::from_millis(number % 1_000_000) }
}

fn numbered(batch: &Batch) -> Vec<(u64, StoredEvent)> {
    (batch.first..).zip(batch.events.iter().cloned()).collect()
}

fn read(store: &impl EventStore, from: u64, max_bytes: usize) -> (Vec<(u64, StoredEvent)>, u64) {
    let mut events = Vec::new();
    let next = must(store.read(from, max_bytes, &mut events));
    (events, next)
}

fn must<T>(result: io::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the store fails: {error}"),
    }
}

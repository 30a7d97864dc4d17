//! Who gets in: never more than may, and every place is free again in the end.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use super::{Task, run_all};
use crate::{
    admission::{Admission, ConnectionSlot, Full},
    limits::TransportLimits,
    runtime::Clock,
    sync::AtomicUsize,
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn admission(limits: TransportLimits, step: Duration) -> Arc<Admission> {
    Arc::new(Admission::new(Arc::new(limits), Clock::stepping(step)))
}

/// Counts what is held, and never finds more than `most`.
struct Held {
    count: AtomicUsize,
    most: usize,
}

impl Held {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), most })
    }

    fn hold(&self, slot: ConnectionSlot) {
        let count = self.count.fetch_add(1, SeqCst) + 1;
        assert!(count <= self.most, "{count} slots are held");
        self.count.fetch_sub(1, SeqCst);
        drop(slot);
    }
}

/// Handshakes begin, are evicted by others, and end. A slot belongs to one of them at a time.
pub(crate) fn handshakes() {
    let limits = TransportLimits { max_connections: 2, max_handshakes: 1, ..TransportLimits::default() };
    // Every handshake has had its time when the next one comes.
    let admission = admission(limits, Duration::from_secs(1));
    let held = Held::new(2);
    let client = |validated: Option<IpAddr>| {
        let (admission, held) = (Arc::clone(&admission), Arc::clone(&held));
        Box::pin(async move {
            for _ in 0..2 {
                match admission.admit(validated, 0) {
                    Ok(handshake) => {
                        if let Some(slot) = handshake.complete() {
                            held.hold(slot);
                        }
                    }
                    Err(Full::Slots) => {}
                    Err(full) => panic!("{full:?}"),
                }
            }
        }) as Task
    };
    run_all([client(None), client(None), client(Some(HERE))]);
    for _ in 0..2 {
        let slots = [(); 2].map(|()| admission.admit(None, 0).expect("a free slot").complete());
        assert!(slots.iter().all(Option::is_some));
        assert!(matches!(admission.admit(None, 0), Err(Full::Slots)));
    }
}

/// No address has more connections than it may, and none keeps its place when it has left.
pub(crate) fn accounts() {
    let limits = TransportLimits { max_connections_per_address: 1, ..TransportLimits::default() };
    let admission = admission(limits, Duration::ZERO);
    let held = Held::new(1);
    let client = || {
        let (admission, held) = (Arc::clone(&admission), Arc::clone(&held));
        Box::pin(async move {
            for _ in 0..2 {
                match admission.admit(Some(HERE), 0) {
                    Ok(handshake) => held.hold(handshake.complete().expect("nobody evicts it")),
                    Err(full) => assert_eq!(full, Full::Address),
                }
            }
        }) as Task
    };
    run_all([client(), client(), client()]);
    assert!(admission.admit(Some(HERE), 0).is_ok());
}

/// Every piece that is read pays for frames, also while another thread looks at what is unread.
pub(crate) fn pieces() {
    /// What four streams with a small piece each pay for, and no more than that.
    const FRAMES: u64 = 14;
    let admission = admission(TransportLimits::default(), Duration::ZERO);
    let allowance = Arc::new(admission.accepted(None, HERE));
    let now = Instant::now();
    // As long as this is open, no frame is forgiven for having come before all open streams.
    let long_lived = allowance.charge().open_stream();
    let stream = || {
        let allowance = Arc::clone(&allowance);
        Box::pin(async move {
            for _ in 0..2 {
                let mut charge = allowance.charge();
                let open = charge.open_stream();
                charge.add_piece(10, 0);
                drop(open);
            }
        }) as Task
    };
    let looks = {
        let allowance = Arc::clone(&allowance);
        Box::pin(async move {
            for _ in 0..3 {
                allowance.unread_pieces(FRAMES, now);
            }
        }) as Task
    };
    allowance.unread_pieces(FRAMES, now);
    run_all([stream(), stream(), looks]);
    assert_eq!(allowance.unread_pieces(FRAMES, now), 0);
    assert_eq!(admission.frame_bytes(), 0);
    drop(long_lived);
}

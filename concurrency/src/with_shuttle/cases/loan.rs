//! A handler has its stream until the exchange takes it back, and never after that.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use futures_lite::future::poll_once;
use shuttle::rand::{Rng, thread_rng};

use super::{Task, run_all};
use crate::{router::loan::Lender, sync::AtomicUsize};

/// A stream that notices when two write to it.
struct Stream {
    writers: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Stream {
    fn write(&self) {
        assert_eq!(self.writers.fetch_add(1, SeqCst), 0, "another writes");
        self.writers.fetch_sub(1, SeqCst);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.open.fetch_sub(1, SeqCst);
    }
}

/// The handler leaves its sink to a task, which goes on while the exchange takes the stream back or leaves.
pub(crate) fn loan() {
    let (writers, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
    let (lender, borrower) = Lender::new_loan(Stream { writers: Arc::clone(&writers), open: Arc::clone(&open) });
    let over = Arc::new(AtomicUsize::new(0));
    let task = {
        let over = Arc::clone(&over);
        Box::pin(async move {
            for _ in 0..3 {
                let was_over = over.load(SeqCst) > 0;
                let stream = borrower.get().await;
                assert!(!was_over || stream.is_none(), "the loan is over");
                if let Some(stream) = &*stream {
                    stream.write();
                }
            }
            drop(borrower);
        }) as Task
    };
    let exchange = {
        let over = Arc::clone(&over);
        Box::pin(async move {
            let waits = thread_rng().r#gen::<bool>();
            let back =
                if waits { Some(lender.take_back().await) } else { poll_once(lender.take_back()).await };
            match back {
                Some(stream) => {
                    over.store(1, SeqCst);
                    let stream = stream.expect("nobody else takes it");
                    stream.write();
                    stream.write();
                }
                None => {
                    lender.abandon();
                    over.store(1, SeqCst);
                }
            }
        }) as Task
    };
    run_all([task, exchange]);
    assert_eq!(open.load(SeqCst), 0, "the stream stays open");
}

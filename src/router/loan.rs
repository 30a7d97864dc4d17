//! How an exchange lends its stream to a handler, and gets it back.

use std::sync::{Arc, atomic::Ordering};

use crate::sync::{AsyncMutex, AsyncMutexGuard, AtomicBool};

/// The side that the value belongs to. Invariant: only one side uses the value at a time, and the borrower
/// never again once the lender has taken it back or has abandoned it.
pub(crate) struct Lender<T> {
    loan: Arc<Loan<T>>,
}

/// The side that may use the value for now, and that may outlive the loan. Its clones use the value one at a
/// time.
pub(crate) struct Borrower<T> {
    loan: Arc<Loan<T>>,
}

struct Loan<T> {
    /// `None` once the loan is over.
    value: AsyncMutex<Option<T>>,
    /// The lender no longer waits for the value.
    abandoned: AtomicBool,
}

impl<T> Lender<T> {
    /// Lends a value until it is taken back.
    pub(crate) fn new_loan(value: T) -> (Self, Borrower<T>) {
        let loan = Arc::new(Loan { value: AsyncMutex::new(Some(value)), abandoned: AtomicBool::new(false) });
        (Self { loan: Arc::clone(&loan) }, Borrower { loan })
    }

    /// Waits until the borrower does not use the value, and takes it back.
    pub(crate) async fn take_back(&self) -> Option<T> {
        self.loan.value.lock().await.take()
    }

    /// Leaves the value to the borrower, who drops it when it next asks for it, or when it is dropped itself.
    pub(crate) fn abandon(self) {
        self.loan.abandoned.store(true, Ordering::Relaxed);
    }
}

impl<T> Clone for Borrower<T> {
    fn clone(&self) -> Self {
        Self { loan: Arc::clone(&self.loan) }
    }
}

impl<T> Borrower<T> {
    /// The value, for as long as the guard lives; `None` inside once the loan is over.
    pub(crate) async fn get(&self) -> AsyncMutexGuard<'_, Option<T>> {
        let mut value = self.loan.value.lock().await;
        if self.loan.abandoned.load(Ordering::Relaxed) {
            *value = None;
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn the_lender_waits_for_the_borrower_and_leaves_it_nothing() {
        block_on(async {
            let (lender, borrower) = Lender::new_loan("stream");
            let used = borrower.get().await;
            assert!(poll_once(lender.take_back()).await.is_none(), "the borrower uses it");
            drop(used);
            assert_eq!(lender.take_back().await, Some("stream"));
            assert_eq!(*borrower.get().await, None);
        });
    }

    #[test]
    fn what_the_lender_abandons_is_dropped_at_the_next_use() {
        let value = Arc::new(());
        let (lender, borrower) = Lender::new_loan(Arc::clone(&value));
        lender.abandon();
        assert_eq!(Arc::strong_count(&value), 2);
        assert!(block_on(borrower.get()).is_none());
        assert_eq!(Arc::strong_count(&value), 1);
    }
}

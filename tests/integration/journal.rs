//! What handlers and interceptors note of themselves, in the tests of both kinds of interceptors.

use std::sync::{Arc, Mutex};

use palyra_quic::{Context, ResponseSink, Router};

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub(crate) fn note(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A router whose handlers note that they have run.
pub(crate) fn noting(journal: &Journal) -> Router {
    let [unary, streaming, notification] = [(); 3].map(|()| journal.clone());
    Router::new()
        .serve("double", move |_: Context, n: u32| {
            unary.note("double");
            async move { Ok(n * 2) }
        })
        .serve_stream("count", move |_: Context, last: u32, mut answers: ResponseSink<u32>| {
            streaming.note("count");
            async move {
                for n in 1..=last {
                    answers.send(&n).await?;
                }
                Ok(())
            }
        })
        .on_notification("note", move |_: Context, text: String| {
            notification.note(text);
            async {}
        })
}

//! Look-ups of host names that callers share, and a bound on how many run.
//!
//! The system offers no way to cancel a look-up: it keeps its thread until DNS has answered or timed out. So
//! a caller that gives up leaves its look-up to the next caller, and must not make room for another.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
};

use event_listener::Event;

use crate::sync::{lock, wait_until};

/// Look-ups of one endpoint that run at the same time, at most. Each keeps one of the 500 threads of the
/// crate `blocking`, which the whole process shares, event logs in files among others.
const MAX_RUNNING: usize = 4;

/// What the system said of a host, shared by all who asked.
pub(super) type Answer = Result<Arc<[SocketAddr]>, Arc<io::Error>>;

/// Invariant: at most [`MAX_RUNNING`] look-ups run, each of another host or port.
pub(super) struct LookUps {
    shared: Arc<Shared>,
    /// Begins a look-up somewhere else, without waiting for it.
    begin: Box<dyn Fn(LookUp) + Send + Sync>,
}

#[derive(Debug, Default)]
struct Shared {
    running: Mutex<Vec<Arc<Question>>>,
    /// A look-up has ended.
    ended: Event,
}

/// A host and port that are being looked up.
#[derive(Debug)]
struct Question {
    host: Box<str>,
    port: u16,
    answer: OnceLock<Answer>,
}

/// A look-up that runs until it is [answered](Self::answer), or dropped.
pub(super) struct LookUp {
    question: Arc<Question>,
    shared: Arc<Shared>,
}

impl LookUps {
    pub(super) fn new(begin: impl Fn(LookUp) + Send + Sync + 'static) -> Self {
        Self { shared: Arc::default(), begin: Box::new(begin) }
    }

    /// Joins the look-up of this host and port that runs, or begins one when fewer than [`MAX_RUNNING`] run.
    /// A look-up that has begun goes on when this future is dropped, and the next caller joins it.
    pub(super) async fn look_up(&self, host: &str, port: u16) -> Answer {
        let question = self.ask(host, port).await;
        wait_until(&self.shared.ended, || question.answer.get().is_some()).await;
        question.answer.get().cloned().unwrap_or_else(|| Err(abandoned()))
    }

    async fn ask(&self, host: &str, port: u16) -> Arc<Question> {
        loop {
            let ended = self.shared.ended.listen();
            // After the listener, so that it hears of a look-up that ends in between.
            if let Some(question) = self.try_ask(host, port) {
                return question;
            }
            ended.await;
        }
    }

    fn try_ask(&self, host: &str, port: u16) -> Option<Arc<Question>> {
        let mut running = lock(&self.shared.running);
        if let Some(same) = running.iter().find(|running| &*running.host == host && running.port == port) {
            return Some(Arc::clone(same));
        }
        if running.len() >= MAX_RUNNING {
            return None;
        }
        let question = Arc::new(Question { host: host.into(), port, answer: OnceLock::new() });
        running.push(Arc::clone(&question));
        drop(running);
        (self.begin)(LookUp { question: Arc::clone(&question), shared: Arc::clone(&self.shared) });
        Some(question)
    }
}

impl LookUp {
    pub(super) fn host(&self) -> &str {
        &self.question.host
    }

    pub(super) fn port(&self) -> u16 {
        self.question.port
    }

    pub(super) fn answer(self, found: io::Result<Vec<SocketAddr>>) {
        // It is the only one that answers, so that there is no answer yet.
        let _ = self.question.answer.set(found.map(Arc::from).map_err(Arc::new));
    }
}

impl Drop for LookUp {
    fn drop(&mut self) {
        // Has no effect after an answer.
        let _ = self.question.answer.set(Err(abandoned()));
        lock(&self.shared.running).retain(|running| !Arc::ptr_eq(running, &self.question));
        // All of them: of those that wait for room, one may begin what others join.
        self.shared.ended.notify(usize::MAX);
    }
}

fn abandoned() -> Arc<io::Error> {
    Arc::new(io::Error::other("the look-up was abandoned"))
}

impl fmt::Debug for LookUps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookUps").field("shared", &self.shared).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    /// A resolver that answers when the test says so, and the look-ups that it has begun.
    fn hanging() -> (LookUps, Arc<Mutex<Vec<LookUp>>>) {
        let begun = Arc::<Mutex<Vec<LookUp>>>::default();
        let list = Arc::clone(&begun);
        (LookUps::new(move |look_up| lock(&list).push(look_up)), begun)
    }

    fn hosts(begun: &Mutex<Vec<LookUp>>) -> Vec<String> {
        lock(begun).iter().map(|look_up| format!("{}:{}", look_up.host(), look_up.port())).collect()
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 7443))
    }

    #[test]
    fn callers_that_give_up_leave_one_look_up_and_the_next_caller_joins_it() {
        let (look_ups, begun) = hanging();
        for _ in 0..150 {
            assert!(block_on(poll_once(look_ups.look_up("a.example", 7443))).is_none());
        }
        assert_eq!(hosts(&begun), ["a.example:7443"]);
        let mut joined = [(); 2].map(|()| Box::pin(look_ups.look_up("a.example", 7443)));
        assert!(joined.iter_mut().all(|joined| block_on(poll_once(joined)).is_none()));
        lock(&begun).remove(0).answer(Ok(vec![address(1)]));
        for joined in joined {
            assert_eq!(*block_on(joined).unwrap(), [address(1)]);
        }
        // The twin: what has ended is not joined.
        assert!(block_on(poll_once(look_ups.look_up("a.example", 7443))).is_none());
        assert_eq!(hosts(&begun).len(), 1);
    }

    #[test]
    fn at_most_four_look_ups_run_and_the_others_wait() {
        let (look_ups, begun) = hanging();
        let names: Vec<String> = (0..150).map(|n| format!("host-{n}")).collect();
        let mut waiting: Vec<_> = names.iter().map(|name| Box::pin(look_ups.look_up(name, 1))).collect();
        waiting.iter_mut().for_each(|waiting| assert!(block_on(poll_once(waiting)).is_none()));
        assert_eq!(hosts(&begun), ["host-0:1", "host-1:1", "host-2:1", "host-3:1"]);
        let other_port = poll_once(look_ups.look_up("host-0", 2));
        assert!(block_on(other_port).is_none());
        assert_eq!(hosts(&begun).len(), MAX_RUNNING, "another port is another look-up");

        // One that gave up while it waited takes no room.
        drop(waiting.remove(4));
        lock(&begun).remove(1).answer(Err(io::ErrorKind::NotFound.into()));
        assert!(waiting.iter_mut().skip(4).all(|waiting| block_on(poll_once(waiting)).is_none()));
        assert_eq!(hosts(&begun), ["host-0:1", "host-2:1", "host-3:1", "host-5:1"]);
        let failed = block_on(waiting.remove(1)).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::NotFound);
        // A look-up that is given up, by a thread that panics for instance, ends as well.
        drop(lock(&begun).remove(0));
        assert!(block_on(waiting.remove(0)).is_err());
        assert!(lock(&look_ups.shared.running).len() < MAX_RUNNING);
    }

    #[test]
    fn callers_are_woken_by_the_thread_that_looks_up() {
        let look_ups = LookUps::new(|look_up| {
            std::thread::spawn(move || look_up.answer(Ok(vec![address(2)])));
        });
        for name in ["a", "b", "c", "d", "e", "f"] {
            assert_eq!(*block_on(look_ups.look_up(name, 7443)).unwrap(), [address(2)]);
        }
    }
}

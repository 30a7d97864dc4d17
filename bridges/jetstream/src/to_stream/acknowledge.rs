//! Tells a node which events JetStream has.

use minicbor::Encode;
use palyra_quic::{Client, Cursor, ErrorKind, WireError};
use tokio::{sync::watch, task::JoinHandle};

use super::SourceLog;
use crate::{backoff::Backoff, error::chain};

const ACK_EVENTS: &str = "node.ack_events";
const NODE_LOG: &str = "node.stream_events";

/// A task that acknowledges the newest cursor it was given; cursors that come during a call are coalesced.
#[derive(Debug)]
pub(super) struct Acknowledgements {
    newest: watch::Sender<Option<Cursor>>,
    task: JoinHandle<()>,
}

#[derive(Encode)]
#[cbor(map)]
struct Params<'a> {
    #[n(0)]
    consumer: &'a str,
    #[n(1)]
    epoch: u64,
    #[n(2)]
    seq: u64,
    #[n(3)]
    log: Option<&'a str>,
}

impl Acknowledgements {
    pub(super) fn start(source: &SourceLog, consumer: &str) -> Self {
        Self::start_with(ACK_EVENTS, source, consumer)
    }

    fn start_with(method: &'static str, source: &SourceLog, consumer: &str) -> Self {
        let (newest, cursors) = watch::channel(None);
        let log = (source.log != NODE_LOG).then(|| source.log.clone());
        let worker = Worker {
            method,
            client: source.client.clone(),
            subject: source.subject.clone(),
            consumer: consumer.to_owned(),
            log,
            cursors,
        };
        Self { newest, task: tokio::spawn(worker.run()) }
    }

    /// JetStream has everything up to here.
    pub(super) fn confirm(&self, cursor: Cursor) {
        self.newest.send_replace(Some(cursor));
    }
}

impl Drop for Acknowledgements {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Worker {
    method: &'static str,
    client: Client,
    subject: String,
    consumer: String,
    log: Option<String>,
    cursors: watch::Receiver<Option<Cursor>>,
}

impl Worker {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut pending = false;
        loop {
            if !pending && self.cursors.changed().await.is_err() {
                return;
            }
            let cursor = *self.cursors.borrow_and_update();
            let Some((seq, epoch)) = cursor.and_then(|cursor| cursor.epoch().map(|e| (cursor.seq(), e)))
            else {
                continue;
            };
            let params = Params { consumer: &self.consumer, epoch, seq, log: self.log.as_deref() };
            let params = minicbor::to_vec(params).unwrap_or_default();
            let Err(error) = self.client.call_raw(self.method, params).await else {
                pending = false;
                backoff.reset();
                continue;
            };
            match error.kind() {
                ErrorKind::Remote(WireError::UnsupportedMethod) => {
                    tracing::warn!(
                        "{}: the node takes no acknowledgements, and holds no events for this bridge",
                        self.subject
                    );
                    return;
                }
                // A node that has begun another epoch, or refuses this consumer: the next event may do
                // better.
                ErrorKind::Remote(WireError::InvalidRequest | WireError::PermissionDenied) => {
                    tracing::warn!("{}: not acknowledged: {}", self.subject, chain(&error));
                    pending = false;
                }
                _ => {
                    tracing::debug!("{}: not acknowledged yet: {}", self.subject, chain(&error));
                    pending = true;
                }
            }
            backoff.pause().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use palyra_quic::{Bytes, CertificateAuthority, ClientTls, Endpoint, MethodError, Router, ServerTls};

    use super::*;

    /// The prefix `node.` is reserved for the crate.
    const METHOD: &str = "test.ack_events";

    fn source(router: Router) -> (Endpoint, SourceLog) {
        let authority = CertificateAuthority::new("Test CA").unwrap();
        let tls = ServerTls::new(authority.issue_server(&[]).unwrap().identity());
        let loopback = ([127, 0, 0, 1], 0).into();
        let node = Endpoint::builder().server(tls).router(router).bind(loopback).unwrap();
        let client = Endpoint::builder().client(ClientTls::new(authority.trust())).bind(loopback).unwrap();
        let client = Client::builder(client).address(node.local_addr().unwrap()).build().unwrap();
        (node, SourceLog { client, log: "alarms.stream".into(), subject: "alarms".into() })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_newest_cursor_is_acknowledged_again_until_the_node_takes_it() {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (sender, mut taken) = tokio::sync::mpsc::unbounded_channel();
        let router = Router::new().serve_raw(METHOD, move |_, params: Bytes| {
            let (calls, sender) = (Arc::clone(&calls), sender.clone());
            async move {
                let mut calls = calls.lock().unwrap();
                calls.push(());
                if calls.len() == 1 {
                    return Err(MethodError::internal("later"));
                }
                sender.send(params).unwrap();
                Ok(Bytes::new())
            }
        });
        let (_node, source) = source(router);
        let acknowledgements = Acknowledgements::start_with(METHOD, &source, "jetstream");
        acknowledgements.confirm(Cursor::new(Some(5), 41));
        let expected = Params { consumer: "jetstream", epoch: 5, seq: 41, log: Some("alarms.stream") };
        assert_eq!(taken.recv().await.unwrap(), minicbor::to_vec(expected).unwrap());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_without_acknowledgements_is_asked_once() {
        let (_node, source) = source(Router::new());
        let mut acknowledgements = Acknowledgements::start(&source, "jetstream");
        acknowledgements.confirm(Cursor::new(Some(5), 41));
        (&mut acknowledgements.task).await.unwrap();
        acknowledgements.confirm(Cursor::new(Some(5), 42));
    }
}

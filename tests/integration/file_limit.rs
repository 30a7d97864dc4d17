//! A node whose process may not make files larger (RLIMIT_FSIZE). The kernel ends a process that tries to.

use std::time::{Duration, Instant};

use palyra_quic::{Client, Error, ErrorKind, TransportLimits, WireError};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use smol::{Timer, block_on};

use crate::crash::{Node, Server};

const TIMEOUT: Duration = Duration::from_secs(40);

/// As `prlimit --fsize` does, for the running process. Returns the limit that it had.
fn limit_files(server: &Server, bytes: Option<u64>) -> Option<u64> {
    let id = Pid::from_raw(i32::try_from(server.id()).unwrap());
    let limit = Rlimit { current: bytes, ..getrlimit(Resource::Fsize) };
    prlimit(id, Resource::Fsize, limit).unwrap().current
}

fn publish(client: &Client, text: &'static str) -> Result<String, Error> {
    let seq = block_on(client.call_raw("demo.publish", text))?;
    Ok(String::from_utf8(seq.to_vec()).unwrap())
}

#[test]
fn a_node_that_reaches_the_limit_of_its_files_goes_on_when_there_is_room() {
    let node = Node::new();
    let server = node.serve("127.0.0.1:0", &["--commit-interval", "0"]);
    let client = node.client_within(TransportLimits::default(), &server.address);
    assert_eq!(publish(&client, "before").unwrap(), "1");
    let unlimited = limit_files(&server, Some(1024));
    for _ in 0..3 {
        let error = publish(&client, "refused").unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::ResourceExhausted), "{error}");
        assert!(error.retry_after().is_some_and(|after| after > Duration::ZERO), "{error}");
        assert_eq!(&block_on(client.call_raw("demo.echo", "here")).unwrap()[..], b"here");
    }
    assert_eq!(limit_files(&server, unlimited), Some(1024));
    let deadline = Instant::now() + TIMEOUT;
    let seq = loop {
        match publish(&client, "after") {
            Ok(seq) => break seq,
            Err(error) => {
                assert!(Instant::now() < deadline, "{error}");
                block_on(Timer::after(error.retry_after().unwrap()));
            }
        }
    };
    assert_eq!(seq, "2", "no number is lost");
    server.terminate();
    let server = node.serve("127.0.0.1:0", &[]);
    assert_eq!(
        publish(&node.client_within(TransportLimits::default(), &server.address), "later").unwrap(),
        "3"
    );
    server.terminate();
}

//! Two nodes in two processes, and the one trace that OpenTelemetry has of them.

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A process that does not outlive the test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn node(arguments: &[&str]) -> Node {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opentelemetry-nodes"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    Node(command.spawn().unwrap())
}

/// A span as a node printed it.
#[derive(Debug)]
struct Span {
    fields: HashMap<String, String>,
}

impl Span {
    fn read(line: &str) -> Option<Self> {
        let fields = line.strip_prefix("span ")?.split(' ').map(|field| {
            let (name, value) = field.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        });
        Some(Self { fields: fields.collect() })
    }

    fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }
}

fn spans(output: &str) -> Vec<Span> {
    output.lines().filter_map(Span::read).collect()
}

#[track_caller]
fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.get("name") == Some(name));
    let span = found.next().unwrap_or_else(|| panic!("no {name} in {spans:?}"));
    assert!(found.next().is_none(), "another {name} in {spans:?}");
    span
}

fn pki() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pki");
    let _ = fs::remove_dir_all(&directory);
    assert!(node(&["pki", directory.to_str().unwrap()]).0.wait().unwrap().success());
    directory
}

#[test]
fn the_spans_of_both_nodes_are_one_trace() {
    let pki = pki();
    let pki = pki.to_str().unwrap();
    let mut server = node(&["serve", pki]);
    let mut printed = BufReader::new(server.0.stdout.take().unwrap());
    let mut listening = String::new();
    printed.read_line(&mut listening).unwrap();
    let address = listening.trim().strip_prefix("listening ").unwrap();

    let mut caller = node(&["call", pki, address]);
    let mut called = String::new();
    caller.0.stdout.take().unwrap().read_to_string(&mut called).unwrap();
    assert!(caller.0.wait().unwrap().success(), "{called}");
    assert!(called.contains("sum 42\n"), "{called}");
    // The end of its input ends the server.
    drop(server.0.stdin.take());
    let mut served = String::new();
    printed.read_to_string(&mut served).unwrap();
    assert!(server.0.wait().unwrap().success(), "{served}");

    let (calling, serving) = (spans(&called), spans(&served));
    let (order, call) = (named(&calling, "order"), named(&calling, "call"));
    let (handler, adding) = (named(&serving, "handler"), named(&serving, "adding"));
    for span in [call, handler, adding] {
        assert_eq!(span.get("trace"), order.get("trace"), "{span:?}");
    }
    assert_eq!(order.get("parent"), Some("0000000000000000"), "the trace begins there");
    assert_eq!(call.get("parent"), order.get("id"));
    assert_eq!(handler.get("remote-parent"), call.get("id"), "across the connection");
    assert_eq!(adding.get("parent"), handler.get("id"));
    // The exchange is a part of its connection, which serves other traces too.
    assert_ne!(named(&serving, "exchange").get("trace"), order.get("trace"));
}

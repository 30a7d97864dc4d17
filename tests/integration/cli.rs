//! The program `examples/node`, as a shell sees it: what it prints, where, and how it ends.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    net::UdpSocket,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{self, Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, SystemTime},
};

use crate::common::{RawServer, RawStream, frame};
use crate::program::{binary, lines};
use crate::tokio_node;
use base64::Engine;
use palyra_quic::{
    CertificateAuthority, Codec, Endpoint, EventLog, Identity, IssuedCertificate, MethodError, Peers,
    Response, Router, ServerTls, TransportLimits, Trust,
};
use quinn::crypto::rustls::QuicServerConfig;
use serde_json::{Value, json};

// What is asked, and what is answered.

#[test]
fn describe_prints_a_table_in_either_encoding() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    for codec in ["cbor", "json"] {
        let table = server.ask("describe", &["--codec", codec]);
        assert_eq!((table.code, &*table.stderr), (Some(0), ""), "{table:?}");
        let rows: Vec<Vec<&str>> = table
            .stdout
            .lines()
            .map(|row| row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        let expected: [&[&str]; 11] = [
            &["METHOD", "KIND"],
            &["demo.echo", "unary"],
            &["demo.publish", "unary, notification"],
            &["node.describe", "unary"],
            &["node.health", "unary"],
            &["node.stream_events", "log"],
            &[],
            &["LIMIT", "VALUE"],
            &["max_frame_bytes", "524288"],
            &["streams", "32"],
            &["notification_streams", "32"],
        ];
        assert_eq!(rows, expected);
    }
}

#[test]
fn a_table_shows_no_control_characters_and_no_methods_that_are_denied() {
    let pki = Pki::new();
    let echo = |_, params| async move { Ok(params) };
    let router = Router::new().serve_raw("a\nb\u{1b}[31m", echo).serve_raw("secret", echo);
    let node = pki.serve_in_process(router.allow("secret", Peers::nobody()));
    let table = node.ask("describe", &[]);
    assert!(table.stdout.contains("a\u{fffd}b\u{fffd}[31m"), "{table:?}");
    assert!(!table.stdout.contains("secret") && table.stdout.lines().count() == 9, "{table:?}");
    let closed = pki.serve_in_process(Router::new().allow("node.describe", Peers::nobody()));
    closed.ask("describe", &[]).failed("permission_denied");
}

#[test]
fn health_tells_how_the_node_is_in_either_encoding() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    for codec in ["cbor", "json"] {
        let lines = server.ask("health", &["--codec", codec]).succeeded();
        let [health] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(health["kind"], "health", "{codec}");
        assert_eq!(health["ok"], true);
        assert_eq!(health["node_rpc_mtls_required"], true);
        assert_eq!(health["node"]["version"], env!("CARGO_PKG_VERSION"));
        assert!(health["node"]["connections_accepted"].as_u64() >= Some(1), "{health}");
        let mut fields: Vec<_> = health.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["kind", "node", "node_rpc_mtls_required", "ok"]);
    }
}

#[test]
fn a_call_prints_text_as_text_and_other_bytes_in_base64() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    for codec in ["cbor", "json"] {
        for (params, answer) in [
            (&["--params", "hello"][..], json!({"kind": "result", "payload": "hello"})),
            (&["--params", "-1"], json!({"kind": "result", "payload": "-1"})),
            (&["--params", "grüße\n\"x\""], json!({"kind": "result", "payload": "grüße\n\"x\""})),
            (&["--params-hex", "6869"], json!({"kind": "result", "payload": "hi"})),
            (&["--params-hex", "00Ff"], json!({"kind": "result", "payload_base64": "AP8="})),
            (&["--params", ""], json!({"kind": "result", "payload": ""})),
            (&[], json!({"kind": "result", "payload": ""})),
        ] {
            let lines = server.ask("call", &[&["demo.echo", "--codec", codec], params].concat()).succeeded();
            assert_eq!(lines, [answer], "{codec} {params:?}");
        }
    }
}

#[test]
fn a_line_of_the_contract_is_spelled_to_the_letter() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    let echoed = server.ask("call", &["demo.echo", "--params", "hello"]);
    assert_eq!(echoed.stdout, "{\"kind\":\"result\",\"payload\":\"hello\"}\n");
    server.publish("text");
    let events = server.ask("events", &[]);
    let epoch = &events.lines()[0]["epoch"];
    let expected = format!("{{\"kind\":\"event\",\"seq\":1,\"epoch\":{epoch},\"payload\":\"text\"}}\n");
    assert_eq!(events.stdout, expected);
}

#[test]
fn every_answer_of_a_stream_is_a_line() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    for text in ["one", "two", "three"] {
        server.publish(text);
    }
    for codec in ["cbor", "json"] {
        let lines = server.ask("call", &["node.stream_events", "--codec", codec]).succeeded();
        assert_eq!(payloads(&lines), ["one", "two", "three"], "{codec}");
        let lines = server.ask("call", &["node.health", "--codec", codec]).succeeded();
        assert_eq!(lines[0]["kind"], "health");
        assert!(lines[0]["node"].is_object());
    }

    let node =
        pki.serve_in_process(Router::new().serve_stream_raw("count", |_, _, mut answers| async move {
            for n in ["1", "2", "3"] {
                answers.send_raw(n).await?;
            }
            Ok(())
        }));
    let lines = node.ask("call", &["count"]).succeeded();
    assert_eq!(payloads(&lines), ["1", "2", "3"]);
    assert!(lines.iter().all(|line| line["kind"] == "result"));
}

#[test]
fn answers_before_an_error_are_printed() {
    let pki = Pki::new();
    let node =
        pki.serve_in_process(Router::new().serve_stream_raw("count", |_, _, mut answers| async move {
            answers.send_raw("1").await?;
            Err(MethodError::resource_exhausted("that\nwas all"))
        }));
    let outcome = node.ask("call", &["count"]);
    assert_eq!(payloads(&outcome.lines()), ["1"]);
    outcome.failed("error: resource_exhausted: that");
}

#[test]
fn publishing_gives_the_sequence_number() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    for (codec, seq) in [("cbor", "1"), ("json", "2")] {
        let lines = server.ask("call", &["demo.publish", "--params", "x", "--codec", codec]).succeeded();
        assert_eq!(lines, [json!({"kind": "result", "payload": seq})]);
    }
}

#[test]
fn a_notification_prints_nothing_and_becomes_an_event() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    for (codec, text) in [("cbor", "door opened"), ("json", "door closed")] {
        let outcome = server.ask("notify", &["demo.publish", "--params", text, "--codec", codec]);
        assert!(outcome.succeeded().is_empty(), "{outcome:?}");
    }
    // Received is not yet handled, so this waits for both.
    let lines = server.ask("events", &["--follow", "--count", "2"]).succeeded();
    let mut published = payloads(&lines);
    published.sort_unstable();
    assert_eq!(published, ["door closed", "door opened"]);
}

#[test]
fn what_other_implementations_answer_is_printed_too() {
    for (answer, expected) in [
        (
            r#"{"protocol_version":1,"kind":"health","ok":true,"node_rpc_mtls_required":false}"#,
            json!({"kind": "health", "ok": true, "node_rpc_mtls_required": false}),
        ),
        (
            // {"load": [2.0, null], "disk": {"free": -1, "id": h'ff'}}
            r#"{"protocol_version":1,"kind":"health","ok":true,"node_rpc_mtls_required":true,"payload":"omRsb2FkgvtAAAAAAAAAAPZkZGlza6JkZnJlZSBiaWRB/w=="}"#,
            json!({"kind": "health", "ok": true, "node_rpc_mtls_required": true,
                "node": {"load": [2.0, null], "disk": {"free": -1, "id": "/w=="}}}),
        ),
        (
            r#"{"protocol_version":1,"kind":"health","ok":true,"node_rpc_mtls_required":true,"payload":"ZmluZQ=="}"#,
            json!({"kind": "health", "ok": true, "node_rpc_mtls_required": true, "payload": "fine"}),
        ),
    ] {
        assert_eq!(answered("health", answer).succeeded(), [expected], "{answer}");
    }
    let event =
        answered("events", r#"{"protocol_version":1,"kind":"event","ok":true,"seq":7,"payload":"aGk="}"#);
    assert_eq!(event.stdout, "{\"kind\":\"event\",\"seq\":7,\"payload\":\"hi\"}\n");
}

#[test]
fn a_node_that_is_not_well_is_a_failure_that_is_printed() {
    let ill = answered(
        "health",
        r#"{"protocol_version":1,"kind":"health","ok":false,"node_rpc_mtls_required":true}"#,
    );
    assert_eq!(ill.lines(), [json!({"kind": "health", "ok": false, "node_rpc_mtls_required": true})]);
    ill.failed("error: the node says that it is not well");
}

#[test]
fn whatever_a_node_says_an_error_is_one_line() {
    let answer = r#"{"protocol_version":1,"kind":"error","ok":false,"error":"out_of_\ncheese","detail":"a\r\n\u001b[31mb"}"#;
    answered("health", answer).failed("error: out_of_\u{fffd}cheese: a\u{fffd}\u{fffd}\u{fffd}[31mb");
    let unknown = r#"{"protocol_version":1,"kind":"cheese","ok":true}"#;
    answered("health", unknown).failed("error: protocol violation by the peer");
}

#[test]
fn no_control_character_reaches_a_terminal_raw() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    for char in ['\u{7f}', '\u{80}', '\u{9b}', '\u{61c}', '\u{200e}', '\u{2028}', '\u{202e}', '\u{2069}'] {
        let text = format!("a{char}b");
        let outcome = server.ask("call", &["demo.echo", "--params", &text]);
        assert_eq!(outcome.succeeded(), [json!({"kind": "result", "payload": text})]);
        assert!(!outcome.stdout.contains(char), "{char:?}");
        let refusal = json!({"protocol_version": 1, "kind": "error", "ok": false,
            "error": "internal", "detail": text});
        answered("health", &refusal.to_string()).failed("error: internal: a\u{fffd}b");
    }
}

#[test]
fn an_error_without_a_name_is_given_a_word() {
    for name in ["", " "] {
        let refusal = json!({"protocol_version": 1, "kind": "error", "ok": false, "error": name});
        answered("health", &refusal.to_string()).failed("error: unnamed error (`node.health` at 127.0.0.1:");
    }
}

#[test]
fn parameters_may_come_from_a_file_or_from_standard_input() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    let file = pki.file("params");
    fs::write(&file, [0, 255]).unwrap();
    let from_file = ["--params-file", file.to_str().unwrap()];
    let bytes = json!({"kind": "result", "payload_base64": "AP8="});
    assert_eq!(server.ask("call", &[&["demo.echo"], &from_file[..]].concat()).succeeded(), [bytes]);
    let missing = pki.file("missing");
    let from_nowhere = ["demo.echo", "--params-file", missing.to_str().unwrap()];
    for command in ["call", "notify"] {
        server.ask(command, &from_nowhere).failed("No such file");
    }

    let mut reading = pki.command("call", &server.address, &["demo.echo", "--params-file", "-"]);
    let mut child = reading.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let echoed = Running::started(child).ended().succeeded();
    assert_eq!(echoed, [json!({"kind": "result", "payload": "hello\n"})]);
}

#[test]
fn a_command_whose_peer_never_answers_ends_by_itself() {
    let node = RawServer::new();
    let pki = Pki::of(&node.pki);
    let address = node.address().to_string();
    let _serving = smol::spawn(async move {
        loop {
            let connection = node.endpoint.accept().await.unwrap().await.unwrap();
            connection.closed().await;
        }
    });
    for command in [&["health"][..], &["events"], &["call", "demo.echo"]] {
        gives_up(&pki, &address, command);
    }
}

#[test]
fn a_command_whose_peer_never_allows_a_stream_ends_by_itself() {
    let node = RawServer::new();
    let pki = Pki::of(&node.pki);
    let tls = node.pki.raw_server_tls();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(0_u8.into()).max_concurrent_uni_streams(0_u8.into());
    config.transport_config(Arc::new(transport));
    node.endpoint.set_server_config(Some(config));
    let address = node.address().to_string();
    let _serving = node.welcome();
    for command in [&["health"][..], &["events"], &["call", "demo.echo"], &["notify", "demo.publish"]] {
        gives_up(&pki, &address, command);
    }
}

#[test]
fn a_peer_that_is_slow_is_waited_for_as_long_as_asked() {
    let node = RawServer::new();
    let pki = Pki::of(&node.pki);
    let address = node.address().to_string();
    let _serving = smol::spawn(async move {
        loop {
            let connection = node.endpoint.accept().await.unwrap().await.unwrap();
            let mut stream = RawStream::accept(&connection).await;
            // Longer than the commands of the test before are given.
            smol::Timer::after(Duration::from_millis(200)).await;
            stream.send(&frame(br#"{"protocol_version":1,"kind":"health","ok":true}"#)).await;
            stream.finish();
            connection.closed().await;
        }
    });
    for command in ["health", "call"] {
        let method = if command == "call" { &["node.health"][..] } else { &[] };
        let options = [method, &["--timeout-ms", "20000"]].concat();
        let slow = Running::started(pki.command(command, &address, &options).spawn().unwrap()).ended();
        assert_eq!(slow.succeeded(), [json!({"kind": "health", "ok": true})]);
    }
}

fn gives_up(pki: &Pki, address: &str, command: &[&str]) {
    let options = [&command[1..], &["--timeout-ms", "3000"]].concat();
    let silent = Running::started(pki.command(command[0], address, &options).spawn().unwrap()).ended();
    silent.failed("error: deadline_exceeded: no answer in time");
}

// Events.

#[test]
fn events_resume_where_the_reader_was() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    for text in ["one", "two", "three"] {
        server.publish(text);
    }
    let all = server.ask("events", &[]).succeeded();
    assert_eq!(payloads(&all), ["one", "two", "three"]);
    let epoch = all[0]["epoch"].to_string();
    for codec in ["cbor", "json"] {
        for (resume, expected) in [
            (&["--resume-from", "0"][..], &["one", "two", "three"][..]),
            (&["--resume-from", "2"], &["three"]),
            (&["--resume-from", "2", "--epoch", &epoch], &["three"]),
            (&["--resume-from", "3"], &[]),
            (&["--count", "2"], &["one", "two"]),
        ] {
            let lines = server.ask("events", &[resume, &["--codec", codec]].concat()).succeeded();
            assert_eq!(payloads(&lines), expected, "{codec} {resume:?}");
        }
    }
}

#[test]
fn a_gap_is_a_line_that_does_not_count() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    for text in ["one", "two", "three"] {
        server.publish(text);
    }
    let epoch = server.ask("events", &[]).succeeded()[0]["epoch"].as_u64().unwrap();
    let other = (epoch ^ 1).to_string();
    for how in [&[][..], &["--codec", "json"], &["--follow"], &["--follow", "--codec", "json"]] {
        for resume in [&["--resume-from", "500"][..], &["--resume-from", "2", "--epoch", &other]] {
            let lines = server.ask("events", &[resume, &["--count", "2"], how].concat()).succeeded();
            assert_eq!(
                lines[0],
                json!({"kind": "gap", "first_seq": 1, "epoch": epoch}),
                "{how:?} {resume:?}"
            );
            assert_eq!(payloads(&lines[1..]), ["one", "two"]);
        }
    }

    let log = EventLog::builder().max_events(2).build().unwrap();
    for text in ["one", "two", "three", "four"] {
        log.publish_raw(text).unwrap();
    }
    let node = pki.serve_in_process(Router::new().events(log.clone()));
    for follow in [&[][..], &["--follow", "--count", "2"]] {
        let lines = node.ask("events", &[&["--resume-from", "1"], follow].concat()).succeeded();
        assert_eq!(lines[0], json!({"kind": "gap", "first_seq": 3, "missed": 1, "epoch": log.epoch()}));
        assert_eq!(payloads(&lines[1..]), ["three", "four"]);
    }
}

/// A log of ten events and more for consumers, with this many.
fn log_for_consumers(count: usize) -> EventLog {
    let log = EventLog::builder().max_events(10).keep_unacknowledged(1 << 20).build().unwrap();
    (0..count).for_each(|_| _ = log.publish_raw("event").unwrap());
    log
}

fn acknowledged(log: &EventLog) -> Vec<(String, u64)> {
    log.consumers().into_iter().map(|consumer| (consumer.name, consumer.acknowledged)).collect()
}

#[test]
fn what_was_printed_is_acknowledged_when_the_program_ends() {
    let pki = Pki::new();
    for (log_name, how) in [
        ("node.stream_events", &[][..]),
        ("node.stream_events", &["--follow"]),
        ("plant.readings", &["--log", "plant.readings"]),
        ("plant.readings", &["--log", "plant.readings", "--follow"]),
    ] {
        let log = log_for_consumers(5);
        let router = match log_name {
            "node.stream_events" => Router::new().events(log.clone()),
            name => Router::new().log(name, log.clone()),
        };
        let node = pki.serve_in_process(router.consumers(|_, name| name == "printer"));
        let options = |count| [how, &["--consumer", "printer", "--count", count]].concat();
        assert_eq!(node.ask("events", &options("3")).succeeded().len(), 3);
        assert_eq!(acknowledged(&log), [("printer".into(), 3)], "{how:?}");
        // Without the option, nothing is.
        assert_eq!(node.ask("events", &[how, &["--count", "5"]].concat()).succeeded().len(), 5);
        assert_eq!(acknowledged(&log), [("printer".into(), 3)]);
        // Events that are held for the consumer are there.
        (0..20).for_each(|_| _ = log.publish_raw("event").unwrap());
        assert_eq!(log.first_seq(), 4);
        node.ask("events", &[&options("22")[..], &["--resume-from", "3"]].concat()).succeeded();
        assert_eq!(acknowledged(&log), [("printer".into(), 25)]);
    }
}

#[test]
fn a_follower_that_is_interrupted_has_acknowledged_what_it_has_printed() {
    let pki = Pki::new();
    let log = log_for_consumers(5);
    let node = pki.serve_in_process(Router::new().events(log.clone()).consumers(|_, _| true));
    let mut follower = node.begin("events", &["--follow", "--consumer", "printer"]);
    (1..=5).for_each(|seq| assert_eq!(follower.line()["seq"], seq));
    follower.signal("INT");
    assert!(follower.ended().succeeded().is_empty());
    assert_eq!(acknowledged(&log), [("printer".into(), 5)]);
}

#[test]
fn acknowledgements_that_are_refused_make_the_program_fail_and_the_events_are_printed() {
    let pki = Pki::new();
    let log = log_for_consumers(2);
    let node = pki.serve_in_process(Router::new().events(log.clone()).consumers(|_, name| name == "printer"));
    for follow in [&[][..], &["--follow"]] {
        let ended = node.ask("events", &[follow, &["--consumer", "other", "--count", "2"]].concat());
        let refused = format!("error: not acknowledged up to {}:2: permission_denied", log.epoch());
        assert_eq!((ended.lines().len(), ended.code), (2, Some(1)), "{ended:?}");
        // A follower may have told it before, too.
        let last = ended.stderr.lines().last().unwrap();
        assert!(last.starts_with(&refused), "{ended:?}");
    }
    let in_json = ["--codec", "json", "--consumer", "printer"];
    node.ask("events", &in_json).failed("error: --consumer needs --codec cbor");
    assert!(log.consumers().is_empty());
}

#[test]
fn following_brings_what_comes_and_ends_quietly_when_interrupted() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    server.publish("before");
    for (signal, codec) in [("INT", "cbor"), ("TERM", "cbor"), ("INT", "json"), ("TERM", "json")] {
        let mut follower = server.begin("events", &["--follow", "--codec", codec]);
        let first = follower.line();
        assert_eq!((&first["seq"], &first["payload"]), (&json!(1), &json!("before")));
        let news = format!("{signal} {codec}");
        server.publish(&news);
        while follower.line()["payload"] != *news {}
        let (seq, epoch) = (first["seq"].to_string(), first["epoch"].to_string());
        let resume = ["--resume-from", &seq, "--epoch", &epoch, "--codec", codec, "--follow", "--count", "1"];
        assert_eq!(server.ask("events", &resume).succeeded()[0]["seq"], 2, "{codec}");
        follower.signal(signal);
        assert!(follower.ended().succeeded().is_empty());
    }
}

#[test]
fn a_follower_may_say_how_many_events_it_wants() {
    let pki = Pki::new();
    let server = pki.serve(&["--publish-every", "5"]);
    let lines = server.ask("events", &["--follow", "--count", "3", "--codec", "json"]).succeeded();
    assert_eq!(payloads(&lines), ["tick 1", "tick 2", "tick 3"]);
    let first = lines[0]["seq"].as_u64().unwrap();
    assert_eq!(lines[2]["seq"], first + 2);
}

#[test]
fn a_reader_that_reads_no_further_is_no_failure() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    server.publish("one");
    for reads_on in [true, false] {
        let mut follower = server.spawn("events", &["--follow"]);
        let mut lines = BufReader::new(follower.stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        assert!(first.contains("\"one\""), "{first}");
        let mut running = if reads_on {
            Running::reading(follower, lines)
        } else {
            drop(lines);
            Running::deaf(follower)
        };
        server.publish("two");
        if reads_on {
            assert_eq!(running.line()["payload"], "two");
            running.signal("INT");
        }
        running.ended().succeeded();
    }
}

// What fails, and how it is said.

#[test]
fn an_unsupported_method_is_named_as_on_the_wire() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    for codec in ["cbor", "json"] {
        server.ask("call", &["demo.nothing", "--codec", codec]).failed("error: unsupported_method");
        server.ask("call", &[&"m".repeat(128), "--codec", codec]).failed("error: unsupported_method");
        server.ask("call", &["demo.echo", "--codec", codec]).succeeded();
    }
}

#[test]
fn what_a_handler_answers_instead_is_named_as_on_the_wire() {
    let pki = Pki::new();
    let node = pki.serve_in_process(
        Router::new()
            .serve_raw("deny", |_, _| async { Err(MethodError::permission_denied("not for you")) })
            .serve_raw("dawdle", |_, _| smol::future::pending()),
    );
    node.ask("call", &["deny"]).failed("error: permission_denied: not for you");
    for codec in ["cbor", "json"] {
        let late = node.ask("call", &["dawdle", "--timeout-ms", "3000", "--codec", codec]);
        late.failed("error: deadline_exceeded");
        let in_time = node.ask("call", &["deny", "--timeout-ms", "10000", "--codec", codec]);
        in_time.failed("error: permission_denied");
    }
    let server = pki.serve(&[]);
    server.ask("call", &["demo.echo", "--timeout-ms", "10000"]).succeeded();
}

#[test]
fn only_clients_with_a_valid_certificate_get_in() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    server.ask("health", &[]).succeeded();
    server.ask("health", &["--as", "client"]).succeeded();

    pki.admit_stranger("stranger");
    pki.issue_expired("late");
    server.ask("health", &["--as", "stranger"]).failed("error: certificate refused by the peer");
    server.ask("health", &["--as", "late"]).failed("certificate_expired");

    fs::remove_file(pki.file("client.pem")).unwrap();
    server.ask("health", &[]).failed("certificate_required");
    server.ask("health", &["--as", "client"]).failed("client.pem");
    run(["pki", "--dir", pki.dir(), "--client", "sensor"]).succeeded();
    server.ask("health", &["--as", "sensor"]).succeeded();
}

#[test]
fn without_client_authentication_anybody_gets_in_and_health_says_so() {
    let pki = Pki::new();
    let server = pki.serve(&["--no-client-auth"]);
    pki.admit_stranger("stranger");
    let with_certificate = server.ask("health", &["--as", "stranger"]).succeeded();
    for key in ["client.pem", "client.key"] {
        fs::remove_file(pki.file(key)).unwrap();
    }
    let without = server.ask("health", &[]).succeeded();
    for line in [&with_certificate[0], &without[0]] {
        assert_eq!(line["node_rpc_mtls_required"], false);
    }
}

#[test]
fn a_node_is_believed_for_its_authority_its_name_and_its_pin() {
    let (pki, other) = (Pki::new(), Pki::new());
    run(["pki", "--dir", pki.dir(), "--name", "gateway.example", "--name", "192.0.2.7"]).succeeded();
    let server = pki.serve(&[]);

    for name in ["gateway.example", "192.0.2.7", "localhost", "127.0.0.1", "::1"] {
        server.ask("health", &["--server-name", name]).succeeded();
    }
    let wrong_name = server.ask("health", &["--server-name", "other.example"]);
    wrong_name.failed("error: peer certificate not acceptable: not valid for `other.example`");

    let (pin, wrong) = (pki.fingerprint("server.pem"), "ab".repeat(32));
    server.ask("health", &["--pin", &pin]).succeeded();
    server.ask("health", &["--pin", &wrong, "--pin", &pin.to_uppercase()]).succeeded();
    let pairs = pin.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    let as_openssl_writes_it = pairs.collect::<Vec<_>>().join(":").to_uppercase();
    server.ask("health", &["--pin", &as_openssl_writes_it]).succeeded();
    server.ask("health", &["--pin", &wrong]).failed("error: pin mismatch");

    let distrusted = run(["health", &server.address, "--pki", other.dir()]);
    distrusted.failed("error: peer certificate not acceptable");
}

#[test]
fn a_follower_that_never_got_in_does_not_try_again() {
    let (pki, other) = (Pki::new(), Pki::new());
    let server = pki.serve(&[]);
    pki.admit_stranger("stranger");
    server.ask("events", &["--follow", "--as", "stranger"]).failed("error: certificate refused by the peer");
    server.ask("events", &["--follow", "--pin", &"ab".repeat(32)]).failed("error: pin mismatch");
    let distrusted = run(["events", &server.address, "--follow", "--pki", other.dir()]);
    distrusted.failed("error: peer certificate not acceptable");

    let without_events = pki.serve_in_process(Router::new());
    without_events.ask("events", &["--follow"]).failed("error: unsupported_method");
}

#[test]
fn where_nobody_listens_the_handshake_times_out() {
    let pki = Pki::new();
    let (_silent, address) = nobody();
    let outcome = run(["health", &address, "--pki", pki.dir(), "--timeout-ms", "100"]);
    outcome.failed("error: handshake timed out: no answer");
    outcome.failed("is the node running");
}

#[test]
fn a_host_name_is_an_address_too() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    let (_, port) = server.address.rsplit_once(':').unwrap();
    run(["health", &format!("localhost:{port}"), "--pki", pki.dir()]).succeeded();
    let unknown = run(["health", &format!("no-such-host.invalid:{port}"), "--pki", pki.dir()]);
    unknown.failed("error: cannot find no-such-host.invalid");
}

#[test]
fn a_full_node_refuses_and_serves_on() {
    let pki = Pki::new();
    for (max, has_room) in [("1", false), ("2", true)] {
        let server = pki.serve(&["--max-connections", max, "--publish-every", "5"]);
        let mut follower = server.begin("events", &["--follow"]);
        let before = follower.line();
        let second = server.ask("health", &[]);
        if has_room {
            second.succeeded();
        } else {
            second.failed("error: connection refused by the peer");
        }
        assert_eq!(follower.line()["seq"], before["seq"].as_u64().unwrap() + 1);
    }
}

#[test]
fn limits_follow_from_the_memory_that_there_is() {
    let pki = Pki::new();
    let server = pki.serve(&["--memory", "4", "--publish-every", "1"]);
    let payload = |bytes: usize| "x".repeat(bytes);
    server.ask("call", &["demo.echo", "--params", &payload(8_000)]).succeeded();
    server.ask("call", &["demo.echo", "--params", &payload(8_193)]).failed("FRAME_TOO_LARGE");
    server.ask("events", &["--count", "1"]).succeeded();
}

#[test]
fn datagrams_are_as_large_as_both_sides_say() {
    let pki = Pki::new();
    for size in ["auto", "65527", "1200"] {
        let server = pki.serve(&["--max-datagram", size]);
        let payload = "x".repeat(100_000);
        for command in [&["demo.echo", "--params", &payload][..], &["demo.echo", "--max-datagram", "65527"]] {
            server.ask("call", command).succeeded();
        }
        let wrong = server.ask("call", &["demo.echo", "--max-datagram", "65528"]);
        wrong.failed("max_datagram_bytes is not in 1200 to 65527");
    }
}

#[test]
fn a_command_that_ends_leaves_its_place_to_the_next() {
    let pki = Pki::new();
    let server = pki.serve(&["--max-connections", "1"]);
    // The farewell may still be under way, but it comes, and long before the idle timeout.
    let ask = |command, options: &[&str]| {
        let mut attempts = (0..20).map(|_| server.ask(command, options));
        attempts.find(|outcome| !outcome.stderr.contains("refused")).expect("room")
    };
    ask("health", &[]).succeeded();
    ask("call", &["demo.nothing"]).failed("unsupported_method");
    ask("health", &["--pin", &"ab".repeat(32)]).failed("pin mismatch");
    ask("health", &[]).succeeded();
}

#[test]
fn a_peer_that_asks_for_patience_is_quoted() {
    let refusal = |error: &str| {
        json!({"protocol_version": 1, "kind": "error", "ok": false,
            "error": error, "retry_after_ms": 1500})
    };
    for (error, shown) in [
        ("resource_exhausted", "resource_exhausted"),
        ("unavailable", "unavailable"),
        ("", "unnamed error"),
        (&"x".repeat(100_000), &*"x".repeat(64)),
    ] {
        let refused = answered("health", &refusal(error).to_string());
        assert_eq!(unplaced(&refused.stderr), format!("error: {shown} (retry_after_ms 1500)\n"));
        assert_eq!(refused.code, Some(1));
    }
    let pki = Pki::new();
    let node = pki.serve_in_process(Router::new().serve_raw("busy", |_, _| async {
        Err(MethodError::resource_exhausted("no room").retry_after(Duration::from_micros(2_001)))
    }));
    for codec in ["cbor", "json"] {
        let busy = node.ask("call", &["busy", "--codec", codec]);
        assert_eq!(unplaced(&busy.stderr), "error: resource_exhausted: no room (retry_after_ms 3)\n");
    }
}

/// A node of the tokio implementation. It accepts no notifications: they are left unread.
fn tokio_node() -> (Pki, String, smol::Task<()>) {
    let node = RawServer::new();
    let (pki, address) = (Pki::of(&node.pki), node.address().to_string());
    let serving = smol::spawn(async move {
        loop {
            let Ok(connection) = node.endpoint.accept().await.unwrap().await else { continue };
            while let Ok((send, recv)) = connection.accept_bi().await {
                let mut stream = RawStream { send, recv };
                let request = stream.next().await;
                stream.send(&tokio_node::answer(&request)).await;
                stream.finish();
            }
        }
    });
    (pki, address, serving)
}

#[test]
fn a_peer_of_the_tokio_implementation_is_recognized_and_the_codec_named() {
    let (pki, address, _serving) = tokio_node();
    let ask = |command: &[&str]| run([&[command[0], &address, "--pki", pki.dir()], &command[1..]].concat());
    let hint = "error: invalid_request (the peer is a node of the tokio implementation: try --codec json)\n";
    for command in [&["health"][..], &["call", "demo.echo"], &["events"], &["events", "--log", "plant.heat"]]
    {
        let refused = ask(command);
        assert_eq!((refused.code, &*unplaced(&refused.stderr)), (Some(1), hint), "{command:?}");
    }
    ask(&["health", "--codec", "json"]).succeeded();
    let held = (1..=tokio_node::EVENTS).map(|seq| json!({"kind": "event", "seq": seq, "payload": ""}));
    assert_eq!(ask(&["events", "--codec", "json"]).succeeded(), held.collect::<Vec<_>>());

    // A node that knows both answers CBOR in CBOR, and then the codec is not what is wrong.
    let pki = Pki::new();
    let node = pki.serve_in_process(
        Router::new().serve_raw("picky", |_, _| async { Err(MethodError::invalid_request("not so")) }),
    );
    for codec in ["cbor", "json"] {
        let refused = node.ask("call", &["picky", "--codec", codec]);
        assert_eq!(unplaced(&refused.stderr), "error: invalid_request: not so\n");
    }
}

#[test]
fn what_nodes_of_the_tokio_implementation_cannot_do_is_said_without_advice_that_fails() {
    let (pki, address, _serving) = tokio_node();
    let file = pki.file("there");
    fs::write(&file, "content").unwrap();
    let file = file.to_str().unwrap();
    let cbor = "invalid_request (the peer is a node of the tokio implementation";
    let json = "a node of the tokio implementation cannot be followed; try without --follow";
    for (command, codec, expected) in [
        (&["put", file][..], "cbor", format!("{cbor}: it transfers no files)")),
        (&["get", "there"], "cbor", format!("{cbor}: it transfers no files)")),
        (&["describe"], "cbor", format!("{cbor}: it does not describe its methods)")),
        (&["describe"], "json", "unsupported_method".into()),
        (
            &["events", "--follow"],
            "cbor",
            format!("{cbor}: it cannot be followed; try --codec json without --follow)"),
        ),
        (&["events", "--follow"], "json", format!("invalid_request ({json})")),
        (&["events", "--log", "plant.heat"], "json", "unsupported_method".into()),
    ] {
        let options = [&address, "--pki", pki.dir(), "--codec", codec];
        let refused = run([&[command[0], options[0]], &command[1..], &options[1..]].concat());
        let said = unplaced(&refused.stderr);
        assert_eq!((refused.code, &*said), (Some(1), &*format!("error: {expected}\n")), "{command:?}");
    }
    let put = ["put", &address, file, "--pki", pki.dir(), "--codec", "json"];
    run(put).failed("error: files are only transferred in CBOR");
}

#[test]
fn a_mirror_says_that_a_node_of_the_tokio_implementation_cannot_be_mirrored() {
    let (pki, address, _serving) = tokio_node();
    let directory = pki.file("mirrored");
    let options = ["--pki", pki.dir(), "--durable", directory.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let arguments = |codec| [&["mirror", &address, "--codec", codec][..], &options].concat();
    let mut mirror = Running::started(node().args(arguments("cbor")).spawn().unwrap());
    let failed = loop {
        // Before that, it may say that it is connected.
        let line = mirror.complaint();
        if line.starts_with("reconnecting: ") {
            break line;
        }
    };
    let why = "the peer is a node of the tokio implementation: its log cannot be mirrored";
    assert_eq!(unplaced(&failed), format!("reconnecting: invalid_request ({why})\n"));
    mirror.signal("INT");
    mirror.ended();
    run(arguments("json")).failed("error: logs are only mirrored in CBOR");
}

#[test]
fn a_name_of_which_nothing_is_seen_is_given_a_word() {
    for name in ["\u{200b}", "\u{feff}\u{2060}", "\u{202e}", "\u{3164}", "\u{e0041}", "\u{7f}\u{1}"] {
        let refusal = json!({"protocol_version": 1, "kind": "error", "ok": false, "error": name});
        let bare = answered("health", &refusal.to_string());
        assert_eq!((bare.code, &*unplaced(&bare.stderr)), (Some(1), "error: unnamed error\n"), "{name:?}");
        let refusal =
            json!({"protocol_version": 1, "kind": "error", "ok": false, "error": name, "detail": "why"});
        let explained = answered("health", &refusal.to_string()).stderr;
        assert_eq!(unplaced(&explained), "error: unnamed error: why\n");
    }
}

// Waiting for a node.

/// An address at which nobody answers, for as long as the socket is held.
fn nobody() -> (UdpSocket, String) {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    (silent, address)
}

#[test]
fn a_follower_waits_for_a_node_that_is_not_up_yet_and_says_so_once() {
    let pki = Pki::new();
    // All of them wait at the same time.
    let followers = ["cbor", "json"].map(|codec| {
        let (silent, address) = nobody();
        let options = ["--follow", "--count", "1", "--codec", codec];
        let follower = Running::started(pki.command("events", &address, &options).spawn().unwrap());
        (codec, silent, address, follower)
    });
    for (codec, silent, address, mut follower) in followers {
        let waiting = follower.complaint();
        assert!(waiting.starts_with("waiting: handshake timed out"), "{waiting}");
        drop(silent);
        let server = pki.serve(&["--listen", &address]);
        server.publish("there");
        assert_eq!(follower.line()["payload"], "there", "{codec}");
        follower.ended().succeeded();
    }
}

#[test]
fn a_follower_that_waits_ends_where_trying_again_cannot_help() {
    let (pki, other) = (Pki::new(), Pki::new());
    let pin = "ab".repeat(32);
    let cases = [
        (&pki, &["--pin", &*pin][..], "error: pin mismatch"),
        (&pki, &["--server-name", "other.example"], "error: peer certificate not acceptable"),
        (&other, &[], "error: peer certificate not acceptable"),
    ];
    // All of them wait at the same time.
    let followers = cases.map(|(node, options, reason)| {
        let (silent, address) = nobody();
        let options = [&["--follow"], options].concat();
        let follower = Running::started(pki.command("events", &address, &options).spawn().unwrap());
        (node, silent, address, follower, reason)
    });
    for (node, silent, address, mut follower, reason) in followers {
        assert!(follower.complaint().starts_with("waiting: "));
        drop(silent);
        let _server = node.serve(&["--listen", &address]);
        follower.ended().failed(reason);
    }
}

#[test]
fn a_follower_that_waits_ends_quietly_when_interrupted() {
    let pki = Pki::new();
    let (_silent, address) = nobody();
    let followers = ["INT", "TERM"].map(|signal| {
        let follower = pki.command("events", &address, &["--follow"]).spawn().unwrap();
        (signal, Running::started(follower))
    });
    for (signal, mut follower) in followers {
        follower.complaint();
        follower.signal(signal);
        assert!(follower.ended().succeeded().is_empty());
    }
}

#[test]
fn a_follower_does_without_its_node_for_as_long_as_asked() {
    let pki = Pki::new();
    let (_silent, address) = nobody();
    for codec in ["cbor", "json"] {
        let options = ["--follow", "--timeout-ms", "100", "--codec", codec];
        let waiting = Running::started(pki.command("events", &address, &options).spawn().unwrap()).ended();
        waiting.failed("error: deadline_exceeded: the node is not there");
    }

    let mut server = pki.serve(&[]);
    server.publish("before");
    // A node that is there may be quiet for longer than that.
    let mut follower = server.begin("events", &["--follow", "--timeout-ms", "3000"]);
    follower.line();
    smol::block_on(smol::Timer::after(Duration::from_millis(3_200)));
    server.publish("after");
    assert_eq!(follower.line()["payload"], "after");
    server.running.signal("TERM");
    server.running.ended().succeeded();
    let lost = follower.ended();
    assert_eq!(lost.code, Some(1), "{lost:?}");
    let lines: Vec<_> = lost.stderr.lines().collect();
    let [reconnecting, error] = lines[..] else { panic!("{lines:?}") };
    assert!(reconnecting.starts_with("reconnecting: ") && reconnecting.contains("SHUTTING_DOWN"));
    assert_eq!(error, "error: deadline_exceeded: the node is not there");
}

#[test]
fn a_node_that_is_full_is_waited_for_by_followers_alone() {
    let pki = Pki::new();
    let log = EventLog::new();
    log.publish_raw("news").unwrap();
    let limits = TransportLimits::builder().max_connections(1).build().unwrap();
    let node = pki.serve_in_process_within(limits, Router::new().events(log));
    let mut first = node.begin("events", &["--follow"]);
    first.line();
    node.ask("events", &[]).failed("error: connection refused by the peer");
    let before = node.endpoint.stats().connections_refused.full;
    let mut second = node.begin("events", &["--follow", "--count", "1"]);
    while node.endpoint.stats().connections_refused.full < before + 3 {
        thread::sleep(Duration::from_millis(5));
    }
    first.signal("INT");
    first.ended().succeeded();
    let second = second.ended();
    assert_eq!((second.code, payloads(&second.lines())), (Some(0), vec!["news"]));
    let once = second.stderr.starts_with("waiting: connection refused by the peer");
    assert!(once && second.stderr.lines().count() == 1, "{second:?}");
}

// What a peer says of its events.

/// A frame that a peer sends on each stream of events.
fn event(seq: u64, epoch: Option<u64>) -> Vec<u8> {
    cbor(&Response::event(seq, epoch, Some("x".into())))
}

fn cbor(response: &Response) -> Vec<u8> {
    let mut body = Vec::new();
    response.encode(Codec::Cbor, &mut body).unwrap();
    frame(&body)
}

/// What becomes of a stream when everything is said.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Fin,
    Silence,
}

/// A command that is told something, and the files that it reads.
struct Told {
    running: Running,
    _pki: Pki,
}

/// What a command makes of a peer that answers every stream with these bytes.
fn told(command: &[&str], answer: Vec<u8>, then: Then) -> Told {
    let node = RawServer::new();
    let pki = Pki::of(&node.pki);
    let address = node.address().to_string();
    smol::spawn(async move {
        loop {
            let Some(incoming) = node.endpoint.accept().await else { return };
            let Ok(connection) = incoming.await else { continue };
            let answer = answer.clone();
            smol::spawn(async move {
                let mut open = Vec::new();
                while let Ok((send, recv)) = connection.accept_bi().await {
                    let mut stream = RawStream { send, recv };
                    stream.send(&answer).await;
                    if then == Then::Fin {
                        stream.finish();
                    }
                    open.push(stream);
                }
            })
            .detach();
        }
    })
    .detach();
    let running = Running::started(pki.command(command[0], &address, &command[1..]).spawn().unwrap());
    Told { running, _pki: pki }
}

#[test]
fn a_peer_that_contradicts_itself_about_events_ends_the_command_with_the_reason() {
    let five = Some(5);
    let gap = |first_seq, epoch| cbor(&Response::gap(first_seq, epoch, None));
    let heartbeat = |seq, epoch| cbor(&Response::heartbeat(seq, epoch));
    let another_version = frame(&[0xa3, 0, 2, 1, 0x65, b'e', b'r', b'r', b'o', b'r', 2, 0xf4]);
    let without_ok = frame(&[0xa3, 0, 1, 1, 0x65, b'e', b'v', b'e', b'n', b't', 3, 1]);
    let changed = "without a gap";
    for (options, answer, events, reason) in [
        (&[][..], [event(1, five), event(2, Some(6))].concat(), 1, changed),
        (&["--resume-from", "2", "--epoch", "4"], event(3, five), 0, changed),
        (&[], [event(1, five), heartbeat(1, 6)].concat(), 1, ""),
        (&[], [event(1, five), event(2, five), gap(1, 5), event(1, five)].concat(), 2, "gap"),
        (&[], event(0, five), 0, "event numbers start at 1"),
        (&[], [event(1, five), event(1, five)].concat(), 1, "event 1 came after event 1"),
        (&[], another_version, 0, "protocol_mismatch"),
        (&[], without_ok, 0, "field `ok` is missing"),
    ] {
        for follow in [&[][..], &["--follow"]] {
            let command = [&["events"], options, follow].concat();
            let mut told = told(&command, answer.clone(), Then::Fin);
            let outcome = told.running.ended();
            outcome.failed(reason);
            assert_eq!(outcome.lines().len(), events, "{command:?} {reason}");
        }
    }
    // The twin: nothing is wrong with these.
    let good = [event(1, five), event(2, five), heartbeat(2, 5), gap(4, 5), event(4, five)].concat();
    assert_eq!(told(&["events"], good.clone(), Then::Fin).running.ended().succeeded().len(), 4);
    let mut follower = told(&["events", "--follow", "--count", "3"], good, Then::Silence);
    assert_eq!(follower.running.ended().succeeded().len(), 4);
}

#[test]
fn a_followed_stream_that_just_ends_never_looks_complete() {
    let first = frame(br#"{"protocol_version":1,"kind":"event","ok":true,"seq":1}"#);
    let mut plain = told(&["events", "--follow", "--codec", "json"], first.clone(), Then::Fin);
    let plain = plain.running.ended();
    plain.failed("error: truncated message: the peer ended a followed stream without a reason");
    assert_eq!(plain.lines(), [json!({"kind": "event", "seq": 1, "payload": ""})]);
    let mut reconnecting = told(&["events", "--follow"], event(1, Some(5)), Then::Fin);
    reconnecting.running.line();
    assert!(reconnecting.running.complaint().starts_with("reconnecting: truncated message"));
}

#[test]
fn a_peer_that_falls_silent_after_an_event_is_left_after_the_time_limit() {
    let mut silent = told(&["events", "--timeout-ms", "3000"], event(1, Some(5)), Then::Silence);
    let silent = silent.running.ended();
    assert_eq!(payloads(&silent.lines()), ["x"]);
    silent.failed("error: deadline_exceeded: no answer in time");
}

#[test]
fn a_followed_peer_that_falls_silent_after_an_event_is_dialled_again() {
    // Its transport answers, so that the connection lives; nothing comes on the stream for 20 s.
    let mut silent = told(&["events", "--follow"], event(1, Some(5)), Then::Silence);
    // In JSON, as with nodes of the tokio implementation, silence says nothing.
    let first = frame(br#"{"protocol_version":1,"kind":"event","ok":true,"seq":1}"#);
    let mut patient = told(&["events", "--follow", "--codec", "json"], first, Then::Silence);
    silent.running.line();
    patient.running.line();
    let lost = silent.running.complaint();
    assert_eq!(unplaced(&lost), "reconnecting: connection lost: no heartbeat came\n");
    silent.running.signal("INT");
    patient.running.signal("INT");
    assert!(patient.running.ended().succeeded().is_empty());
}

// Revocation, and a PKI that changes.

impl Pki {
    fn authority(&self) -> CertificateAuthority {
        CertificateAuthority::from_pem(&self.read("ca.pem"), &self.read("ca.key")).unwrap()
    }

    /// A client whose certificate the authority can revoke.
    pub(crate) fn issue(&self, id: &str) -> IssuedCertificate {
        let issued = self.authority().issue_client(id).unwrap();
        fs::write(self.file(&format!("{id}.pem")), issued.cert_pem()).unwrap();
        fs::write(self.file(&format!("{id}.key")), issued.key_pem()).unwrap();
        issued
    }

    /// The authority's list with this number, in DER.
    fn write_crl(&self, number: u64, revoked: &[&IssuedCertificate]) -> String {
        let file = self.file("crl.der");
        fs::write(&file, self.authority().crl(number, revoked.iter().copied()).unwrap()).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

fn crl_pem(der: &[u8]) -> String {
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", lines.join("\n"))
}

#[test]
fn a_revoked_client_does_not_get_in() {
    let (pki, other) = (Pki::new(), Pki::new());
    let [valve, sensor] = ["valve", "sensor"].map(|id| pki.issue(id));
    fs::write(pki.file("ca.pem"), [pki.read("ca.pem"), other.read("ca.pem")].concat()).unwrap();
    let stranger = other.issue("stranger");
    pki.admit(&other, "stranger", "stranger");
    let own = pki.write_crl(1, &[&valve]);
    let others = pki.file("other.pem");
    fs::write(&others, crl_pem(&other.authority().crl(1, [&stranger]).unwrap())).unwrap();
    let fingerprint = sensor.fingerprint().to_string();
    let lists = ["--crl", &own, "--crl", others.to_str().unwrap()];

    let revoked = |options: &[&str], ids: &[&str]| {
        let server = pki.serve(options);
        for id in ["client", "valve", "sensor", "stranger"] {
            let health = server.ask("health", &["--as", id]);
            if ids.contains(&id) {
                health.failed("error: certificate refused by the peer: certificate_revoked");
            } else {
                health.succeeded();
            }
        }
    };
    revoked(&[], &[]);
    revoked(&["--crl", &own], &["valve"]);
    revoked(&lists, &["valve", "stranger"]);
    let client = pki.fingerprint("client.pem");
    revoked(&["--revoke", &fingerprint.to_uppercase(), "--revoke", &client], &["sensor", "client"]);
    revoked(&[&lists[..], &["--revoke", &fingerprint]].concat(), &["valve", "stranger", "sensor"]);
}

#[test]
fn a_revoked_node_is_not_believed() {
    let pki = Pki::new();
    let server_certificate = pki.authority().issue_server(&[]).unwrap();
    fs::write(pki.file("server.pem"), server_certificate.cert_pem()).unwrap();
    fs::write(pki.file("server.key"), server_certificate.key_pem()).unwrap();
    let server = pki.serve(&[]);
    let fingerprint = server_certificate.fingerprint().to_string();
    let good = pki.file("good.der");
    fs::write(&good, pki.authority().crl(1, []).unwrap()).unwrap();
    let bad = pki.write_crl(1, &[&server_certificate]);
    for command in [&["health"][..], &["call", "demo.echo"], &["notify", "demo.publish"], &["events"]] {
        let with = |options: [&str; 2]| server.ask(command[0], &[&command[1..], &options].concat());
        with(["--crl", good.to_str().unwrap()]).succeeded();
        for revoked in [["--crl", &*bad], ["--revoke", &*fingerprint]] {
            let outcome = with(revoked);
            outcome.failed("error: peer certificate not acceptable");
            assert!(outcome.stderr.to_lowercase().contains("revoked"), "{outcome:?}");
        }
    }
    server.ask("events", &["--follow", "--crl", &bad]).failed("error: peer certificate not acceptable");
}

#[test]
fn a_revocation_list_that_is_no_good_is_named() {
    let (pki, other) = (Pki::new(), Pki::new());
    let server = pki.serve(&[]);
    let file = pki.file("list");
    let path = file.to_str().unwrap();
    let good = pki.authority().crl(1, []).unwrap();
    let strange = other.authority().crl(1, []).unwrap();
    for content in [
        &b""[..],
        b"no list",
        b"-----BEGIN X509 CRL-----\nMII",
        &pki.read("ca.pem"),
        &good[..good.len() - 1],
        &strange,
        crl_pem(&strange).as_bytes(),
    ] {
        fs::write(&file, content).unwrap();
        for outcome in [
            server.ask("health", &["--crl", path]),
            run(["serve", "--listen", "127.0.0.1:0", "--pki", pki.dir(), "--crl", path]),
        ] {
            outcome.failed(&format!("error: {path}: "));
        }
    }
    fs::remove_file(&file).unwrap();
    server.ask("health", &["--crl", path]).failed(&format!("error: cannot read {path}: "));
    fs::write(&file, &good).unwrap();
    server.ask("health", &["--crl", path]).succeeded();
    server.ask("health", &["--crl", path, "--crl", path]).failed("two certificate revocation lists");
}

#[test]
fn a_hangup_puts_the_files_of_the_pki_in_force() {
    let (pki, other) = (Pki::new(), Pki::new());
    let mut server = pki.serve(&[]);
    server.publish("before");
    let mut follower = server.begin("events", &["--follow"]);
    follower.line();
    let before = pki.fingerprint("server.pem");
    run(["pki", "--dir", pki.dir(), "--name", "gateway.example"]).succeeded();
    let after = pki.fingerprint("server.pem");
    server.ask("health", &["--pin", &after]).failed("pin mismatch");

    server.running.signal("HUP");
    let rotated = server.running.complaint();
    assert_eq!(rotated, format!("rotated: certificate {after}, authorities: 1\n"));
    server.ask("health", &["--pin", &after, "--server-name", "gateway.example"]).succeeded();
    server.ask("health", &["--pin", &before]).failed("pin mismatch");
    server.publish("after");
    assert_eq!(follower.line()["payload"], "after", "open connections go on");

    // Authorities too, beside the old ones and then in their place.
    let own = pki.read("ca.pem");
    for (believed, authorities, old_gets_in) in
        [([&own[..], &other.read("ca.pem")].concat(), 2, true), (other.read("ca.pem"), 1, false)]
    {
        fs::write(pki.file("ca.pem"), &believed).unwrap();
        server.running.signal("HUP");
        let rotated = server.running.complaint();
        assert_eq!(rotated, format!("rotated: certificate {after}, authorities: {authorities}\n"));
        fs::write(pki.file("ca.pem"), &own).unwrap();
        pki.admit(&other, "client", "stranger");
        server.ask("health", &["--as", "stranger"]).succeeded();
        let old = server.ask("health", &[]);
        if old_gets_in {
            old.succeeded();
        } else {
            old.failed("error: certificate refused by the peer");
        }
    }
    server.running.signal("TERM");
    server.running.ended().succeeded();
}

#[test]
fn a_hangup_changes_nothing_where_a_file_is_no_good() {
    let pki = Pki::new();
    let [valve, sensor] = ["valve", "sensor"].map(|id| pki.issue(id));
    let crl = pki.write_crl(2, &[&valve]);
    let mut server = pki.serve(&["--crl", &crl]);
    let hang_up = |server: &mut Server<'_>| {
        server.running.signal("HUP");
        server.running.complaint()
    };
    let fingerprint = pki.fingerprint("server.pem");
    let in_force = |server: &Server<'_>, revoked: &[&str]| {
        for id in ["valve", "sensor", "client"] {
            let health = server.ask("health", &["--as", id, "--pin", &fingerprint]);
            if revoked.contains(&id) {
                health.failed("certificate_revoked");
            } else {
                health.succeeded();
            }
        }
    };
    in_force(&server, &["valve"]);
    // A list that revokes more, beside a file that is no good.
    pki.write_crl(3, &[&valve, &sensor]);
    for file in ["server.pem", "server.key", "ca.pem"] {
        let whole = pki.read(file);
        for content in ["", "no PEM"] {
            fs::write(pki.file(file), content).unwrap();
            let refused = hang_up(&mut server);
            assert!(refused.starts_with("not rotated: ") && refused.contains(file), "{refused}");
        }
        fs::remove_file(pki.file(file)).unwrap();
        let refused = hang_up(&mut server);
        assert!(refused.starts_with("not rotated: ") && refused.contains(file), "{refused}");
        fs::write(pki.file(file), whole).unwrap();
        in_force(&server, &["valve"]);
    }
    // A certificate that has expired, which is found out when everything else is read.
    let whole = ["server.pem", "server.key"].map(|file| (file, pki.read(file)));
    let day = Duration::from_secs(24 * 60 * 60);
    let past = pki.authority().valid(SystemTime::now() - 2 * day, SystemTime::now() - day).unwrap();
    let expired = past.issue_server(&[]).unwrap();
    fs::write(pki.file("server.pem"), expired.cert_pem()).unwrap();
    fs::write(pki.file("server.key"), expired.key_pem()).unwrap();
    let refused = hang_up(&mut server);
    assert!(refused.starts_with("not rotated: ") && refused.contains("expired"), "{refused}");
    for (file, whole) in whole {
        fs::write(pki.file(file), whole).unwrap();
    }
    in_force(&server, &["valve"]);
    // A key that is not the certificate's.
    let key = pki.read("server.key");
    fs::write(pki.file("server.key"), pki.read("client.key")).unwrap();
    assert!(hang_up(&mut server).starts_with("not rotated: "));
    fs::write(pki.file("server.key"), key).unwrap();
    in_force(&server, &["valve"]);

    let rotated = hang_up(&mut server);
    let expected = format!("rotated: certificate {fingerprint}, authorities: 1, certificates revoked: 2\n");
    assert_eq!(rotated, expected);
    in_force(&server, &["valve", "sensor"]);
    // The same again changes nothing; an older list would let somebody in again.
    assert_eq!(hang_up(&mut server), expected);
    pki.write_crl(1, &[]);
    let refused = hang_up(&mut server);
    assert!(refused.starts_with("not rotated: ") && refused.contains("older"), "{refused}");
    in_force(&server, &["valve", "sensor"]);
}

#[test]
fn a_hangup_closes_the_connections_of_those_who_are_revoked() {
    let pki = Pki::new();
    let valve = pki.issue("valve");
    let crl = pki.write_crl(1, &[]);
    let mut server = pki.serve(&["--crl", &crl]);
    server.publish("news");
    let mut good = server.begin("events", &["--follow"]);
    let mut revoked = server.begin("events", &["--follow", "--as", "valve"]);
    good.line();
    revoked.line();
    pki.write_crl(2, &[&valve]);
    server.running.signal("HUP");
    assert!(server.running.complaint().starts_with("rotated: "));
    revoked.ended().failed("IDENTITY_REJECTED");
    server.publish("more");
    assert_eq!(good.line()["payload"], "more");
}

// The log.

#[test]
fn the_log_tells_as_much_as_asked_on_lines_that_are_fit_for_a_terminal() {
    let pki = Pki::new();
    let name = "no\u{1b}[31m\nbody\u{202e}";
    for (level, told) in [("off", false), ("error", false), ("warn", false), ("debug", true)] {
        let mut server = pki.serve(&["--log-level", level]);
        server.ask("notify", &[name]).succeeded();
        server.ask("notify", &["demo.publish", "--params", "handled"]).succeeded();
        assert_eq!(server.ask("events", &["--follow", "--count", "1"]).succeeded().len(), 1);
        server.running.signal("TERM");
        let Outcome { code, stdout: _, stderr } = server.running.ended();
        assert_eq!(code, Some(0));
        let named = "no handler for a notification remote=127.0.0.1:";
        let line = stderr.lines().find(|line| line.contains(named));
        assert_eq!(line.is_some(), told, "{level}: {stderr}");
        assert_eq!(stderr.is_empty(), !told, "{level}: {stderr}");
        if let Some(line) = line {
            assert!(line.starts_with("DEBUG palyra_quic::server::notification: "), "{line}");
            assert!(line.ends_with(r" method=no\u{1b}[31m\nbody\u{202e}"), "{line}");
        }
    }
    let crl = pki.file("list");
    fs::write(&crl, Pki::new().authority().crl(1, []).unwrap()).unwrap();
    let server = pki.serve(&[]);
    let refused = server.ask("health", &["--log-level", "warn", "--crl", crl.to_str().unwrap()]);
    let lines: Vec<_> = refused.stderr.lines().collect();
    let [warning, error] = lines[..] else { panic!("{lines:?}") };
    assert!(warning.starts_with("WARN palyra_quic::tls::revocation::list: "), "{warning}");
    assert!(error.starts_with("error: "), "{error}");
}

// A node, from its first line to its end.

#[test]
fn a_node_ends_cleanly_when_it_is_asked_to() {
    let pki = Pki::new();
    for signal in ["INT", "TERM"] {
        let Server { mut running, address, .. } = pki.serve(&[]);
        assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"), "{address}");
        running.signal(signal);
        assert!(running.ended().succeeded().is_empty(), "{signal}");
    }
}

#[test]
fn a_node_that_ends_tells_its_followers() {
    let pki = Pki::new();
    let mut server = pki.serve(&["--publish-every", "5"]);
    let mut reconnecting = server.begin("events", &["--follow"]);
    let mut plain = server.begin("events", &["--follow", "--codec", "json"]);
    reconnecting.line();
    plain.line();
    server.running.signal("TERM");
    server.running.ended().succeeded();
    plain.ended().failed("SHUTTING_DOWN");

    let loss = reconnecting.complaint();
    assert!(loss.starts_with("reconnecting: ") && loss.contains("SHUTTING_DOWN"), "{loss}");
    reconnecting.signal("INT");
    let Outcome { code, stdout: _, stderr } = reconnecting.ended();
    assert_eq!((code, &*stderr), (Some(0), ""), "one line for each loss");
}

#[test]
fn durable_events_outlive_the_node() {
    let pki = Pki::new();
    let file = pki.file("events");
    let durable = ["--durable", file.to_str().unwrap()];
    let mut server = pki.serve(&durable);
    assert!(server.ask("events", &[]).succeeded().is_empty());
    server.publish("called");
    server.ask("notify", &["demo.publish", "--params", "notified"]).succeeded();
    let before = server.ask("events", &["--follow", "--count", "2"]).succeeded();
    assert_eq!(payloads(&before), ["called", "notified"]);

    let second = ["serve", "--listen", "127.0.0.1:0", "--pki", pki.dir()];
    run([&second[..], &durable].concat()).failed("events");
    server.running.signal("TERM");
    server.running.ended().succeeded();

    let server = pki.serve(&[&durable[..], &["--commit-interval", "0"]].concat());
    server.publish("afterwards");
    let after = server.ask("events", &[]).succeeded();
    assert_eq!(after[..2], before);
    assert_eq!((&after[2]["seq"], &after[2]["epoch"]), (&json!(3), &before[0]["epoch"]));
    assert_eq!(after[2]["payload"], "afterwards");
}

#[test]
fn a_mirror_serves_what_it_has_when_its_origin_is_gone() {
    let pki = Pki::new();
    let log = format!("plant.temperature={}", pki.file("origin").to_str().unwrap());
    let mut origin = pki.serve(&["--log", &log, "--commit-interval", "0"]);
    for text in ["20", "21"] {
        origin.ask("call", &["plant.temperature.publish", "--params", text]).succeeded();
    }
    let directory = pki.file("mirror");
    let options = ["--log", "plant.temperature", "--durable", directory.to_str().unwrap()];
    let mirror = || {
        let mut running = origin.begin("mirror", &[&options[..], &["--listen", "127.0.0.1:0"]].concat());
        let address = running.line()["listening"].as_str().unwrap().to_owned();
        Server { pki: &pki, running, address }
    };
    let events = |server: &Server| {
        let options = ["--log", "plant.temperature", "--follow", "--count", "2"];
        server.ask("events", &options).succeeded()
    };
    let (mut first, before) = (mirror(), events(&origin));
    assert_eq!(events(&first), before, "with the same epoch and numbers");
    first.running.signal("KILL");
    first.running.ended();
    let second = mirror();
    origin.running.signal("TERM");
    origin.running.ended().succeeded();
    assert_eq!(events(&second), before);
}

#[test]
fn a_mirror_follows_another_holder_while_the_first_is_gone_and_tells_of_refused_acknowledgements() {
    let pki = Pki::new();
    let log = format!("plant.temperature={}", pki.file("origin").to_str().unwrap());
    let origin = pki.serve(&["--log", &log, "--commit-interval", "0", "--keep-unacknowledged", "32"]);
    origin.ask("call", &["plant.temperature.publish", "--params", "20"]).succeeded();
    // Nobody answers there.
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let directory = pki.file("mirror");
    let mut options = vec!["--log", "plant.temperature", "--durable", directory.to_str().unwrap()];
    // The certificate is not for this name of a consumer.
    options.extend(["--also", &origin.address, "--listen", "127.0.0.1:0", "--consumer", "somebody-else"]);
    let command = pki.command("mirror", &gone.local_addr().unwrap().to_string(), &options).spawn();
    let mut running = Running::started(command.unwrap());
    let address = running.line()["listening"].as_str().unwrap().to_owned();
    let mut mirror = Server { pki: &pki, running, address };
    while !mirror.running.complaint().starts_with("not acknowledged: ") {}
    let options = ["--log", "plant.temperature", "--follow", "--count", "1"];
    assert_eq!(payloads(&mirror.ask("events", &options).succeeded()), ["20"]);
}

#[test]
fn named_logs_outlive_the_node_and_do_not_mix() {
    let pki = Pki::new();
    let [warm, tight] =
        ["temperature", "pressure"].map(|name| format!("plant.{name}={}", pki.file(name).to_str().unwrap()));
    let options = ["--log", &warm, "--log", &tight, "--commit-interval", "0", "--memory", "16"];
    let mut server = pki.serve(&options);
    for (method, text) in [("plant.temperature", "20"), ("plant.pressure", "100"), ("demo", "own")] {
        let method = format!("{method}.publish");
        let answers = server.ask("call", &[&method, "--params", text]).succeeded();
        assert_eq!(payloads(&answers), ["1"], "{method} gives the number of the event");
        server.ask("notify", &[&method, "--params", &format!("{text} again")]).succeeded();
    }
    let mut before = Vec::new();
    for codec in ["cbor", "json"] {
        for (log, text) in
            [("plant.temperature", "20"), ("plant.pressure", "100"), ("node.stream_events", "own")]
        {
            let options = ["--log", log, "--codec", codec, "--follow", "--count", "2"];
            let events = server.ask("events", &options).succeeded();
            assert_eq!(payloads(&events), [text, &format!("{text} again")], "{log}");
            before.push(events);
        }
    }
    let epochs: Vec<_> = before[..3].iter().map(|events| &events[0]["epoch"]).collect();
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2] && epochs[2] != epochs[0], "{epochs:?}");
    let described = server.ask("describe", &[]).stdout;
    let logs: Vec<_> = described.lines().filter(|row| row.ends_with("  log")).collect();
    let names = ["node.stream_events", "plant.pressure", "plant.temperature"];
    assert!(
        logs.len() == 3 && names.iter().zip(&logs).all(|(name, row)| row.starts_with(name)),
        "{described}"
    );
    server.ask("events", &["--log", "plant.other"]).failed("unsupported_method");
    server.running.signal("TERM");
    server.running.ended().succeeded();

    let server = pki.serve(&options);
    server.ask("call", &["plant.temperature.publish", "--params", "21"]).succeeded();
    let epoch = before[0][0]["epoch"].to_string();
    let after = ["--log", "plant.temperature", "--resume-from", "1", "--epoch", &epoch];
    let after = server.ask("events", &after).succeeded();
    assert_eq!(payloads(&after), ["20 again", "21"]);
    assert_eq!(after[0], before[0][1]);
    assert_eq!(payloads(&server.ask("events", &["--log", "plant.pressure"]).succeeded()).len(), 2);
    assert!(server.ask("events", &[]).succeeded().is_empty(), "the node's own log is in memory");
}

#[test]
fn two_logs_of_a_node_have_two_names_and_two_directories() {
    let pki = Pki::new();
    let log = |name: &str, file: &str| format!("{name}={}", pki.file(file).to_str().unwrap());
    for (one, other, reason) in [
        (log("a", "x"), log("a", "y"), "two routers serve \"a.publish\""),
        (log("a", "x"), log("b", "x"), "x: "),
        (log("a", "x"), log("demo.echo", "y"), "\"demo.echo\" is the name of a method and of an event log"),
        (log("a", "x"), log("demo", "y"), "two routers serve \"demo.publish\""),
    ] {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--pki", pki.dir()];
        run([&serve[..], &["--log", &one, "--log", &other]].concat()).failed(reason);
    }
}

/// A link-local address of this machine, with the name and the number of its interface.
#[cfg(target_os = "linux")]
fn link_local() -> Option<(std::net::Ipv6Addr, String, u32)> {
    let addresses = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    addresses.lines().find_map(|line| {
        let [ip, number, _, scope, flags, name] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        // Its flags: neither tentative nor a duplicate.
        let usable = scope == "20" && u32::from_str_radix(flags, 16).ok()? & 0x48 == 0;
        let ip = u128::from_str_radix(ip, 16).ok()?.into();
        usable.then(|| (ip, name.to_owned(), u32::from_str_radix(number, 16).unwrap()))
    })
}

#[cfg(target_os = "linux")]
#[test]
fn an_address_may_name_its_interface() {
    let pki = Pki::new();
    let mut addresses = Vec::new();
    if UdpSocket::bind("[::1]:0").is_ok() {
        addresses.push(["[::1%lo]", "[::1%1]", "[::1]"].map(str::to_owned));
    }
    if let Some((ip, name, number)) = link_local() {
        let named = format!("[{ip}%{name}]");
        addresses.push([named.clone(), format!("[{ip}%{number}]"), named]);
    } else {
        println!("skipped: no interface has a link-local address");
    }
    for forms in addresses {
        for listen in &forms {
            let server = pki.serve(&["--listen", &format!("{listen}:0")]);
            let (_, port) = server.address.rsplit_once(':').unwrap();
            for dial in &forms {
                let address = format!("{dial}:{port}");
                run(["health", &address, "--pki", pki.dir(), "--server-name", "localhost"]).succeeded();
            }
            server.ask("health", &["--server-name", "localhost"]).succeeded();
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_interface_that_is_missing_is_named() {
    let pki = Pki::new();
    for (address, missing) in [
        ("[fe80::1%nonesuch]:7443", "there is no network interface nonesuch"),
        ("[fe80::1%eth 0]:7443", "there is no network interface eth 0"),
        ("[fe80::1%4000000000]:7443", "there is no network interface with number 4000000000"),
        ("[fe80::1%5000000000]:7443", "there is no network interface 5000000000"),
        ("[::1%nonesuch]:7443", "there is no network interface nonesuch"),
    ] {
        let expected = format!("cannot find {address}: {missing}");
        run(["health", address, "--pki", pki.dir()]).failed(&expected);
        run(["serve", "--listen", address, "--pki", pki.dir()]).failed(&expected);
    }
}

#[test]
fn an_address_from_which_no_answer_can_come_is_refused_with_the_reason() {
    let pki = Pki::new();
    for (address, reason) in [
        ("0.0.0.0:7443", "unspecified"),
        ("224.0.0.1:7443", "multicast"),
        ("255.255.255.255:7443", "broadcast"),
    ] {
        for command in [&["health"][..], &["events", "--follow"]] {
            run([command, &[address, "--pki", pki.dir()]].concat()).failed(reason);
        }
    }
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let (pki, empty, broken) = (Pki::new(), Scratch::new(), Pki::new());
    let server = pki.serve(&[]);
    let serve = |dir: &str, more: &[&str]| run([&["serve", "--pki", dir], more].concat());

    serve(pki.dir(), &["--listen", &server.address]).failed("in use");
    let any = "127.0.0.1:0";
    serve(empty.path(), &["--listen", any]).failed("error: cannot read");
    serve(pki.dir(), &["--listen", any, "--max-connections", "0"]).failed("max_connections is zero");
    serve(pki.dir(), &["--listen", any, "--max-datagram", "1199"])
        .failed("max_datagram_bytes is not in 1200");
    serve(pki.dir(), &["--listen", any, "--memory", "1"]).failed("1048576 bytes are too few");
    for file in ["ca.pem", "server.pem", "server.key"] {
        let whole = fs::read(broken.file(file)).unwrap();
        fs::write(broken.file(file), "no PEM").unwrap();
        serve(broken.dir(), &["--listen", any]).failed(file);
        fs::write(broken.file(file), whole).unwrap();
    }
    broken.serve(&["--max-connections", "1"]);
}

#[test]
fn a_client_without_a_usable_pki_says_why() {
    let (empty, pki) = (Scratch::new(), Pki::new());
    let server = pki.serve(&[]);
    run(["health", &server.address, "--pki", empty.path()]).failed("ca.pem");
    server.ask("health", &["--as", "nobody"]).failed("nobody.pem");
    fs::write(pki.file("client.key"), "no PEM").unwrap();
    server.ask("health", &[]).failed("client.key");
    run(["pki", "--dir", pki.dir()]).failed("client.key");
    run(["pki", "--dir", pki.dir(), "--client", "client"]).succeeded();
    server.ask("health", &[]).succeeded();
}

// Certificates.

#[test]
fn pki_writes_certificates_for_all_and_keys_for_their_owner() {
    let scratch = Scratch::new();
    let dir = scratch.0.join("made").join("on the way");
    let lines = run([OsStr::new("pki"), OsStr::new("--dir"), dir.as_os_str()]).succeeded();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line["wrote"].is_string() && line["fingerprint"].is_string()));
    let names = file_names(&dir);
    assert_eq!(names, ["ca.key", "ca.pem", "client.key", "client.pem", "server.key", "server.pem"]);
    for name in names {
        let mode = fs::metadata(dir.join(&name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode == 0o600, name.ends_with(".key"), "{name}: {mode:o}");
    }
}

#[test]
fn pki_again_keeps_the_authority_and_what_is_not_named() {
    let pki = Pki::new();
    let read = |name| fs::read(pki.file(name)).unwrap();
    let before = ["ca.pem", "ca.key", "server.pem", "client.pem"].map(read);

    let lines = run(["pki", "--dir", pki.dir()]).succeeded();
    assert!(lines.iter().all(|line| line["kept"].is_string()), "{lines:?}");
    run(["pki", "--dir", pki.dir(), "--client", "sensor", "--client", "valve"]).succeeded();
    assert_eq!(["ca.pem", "ca.key", "server.pem", "client.pem"].map(read), before);
    let server = pki.serve(&[]);
    for id in ["client", "sensor", "valve"] {
        server.ask("health", &["--as", id]).succeeded();
    }

    run(["pki", "--dir", pki.dir(), "--name", "gateway.example", "--client", "client"]).succeeded();
    assert_eq!(["ca.pem", "ca.key"].map(read), before[..2]);
    assert_ne!(read("server.pem"), before[2]);
    assert_ne!(read("client.pem"), before[3]);
}

#[test]
fn pki_makes_no_second_authority_beside_what_the_first_has_issued() {
    let pki = Pki::new();
    fs::remove_file(pki.file("ca.key")).unwrap();
    run(["pki", "--dir", pki.dir()]).failed("ca.key");
    fs::remove_file(pki.file("ca.pem")).unwrap();
    run(["pki", "--dir", pki.dir()]).failed("choose another directory");
    for file in file_names(Path::new(pki.dir())) {
        fs::remove_file(pki.file(&file)).unwrap();
    }
    run(["pki", "--dir", pki.dir()]).succeeded();
}

#[test]
fn pki_is_complete_even_if_nobody_reads_what_it_prints() {
    let scratch = Scratch::new();
    let mut child = node().args(["pki", "--dir", scratch.path()]).spawn().unwrap();
    drop(child.stdout.take());
    Running::deaf(child).ended().succeeded();
    assert_eq!(file_names(&scratch.0).len(), 6);
}

// The command line.

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let pki = Pki::new();
    let server = pki.serve(&[]);
    let scratch = Scratch::new();
    let (address, hex) = (&*server.address, "ab".repeat(32));
    for command in [
        &[][..],
        &["nothing"],
        &["pki"],
        &["pki", "--dir", scratch.path(), "--client", "ca"],
        &["pki", "--dir", scratch.path(), "--client", "Server"],
        &["pki", "--dir", scratch.path(), "--client", "../escape"],
        &["pki", "--dir", scratch.path(), "--name", "not a name"],
        &["serve", "--pki", pki.dir()],
        &["serve", "--pki", pki.dir(), "--listen", "127.0.0.1"],
        &["serve", "--pki", pki.dir(), "--listen", "::1:0"],
        &["serve", "--pki", pki.dir(), "--listen", "[fe80::1%]:0"],
        &["serve", "--pki", pki.dir(), "--listen", "[127.0.0.1%lo]:0"],
        &["serve", "--pki", pki.dir(), "--listen", "fe80::1%lo:0"],
        &["health", "[fe80::1%lo]", "--pki", pki.dir()],
        &["health", "[fe80::1%lo]:0", "--pki", pki.dir()],
        &["serve", "--pki", pki.dir(), "--listen", "127.0.0.1:0", "--publish-every", "0"],
        &["serve", "--pki", pki.dir(), "--listen", "127.0.0.1:0", "--commit-interval", "5"],
        &["health", "--pki", pki.dir()],
        &["health", address],
        &["health", "127.0.0.1:0", "--pki", pki.dir()],
        &["health", address, "--pki", pki.dir(), "--pin", "abc"],
        &["health", address, "--pki", pki.dir(), "--codec", "xml"],
        &["health", address, "--pki", pki.dir(), "--server-name", "not a name"],
        &["health", address, "--pki", pki.dir(), "--as", "../client"],
        &["call", address, "--pki", pki.dir()],
        &["call", address, "", "--pki", pki.dir()],
        &["call", address, &"m".repeat(129), "--pki", pki.dir()],
        &["call", address, "demo.echo", "--pki", pki.dir(), "--params-hex", "abc"],
        &["call", address, "demo.echo", "--pki", pki.dir(), "--params-hex", "0g"],
        &["call", address, "demo.echo", "--pki", pki.dir(), "--params-hex", "00", "--params", "x"],
        &["call", address, "demo.echo", "--pki", pki.dir(), "--params-file", "-", "--params", "x"],
        &["call", address, "demo.echo", "--pki", pki.dir(), "--params-file", "-", "--params-hex", "00"],
        &["call", address, "demo.echo", "--pki", pki.dir(), "--timeout-ms", "soon"],
        &["call", address, "demo.echo", "--pki", pki.dir(), "--log-level", "loud"],
        &["serve", "--pki", pki.dir(), "--listen", "127.0.0.1:0", "--no-client-auth", "--crl", "x"],
        &["serve", "--pki", pki.dir(), "--listen", "127.0.0.1:0", "--no-client-auth", "--revoke", &hex],
        &["serve", "--pki", pki.dir(), "--listen", "127.0.0.1:0", "--revoke", "abc"],
        &["serve", "--pki", pki.dir(), "--listen", "127.0.0.1:0", "--log", "debug"],
        &["serve", "--pki", pki.dir(), "--listen", "127.0.0.1:0", "--log", "=events"],
        &["serve", "--pki", pki.dir(), "--listen", "127.0.0.1:0", "--log", "plant="],
        &["serve", "--pki", pki.dir(), "--listen", "127.0.0.1:0", "--log", "node.health=events"],
        &["serve", "--pki", pki.dir(), "--listen", "127.0.0.1:0", "--log", "plant.=events"],
        &[
            "serve",
            "--pki",
            pki.dir(),
            "--listen",
            "127.0.0.1:0",
            "--log",
            &format!("{}=events", "n".repeat(121)),
        ],
        &["events", address, "--pki", pki.dir(), "--log", ""],
        &["health", address, "--pki", pki.dir(), "--revoke", ""],
        &["events", address, "--pki", pki.dir(), "--follow", "--timeout-ms", "-1"],
        &["notify", address, "--pki", pki.dir()],
        &["events", address, "--pki", pki.dir(), "--count", "0"],
        &["events", address, "--pki", pki.dir(), "--resume-from", "-1"],
    ] {
        let outcome = run(command);
        assert_eq!(outcome.code, Some(2), "{command:?}: {outcome:?}");
        assert!(outcome.stdout.is_empty() && !outcome.stderr.is_empty(), "{command:?}: {outcome:?}");
    }
    assert!(file_names(&scratch.0).is_empty());
}

#[test]
fn a_usage_error_quotes_no_control_character_raw() {
    let pki = Pki::new();
    for char in
        ['\n', '\r', '\t', '\u{1b}', '\u{7f}', '\u{9b}', '\u{61c}', '\u{2028}', '\u{202e}', '\u{2069}']
    {
        let odd = format!("a{char}[31mb");
        for (command, plain) in [
            (vec![&*odd], vec!["ab"]),
            (vec!["health", "127.0.0.1:1", &odd], vec!["health", "127.0.0.1:1", "ab"]),
            (vec!["health", &odd, "--pki", pki.dir()], vec!["health", "ab", "--pki", pki.dir()]),
            (
                vec!["call", "127.0.0.1:1", "x", "--codec", &odd],
                vec!["call", "127.0.0.1:1", "x", "--codec", "ab"],
            ),
            (vec!["pki", "--dir", "x", "--client", &odd], vec!["pki", "--dir", "x", "--client", "a/"]),
        ] {
            let (outcome, usual) = (run(&command), run(&plain));
            assert_eq!((outcome.code, usual.code), (Some(2), Some(2)), "{command:?}");
            assert!(outcome.stderr.contains("a\u{fffd}[31mb"), "{outcome:?}");
            assert!(char == '\n' || !outcome.stderr.contains(char), "{outcome:?}");
            assert_eq!(outcome.stderr.lines().count(), usual.stderr.lines().count(), "{command:?}");
        }
    }
    let no_text = run([OsStr::new("health"), OsStr::from_bytes(b"a\xff\x1bb")]);
    assert_eq!(no_text.code, Some(2));
    assert!(!no_text.stderr.contains('\u{1b}') && no_text.stderr.lines().count() > 1, "{no_text:?}");
    let long = run(["x".repeat(100_000)]);
    assert!(long.code == Some(2) && long.stderr.len() < 2_000, "{}", long.stderr.len());
    let (version, help) = (run(["--version"]), run(["--help"]));
    assert_eq!((version.code, help.code), (Some(0), Some(0)));
    assert!(version.stderr.is_empty() && help.stderr.is_empty() && help.stdout.lines().count() > 5);
}

#[test]
fn the_version_is_that_of_the_package() {
    let outcome = run(["--version"]);
    assert_eq!(
        (outcome.code, &*outcome.stdout),
        (Some(0), concat!("node ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}

#[test]
fn help_tells_of_every_option() {
    let connection = [
        "ADDR",
        "--pki",
        "--as",
        "--server-name",
        "--pin",
        "--codec",
        "cbor",
        "json",
        "--crl",
        "--revoke",
        "--log-level",
        "debug",
    ];
    let message = ["METHOD", "--params ", "--params-hex", "--params-file", "--timeout-ms"];
    for (command, options) in [
        (&[][..], &[&["pki", "serve", "health", "call", "notify", "events", "put", "get"][..]][..]),
        (&["pki"], &[&["--dir", "--name", "--client"]]),
        (&["serve"], &[&["--listen", "--pki", "--no-client-auth", "--max-connections", "--publish-every"]]),
        (
            &["serve"],
            &[&["--memory", "--durable", "--commit-interval", "--crl", "--revoke", "--log-level", "SIGHUP"]],
        ),
        (&["serve"], &[&["--files", "--writer", "--log <NAME=PATH>"]]),
        (
            &["mirror"],
            &[&connection, &["--also <ADDR>", "--log <NAME>", "--consumer", "--durable", "--listen"]],
        ),
        (&["put"], &[&connection, &["FILE", "--name", "--timeout-ms"]]),
        (&["get"], &[&connection, &["NAME", "--to", "--timeout-ms"]]),
        (&["health"], &[&connection, &["--timeout-ms"]]),
        (&["call"], &[&connection, &message]),
        (&["notify"], &[&connection, &message]),
        (
            &["events"],
            &[
                &connection,
                &["--log <NAME>", "--resume-from", "--epoch", "--follow", "--count", "--timeout-ms"],
            ],
        ),
    ] {
        let outcome = run([command, &["--help"]].concat());
        assert_eq!(outcome.code, Some(0), "{command:?}");
        for option in options.concat() {
            assert!(outcome.stdout.contains(option), "{command:?} {option}: {}", outcome.stdout);
        }
    }
}

// The program.

/// A command that is not done by then hangs.
const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) fn node() -> Command {
    let mut node = Command::new(binary());
    node.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    node
}

/// Runs a command to its end.
pub(crate) fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Outcome {
    Running::started(node().args(args).spawn().unwrap()).ended()
}

/// A child whose output is read as it comes, and which does not outlive its handle.
pub(crate) struct Running {
    pub(crate) child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Running {
    pub(crate) fn started(mut child: Child) -> Self {
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self::reading(child, stdout)
    }

    fn reading(child: Child, stdout: BufReader<ChildStdout>) -> Self {
        Self::of(child, lines(stdout))
    }

    /// Reads no standard output.
    fn deaf(child: Child) -> Self {
        Self::of(child, lines(BufReader::new(std::io::empty())))
    }

    fn of(mut child: Child, stdout: Receiver<String>) -> Self {
        let stderr = lines(BufReader::new(child.stderr.take().unwrap()));
        Self { child, stdout, stderr }
    }

    /// The next line of standard output.
    pub(crate) fn line(&mut self) -> Value {
        let line = self.stdout.recv_timeout(PATIENCE);
        serde_json::from_str(&line.expect("another line")).unwrap()
    }

    /// The next line of standard error.
    fn complaint(&mut self) -> String {
        self.stderr.recv_timeout(PATIENCE).expect("another line")
    }

    pub(crate) fn signal(&self, name: &str) {
        // Not reaped yet, so the number is still the child's.
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
    }

    /// Waits for the end; the lines are those not taken before.
    pub(crate) fn ended(&mut self) -> Outcome {
        let (stdout, stderr) = (rest(&self.stdout), rest(&self.stderr));
        Outcome { code: self.child.wait().unwrap().code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rest(lines: &Receiver<String>) -> String {
    let mut rest = String::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => rest.push_str(&line),
            Err(mpsc::RecvTimeoutError::Disconnected) => return rest,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("still running; so far: {rest}"),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What was printed, by a command that had nothing to complain of.
    #[track_caller]
    pub(crate) fn succeeded(&self) -> Vec<Value> {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""), "{self:?}");
        self.lines()
    }

    #[track_caller]
    pub(crate) fn failed(&self, reason: &str) {
        assert_eq!(self.code, Some(1), "{self:?}");
        let one_line = self.stderr.starts_with("error: ") && self.stderr.lines().count() == 1;
        assert!(one_line && self.stderr.contains(reason), "not {reason:?}: {self:?}");
    }
}

/// The line of a failed call without what was called and where, as in "(`node.health` at 127.0.0.1:4433)".
fn unplaced(line: &str) -> String {
    let (before, place) = line.split_once(" (`").expect("the method");
    let (place, after) = place.split_once(')').unwrap();
    assert!(place.contains("` at 127.0.0.1:"), "{line}");
    format!("{before}{after}")
}

fn payloads(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["payload"].as_str().unwrap()).collect()
}

// What the program works with.

/// A directory that is gone with its handle.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let unique = (process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(format!("palyra-quic-cli-{}-{}", unique.0, unique.1));
        // What another process of that number has left behind is nobody's any more.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What `node pki` makes.
pub(crate) struct Pki(Scratch);

impl Pki {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        run(["pki", "--dir", scratch.path()]).succeeded();
        Self(scratch)
    }

    /// The client's part of what a test made itself.
    fn of(made: &crate::common::Pki) -> Self {
        let pki = Self(Scratch::new());
        fs::write(pki.file("ca.pem"), made.authority.cert_pem()).unwrap();
        for (name, issued) in [("server", &made.server), ("client", &made.client)] {
            fs::write(pki.file(&format!("{name}.pem")), issued.cert_pem()).unwrap();
            fs::write(pki.file(&format!("{name}.key")), issued.key_pem()).unwrap();
        }
        pki
    }

    pub(crate) fn dir(&self) -> &str {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    /// As `node pki` tells it.
    fn fingerprint(&self, file: &str) -> String {
        let lines = run(["pki", "--dir", self.dir()]).succeeded();
        let line = lines.iter().find(|line| line["kept"].as_str().unwrap().ends_with(file)).unwrap();
        line["fingerprint"].as_str().unwrap().to_owned()
    }

    /// Puts in a client of another authority.
    fn admit_stranger(&self, id: &str) {
        self.admit(&Self::new(), "client", id);
    }

    /// Puts in a client of another directory, under this name.
    fn admit(&self, other: &Self, client: &str, id: &str) {
        for kind in ["pem", "key"] {
            fs::copy(other.file(&format!("{client}.{kind}")), self.file(&format!("{id}.{kind}"))).unwrap();
        }
    }

    /// Puts in a client whose certificate was valid until yesterday.
    fn issue_expired(&self, id: &str) {
        let authority = CertificateAuthority::from_pem(&self.read("ca.pem"), &self.read("ca.key")).unwrap();
        let day = Duration::from_secs(24 * 60 * 60);
        let now = SystemTime::now();
        let issued = authority.valid(now - 2 * day, now - day).unwrap().issue_client(id).unwrap();
        fs::write(self.file(&format!("{id}.pem")), issued.cert_pem()).unwrap();
        fs::write(self.file(&format!("{id}.key")), issued.key_pem()).unwrap();
    }

    /// `node serve`, once it listens.
    pub(crate) fn serve(&self, options: &[&str]) -> Server<'_> {
        let anywhere = if options.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
        let command = [&["serve", "--pki", self.dir()], anywhere, options].concat();
        let mut running = Running::started(node().args(command).spawn().unwrap());
        let listening = running.line();
        let address = listening["listening"].as_str().unwrap().to_owned();
        assert_eq!(listening, json!({ "listening": address }));
        Server { pki: self, running, address }
    }

    /// A node in this process, for methods that the program does not have.
    pub(crate) fn serve_in_process(&self, router: Router) -> Node<'_> {
        self.serve_in_process_within(TransportLimits::default(), router)
    }

    pub(crate) fn serve_in_process_within(&self, limits: TransportLimits, router: Router) -> Node<'_> {
        let identity = Identity::from_pem(&self.read("server.pem"), &self.read("server.key")).unwrap();
        let trust = Trust::from_pem(&self.read("ca.pem")).unwrap();
        let tls = ServerTls::new(identity).require_client_certificates(trust);
        let endpoint = Endpoint::builder().server(tls).limits(limits).router(router);
        Node { pki: self, endpoint: endpoint.bind("127.0.0.1:0".parse().unwrap()).unwrap() }
    }

    pub(crate) fn command(&self, command: &str, address: &str, options: &[&str]) -> Command {
        let mut node = node();
        node.args([command, address, "--pki", self.dir()]).args(options);
        node
    }
}

/// What a command makes of this answer to its request.
fn answered(command: &str, answer: &str) -> Outcome {
    let node = RawServer::new();
    let pki = Pki::of(&node.pki);
    let address = node.address().to_string();
    let answer = frame(answer.as_bytes());
    let _serving = smol::spawn(async move {
        let connection = node.endpoint.accept().await.unwrap().await.unwrap();
        let mut stream = RawStream::accept(&connection).await;
        stream.send(&answer).await;
        stream.finish();
        connection.closed().await;
    });
    Running::started(pki.command(command, &address, &[]).spawn().unwrap()).ended()
}

pub(crate) struct Server<'a> {
    pki: &'a Pki,
    pub(crate) running: Running,
    pub(crate) address: String,
}

impl Server<'_> {
    pub(crate) fn ask(&self, command: &str, options: &[&str]) -> Outcome {
        self.begin(command, options).ended()
    }

    pub(crate) fn begin(&self, command: &str, options: &[&str]) -> Running {
        Running::started(self.spawn(command, options))
    }

    fn spawn(&self, command: &str, options: &[&str]) -> Child {
        self.pki.command(command, &self.address, options).spawn().unwrap()
    }

    fn publish(&self, text: &str) {
        self.ask("call", &["demo.publish", "--params", text]).succeeded();
    }
}

pub(crate) struct Node<'a> {
    pki: &'a Pki,
    pub(crate) endpoint: Endpoint,
}

impl Node<'_> {
    pub(crate) fn ask(&self, command: &str, options: &[&str]) -> Outcome {
        self.begin(command, options).ended()
    }

    pub(crate) fn begin(&self, command: &str, options: &[&str]) -> Running {
        let address = self.endpoint.local_addr().unwrap().to_string();
        Running::started(self.pki.command(command, &address, options).spawn().unwrap())
    }
}

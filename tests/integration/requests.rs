//! What the body of a request may say and what it must not, in either encoding, and what the node answers.

use std::{future, time::Duration};

use palyra_quic::{Bytes, Codec, Context, Request, Response, Router, TransportLimits, WireError};
use smol::channel::Receiver;

use crate::common::{
    DropGuard, Server, encode, entry, json_request, map, request, run, serve, serve_within, signal,
};

/// A node with a method that tells each time it runs, and with what.
fn node() -> (Server, Receiver<Bytes>) {
    let (ran, runs) = smol::channel::unbounded();
    let router = Router::new().serve_raw("m", move |_: Context, params: Bytes| {
        let ran = ran.clone();
        async move {
            ran.try_send(params.clone()).unwrap();
            Ok(params)
        }
    });
    (serve(router), runs)
}

/// Each of `refused` is answered with this error and runs nothing, and between them each of `served` runs,
/// all on one connection.
fn checked(error: &WireError, refused: &[Vec<u8>], served: &[Vec<u8>]) {
    run(async {
        let (server, runs) = node();
        let peer = server.raw().await;
        for body in refused {
            let answer = peer.request(body).await;
            assert_eq!(answer.error_in(Codec::of(body)), *error, "{body:02x?}");
            peer.assert_is_served().await;
        }
        assert!(runs.is_empty());
        for body in served {
            let answer = peer.request(body).await.only_in(Codec::of(body));
            assert!(matches!(answer, Response::Result { .. }), "{body:02x?}: {answer:?}");
            assert!(runs.try_recv().is_ok());
        }
        server.assert_serves_others().await;
    });
}

fn invalid(refused: &[Vec<u8>], served: &[Vec<u8>]) {
    checked(&WireError::InvalidRequest, refused, served);
}

/// A request for `m` with this behind its version and method.
fn with(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut all: Vec<&[u8]> = vec![VERSION, METHOD];
    all.extend(entries.iter().map(Vec::as_slice));
    map(&all)
}

const VERSION: &[u8] = &[0x00, 0x01];
const METHOD: &[u8] = &[0x01, 0x61, b'm'];

fn json(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// The same in JSON: a request for `m` with these fields behind its version and method.
fn json_with(fields: &str) -> Vec<u8> {
    format!(r#"{{"protocol_version":1,"method":"m"{fields}}}"#).into_bytes()
}

#[test]
fn a_body_is_one_map() {
    let bare = with(&[]);
    invalid(
        &[
            json("garbage"),
            vec![0x01],
            vec![0x60],
            // An array of the same, the map in an array, a tag for self-described CBOR in front.
            [&[0x82], &bare[1..]].concat(),
            [&[0x81], &bare[..]].concat(),
            [&[0xd9, 0xd9, 0xf7], &bare[..]].concat(),
        ],
        &[bare],
    );
}

#[test]
fn a_body_ends_with_its_map() {
    let bare = with(&[]);
    let shortened: Vec<_> = (1..bare.len()).map(|end| bare[..end].to_vec()).collect();
    invalid(&shortened, &[]);
    let lengthened = [&[0x00][..], &[0xf6], &[0xff], &bare].map(|behind| [&bare, behind].concat());
    invalid(&lengthened, &[bare]);
}

#[test]
fn nothing_is_of_indefinite_length() {
    let within = |value: &[u8]| with(&[[&[0x10], value].concat()]);
    invalid(
        &[
            [&[0xbf], VERSION, METHOD, &[0xff]].concat(),
            map(&[VERSION, &[0x01, 0x7f, 0x61, b'm', 0xff]]),
            within(&[0x5f, 0x41, 0x00, 0xff]),
            within(&[0x7f, 0x61, b'a', 0xff]),
            within(&[0x9f, 0xff]),
            within(&[0xbf, 0xff]),
            within(&[0x81, 0x9f, 0xff]),
        ],
        &[within(&[0x41, 0x00]), within(&[0x61, b'a']), within(&[0x80]), within(&[0xa0])],
    );
}

#[test]
fn sixteen_levels_are_enough() {
    // The body's map is one of them.
    let arrays = |levels: usize| with(&[[&[0x10][..], &vec![0x81; levels - 2], &[0x80]].concat()]);
    let tags = |levels: usize| with(&[[&[0x10][..], &vec![0xc1; levels - 1], &[0x00]].concat()]);
    let maps = |levels: usize| with(&[[&[0x10][..], &[0xa1, 0x00].repeat(levels - 2), &[0xa0]].concat()]);
    invalid(&[arrays(17), tags(17), maps(17), arrays(100_000)], &[arrays(16), tags(16), maps(16)]);
}

#[test]
fn params_have_levels_of_their_own() {
    let opaque = [vec![0x81; 1000], b"not CBOR \xff".to_vec()].concat();
    run(async {
        let (server, runs) = node();
        let request = Request::new("m").with_params(opaque.clone());
        for codec in [Codec::Cbor, Codec::Json] {
            let answer = server.raw().await.request(&encode(&request, codec)).await;
            assert_eq!(crate::common::result(answer.only_in(codec)), opaque);
            assert_eq!(runs.recv().await.unwrap(), opaque);
        }
    });
}

#[test]
fn no_key_comes_twice() {
    let unknown = |key: u64| wide_entry(key, 0);
    invalid(
        &[
            map(&[VERSION, METHOD, VERSION]),
            map(&[VERSION, METHOD, METHOD]),
            with(&[entry(2, 1), entry(2, 1)]),
            // By value, whatever its form.
            with(&[entry(2, 1), vec![0x18, 0x02, 0x01]]),
            // Those that are ignored count too.
            with(&[entry(16, 0), entry(16, 0)]),
            with(&[unknown(1 << 40), entry(16, 0), unknown(1 << 40)]),
        ],
        &[
            with(&[entry(2, 1), entry(4, 10_000)]),
            with(&[entry(16, 0), entry(17, 0)]),
            // Maps within values are not examined.
            with(&[[&[0x10], &map(&[VERSION, VERSION])[..]].concat()]),
        ],
    );
}

fn wide_entry(key: u64, value: u8) -> Vec<u8> {
    [palyra_quic::minicbor::to_vec(key).unwrap(), vec![value]].concat()
}

#[test]
fn unknown_keys_are_invalid_below_sixteen_and_ignored_above() {
    let low: Vec<_> = (8..16).chain([-1, -16, -1000]).map(|key| with(&[entry(key, true)])).collect();
    let high = [16, 17, 255, 65_536, u64::MAX].map(|key| with(&[wide_entry(key, 0xf5)]));
    invalid(&low, &high);
}

#[test]
fn keys_are_integers() {
    invalid(
        &[
            [&[0xa2, 0x61, b'0', 0x01], METHOD].concat(),
            with(&[vec![0x41, 0x00, 0x00]]),
            with(&[vec![0xf9, 0x4c, 0x00, 0x00]]),
            with(&[vec![0xf6, 0x00]]),
        ],
        &[with(&[vec![0x10, 0x00]])],
    );
}

#[test]
fn what_is_not_well_formed_is_invalid_even_where_it_is_ignored() {
    let within = |value: &[u8]| with(&[[&[0x10], value].concat()]);
    invalid(
        &[
            // Reserved lengths, a break on its own, a simple value in the wrong form, lengths that the body
            // cannot hold.
            within(&[0x1c]),
            within(&[0x1e]),
            within(&[0xff]),
            within(&[0xf8, 0x1f]),
            within(&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            within(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            within(&[0x62, 0xc0, 0xaf]),
            within(&[0x63, 0xed, 0xa0, 0x80]),
            map(&[VERSION, &[0x01, 0x61, 0xff]]),
        ],
        &[within(&[0xf8, 0x20]), within(&[0x62, 0xc3, 0xa9]), within(&[0x42, 0xc0, 0xaf])],
    );
}

#[test]
fn longer_forms_and_other_orders_are_accepted() {
    invalid(
        &[],
        &[
            map(&[METHOD, VERSION]),
            map(&[&entry(16, 0), &entry(4, 10_000), METHOD, VERSION]),
            map(&[&[0x18, 0x00, 0x18, 0x01], &[0x19, 0x00, 0x01, 0x78, 0x01, b'm']]),
            [&[0xb8, 0x02], VERSION, METHOD].concat(),
            map(&[&[0x00, 0x1b, 0, 0, 0, 0, 0, 0, 0, 1], METHOD]),
        ],
    );
}

#[test]
fn a_missing_field_is_invalid() {
    invalid(
        &[
            map(&[]),
            map(&[VERSION]),
            map(&[METHOD]),
            map(&[&entry(16, 0)]),
            json("{}"),
            json(r#"{"protocol_version":1}"#),
            json(r#"{"method":"m"}"#),
        ],
        &[with(&[]), json_with("")],
    );
}

#[test]
fn a_field_of_the_wrong_type_or_range_is_invalid() {
    let wrong_in_cbor = [
        map(&[&entry(0, "1"), METHOD]),
        map(&[&entry(0, 65_536), METHOD]),
        map(&[&entry(0, -1), METHOD]),
        map(&[VERSION, &[0x01, 0x41, b'm']]),
        with(&[entry(2, -1)]),
        with(&[vec![0x02, 0xf6]]),
        // 1 as a big number, 1.0.
        with(&[vec![0x02, 0xc2, 0x41, 0x01]]),
        with(&[vec![0x02, 0xf9, 0x3c, 0x00]]),
        with(&[entry(3, "text")]),
        with(&[vec![0x03, 0xf6]]),
        with(&[entry(4, "1000")]),
        with(&[entry(5, 1)]),
        with(&[entry(6, true)]),
    ];
    let wrong_in_json = [
        json(r#"{"protocol_version":"1","method":"m"}"#),
        json(r#"{"protocol_version":1.0,"method":"m"}"#),
        json(r#"{"protocol_version":65536,"method":"m"}"#),
        json(r#"{"protocol_version":null,"method":"m"}"#),
        json(r#"{"protocol_version":1,"method":null}"#),
        json_with(r#","resume_from":-1"#),
        json_with(r#","resume_from":18446744073709551616"#),
        json_with(r#","params":[1]"#),
        json_with(r#","params":"-_8=""#),
        json_with(r#","params":"+/8""#),
        json_with(r#","timeout_ms":"1""#),
        json_with(r#","follow":0"#),
        json_with(r#","epoch":"x""#),
    ];
    let right = [
        with(&[
            entry(2, u64::MAX),
            vec![0x03, 0x42, 0xfb, 0xff],
            entry(4, u64::MAX),
            entry(5, false),
            entry(6, 0),
        ]),
        json_with(
            r#","resume_from":18446744073709551615,"params":"+/8=","timeout_ms":18446744073709551615,"follow":false,"epoch":0"#,
        ),
        json_with(r#","resume_from":null,"params":null,"timeout_ms":null,"follow":null,"epoch":null"#),
    ];
    invalid(&[&wrong_in_cbor[..], &wrong_in_json].concat(), &right);
}

#[test]
fn json_with_unknown_or_repeated_fields_is_invalid() {
    invalid(
        &[
            json_with(r#","16":0"#),
            json_with(r#","Method":"m""#),
            json_with(r#","extra":null"#),
            json_with(r#","method":"m""#),
        ],
        &[json_with("")],
    );
}

#[test]
fn a_json_body_is_one_object_from_its_first_byte_on() {
    let bare = json_with("");
    invalid(
        &[
            json("{"),
            bare[..bare.len() - 1].to_vec(),
            [&bare[..], b"{}"].concat(),
            [&bare[..], b"\0"].concat(),
            json_with(r#","params":"#),
            [&bare[..bare.len() - 2], b"\xff\"}"].concat(),
            // CBOR, by their first byte, and no map.
            [b"\xef\xbb\xbf", &bare[..]].concat(),
            [b"\x0c", &bare[..]].concat(),
            b" \t\r\n".to_vec(),
            vec![b' '; 100_000],
            [b" ", &map(&[VERSION, METHOD])[..]].concat(),
        ],
        &[json("{ \"method\" : \"m\",\r\n\t\"protocol_version\" : 1 }")],
    );
}

/// docs/protocol.md, section 5.2: nothing but blanks around it.
#[test]
fn blanks_around_a_json_object_are_accepted() {
    let bare = json_with("");
    let around = |before: &[u8], behind: &[u8]| [before, &bare, behind].concat();
    invalid(
        &[],
        &[
            around(b"", b" \r\n\t"),
            around(b" ", b""),
            around(b"\t", b""),
            around(b"\n", b""),
            around(b"\r\n", b"\n"),
            around(&[b' '; 100_000], b""),
        ],
    );
}

#[test]
fn another_version_is_a_mismatch() {
    let version = |version: u16| map(&[&entry(0, version), METHOD]);
    let json_version = |version: u16| json(&format!(r#"{{"protocol_version":{version},"method":"m"}}"#));
    checked(
        &WireError::ProtocolMismatch,
        &[version(0), version(2), version(u16::MAX), json_version(0), json_version(2)],
        &[version(1), json_version(1)],
    );
}

#[test]
fn another_method_is_unsupported() {
    let names = ["M", "m ", "mm", "node.unknown", "node.stream_events", "é", &"m".repeat(128)];
    let unknown: Vec<_> = names.into_iter().flat_map(|name| [request(name), json_request(name)]).collect();
    checked(&WireError::UnsupportedMethod, &unknown, &[request("m"), json_request("m")]);
}

#[test]
fn a_method_has_1_to_128_bytes() {
    let body = |name: &str| map(&[VERSION, &entry(1, name)]);
    // 129 bytes in 127 characters, too.
    let long = [String::new(), "m".repeat(129), "m".repeat(125) + "éé"];
    let refused: Vec<_> = long.iter().flat_map(|name| [body(name), json_request(name)]).collect();
    invalid(&refused, &[body("m")]);
}

#[test]
fn the_body_is_checked_before_the_version_and_the_version_before_the_method() {
    let both = |entries: &[&[u8]]| map(entries);
    checked(&WireError::InvalidRequest, &[both(&[&entry(0, 2), METHOD, &entry(7, 0)])], &[]);
    checked(&WireError::ProtocolMismatch, &[both(&[&entry(0, 2), &entry(1, "unknown")])], &[]);
    checked(&WireError::UnsupportedMethod, &[both(&[VERSION, &entry(1, "unknown")])], &[]);
}

#[test]
fn the_reference_gets_json_for_its_json() {
    run(async {
        let (server, _) = node();
        let peer = server.raw().await;
        let answer = peer.request(&json_request("node.health")).await;
        let [body] = &*answer.frames() else { panic!("more than one frame") };
        let text = std::str::from_utf8(body).unwrap();
        assert!(
            text.starts_with(
                r#"{"protocol_version":1,"kind":"health","ok":true,"node_rpc_mtls_required":true"#
            )
        );
        let answer = peer.request(&json_request("nope")).await;
        let text =
            r#"{"protocol_version":1,"kind":"error","ok":false,"error":"unsupported_method","not_run":true}"#;
        assert_eq!(answer.frames(), [text.as_bytes()]);
        // A request in CBOR is answered in CBOR, on the same connection.
        assert!(matches!(peer.request(&request("node.health")).await.only(), Response::Health { .. }));
    });
}

/// A node whose method `hang` never ends; tells when it has begun and when it is gone.
fn hanging(handler_timeout: Duration) -> (Server, Receiver<()>, Receiver<()>) {
    let (began, beginnings) = signal();
    let (ended, endings) = signal();
    let router = Router::new()
        .serve_raw("hang", move |_: Context, _| {
            let guard = DropGuard(ended.clone());
            began.try_send(()).unwrap();
            async move {
                let _guard = guard;
                future::pending().await
            }
        })
        .serve_raw("m", |context: Context, _| async move {
            let left = context.time_left().unwrap();
            Ok(Bytes::from(left.as_secs().to_string()))
        });
    let limits = TransportLimits::builder().handler_timeout(handler_timeout).build().unwrap();
    (serve_within(limits, router), beginnings, endings)
}

const LONG: Duration = Duration::from_secs(1000);
/// Long enough for a handler to begin, however busy the computer is.
const SHORT: Duration = Duration::from_secs(2);

fn timed(method: &str, timeout_ms: u64) -> Vec<u8> {
    encode(&Request::new(method).with_timeout_ms(timeout_ms), Codec::Cbor)
}

#[test]
fn the_callers_time_limit_stops_the_handler() {
    run(async {
        let (server, began, ended) = hanging(LONG);
        let peer = server.raw().await;
        let json = json(r#"{"protocol_version":1,"method":"hang","timeout_ms":2000}"#);
        for (body, codec) in [(timed("hang", 2000), Codec::Cbor), (json, Codec::Json)] {
            assert_eq!(peer.request(&body).await.error_in(codec), WireError::DeadlineExceeded);
            began.recv().await.unwrap();
            ended.recv().await.unwrap();
        }
        peer.assert_is_served().await;
    });
}

#[test]
fn the_nodes_time_limit_stops_the_handler() {
    run(async {
        let (server, began, ended) = hanging(SHORT);
        let peer = server.raw().await;
        for body in [request("hang"), timed("hang", 1_000_000)] {
            assert_eq!(peer.request(&body).await.error(), WireError::DeadlineExceeded);
            began.recv().await.unwrap();
            ended.recv().await.unwrap();
        }
        peer.assert_is_served().await;
    });
}

#[test]
fn the_lower_time_limit_is_the_handlers() {
    run(async {
        let (server, ..) = hanging(LONG);
        let peer = server.raw().await;
        for (body, at_most) in
            [(request("m"), 1000), (timed("m", u64::MAX), 1000), (timed("m", 500_000), 500)]
        {
            let left = peer.request(&body).await.result();
            let left: u64 = std::str::from_utf8(&left).unwrap().parse().unwrap();
            assert!((at_most - 100..=at_most).contains(&left), "{left} s left of {at_most}");
        }
    });
}

#[test]
fn a_time_limit_of_zero_has_passed_on_arrival() {
    run(async {
        let (server, began, _) = hanging(LONG);
        let peer = server.raw().await;
        assert_eq!(peer.request(&timed("hang", 0)).await.error(), WireError::DeadlineExceeded);
        peer.assert_is_served().await;
        assert!(began.is_empty(), "the handler ran");
    });
}

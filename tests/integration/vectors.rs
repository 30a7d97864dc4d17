//! The test vectors, against the codec, the frames, the CDDL, and readings of CBOR that are not the crate's.

#[path = "../vectors/item.rs"]
pub(crate) mod item;
#[path = "../vectors/schema.rs"]
pub(crate) mod schema;

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use palyra_quic::{
    Bytes, CborError, Code, Codec, CountedResponse, Item as ItemMessage, JsonError, MessageError,
    Notification, Request, Response, Router, TransportLimits,
    fuzzing::{FrameBuffer, FrameError, encode_frame},
};
use serde_json::{Value, json};

use crate::common::{Answer, run, serve_within};
use item::{Item, hex};
use schema::Schema;

type Checked = Result<(), String>;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Request,
    Response,
    Notification,
    Item,
}

#[derive(Debug, PartialEq)]
enum Message {
    Request(Request),
    Response(CountedResponse),
    Notification(Notification),
    Item(ItemMessage),
}

impl Kind {
    const ALL: [Self; 4] = [Self::Request, Self::Response, Self::Notification, Self::Item];

    /// The rule of the CDDL, and what `invalid.json` calls it.
    fn rule(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Notification => "notification",
            Self::Item => "item",
        }
    }

    fn of(rule: &Value) -> Self {
        Self::ALL.into_iter().find(|kind| rule == kind.rule()).unwrap()
    }

    fn valid(self) -> Vec<Value> {
        vectors(match self {
            Self::Request => include_str!("../vectors/requests.json"),
            Self::Response => include_str!("../vectors/responses.json"),
            Self::Notification => include_str!("../vectors/notifications.json"),
            Self::Item => include_str!("../vectors/items.json"),
        })
    }

    /// JSON's names, each at the place of its key.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Request => &[
                "protocol_version",
                "method",
                "resume_from",
                "params",
                "timeout_ms",
                "follow",
                "epoch",
                "more",
            ],
            Self::Response => &[
                "protocol_version",
                "kind",
                "ok",
                "seq",
                "node_rpc_mtls_required",
                "error",
                "payload",
                "epoch",
                "first_seq",
                "missed",
                "retry_after_ms",
                "detail",
                "not_run",
                "items",
            ],
            // No name is empty in JSON, so these keys are never found.
            Self::Notification => &["protocol_version", "method", "", "params"],
            Self::Item => &["", "", "", "params"],
        }
    }

    fn decode(self, body: Vec<u8>) -> Result<Message, MessageError> {
        let body = Bytes::from(body);
        match self {
            Self::Request => Request::decode(&body).map(Message::Request),
            Self::Response => {
                let counted = CountedResponse::decode(&body);
                if let Ok(counted) = &counted {
                    assert_eq!(Response::decode(&body).as_ref(), Ok(&counted.response));
                }
                counted.map(Message::Response)
            }
            Self::Notification => Notification::decode(&body).map(Message::Notification),
            Self::Item => ItemMessage::decode(&body).map(Message::Item),
        }
    }
}

impl Message {
    fn encode(&self, codec: Codec) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Request(message) => message.encode(codec, &mut out),
            Self::Response(message) => message.encode(codec, &mut out),
            Self::Notification(message) => message.encode(codec, &mut out),
            Self::Item(message) => message.encode(codec, &mut out),
        }
        .unwrap();
        out
    }
}

fn vectors(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().unwrap()
}

fn bytes(vector: &Value) -> Vec<u8> {
    hex(text(vector, "hex")).unwrap()
}

fn require(holds: bool, what: &str) -> Checked {
    if holds { Ok(()) } else { Err(what.into()) }
}

/// What a receiver makes of a valid vector, with `bytes` as its body.
fn check_valid(kind: Kind, vector: &Value, bytes: &[u8]) -> Checked {
    let reencodes = vector["reencodes"] == true;
    let item = Item::from_bytes(bytes)?;
    require(item == Item::from_diag(text(vector, "diag"))?, "other bytes than in diagnostic notation")?;
    require(!reencodes || item.to_bytes() == bytes, "not in the form that senders use")?;
    let decoded = kind.decode(bytes.to_vec());
    // JSON cannot say what a trace context does.
    let has_twin = !vector["json"].is_null();
    require(has_twin != has_trace(&decoded), "a trace context with a JSON twin, or neither")?;
    if has_twin {
        require(twin(kind, &item) == vector["json"], "the JSON twin is of another message")?;
        let from_json = kind.decode(vector["json"].to_string().into_bytes());
        require(decoded == from_json, "another message than the JSON twin")?;
    }
    if matches!(kind, Kind::Response) && !kind_is_known(&item) {
        // Sound, and yet of no use to a receiver (section 5.3).
        return require(
            decoded == Err(MessageError::UnknownKind),
            "an unknown kind is taken for a known one",
        );
    }
    let message = decoded.map_err(|error| format!("{error:?}"))?;

    let (cbor, json) = (message.encode(Codec::Cbor), message.encode(Codec::Json));
    require(!reencodes || cbor == bytes, "encodes to other bytes")?;
    require(kind.decode(cbor).as_ref() == Ok(&message), "CBOR does not bring it back")?;
    if !has_twin {
        return Ok(());
    }
    require(kind.decode(json.clone()).as_ref() == Ok(&message), "JSON does not bring it back")?;
    let mut json: Value = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
    // A request in JSON always has the field, as the tokio implementation writes it; `null` is absent.
    json.as_object_mut().unwrap().retain(|name, value| name != "resume_from" || !value.is_null());
    require(!reencodes || json == vector["json"], "encodes to other JSON")
}

fn has_trace(decoded: &Result<Message, MessageError>) -> bool {
    match decoded {
        Ok(Message::Request(message)) => message.trace().is_some(),
        Ok(Message::Notification(message)) => message.trace().is_some(),
        _ => false,
    }
}

fn kind_is_known(item: &Item) -> bool {
    let known = ["health", "result", "event", "gap", "heartbeat", "error"];
    matches!(item.field(1), Some(Item::Text(kind)) if known.contains(&&**kind))
}

/// The JSON form of a body, made from its items.
fn twin(kind: Kind, item: &Item) -> Value {
    let fields = kind.names().iter().zip(0..).filter(|(name, _)| !name.is_empty());
    let fields = fields.filter_map(|(name, key)| {
        let value = match *item.field(key)? {
            Item::Unsigned(number) => json!(number),
            Item::Text(ref text) => json!(text),
            Item::Bytes(ref bytes) => json!(STANDARD.encode(bytes)),
            Item::TRUE => json!(true),
            Item::FALSE => json!(false),
            ref other => panic!("{other:?} in a known field"),
        };
        Some(((*name).to_owned(), value))
    });
    Value::Object(fields.collect())
}

#[test]
fn valid_vectors_decode_to_the_same_message_from_cbor_and_json_and_encode_again() {
    for kind in Kind::ALL {
        for vector in kind.valid() {
            assert_eq!(check_valid(kind, &vector, &bytes(&vector)), Ok(()), "{}", vector["name"]);
        }
    }
}

#[test]
fn any_other_bit_in_a_valid_vector_is_noticed() {
    for kind in Kind::ALL {
        for vector in kind.valid() {
            let mut bytes = bytes(&vector);
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    bytes[at] ^= 1 << bit;
                    assert!(
                        check_valid(kind, &vector, &bytes).is_err(),
                        "{}: bit {bit} of byte {at}",
                        vector["name"]
                    );
                    bytes[at] ^= 1 << bit;
                }
            }
        }
    }
}

#[test]
fn any_other_value_in_a_json_twin_is_noticed() {
    for kind in Kind::ALL {
        for vector in kind.valid() {
            for name in vector["json"].as_object().into_iter().flatten().map(|(name, _)| name) {
                let mut vector = vector.clone();
                let value = &mut vector["json"][name];
                *value = match &*value {
                    Value::Bool(value) => json!(!value),
                    Value::Number(number) => json!(number.as_u64().unwrap() ^ 1),
                    Value::String(text) => json!(format!("{text}AAAA")),
                    other => panic!("{other}"),
                };
                assert!(check_valid(kind, &vector, &bytes(&vector)).is_err(), "{}: {name}", vector["name"]);
            }
        }
    }
}

#[test]
fn valid_vectors_cover_every_field_and_both_sides_of_every_choice() {
    for kind in Kind::ALL {
        let vectors = kind.valid();
        let fields: BTreeSet<_> = vectors
            .iter()
            .filter_map(|vector| vector["json"].as_object())
            .flat_map(|json| json.keys())
            .collect();
        let expected: BTreeSet<_> = kind.names().iter().filter(|name| !name.is_empty()).collect();
        assert!(fields.iter().map(|name| name.as_str()).eq(expected.into_iter().copied()), "{fields:?}");
        for choice in [json!(true), json!(false)] {
            assert!(vectors.iter().any(|vector| vector["reencodes"] == choice), "{kind:?}");
        }
        for class in ["closed", "extension"] {
            assert!(vectors.iter().any(|vector| vector["cddl"] == class), "{kind:?}: {class}");
        }
    }
    let codes: BTreeSet<_> =
        Kind::Response.valid().iter().map(|vector| vector["json"]["kind"].to_string()).collect();
    assert_eq!(codes.len(), 7, "six kinds and an unknown one: {codes:?}");
}

const CDDL: &str = include_str!("../../docs/protocol.cddl");

/// The rules as they are, and without the one for extension keys.
fn with_schemas(check: impl Fn(&Schema<'_>, &Schema<'_>)) {
    const EXTENSION: &str = "  * extension-key => any,\n";
    assert_eq!(CDDL.matches(EXTENSION).count(), 5);
    let closed = CDDL.replace(EXTENSION, "");
    check(&Schema::new(CDDL), &Schema::new(&closed));
}

#[test]
fn valid_vectors_match_the_cddl_as_far_as_they_say() {
    with_schemas(|open, closed| {
        for kind in Kind::ALL {
            for vector in kind.valid() {
                let item = Item::from_bytes(&bytes(&vector)).unwrap();
                let found = match (open.matches(kind.rule(), &item), closed.matches(kind.rule(), &item)) {
                    (true, true) => "closed",
                    (true, false) => "extension",
                    (false, _) => "lenient",
                };
                assert_eq!(vector["cddl"], found, "{}", vector["name"]);
                assert!(found == "lenient" || open.matches("message", &item), "{}", vector["name"]);
            }
        }
    });
}

#[test]
fn invalid_vectors_match_the_cddl_unless_it_excludes_them() {
    with_schemas(|open, _| {
        for vector in invalid("cbor") {
            let item = Item::from_bytes(&bytes(&vector));
            let matches = item.as_ref().is_ok_and(|item| open.matches(text(&vector, "message"), item));
            match (text(&vector, "fault"), vector["cddl"] == true) {
                (_, true) => {
                    assert!(item.is_ok(), "{}: no CBOR at all", vector["name"]);
                    assert!(!matches, "{}", vector["name"]);
                }
                // These have no sound item to be matched, or one that CDDL has nothing to say about.
                ("indefinite" | "too_deep" | "key_order", false) => {
                    assert_eq!(matches, item.is_ok(), "{}", vector["name"]);
                }
                ("trailing" | "bad_utf8" | "truncated" | "reserved_info", false) => {
                    assert!(item.is_err(), "{}", vector["name"]);
                }
                _ => assert!(item.is_ok(), "{}", vector["name"]),
            }
        }
    });
}

#[test]
fn the_names_in_the_cddl_are_those_of_the_vectors() {
    let schema = Schema::new(CDDL);
    for vector in Kind::Response.valid() {
        let item = Item::from_bytes(&bytes(&vector)).unwrap();
        let payload = match item.field(6) {
            Some(Item::Bytes(payload)) => Item::from_bytes(payload).ok(),
            _ => None,
        };
        let described = payload.is_some_and(|payload| schema.matches("description", &payload));
        assert_eq!(described, vector["name"] == "a description", "{}", vector["name"]);
        let known = schema.matches("known-kind", item.field(1).unwrap());
        assert_eq!(known, kind_is_known(&item), "{}", vector["name"]);
        if let Some(error @ Item::Text(text)) = item.field(5) {
            assert_eq!(schema.matches("error-name", error), text != "out_of_cheese", "{text}");
        }
    }
}

fn invalid(encoding: &str) -> Vec<Value> {
    let mut vectors = vectors(include_str!("../vectors/invalid.json"));
    vectors.retain(|vector| vector["encoding"] == encoding);
    vectors
}

/// Whether the body is refused for the reason that the vector names.
fn check_invalid(vector: &Value, bytes: &[u8]) -> Checked {
    use {CborError as C, JsonError as J, MessageError as M};

    if let Some(diag) = vector["diag"].as_str() {
        require(
            Item::from_bytes(bytes)? == Item::from_diag(diag)?,
            "other bytes than in diagnostic notation",
        )?;
    }
    let error = match Kind::of(&vector["message"]).decode(bytes.to_vec()) {
        Ok(message) => return Err(format!("accepted: {message:?}")),
        Err(error) => error,
    };
    let expected = match (text(vector, "encoding"), text(vector, "fault"), text(vector, "name")) {
        // Without a beginning it is as ill-formed as a reserved length.
        (_, _, "a break alone") => error == M::Cbor(C::Malformed),
        (_, "not_a_map", _) => error == M::Cbor(C::NotAMap),
        ("cbor", "indefinite", _) => error == M::Cbor(C::Indefinite),
        ("cbor", "too_deep", _) => error == M::Cbor(C::TooDeep),
        ("cbor", "trailing", _) => error == M::Cbor(C::TrailingBytes),
        ("cbor", "duplicate_key", _) => error == M::Cbor(C::DuplicateKey),
        ("cbor", "key_order", _) => error == M::Cbor(C::UnorderedKeys),
        ("cbor", "key_type", _) => error == M::Cbor(C::KeyType),
        ("cbor", "unknown_key", _) => matches!(error, M::UnknownKey(..16)),
        ("cbor", "wrong_type" | "out_of_range", _) => matches!(error, M::InvalidField(_)),
        ("cbor", "bad_utf8", _) => error == M::Cbor(C::Utf8),
        ("cbor", "truncated", _) => error == M::Cbor(C::Truncated),
        ("cbor", "reserved_info", _) => error == M::Cbor(C::Malformed),
        // `null` is no value, in a field that may be absent and in one that may not.
        (_, "missing_key", _) | (_, _, "JSON's method as null") => matches!(error, M::MissingField(_)),
        // A key that other kinds ignore is judged once the kind is known.
        ("json", "wrong_type", name) if name.contains("not_run") => error == M::InvalidField("not_run"),
        ("json", "wrong_type", name) if name.contains("items") => error == M::InvalidField("items"),
        ("json", "truncated", _) => error == M::Json(J::Truncated),
        ("json", "trailing", _) => matches!(error, M::Json(J::Malformed { .. })),
        ("json", "bad_utf8", _) => error == M::Json(J::Utf8),
        // The length of a method is not checked by the JSON decoder.
        ("json", "out_of_range", name) if name.contains("method") => error == M::InvalidField("method"),
        ("json", "unknown_key" | "duplicate_key" | "wrong_type" | "out_of_range" | "bad_base64", _) => {
            matches!(error, M::Json(J::Field { .. }))
        }
        (encoding, fault, _) => {
            return Err(format!("a fault that this does not know: {fault} in {encoding}"));
        }
    };
    require(expected, &format!("refused for another reason: {error:?}"))
}

#[test]
fn invalid_vectors_are_refused_for_the_fault_that_they_name() {
    for vector in ["cbor", "json"].into_iter().flat_map(invalid) {
        assert_eq!(check_invalid(&vector, &bytes(&vector)), Ok(()), "{}", vector["name"]);
    }
}

#[test]
fn a_valid_body_or_another_fault_in_an_invalid_vector_is_noticed() {
    let faults = invalid("cbor");
    for vector in &faults {
        let kind = Kind::of(&vector["message"]);
        for valid in
            kind.valid().iter().filter(|valid| valid["name"] != "a kind that this version does not know")
        {
            let mut vector = vector.clone();
            vector["diag"] = Value::Null;
            let found = check_invalid(&vector, &bytes(valid));
            assert!(found.is_err_and(|found| found.starts_with("accepted")), "{}", valid["name"]);
        }
        let mut renamed = vector.clone();
        for other in &faults {
            // The crate has one error for both.
            let both = [text(vector, "fault"), text(other, "fault")];
            if both[0] == both[1] || both.iter().all(|fault| ["wrong_type", "out_of_range"].contains(fault)) {
                continue;
            }
            renamed["fault"] = other["fault"].clone();
            // It is known by its name, whatever the fault.
            let same = vector["name"] == "a break alone";
            assert_eq!(check_invalid(&renamed, &bytes(vector)).is_ok(), same, "{both:?}");
        }
    }
}

#[test]
fn invalid_vectors_cover_every_fault() {
    for (encoding, expected) in [
        (
            "cbor",
            &[
                "bad_utf8",
                "duplicate_key",
                "indefinite",
                "key_order",
                "key_type",
                "missing_key",
                "not_a_map",
                "out_of_range",
                "reserved_info",
                "too_deep",
                "trailing",
                "truncated",
                "unknown_key",
                "wrong_type",
            ][..],
        ),
        (
            "json",
            &[
                "bad_base64",
                "bad_utf8",
                "duplicate_key",
                "missing_key",
                "not_a_map",
                "out_of_range",
                "trailing",
                "truncated",
                "unknown_key",
                "wrong_type",
            ],
        ),
    ] {
        let vectors = invalid(encoding);
        let faults: BTreeSet<_> = vectors.iter().map(|vector| text(vector, "fault")).collect();
        assert!(faults.iter().eq(expected), "{encoding}: {faults:?}");
    }
}

/// What becomes of a stream: its bodies, and how it ends.
type Cut = (Vec<Bytes>, Result<(), FrameError>);

fn frames(class: &str) -> Vec<Value> {
    let mut vectors: Value = serde_json::from_str(include_str!("../vectors/frames.json")).unwrap();
    serde_json::from_value(vectors[class].take()).unwrap()
}

fn max(vector: &Value) -> usize {
    vector["max_frame_bytes"].as_u64().unwrap().try_into().unwrap()
}

fn cut<'a>(max: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> Cut {
    let mut buffer = FrameBuffer::new(max);
    let mut bodies = Vec::new();
    for chunk in chunks {
        buffer.push(Bytes::copy_from_slice(chunk));
        loop {
            match buffer.next() {
                Ok(Some(body)) => bodies.push(body),
                Ok(None) => break,
                Err(error) => return (bodies, Err(error)),
            }
        }
    }
    (bodies, buffer.finish())
}

/// The stream whole, byte by byte, and in two pieces, cut at each place.
fn cut_in_every_way(max: usize, stream: &[u8]) -> Result<Cut, String> {
    let whole = cut(max, [stream]);
    require(cut(max, stream.chunks(1)) == whole, "differs byte by byte")?;
    for at in 0..=stream.len() {
        let (left, right) = stream.split_at(at);
        require(cut(max, [left, right]) == whole, &format!("differs if cut at {at}"))?;
    }
    Ok(whole)
}

fn check_frames(vector: &Value, stream: &[u8]) -> Checked {
    let bodies: Vec<Bytes> = vector["bodies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|body| hex(body.as_str().unwrap()).unwrap().into())
        .collect();
    let max = max(vector);
    require(cut_in_every_way(max, stream)? == (bodies.clone(), Ok(())), "other bodies")?;
    let encoded = bodies.iter().flat_map(|body| {
        let written = encode_frame(max, |out| {
            out.extend_from_slice(body);
            Ok(())
        });
        written.unwrap()
    });
    require(encoded.eq(stream.iter().copied()), "encodes to other bytes")
}

#[test]
fn valid_streams_are_cut_into_their_bodies_in_pieces_of_any_size() {
    for vector in frames("valid") {
        assert_eq!(check_frames(&vector, &bytes(&vector)), Ok(()), "{}", vector["name"]);
    }
    assert!(frames("valid").len() >= 8);
}

#[test]
fn any_other_byte_in_a_valid_stream_is_noticed() {
    for vector in frames("valid") {
        let mut stream = bytes(&vector);
        for at in 0..stream.len() {
            stream[at] ^= 1;
            assert!(check_frames(&vector, &stream).is_err(), "{}: byte {at}", vector["name"]);
            stream[at] ^= 1;
        }
        stream.push(0);
        assert!(check_frames(&vector, &stream).is_err(), "{}: a byte more", vector["name"]);
    }
}

#[test]
fn invalid_streams_are_refused_for_the_fault_that_they_name() {
    let vectors = frames("invalid");
    for vector in &vectors {
        let stream = bytes(vector);
        let (bodies, end) = cut_in_every_way(max(vector), &stream).unwrap();
        let error = end.expect_err(text(vector, "name"));
        let expected = match text(vector, "fault") {
            "empty" => error == FrameError::Empty,
            "oversize" => matches!(error, FrameError::TooLarge { announced, max }
                if usize::try_from(announced).unwrap() > max && stream.starts_with(&announced.to_be_bytes())),
            "truncated" => error == FrameError::Truncated,
            _ => false,
        };
        assert!(expected, "{}: {error:?}", vector["name"]);

        // What comes before the fault stands, and is nothing but good.
        let good: usize = bodies.iter().map(|body| 4 + body.len()).sum();
        assert_eq!(cut(max(vector), [&stream[..good]]), (bodies, Ok(())), "{}", vector["name"]);
    }
    let faults: BTreeSet<_> = vectors.iter().map(|vector| text(vector, "fault")).collect();
    assert!(faults.into_iter().eq(["empty", "oversize", "truncated"]));
}

#[test]
fn a_node_refuses_invalid_request_streams_with_the_code_that_they_name() {
    let vectors: Vec<_> = ["invalid", "invalid_request_stream"].into_iter().flat_map(frames).collect();
    assert!(vectors.len() >= 14);
    run(async {
        for vector in vectors {
            let limits =
                TransportLimits::builder().max_frame_bytes(max(&vector).try_into().unwrap()).build().unwrap();
            let server = serve_within(limits, Router::new());
            let code = match text(&vector, "code") {
                "PROTOCOL_VIOLATION" => Code::PROTOCOL_VIOLATION,
                "FRAME_TOO_LARGE" => Code::FRAME_TOO_LARGE,
                other => panic!("{other}"),
            };
            let answer = server.raw().await.exchange(&bytes(&vector)).await;
            assert_eq!(answer, Answer::Reset(code), "{}", vector["name"]);
        }
    });
}

#[test]
fn a_node_answers_a_valid_request_stream() {
    run(async {
        let server = serve_within(TransportLimits::default(), Router::new());
        for vector in &frames("valid")[..2] {
            let body = hex(vector["bodies"][0].as_str().unwrap()).unwrap();
            let answer = server.raw().await.exchange(&bytes(vector)).await;
            assert!(matches!(answer.only_in(Codec::of(&body)), Response::Health { ok: true, .. }));
        }
    });
}

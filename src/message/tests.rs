use std::{fmt::Debug, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const CODECS: &[Codec] = &[
    Codec::Cbor,
    #[cfg(feature = "json")]
    Codec::Json,
];

/// A message of any type, so that a test is written once for all.
trait AnyMessage: Sized + PartialEq + Debug {
    fn encode(&self, codec: Codec) -> Vec<u8>;
    fn decode(body: &Bytes) -> Result<Self, MessageError>;

    /// What is left of it in JSON.
    fn in_json(self) -> Self;
}

macro_rules! any_message {
    ($($message:ty, $in_json:expr;)*) => {$(
        impl AnyMessage for $message {
            fn encode(&self, codec: Codec) -> Vec<u8> {
                let mut out = Vec::new();
                self.encode(codec, &mut out).unwrap();
                out
            }

            fn decode(body: &Bytes) -> Result<Self, MessageError> {
                <$message>::decode(body)
            }

            fn in_json(self) -> Self {
                $in_json(self)
            }
        }
    )*};
}

any_message! {
    Request, |message: Request| {
        let more = message.more();
        let request = Request { additions: None, ..message };
        more.map_or(request.clone(), |more| request.with_more(more))
    };
    Notification, |message| Notification { trace: None, ..message };
    Response, |message| message;
    CountedResponse, |message| message;
    Item, |message| message;
}

fn decode<M: AnyMessage>(body: &[u8]) -> Result<M, MessageError> {
    M::decode(&Bytes::copy_from_slice(body))
}

fn bytes() -> impl Strategy<Value = Option<Bytes>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from))
}

fn method() -> impl Strategy<Value = Box<str>> {
    prop_oneof!["[ -~]{1,128}", ".{1,32}"].prop_map(String::into_boxed_str)
}

/// Numbers of every length that CBOR has for them.
fn number() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(prop_oneof![0..300_u64, any::<u16>().prop_map_into(), any::<u64>()])
}

prop_compose! {
    fn request()(
        protocol_version: u16, method in method(), resume_from in number(), params in bytes(),
        timeout_ms in number(), follow: bool, epoch in number(), more in more(), trace in trace(),
    ) -> Request {
        let additions = request::Additions { more, trace };
        let additions = (additions != Default::default()).then(|| Box::new(additions));
        Request { protocol_version, method, resume_from, params, timeout_ms, follow, epoch, additions }
    }
}

/// Builds without streams do not read the field.
fn more() -> impl Strategy<Value = Option<bool>> {
    any::<Option<bool>>().prop_map(|more| more.filter(|_| cfg!(feature = "streams")))
}

fn trace() -> impl Strategy<Value = Option<TraceContext>> {
    prop::option::of(any::<[u8; 25]>()).prop_map(|trace| trace.and_then(TraceContext::from_bytes))
}

prop_compose! {
    fn notification()(
        protocol_version: u16, method in method(), params in bytes(), trace in trace(),
    ) -> Notification {
        Notification { protocol_version, method, params, trace: trace.map(Box::new) }
    }
}

fn item() -> impl Strategy<Value = Item> {
    bytes().prop_map(|params| Item { params })
}

fn wire_error() -> impl Strategy<Value = WireError> {
    prop_oneof!["internal", "unavailable", ".{0,40}"].prop_map(|text| WireError::from(&*text))
}

fn response() -> impl Strategy<Value = Response> {
    let detail = prop::option::of(".{0,64}".prop_map(String::into_boxed_str));
    prop_oneof![
        (any::<bool>(), any::<Option<bool>>(), bytes()).prop_map(|(ok, node_rpc_mtls_required, payload)| {
            Response::Health { ok, node_rpc_mtls_required, payload }
        }),
        bytes().prop_map(|payload| Response::Result { payload }),
        (any::<u64>(), number(), bytes()).prop_map(|(seq, epoch, payload)| Response::Event {
            seq,
            epoch,
            payload
        }),
        (any::<u64>(), any::<u64>(), number()).prop_map(|(first_seq, epoch, missed)| Response::Gap {
            first_seq,
            epoch,
            missed
        }),
        any::<(u64, u64)>().prop_map(|(seq, epoch)| Response::Heartbeat { seq, epoch }),
        (wire_error(), detail, number(), any::<bool>()).prop_map(|(error, detail, millis, not_run)| {
            Response::Error { error, detail, retry_after: millis.map(Duration::from_millis), not_run }
        }),
    ]
}

fn counted_response() -> impl Strategy<Value = CountedResponse> {
    (response(), number()).prop_map(|(response, items)| {
        let items = items.filter(|_| matches!(response, Response::Result { .. } | Response::Error { .. }));
        CountedResponse { response, items }
    })
}

/// Whatever the encoding, what was written is what is read.
fn survives<M: AnyMessage + Clone>(message: &M) -> Result<(), TestCaseError> {
    for &codec in CODECS {
        let body = Bytes::from(message.encode(codec));
        prop_assert_eq!(Codec::of(&body), codec);
        if codec == Codec::Cbor {
            prop_assert_eq!(validate_body(&body), Ok(()));
        }
        let left = if codec == Codec::Cbor { message.clone() } else { message.clone().in_json() };
        prop_assert_eq!(M::decode(&body).unwrap(), left, "{:?}", codec);
    }
    Ok(())
}

/// What is read from any bytes can be written, and is then the same in every encoding.
fn settles<M: AnyMessage + Clone>(body: &[u8]) -> Result<(), TestCaseError> {
    match decode::<M>(body) {
        Ok(message) => survives(&message),
        Err(_) => Ok(()),
    }
}

/// A valid body, damaged in a few places.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let codec = prop::sample::select(CODECS);
    let body = prop_oneof![
        (request(), codec.clone()).prop_map(|(message, codec)| AnyMessage::encode(&message, codec)),
        (counted_response(), codec.clone()).prop_map(|(message, codec)| AnyMessage::encode(&message, codec)),
        (item(), codec).prop_map(|(message, codec)| AnyMessage::encode(&message, codec)),
    ];
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (body, damage).prop_map(|(mut body, damage)| {
        for (at, byte) in damage {
            *at.get_mut(&mut body) = byte;
        }
        body
    })
}

proptest! {
    #[test]
    fn requests_survive_the_way(message in request()) {
        survives(&message)?;
    }

    #[test]
    fn notifications_survive_the_way(message in notification()) {
        survives(&message)?;
    }

    #[test]
    fn counted_responses_survive_the_way(message in counted_response()) {
        survives(&message)?;
    }

    #[test]
    fn items_survive_the_way(message in item()) {
        survives(&message)?;
    }

    #[test]
    fn responses_survive_the_way(message in response()) {
        survives(&message)?;
    }

    #[test]
    fn no_bytes_make_it_panic(
        body in prop_oneof![prop::collection::vec(any::<u8>(), 0..64), damaged()]
    ) {
        settles::<Request>(&body)?;
        settles::<Notification>(&body)?;
        settles::<Response>(&body)?;
        settles::<CountedResponse>(&body)?;
        settles::<Item>(&body)?;
        let response = decode::<CountedResponse>(&body).ok().map(|counted| counted.response);
        prop_assert!(response.is_none() || response == decode::<Response>(&body).ok());
    }

    #[test]
    fn an_event_is_written_alike_from_its_parts(
        seq: u64, epoch in number(), payload in prop::collection::vec(any::<u8>(), 0..64)
    ) {
        for &codec in CODECS {
            let mut out = Vec::new();
            encode_event(codec, seq, epoch, &payload, &mut out).unwrap();
            let payload = Some(Bytes::copy_from_slice(&payload));
            prop_assert_eq!(out, AnyMessage::encode(&Response::Event { seq, epoch, payload }, codec));
        }
    }

    #[test]
    fn a_detail_is_cut_to_whole_characters(detail in "[a-zé🦊]{0,300}") {
        let error = WireError::Internal;
        let detail_sent = Some(detail.as_str().into());
        let long =
            Response::Error { error, detail: detail_sent, retry_after: None, not_run: false };
        for &codec in CODECS {
            let Ok(Response::Error { detail: Some(sent), .. }) = decode(&AnyMessage::encode(&long, codec)) else {
                panic!("an error with a detail");
            };
            prop_assert!(detail.starts_with(&*sent));
            if detail.len() <= 256 {
                prop_assert_eq!(&*sent, &detail);
            } else {
                prop_assert!((253..=256).contains(&sent.len()), "{}", sent.len());
            }
        }
    }
}

/// `{0: 1, 1: "m", ...}` with one more entry.
fn request_with(entry: &[u8]) -> Vec<u8> {
    [b"\xa3\x00\x01\x01\x61m", entry].concat()
}

/// `{0: 1, 1: kind, 2: true, ...}` with more entries.
fn response_with(kind: &str, entries: u8, rest: &[u8]) -> Vec<u8> {
    let kind_head = 0x60 + u8::try_from(kind.len()).unwrap();
    [&[0xa3 + entries, 0, 1, 1, kind_head], kind.as_bytes(), &[2, 0xf5], rest].concat()
}

#[test]
fn keys_below_16_are_kept_for_later_and_those_above_for_extensions() {
    for (key, expected) in [
        (&[0x08][..], Err(MessageError::UnknownKey(8))),
        (&[0x0f], Err(MessageError::UnknownKey(15))),
        (&[0x10], Ok(())),
        (&[0x11], Ok(())),
        (&[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Ok(())),
        (&[0x20], Err(MessageError::UnknownKey(-1))),
        (&[0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Err(MessageError::UnknownKey(-1 << 64))),
    ] {
        let entry = [key, &[0x82, 0x00, 0xf6]].concat();
        assert_eq!(decode::<Request>(&request_with(&entry)).map(drop), expected, "{key:02x?}");
        assert_eq!(decode::<Notification>(&request_with(&entry)).map(drop), expected, "{key:02x?}");
        assert_eq!(decode::<Item>(&[b"\xa1", &*entry].concat()).map(drop), expected, "{key:02x?}");
        let response = response_with("result", 1, &entry);
        let known = matches!(key, [0x08]);
        assert_eq!(decode::<Response>(&response).is_err(), known, "a response ignores all it does not know");
    }
}

#[test]
fn a_notification_has_none_of_the_fields_of_a_request() {
    for key in [2_u8, 4, 6] {
        let body = request_with(&[key, 0x01]);
        assert!(decode::<Request>(&body).is_ok());
        assert_eq!(decode::<Notification>(&body), Err(MessageError::UnknownKey(key.into())));
    }
}

#[test]
fn a_method_has_1_to_128_bytes_both_ways() {
    for (method, ok) in [
        ("m".into(), true),
        ("m".repeat(128), true),
        ("é".repeat(64), true),
        (String::new(), false),
        ("m".repeat(129), false),
        ("é".repeat(65), false),
    ] {
        let mut out = vec![7];
        let written = Request::new(&*method).encode(Codec::Cbor, &mut out);
        let expected = if ok { Ok(()) } else { Err(MessageError::MethodLength(method.len())) };
        assert_eq!(written, expected);
        assert_eq!(Notification::new(&*method).encode(Codec::Cbor, &mut Vec::new()), expected);
        assert_eq!(out.len() == 1, !ok, "a failure writes nothing");

        let length = u8::try_from(method.len()).unwrap();
        let body = [&[0xa2, 0, 1, 1, 0x78, length], method.as_bytes()].concat();
        let expected = if ok { Ok(()) } else { Err(MessageError::InvalidField("method")) };
        assert_eq!(decode::<Request>(&body).map(drop), expected);
        assert_eq!(decode::<Notification>(&body).map(drop), expected);
    }
}

#[test]
fn a_request_of_another_version_is_read_and_a_response_is_not() {
    assert_eq!(decode::<Request>(b"\xa2\x00\x02\x01\x61m").unwrap().protocol_version, 2);
    assert_eq!(decode::<Notification>(b"\xa2\x00\x02\x01\x61m").unwrap().protocol_version, 2);
    let mut body = response_with("novelty", 0, &[]);
    assert_eq!(decode::<Response>(&body), Err(MessageError::UnknownKind));
    body[2] = 2;
    assert_eq!(decode::<Response>(&body), Err(MessageError::Version(2)));
}

#[test]
fn each_kind_of_response_has_its_required_fields() {
    for (body, expected) in [
        (b"\xa2\x01\x61x\x02\xf5".to_vec(), Err(MessageError::MissingField("protocol_version"))),
        (b"\xa2\x00\x01\x02\xf5".to_vec(), Err(MessageError::MissingField("kind"))),
        (b"\xa2\x00\x01\x01\x66result".to_vec(), Err(MessageError::MissingField("ok"))),
        (response_with("event", 0, &[]), Err(MessageError::MissingField("seq"))),
        (response_with("event", 1, &[3, 9]), Ok(Response::Event { seq: 9, epoch: None, payload: None })),
        (response_with("error", 0, &[]), Err(MessageError::MissingField("error"))),
        (response_with("error", 1, b"\x05\x61?"), Ok(Response::error(WireError::from("?")))),
        (
            response_with("health", 0, &[]),
            Ok(Response::Health { ok: true, node_rpc_mtls_required: None, payload: None }),
        ),
        (response_with("result", 0, &[]), Ok(Response::result(None))),
        (response_with("gap", 0, &[]), Err(MessageError::MissingField("first_seq"))),
        (response_with("heartbeat", 0, &[]), Err(MessageError::MissingField("seq"))),
    ] {
        assert_eq!(decode(&body), expected, "{body:02x?}");
    }
}

#[test]
fn byte_strings_share_the_memory_of_a_body_that_is_little_else() {
    let request = |params: &'static [u8]| Request { params: Some(params.into()), ..Request::new("m") };
    for (params, shared) in [(&[7; 100][..], true), (&[7][..], false)] {
        let body = Bytes::from(AnyMessage::encode(&request(params), Codec::Cbor));
        let decoded = Request::decode(&body).unwrap().params.unwrap();
        assert_eq!(decoded, params);
        assert_eq!(body.as_ptr_range().contains(&decoded.as_ptr()), shared);
    }
}

#[test]
fn a_time_to_wait_is_rounded_up() {
    for (sent, received) in [
        (Duration::ZERO, Duration::ZERO),
        (Duration::from_nanos(1), Duration::from_millis(1)),
        (Duration::from_micros(1500), Duration::from_millis(2)),
        (Duration::MAX, Duration::from_millis(u64::MAX)),
    ] {
        let message = |after| Response::Error {
            error: WireError::Unavailable,
            detail: None,
            retry_after: Some(after),
            not_run: false,
        };
        assert_eq!(decode(&AnyMessage::encode(&message(sent), Codec::Cbor)), Ok(message(received)));
    }
}

#[test]
fn debug_shows_lengths_and_never_contents() {
    let secret = Some(Bytes::from_static(b"SECRET"));
    let texts = [
        format!("{:?}", Request { params: secret.clone(), ..Request::new("m") }),
        format!("{:?}", Notification { params: secret.clone(), ..Notification::new("m") }),
        format!("{:?}", Response::result(secret.clone())),
        format!("{:?}", Response::Event { seq: 1, epoch: None, payload: secret.clone() }),
        format!("{:?}", Response::Health { ok: true, node_rpc_mtls_required: Some(true), payload: secret }),
    ];
    for text in texts {
        assert!(text.contains("6 bytes") && !text.contains("SECRET") && !text.contains("83"), "{text}");
    }
    let text = format!("{:?}", Response::Event { seq: 5, epoch: None, payload: None });
    assert_eq!(text, r#"Response { protocol_version: 1, kind: "event", ok: true, seq: 5 }"#);
}

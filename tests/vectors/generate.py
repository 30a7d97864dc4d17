#!/usr/bin/env python3
"""Writes the test vectors of docs/protocol.md, independently of the Rust codec.

Usage: python3 -m pip install cbor2==6.3.0 && python3 tests/vectors/generate.py

Needs nothing but cbor2, and writes the same bytes every time, next to itself:

requests.json, responses.json, notifications.json, items.json
    name       what the vector is about
    hex        the CBOR body
    diag       the same in diagnostic notation (RFC 8949, section 8)
    json       its JSON twin (byte strings in base64); null where JSON cannot say it
    reencodes  whether an encoder must produce exactly `hex` from the decoded value; false where
               the body holds keys that a receiver ignores (unknown ones, or those of another
               kind of response) or that say what their absence says, and where it is not in
               the form senders use
    cddl       "closed": matches protocol.cddl without extension keys; "extension": matches with
               them; "lenient": more than a sender may send, yet a receiver copes
invalid.json
    name, hex, diag (null where the bytes have none), and
    message    which message a receiver would take it for
    encoding   "cbor" or "json" (then `hex` is the text)
    fault      the kind of fault
    why        what is wrong, for people
    cddl       true where protocol.cddl alone already excludes it
ack_events.json
    valid      the params of node.ack_events: name, hex, diag, reencodes, cddl, and consumer, epoch, seq
               and log (null where it is absent), as a node takes them
    invalid    name, hex, diag (null where the bytes have none), fault, why, cddl
frames.json
    valid      name, hex, max_frame_bytes, bodies: the hex of each body in the stream
    invalid    name, hex, max_frame_bytes, fault, code: what the receiver resets the stream with
    invalid_request_stream
               the same, for frames that are good and do not make up the stream of a request
"""

import base64
import json
import pathlib
import struct

import cbor2

HERE = pathlib.Path(__file__).resolve().parent
U64_MAX = 2**64 - 1

REQUEST = {
    0: "protocol_version", 1: "method", 2: "resume_from", 3: "params", 4: "timeout_ms",
    5: "follow", 6: "epoch", 7: "more", 16: "trace",
}
RESPONSE = {
    0: "protocol_version", 1: "kind", 2: "ok", 3: "seq", 4: "node_rpc_mtls_required", 5: "error",
    6: "payload", 7: "epoch", 8: "first_seq", 9: "missed", 10: "retry_after_ms", 11: "detail", 12: "not_run",
    13: "items",
}
NOTIFICATION = {0: "protocol_version", 1: "method", 3: "params", 16: "trace"}
ITEM = {3: "params"}


def is_trace(value):
    """Whether a receiver takes this value of key 16, and does not ignore it."""
    return isinstance(value, bytes) and len(value) == 25 and any(value[:16]) and any(value[16:24])


def diag(value):
    """Diagnostic notation of a value that cbor2 encodes."""
    if value is cbor2.undefined:
        return "undefined"
    if value is None or isinstance(value, (bool, float)):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bytes):
        return f"h'{value.hex()}'"
    if isinstance(value, list):
        return "[" + ", ".join(map(diag, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{diag(k)}: {diag(v)}" for k, v in value.items()) + "}"
    if isinstance(value, cbor2.CBORTag):
        return f"{value.tag}({diag(value.value)})"
    raise TypeError(type(value))


def holds(encoded, value):
    """Whether the bytes decode to the value, type for type and key by key in the same order."""
    return cbor2.dumps(cbor2.loads(encoded)) == cbor2.dumps(value)


def twin(fields, body):
    """The JSON form: known fields by name; what a receiver ignores is left out. JSON has no trace context."""
    if 16 in fields and is_trace(body.get(16)):
        return None
    result = {}
    for key, value in body.items():
        if key in fields and key != 16:
            result[fields[key]] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    return result


def vector(name, fields, body, *, kept=True, lenient=False):
    """A valid vector from a body whose encoding is the shortest form with ascending keys.

    `kept` says whether a receiver keeps all the known fields; `lenient`, that a sender may not send them so.
    """
    encoded = cbor2.dumps(body)
    assert holds(encoded, body), name
    assert list(body) == sorted(body), name
    def defined(key, value):
        # The CDDL speaks of 25 bytes, zeros or not, and leaves other values to the extension keys.
        return key in fields and (key != 16 or isinstance(value, bytes) and len(value) == 25)

    known = all(defined(key, value) for key, value in body.items())
    extended = all(defined(key, value) or key >= 16 for key, value in body.items())
    return {
        "name": name,
        "hex": encoded.hex(),
        "diag": diag(body),
        "json": twin(fields, body),
        "reencodes": known and kept,
        "cddl": "lenient" if lenient or not extended else "closed" if known else "extension",
    }


def loose(name, fields, hexadecimal, body):
    """A valid vector in a form that receivers accept and senders do not use."""
    encoded = bytes.fromhex(hexadecimal)
    assert holds(encoded, body), name
    assert encoded != cbor2.dumps(dict(sorted(body.items()))), name
    known = all(key in fields for key in body)
    return {
        "name": name,
        "hex": encoded.hex(),
        "diag": diag(body),
        "json": twin(fields, body),
        "reencodes": False,
        "cddl": "closed" if known else "extension",
    }


def nested(levels, wrap):
    """A value of so many levels."""
    value = wrap(None)
    for _ in range(levels - 1):
        value = wrap(value)
    return value


def in_array(value):
    return [] if value is None else [value]


def in_map(value):
    return {} if value is None else {0: value}


def in_tag(value):
    return cbor2.CBORTag(1000, 0 if value is None else value)


def in_turn(levels):
    """A value of so many levels that alternates arrays, maps and tags."""
    value = []
    for level in range(1, levels):
        value = ([value], {"k": value}, cbor2.CBORTag(4711, value))[level % 3]
    return value


HEALTH = {0: 1, 1: "node.health"}
STREAM = {0: 1, 1: "node.stream_events"}
# The example of W3C trace context, level 1.
TRACE = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736 00f067aa0ba902b7 01")


def requests():
    def make(name, body, **options):
        return vector(name, REQUEST, body, **options)

    vectors = [
        make("node.health", HEALTH),
        make("node.describe", {0: 1, 1: "node.describe"}),
        make("node.stream_events from the beginning", STREAM),
        make("node.stream_events resumed", STREAM | {2: 41}),
        make("node.stream_events followed", STREAM | {2: 41, 5: True, 6: 1699999999999}),
        make("follow is false", STREAM | {5: False}, kept=False),
        make("an application method with params", {0: 1, 1: "demo.echo", 3: bytes.fromhex("a1616101")}),
        make("empty params", {0: 1, 1: "demo.echo", 3: b""}),
        make("params with every base64 character class", {0: 1, 1: "demo.echo", 3: bytes.fromhex("fbefbeff00")}),
        make("params that look like indefinite CBOR are opaque", {0: 1, 1: "demo.echo", 3: bytes.fromhex("9f9f9f")}),
        make("params of 256 bytes", {0: 1, 1: "demo.echo", 3: bytes(range(256))}),
        make("timeout of 0", {0: 1, 1: "demo.echo", 4: 0}),
        make("timeout of 1500 ms", {0: 1, 1: "demo.echo", 4: 1500}),
        make("every field", {0: 1, 1: "demo.all", 2: 7, 3: b"\x01\x02\x03", 4: 30000, 5: True, 6: 3, 7: True}),
        make("items follow", {0: 1, 1: "demo.put", 3: b"\x07", 7: True}),
        make("no items follow, which asks whether the node knows the key", HEALTH | {7: False}),
        make("a trace context", {0: 1, 1: "demo.echo", 3: b"\x07", 16: TRACE}),
        make("a trace context beside everything else", {0: 1, 1: "demo.all", 2: 7, 3: b"\x01", 4: 30000, 5: True, 6: 3, 7: True, 16: TRACE, 1000: 0}),
        make("a trace context of another sender, not sampled", HEALTH | {16: TRACE[:24] + b"\x00"}),
        make("a trace context whose trace-id is 0", HEALTH | {16: bytes(16) + TRACE[16:]}, kept=False),
        make("a trace context whose parent-id is 0", HEALTH | {16: TRACE[:16] + bytes(8) + b"\x01"}, kept=False),
        make("a trace context of 24 bytes", HEALTH | {16: TRACE[:24]}),
        make("a trace context of 26 bytes", HEALTH | {16: TRACE + b"\x01"}),
        make("a trace context as text", HEALTH | {16: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}),
        make("protocol version 0", {0: 0, 1: "node.health"}),
        make("protocol version 2", {0: 2, 1: "node.health"}),
        make("protocol version 65535", {0: 65535, 1: "node.health"}),
        make("method of 1 byte", {0: 1, 1: "m"}),
        make("method of 23 bytes", {0: 1, 1: "m" * 23}),
        make("method of 24 bytes", {0: 1, 1: "m" * 24}),
        make("method of 128 bytes", {0: 1, 1: "m" * 128}),
        make("method of 128 bytes in 64 characters", {0: 1, 1: "é" * 64}),
        make("method with quotes, a backslash and a character outside the BMP", {0: 1, 1: "a\"b\\c/\U0001f98a"}),
        make("extension key 16", HEALTH | {16: True}),
        make("extension key 1000 with nested values", HEALTH | {1000: {"a": [1, {"b": b"\x00\xff"}], -1: None}}),
        make("extension keys 16 and 1000", HEALTH | {16: [1, [2, [3]]], 1000: {"x": {"y": "z"}}}),
        make("extension key 2^64-1", HEALTH | {U64_MAX: 1}),
        make("extension keys after a known optional field", STREAM | {2: 9, 255: 1, 256: 2, 65536: 3}),
        make("extension value: floats", HEALTH | {16: [1.5, -0.1]}),
        make("extension value: undefined", HEALTH | {16: cbor2.undefined}),
        make("extension value: null", HEALTH | {16: None}),
        make("extension value: a tagged text", HEALTH | {16: cbor2.CBORTag(4711, "x")}),
        make("extension value: a map with text keys", HEALTH | {16: {"": 1, "a": 2}}),
        make("20 extension keys above 255, ascending", HEALTH | {key: 0 for key in range(1000, 1020)}),
        make("nesting of exactly 16: arrays", HEALTH | {16: nested(15, in_array)}),
        make("nesting of exactly 16: maps", HEALTH | {16: nested(15, in_map)}),
        make("nesting of exactly 16: tags", HEALTH | {16: nested(15, in_tag)}),
        make("nesting of exactly 16: all three in turn", HEALTH | {16: in_turn(15)}),
    ]
    for label, number in (
        ("0", 0), ("23", 23), ("24", 24), ("255", 255), ("256", 256), ("65535", 65535), ("65536", 65536),
        ("2^32-1", 2**32 - 1), ("2^32", 2**32), ("2^53+1", 2**53 + 1), ("2^63", 2**63), ("2^64-1", U64_MAX),
    ):
        vectors.append(make(f"resume_from {label}", STREAM | {2: number}))
    vectors += [
        make("epoch 2^64-1", STREAM | {2: 0, 6: U64_MAX}),
        make("timeout 2^64-1", {0: 1, 1: "demo.echo", 4: U64_MAX}),
        loose("keys in descending order", REQUEST, "a2 01 6b6e6f64652e6865616c7468 00 01", {1: "node.health", 0: 1}),
        loose("a version in two bytes", REQUEST, "a2 00 1801 01 616d", {0: 1, 1: "m"}),
        loose("a key in nine bytes", REQUEST, "a2 1b0000000000000000 01 01 616d", {0: 1, 1: "m"}),
        loose("a map head of five bytes", REQUEST, "ba00000002 00 01 01 616d", {0: 1, 1: "m"}),
        loose("a text head of three bytes", REQUEST, "a2 00 01 01 790001 6d", {0: 1, 1: "m"}),
        loose(
            "16 extension keys above 255, out of order", REQUEST,
            (b"\xb3\x00\x01\x01\x61m\x19\xff\xff\x00" + b"".join(
                struct.pack(">BHB", 0x19, key, 0) for key in range(1016, 1000, -1)
            )).hex(),
            {0: 1, 1: "m", 65535: 0} | {key: 0 for key in range(1016, 1000, -1)},
        ),
    ]
    return vectors


def responses():
    def make(name, body, **options):
        return vector(name, RESPONSE, body, **options)

    health = {0: 1, 1: "health", 2: True}
    event = {0: 1, 1: "event", 2: True}
    gap = {0: 1, 1: "gap", 2: True}
    error = {0: 1, 1: "error", 2: False}
    payload = cbor2.dumps({
        "version": "0.1.0", "uptime_ms": 86400000, "connections_open": 3, "connections_accepted": 17,
        "connections_refused": 2, "handshakes_failed": 1, "requests": 4096, "notifications": 12,
        "events_published": 70000,
    })
    description = cbor2.dumps({
        "methods": {
            "demo.add": ["unary"], "demo.count": ["streaming"], "demo.note": ["unary", "notification"],
            "node.describe": ["unary"], "node.health": ["unary"], "node.stream_events": ["log"],
        },
        "streams": 32, "max_frame_bytes": 524288, "notification_streams": 32,
    })
    vectors = [
        make("health, as small as it gets", health),
        make("health with mutual TLS", health | {4: True}),
        make("health without mutual TLS", health | {4: False}),
        make("health with a payload", health | {4: True, 6: payload}),
        make("a result", {0: 1, 1: "result", 2: True, 6: bytes.fromhex("a1616101")}),
        make("a description", {0: 1, 1: "result", 2: True, 6: description}),
        make("a result without a payload", {0: 1, 1: "result", 2: True}),
        make("a result with an empty payload", {0: 1, 1: "result", 2: True, 6: b""}),
        make("an event", event | {3: 1}),
        make("an event with epoch and payload", event | {3: 42, 6: b"\xff\x00", 7: 1699999999999}),
        make("a gap whose size is known", gap | {7: 5, 8: 100, 9: 58}),
        make("a gap whose size is not known", gap | {7: 6, 8: 1}),
        make("a heartbeat", {0: 1, 1: "heartbeat", 2: True, 3: 70000, 7: 5}),
        make("a heartbeat of an empty log", {0: 1, 1: "heartbeat", 2: True, 3: 0, 7: 5}),
        make("resource_exhausted with a time to wait", error | {5: "resource_exhausted", 10: 2500}),
        make("invalid_request with a detail", error | {5: "invalid_request", 11: "unknown key 7"}),
        make("an empty detail", error | {5: "internal", 11: ""}),
        make("a detail of 256 bytes", error | {5: "internal", 11: "d" * 256}),
        make("a detail of 256 bytes in 64 characters", error | {5: "internal", 11: "\U0001f98a" * 64}),
        make("an error string that this version does not know", error | {5: "out_of_cheese"}),
        make("a kind that this version does not know", {0: 1, 1: "novelty", 2: True}),
        make("every field", {
            0: 1, 1: "event", 2: True, 3: 1, 4: True, 5: "internal", 6: b"\x01", 7: 2, 8: 3, 9: 4, 10: 5, 11: "x", 12: True,
            13: 6,
        }, kept=False),
        make("an error before any handler started", error | {5: "unsupported_method", 12: True}),
        make("that a handler started, said needlessly", error | {5: "internal", 12: False}, kept=False),
        make("not_run in another kind than error", health | {12: True}, kept=False),
        make("a result after 3 items", {0: 1, 1: "result", 2: True, 6: b"\x07", 13: 3}),
        make("a result without a payload and without items", {0: 1, 1: "result", 2: True, 13: 0}),
        make("an error after 2^64-1 items", error | {5: "internal", 13: U64_MAX}),
        make("an error before any handler started, and so before any item", error | {5: "resource_exhausted", 10: 1000, 12: True, 13: 0}),
        make("a number of items in another kind than result and error", health | {13: 3}, kept=False),
        make("items of another type in another kind", health | {13: True}, kept=False, lenient=True),
        make("unknown key 14", health | {14: True}),
        make("unknown key 15 with a nested value", health | {15: [[{"a": 1}]]}),
        make("unknown key 16", health | {16: True}),
        make("unknown key 1000 with nested values", health | {1000: {"a": [1, {"b": b"\x00"}]}}),
        make("nesting of exactly 16", health | {16: nested(15, in_array)}),
    ]
    for name in (
        "invalid_request", "protocol_mismatch", "unsupported_method", "stream_failure", "deadline_exceeded",
        "resource_exhausted", "permission_denied", "unavailable", "internal",
    ):
        vectors.append(make(f"error {name}", error | {5: name}))
    for label, number in (
        ("23", 23), ("24", 24), ("255", 255), ("256", 256), ("65535", 65535), ("65536", 65536),
        ("2^32", 2**32), ("2^64-1", U64_MAX),
    ):
        vectors.append(make(f"seq {label}", event | {3: number}))
    vectors += [
        make("gap of 2^64-1", gap | {7: U64_MAX, 8: U64_MAX, 9: U64_MAX}),
        make("retry after 2^64-1 ms", error | {5: "unavailable", 10: U64_MAX}),
    ]
    # The map puts the negative key last, so this one is not in ascending order of numbers.
    body = health | {-1: 1}
    vectors.append({
        "name": "a negative key is ignored",
        "hex": cbor2.dumps(body).hex(),
        "diag": diag(body),
        "json": twin(RESPONSE, body),
        "reencodes": False,
        "cddl": "lenient",
    })
    return vectors


def notifications():
    def make(name, body):
        return vector(name, NOTIFICATION, body)

    return [
        make("as small as it gets", {0: 1, 1: "n"}),
        make("with params", {0: 1, 1: "demo.note", 3: bytes.fromhex("a1616101")}),
        make("with empty params", {0: 1, 1: "demo.note", 3: b""}),
        make("method of 128 bytes", {0: 1, 1: "n" * 128}),
        make("protocol version 2", {0: 2, 1: "demo.note"}),
        make("protocol version 65535", {0: 65535, 1: "demo.note"}),
        make("a trace context", {0: 1, 1: "demo.note", 3: b"\x00", 16: TRACE}),
        make("extension key 16 with what is no trace context", {0: 1, 1: "demo.note", 16: "later"}),
        make("extension key 17", {0: 1, 1: "demo.note", 17: "later"}),
        make("extension key 1000 with nested values", {0: 1, 1: "demo.note", 3: b"\x00", 1000: [{"a": [{}]}]}),
        make("nesting of exactly 16", {0: 1, 1: "demo.note", 16: nested(15, in_map)}),
        loose("keys in descending order", NOTIFICATION, "a2 01 616e 00 01", {1: "n", 0: 1}),
    ]


def items():
    def make(name, body):
        return vector(name, ITEM, body)

    return [
        make("as small as it gets", {}),
        make("with params", {3: bytes.fromhex("a1616101")}),
        make("with empty params", {3: b""}),
        make("params of 256 bytes", {3: bytes(range(256))}),
        make("extension key 16, which means nothing here", {16: TRACE}),
        make("extension key 1000 with nested values", {3: b"\x00", 1000: [{"a": [{}]}]}),
        make("nesting of exactly 16", {16: nested(15, in_map)}),
        loose("a map head of two bytes", ITEM, "b801 03 4100", {3: b"\x00"}),
    ]


def invalid():
    vectors = []

    def add(message, fault, name, encoded, why, text=None, cddl=False):
        if isinstance(encoded, str):
            encoded = bytes.fromhex(encoded)
        vectors.append({
            "name": name, "message": message, "encoding": "cbor", "fault": fault, "hex": encoded.hex(),
            "diag": text, "why": why, "cddl": cddl,
        })

    def value(message, fault, name, body, why, cddl=True):
        """A body that is sound CBOR, so that its content is what is wrong."""
        encoded = cbor2.dumps(body)
        assert holds(encoded, body), name
        add(message, fault, name, encoded, why, diag(body), cddl)

    def text(message, fault, name, body, why):
        vectors.append({
            "name": name, "message": message, "encoding": "json", "fault": fault,
            "hex": body.encode("utf-8", "surrogateescape").hex(), "diag": None, "why": why, "cddl": False,
        })

    req, res, note, item = "request", "response", "notification", "item"

    # Not a map.
    value(req, "not_a_map", "an array", [1, "m"], "the body must be a map")
    value(req, "not_a_map", "an integer", 1, "the body must be a map")
    value(req, "not_a_map", "a byte string", b"\xa0", "the body must be a map")
    value(req, "not_a_map", "null", None, "the body must be a map")
    add(req, "not_a_map", "a map in a tag", "d9d9f7 a2 00 01 01 616d", "a self-description tag is not allowed", '55799({0: 1, 1: "m"})')
    value(res, "not_a_map", "a text string as response", "ok", "the body must be a map")
    value(note, "not_a_map", "an array as notification", [], "the body must be a map")

    # Indefinite lengths, anywhere.
    add(req, "indefinite", "an indefinite map", "bf 00 01 01 616d ff", "the map has no definite length", '{_ 0: 1, 1: "m"}')
    add(req, "indefinite", "an indefinite method", "a2 00 01 01 7f 616d ff", "the text string comes in chunks", '{0: 1, 1: (_ "m")}')
    add(req, "indefinite", "indefinite params", "a3 00 01 01 616d 03 5f 4100 ff", "the byte string comes in chunks", '{0: 1, 1: "m", 3: (_ h\'00\')}')
    add(req, "indefinite", "an indefinite array in an extension", "a3 00 01 01 616d 10 9f ff", "ignored values must have definite lengths, too", '{0: 1, 1: "m", 16: [_ ]}')
    add(req, "indefinite", "an indefinite map deep in an extension", "a3 00 01 01 616d 10 81 bf ff", "ignored values must have definite lengths, too", '{0: 1, 1: "m", 16: [{_ }]}')
    add(res, "indefinite", "an indefinite map as response", "bf 00 01 01 66 6865616c7468 02 f5 ff", "the map has no definite length", '{_ 0: 1, 1: "health", 2: true}')
    add(req, "indefinite", "a break alone", "a3 00 01 01 616d 10 ff", "a break that ends nothing")
    add(note, "indefinite", "an indefinite map as notification", "bf 00 01 01 616e ff", "the map has no definite length", '{_ 0: 1, 1: "n"}')

    # Nesting.
    for what, wrap in (("arrays", in_array), ("maps", in_map), ("tags", in_tag)):
        value(req, "too_deep", f"nesting of 17: {what}", HEALTH | {16: nested(16, wrap)}, "the body's map is level 1, the limit 16", False)
    value(req, "too_deep", "nesting of 17: all three in turn", HEALTH | {16: in_turn(16)}, "the body's map is level 1, the limit 16", False)
    value(res, "too_deep", "nesting of 17 in an ignored key", {0: 1, 1: "health", 2: True, 99: nested(16, in_array)}, "ignored values count", False)
    add(req, "too_deep", "300 arrays, each announcing one more", b"\xa3\x00\x01\x01\x61m\x10" + b"\x81" * 300, "must be refused at level 17, before the missing end is noticed")

    # Bytes after the map.
    add(req, "trailing", "a zero after the map", "a2 00 01 01 616d 00", "the body must end with the map")
    add(req, "trailing", "the same map twice", "a2 00 01 01 616d a2 00 01 01 616d", "one body, one map")
    add(res, "trailing", "a break after the map", "a3 00 01 01 66 6865616c7468 02 f5 ff", "the body must end with the map")
    add(note, "trailing", "a newline after the map", "a2 00 01 01 616e 0a", "the body must end with the map")

    # Duplicate keys.
    add(req, "duplicate_key", "the version twice", "a3 00 01 00 01 01 616d", "key 0 twice", '{0: 1, 0: 1, 1: "m"}')
    add(req, "duplicate_key", "the method twice, apart", "a4 01 616d 00 01 02 05 01 616d", "key 1 twice", '{1: "m", 0: 1, 2: 5, 1: "m"}')
    add(req, "duplicate_key", "one key in two lengths", "a3 00 01 01 616d 1800 01", "0x00 and 0x1800 are the same key", '{0: 1, 1: "m", 0_0: 1}')
    add(req, "duplicate_key", "extension key 16 twice", "a4 00 01 01 616d 10 00 10 01", "ignored keys must not repeat either", '{0: 1, 1: "m", 16: 0, 16: 1}')
    add(req, "duplicate_key", "extension key 1000 twice", "a4 00 01 01 616d 1903e8 00 1903e8 01", "ignored keys must not repeat either", '{0: 1, 1: "m", 1000: 0, 1000: 1}')
    add(req, "duplicate_key", "extension key 1000 twice, apart", "a5 00 01 01 616d 1903e8 00 1903e9 00 1903e8 01", "ignored keys must not repeat either", '{0: 1, 1: "m", 1000: 0, 1001: 0, 1000: 1}')
    add(res, "duplicate_key", "ok twice", "a4 00 01 01 66 6865616c7468 02 f5 02 f4", "key 2 twice", '{0: 1, 1: "health", 2: true, 2: false}')
    add(res, "duplicate_key", "an ignored negative key twice", "a5 00 01 01 66 6865616c7468 02 f5 20 00 20 00", "ignored keys must not repeat either", '{0: 1, 1: "health", 2: true, -1: 0, -1: 0}')
    add(note, "duplicate_key", "params twice", "a4 00 01 01 616e 03 40 03 40", "key 3 twice", "{0: 1, 1: \"n\", 3: h'', 3: h''}")

    # Too many keys out of order.
    keys = [65535] + list(range(1000, 983, -1))
    add(req, "key_order", "17 extension keys above 255, out of order",
        b"\xb4\x00\x01\x01\x61m" + b"".join(struct.pack(">BHB", 0x19, key, 0) for key in keys),
        "at most 16 keys above 255 may be smaller than one before them",
        '{0: 1, 1: "m", ' + ", ".join(f"{key}: 0" for key in keys) + "}")

    # Keys of another type or sign.
    value(req, "key_type", "a text key", {0: 1, 1: "m", "follow": True}, "keys are integers")
    value(req, "key_type", "JSON's names in CBOR", {"protocol_version": 1, "method": "m"}, "keys are integers")
    add(req, "key_type", "a byte string key", "a3 00 01 01 616d 4100 01", "keys are integers", "{0: 1, 1: \"m\", h'00': 1}", True)
    value(res, "key_type", "a text key in a response", {0: 1, 1: "health", 2: True, "x": 1}, "keys are integers, ignored ones as well")
    value(note, "key_type", "a text key in a notification", {0: 1, 1: "n", "x": 1}, "keys are integers")
    value(req, "unknown_key", "a negative key", {0: 1, 1: "m", -1: 1}, "negative keys are unknown keys")
    value(note, "unknown_key", "a negative key in a notification", {0: 1, 1: "n", -1: 1}, "negative keys are unknown keys")

    # Unknown keys below 16.
    value(req, "unknown_key", "key 8", {0: 1, 1: "m", 8: True}, "keys 8 to 15 are kept for later versions")
    value(req, "unknown_key", "key 15", {0: 1, 1: "m", 15: None}, "keys 8 to 15 are kept for later versions")
    value(note, "unknown_key", "key 7 in a notification", {0: 1, 1: "n", 7: True}, "a notification has the keys 0, 1, 3 and 16")
    value(item, "unknown_key", "a request as an item", {0: 1, 1: "m"}, "an item has only key 3")
    value(item, "unknown_key", "key 15 in an item", {3: b"", 15: 1}, "keys below 16 are kept for later versions")
    value(item, "unknown_key", "a negative key in an item", {3: b"", -1: 1}, "negative keys are unknown keys")
    for key in (2, 4, 5, 6):
        value(note, "unknown_key", f"key {key} in a notification", {0: 1, 1: "n", key: key == 5 or 1}, "a notification has the keys 0, 1, 3 and 16")
    value(note, "unknown_key", "key 15 in a notification", {0: 1, 1: "n", 15: 1}, "keys below 16 are kept for later versions")

    # Missing keys.
    value(req, "missing_key", "an empty map", {}, "neither version nor method")
    value(req, "missing_key", "no version", {1: "m"}, "key 0 is required")
    value(req, "missing_key", "no method", {0: 1}, "key 1 is required")
    value(res, "missing_key", "no version in a response", {1: "health", 2: True}, "key 0 is required")
    value(res, "missing_key", "no kind", {0: 1, 2: True}, "key 1 is required")
    value(res, "missing_key", "no ok", {0: 1, 1: "health"}, "key 2 is required")
    value(note, "missing_key", "no version in a notification", {1: "n"}, "key 0 is required")
    value(note, "missing_key", "no method in a notification", {0: 1}, "key 1 is required")

    # Values of the wrong type or size.
    value(req, "wrong_type", "the version as text", {0: "1", 1: "m"}, "key 0 is an unsigned integer")
    value(req, "wrong_type", "a negative version", {0: -1, 1: "m"}, "key 0 is an unsigned integer")
    value(req, "wrong_type", "the version as a float", {0: 1.0, 1: "m"}, "key 0 is an unsigned integer")
    value(req, "out_of_range", "version 65536", {0: 65536, 1: "m"}, "key 0 has 16 bits")
    value(req, "wrong_type", "the method as bytes", {0: 1, 1: b"m"}, "key 1 is a text string")
    value(req, "out_of_range", "an empty method", {0: 1, 1: ""}, "a method has 1 to 128 bytes")
    value(req, "out_of_range", "a method of 129 bytes", {0: 1, 1: "m" * 129}, "a method has 1 to 128 bytes")
    value(req, "out_of_range", "a method of 65 characters in 130 bytes", {0: 1, 1: "é" * 65}, "bytes count, not characters")
    value(req, "wrong_type", "resume_from as null", {0: 1, 1: "m", 2: None}, "an absent field has no key; null is no number")
    value(req, "wrong_type", "a negative resume_from", {0: 1, 1: "m", 2: -1}, "key 2 is an unsigned integer")
    value(req, "wrong_type", "resume_from as a float", {0: 1, 1: "m", 2: 1.0}, "key 2 is an unsigned integer")
    add(req, "wrong_type", "resume_from as a big number", "a3 00 01 01 616d 02 c2 49 010000000000000000", "numbers have at most 64 bits", '{0: 1, 1: "m", 2: 18446744073709551616}')
    value(req, "wrong_type", "params as a map", {0: 1, 1: "m", 3: {"a": 1}}, "key 3 is a byte string")
    value(req, "wrong_type", "params as text", {0: 1, 1: "m", 3: "a"}, "key 3 is a byte string")
    value(req, "wrong_type", "timeout_ms as text", {0: 1, 1: "m", 4: "10s"}, "key 4 is an unsigned integer")
    value(req, "wrong_type", "follow as a number", {0: 1, 1: "m", 5: 1}, "key 5 is a boolean")
    value(req, "wrong_type", "follow as null", {0: 1, 1: "m", 5: None}, "key 5 is a boolean")
    value(req, "wrong_type", "more as a number", {0: 1, 1: "m", 7: 1}, "key 7 is a boolean")
    value(req, "wrong_type", "more as null", {0: 1, 1: "m", 7: None}, "key 7 is a boolean")
    value(item, "wrong_type", "an item's params as text", {3: "a"}, "key 3 is a byte string")
    value(item, "not_a_map", "an item that is only its params", b"a", "the body must be a map")
    add(item, "trailing", "two items in one frame", "a1 03 41 00 a1 03 41 00", "one body, one map")
    add(item, "truncated", "an item cut short", "a1 03 42 00", "announces 2 bytes, has 1")
    value(res, "wrong_type", "items as text", {0: 1, 1: "result", 2: True, 13: "3"}, "an unsigned integer")
    value(res, "wrong_type", "a negative number of items", {0: 1, 1: "error", 2: False, 5: "internal", 13: -1}, "an unsigned integer")
    text(res, "wrong_type", "JSON's items as text", '{"protocol_version":1,"kind":"result","ok":true,"items":"3"}', "an unsigned number")
    text(req, "wrong_type", "JSON's more as a number", '{"protocol_version":1,"method":"m","more":1}', "a boolean")
    text(item, "unknown_key", "an unknown field in a JSON item", '{"params":"AA==","method":"m"}', "an item has one field")
    text(item, "bad_base64", "a JSON item whose params are not base64", '{"params":"a*b="}', "not in the alphabet")
    value(req, "wrong_type", "epoch as text", {0: 1, 1: "m", 6: "e"}, "key 6 is an unsigned integer")
    value(req, "wrong_type", "a tagged epoch", {0: 1, 1: "m", 6: cbor2.CBORTag(4711, 5)}, "no field has a tag")
    value(res, "wrong_type", "ok as a number", {0: 1, 1: "health", 2: 1}, "key 2 is a boolean")
    value(res, "wrong_type", "kind as a number", {0: 1, 1: 1, 2: True}, "key 1 is a text string")
    value(res, "wrong_type", "seq as text", {0: 1, 1: "event", 2: True, 3: "1"}, "key 3 is an unsigned integer")
    value(res, "wrong_type", "payload as text", {0: 1, 1: "result", 2: True, 6: "p"}, "key 6 is a byte string")
    value(res, "wrong_type", "error as null", {0: 1, 1: "health", 2: True, 5: None}, "key 5 is a text string")
    value(res, "out_of_range", "a detail of 257 bytes", {0: 1, 1: "error", 2: False, 5: "internal", 11: "d" * 257}, "detail has at most 256 bytes")
    value(res, "out_of_range", "version 65536 in a response", {0: 65536, 1: "health", 2: True}, "key 0 has 16 bits")
    value(note, "wrong_type", "params as an array in a notification", {0: 1, 1: "n", 3: []}, "key 3 is a byte string")
    value(note, "out_of_range", "an empty method in a notification", {0: 1, 1: ""}, "a method has 1 to 128 bytes")

    # Text that is not UTF-8.
    add(req, "bad_utf8", "a method with a stray byte", "a2 00 01 01 62 6dff", "0xff never occurs in UTF-8")
    add(req, "bad_utf8", "a method with an overlong slash", "a2 00 01 01 62 c0af", "overlong forms are not UTF-8")
    add(req, "bad_utf8", "a method with a surrogate", "a2 00 01 01 63 eda080", "surrogates are not UTF-8")
    add(req, "bad_utf8", "a method cut in a character", "a2 00 01 01 61 c3", "the string ends inside a character")
    add(res, "bad_utf8", "a kind with a stray byte", "a3 00 01 01 62 68ff 02 f5", "0xff never occurs in UTF-8")
    add(res, "bad_utf8", "a detail with a stray byte", "a4 00 01 01 65 6572726f72 02 f4 0b 61 80", "a continuation byte alone")

    # Bodies that end too early.
    add(req, "truncated", "a map head alone", "a2", "announces two pairs, has none")
    add(req, "truncated", "a key without a value", "a2 00 01 01", "the value of key 1 is missing")
    add(req, "truncated", "a method cut short", "a2 00 01 01 6b 6e6f6465", "announces 11 bytes, has 4")
    add(req, "truncated", "a number cut short", "a3 00 01 01 616d 02 1a 0001", "announces 4 bytes, has 2")
    add(req, "truncated", "params of 2^64-1 bytes", "a3 00 01 01 616d 03 5b ffffffffffffffff 00", "announces more than there is; must not be allocated")
    add(req, "truncated", "an extension array of 2^64-1 items", "a3 00 01 01 616d 10 9b ffffffffffffffff 00", "announces more than there is; must not be allocated")
    add(req, "truncated", "a map of 2^64-1 pairs", "bb ffffffffffffffff 00 01 01 616d", "announces more than there is; must not be allocated")
    add(req, "truncated", "a map of 2^63 pairs", "bb 8000000000000000 00 01 01 616d", "twice the count does not fit 64 bits")
    add(res, "truncated", "a response cut before ok", "a3 00 01 01 66 6865616c7468", "announces three pairs, has two")
    add(res, "truncated", "a tag without content", "a4 00 01 01 66 6865616c7468 02 f5 10 c1", "a tag needs a value")
    add(note, "truncated", "params cut short", "a3 00 01 01 616e 03 42 00", "announces 2 bytes, has 1")

    # Additional information 28 to 30, and simple values that are not well-formed.
    add(req, "reserved_info", "a map head with information 28", "bc 00 01 01 616d", "28 to 30 are reserved")
    add(req, "reserved_info", "a version with information 28", "a2 00 1c 01 616d", "28 to 30 are reserved")
    add(req, "reserved_info", "a text with information 29", "a2 00 01 01 7d 6d", "28 to 30 are reserved")
    add(req, "reserved_info", "an extension with information 30", "a3 00 01 01 616d 10 fe", "28 to 30 are reserved")
    add(req, "reserved_info", "an integer with information 31", "a3 00 01 01 616d 10 1f", "integers have no indefinite form")
    add(req, "reserved_info", "a tag with information 31", "a3 00 01 01 616d 10 df 00", "tags have no indefinite form")
    add(req, "reserved_info", "a two-byte simple value below 32", "a3 00 01 01 616d 10 f8 14", "false in two bytes is not well-formed")
    add(req, "reserved_info", "simple value 31 in two bytes", "a3 00 01 01 616d 10 f8 1f", "two bytes are for 32 and up")
    add(res, "reserved_info", "an ignored value with information 28", "a4 00 01 01 66 6865616c7468 02 f5 10 5c", "28 to 30 are reserved")

    # JSON bodies.
    text(req, "truncated", "JSON cut short", '{"protocol_version":1,"method":"m"', "the object does not end")
    text(req, "truncated", "a brace alone", "{", "the object does not end")
    text(req, "trailing", "two JSON objects", '{"protocol_version":1,"method":"m"}{}', "one body, one object")
    text(req, "trailing", "JSON with a byte after it", '{"protocol_version":1,"method":"m"}x', "the body must end with the object")
    text(req, "not_a_map", "blanks alone", " \t\r\n", "nothing behind them, and no map begins with one")
    text(req, "not_a_map", "JSON after a byte order mark", '\ufeff{"protocol_version":1,"method":"m"}', "it is no blank")
    text(req, "not_a_map", "JSON after a form feed", '\x0c{"protocol_version":1,"method":"m"}', "JSON has four blanks, and this is none of them")
    text(req, "not_a_map", "a JSON array", '[1,"m"]', "the first byte decides, and 0x5b is no JSON body")
    text(req, "unknown_key", "an unknown JSON field", '{"protocol_version":1,"method":"m","trace":"x"}', "requests take no unknown field")
    text(req, "unknown_key", "a field of responses", '{"protocol_version":1,"method":"m","ok":true}', "requests take no unknown field")
    text(req, "unknown_key", "a CBOR key in JSON", '{"protocol_version":1,"method":"m","16":1}', "JSON has no extension keys")
    text(note, "unknown_key", "follow in a JSON notification", '{"protocol_version":1,"method":"n","follow":true}', "a notification has three fields")
    text(req, "missing_key", "an empty JSON object", "{}", "neither version nor method")
    text(req, "missing_key", "JSON without a method", '{"protocol_version":1}', "method is required")
    value(res, "wrong_type", "not_run as a number", {0: 1, 1: "error", 2: False, 5: "internal", 12: 1}, "a boolean")
    text(res, "wrong_type", "JSON's not_run as text", '{"protocol_version":1,"kind":"error","ok":false,"error":"internal","not_run":"true"}', "a boolean")
    text(res, "missing_key", "JSON without ok", '{"protocol_version":1,"kind":"health"}', "ok is required")
    text(req, "duplicate_key", "a JSON field twice", '{"protocol_version":1,"method":"m","method":"m"}', "no field twice")
    text(req, "wrong_type", "JSON's version as text", '{"protocol_version":"1","method":"m"}', "a number")
    text(req, "wrong_type", "JSON's method as null", '{"protocol_version":1,"method":null}', "null is for optional fields")
    text(req, "wrong_type", "a negative JSON resume_from", '{"protocol_version":1,"method":"m","resume_from":-1}', "an unsigned number")
    text(req, "wrong_type", "a JSON resume_from with a fraction", '{"protocol_version":1,"method":"m","resume_from":1.5}', "an unsigned number")
    text(req, "out_of_range", "a JSON resume_from of 2^64", '{"protocol_version":1,"method":"m","resume_from":18446744073709551616}', "64 bits")
    text(req, "out_of_range", "a JSON version of 65536", '{"protocol_version":65536,"method":"m"}', "16 bits")
    text(req, "out_of_range", "an empty JSON method", '{"protocol_version":1,"method":""}', "1 to 128 bytes")
    text(req, "out_of_range", "a JSON method of 129 bytes", '{"protocol_version":1,"method":"' + "m" * 129 + '"}', "1 to 128 bytes")
    text(req, "bad_base64", "params that are not base64", '{"protocol_version":1,"method":"m","params":"a*b="}', "not in the alphabet")
    text(req, "bad_base64", "params in the URL alphabet", '{"protocol_version":1,"method":"m","params":"--__"}', "the standard alphabet has + and /")
    text(req, "bad_base64", "params without padding", '{"protocol_version":1,"method":"m","params":"AA"}', "padding is required")
    text(req, "bad_utf8", "JSON with a stray byte", '{"protocol_version":1,"method":"m\udcff"}', "0xff never occurs in UTF-8")
    text(req, "wrong_type", "params as a JSON object", '{"protocol_version":1,"method":"m","params":{}}', "base64 in a string")

    names = [entry["name"] for entry in vectors]
    assert len(names) == len(set(names)), "names must differ"
    return vectors


def ack_events():
    """The params of node.ack_events: a map by the rules of a request's body."""
    names = {0: "consumer", 1: "epoch", 2: "seq", 3: "log"}
    least = {0: "c", 1: 1, 2: 0}
    valid, wrong = [], []

    def good(name, body, encoded=None, **options):
        made = vector(name, names, body, **options) if encoded is None else loose(name, names, encoded, body)
        del made["json"]
        valid.append(made | {field: body.get(key) for key, field in names.items()})

    def bad(fault, name, encoded, why, text=None, cddl=False):
        wrong.append({"name": name, "fault": fault, "hex": bytes.fromhex(encoded).hex(), "diag": text, "why": why, "cddl": cddl})

    def value(fault, name, body, why, cddl=True):
        encoded = cbor2.dumps(body)
        assert holds(encoded, body), name
        bad(fault, name, encoded.hex(), why, diag(body), cddl)

    good("as small as it gets", least)
    good("the node's own log", {0: "gateway", 1: 8213, 2: 41})
    good("a log by name", {0: "gateway", 1: 8213, 2: 41, 3: "plant.readings"})
    good("the node's own log, by its name", {0: "gateway", 1: 8213, 2: 41, 3: "node.stream_events"})
    good("a name of 64 bytes", least | {0: "c" * 64})
    good("a name of 32 characters in 64 bytes", least | {0: "ü" * 32})
    good("a log with a name of 128 bytes", least | {3: "l" * 128})
    good("the greatest numbers", {0: "c", 1: U64_MAX, 2: U64_MAX})
    good("an epoch that JSON does not tell exactly", {0: "c", 1: 2**53 + 1, 2: 1})
    good("epoch 0", {0: "c", 1: 0, 2: 1})
    good("with an extension", least | {16: [1, {"a": None}]})
    good("with extensions of any size", least | {1000: b"x", U64_MAX: 0})
    good("keys in another order", {2: 7, 0: "c", 1: 1}, "a3 02 07 00 6163 01 01")
    good("numbers that are longer than they must be", least, "a3 00 780163 01 1900 01 02 1b0000000000000000")

    value("missing_key", "an empty map", {}, "the consumer, the epoch and the number are required")
    for key, field in list(names.items())[:3]:
        value("missing_key", f"no {field}", {k: v for k, v in least.items() if k != key}, f"{field} is required")
    value("out_of_range", "an empty name", least | {0: ""}, "a name has 1 to 64 bytes")
    value("out_of_range", "a name of 65 bytes", least | {0: "c" * 65}, "a name has 1 to 64 bytes")
    value("out_of_range", "a name of 33 characters in 66 bytes", least | {0: "ü" * 33}, "bytes count, not characters")
    value("out_of_range", "a log without a name", least | {3: ""}, "a method has 1 to 128 bytes")
    value("out_of_range", "a log with a name of 129 bytes", least | {3: "l" * 129}, "a method has 1 to 128 bytes")
    value("wrong_type", "a name in bytes", least | {0: b"c"}, "the consumer is text")
    value("wrong_type", "a number as name", least | {0: 7}, "the consumer is text")
    value("wrong_type", "an epoch below 0", least | {1: -1}, "the epoch is unsigned")
    value("wrong_type", "no epoch, as null", least | {1: None}, "a cursor without an epoch cannot be acknowledged")
    value("wrong_type", "a number below 0", least | {2: -1}, "the number is unsigned")
    value("wrong_type", "a number with a fraction", least | {2: 1.5}, "the number is unsigned")
    value("wrong_type", "no log, as null", least | {3: None}, "an absent field has no key")
    value("wrong_type", "a log in bytes", least | {3: b"l"}, "the log is text")
    value("unknown_key", "key 4", least | {4: 0}, "keys below 16 are kept for later versions")
    value("unknown_key", "key 15", least | {15: 0}, "keys below 16 are kept for later versions")
    value("unknown_key", "a negative key", least | {-1: 0}, "negative keys are unknown keys")
    value("key_type", "the names as keys", {"consumer": "c", "epoch": 1, "seq": 0}, "keys are integers")
    value("not_a_map", "an array", ["c", 1, 0], "the params are a map")
    bad("not_a_map", "a map in a tag", "c6 a3 00 6163 01 01 02 00", "a tag is no map", '6({0: "c", 1: 1, 2: 0})')
    bad("truncated", "nothing", "", "the params are a map")
    bad("truncated", "cut before the number", "a3 00 6163 01 01 02", "the map has three pairs")
    bad("truncated", "a name cut short", "a3 00 6463", "the name has four bytes")
    bad("trailing", "a byte behind the map", "a3 00 6163 01 01 02 00 00", "the params are one item")
    bad("trailing", "two acknowledgements", "a3 00 6163 01 01 02 00 a3 00 6163 01 01 02 01", "the params are one item")
    bad("duplicate_key", "two numbers", "a4 00 6163 01 01 02 00 02 09", "one would count, and the other not", '{0: "c", 1: 1, 2: 0, 2: 9}')
    bad("duplicate_key", "two names", "a4 00 6163 00 6164 01 01 02 00", "one would count, and the other not", '{0: "c", 0: "d", 1: 1, 2: 0}')
    bad("indefinite", "a map without an end", "bf 00 6163 01 01 02 00 ff", "lengths are definite", '{_ 0: "c", 1: 1, 2: 0}')
    bad("indefinite", "a name in pieces", "a3 00 7f 6163 ff 01 01 02 00", "lengths are definite", '{0: (_ "c"), 1: 1, 2: 0}')
    bad("bad_utf8", "a name that is not UTF-8", "a3 00 61ff 01 01 02 00", "text is UTF-8")
    bad("reserved_info", "a number with information 28", "a3 00 6163 01 01 02 1c", "28 is reserved")
    value("too_deep", "an extension of 16 levels", least | {16: nested(16, in_array)}, "the map counts as one of 16", cddl=False)
    good("an extension of 15 levels", least | {16: nested(15, in_map)})
    return {"valid": valid, "invalid": wrong}


def frames():
    health = cbor2.dumps(HEALTH)
    first = cbor2.dumps({0: 1, 1: "n"})
    second = cbor2.dumps({0: 1, 1: "n", 3: b"\x00"})
    text = json.dumps({"protocol_version": 1, "method": "node.health", "resume_from": None}, separators=(",", ":")).encode()

    def frame(body):
        return struct.pack(">I", len(body)) + body

    def good(name, bodies, limit=524288):
        return {
            "name": name, "hex": b"".join(map(frame, bodies)).hex(), "max_frame_bytes": limit,
            "bodies": [body.hex() for body in bodies],
        }

    def bad(name, stream, fault, code, limit=524288):
        return {"name": name, "hex": stream.hex(), "max_frame_bytes": limit, "fault": fault, "code": code}

    violation, too_large = "PROTOCOL_VIOLATION", "FRAME_TOO_LARGE"
    return {
        "valid": [
            good("one request", [health]),
            good("one JSON request", [text]),
            good("the smallest frame", [b"\xa0"]),
            good("two notifications", [first, second]),
            good("a request and two items", [cbor2.dumps({0: 1, 1: "demo.put", 7: True}), cbor2.dumps({3: b"\x00"}), cbor2.dumps({})]),
            good("a body of exactly the limit", [b"\xa0" * 1024], 1024),
            good("a body of 255 bytes", [b"\x00" * 255]),
            good("a body of 256 bytes", [b"\x00" * 256]),
            good("no frame at all: an answer without responses", []),
            good("a request that is the first of three calls", [
                cbor2.dumps({0: 1, 1: "demo.add", 3: b"\x01", 7: True}), cbor2.dumps({3: b"\x02"}), cbor2.dumps({}),
            ]),
            good("answers to three calls", [
                cbor2.dumps({0: 1, 1: "result", 2: True, 6: b"\x01"}),
                cbor2.dumps({0: 1, 1: "error", 2: False, 5: "invalid_request", 12: True}),
                cbor2.dumps({0: 1, 1: "result", 2: True}),
            ]),
        ],
        "invalid": [
            bad("an empty frame", frame(b""), "empty", violation),
            bad("an empty frame after a good one", frame(first) + frame(b""), "empty", violation),
            bad("one byte above the limit", struct.pack(">I", 1025), "oversize", too_large, 1024),
            bad("one byte above the default limit", struct.pack(">I", 524289), "oversize", too_large),
            bad("the largest length", b"\xff\xff\xff\xff", "oversize", too_large),
            bad("a little-endian length", struct.pack("<I", len(health)) + health, "oversize", too_large),
            bad("a header cut short", b"\x00\x00\x00", "truncated", violation),
            bad("a header of one byte", b"\x00", "truncated", violation),
            bad("a header without a body", struct.pack(">I", 16), "truncated", violation),
            bad("a body cut short", frame(health)[:-1], "truncated", violation),
            bad("a second frame cut short", frame(first) + frame(second)[:-1], "truncated", violation),
        ],
        "invalid_request_stream": [
            bad("a byte after the request", frame(health) + b"\x00", "trailing", violation),
            bad("a second request", frame(health) + frame(health), "trailing", violation),
            bad("FIN without a request", b"", "truncated", violation),
        ],
    }


def write(name, content):
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def main():
    for name, vectors in (
        ("requests.json", requests()), ("responses.json", responses()),
        ("notifications.json", notifications()), ("items.json", items()), ("ack_events.json", ack_events()),
        ("invalid.json", invalid()), ("frames.json", frames()),
    ):
        write(name, vectors)
        print(f"{name}: {len(vectors) if isinstance(vectors, list) else sum(map(len, vectors.values()))}")


if __name__ == "__main__":
    main()

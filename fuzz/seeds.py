#!/usr/bin/env python3
"""Writes the seeds, from the test vectors: fuzz/seeds/<target>/<what the vector is about>.

Usage: python3 fuzz/seeds.py
"""

import json
import pathlib
import re
import shutil

HERE = pathlib.Path(__file__).resolve().parent
VECTORS = HERE.parent / "tests" / "vectors"


def vectors(name):
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def write(target, name, seed):
    path = HERE / "seeds" / target / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    assert not path.exists(), path
    path.write_bytes(seed)


def frame_seed(vector, cuts):
    """The layout that fuzz_targets/frame.rs describes; limits above 65,536 are cut to that."""
    limit = min(vector["max_frame_bytes"], 0x10000) - 1
    return limit.to_bytes(2, "big") + bytes([len(cuts)]) + bytes(cuts) + bytes.fromhex(vector["hex"])


def main():
    shutil.rmtree(HERE / "seeds", ignore_errors=True)
    for target in ("cbor_message", "json_message", "frame", "segment"):
        (HERE / "seeds" / target).mkdir(parents=True)

    for kind in ("requests", "responses", "notifications", "items"):
        for vector in vectors(kind):
            name = f"{kind[:-1]} {vector['name']}"
            write("cbor_message", name, bytes.fromhex(vector["hex"]))
            if vector["reencodes"] and vector["json"] is not None:
                twin = json.dumps(vector["json"], ensure_ascii=False, separators=(",", ":"))
                write("json_message", name, twin.encode())

    for validity, acknowledgements in vectors("ack_events").items():
        for vector in acknowledgements:
            write("cbor_message", f"ack events {validity} {vector['name']}", bytes.fromhex(vector["hex"]))

    for vector in vectors("invalid"):
        target = f"{vector['encoding']}_message"
        write(target, f"invalid {vector['name']}", bytes.fromhex(vector["hex"]))

    # No vector has this: what a response may have beside its fields is not the same in JSON.
    for levels in (16, 17):
        value = "[" * (levels - 1) + "]" * (levels - 1)
        text = '{"protocol_version":1,"kind":"result","ok":true,"x":' + value + "}"
        write("json_message", f"response nesting of {levels}", text.encode())

    # Whole, byte by byte, and in pieces of 1 to 5 bytes that pile up before bodies are taken.
    cuts = {"whole": [0xFF], "bytes": [0x81], "pieces": [0x01, 0x02, 0x80, 0x03, 0x85]}
    for kind, streams in vectors("frames").items():
        for vector, (how, cut) in zip(streams, list(cuts.items()) * 4):
            write("frame", f"{kind} {vector['name']} {how}", frame_seed(vector, cut))

    # Two batches behind a header that the target makes, and a whole file.
    batch = any_checksum(format_vector("batch"))
    for name, flags in {"growing": 0, "filled": 2, "closed": 10, "followed": 16, "fresh blocks": 4}.items():
        write("segment", name, bytes([flags, 6]) + batch)
    header = format_vector("header")[:-4] + b"\xff" * 4
    write("segment", "whole file", bytes([1, 0]) + header + bytes(8192 - len(header)) + batch)


def format_vector(name):
    """Bytes from docs/event-log-format.md."""
    text = (HERE.parent / "docs" / "event-log-format.md").read_text(encoding="utf-8")
    block = text.split(f"```text\n{name}\n")[1].split("```")[0]
    return bytes.fromhex("".join(block.split()))


def any_checksum(batch):
    """With checksums of all ones, which are right everywhere: of the header, and of records of 5 and 0 bytes."""
    batch = bytearray(batch)
    for end in (49, 73, 82, 106, 110):
        batch[end - 4:end] = b"\xff" * 4
    return bytes(batch)


if __name__ == "__main__":
    main()

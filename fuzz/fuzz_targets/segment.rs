//! Any bytes as the segment of an event log: opened, read, appended to and opened again.
//!
//! Input: how the rest is used (see `src/events/segment/fuzz.rs`); the number that the header calls
//! durable; what is behind the header, or the whole file. A checksum of all ones is always right, since a
//! fuzzer cannot guess others.

#![no_main]

use libfuzzer_sys::fuzz_target;
use palyra_quic::fuzzing::open_any_segment;

fuzz_target!(|input: &[u8]| open_any_segment(input));

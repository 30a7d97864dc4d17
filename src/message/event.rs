//! The most frequent response: an event.

use bytes::Bytes;

use super::{
    MessageError,
    cbor::{UNSIGNED, put_bytes, put_head, split_bytes, split_uint},
    codec::Codec,
    fields::{FieldWriter, Message, write_response_head},
};
use crate::frame::PREFIX_LEN;

/// Writes a [`Response::Event`](super::Response::Event) from its parts, behind the bytes that `out` holds
/// already. Allocates nothing but room in `out`: a replay goes through here for every event.
#[inline]
pub(crate) fn encode_event(
    codec: Codec,
    seq: u64,
    epoch: Option<u64>,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), MessageError> {
    if codec == Codec::Cbor {
        append_usual(seq, epoch, payload, out);
        return Ok(());
    }
    codec.write(&Event { seq, epoch, payload: Some(payload) }, out)
}

/// The CBOR of an event, as its list of fields would write it, but with all that is the same in every event
/// in one piece.
#[inline]
fn append_usual(seq: u64, epoch: Option<u64>, payload: &[u8], out: &mut Vec<u8>) {
    out.push(if epoch.is_some() { MAP_OF_6 } else { MAP_OF_5 });
    out.extend_from_slice(FIRST_FIELDS);
    put_head(out, UNSIGNED, seq);
    out.push(6);
    put_bytes(out, payload);
    if let Some(epoch) = epoch {
        out.push(7);
        put_head(out, UNSIGNED, epoch);
    }
}

/// The sequence number, epoch and payload of the event that is `body`, if it has the form that this crate
/// writes; whatever has another form, be it right or wrong, is for [`Response::read`](super::Response::read).
/// A replay is read by this: it allocates the payload and nothing else.
#[inline]
pub(crate) fn read_usual_event(body: &[u8]) -> Option<(u64, Option<u64>, Bytes)> {
    split_usual(body).map(|(seq, epoch, payload)| (seq, epoch, Bytes::copy_from_slice(payload)))
}

/// The same, with the payload where it lies.
#[inline]
pub(super) fn split_usual(body: &[u8]) -> Option<(u64, Option<u64>, &[u8])> {
    let (&head, rest) = body.split_first()?;
    if !matches!(head, MAP_OF_5 | MAP_OF_6) {
        return None;
    }
    let (seq, rest) = split_uint(rest.strip_prefix(FIRST_FIELDS)?)?;
    let (payload, rest) = split_bytes(rest.strip_prefix(&[6])?)?;
    let (epoch, rest) = if head == MAP_OF_6 {
        let (epoch, rest) = split_uint(rest.strip_prefix(&[7])?)?;
        (Some(epoch), rest)
    } else {
        (None, rest)
    };
    rest.is_empty().then_some((seq, epoch, payload))
}

pub(super) const MAP_OF_5: u8 = 0xa5;
const MAP_OF_6: u8 = 0xa6;
/// The first fields of an event, up to the key of its sequence number.
const FIRST_FIELDS: &[u8] = b"\x00\x01\x01\x65event\x02\xf5\x03";

/// At most how many bytes the frame of an event has beside its payload, in CBOR: the prefix, the map's head,
/// six keys, the kind, `true`, two numbers of up to nine bytes, and the head of a payload below 4 GiB.
pub(crate) const EVENT_OVERHEAD: usize = PREFIX_LEN + 38;

/// The largest payload of an event whose frame has a body of at most `max_frame_len`, in either codec.
pub(crate) const fn largest_event_payload(max_frame_len: usize) -> usize {
    // Base64 writes four bytes for three.
    max_frame_len.saturating_sub(JSON_EVENT_OVERHEAD) / 4 * 3
}

/// The same as [`EVENT_OVERHEAD`] for JSON, with room for fields that later versions may add.
const JSON_EVENT_OVERHEAD: usize = 256;

/// A [`Response::Event`](super::Response::Event) whose payload is borrowed.
pub(super) struct Event<'a> {
    pub(super) seq: u64,
    pub(super) epoch: Option<u64>,
    pub(super) payload: Option<&'a [u8]>,
}

impl Message for Event<'_> {
    #[inline]
    fn write(&self, fields: &mut impl FieldWriter) {
        let &Self { seq, epoch, payload } = self;
        write_response_head(fields, "event", true);
        fields.uint(3, "seq", seq);
        fields.optional_bytes(6, "payload", payload);
        fields.optional_uint(7, "epoch", epoch);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body_len(codec: Codec, payload: &[u8]) -> usize {
        let mut body = Vec::new();
        encode_event(codec, u64::MAX, Some(u64::MAX), payload, &mut body).unwrap();
        body.len()
    }

    proptest! {
        #[test]
        fn an_event_is_written_as_its_list_of_fields_would_be(
            seq in prop_oneof![any::<u64>(), 0..70_000_u64],
            epoch in prop_oneof![any::<Option<u64>>(), (0..70_000_u64).prop_map(Some)],
            payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let (mut written, mut by_fields) = (vec![0xff], vec![0xff]);
            encode_event(Codec::Cbor, seq, epoch, &payload, &mut written).unwrap();
            let event = Event { seq, epoch, payload: Some(&payload) };
            Codec::Cbor.write(&event, &mut by_fields).unwrap();
            prop_assert_eq!(&written, &by_fields);
            prop_assert_eq!(read_usual_event(&written[1..]), Some((seq, epoch, Bytes::from(payload))));
        }
    }

    #[test]
    fn the_overhead_of_an_event_is_reached_and_not_exceeded() {
        let payload = vec![0; 70_000];
        assert_eq!(PREFIX_LEN + body_len(Codec::Cbor, &payload) - payload.len(), EVENT_OVERHEAD);
        assert_eq!(PREFIX_LEN + body_len(Codec::Cbor, &[]), EVENT_OVERHEAD - 4, "a head of one byte");
    }

    #[test]
    #[cfg(feature = "json")]
    fn the_largest_payload_fits_in_either_codec() {
        for max in [1024, 8192, 524_288] {
            let payload = vec![0xff; largest_event_payload(max)];
            assert!(body_len(Codec::Json, &payload) <= max && body_len(Codec::Cbor, &payload) <= max);
            assert!(body_len(Codec::Json, &payload) + JSON_EVENT_OVERHEAD > max, "not much room is left");
        }
    }
}

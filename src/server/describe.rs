//! `node.describe`.

use super::node::Node;
use crate::{
    message::{Codec, DescribedLimits, Response, encode_description},
    tls::PeerIdentity,
};

/// What a frame holds beside the payload is shorter.
const FRAME_OVERHEAD: usize = 128;

pub(super) fn describe(node: &Node, peer: Option<&PeerIdentity>, codec: Codec) -> Response {
    let limits = DescribedLimits {
        max_frame_bytes: node.max_frame_len(),
        streams: node.limits.max_concurrent_bidi_streams(),
        notification_streams: node.limits.max_concurrent_uni_streams(),
    };
    let room = node.max_frame_len().saturating_sub(FRAME_OVERHEAD);
    let max = match codec {
        Codec::Cbor => room,
        // In base64.
        Codec::Json => room / 4 * 3,
    };
    let description = encode_description(&node.router.describe(peer), limits, max);
    Response::Result { payload: Some(description.into()) }
}

//! `node.describe`.

use super::node::Node;
use crate::{
    message::{DescribedLimits, Response, encode_description},
    tls::PeerIdentity,
};

pub(super) fn describe(node: &Node, peer: Option<&PeerIdentity>) -> Response {
    let limits = DescribedLimits {
        max_frame_bytes: node.max_frame_len(),
        streams: node.limits.max_concurrent_bidi_streams(),
        notification_streams: node.limits.max_concurrent_uni_streams(),
    };
    let description = encode_description(&node.router.describe(peer), limits);
    Response::Result { payload: Some(description.into()) }
}

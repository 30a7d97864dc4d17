//! Responses as frames, and the code for frames that could not be read.

#[cfg(feature = "streams")]
use crate::message::CountedResponse;
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    frame,
    message::{Codec, Response},
};

/// One response as one frame.
pub(crate) fn response_frame(response: &Response, codec: Codec, max_frame_len: usize) -> Result<Vec<u8>> {
    let len = response.encoded_len(codec);
    frame::encode_with_len(len, max_frame_len, |out| response.encode(codec, out).map_err(Error::from))
}

/// The same for a response to a request with items.
#[cfg(feature = "streams")]
pub(crate) fn counted_frame(
    response: Response,
    items: u64,
    codec: Codec,
    max_frame_len: usize,
) -> Result<Vec<u8>> {
    let counted = CountedResponse::new(response, items);
    frame::encode(max_frame_len, |out| counted.encode(codec, out).map_err(Error::from))
}

/// The code for a stream whose frames could not be read.
pub(crate) fn fault_code(error: &Error) -> Code {
    match error.kind() {
        ErrorKind::FrameTooLarge => Code::FRAME_TOO_LARGE,
        ErrorKind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        ErrorKind::Protocol | ErrorKind::Truncated => Code::PROTOCOL_VIOLATION,
        // The peer reset its half, or the connection is gone.
        _ => Code::CANCELLED,
    }
}

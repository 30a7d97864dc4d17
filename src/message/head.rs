//! The protocol version and the method, which open a message.

use super::MessageError;
use crate::protocol::is_method_len;

pub(super) fn check_method(method: &str) -> Result<(), MessageError> {
    if is_method_len(method.len()) { Ok(()) } else { Err(MessageError::MethodLength(method.len())) }
}

/// The two fields that open requests and notifications alike, as a peer sent them.
pub(super) fn required_head(
    protocol_version: Option<u16>,
    method: Option<Box<str>>,
) -> Result<(u16, Box<str>), MessageError> {
    let protocol_version = protocol_version.ok_or(MessageError::MissingField("protocol_version"))?;
    let method = method.ok_or(MessageError::MissingField("method"))?;
    check_method(&method).map_err(|_| MessageError::InvalidField("method"))?;
    Ok((protocol_version, method))
}

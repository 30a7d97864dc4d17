//! The protocol version and the method, which open a message.

use super::MessageError;

/// The longest method, in bytes of UTF-8. No method is empty.
const MAX_METHOD_LEN: usize = 128;

pub(super) fn check_method(method: &str) -> Result<(), MessageError> {
    if (1..=MAX_METHOD_LEN).contains(&method.len()) {
        Ok(())
    } else {
        Err(MessageError::MethodLength(method.len()))
    }
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

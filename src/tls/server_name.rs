//! The names that a server's certificate can be valid for.

use rustls::pki_types::ServerName;

use super::describe;
use crate::error::{Error, Result};

/// A DNS name or an IP address, as a certificate has it.
///
/// # Errors
///
/// `InvalidConfig` if it is neither, with advice.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>> {
    match ServerName::try_from(name) {
        Ok(server_name) => Ok(server_name.to_owned()),
        Err(_says_no_more) => Err(no_server_name(name)),
    }
}

fn no_server_name(name: &str) -> Error {
    let bare = name.trim_start_matches('[').split_once(']').map_or(name, |(address, _port)| address);
    let host = bare.rsplit_once(':').map_or(bare, |(host, _port)| host);
    let advice = if name.is_empty() {
        "it is empty"
    } else if !name.is_ascii() {
        "write an international name as in the certificate, with `xn--`"
    } else if name != bare && ServerName::try_from(bare).is_ok() {
        "write an IP address without brackets, and without the port"
    } else if host != bare && ServerName::try_from(host).is_ok() {
        "write it without the port"
    } else {
        "write it as in the certificate"
    };
    let name = describe::name(name);
    Error::invalid_config(format!("the server name {name} is neither a DNS name nor an IP address: {advice}"))
}

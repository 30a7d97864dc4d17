//! Certificates and keys in a few plain words, for errors.
//!
//! A peer writes much of what is read here: all of it comes out on one line, and not too long.

mod file_kind;
mod keys;
mod names;
mod oid;
mod signatures;
#[cfg(feature = "cert")]
#[cfg(test)]
mod tests;
mod time;

/// Whether errors say more than is needed to tell what failed: whose certificate, which key, and what to do.
pub(super) const EXPLAINS: bool = cfg!(feature = "explain");

pub(super) use self::{
    file_kind::{Kind, kind_of_der},
    keys::{is_rsa, key_of, modulus, private_key, public_key},
    names::{distinguished_name, list_of_names, name, names_of_server, subject},
    signatures::{is_broken, signature},
    time::{seconds, time},
};

//! Names of files that a peer may choose.

use std::{fmt, str::FromStr};

use palyra_quic::minicbor::{
    CborLen, Decode, Decoder, Encode, Encoder, decode,
    encode::{self, Write},
};

/// The plain name of a file in a folder: it can name nothing outside the folder, no partial file, and does
/// nothing to a terminal.
///
/// Letters, digits, spaces and some signs, 1 to 128 bytes, and no dot in front.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileName(String);

impl FileName {
    /// The name of a partial file is longer by 92 bytes, and most file systems take 255.
    const MAX_BYTES: usize = 128;

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a [`FileName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidName;

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not 1 to 128 bytes of letters, digits, spaces and -._~+=@,() without a dot in front")
    }
}

impl std::error::Error for InvalidName {}

impl FromStr for FileName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_plain = |char: char| char.is_alphanumeric() || " -._~+=@,()".contains(char);
        let fits = (1..=Self::MAX_BYTES).contains(&text.len());
        if fits && !text.starts_with('.') && text.chars().all(is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName)
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<C> Encode<C> for FileName {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), encode::Error<W::Error>> {
        self.0.encode(e, ctx)
    }
}

impl<C> CborLen<C> for FileName {
    fn cbor_len(&self, ctx: &mut C) -> usize {
        self.0.cbor_len(ctx)
    }
}

impl<'b, C> Decode<'b, C> for FileName {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.str()?
            .parse()
            .map_err(|fault: InvalidName| decode::Error::message(format_args!("the name is {fault}")))
    }
}

//! The walk over CBOR bytes that comes before anything is decoded.
//!
//! One pass, no allocation, no recursion: the time is bounded by the number of bytes, and the memory
//! by [`MAX_NESTING`]. No input makes it panic.

#![cfg_attr(
    not(any(fuzzing, feature = "__internals")),
    allow(unreachable_pub, reason = "public for `fuzzing`")
)]

/// How many levels of arrays, maps and tags an item may have, its outermost one included.
///
/// RFC 8949, section 10: a decoder "needs to be prepared" for deep nesting. Messages use two levels;
/// the rest is for what applications send as parameters.
pub const MAX_NESTING: usize = 16;

/// How often the keys of a body may fall behind the order before it is refused.
///
/// A key that continues an ascending order cannot be a duplicate. One that does not is compared with
/// each key before it, by walking the body again from its start. Sixteen walks keep the time linear;
/// to remember any number of keys would take an allocation that grows with the input.
const MAX_UNORDERED_KEYS: u32 = 16;

/// Why bytes are not CBOR that this protocol accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CborError {
    /// The bytes end within an item, or a length or count announces more than there is.
    #[error("CBOR ends within an item")]
    Truncated,
    /// There are bytes behind the item.
    #[error("bytes behind the CBOR item")]
    TrailingBytes,
    /// An item of indefinite length.
    #[error("CBOR item of indefinite length")]
    Indefinite,
    /// More than [`MAX_NESTING`] levels.
    #[error("CBOR nested deeper than {MAX_NESTING} levels")]
    TooDeep,
    /// The body of a message is something other than a map.
    #[error("body is not a CBOR map")]
    NotAMap,
    /// A key of the body's map is something other than an integer.
    #[error("CBOR map key is not an integer")]
    KeyType,
    /// The body's map has the same key twice.
    #[error("duplicate CBOR map key")]
    DuplicateKey,
    /// Too many keys out of order to tell whether one is a duplicate. Keys up to 255 may come in any
    /// order; of the others, 16 may be smaller than one before.
    #[error("CBOR map keys out of order")]
    UnorderedKeys,
    /// A text string that is not UTF-8.
    #[error("CBOR text is not UTF-8")]
    Utf8,
    /// Bytes that RFC 8949, appendix C, calls not well-formed: a reserved length, a break without a
    /// beginning, a simple value in the wrong form.
    #[error("CBOR is not well-formed")]
    Malformed,
}

/// Checks that `body` is one map, as the body of each message has to be: definite lengths all
/// through, integer keys, no key twice, at most [`MAX_NESTING`] levels, nothing behind it.
///
/// # Errors
///
/// The first fault found; see [`CborError`].
#[cfg(any(test, fuzzing, feature = "__internals"))]
pub fn validate_body(body: &[u8]) -> Result<(), CborError> {
    read_body(body, |_, _| ())
}

/// As `validate_body`, and shows each entry to `visit` on the way; what it was shown counts only where no
/// fault is found.
pub(super) fn read_body<'a>(body: &'a [u8], mut visit: impl FnMut(Key, Scalar<'a>)) -> Result<(), CborError> {
    let mut reader = Reader { rest: body };
    if body.first().is_some_and(|byte| byte >> 5 != MAJOR_MAP) {
        return Err(CborError::NotAMap);
    }
    let Head::Map(entries) = reader.head()? else {
        return Err(CborError::NotAMap);
    };
    let mut seen = SeenKeys::new(reader.clone());
    for index in 0..entries {
        let key = reader.key()?;
        seen.add(key, index)?;
        visit(key, reader.item(1)?);
    }
    reader.end()
}

/// The first item of `bytes` that has no others in it, and what is behind it.
#[inline]
pub(super) fn split_scalar(bytes: &[u8]) -> Option<(Scalar<'_>, &[u8])> {
    let mut reader = Reader { rest: bytes };
    match reader.head().ok()? {
        Head::Scalar(scalar) => Some((scalar, reader.rest)),
        Head::Array(_) | Head::Map(_) | Head::Tag => None,
    }
}

/// Checks that `bytes` are one item of any type, by the rules of `validate_body` but for those about
/// the map and its keys. For parameters and payloads, before they are decoded as the type expected.
///
/// # Errors
///
/// The first fault found; see [`CborError`].
pub fn validate_item(bytes: &[u8]) -> Result<(), CborError> {
    let mut reader = Reader { rest: bytes };
    reader.item(0)?;
    reader.end()
}

const MAJOR_MAP: u8 = 5;
/// Simple values ([RFC 8949, section 3.3](https://www.rfc-editor.org/rfc/rfc8949#section-3.3)).
const FALSE: u8 = 20;
const TRUE: u8 = 21;

/// The first byte of an item with its argument, and for a string its content: all of an item but the
/// items within it.
enum Head<'a> {
    Scalar(Scalar<'a>),
    Array(u64),
    Map(u64),
    Tag,
}

/// An item without others in it.
#[derive(Clone, Copy)]
pub(super) enum Scalar<'a> {
    Integer(Key),
    Bytes(&'a [u8]),
    Text(&'a str),
    Bool(bool),
    /// Something that no message has a use for: another simple value, a float, or an item with others in it.
    Other,
}

/// An integer by its value. Ordered as RFC 8949, section 4.2.1, has it for shortest encodings:
/// 0, 1, 2, ..., then -1, -2, ...
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Unsigned(u64),
    /// -1 - n.
    Negative(u64),
}

#[derive(Clone)]
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Walks one item with all that it contains, `depth` levels down.
    #[inline]
    fn item(&mut self, depth: usize) -> Result<Scalar<'a>, CborError> {
        match self.head()? {
            Head::Scalar(scalar) => Ok(scalar),
            head => self.items_within(head, depth).map(|()| Scalar::Other),
        }
    }

    /// Walks what is behind `head`, as far as it belongs to it.
    #[cold]
    fn items_within(&mut self, head: Head<'a>, depth: usize) -> Result<(), CborError> {
        // How many items are to come at each level that is open.
        let mut open = [0_u64; MAX_NESTING];
        let mut level = depth;
        let mut head = head;
        loop {
            let items = match head {
                Head::Scalar(_) => None,
                Head::Array(items) => Some(items),
                // `head` has made sure that there are bytes for them all.
                Head::Map(entries) => Some(entries.saturating_mul(2)),
                Head::Tag => Some(1),
            };
            if let Some(items) = items {
                *open.get_mut(level).ok_or(CborError::TooDeep)? = items;
                level += 1;
            }
            loop {
                if level == depth {
                    return Ok(());
                }
                match open.get_mut(level - 1) {
                    Some(items @ 1..) => {
                        *items -= 1;
                        break;
                    }
                    _ => level -= 1,
                }
            }
            head = self.head()?;
        }
    }

    #[inline]
    fn key(&mut self) -> Result<Key, CborError> {
        // All keys of messages are of this form.
        if let Some((&initial @ 0..24, rest)) = self.rest.split_first() {
            self.rest = rest;
            return Ok(Key::Unsigned(u64::from(initial)));
        }
        match self.head()? {
            Head::Scalar(Scalar::Integer(key)) => Ok(key),
            Head::Scalar(_) | Head::Array(_) | Head::Map(_) | Head::Tag => Err(CborError::KeyType),
        }
    }

    #[inline(always)]
    fn head(&mut self) -> Result<Head<'a>, CborError> {
        let [initial] = self.array()?;
        let (major, info) = (initial >> 5, initial & 0x1f);
        let argument = if info < 24 { u64::from(info) } else { self.argument(major, info)? };
        Ok(match major {
            0 => Head::Scalar(Scalar::Integer(Key::Unsigned(argument))),
            1 => Head::Scalar(Scalar::Integer(Key::Negative(argument))),
            2 => Head::Scalar(Scalar::Bytes(self.take(argument)?)),
            3 => {
                let text = std::str::from_utf8(self.take(argument)?).map_err(|_| CborError::Utf8)?;
                Head::Scalar(Scalar::Text(text))
            }
            4 => Head::Array(self.count(argument, 1)?),
            MAJOR_MAP => Head::Map(self.count(argument, 2)?),
            6 => Head::Tag,
            // RFC 8949, section 3.3: "an encoder MUST NOT issue two-byte sequences that start with 0xf8
            // and continue with a byte less than 0x20", and such a sequence is not well-formed.
            _ if info == 24 && argument < 32 => return Err(CborError::Malformed),
            _ => Head::Scalar(match info {
                FALSE => Scalar::Bool(false),
                TRUE => Scalar::Bool(true),
                _ => Scalar::Other,
            }),
        })
    }

    /// The argument of a head that is longer than a byte.
    #[inline]
    fn argument(&mut self, major: u8, info: u8) -> Result<u64, CborError> {
        Ok(match info {
            24 => u64::from(u8::from_be_bytes(self.array()?)),
            25 => u64::from(u16::from_be_bytes(self.array()?)),
            26 => u64::from(u32::from_be_bytes(self.array()?)),
            27 => u64::from_be_bytes(self.array()?),
            31 if (2..=MAJOR_MAP).contains(&major) => return Err(CborError::Indefinite),
            _ => return Err(CborError::Malformed),
        })
    }

    /// Refuses a count that the bytes left cannot hold, at `least` bytes for each.
    fn count(&self, announced: u64, least: usize) -> Result<u64, CborError> {
        match usize::try_from(announced) {
            Ok(count) if count <= self.rest.len() / least => Ok(announced),
            _ => Err(CborError::Truncated),
        }
    }

    #[inline]
    fn take(&mut self, length: u64) -> Result<&'a [u8], CborError> {
        let length = usize::try_from(length).map_err(|_| CborError::Truncated)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CborError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], CborError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CborError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn end(&self) -> Result<(), CborError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CborError::TrailingBytes) }
    }
}

/// Finds duplicates among the keys of a map in constant memory.
struct SeenKeys<'a> {
    /// Those from 0 to 255, a bit each.
    small: [u64; 4],
    /// The greatest of the others.
    greatest: Option<Key>,
    unordered: u32,
    entries: Reader<'a>,
}

impl<'a> SeenKeys<'a> {
    const fn new(entries: Reader<'a>) -> Self {
        Self { small: [0; 4], greatest: None, unordered: 0, entries }
    }

    /// Adds the key of the entry at `index`; those before it have been walked without a fault.
    #[inline]
    fn add(&mut self, key: Key, index: u64) -> Result<(), CborError> {
        let Some((word, bit)) = self.small_bit(key) else { return self.add_large(key, index) };
        if *word & bit != 0 {
            return Err(CborError::DuplicateKey);
        }
        *word |= bit;
        Ok(())
    }

    #[cold]
    fn add_large(&mut self, key: Key, index: u64) -> Result<(), CborError> {
        if self.greatest < Some(key) {
            self.greatest = Some(key);
            return Ok(());
        }
        self.unordered += 1;
        if self.unordered > MAX_UNORDERED_KEYS {
            return Err(CborError::UnorderedKeys);
        }
        let mut reader = self.entries.clone();
        for _ in 0..index {
            if reader.key()? == key {
                return Err(CborError::DuplicateKey);
            }
            reader.item(1)?;
        }
        Ok(())
    }

    #[inline]
    fn small_bit(&mut self, key: Key) -> Option<(&mut u64, u64)> {
        let Key::Unsigned(number) = key else { return None };
        let number = u8::try_from(number).ok()?;
        let word = self.small.get_mut(usize::from(number / 64))?;
        Some((word, 1 << (number % 64)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(opening: &[u8], levels: usize) -> Vec<u8> {
        let mut bytes = opening.repeat(levels);
        bytes.push(0);
        bytes
    }

    /// `{0: ...}` around an item.
    fn body(item: &[u8]) -> Vec<u8> {
        [&[0xa1, 0x00], item].concat()
    }

    #[test]
    fn a_body_is_a_map_and_nothing_else() {
        for (bytes, expected) in [
            (&[0xa0][..], Ok(())),
            (&[0xa1, 0x00, 0x01], Ok(())),
            (&[], Err(CborError::Truncated)),
            (&[0x80], Err(CborError::NotAMap)),
            (&[0x00], Err(CborError::NotAMap)),
            (&[0x7b], Err(CborError::NotAMap)),
            (&[0xc0, 0xa0], Err(CborError::NotAMap)),
            (&[0xff], Err(CborError::NotAMap)),
            (&[0xbf, 0xff], Err(CborError::Indefinite)),
        ] {
            assert_eq!(validate_body(bytes), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn nothing_follows_the_item() {
        assert_eq!(validate_body(&[0xa0, 0x00]), Err(CborError::TrailingBytes));
        assert_eq!(validate_item(&[0x00, 0x00]), Err(CborError::TrailingBytes));
        assert_eq!(validate_item(&[0x00]), Ok(()));
    }

    #[test]
    fn keys_are_integers() {
        for (key, expected) in [
            (&[0x00][..], Ok(())),
            (&[0x20], Ok(())),
            (&[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Ok(())),
            (&[0x61, b'a'], Err(CborError::KeyType)),
            (&[0x41, 0x00], Err(CborError::KeyType)),
            (&[0xf5], Err(CborError::KeyType)),
            (&[0xf9, 0, 0], Err(CborError::KeyType)),
            (&[0xc0, 0x00], Err(CborError::KeyType)),
            (&[0x80], Err(CborError::KeyType)),
        ] {
            assert_eq!(validate_body(&[&[0xa1], key, &[0x00]].concat()), expected, "{key:02x?}");
        }
    }

    #[test]
    fn keys_within_the_map_may_be_anything() {
        assert_eq!(validate_body(&body(&[0xa2, 0x61, b'a', 0x00, 0x61, b'b', 0x00])), Ok(()));
    }

    #[test]
    fn a_key_comes_once_however_it_is_encoded() {
        for (bytes, expected) in [
            (&[0xa2, 0x00, 0x00, 0x01, 0x00][..], Ok(())),
            (&[0xa2, 0x01, 0x00, 0x00, 0x00], Ok(())),
            (&[0xa2, 0x00, 0x00, 0x20, 0x00], Ok(())),
            (&[0xa2, 0x00, 0x00, 0x00, 0x00], Err(CborError::DuplicateKey)),
            (&[0xa2, 0x05, 0x00, 0x18, 0x05, 0x00], Err(CborError::DuplicateKey)),
            (&[0xa2, 0x05, 0x00, 0x1b, 0, 0, 0, 0, 0, 0, 0, 5, 0x00], Err(CborError::DuplicateKey)),
            (&[0xa2, 0x18, 0xff, 0x00, 0x19, 0x00, 0xff, 0x00], Err(CborError::DuplicateKey)),
            (&[0xa2, 0x19, 1, 0, 0x00, 0x1a, 0, 0, 1, 0, 0x00], Err(CborError::DuplicateKey)),
            (&[0xa2, 0x20, 0x00, 0x38, 0x00, 0x00], Err(CborError::DuplicateKey)),
            (&[0xa3, 0x19, 1, 0, 0x00, 0x20, 0x00, 0x19, 1, 0, 0x00], Err(CborError::DuplicateKey)),
        ] {
            assert_eq!(validate_body(bytes), expected, "{bytes:02x?}");
        }
    }

    fn map_of(keys: impl ExactSizeIterator<Item = u16>) -> Vec<u8> {
        let mut bytes = vec![0xb9];
        bytes.extend(u16::try_from(keys.len()).unwrap().to_be_bytes());
        for key in keys {
            bytes.push(0x19);
            bytes.extend(key.to_be_bytes());
            bytes.push(0x00);
        }
        bytes
    }

    #[test]
    fn any_number_of_keys_may_come_in_order_and_a_few_out_of_it() {
        assert_eq!(validate_body(&map_of(256..50_000)), Ok(()));
        assert_eq!(validate_body(&map_of((0..=255).rev())), Ok(()), "small keys in any order");
        assert_eq!(validate_body(&map_of((1000..=1016).rev())), Ok(()), "16 below the first");
        assert_eq!(validate_body(&map_of((1000..=1017).rev())), Err(CborError::UnorderedKeys));
    }

    #[test]
    fn sixteen_levels_are_accepted_and_seventeen_are_not() {
        for opening in [&[0x81][..], &[0xc1], &[0xa1, 0x00]] {
            assert_eq!(validate_item(&nested(opening, 16)), Ok(()));
            assert_eq!(validate_item(&nested(opening, 17)), Err(CborError::TooDeep));
            assert_eq!(validate_body(&body(&nested(opening, 15))), Ok(()), "the map is the first level");
            assert_eq!(validate_body(&body(&nested(opening, 16))), Err(CborError::TooDeep));
            assert_eq!(validate_item(&nested(opening, 100_000)), Err(CborError::TooDeep));
        }
        let empty_at_the_bottom = |levels| [vec![0x81; levels], vec![0x80]].concat();
        assert_eq!(validate_item(&empty_at_the_bottom(15)), Ok(()));
        assert_eq!(
            validate_item(&empty_at_the_bottom(16)),
            Err(CborError::TooDeep),
            "an empty array is a level"
        );
    }

    #[test]
    fn levels_are_counted_down_again() {
        let sixteen = nested(&[0x81], 15);
        let siblings = [&[0x83][..], &sixteen, &sixteen, &[0x00]].concat();
        assert_eq!(validate_item(&siblings), Ok(()));
        assert_eq!(validate_item(&[0x82, 0x80, 0xa0]), Ok(()), "empty containers close immediately");
    }

    #[test]
    fn indefinite_lengths_are_refused_at_any_level() {
        for item in [
            &[0x5f, 0x41, 0x00, 0xff][..],
            &[0x7f, 0x61, b'a', 0xff],
            &[0x9f, 0x00, 0xff],
            &[0xbf, 0x00, 0x00, 0xff],
            &[0x81, 0x9f, 0xff],
        ] {
            assert_eq!(validate_item(item), Err(CborError::Indefinite), "{item:02x?}");
            assert_eq!(validate_body(&body(item)), Err(CborError::Indefinite), "{item:02x?}");
        }
        assert_eq!(validate_body(&body(&[0x81, 0x80])), Ok(()));
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for initial in (0..8_u8).flat_map(|major| [28, 29, 30].map(|info| major << 5 | info)) {
            let item = [&[initial][..], &[0; 20]].concat();
            assert_eq!(validate_item(&item), Err(CborError::Malformed), "{initial:02x}");
        }
        for initial in [0x1f, 0x3f, 0xdf, 0xff] {
            assert_eq!(validate_item(&[initial, 0x00]), Err(CborError::Malformed), "{initial:02x}");
        }
        assert_eq!(validate_item(&[0xf8, 31]), Err(CborError::Malformed));
        assert_eq!(validate_item(&[0xf8, 32]), Ok(()));
        assert_eq!(validate_item(&[0xf3]), Ok(()), "a short simple value");
    }

    #[test]
    fn text_is_utf_8() {
        assert_eq!(validate_item(&[0x62, 0xc3, 0xa9]), Ok(()));
        assert_eq!(validate_item(&[0x62, 0xc3, 0x28]), Err(CborError::Utf8));
        assert_eq!(validate_item(&[0x42, 0xc3, 0x28]), Ok(()), "byte strings are any bytes");
    }

    #[test]
    fn counts_beyond_the_bytes_are_refused_immediately() {
        for item in [
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..],
            &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x82, 0x00],
            &[0xa2, 0x00, 0x00, 0x00],
            &[0x42, 0x00],
            &[0x19, 0x00],
            &[0xc0],
            &[],
        ] {
            assert_eq!(validate_item(item), Err(CborError::Truncated), "{item:02x?}");
        }
    }

    #[test]
    fn every_prefix_of_a_body_is_truncated() {
        let bytes = [0xa2, 0x00, 0x82, 0xf5, 0xfb, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x42, 1, 2];
        assert_eq!(validate_body(&bytes), Ok(()));
        for end in 0..bytes.len() {
            assert_eq!(validate_body(&bytes[..end]), Err(CborError::Truncated), "cut at {end}");
        }
    }

    /// A key and an item of some type, in some encoding.
    fn entry() -> impl Strategy<Value = Vec<u8>> {
        let key =
            prop_oneof![(0..24_u8).prop_map(|key| vec![key]), any::<u8>().prop_map(|key| vec![0x18, key])];
        let head = prop::sample::select(vec![0x00, 0x20, 0x40, 0x60, 0x80, 0xa0, 0xc0, 0xe0]);
        let item = (head, 0..28_u8, prop::collection::vec(0..0x60_u8, 8..32));
        let item = item.prop_map(|(major, info, behind): (u8, u8, Vec<u8>)| {
            let length = match (major, info) {
                (0x40 | 0x60, 0..8) => usize::from(info),
                (0x80 | 0xa0, _) => return vec![major],
                (0xc0, _) => return vec![major | (info % 24), 0x01],
                (_, 0..24) => 0,
                (0x40 | 0x60, _) => return vec![major],
                _ => 1 << (info - 24),
            };
            [&[if length == 0 { major | (info % 24) } else { major | info }], &behind[..length]].concat()
        });
        (key, item).prop_map(|(key, item)| [key, item].concat())
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = validate_item(&bytes);
            let _ = validate_body(&bytes);
        }

        #[test]
        fn what_passes_can_be_walked_by_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..16)) {
            if validate_item(&bytes).is_ok() {
                let mut decoder = minicbor::Decoder::new(&bytes);
                prop_assert!(decoder.skip().is_ok());
                prop_assert_eq!(decoder.position(), bytes.len());
            }
        }

        #[test]
        fn entries_are_shown_as_the_decoder_reads_them(entries in prop::collection::vec(entry(), 0..10)) {
            let body = [vec![0xa0 | u8::try_from(entries.len()).unwrap()], entries.concat()].concat();
            let mut shown = Vec::new();
            prop_assume!(read_body(&body, |key, scalar| shown.push((key, scalar))).is_ok());
            let mut decoder = minicbor::Decoder::new(&body);
            prop_assert_eq!(decoder.map().unwrap(), Some(u64::try_from(shown.len()).unwrap()));
            for (key, scalar) in shown {
                let key = match key {
                    Key::Unsigned(number) => i128::from(number),
                    Key::Negative(number) => -1 - i128::from(number),
                };
                prop_assert_eq!(i128::from(decoder.int().unwrap()), key);
                match scalar {
                    Scalar::Integer(Key::Unsigned(number)) => prop_assert_eq!(decoder.u64().unwrap(), number),
                    Scalar::Bytes(bytes) => prop_assert_eq!(decoder.bytes().unwrap(), bytes),
                    Scalar::Text(text) => prop_assert_eq!(decoder.str().unwrap(), text),
                    Scalar::Bool(bool) => prop_assert_eq!(decoder.bool().unwrap(), bool),
                    Scalar::Integer(Key::Negative(_)) | Scalar::Other => {
                        prop_assert!(decoder.probe().u64().is_err() && decoder.probe().bytes().is_err());
                        prop_assert!(decoder.probe().str().is_err() && decoder.probe().bool().is_err());
                        decoder.skip().unwrap();
                    }
                }
            }
        }

        #[test]
        fn duplicates_are_found_in_any_order(
            keys in prop::collection::vec(prop_oneof![0..40_u16, 250..270_u16], 0..18)
        ) {
            let unique = keys.iter().collect::<std::collections::BTreeSet<_>>().len() == keys.len();
            let expected = if unique { Ok(()) } else { Err(CborError::DuplicateKey) };
            // Eighteen keys cannot be more than 17 times out of order.
            let found = validate_body(&map_of(keys.into_iter()));
            prop_assume!(found != Err(CborError::UnorderedKeys));
            prop_assert_eq!(found, expected);
        }
    }
}

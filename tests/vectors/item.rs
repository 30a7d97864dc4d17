//! CBOR items as a tree, from bytes and from diagnostic notation.
//!
//! Written for the vectors, and on purpose without the crate's codec and without the library below
//! it: a check is worth little that shares its mistakes with what it checks.

/// An item, with what the bytes say and not how long they say it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Unsigned(u64),
    /// -1 - n.
    Negative(u64),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Self>),
    /// In the order of the bytes; the same key may come twice.
    Map(Vec<(Self, Self)>),
    Tag(u64, Box<Self>),
    Simple(u8),
    Float(f64),
    /// A container or string of indefinite length, with all that is in it.
    Indefinite(Box<Self>),
}

impl Item {
    pub(crate) const FALSE: Self = Self::Simple(20);
    pub(crate) const TRUE: Self = Self::Simple(21);
    pub(crate) const NULL: Self = Self::Simple(22);
    pub(crate) const UNDEFINED: Self = Self::Simple(23);

    /// Reads one item, with nothing behind it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { rest: bytes };
        let item = reader.item()?;
        if reader.rest.is_empty() { Ok(item) } else { Err("bytes behind the item".into()) }
    }

    /// Reads diagnostic notation (RFC 8949, section 8), as far as the vectors use it.
    pub(crate) fn from_diag(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text };
        let item = parser.item()?;
        if parser.rest.is_empty() { Ok(item) } else { Err(format!("{:?} behind the item", parser.rest)) }
    }

    /// The shortest form of the item, in the order in which it holds the keys.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// The value of an unsigned key of a map.
    pub(crate) fn field(&self, key: u64) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(found, _)| *found == Self::Unsigned(key)).map(|(_, value)| value)
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Unsigned(number) => write_head(0, *number, out),
            Self::Negative(number) => write_head(1, *number, out),
            Self::Bytes(bytes) => {
                write_head(2, length(bytes), out);
                out.extend(bytes);
            }
            Self::Text(text) => {
                write_head(3, length(text.as_bytes()), out);
                out.extend(text.as_bytes());
            }
            Self::Array(items) => {
                write_head(4, length(items), out);
                items.iter().for_each(|item| item.write(out));
            }
            Self::Map(entries) => {
                write_head(5, length(entries), out);
                for (key, value) in entries {
                    key.write(out);
                    value.write(out);
                }
            }
            Self::Tag(tag, item) => {
                write_head(6, *tag, out);
                item.write(out);
            }
            Self::Simple(value) => write_head(7, u64::from(*value), out),
            Self::Float(number) => {
                out.push(0xfb);
                out.extend(number.to_be_bytes());
            }
            Self::Indefinite(_) => panic!("the shortest form has definite lengths"),
        }
    }
}

fn length<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).expect("lengths have at most 64 bits")
}

fn write_head(major: u8, argument: u64, out: &mut Vec<u8>) {
    let bytes = argument.to_be_bytes();
    let (info, argument) = match argument {
        0..24 => {
            out.push(major << 5 | bytes[7]);
            return;
        }
        24..=0xff => (24, &bytes[7..]),
        0x100..=0xffff => (25, &bytes[6..]),
        0x1_0000..=0xffff_ffff => (26, &bytes[4..]),
        _ => (27, &bytes[..]),
    };
    out.push(major << 5 | info);
    out.extend(argument);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let count = usize::try_from(count).map_err(|_| "too long")?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn item(&mut self) -> Result<Item, String> {
        let initial = self.take(1)?[0];
        let (major, info) = (initial >> 5, initial & 0x1f);
        let argument = match info {
            0..24 => u64::from(info),
            24..28 => {
                self.take(1 << (info - 24))?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
            }
            31 if (2..6).contains(&major) => return self.until_break(major),
            _ => return Err(format!("additional information {info} in major type {major}")),
        };
        Ok(match major {
            0 => Item::Unsigned(argument),
            1 => Item::Negative(argument),
            2 => Item::Bytes(self.take(argument)?.to_vec()),
            3 => Item::Text(String::from_utf8(self.take(argument)?.to_vec()).map_err(|_| "not UTF-8")?),
            4 => Item::Array((0..argument).map(|_| self.item()).collect::<Result<_, _>>()?),
            5 => Item::Map(
                (0..argument).map(|_| Ok((self.item()?, self.item()?))).collect::<Result<_, String>>()?,
            ),
            6 => Item::Tag(argument, Box::new(self.item()?)),
            _ => match info {
                24 if argument < 32 => return Err("a simple value in two bytes".into()),
                0..=24 => Item::Simple(u8::try_from(argument).map_err(|_| "no simple value")?),
                27 => Item::Float(f64::from_bits(argument)),
                _ => return Err("the vectors have floats of eight bytes alone".into()),
            },
        })
    }

    fn until_break(&mut self, major: u8) -> Result<Item, String> {
        let mut items = Vec::new();
        while self.rest.first() != Some(&0xff) {
            items.push(self.item()?);
        }
        self.take(1)?;
        indefinite(match major {
            4 => Item::Array(items),
            5 if items.len().is_multiple_of(2) => {
                let mut items = items.into_iter();
                let pairs = std::iter::from_fn(|| items.next().zip(items.next()));
                Item::Map(pairs.collect())
            }
            5 => return Err("a key without a value".into()),
            _ => joined(items, major == 2)?,
        })
    }
}

fn indefinite(item: Item) -> Result<Item, String> {
    Ok(Item::Indefinite(Box::new(item)))
}

/// The string that chunks make up.
fn joined(chunks: Vec<Item>, bytes: bool) -> Result<Item, String> {
    let (mut joined_bytes, mut joined_text) = (Vec::new(), String::new());
    for chunk in chunks {
        match chunk {
            Item::Bytes(chunk) if bytes => joined_bytes.extend(chunk),
            Item::Text(chunk) if !bytes => joined_text.push_str(&chunk),
            other => return Err(format!("{other:?} as a chunk")),
        }
    }
    Ok(if bytes { Item::Bytes(joined_bytes) } else { Item::Text(joined_text) })
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest.strip_prefix(token);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(format!("{token:?} expected at {:?}", self.rest)) }
    }

    /// All up to where a character no longer fits.
    fn while_in(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|char| !fits(char)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn item(&mut self) -> Result<Item, String> {
        for (word, item) in [
            ("false", Item::FALSE),
            ("true", Item::TRUE),
            ("null", Item::NULL),
            ("undefined", Item::UNDEFINED),
        ] {
            if self.eat(word) {
                return Ok(item);
            }
        }
        if self.eat("h'") {
            let digits = self.while_in(|char| char.is_ascii_hexdigit());
            self.expect("'")?;
            return hex(digits).map(Item::Bytes);
        }
        if self.eat("[") {
            let until_break = self.eat("_ ");
            let items = self.list("]", Self::item)?;
            return if until_break { indefinite(Item::Array(items)) } else { Ok(Item::Array(items)) };
        }
        if self.eat("{") {
            let until_break = self.eat("_ ");
            let entries = self.list("}", |parser| {
                let key = parser.item()?;
                parser.expect(": ")?;
                Ok((key, parser.item()?))
            })?;
            return if until_break { indefinite(Item::Map(entries)) } else { Ok(Item::Map(entries)) };
        }
        if self.eat("(_ ") {
            let chunks = self.list(")", Self::item)?;
            let bytes = matches!(chunks.first(), Some(Item::Bytes(_)));
            return indefinite(joined(chunks, bytes)?);
        }
        if self.rest.starts_with('"') { self.text() } else { self.number() }
    }

    fn list<T>(
        &mut self,
        end: &str,
        entry: impl Fn(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let mut entries = Vec::new();
        while !self.eat(end) {
            if !entries.is_empty() {
                self.expect(", ")?;
            }
            entries.push(entry(self)?);
        }
        Ok(entries)
    }

    /// Text in quotes has the escapes of JSON.
    fn text(&mut self) -> Result<Item, String> {
        let mut texts = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
        let text = texts.next().ok_or("no text")?.map_err(|error| error.to_string())?;
        self.rest = &self.rest[texts.byte_offset()..];
        Ok(Item::Text(text))
    }

    /// A number, or one that is the tag of an item in parentheses.
    fn number(&mut self) -> Result<Item, String> {
        let digits = self.while_in(|char| char.is_ascii_digit() || "-.".contains(char));
        if digits.contains('.') {
            return digits.parse().map(Item::Float).map_err(|error| error.to_string());
        }
        let number: i128 = digits.parse().map_err(|_| format!("{digits:?} before {:?}", self.rest))?;
        // How many bytes a head has, as in `0_0`, is not part of the value.
        if self.eat("_") {
            self.while_in(|char| char.is_ascii_digit());
        }
        if self.eat("(") {
            let item = self.item()?;
            self.expect(")")?;
            let tag = u64::try_from(number).map_err(|_| "a tag that is no number")?;
            return Ok(Item::Tag(tag, Box::new(item)));
        }
        if let Ok(number) = u64::try_from(number) {
            return Ok(Item::Unsigned(number));
        }
        if let Ok(number) = u64::try_from(-1 - number) {
            return Ok(Item::Negative(number));
        }
        // RFC 8949, section 3.4.3: beyond 64 bits a number is a byte string with tag 2.
        let bytes = number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        Ok(Item::Tag(2, Box::new(Item::Bytes(bytes))))
    }
}

/// Bytes from hexadecimal digits.
pub(crate) fn hex(digits: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: &u8| {
        char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or("not hexadecimal")
    };
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err("half a byte".into());
    }
    pairs.iter().map(|[high, low]| Ok(digit(high)? << 4 | digit(low)?)).collect()
}

//! Names of variants of enums, such as `UnknownIssuer`, as words.

use std::fmt;

use crate::message::printable;

/// The longest text of a peer, or of a library, that is kept, in characters: enough for a sentence, too
/// little to flood a log.
const MAX_CHARS: usize = 256;

/// The name of a variant as words: `no_cipher_suites_in_common` of `NoCipherSuitesInCommon`, with blanks.
/// What the variant holds is left out.
pub(super) fn variant(variant: &impl fmt::Debug) -> String {
    words_of_variant(variant).join(" ")
}

pub(super) fn words_of_variant(variant: &impl fmt::Debug) -> Vec<String> {
    let shown = format!("{variant:?}");
    let end = shown.find(|char: char| !char.is_ascii_alphanumeric() && char != '_').unwrap_or(shown.len());
    words(shown.get(..end).unwrap_or_default())
}

/// Divides a name before each capital that begins a word: the first, or one after or before a small letter.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut chars = name.chars().peekable();
    let mut previous = '_';
    while let Some(char) = chars.next() {
        let begins = char.is_ascii_uppercase()
            && (!previous.is_ascii_uppercase() || chars.peek().is_some_and(char::is_ascii_lowercase));
        match words.last_mut() {
            Some(word) if !begins => word.push(char.to_ascii_lowercase()),
            _ => words.push(char.to_ascii_lowercase().into()),
        }
        previous = char;
    }
    words
}

/// A text of a library or of a peer's, on one line, with the names of variants in it spelled out.
pub(super) fn spelled_out(text: &str) -> String {
    let text = printable(text, MAX_CHARS);
    let mut shown = String::with_capacity(text.len());
    let mut rest = &*text;
    while !rest.is_empty() {
        let is_part = |char: char| char.is_ascii_alphanumeric();
        let name = rest.find(|char| !is_part(char)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(name);
        if is_name_of_variant(word) {
            shown.push_str(&words(word).join(" "));
        } else {
            shown.push_str(word);
        }
        let gap = after.find(is_part).unwrap_or(after.len());
        let (between, after) = after.split_at(gap);
        shown.push_str(between);
        rest = after;
    }
    shown
}

/// Such as `UnknownIssuer`: two capitals, each before a small letter.
pub(super) fn is_name_of_variant(word: &str) -> bool {
    let mut pairs = word.bytes().zip(word.bytes().skip(1));
    let humps = pairs.by_ref().filter(|(a, b)| a.is_ascii_uppercase() && b.is_ascii_lowercase()).count();
    humps >= 2
}

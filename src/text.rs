//! Text of peers, made fit to be shown or sent.

use std::borrow::Cow;

/// The longest DNS name, as text.
pub(crate) const MAX_HOST_BYTES: usize = 253;

/// A peer's words, fit for one line of a log or of a terminal: without controls, line separators, and
/// controls of the direction of text.
pub(crate) fn printable(text: &str, max_chars: usize) -> Cow<'_, str> {
    let fit = |char: char| !char.is_control() && !is_format(char);
    if text.len() <= max_chars && text.chars().all(fit) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().take(max_chars);
    shown.map(|char| if fit(char) { char } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// Separators of lines, and controls of the direction of text.
pub(crate) const fn is_format(char: char) -> bool {
    matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// As many whole characters as fit into `max` bytes.
pub(crate) fn truncated(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

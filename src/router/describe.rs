//! What a router tells a peer about its methods.

use super::Router;
use crate::{
    method::MethodKind,
    protocol::{DESCRIBE, HEALTH},
    tls::PeerIdentity,
};

/// A name, and what it serves.
type Entry<'a> = (&'a str, MethodKind);

/// The methods of every node, by name.
const BUILT_IN: [Entry<'static>; 2] = [(DESCRIBE, MethodKind::Unary), (HEALTH, MethodKind::Unary)];

impl Router {
    /// The methods that this peer may use, by name, with their kinds.
    pub(crate) fn describe(&self, peer: Option<&PeerIdentity>) -> Vec<Entry<'_>> {
        let mut methods = self.methods.iter().map(|(name, method)| (name, method.handler.kind()));
        let mut notifications = self.notifications.keys().map(|name| (name, MethodKind::Notification));
        let mut logs = self.logs.keys().map(|name| (name, MethodKind::Log));
        let own = merged(&mut methods, &mut notifications);
        let own = merged(&mut own.into_iter(), &mut logs);
        let mut all = merged(&mut BUILT_IN.into_iter(), &mut own.into_iter());
        all.retain(|(name, _)| self.allows(peer, name));
        all
    }
}

/// All entries by name, from both sources, which are in this order. Not a sort, whose code is much larger.
fn merged<'a>(
    one: &mut dyn Iterator<Item = Entry<'a>>,
    other: &mut dyn Iterator<Item = Entry<'a>>,
) -> Vec<Entry<'a>> {
    let (mut merged, mut first, mut second) = (Vec::new(), one.next(), other.next());
    loop {
        let first_is_next = match (first, second) {
            (Some((first, _)), Some((second, _))) => first <= second,
            (first, _) => first.is_some(),
        };
        let entry = if first_is_next {
            std::mem::replace(&mut first, one.next())
        } else {
            std::mem::replace(&mut second, other.next())
        };
        let Some(entry) = entry else { return merged };
        merged.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_merged_is_in_order_and_whole() {
        let entries =
            |names: &[&'static str], kind| names.iter().map(|name| (*name, kind)).collect::<Vec<_>>();
        let cases: [(&[&str], &[&str]); 5] = [
            (&[], &[]),
            (&["a", "b"], &[]),
            (&[], &["a", "b"]),
            (&["a", "c", "d"], &["a", "b", "e", "f"]),
            (&["x", "y"], &["a", "b"]),
        ];
        for (one, other) in cases {
            let (one, other) = (entries(one, MethodKind::Unary), entries(other, MethodKind::Log));
            let mut expected = [&*one, &other].concat();
            expected.sort_by_key(|(name, _)| *name);
            assert_eq!(merged(&mut one.into_iter(), &mut other.into_iter()), expected);
        }
    }
}

//! Values by name, in little code.

use std::fmt;

/// Values by name, in the order of the names.
///
/// A sorted vector, because each type of value that is inserted into a `BTreeMap` makes a program about 6 KiB
/// larger. To insert a name takes time in proportion to the number of names. A map that no longer changes may
/// have an [index](Self::index), with which a look-up takes few comparisons however many names there are.
#[derive(Clone)]
pub(crate) struct NameMap<T> {
    entries: Vec<(Box<str>, T)>,
    /// At the hash of each name, or behind it, the place of its entry. Invariant: at least half of it is
    /// [`NO_ENTRY`]. Empty without an index.
    index: Vec<usize>,
}

const NO_ENTRY: usize = usize::MAX;

impl<T> NameMap<T> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn contains_key(&self, name: &str) -> bool {
        self.position(name).is_ok()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        if !self.index.is_empty() {
            return self.get_indexed(name);
        }
        self.entries.get(self.position(name).ok()?).map(|(_, value)| value)
    }

    /// Makes look-ups fast until the next name is inserted or removed.
    pub(crate) fn index(&mut self) {
        let len = self.entries.len().saturating_mul(2).next_power_of_two();
        self.index = vec![NO_ENTRY; len];
        for (at, (name, _)) in self.entries.iter().enumerate() {
            let mut slot = hash(name);
            while let Some(taken) = self.index.get_mut(slot & (len - 1)) {
                if *taken == NO_ENTRY {
                    *taken = at;
                    break;
                }
                slot += 1;
            }
        }
    }

    fn get_indexed(&self, name: &str) -> Option<&T> {
        let mut slot = hash(name);
        loop {
            let at = *self.index.get(slot & (self.index.len() - 1))?;
            // There is none at `NO_ENTRY`.
            let (other, value) = self.entries.get(at)?;
            if **other == *name {
                return Some(value);
            }
            slot += 1;
        }
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        let at = self.position(name).ok()?;
        self.entries.get_mut(at).map(|(_, value)| value)
    }

    /// Replaces the value that has this name.
    pub(crate) fn insert(&mut self, name: Box<str>, value: T) {
        self.index.clear();
        match self.position(&name) {
            Ok(at) => {
                if let Some((_, old)) = self.entries.get_mut(at) {
                    *old = value;
                }
            }
            Err(at) => self.entries.insert(at, (name, value)),
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<T> {
        let at = self.position(name).ok()?;
        self.index.clear();
        Some(self.entries.remove(at).1)
    }

    pub(crate) fn retain(&mut self, mut keeps: impl FnMut(&str, &T) -> bool) {
        self.index.clear();
        self.entries.retain(|(name, value)| keeps(name, value));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries.iter().map(|(name, value)| (&**name, value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| &**name)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, value)| value)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    /// Where the name is, or would be.
    fn position(&self, name: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|(other, _)| (**other).cmp(name))
    }
}

impl<T> Default for NameMap<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), index: Vec::new() }
    }
}

impl<T: PartialEq> PartialEq for NameMap<T> {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl<T: Eq> Eq for NameMap<T> {}

/// FNV-1a. The names in an index are those that the application chose, so that a peer cannot make them
/// collide.
fn hash(name: &str) -> usize {
    let hash =
        name.bytes().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    // The upper bits, which depend on all bytes, too.
    usize::try_from((hash ^ (hash >> 15)) >> 1).unwrap_or(0)
}

impl<T> IntoIterator for NameMap<T> {
    type Item = (Box<str>, T);
    type IntoIter = std::vec::IntoIter<(Box<str>, T)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<T> Extend<(Box<str>, T)> for NameMap<T> {
    fn extend<I: IntoIterator<Item = (Box<str>, T)>>(&mut self, entries: I) {
        for (name, value) in entries {
            self.insert(name, value);
        }
    }
}

impl<T> FromIterator<(Box<str>, T)> for NameMap<T> {
    fn from_iter<I: IntoIterator<Item = (Box<str>, T)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<T: fmt::Debug> fmt::Debug for NameMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(String, u8),
        Set(String, u8),
        Remove(String),
        RetainBelow(u8),
        Index,
    }

    fn step() -> impl Strategy<Value = Step> {
        let name = || "[a-c]{0,2}";
        prop_oneof![
            5 => (name(), any::<u8>()).prop_map(|(name, value)| Step::Insert(name, value)),
            1 => (name(), any::<u8>()).prop_map(|(name, value)| Step::Set(name, value)),
            1 => name().prop_map(Step::Remove),
            1 => any::<u8>().prop_map(Step::RetainBelow),
            2 => Just(Step::Index),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_what_a_tree_holds(steps in prop::collection::vec(step(), 0..60)) {
            let (mut map, mut tree) = (NameMap::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(name, value) => {
                        map.insert(name.as_str().into(), value);
                        tree.insert(Box::<str>::from(name), value);
                    }
                    Step::Set(name, value) => {
                        prop_assert_eq!(map.contains_key(&name), tree.contains_key(&*name));
                        let set = map.get_mut(&name).map(|held| *held = value);
                        prop_assert_eq!(set, tree.get_mut(&*name).map(|held| *held = value));
                    }
                    Step::Remove(name) => prop_assert_eq!(map.remove(&name), tree.remove(&*name)),
                    Step::RetainBelow(limit) => {
                        map.retain(|_, value| *value < limit);
                        tree.retain(|_, value| *value < limit);
                    }
                    Step::Index => map.index(),
                }
                prop_assert!(map.keys().eq(tree.keys().map(|name| &**name)));
                prop_assert!(map.values().eq(tree.values()));
                for name in ["", "a", "b", "c", "aa", "ab", "ac", "ba", "bb", "bc", "ca", "cb", "cc", "d"] {
                    prop_assert_eq!(map.get(name), tree.get(name), "{}", name);
                }
                prop_assert_eq!(format!("{map:?}"), format!("{tree:?}"));
            }
            prop_assert!(map.clone().into_iter().eq(tree));
            prop_assert_eq!(map.clone().into_iter().rev().collect::<NameMap<_>>(), map);
        }
    }
}

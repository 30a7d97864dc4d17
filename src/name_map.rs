//! Values by name, in little code.

use std::fmt;

/// Values by name, in the order of the names.
///
/// A sorted vector, because each type of value that is inserted into a `BTreeMap` makes a program about 6 KiB
/// larger. To insert a name takes time in proportion to the number of names.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct NameMap<T>(Vec<(Box<str>, T)>);

impl<T> NameMap<T> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains_key(&self, name: &str) -> bool {
        self.position(name).is_ok()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        self.0.get(self.position(name).ok()?).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        let at = self.position(name).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }

    /// Replaces the value that has this name.
    pub(crate) fn insert(&mut self, name: Box<str>, value: T) {
        match self.position(&name) {
            Ok(at) => {
                if let Some((_, old)) = self.0.get_mut(at) {
                    *old = value;
                }
            }
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<T> {
        let at = self.position(name).ok()?;
        Some(self.0.remove(at).1)
    }

    pub(crate) fn retain(&mut self, mut keeps: impl FnMut(&str, &T) -> bool) {
        self.0.retain(|(name, value)| keeps(name, value));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// Where the name is, or would be.
    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(name))
    }
}

impl<T> Default for NameMap<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> IntoIterator for NameMap<T> {
    type Item = (Box<str>, T);
    type IntoIter = std::vec::IntoIter<(Box<str>, T)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
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
    }

    fn step() -> impl Strategy<Value = Step> {
        let name = || "[a-c]{0,2}";
        prop_oneof![
            5 => (name(), any::<u8>()).prop_map(|(name, value)| Step::Insert(name, value)),
            1 => (name(), any::<u8>()).prop_map(|(name, value)| Step::Set(name, value)),
            1 => name().prop_map(Step::Remove),
            1 => any::<u8>().prop_map(Step::RetainBelow),
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
                }
                prop_assert!(map.keys().eq(tree.keys().map(|name| &**name)));
                prop_assert!(map.values().eq(tree.values()));
                prop_assert!(tree.iter().all(|(name, value)| map.get(name) == Some(value)));
                prop_assert_eq!(format!("{map:?}"), format!("{tree:?}"));
            }
            prop_assert!(map.clone().into_iter().eq(tree));
            prop_assert_eq!(map.clone().into_iter().rev().collect::<NameMap<_>>(), map);
        }
    }
}

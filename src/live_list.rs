//! Lists of handles to what may be gone.

/// Adds to a list from which nothing is removed when it dies. The dead are removed whenever the list is full.
pub(crate) fn push<T>(list: &mut Vec<T>, added: T, is_alive: impl Fn(&T) -> bool) {
    if list.len() == list.capacity() {
        list.retain(is_alive);
        // Room for as many again, so that an addition costs the same on average, however many there are.
        list.reserve(list.len());
    }
    list.push(added);
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        sync::{Arc, Weak},
    };

    use super::*;

    #[test]
    fn the_dead_are_removed_without_a_look_at_all_for_each_addition() {
        let (mut list, looks) = (Vec::<Weak<()>>::new(), Cell::new(0_usize));
        let is_alive = |handle: &Weak<()>| {
            looks.set(looks.get() + 1);
            handle.strong_count() > 0
        };
        let kept: Vec<_> = (0..100).map(|_| Arc::default()).collect();
        kept.iter().for_each(|alive| push(&mut list, Arc::downgrade(alive), is_alive));
        looks.set(0);
        for _ in 0..10_000 {
            push(&mut list, Weak::new(), is_alive);
        }
        assert!(list.len() < 500, "{}", list.len());
        assert!(looks.get() < 30_000, "{}", looks.get());
        assert_eq!(list.iter().filter(|handle| handle.strong_count() > 0).count(), 100);
    }
}

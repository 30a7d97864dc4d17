//! Faults planted in code under test, which its tests must find.

use std::{cell::Cell, thread::LocalKey};

/// The fault that a test has planted on its own thread, out of those of one kind.
pub(crate) struct PlantedFault<T: 'static> {
    current: &'static LocalKey<Cell<T>>,
    nothing: T,
}

impl<T: Copy + PartialEq> PlantedFault<T> {
    /// `nothing` is the value that stands for no fault, with which `current` begins.
    pub(crate) const fn new(current: &'static LocalKey<Cell<T>>, nothing: T) -> Self {
        Self { current, nothing }
    }

    pub(crate) fn get(&self) -> T {
        self.current.get()
    }

    pub(crate) fn is(&self, fault: T) -> bool {
        self.get() == fault
    }

    /// Runs the test with this fault planted on this thread.
    pub(crate) fn with<R>(&self, fault: T, test: impl FnOnce() -> R) -> R {
        struct Reset<'a, T: Copy + PartialEq + 'static>(&'a PlantedFault<T>);
        impl<T: Copy + PartialEq> Drop for Reset<'_, T> {
            fn drop(&mut self) {
                self.0.current.set(self.0.nothing);
            }
        }
        let _reset = Reset(self);
        self.current.set(fault);
        test()
    }
}

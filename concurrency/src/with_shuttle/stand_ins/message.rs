pub(crate) const EVENT_OVERHEAD: usize = 42;

pub(crate) const EVENT_OVERHEAD: usize = 256;

pub(crate) fn largest_event_payload(max_frame_len: usize) -> usize {
    max_frame_len.saturating_sub(EVENT_OVERHEAD)
}

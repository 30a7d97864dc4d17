//! Segments that stay open, so that a reader goes on without waiting for the disk.

use std::{collections::VecDeque, fmt, sync::Arc};

use super::{checksum::SALT_LEN, disk::DiskFile, header::Header, hint::Hint};

pub(super) struct OpenSegment {
    pub(super) header: Header,
    pub(super) file: Arc<dyn DiskFile>,
}

/// Where the next event of a reader is.
pub(super) struct ReadStart {
    pub(super) segment: Arc<OpenSegment>,
    pub(super) hint: Hint,
    /// The numbers of the segment end here.
    pub(super) end: u64,
}

/// The segments that were read last.
#[derive(Default)]
pub(super) struct OpenSegments(VecDeque<Arc<OpenSegment>>);

/// Each takes a descriptor of the process. Readers of the same segment share it.
const MAX_OPEN: usize = 8;

impl OpenSegments {
    pub(super) fn get(&self, salt: &[u8; SALT_LEN], first: u64) -> Option<&Arc<OpenSegment>> {
        self.0.iter().find(|open| open.header.first == first && open.header.salt == *salt)
    }

    /// Keeps a segment open that was just read.
    pub(super) fn keep(&mut self, segment: &Arc<OpenSegment>) {
        if self.get(&segment.header.salt, segment.header.first).is_some() {
            return;
        }
        if self.0.len() >= MAX_OPEN {
            self.0.pop_front();
        }
        self.0.push_back(Arc::clone(segment));
    }

    /// Closes those for which this is not true.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(u64) -> bool) {
        self.0.retain(|open| is_wanted(open.header.first));
    }
}

impl fmt::Debug for OpenSegments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|open| open.header.first)).finish()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::{disk::Disk, sim_disk::SimDisk},
        *,
    };

    pub(in super::super) fn segment(first: u64) -> Arc<OpenSegment> {
        let file = SimDisk::new(1, true).create("segment").unwrap();
        let header = Header {
            epoch: 5,
            first,
            floor: 1,
            durable: 0,
            certain: 0,
            capacity: 1 << 20,
            salt: [u8::try_from(first).unwrap(); SALT_LEN],
            filled: false,
            fresh_blocks: false,
            closed: false,
        };
        Arc::new(OpenSegment { header, file })
    }

    #[test]
    fn a_few_segments_stay_open_each_once() {
        let mut open = OpenSegments::default();
        for first in (1..=20).flat_map(|first| [first, first]) {
            open.keep(&segment(first));
        }
        assert_eq!(format!("{open:?}"), format!("{:?}", (13..=20).collect::<Vec<u64>>()));
        assert!(open.get(&[20; SALT_LEN], 20).is_some() && open.get(&[8; SALT_LEN], 20).is_none());
        open.retain(|first| first < 15);
        assert_eq!(format!("{open:?}"), "[13, 14]");
    }
}

//! How much runs in a row before what it wrote is sent.

/// The lengths of turns, of which each ends with sending.
///
/// Where all that is under way goes into one turn, each side of a connection waits while the other works. Where turns are short, packets
/// are empty. So the first turn after a rest is short, which lets the peer begin, and each after it twice as long: who has no rest has many
/// peers, of which each has little in a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turns {
    next: usize,
}

const FIRST: usize = 4;
const LONGEST: usize = 128;

impl Turns {
    /// After a rest.
    pub(crate) const fn new() -> Self {
        Self { next: FIRST }
    }

    /// How much may run in the turn that begins.
    pub(crate) const fn begin(&mut self) -> usize {
        let turn = self.next;
        self.next = if turn < LONGEST { 2 * turn } else { LONGEST };
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_grow_up_to_a_limit() {
        let mut turns = Turns::new();
        assert_eq!([(); 7].map(|()| turns.begin()), [4, 8, 16, 32, 64, 128, 128]);
    }
}

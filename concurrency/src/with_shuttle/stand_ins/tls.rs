#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(pub(crate) u8);

#[derive(Debug)]
pub(crate) struct PeerIdentity(pub(crate) Fingerprint);

impl PeerIdentity {
    pub(crate) fn content_fingerprint(&self) -> Fingerprint {
        self.0
    }
}

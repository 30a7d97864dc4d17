//! The smallest server with s2n-quic.

fn main() -> peers::Result<()> {
    peers::s2n::serve(&peers::setup::Setup::from_args()?)
}

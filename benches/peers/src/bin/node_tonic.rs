//! The smallest server with tonic.

fn main() -> peers::Result<()> {
    peers::tonic::serve(&peers::setup::Setup::from_args()?)
}

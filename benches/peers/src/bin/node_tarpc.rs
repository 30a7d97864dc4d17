//! The smallest server with tarpc.

fn main() -> peers::Result<()> {
    peers::tarpc::serve(&peers::setup::Setup::from_args()?)
}

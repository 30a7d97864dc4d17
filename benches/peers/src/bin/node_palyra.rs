//! The smallest server with palyra.

fn main() -> peers::Result<()> {
    peers::palyra::serve::<false>(&peers::setup::Setup::from_args()?)
}

//! The smallest server with bare quinn on smol.

fn main() -> peers::Result<()> {
    peers::bare::on_smol::serve(&peers::setup::Setup::from_args()?)
}

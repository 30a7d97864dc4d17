//! The smallest server with bare quinn on tokio.

fn main() -> peers::Result<()> {
    peers::bare::on_tokio::serve::<peers::bare::Equal>(&peers::setup::Setup::from_args()?)
}

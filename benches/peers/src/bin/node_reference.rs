//! The smallest server of the reference protocol.

fn main() -> peers::Result<()> {
    peers::reference::serve(&peers::on_tokio::current_thread()?, &peers::setup::Setup::from_args()?)
}

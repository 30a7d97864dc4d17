//! A Palyra node on the command line, to try one from a shell: `cargo run --example node -- --help`.

mod args;
mod client;
mod failure;
mod lines;
mod pki;
mod serve;
mod signals;

use std::process::ExitCode;

use clap::Parser;

use self::{
    args::{Arguments, Command},
    failure::Failure,
};

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let outcome = match command {
        Command::Pki(args) => pki::run(args),
        Command::Serve(args) => serve::run(&args),
        Command::Health(args) => client::health(&args),
        Command::Call(args) => client::call(&args),
        Command::Notify(args) => client::notify(&args),
        Command::Events(args) => client::events(&args),
    };
    match outcome {
        // Whoever reads no further, as `head` does, has what it wanted.
        Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report("error");
            ExitCode::FAILURE
        }
    }
}

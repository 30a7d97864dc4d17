//! A Palyra node on the command line, to try one from a shell: `cargo run --example node -- --help`.

mod args;
mod client;
mod failure;
mod lines;
mod log;
mod pki;
mod serve;
mod signals;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use self::{
    args::{Arguments, Command},
    failure::{Failure, one_line},
};

fn main() -> ExitCode {
    let Arguments { command, log } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(error),
    };
    log::start(log);
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

/// Prints what clap says of the command line, help included, and gives the exit code that goes with it.
fn explain(error: clap::Error) -> ExitCode {
    // It quotes arguments, which may have been composed from anywhere. From arguments that are fit for a
    // line it makes the same complaint.
    let fit = env::args_os().map(|argument| one_line(&argument.to_string_lossy()));
    let same = |other: &clap::Error| other.kind() == error.kind();
    let text = match Arguments::try_parse_from(fit).err().filter(same) {
        Some(error) => error.to_string(),
        None => error.to_string().lines().flat_map(|line| [one_line(line), "\n".into()]).collect(),
    };
    // Nobody reads a stream that is closed.
    let _ = if error.use_stderr() {
        io::stderr().write_all(text.as_bytes())
    } else {
        io::stdout().write_all(text.as_bytes())
    };
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

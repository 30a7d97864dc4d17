//! A Palyra node on the command line, to try one from a shell: `cargo run --example node -- --help`.

mod acknowledge;
mod address;
mod args;
mod bar;
mod client;
mod describe;
mod event_logs;
mod failure;
mod files;
mod lines;
mod log;
mod mirror;
mod pki;
mod progress;
mod serve;
mod signals;
mod transfer;

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
    let Arguments { command, log_level } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(error),
    };
    log::start(log_level);
    let outcome = match command {
        Command::Pki(args) => pki::run(args),
        Command::Serve(args) => serve::run(&args),
        Command::Health(args) => client::health(&args),
        Command::Describe(args) => describe::describe(&args),
        Command::Call(args) => client::call(&args),
        Command::Notify(args) => client::notify(&args),
        Command::Events(args) => client::events(&args),
        Command::Mirror(args) => mirror::run(&args),
        Command::Put(args) => transfer::put(&args),
        Command::Get(args) => transfer::get(&args),
    };
    match outcome {
        // A program that stops reading, as `head` does, has read what it needs.
        Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report("error");
            ExitCode::FAILURE
        }
    }
}

/// Prints clap's message about the command line, or its help, and returns the exit code for it.
fn explain(error: clap::Error) -> ExitCode {
    // The message quotes arguments, which may contain control characters. So clap parses them again without
    // these characters, and reports the same error.
    let fit = env::args_os().map(|argument| one_line(&argument.to_string_lossy()));
    let same = |other: &clap::Error| other.kind() == error.kind();
    let text = match Arguments::try_parse_from(fit).err().filter(same) {
        Some(error) => error.to_string(),
        None => error.to_string().lines().flat_map(|line| [one_line(line), "\n".into()]).collect(),
    };
    // If the stream is closed, there is no place left for this message.
    let _ = if error.use_stderr() {
        io::stderr().write_all(text.as_bytes())
    } else {
        io::stdout().write_all(text.as_bytes())
    };
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

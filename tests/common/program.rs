//! The program of `examples/node`, and what its children print.

use std::{
    env,
    ffi::OsStr,
    io::BufRead,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        mpsc::{self, Receiver},
    },
    thread,
};

/// The lines of a child's output, as they come.
pub(crate) fn lines(mut from: impl BufRead + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        while from.read_line(&mut line).unwrap() > 0 && sender.send(std::mem::take(&mut line)).is_ok() {}
    });
    receiver
}

/// The program, which cargo builds beside the tests unless it was asked for the tests alone.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = env::current_exe().unwrap();
        let outputs = test.ancestors().nth(2).unwrap();
        let binary = outputs.join("examples").join("node");
        if !binary.exists() {
            build_beside(outputs);
        }
        binary
    })
}

/// Builds for the directory `TARGET/PROFILE` or `TARGET/TRIPLE/PROFILE`.
fn build_beside(outputs: &Path) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let profile = match outputs.file_name().and_then(OsStr::to_str).unwrap() {
        "debug" => "dev",
        profile => profile,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--example", "node", "--profile", profile]);
    cargo.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    let parent = outputs.parent().unwrap();
    if parent != target {
        cargo.arg("--target").arg(parent.file_name().unwrap());
    }
    assert!(cargo.status().unwrap().success(), "{cargo:?}");
}

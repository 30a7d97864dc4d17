//! The commit of the record, built and counted here.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Result,
    record::{FILE, Record},
    root,
};

/// The last commit that changed the record.
pub(crate) fn commit() -> Result<String> {
    let commit = git(&["log", "-1", "--format=%H", "--", FILE])?;
    let shallow = git(&["rev-parse", "--is-shallow-repository"])? == "true";
    // Where the history was cut off, the first commit seems to have made everything.
    if commit.is_empty() || shallow && git(&["rev-parse", "--verify", &format!("{commit}^")]).is_err() {
        return Err("the history does not go back to the record's commit".into());
    }
    Ok(commit)
}

/// The figures of a commit.
pub(crate) fn count(commit: &str) -> Result<Record> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    let package = unpack(commit, &place)?;
    let mut bench = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    bench.args(["bench", "--quiet", "--bench", "instructions", "--", "--record"]).current_dir(&package);
    // Elsewhere than this is built, whose files would have the same names.
    run(bench.env("CARGO_TARGET_DIR", place.join("target")))?;
    let record = Record::read(&package)?;
    fs::remove_dir_all(package)?;
    Ok(record)
}

/// Into a directory of the commit's own: to cargo, files that are older than a build have been part of it.
fn unpack(commit: &str, place: &Path) -> Result<PathBuf> {
    let (package, archive) = (place.join(commit), place.join("commit.tar"));
    fs::create_dir_all(&package)?;
    run(Command::new("git").args(["archive", commit, "--output"]).arg(&archive).current_dir(root()))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&package))?;
    fs::remove_file(archive)?;
    Ok(package)
}

fn git(args: &[&str]) -> Result<String> {
    Ok(run(Command::new("git").args(args).current_dir(root()))?.trim().to_owned())
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

//! Counting the instructions of a part of this program, which starts itself again under callgrind for that.

use std::{
    env,
    process::{Command, Stdio},
};

use super::Result;

const CASE: &str = "INSTRUCTIONS_CASE";
const ROUNDS: &str = "INSTRUCTIONS_ROUNDS";

/// glibc copies and compares memory by other instructions where the processor has these, and what its
/// allocator does beyond the lists of small pieces depends on all that was allocated before, such as
/// certificates of this length or that.
const TUNABLES: &str =
    "glibc.cpu.hwcaps=-AVX2,-AVX_Fast_Unaligned_Load,-ERMS:glibc.malloc.tcache_count=10000";

/// The instructions within [`counted`] of so many rounds of a case.
pub(crate) fn count(case: &str, rounds: u32) -> Result<u32> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*callgrind*counted*"])
        .arg(env::current_exe()?)
        .env(CASE, case)
        .env(ROUNDS, rounds.to_string())
        .env("GLIBC_TUNABLES", TUNABLES)
        .stdout(Stdio::null());
    let output = command.output().map_err(|error| format!("valgrind: {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{case}: {report}").into());
    }
    let line = report.lines().find(|line| line.contains("Collected :")).ok_or("callgrind says nothing")?;
    match line.rsplit(' ').next().ok_or("no number")?.parse()? {
        0 => Err(format!("{case}: callgrind has not seen what was to be counted").into()),
        instructions => Ok(instructions),
    }
}

/// The case that this process is to run, and how often, where [`count`] has started it.
pub(crate) fn wanted() -> Result<Option<(String, u32)>> {
    match env::var(CASE) {
        Ok(case) => Ok(Some((case, env::var(ROUNDS)?.parse()?))),
        Err(_) => Ok(None),
    }
}

/// Does what is to be counted. Callgrind knows this function by its name.
#[inline(never)]
pub(crate) fn counted(work: &mut dyn FnMut()) {
    work();
}

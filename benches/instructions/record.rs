//! The figures of the record, and those of now.

use std::{
    env,
    fmt::{self, Display},
    fs,
    path::Path,
    process::Command,
};

use super::{
    ROUNDS, Result, callgrind,
    cases::{CASES, YARDSTICK},
};

pub(crate) const FILE: &str = "benches/instructions/record.tsv";

/// Beyond this share of what it was, a change is a loss or a gain.
const LIMIT: f64 = 0.03;

const TOOLCHAIN: &str = "toolchain";

/// How many instructions each case takes, and by what compiler.
pub(crate) struct Record {
    toolchain: String,
    yardstick: u32,
    cases: Vec<(String, u32)>,
}

impl Record {
    /// Counts `rounds` of each case, as if they were [`ROUNDS`].
    pub(crate) fn count(rounds: u32) -> Result<Self> {
        let count = |name| -> Result<u32> { Ok((callgrind::count(name, rounds)? + ROUNDS / 2) / ROUNDS) };
        let cases = CASES.iter().map(|(name, _)| Ok(((*name).to_owned(), count(name)?)));
        Ok(Self {
            toolchain: toolchain()?,
            yardstick: count(YARDSTICK)?,
            cases: cases.collect::<Result<_>>()?,
        })
    }

    /// The record in a package.
    pub(crate) fn read(package: &Path) -> Result<Self> {
        let text = fs::read_to_string(package.join(FILE))?;
        let mut rows =
            text.lines().map(|row| row.split_once('\t').ok_or("the record has a row without a figure"));
        let mut head = |wanted| match rows.next() {
            Some(Ok((name, value))) if name == wanted => Ok(value),
            _ => Err(format!("the record does not tell its {wanted}")),
        };
        let (toolchain, yardstick) = (head(TOOLCHAIN)?.to_owned(), head(YARDSTICK)?.parse()?);
        let cases = rows.map(|row| {
            let (name, instructions) = row?;
            Ok((name.to_owned(), instructions.parse()?))
        });
        Ok(Self { toolchain, yardstick, cases: cases.collect::<Result<_>>()? })
    }

    pub(crate) fn write(&self, package: &Path) -> Result<()> {
        Ok(fs::write(package.join(FILE), self.to_string())?)
    }

    /// Why the two tell nothing about each other, where it is so.
    pub(crate) fn differs_in_kind(&self, other: &Self) -> Option<String> {
        let Self { toolchain, yardstick, cases: _ } = self;
        if *toolchain != other.toolchain {
            return Some(format!("it is of {}, and this is {toolchain}", other.toolchain));
        }
        let differs = *yardstick != other.yardstick;
        differs.then(|| format!("its yardstick takes {}, and this {yardstick}", other.yardstick))
    }

    /// What has changed since `before`, case by case.
    pub(crate) fn since(&self, before: &Self) -> Result<Vec<Change>> {
        let names = |record: &Self| record.cases.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        if names(self) != names(before) {
            return Err("these are not the cases of the record; `-- --record` writes it anew".into());
        }
        let pairs = self.cases.iter().zip(&before.cases);
        let changes =
            pairs.map(|((name, now), (_, before))| Change { name: name.clone(), before: *before, now: *now });
        Ok(changes.collect())
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { toolchain, yardstick, cases } = self;
        writeln!(f, "{TOOLCHAIN}\t{toolchain}\n{YARDSTICK}\t{yardstick}")?;
        cases.iter().try_for_each(|(name, instructions)| writeln!(f, "{name}\t{instructions}"))
    }
}

/// The compiler. Its flags, the C library and the machine show by the yardstick.
fn toolchain() -> Result<String> {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let output = Command::new(&rustc).arg("-vV").output().map_err(|error| format!("{rustc}: {error}"))?;
    let said = String::from_utf8(output.stdout)?;
    let version = said.lines().next().ok_or("rustc names no version")?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc names no host")?;
    Ok(format!("{version} for {host}"))
}

/// A case, before and now.
pub(crate) struct Change {
    name: String,
    before: u32,
    now: u32,
}

impl Change {
    pub(crate) fn is_loss(&self) -> bool {
        self.share() > LIMIT
    }

    pub(crate) fn is_gain(&self) -> bool {
        self.share() < -LIMIT
    }

    fn share(&self) -> f64 {
        f64::from(self.now) / f64::from(self.before) - 1.0
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, before, now } = self;
        let verdict = match (self.is_loss(), self.is_gain()) {
            (true, _) => ", **more**",
            (_, true) => ", less",
            _ => "",
        };
        write!(f, "| {name} | {before} | {now} | {:+.1} %{verdict} |", 100.0 * self.share())
    }
}

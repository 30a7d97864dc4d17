//! Copies the sources that are checked, once as they are and once for each planted fault.
//!
//! Each copy is a module of its own, a *tree*, in which `crate::` means the tree. So the case that a fault
//! was planted for runs against the same code but for the fault, in the same program.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

#[path = "plants.rs"]
mod plants;

use plants::{LOOM, Plant, SHUTTLE};

/// What a checker's tree consists of: where it comes from, and its name in the tree.
type Sources = &'static [(&'static str, &'static str)];

const OF_SHUTTLE: Sources = &[
    ("../src/sync.rs", "sync.rs"),
    ("../src/drain.rs", "drain.rs"),
    ("../src/handoff.rs", "handoff.rs"),
    ("../src/admission", "admission"),
    ("../src/events/history.rs", "events/history.rs"),
    ("../src/events/ring.rs", "events/ring.rs"),
    ("../src/events/log_clock.rs", "events/log_clock.rs"),
    ("../src/events/stored_event.rs", "events/stored_event.rs"),
    ("../src/limits/rate.rs", "limits/rate.rs"),
    ("../src/router/loan.rs", "router/loan.rs"),
    ("src/with_shuttle/stand_ins", ""),
    ("src/with_shuttle/cases", "cases"),
];

const OF_LOOM: Sources = &[
    ("../src/sync.rs", "sync.rs"),
    ("../src/runtime/poll/bell.rs", "poll/bell.rs"),
    ("../src/runtime/poll/shared.rs", "poll/shared.rs"),
    ("../src/runtime/poll/tasks.rs", "poll/tasks.rs"),
    ("src/with_loom/stand_ins", ""),
    ("src/with_loom/cases.rs", "poll/cases.rs"),
];

fn main() -> io::Result<()> {
    println!("cargo::rustc-check-cfg=cfg(model_checked)");
    println!("cargo::rustc-check-cfg=cfg(portable_atomic_u64)");
    println!("cargo::rustc-check-cfg=cfg(feature, values(\"durable\"))");
    println!("cargo::rustc-cfg=model_checked");
    for path in ["plants.rs", "src", "../src"] {
        println!("cargo::rerun-if-changed={path}");
    }
    write("shuttle", OF_SHUTTLE, SHUTTLE)?;
    write("loom", OF_LOOM, LOOM)
}

/// Writes the trees of a checker, and a file that declares them.
fn write(checker: &str, sources: Sources, plants: &[Plant]) -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(checker);
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    write_tree(&out, "unchanged", sources, None)?;
    let mut declared = declare(&out, "unchanged");
    let mut table = String::new();
    for plant in plants {
        write_tree(&out, plant.name, sources, Some(plant))?;
        declared += &declare(&out, plant.name);
        let Plant { name, case, .. } = plant;
        table += &format!("    (\"{name}\", \"{case}\", {name}::cases::{case}),\n");
    }
    declared += &format!("const PLANTED: &[(&str, &str, fn())] = &[\n{table}];\n");
    fs::write(out.join("trees.rs"), declared)
}

fn declare(out: &Path, tree: &str) -> String {
    let path = out.join(tree).join("mod.rs");
    format!("#[path = {path:?}]\n#[allow(warnings, clippy::all)]\nmod {tree};\n")
}

fn write_tree(out: &Path, tree: &str, sources: Sources, plant: Option<&Plant>) -> io::Result<()> {
    let mut planted = plant.is_none();
    for (from, to) in sources {
        for (from, to) in files(Path::new(from), &out.join(tree).join(to))? {
            let mut text = fs::read_to_string(&from)?;
            if let Some(plant) = plant.filter(|plant| from.ends_with(plant.file)) {
                for (before, after) in plant.changes {
                    let times = text.matches(before).count();
                    assert!(times == 1, "{}: {} times in {}: {before}", plant.name, times, from.display());
                    text = text.replace(before, after);
                }
                planted = true;
            }
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(to, text.replace("crate::", &format!("crate::{tree}::")))?;
        }
    }
    assert!(planted, "the file of a plant is not in the tree: {tree}");
    Ok(())
}

/// The file, or the files in the folder, with the places that they are copied to.
fn files(from: &Path, to: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    if from.is_file() {
        return Ok(vec![(from.into(), to.into())]);
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        all.extend(files(&entry.path(), &to.join(entry.file_name()))?);
    }
    Ok(all)
}

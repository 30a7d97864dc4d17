//! The servers as programs of their own, each with the dependencies that it takes and no others, in the
//! crate's own profile `small`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use crate::{
    Result,
    contenders::{CONTENDERS, Contender},
    link::Measured,
    measure::Plan,
    results::Results,
};

/// The programs that could be built, by contender.
#[derive(Default)]
pub struct Nodes {
    programs: BTreeMap<&'static str, PathBuf>,
}

impl Nodes {
    pub fn program(&self, contender: &Contender) -> Option<&Path> {
        self.programs.get(contender.name).map(PathBuf::as_path)
    }
}

/// Takes some minutes the first time, and a moment later on.
pub fn build(plan: &Plan) -> Result<Nodes> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nodes");
    let mut nodes = Nodes::default();
    for contender in CONTENDERS.iter().filter(|contender| plan.includes(contender.name)) {
        let Some(feature) = contender.node else { continue };
        eprintln!("       builds node-{feature}");
        nodes.programs.insert(contender.name, build_one(feature, &target, &[])?);
    }
    Ok(nodes)
}

/// The same program as is measured, with the names of its functions.
pub fn build_with_symbols(feature: &str) -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/symbols");
    let symbols = ["--config", "profile.small.debug=1", "--config", "profile.small.strip=false"];
    build_one(feature, &target, &symbols)
}

fn build_one(feature: &str, target: &Path, options: &[&str]) -> Result<PathBuf> {
    let bin = format!("node-{feature}");
    let status = cargo("build")
        .args(["--quiet", "--profile", "small", "--bin", &bin, "--features", feature, "--target-dir"])
        .arg(target)
        .args(options)
        .status()?;
    if !status.success() {
        return Err(format!("{bin} cannot be built").into());
    }
    Ok(target.join("small").join(bin))
}

fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([command, "--locked", "--no-default-features", "--manifest-path"]);
    cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    // What cargo told this process about its own build would have build scripts run again, and all that
    // depends on them.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    cargo.stdin(Stdio::null());
    cargo
}

pub fn sizes(plan: &Plan, nodes: &Nodes, results: &mut Results) {
    for contender in &CONTENDERS {
        let (Some(feature), Some(program)) = (contender.node, nodes.program(contender)) else { continue };
        results.note(0, contender.name, &["size bytes", "size crates"], size(feature, program));
        if plan.clean_builds {
            eprintln!("       builds node-{feature} from nothing");
            results.note(0, contender.name, &["size seconds"], clean_build(feature).map_err(Into::into));
        }
    }
}

fn size(feature: &str, program: &Path) -> Measured<Vec<f64>> {
    let bytes = u32::try_from(fs::metadata(program)?.len())?;
    let tree =
        cargo("tree").args(["--edges", "normal", "--prefix", "none", "--features", feature]).output()?;
    let tree = String::from_utf8(tree.stdout)?;
    // `name v1.2.3`, and behind it what is of no interest here.
    let crates: BTreeSet<_> = tree
        .lines()
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>())
        .filter(|name| !name.is_empty() && name.first() != Some(&env!("CARGO_PKG_NAME")))
        .collect();
    Ok(vec![f64::from(bytes), f64::from(u32::try_from(crates.len())?)])
}

fn clean_build(feature: &str) -> Result<Vec<f64>> {
    let target = env::temp_dir().join(format!("peers-clean-{}", std::process::id()));
    let start = Instant::now();
    let built = build_one(feature, &target, &[]);
    let elapsed = start.elapsed().as_secs_f64();
    fs::remove_dir_all(&target)?;
    built.map(|_program| vec![elapsed])
}

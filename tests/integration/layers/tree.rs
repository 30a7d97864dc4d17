//! All files of `src/`, and which of them uses which.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use super::source::{Function, Mention, Module, Names, Source, module_of};

/// A chain of re-exports that is longer than this is taken for a circle.
const MOST_REEXPORTS: usize = 16;

/// The files below `src/`, by their path from there.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) texts: BTreeMap<String, String>,
    sources: BTreeMap<String, Source>,
    modules: HashMap<Names, Module>,
}

/// `from` uses `to`, first in `line`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrow {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) line: usize,
}

impl Tree {
    pub(super) fn read(folder: &Path) -> Self {
        let mut texts = BTreeMap::new();
        collect(folder, "", &mut texts);
        Self::new(texts)
    }

    pub(super) fn new(texts: BTreeMap<String, String>) -> Self {
        let mut sources: BTreeMap<_, _> =
            texts.iter().map(|(file, text)| (file.clone(), Source::read(file, text))).collect();
        let tests: Vec<Names> = sources.values().flat_map(|source| source.test_modules.clone()).collect();
        sources.retain(|file, _| !tests.iter().any(|test| module_of(file).starts_with(test)));
        let modules = sources.values_mut().flat_map(|source| std::mem::take(&mut source.modules)).collect();
        Self { texts, sources, modules }
    }

    /// The files that are not for tests alone.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    pub(super) fn functions(&self) -> impl Iterator<Item = (&str, &Function)> {
        self.sources
            .iter()
            .flat_map(|(file, source)| source.functions.iter().map(move |function| (file.as_str(), function)))
    }

    /// The lines of a file that are no test code.
    pub(super) fn lines(&self, file: &str) -> usize {
        self.texts[file].lines().count() - self.sources[file].test_lines
    }

    /// Each pair of files once, with the first line that makes the one depend on the other.
    pub(super) fn arrows(&self) -> Vec<Arrow> {
        let mut first = BTreeMap::new();
        for (file, source) in &self.sources {
            for mention in &source.mentions {
                if let Some(to) = self.target(mention)
                    && to != file
                {
                    let line = first.entry((file.clone(), to.to_owned())).or_insert(mention.line);
                    *line = mention.line.min(*line);
                }
            }
        }
        first.into_iter().map(|((from, to), line)| Arrow { from, to, line }).collect()
    }

    fn target(&self, mention: &Mention) -> Option<&str> {
        let found = self.file_of(&mention.module, &mention.path, 0)?;
        // A module may re-export what its children define.
        let is_below = module_of(found).starts_with(&mention.module);
        (!(mention.exported && is_below)).then_some(found)
    }

    /// The file that defines what `path` means in `module`. `None` for a module, or an item of another crate.
    fn file_of(&self, module: &[String], path: &[String], depth: usize) -> Option<&str> {
        let (name, rest) = path.split_first().filter(|_| depth <= MOST_REEXPORTS)?;
        let child = [module, std::slice::from_ref(name)].concat();
        match name.as_str() {
            "crate" => self.file_of(&[], rest, depth),
            "self" => self.file_of(module, rest, depth),
            "super" => self.file_of(module.split_last()?.1, rest, depth),
            _ if self.modules.contains_key(&child) => self.file_of(&child, rest, depth),
            _ => {
                let known = self.modules.get(module)?;
                if known.defined.contains(name) {
                    Some(&known.file)
                } else if let Some(path) = known.imported.get(name) {
                    // `use name;` imports another crate.
                    let is_crate = matches!(&path[..], [only] if only == name);
                    (!is_crate).then(|| self.file_of(module, &[path, rest].concat(), depth + 1))?
                } else {
                    let globs = known.globs.iter().filter(|glob| self.is_ours(module, glob));
                    globs.into_iter().find_map(|glob| self.file_of(module, &[glob, path].concat(), depth + 1))
                }
            }
        }
    }

    fn is_ours(&self, module: &[String], path: &[String]) -> bool {
        matches!(path[0].as_str(), "crate" | "self" | "super")
            || self.modules.contains_key(&[module, &path[..1]].concat())
    }
}

/// Groups of files of which each depends on all others, with the arrows between them.
pub(super) fn cycles(arrows: &[Arrow]) -> Vec<Vec<Arrow>> {
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for arrow in arrows {
        uses.entry(&arrow.from).or_default().insert(&arrow.to);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        uses.keys().map(|file| (*file, reach(file, &uses))).collect();
    let mutual = |a: &str, b: &str| {
        let has = |a: &str, b: &str| reached.get(a).is_some_and(|files| files.contains(b));
        has(a, b) && has(b, a)
    };
    let mut groups: BTreeMap<&str, Vec<Arrow>> = BTreeMap::new();
    for arrow in arrows.iter().filter(|arrow| mutual(&arrow.from, &arrow.to)) {
        let name = reached.keys().find(|file| mutual(file, &arrow.from)).expect("the file itself");
        groups.entry(name).or_default().push(arrow.clone());
    }
    groups.into_values().collect()
}

fn reach<'a>(start: &str, uses: &BTreeMap<&str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = vec![start];
    while let Some(file) = next.pop() {
        for to in uses.get(file).into_iter().flatten() {
            if reached.insert(*to) {
                next.push(to);
            }
        }
    }
    reached
}

fn collect(folder: &Path, prefix: &str, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), &format!("{prefix}{name}/"), texts);
        } else if name.ends_with(".rs") {
            texts.insert(format!("{prefix}{name}"), fs::read_to_string(entry.path()).unwrap());
        }
    }
}

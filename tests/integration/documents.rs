//! The README and the pages of `docs/` stay true where a program can check it.

use std::{fs, path::Path};

use crate::cli::run;

#[test]
fn every_page_with_rust_code_is_compiled_by_the_doc_tests() {
    let library = read("src/lib.rs");
    let pages = pages_with_rust();
    assert!(pages.len() > 1, "{pages:?}");
    for page in pages {
        let included = format!("include_str!(\"../{page}\")");
        assert!(library.contains(&included), "the end of src/lib.rs must contain {included}");
    }
}

#[test]
fn every_option_that_a_page_names_is_one_of_the_program() {
    let commands = ["pki", "serve", "health", "describe", "call", "notify", "events", "mirror", "put", "get"];
    let known: Vec<String> = commands
        .iter()
        .flat_map(|command| options(&run([*command, "--help"]).stdout))
        .chain(options(&run(["--help"]).stdout))
        .collect();
    // Options of cargo, for the program itself.
    let of_cargo = ["--release", "--bench", "--example", "--features", "--test"];
    for page in ["docs/command-line.md", "docs/files.md"] {
        let named = options(&read(page));
        assert!(named.len() > 5, "{page}: {named:?}");
        for option in named {
            let exists = known.contains(&option) || of_cargo.contains(&&*option);
            assert!(exists, "{page} names {option}, which `node` does not have");
        }
    }
}

/// The README and the pages of `docs/` that have a block of Rust.
fn pages_with_rust() -> Vec<String> {
    let pages = fs::read_dir(repository().join("docs")).unwrap().map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        format!("docs/{name}")
    });
    let pages = pages.filter(|page| page.ends_with(".md")).chain(["README.md".to_owned()]);
    pages.filter(|page| read(page).contains("\n```rust")).collect()
}

/// The words of a text that begin with two hyphens and a letter.
fn options(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| {
            word.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        })
        .map(str::to_owned)
        .collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

//! Small trees, which show that each check of `layers` can fail, and what it accepts.

use std::{collections::BTreeMap, fs};

use super::{faults, tree::Tree};

#[track_caller]
fn assert_accepted(files: &[(&str, &str)]) {
    assert_eq!(faults(&tree(files)), Vec::<String>::new());
}

/// Exactly one fault, which starts and goes on like this.
#[track_caller]
fn assert_refused(files: &[(&str, &str)], start: &str, detail: &str) {
    let found = faults(&tree(files));
    let [only] = &found[..] else { panic!("not one fault: {found:#?}") };
    assert!(only.starts_with(start), "{only}");
    assert!(only.contains(detail), "{only}");
}

/// Each folder has a `mod.rs`, if it is not among the files.
fn tree(files: &[(&str, &str)]) -> Tree {
    let mut texts: BTreeMap<_, _> =
        files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    for (folder, _) in files.iter().filter_map(|(file, _)| file.split_once('/')) {
        if !texts.contains_key(&format!("{folder}.rs")) {
            texts.entry(format!("{folder}/mod.rs")).or_default();
        }
    }
    Tree::new(texts)
}

const ACCEPT: (&str, &str) = ("server/accept.rs", "pub(crate) fn accept() {}\npub(crate) struct Slot;");

#[test]
fn a_file_that_uses_a_layer_above_is_refused() {
    let span = ("span.rs", "use std::fmt;\n\nuse crate::server::accept::Slot;");
    assert_refused(
        &[ACCEPT, span],
        "src/span.rs:3: ",
        "layer 10 uses src/server/accept.rs of layer 5, above it",
    );
    let inside = ("span.rs", "fn open() {\n    crate::server::accept::accept();\n}");
    assert_refused(&[ACCEPT, inside], "src/span.rs:2: ", "src/server/accept.rs");
    let module = ("span.rs", "use crate::server::{self, accept};\nfn open() -> accept::Slot { todo() }");
    assert_refused(
        &[ACCEPT, ("server/mod.rs", "mod accept;"), module],
        "src/span.rs:2: ",
        "src/server/accept.rs",
    );
}

#[test]
fn a_path_inside_a_macro_counts() {
    let span = ("span.rs", "fn open() {\n    println!(\"{:?}\", (1, crate::server::accept::accept()));\n}");
    assert_refused(&[ACCEPT, span], "src/span.rs:2: ", "src/server/accept.rs");
    let defined = ("server/mod.rs", "pin_project! { pub(crate) struct Task { all: u8 } }");
    let user = ("span.rs", "use crate::server::Task;");
    assert_refused(&[defined, user], "src/span.rs:1: ", "src/server/mod.rs");
}

#[test]
fn files_that_use_each_other_are_refused() {
    let budget = ("admission/budget.rs", "use super::pieces::Piece;\npub(crate) struct Budget;");
    let pieces = ("admission/pieces.rs", "pub(crate) struct Piece;\nuse super::budget::Budget;");
    let detail = "src/admission/budget.rs:1 uses src/admission/pieces.rs\n  src/admission/pieces.rs:2 uses";
    assert_refused(&[budget, pieces], "src/admission/budget.rs:1: these files depend on each other", detail);
}

#[test]
fn a_longer_cycle_is_refused_once() {
    let first = ("tls/a.rs", "use super::b::B;\npub(crate) struct A;");
    let second = ("tls/b.rs", "use super::c::C;\npub(crate) struct B;");
    let third = ("tls/c.rs", "use super::a::A;\npub(crate) struct C;");
    let beside = ("tls/d.rs", "use super::a::A;");
    assert_refused(&[first, second, third, beside], "src/tls/a.rs:1: ", "  src/tls/c.rs:1 uses src/tls/a.rs");
}

#[test]
fn a_child_that_uses_what_its_parent_defines_is_refused_if_the_parent_uses_the_child() {
    let parent = ("tls/mod.rs", "mod child;\nuse child::Child;\npub(crate) struct Parent(Child);");
    let child = ("tls/child.rs", "use super::Parent;\npub(crate) struct Child;");
    assert_refused(&[parent, child], "src/tls/child.rs:1: ", "src/tls/mod.rs:2 uses src/tls/child.rs");
}

#[test]
fn a_parent_that_only_reexports_its_children_uses_none() {
    let parent = ("tls/mod.rs", "mod child;\npub(crate) use child::Child;\npub(crate) struct Parent;");
    let child = ("tls/child.rs", "use super::Parent;\npub(crate) struct Child;");
    assert_accepted(&[parent, child]);
}

#[test]
fn an_arrow_ends_at_the_file_that_defines_the_name() {
    let root = ("lib.rs", "mod tls;\npub use tls::*;");
    let parent = ("tls/mod.rs", "mod low;\nmod high;\npub(crate) use {high::High, low::Low as Deep};");
    let low = ("tls/low.rs", "pub(crate) struct Low;");
    // Not a cycle with tls/mod.rs, and none with lib.rs.
    let high = ("tls/high.rs", "use super::Deep;\npub(crate) struct High(crate::Deep);");
    assert_accepted(&[root, parent, low, high]);

    let error = ("error.rs", "use crate::Deep;");
    assert_refused(&[root, parent, low, high, error], "src/error.rs:1: ", "uses src/tls/low.rs of layer 11");
}

#[test]
fn an_import_that_a_parent_keeps_to_itself_leads_to_its_definition() {
    let parent = ("tls/mod.rs", "mod child;\nuse {child::Child, crate::error::Error};");
    let child = ("tls/child.rs", "use super::Error;\npub(crate) struct Child;");
    assert_accepted(&[parent, child, ("error.rs", "pub struct Error;")]);
}

#[test]
fn a_module_inside_a_file_belongs_to_that_file() {
    let error = ("error.rs", "mod kinds {\n    use super::super::server::accept::Slot;\n}");
    assert_refused(&[ACCEPT, error], "src/error.rs:2: ", "src/server/accept.rs");
    let own = ("error.rs", "mod kinds {\n    use super::Error;\n}\npub struct Error;");
    assert_accepted(&[own]);
}

#[test]
fn test_code_may_use_everything() {
    let error = (
        "error.rs",
        "#[cfg(test)]
         use crate::server::accept::Slot;
         #[cfg(all(test, feature = \"sim\"))]
         fn probe() { crate::server::accept::accept() }
         struct Error { #[cfg(test)] slot: Slot }
         fn open() {
             #[cfg(test)]
             let slot: crate::server::accept::Slot;
             #[cfg(test)]
             crate::server::accept::accept();
         }
         impl Error { #[cfg(test)] fn slot(&self) -> crate::server::accept::Slot { todo() } }
         #[cfg(test)]
         mod tests { use super::super::server::accept::Slot; #[test] fn works() {} }",
    );
    assert_accepted(&[ACCEPT, error]);
    let beside = ("error.rs", "#[cfg(test)] mod cases;");
    assert_accepted(&[ACCEPT, beside, ("error/cases.rs", "use crate::server::accept::Slot;")]);

    for condition in ["any(test, feature = \"sim\")", "not(test)", "feature = \"test\""] {
        let text = format!("#[cfg({condition})]\nuse crate::server::accept::Slot;");
        assert_refused(&[ACCEPT, ("error.rs", &text)], "src/error.rs:2: ", "src/server/accept.rs");
    }
}

#[test]
fn a_file_of_no_layer_is_refused() {
    assert_refused(&[("extra/mod.rs", "")], "src/extra/mod.rs:1: belongs to no layer", "LAYERS");
}

#[test]
fn a_long_file_is_refused_unless_tests_make_it_long() {
    let lines = |count: usize| "const A: u8 = 0;\n".repeat(count);
    assert_accepted(&[("error.rs", &lines(450))]);
    assert_refused(&[("error.rs", &lines(451))], "src/error.rs:1: 451 lines", "split the file");
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(300));
    assert_accepted(&[("error.rs", &(lines(450) + &tests))]);
    assert_refused(&[("error.rs", &(lines(451) + &tests))], "src/error.rs:1: 451 lines", "split the file");
}

#[test]
fn a_long_function_is_refused_unless_it_is_a_test() {
    let of = |lines: usize| format!("fn long() {{\n{}}}", "    step();\n".repeat(lines - 2));
    assert_accepted(&[("error.rs", &of(60))]);
    let detail = "`long` has 61 lines";
    assert_refused(&[("error.rs", &of(61))], "src/error.rs:1: ", detail);
    assert_refused(&[("error.rs", &format!("impl A {{\n{}\n}}", of(61)))], "src/error.rs:2: ", detail);
    assert_refused(&[("error.rs", &format!("trait A {{\n\n{}\n}}", of(61)))], "src/error.rs:3: ", detail);
    assert_accepted(&[("error.rs", &format!("#[cfg(test)]\nmod tests {{\n#[test]\n{}\n}}", of(61)))]);
}

#[test]
fn a_wide_comment_is_refused() {
    let comment = |width: usize| format!("/// {}\nstruct A;", "a".repeat(width - 4));
    assert_accepted(&[("error.rs", &comment(110))]);
    assert_refused(
        &[("error.rs", &comment(111))],
        "src/error.rs:1: a comment wider than 110 columns",
        "wrap",
    );
    let behind = format!("struct B;\nstruct A; // {}", "ä".repeat(98));
    assert_refused(&[("error.rs", &behind)], "src/error.rs:2: a comment wider", "wrap");
    assert_accepted(&[("error.rs", &behind[..behind.len() - 2])]);
}

#[test]
fn a_word_to_avoid_is_refused_as_a_name_and_a_phrase_in_comments() {
    assert_refused(&[("error.rs", "\nstruct Turns;")], "src/error.rs:2: ", "`Turns`: rather BatchSizer");
    assert_refused(&[("error.rs", "// Whoever asks\n")], "src/error.rs:1: \"whoever\"", "name who");
    assert_accepted(&[("error.rs", "// Turns and returns.\nconst TEXT: &str = \"whoever\";")]);
}

#[test]
fn a_tree_is_read_from_a_folder_with_all_its_folders() {
    let folder = std::env::temp_dir().join(format!("palyra-quic-layers-{}", std::process::id()));
    fs::create_dir_all(folder.join("server")).unwrap();
    let (server, error) =
        (("server/mod.rs", "mod accept;"), ("error.rs", "use crate::server::accept::Slot;"));
    for (file, text) in [ACCEPT, server, error, ("notes.txt", "not Rust")] {
        fs::write(folder.join(file), text).unwrap();
    }
    let tree = Tree::read(&folder);
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(tree.files().collect::<Vec<_>>(), ["error.rs", "server/accept.rs", "server/mod.rs"]);
    assert_eq!(faults(&tree).len(), 1);
}

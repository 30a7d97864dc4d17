//! The layers of `src/`, and the limits of its files. A file may use only files of its own layer or of layers
//! below, files form no cycle, and files and functions are short. Test code is exempt.

mod source;
mod tree;
mod twins;

use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

use self::{
    source::module_of,
    tree::{Arrow, Tree, cycles},
};

/// From top to bottom: the files and folders of a layer, and what they are for. CONTRIBUTING.md shows the
/// same table.
const LAYERS: [(&[&str], &str); 16] = [
    (&["lib.rs"], "what the crate is, its map, the public names"),
    (
        &["cert"],
        "a small certificate authority, and two connected endpoints, for tests and trying things out",
    ),
    (
        &["client/", "mirror/"],
        "`Client`: reconnection, resumed subscriptions, backoff; `Mirror`, which follows another node's log",
    ),
    (&["endpoint/"], "`Endpoint`: its builder, its socket, dialling"),
    (&["server/"], "accepts connections and serves them; `dispatch.rs` runs a request inline or as a task"),
    (&["router/"], "methods, their handlers and `Context`; who may call what"),
    (&["connection/"], "`Connection`: calls, notifications, subscriptions, health"),
    (
        &["link.rs", "outstanding.rs", "call_hooks.rs", "call_interceptor.rs", "handoff.rs"],
        "the parts of a connection that serving and calling share",
    ),
    (&["stream/", "stats.rs"], "frames on a stream; counters"),
    (
        &["span.rs", "events/", "admission/"],
        "tracing; event logs and their cursors; connection slots and memory budgets",
    ),
    (&["tls/"], "certificates, revocation, and the TLS configurations"),
    (
        &["message/", "value.rs", "serde_value.rs", "method.rs"],
        "requests, responses and notifications, in CBOR or JSON; names and types of methods",
    ),
    (&["limits/"], "all limits, their defaults and their memory"),
    (&["frame.rs"], "a length and a body"),
    (
        &[
            "runtime/",
            "sim/",
            "socket",
            "quinn_compat.rs",
            "congestion.rs",
            "address.rs",
            "fallback.rs",
            "qlog",
            "drain.rs",
            "close_state.rs",
        ],
        "time, tasks and sockets, real or simulated; what quinn does not guarantee",
    ),
    (
        &[
            "error",
            "code.rs",
            "wire_error.rs",
            "protocol.rs",
            "retry_after.rs",
            "text.rs",
            "counter.rs",
            "name_map.rs",
            "live_list.rs",
            "sync.rs",
        ],
        "errors, names of the protocol, values by name, lists, and locks, which everything uses",
    ),
];

const MOST_LINES_OF_A_FILE: usize = 450;
const MOST_LINES_OF_A_FUNCTION: usize = 60;
const WIDEST_COMMENT: usize = 110;

/// Names that say too little, or something else in the terms of RFC 9000 and quinn; and what to write
/// instead.
const WORDS: [(&str, &str); 28] = [
    ("Applicant", "PendingPeer"),
    ("Asked", "DecodedRequest"),
    ("AT_ONCE", "ABUSIVE_CANCEL"),
    ("closed_when_unwelcome", "enforce_certificate_validity"),
    ("count_fault", "record_fault"),
    ("Ended", "ExchangeResult"),
    ("forgives", "try_consume_fault"),
    ("Halves", "TlsConfigs"),
    ("Last", "FinalFrame"),
    ("lately", "since_idle"),
    ("lend", "grant_streams"),
    ("lingering", "draining"),
    ("LONGEST_ROW", "MAX_INLINE_TIME"),
    ("most_lingering", "max_draining"),
    ("patience", "probe_interval"),
    ("Place", "ExchangePermit"),
    ("Room", "FutureSlot"),
    ("Row", "InlineRun"),
    ("Served", "ConnectionState"),
    ("Surroundings", "TlsContext"),
    ("TASKS_AFTER_A_SLOW_ONE", "SPAWN_COOLDOWN"),
    ("Tempo", "InlinePolicy"),
    ("Terms", "SessionPolicy"),
    ("Trial", "SplitProbe"),
    ("Turns", "BatchSizer"),
    ("unasked", "check_threshold"),
    ("Undelivered", "UnackedResponses"),
    ("Held", "a noun for what is held"),
];

/// Phrases of comments that a reader has to guess at.
const PHRASES: [&str; 6] = [
    "so many",
    "where there is none",
    "whoever",
    "what is under way",
    "counts no more",
    "nobody in good faith",
];

#[test]
fn files_use_only_what_is_below_them_and_keep_to_the_limits() {
    let tree = Tree::read(&repository().join("src"));
    let mut found = faults(&tree);
    found.extend(empty_places(&tree));
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

#[test]
fn contributing_shows_the_layers() {
    let shown = std::fs::read_to_string(repository().join("CONTRIBUTING.md")).unwrap();
    let table = table_of_layers();
    assert!(shown.contains(&table), "CONTRIBUTING.md must contain this table:\n{table}");
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn table_of_layers() -> String {
    let mut table = "| layer | files | contains |\n|---|---|---|\n".to_owned();
    for (layer, (places, contains)) in LAYERS.iter().enumerate() {
        let places = places.iter().map(|place| format!("`{place}`")).collect::<Vec<_>>().join(", ");
        table.push_str(&format!("| {} | {places} | {contains} |\n", layer + 1));
    }
    table
}

/// Everything that is wrong with a tree, one line each.
fn faults(tree: &Tree) -> Vec<String> {
    let arrows = tree.arrows();
    let mut faults = arrows_up(&arrows);
    faults.extend(cycles(&arrows).iter().map(|cycle| describe(cycle)));
    faults.extend(tree.files().filter(|file| layer_of(file).is_none()).map(|file| {
        format!("src/{file}:1: belongs to no layer: add it to LAYERS in tests/integration/layers.rs")
    }));
    faults.extend(tree.files().filter(|file| tree.lines(file) > MOST_LINES_OF_A_FILE).map(|file| {
        let lines = tree.lines(file);
        format!(
            "src/{file}:1: {lines} lines without tests, of {MOST_LINES_OF_A_FILE} allowed: split the file"
        )
    }));
    faults.extend(tree.functions().filter(|(_, function)| function.lines > MOST_LINES_OF_A_FUNCTION).map(
        |(file, function)| {
            let (name, line, lines) = (&function.name, function.line, function.lines);
            format!(
                "src/{file}:{line}: `{name}` has {lines} lines, of {MOST_LINES_OF_A_FUNCTION} allowed: \
                 move a part of it to a function of its own"
            )
        },
    ));
    faults.extend(
        tree.texts.iter().flat_map(|(file, text)| [wide_comments(file, text), words(file, text)].concat()),
    );
    faults
}

fn arrows_up(arrows: &[Arrow]) -> Vec<String> {
    let up = arrows.iter().filter_map(|arrow| {
        let (from, to) = (layer_of(&arrow.from)?, layer_of(&arrow.to)?);
        let Arrow { from: file, to: used, line } = arrow;
        (from > to).then(|| {
            format!(
                "src/{file}:{line}: layer {} uses src/{used} of layer {}, above it: pass plain values \
                 instead, or move what is shared to layer {} or below",
                from + 1,
                to + 1,
                from + 1
            )
        })
    });
    up.collect()
}

fn describe(cycle: &[Arrow]) -> String {
    let arrows = cycle.iter().map(|Arrow { from, to, line }| format!("  src/{from}:{line} uses src/{to}"));
    format!(
        "src/{}:{}: these files depend on each other: move what they share to a file of its own\n{}",
        cycle[0].from,
        cycle[0].line,
        arrows.collect::<Vec<_>>().join("\n")
    )
}

/// The index of the row of [`LAYERS`] with this file.
fn layer_of(file: &str) -> Option<usize> {
    LAYERS.iter().position(|(places, _)| places.iter().any(|place| is_at(file, place)))
}

/// `cert` stands for `cert.rs` as well as `cert/`.
fn is_at(file: &str, place: &str) -> bool {
    file == "lib.rs" && place == file
        || module_of(file)
            .first()
            .is_some_and(|top| top == place.trim_end_matches('/').trim_end_matches(".rs"))
}

fn empty_places(tree: &Tree) -> Vec<String> {
    let places = LAYERS.iter().flat_map(|(places, _)| *places);
    places
        .filter(|place| !tree.files().any(|file| is_at(file, place)))
        .map(|place| {
            format!("src/{place}: does not exist: remove it from LAYERS in tests/integration/layers.rs")
        })
        .collect()
}

fn wide_comments(file: &str, text: &str) -> Vec<String> {
    let wide = |line: &str| comment_of(line).is_some() && line.chars().count() > WIDEST_COMMENT;
    numbered(text)
        .filter(|(_, line)| wide(line))
        .map(|(number, _)| {
            format!("src/{file}:{number}: a comment wider than {WIDEST_COMMENT} columns: wrap it")
        })
        .collect()
}

fn words(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    names(text.parse().unwrap(), &mut |name, line| {
        if let Some((_, instead)) = WORDS.iter().find(|(word, _)| *word == name) {
            found.push(format!("src/{file}:{line}: a name that says too little, `{name}`: rather {instead}"));
        }
    });
    for (number, line) in numbered(text) {
        let comment = comment_of(line).unwrap_or_default().to_lowercase();
        found.extend(PHRASES.iter().filter(|phrase| comment.contains(*phrase)).map(|phrase| {
            format!("src/{file}:{number}: \"{phrase}\" in a comment: name who or what, and how much")
        }));
    }
    found
}

fn names(tokens: TokenStream, found: &mut impl FnMut(&str, usize)) {
    for token in tokens {
        match token {
            TokenTree::Ident(name) => found(&name.to_string(), name.span().start().line),
            TokenTree::Group(group) => names(group.stream(), found),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

fn comment_of(line: &str) -> Option<&str> {
    let start = if line.trim_start().starts_with("//") { line.find("//") } else { line.find(" // ") };
    start.map(|start| &line[start..])
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

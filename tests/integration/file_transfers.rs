//! `node put` and `node get`, as a shell sees them.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use palyra_quic::{Bytes, MethodError, Peers, Rate, Router, TransportLimits, minicbor};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use serde_json::{Value, json};

use crate::{
    cli::{Outcome, Pki, Running, Scratch, file_names, run},
    files::{
        From, GET, OFFER, Offer, PUT, STAT,
        content::{Content, Hasher},
        copy::MAX_PIECE,
        disk::Disk,
        folder::Folder,
        methods::ServedFolder,
    },
};

const MIB: usize = 1024 * 1024;

/// Bytes that no other seed gives.
pub(crate) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// What a node has of a content that was not complete.
fn partial_len(folder: &Path) -> u64 {
    let names = file_names(folder);
    let [partial] = &names[..] else { panic!("{names:?}") };
    assert!(partial.starts_with('.') && partial.ends_with(".part"), "{partial}");
    fs::metadata(folder.join(partial)).unwrap().len()
}

/// The last line of a transfer, behind lines of its progress that grow, from where it began to the end.
#[track_caller]
fn transferred(outcome: &Outcome) -> (Option<u64>, Value) {
    let mut lines = outcome.succeeded();
    let end = lines.pop().unwrap();
    let mut moved = Vec::new();
    for line in &lines {
        assert_eq!((&line["kind"], &line["size"]), (&json!("progress"), &end["size"]));
        moved.push(line["bytes"].as_u64().unwrap());
    }
    assert!(moved.is_sorted() && moved.len() <= 11, "{moved:?}");
    assert!(moved.is_empty() || moved.last().copied() == end["size"].as_u64(), "{moved:?}");
    (moved.first().copied(), end)
}

struct Files {
    pki: Pki,
    /// The folder of the node, and that of the shell.
    there: Scratch,
    here: Scratch,
}

impl Files {
    fn new() -> Self {
        Self { pki: Pki::new(), there: Scratch::new(), here: Scratch::new() }
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.here.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A node in this process that takes more than half of 4 MiB as they come, and the rest so slowly, in six
    /// seconds, that an upload can be interrupted however busy the computer is.
    fn slow_router(&self) -> (TransportLimits, Router) {
        self.router_at(Rate::per_second(4).burst(40))
    }

    /// A node in this process that takes requests and pieces at this rate.
    fn router_at(&self, rate: Rate) -> (TransportLimits, Router) {
        let limits = TransportLimits::builder().request_rate(rate).build().unwrap();
        let folder = Folder::new(&self.there.0, Disk::Threads).unwrap();
        let served = ServedFolder::new(folder, Peers::identified(), limits.max_frame_bytes());
        (limits, served.methods(Router::new()))
    }
}

/// Waits until half of a file has been sent.
fn half_sent(command: &mut Running) {
    loop {
        let line = command.line();
        if line["bytes"].as_u64().unwrap() * 2 >= line["size"].as_u64().unwrap() {
            return;
        }
    }
}

#[test]
fn a_file_goes_there_and_back_once() {
    let files = Files::new();
    let server = files.pki.serve(&["--files", files.there.path()]);
    let content = bytes(3 * MIB + 7, 1);
    let path = files.write("image 1.bin", &content);
    let path = path.to_str().unwrap();

    let (first, end) = transferred(&server.ask("put", &[path]));
    let hash = end["blake3"].as_str().unwrap();
    assert_eq!(first, Some(0));
    assert_eq!(
        end,
        json!({"kind": "put", "name": "image 1.bin", "size": content.len(), "transferred": content.len(), "blake3": hash})
    );
    let mut hasher = Hasher::new();
    hasher.update(&content);
    assert_eq!(hash, hasher.finish().to_string());
    assert_eq!(file_names(&files.there.0), ["image 1.bin"]);
    assert!(fs::read(files.there.0.join("image 1.bin")).unwrap() == content);
    let (first, again) = transferred(&server.ask("put", &[path]));
    assert_eq!((first, &again["transferred"]), (None, &json!(0)));

    let copy = files.here.0.join("copy");
    let (first, end) = transferred(&server.ask("get", &["image 1.bin", "--to", copy.to_str().unwrap()]));
    assert_eq!((first, &end["name"], &end["blake3"]), (Some(0), &json!("copy"), &json!(hash)));
    assert!(fs::read(copy).unwrap() == content);

    // A shorter file of the same name.
    fs::write(path, "short").unwrap();
    transferred(&server.ask("put", &[path]));
    assert_eq!(fs::read(files.there.0.join("image 1.bin")).unwrap(), b"short");
    let other_name = server.ask("put", &[path, "--name", "other"]);
    assert_eq!(transferred(&other_name).1["name"], "other");
    assert_eq!(file_names(&files.there.0), ["image 1.bin", "other"]);
}

#[test]
fn an_empty_file_is_a_file() {
    let files = Files::new();
    let server = files.pki.serve(&["--files", files.there.path()]);
    let path = files.write("empty", b"");
    let (first, end) = transferred(&server.ask("put", &[path.to_str().unwrap()]));
    assert_eq!((first, &end["size"]), (Some(0), &json!(0)));
    // The first of BLAKE3's test vectors.
    let hash = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    assert_eq!(end["blake3"], hash);
    assert_eq!(file_names(&files.there.0), ["empty"]);
    let copy = files.here.0.join("copy");
    transferred(&server.ask("get", &["empty", "--to", copy.to_str().unwrap()]));
    assert_eq!(fs::read(copy).unwrap(), b"");
}

#[test]
fn an_upload_continues_where_its_node_was_stopped() {
    let files = Files::new();
    let content = bytes(4 * MIB, 2);
    let path = files.write("image", &content);
    let (limits, router) = files.slow_router();
    let slow = files.pki.serve_in_process_within(limits, router);
    let mut upload = slow.begin("put", &[path.to_str().unwrap()]);
    half_sent(&mut upload);
    smol::block_on(slow.endpoint.shutdown(Duration::ZERO));
    upload.ended().failed("");

    let there = partial_len(&files.there.0);
    assert!((1..4 * 1024 * 1024).contains(&there), "{there}");
    let server = files.pki.serve(&["--files", files.there.path()]);
    let (first, end) = transferred(&server.ask("put", &[path.to_str().unwrap()]));
    assert_eq!(first, Some(there));
    assert_eq!(end["transferred"], json!(4 * 1024 * 1024 - there));
    assert_eq!(file_names(&files.there.0), ["image"]);
    assert!(fs::read(files.there.0.join("image")).unwrap() == content);
}

#[test]
fn an_interrupted_upload_takes_leave_and_continues() {
    let files = Files::new();
    let content = bytes(4 * MIB, 3);
    let path = files.write("image", &content);
    let (limits, router) = files.slow_router();
    let slow = files.pki.serve_in_process_within(limits, router);
    let mut upload = slow.begin("put", &[path.to_str().unwrap()]);
    half_sent(&mut upload);
    upload.signal("INT");
    upload.ended().failed("interrupted");
    // Without a word of the client, the node would keep the connection, and with it the name, for 30 s.
    smol::block_on(async {
        while !slow.endpoint.connections().is_empty() {
            smol::future::yield_now().await;
        }
    });
    smol::block_on(slow.endpoint.shutdown(Duration::ZERO));
    let there = partial_len(&files.there.0);
    let server = files.pki.serve(&["--files", files.there.path()]);
    let (first, _) = transferred(&server.ask("put", &[path.to_str().unwrap()]));
    assert!(there > 0 && first == Some(there), "{there} {first:?}");
}

#[test]
fn an_upload_that_was_killed_continues_though_its_connection_is_not_gone() {
    let files = Files::new();
    let content = bytes(4 * MIB, 9);
    let path = files.write("image", &content);
    let (limits, router) = files.slow_router();
    let slow = files.pki.serve_in_process_within(limits, router);
    let mut upload = slow.begin("put", &[path.to_str().unwrap()]);
    half_sent(&mut upload);
    upload.signal("KILL");
    upload.child.wait().unwrap();
    // The idle timeout, 30 s, is longer.
    let outcome = slow.ask("put", &[path.to_str().unwrap(), "--timeout-ms", "20000"]);
    // The node's rate may make it wait.
    let (first, end) = transferred(&Outcome { stderr: String::new(), ..outcome });
    assert!(first.is_some_and(|first| first > 0), "{first:?}");
    assert_eq!(end["transferred"], json!(4 * 1024 * 1024 - first.unwrap()));
    assert!(fs::read(files.there.0.join("image")).unwrap() == content);
}

/// A node with a complete file that refuses the first questions about it, with this delay.
fn busy_router(refusals: usize, delay: Duration, content: &Content, sent: Vec<u8>) -> Router {
    let (left, told) = (Arc::new(AtomicUsize::new(refusals)), content.clone());
    let refuse =
        move || match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => Err(MethodError::resource_exhausted("too busy").retry_after(delay)),
            Err(_) => Ok(()),
        };
    let refuse_stat = refuse.clone();
    Router::new()
        .serve(OFFER, move |_, content: Content| {
            let offer = refuse().map(|()| Offer { offset: content.size, complete: true, max_piece: 1024 });
            async move { offer }
        })
        .serve(STAT, move |_, _| {
            let told = refuse_stat().map(|()| told.clone());
            async move { told }
        })
        .serve_bidi_raw(GET.name(), move |_, _, _, mut answers| {
            let sent = sent.clone();
            async move { Ok(answers.send_raw(sent).await?) }
        })
}

#[test]
fn transfers_wait_for_as_long_as_a_busy_node_asks() {
    let files = Files::new();
    let content = content_of("image", b"image");
    let path = files.write("image", b"image");
    let to = files.here.0.join("copy");
    let commands =
        [("put", vec![path.to_str().unwrap()]), ("get", vec!["image", "--to", to.to_str().unwrap()])];
    for (command, mut args) in commands {
        let delay = Duration::from_millis(120);
        let node = files.pki.serve_in_process(busy_router(2, delay, &content, b"image".to_vec()));
        let begun = Instant::now();
        let outcome = node.ask(command, &args);
        assert!(begun.elapsed() >= 2 * delay, "{command} did not wait");
        assert_eq!(outcome.stderr.matches("waiting: ").count(), 1, "{}", outcome.stderr);
        assert!(outcome.stderr.contains("too busy"), "{}", outcome.stderr);
        transferred(&Outcome { stderr: String::new(), ..outcome });

        // Not longer than without progress anyway, and the reason is that of the node.
        let node =
            files.pki.serve_in_process(busy_router(usize::MAX, 100 * delay, &content, b"image".to_vec()));
        args.extend(["--timeout-ms", "10000"]);
        node.ask(command, &args).failed("too busy");
    }
}

/// Each attempt is two requests, and a node that takes one after each delay never gets to the second.
#[test]
fn transfers_get_on_at_a_node_that_takes_few_requests() {
    let files = Files::new();
    let path = files.write("image", b"image");
    let to = files.here.0.join("copy");
    let (limits, router) = files.router_at(Rate::per_second(5).burst(2));
    let node = files.pki.serve_in_process_within(limits, router);
    for (command, args) in
        [("put", vec![path.to_str().unwrap()]), ("get", vec!["image", "--to", to.to_str().unwrap()])]
    {
        let outcome = node.ask(command, &[&args[..], &["--timeout-ms", "10000"]].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    assert_eq!(fs::read(to).unwrap(), b"image");
}

#[test]
fn a_transfer_ends_if_its_node_goes_back_and_forth() {
    let files = Files::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    // Another content each time, so that nothing is left of what the one before has moved.
    let router = Router::new()
        .serve(STAT, move |_, _| {
            let asked = counted.fetch_add(1, Ordering::Relaxed);
            // The end, so that this test fails, and does not last for ever, if the download is repeated.
            let content = if asked < MAX_ASKED { &b"abc"[asked % 2..] } else { b"" };
            async move { Ok(content_of("image", content)) }
        })
        .serve_bidi_raw(GET.name(), |_, params, _, mut answers| async move {
            let From { content, .. } = minicbor::decode(&params).unwrap();
            answers.send_raw(vec![b'a'; usize::try_from(content.size - 1).unwrap()]).await?;
            Err(MethodError::resource_exhausted("not now").retry_after(Duration::from_millis(100)))
        });
    let to = files.here.0.join("copy");
    let node = files.pki.serve_in_process(router);
    let outcome = node.ask("get", &["image", "--to", to.to_str().unwrap(), "--timeout-ms", "3000"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let reason = outcome.stderr.lines().last().unwrap();
    assert!(reason.starts_with("error: resource_exhausted: not now"), "{reason}");
    assert!(
        reason.ends_with("(given up: no further byte could be moved within --timeout-ms 3000)"),
        "{reason}"
    );
    assert!(asked.load(Ordering::Relaxed) > 1, "the node asked to be asked again");
}

/// With 100 ms between them, these take longer than the time limit.
const MAX_ASKED: usize = 60;

/// What a node that breaks off downloads, or falsifies them, makes of `node get`.
fn fetched(files: &Files, told: &Content, sent: &[u8]) -> Outcome {
    let (told, sent) = (told.clone(), sent.to_vec());
    let router = Router::new()
        .serve(STAT, move |_, _| {
            let told = told.clone();
            async move { Ok(told) }
        })
        .serve_bidi_raw(GET.name(), move |_, _, _, mut answers| {
            let sent = sent.clone();
            async move {
                for piece in sent.chunks(MAX_PIECE) {
                    answers.send_raw(piece.to_vec()).await?;
                }
                Err(MethodError::internal("the power fails"))
            }
        });
    let to = files.here.0.join("copy");
    files.pki.serve_in_process(router).ask("get", &["image", "--to", to.to_str().unwrap()])
}

pub(crate) fn content_of(name: &str, bytes: &[u8]) -> Content {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    Content { name: name.parse().unwrap(), size: bytes.len().try_into().unwrap(), hash: hasher.finish() }
}

#[test]
fn a_download_continues_where_its_node_broke_off() {
    let files = Files::new();
    let content = bytes(2 * MIB, 4);
    fetched(&files, &content_of("image", &content), &content[..700_000]).failed("the power fails");
    assert_eq!(partial_len(&files.here.0), 700_000);
    fs::write(files.there.0.join("image"), &content).unwrap();
    let server = files.pki.serve(&["--files", files.there.path()]);
    let to = files.here.0.join("copy");
    let (first, end) = transferred(&server.ask("get", &["image", "--to", to.to_str().unwrap()]));
    assert_eq!((first, &end["transferred"]), (Some(700_000), &json!(2 * MIB - 700_000)));
    assert!(fs::read(to).unwrap() == content);
    assert_eq!(file_names(&files.here.0), ["copy"]);
}

#[test]
fn a_node_that_claims_to_have_more_than_there_is_gets_nothing() {
    let files = Files::new();
    let path = files.write("image", b"image");
    let router = Router::new()
        .serve(OFFER, |_, content: Content| async move {
            Ok(Offer { offset: content.size + 1, complete: false, max_piece: 1024 })
        })
        .serve_items_raw(PUT.name(), |_, _, _| async { Ok(minicbor::to_vec(()).unwrap().into()) });
    let outcome = files.pki.serve_in_process(router).ask("put", &[path.to_str().unwrap()]);
    outcome.failed("beyond the 5 bytes");
}

#[test]
fn a_download_without_bytes_does_not_last() {
    let files = Files::new();
    let told = content_of("image", b"image");
    let router = Router::new()
        .serve(STAT, move |_, _| {
            let told = told.clone();
            async move { Ok(told) }
        })
        .serve_bidi_raw(GET.name(), |_, _, _, mut answers| async move {
            loop {
                answers.send_raw(Bytes::new()).await?;
            }
        });
    let to = files.here.0.join("copy");
    let node = files.pki.serve_in_process(router);
    node.ask("get", &["image", "--to", to.to_str().unwrap()]).failed("a piece has no bytes");
}

#[test]
fn a_falsified_download_gets_no_name() {
    let files = Files::new();
    let content = content_of("image", &bytes(300_000, 5));
    for (sent, reason, kept) in
        [(bytes(300_001, 5), "more bytes", false), (bytes(299_999, 5), "the power fails", true)]
    {
        fetched(&files, &content, &sent).failed(reason);
        assert_eq!(file_names(&files.here.0).len(), usize::from(kept), "{reason}");
    }
    // The partial file lacks one byte, and gets a wrong one.
    let (told, wrong) = (content, [bytes(300_000, 5)[299_999] ^ 1]);
    let router = Router::new()
        .serve(STAT, move |_, _| {
            let told = told.clone();
            async move { Ok(told) }
        })
        .serve_bidi_raw(GET.name(), move |_, _, _, mut answers| async move {
            answers.send_raw(wrong.to_vec()).await?;
            Ok(())
        });
    let to = files.here.0.join("copy");
    let node = files.pki.serve_in_process(router);
    node.ask("get", &["image", "--to", to.to_str().unwrap()]).failed("another hash");
    assert!(file_names(&files.here.0).is_empty());
}

#[test]
fn only_those_who_may_get_and_put() {
    let files = Files::new();
    let path = files.write("image", b"content");
    let path = path.to_str().unwrap();
    let server = files.pki.serve(&["--files", files.there.path(), "--writer", "other"]);
    server.ask("put", &[path]).failed("permission_denied");
    assert!(file_names(&files.there.0).is_empty());
    fs::write(files.there.0.join("image"), "content").unwrap();
    let to = files.here.0.join("copy");
    transferred(&server.ask("get", &["image", "--to", to.to_str().unwrap()]));
    let server = files.pki.serve(&["--files", files.there.path(), "--writer", "x", "--writer", "client"]);
    transferred(&server.ask("put", &[path]));

    // Nobody is asked for a certificate, and this client has none.
    let server = files.pki.serve(&["--files", files.there.path(), "--no-client-auth"]);
    fs::remove_file(files.pki.file("client.pem")).unwrap();
    server.ask("put", &[path]).failed("permission_denied");
    server.ask("get", &["image", "--to", to.to_str().unwrap()]).failed("permission_denied");
}

#[test]
fn nodes_without_a_folder_and_wrong_names_are_errors_of_one_line() {
    let files = Files::new();
    let path = files.write("image", b"content");
    let server = files.pki.serve(&[]);
    server.ask("put", &[path.to_str().unwrap()]).failed("this node serves no folder");
    // Both without a node, which would be dialled for ten seconds.
    let elsewhere = |file| run(["put", "127.0.0.1:1", file, "--pki", files.pki.dir()]);
    elsewhere("/no/such/file").failed("No such file");
    elsewhere(files.here.path()).failed("this is a directory");
    server.ask("put", &[path.to_str().unwrap(), "--codec", "json"]).failed("CBOR");
    let hidden = files.write(".hidden", b"");
    server.ask("put", &[hidden.to_str().unwrap()]).failed("without a dot");
    for name in ["../image", "a/b", ".", "..", ".part", "", "a\\b", "a\nb", "a:b"] {
        assert_eq!(server.ask("get", &[name]).code, Some(2), "{name:?}");
    }
    let mut serve = crate::cli::node();
    serve.args(["serve", "--listen", "127.0.0.1:0", "--pki", files.pki.dir(), "--files"]).arg(&path);
    Running::started(serve.spawn().unwrap()).ended().failed("not a directory");
}

/// A terminal: the end that shows it, and the end for a program.
fn terminal() -> (fs::File, fs::File) {
    let shown = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&shown).unwrap();
    unlockpt(&shown).unwrap();
    let name = ptsname(&shown, Vec::new()).unwrap();
    let program: OwnedFd = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (shown.into(), program.into())
}

#[test]
fn on_a_terminal_there_is_a_bar_and_one_line() {
    let files = Files::new();
    let server = files.pki.serve(&["--files", files.there.path()]);
    let path = files.write("image", &bytes(MIB, 6));
    let (mut shown, program) = terminal();
    let mut put = files.pki.command("put", &server.address, &[path.to_str().unwrap()]);
    let mut put = put.stderr(program).spawn().unwrap();
    let stdout = BufReader::new(put.stdout.take().unwrap());
    let lines: Vec<_> = stdout.lines().map(Result::unwrap).collect();
    assert!(put.wait().unwrap().success());
    let [end] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(serde_json::from_str::<Value>(end).unwrap()["kind"], "put");
    let mut screen = vec![0; 64 * 1024];
    // The kernel keeps what was written, though its writer is gone.
    let len = shown.read(&mut screen).unwrap();
    let screen = String::from_utf8_lossy(&screen[..len]).into_owned();
    assert!(screen.contains("image [") && screen.contains("1.00 MiB/1.00 MiB"), "{screen:?}");
}

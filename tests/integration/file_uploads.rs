//! Uploads by a client that says anything, to `node serve --files`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_lite::{StreamExt as _, stream};
use palyra_quic::{
    Bytes, ClientTls, Code, Connection, Endpoint, Error, ErrorKind, Identity, Peers, Raw, Router,
    TransportLimits, Trust, Upload, WireError, minicbor,
};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::{Pid, Resource, Rlimit, getrlimit, prlimit},
};
use smol::{Timer, block_on};

use crate::{
    cli::{Pki, Running, Scratch, Server, file_names},
    common::{self, in_time, run, serve},
    file_transfers::{bytes, content_of},
    files::{
        From, GET, OFFER, Offer, PUT, STAT,
        client::{self, Progress, TransferError},
        content::Content,
        copy::MAX_PIECE,
        disk::Disk,
        error::FileError,
        folder::Folder,
        methods::ServedFolder,
        transfers::{Pace, PeerLimits, TooSlow},
    },
    program::binary,
};

const MIB: usize = 1024 * 1024;
const MIB_U64: u64 = 1024 * 1024;

struct Fixture {
    pki: Pki,
    folder: Scratch,
}

impl Fixture {
    fn new() -> Self {
        Self { pki: Pki::new(), folder: Scratch::new() }
    }

    fn serve(&self) -> Server<'_> {
        self.pki.serve(&["--files", self.folder.path()])
    }

    fn connect(&self, address: &str) -> (Endpoint, Connection) {
        self.connect_as("client", address)
    }

    fn connect_as(&self, id: &str, address: &str) -> (Endpoint, Connection) {
        let (chain, key) = (self.pki.read(&format!("{id}.pem")), self.pki.read(&format!("{id}.key")));
        let identity = Identity::from_pem(&chain, &key).unwrap();
        let tls = ClientTls::new(Trust::from_pem(&self.pki.read("ca.pem")).unwrap()).identity(identity);
        let endpoint = Endpoint::builder().client(tls).bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address: std::net::SocketAddr = address.parse().unwrap();
        let connection = block_on(endpoint.connect(address)).unwrap();
        (endpoint, connection)
    }

    fn names(&self) -> Vec<String> {
        file_names(&self.folder.0)
    }
}

fn offer(connection: &Connection, content: &Content) -> Result<Offer, Error> {
    block_on(connection.call(OFFER, content))
}

/// An upload of these bytes from `offset` on, without its end.
fn begin(
    connection: &Connection,
    content: &Content,
    offset: u64,
    bytes: &[u8],
) -> Result<Upload<Raw, ()>, Error> {
    block_on(beginning(connection, content, offset, bytes))
}

async fn beginning(
    connection: &Connection,
    content: &Content,
    offset: u64,
    bytes: &[u8],
) -> Result<Upload<Raw, ()>, Error> {
    let from = From { content: content.clone(), offset };
    let mut upload = connection.request(PUT, &from)?.send_items::<Raw>().await?;
    for piece in bytes.chunks(MAX_PIECE) {
        upload.send_raw(piece.to_vec()).await?;
    }
    Ok(upload)
}

fn put(connection: &Connection, content: &Content, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    block_on(begin(connection, content, offset, bytes)?.finish())
}

#[track_caller]
fn refused<T>(outcome: Result<T, Error>, code: WireError, detail: &str) -> Error {
    let Err(error) = outcome else { panic!("not refused") };
    assert_eq!(error.kind(), &ErrorKind::Remote(code), "{error}");
    assert!(error.to_string().contains(detail), "not {detail:?}: {error}");
    error
}

#[test]
fn a_wrong_hash_is_refused_and_never_has_a_name() {
    let fixture = Fixture::new();
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let (right, wrong) = (bytes(MIB, 1), bytes(MIB, 2));
    let content = content_of("image", &right);
    fs::write(fixture.folder.0.join("image"), "before").unwrap();
    refused(put(&connection, &content, 0, &wrong), WireError::InvalidRequest, "another hash");
    assert_eq!(fixture.names(), ["image"], "the partial file is deleted");
    assert_eq!(fs::read(fixture.folder.0.join("image")).unwrap(), b"before");
    put(&connection, &content, 0, &right).unwrap();
    assert!(fs::read(fixture.folder.0.join("image")).unwrap() == right);
}

#[test]
fn too_little_is_kept_and_too_much_is_not() {
    let fixture = Fixture::new();
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let whole = bytes(300_000, 3);
    let content = content_of("image", &whole);
    let little = put(&connection, &content, 0, &whole[..200_000]);
    refused(little, WireError::InvalidRequest, "only 200000 of 300000 bytes");
    let offered = offer(&connection, &content).unwrap();
    assert_eq!((offered.offset, offered.complete), (200_000, false));
    for offset in [0, 199_999, 200_001, u64::MAX] {
        let elsewhere = put(&connection, &content, offset, &whole[..1]);
        refused(elsewhere, WireError::InvalidRequest, "continue at offset 200000");
    }
    let much = put(&connection, &content, 200_000, &bytes(4 * MIB, 4));
    refused(much, WireError::InvalidRequest, "more bytes");
    assert!(fixture.names().is_empty());
    put(&connection, &content, 0, &whole).unwrap();
    let offered = offer(&connection, &content).unwrap();
    assert_eq!((offered.offset, offered.complete), (300_000, true));
    put(&connection, &content, 300_000, &[]).unwrap();
    // A partial file is no file that can be read.
    let hidden = minicbor::to_vec(".image.1.part").unwrap();
    refused(block_on(connection.call_raw(STAT.name(), hidden)), WireError::InvalidRequest, "");
}

#[test]
fn an_upload_without_bytes_does_not_last() {
    let fixture = Fixture::new();
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let content = content_of("image", b"image");
    let mut upload = begin(&connection, &content, 0, b"").unwrap();
    run(async {
        let sent = upload.send_all_raw(stream::repeat(Bytes::new())).await;
        refused(sent, WireError::InvalidRequest, "a piece has no bytes");
    });
    put(&connection, &content, 0, b"image").unwrap();
}

#[test]
fn of_two_uploads_of_a_name_the_second_comes_later() {
    let fixture = Fixture::new();
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let first = bytes(4 * MIB, 5);
    let content = content_of("image", &first);
    // More than fits into the windows, so the handler has begun.
    let upload = begin(&connection, &content, 0, &first[..2 * MIB]).unwrap();
    for other in [content.clone(), content_of("image", b"other")] {
        for refusal in [offer(&connection, &other).map(drop), put(&connection, &other, 0, b"other")] {
            let error = refused(refusal, WireError::ResourceExhausted, "another upload");
            assert!(error.retry_after().is_some(), "{error}");
        }
    }
    put(&connection, &content_of("other", b"other"), 0, b"other").unwrap();
    // Nor do two nodes write the same file.
    let beside = fixture.serve();
    let (_beside, elsewhere) = fixture.connect(&beside.address);
    let offset = offer(&elsewhere, &content).unwrap().offset;
    let refusal = put(&elsewhere, &content, offset, &[]);
    refused(refusal, WireError::ResourceExhausted, "another upload");
    // Nor does one delete what the other writes.
    let refusal = put(&elsewhere, &content_of("image", b"other"), 0, b"other");
    refused(refusal, WireError::ResourceExhausted, "another upload");
    block_on(async {
        let mut upload = upload;
        upload.send_raw(first[2 * MIB..2 * MIB + 1].to_vec()).await.unwrap();
        for piece in first[2 * MIB + 1..].chunks(MAX_PIECE) {
            upload.send_raw(piece.to_vec()).await.unwrap();
        }
        upload.finish().await.unwrap();
    });
    assert_eq!(fixture.names(), ["image", "other"]);
    put(&connection, &content_of("image", b"other"), 0, b"other").unwrap();
}

#[test]
fn uploads_of_one_client_leave_places_to_others() {
    let fixture = Fixture::new();
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    fixture.pki.issue("other");
    let (_other, other) = fixture.connect_as("other", &server.address);
    let whole = bytes(4 * MIB, 14);
    // More than fits into the windows, so the handlers have begun.
    let stalled = async |connection: &Connection, name: &str| {
        beginning(connection, &content_of(name, &whole), 0, &whole[..2 * MIB]).await.unwrap()
    };
    block_on(in_time(async {
        let (first, _second) = (stalled(&connection, "1").await, stalled(&connection, "2").await);
        let small = content_of("3", b"small");
        let waiting = beginning(&connection, &small, 0, b"small").await.unwrap();
        // Nobody waits for the third, which waits for one of the others of its client.
        let _others = (stalled(&other, "4").await, stalled(&other, "5").await);
        drop(first);
        waiting.finish().await.unwrap();
    }));
    assert_eq!(fs::read(fixture.folder.0.join("3")).unwrap(), b"small");
}

/// A node in this process that serves a folder to peers which have to be this fast.
fn serve_folder(scratch: &Scratch, peer_limits: PeerLimits) -> common::Server {
    let folder = Folder::new(&scratch.0, Disk::Threads).unwrap();
    let max_frame_bytes = TransportLimits::default().max_frame_bytes();
    let served = ServedFolder::new(folder, Peers::identified(), max_frame_bytes);
    serve(ServedFolder { peer_limits, ..served }.methods(Router::new()))
}

/// No piece makes up for the wait before it.
const EVERY_WAIT_COUNTS: PeerLimits =
    PeerLimits { silence: Duration::from_secs(30), min_rate: u32::MAX, max_lag: Duration::from_secs(1) };

#[test]
fn a_transfer_whose_peer_is_silent_ends() {
    run(async {
        let scratch = Scratch::new();
        let whole = bytes(4 * MIB, 13);
        fs::write(scratch.0.join("there"), &whole).unwrap();
        // The first piece has to be there before it has passed.
        let limits = PeerLimits { silence: Duration::from_secs(2), ..PeerLimits::default() };
        let server = serve_folder(&scratch, limits);
        let connection = server.connect().await;

        let from = From { content: content_of("image", &whole), offset: 0 };
        let mut upload = connection.request(PUT, &from).unwrap().send_items::<Raw>().await.unwrap();
        upload.send_raw(whole[..MAX_PIECE].to_vec()).await.unwrap();
        let ended = upload.send_all_raw(stream::pending::<Bytes>()).await;
        refused(ended, WireError::DeadlineExceeded, "nothing has moved");

        // More than fits into the windows, and not read.
        let from = From { content: content_of("there", &whole), offset: 0 };
        let (_items, mut pieces) = connection.bidi(GET, &from).await.unwrap();
        while server.endpoint.stats().streams_reset.deadline_exceeded == 0 {
            Timer::after(Duration::from_millis(10)).await;
        }
        let error = loop {
            if let Err(error) = pieces.next_raw().await {
                break error;
            }
        };
        assert_eq!(error.kind(), &ErrorKind::StreamReset(Code::DEADLINE_EXCEEDED));
    });
}

#[test]
fn a_transfer_whose_peer_sends_little_now_and_then_ends() {
    run(async {
        let scratch = Scratch::new();
        let server = serve_folder(&scratch, EVERY_WAIT_COUNTS);
        let connection = server.connect().await;
        let from = From { content: Content { size: u64::MAX, ..content_of("image", b"image") }, offset: 0 };
        let mut upload = connection.request(PUT, &from).unwrap().send_items::<Raw>().await.unwrap();
        // The pauses make the node wait, however slow it is: only waiting counts.
        let pieces = stream::repeat(Bytes::from_static(b"x")).then(|piece| async {
            Timer::after(Duration::from_millis(20)).await;
            piece
        });
        let ended = upload.send_all_raw(std::pin::pin!(pieces)).await;
        let error = refused(
            ended,
            WireError::DeadlineExceeded,
            "less than 4294967295 bytes a second have moved for 1s",
        );
        assert!(error.items_taken() > Some(0), "{error:?}");
    });
}

#[test]
fn a_transfer_whose_peer_takes_little_now_and_then_ends() {
    run(async {
        let scratch = Scratch::new();
        let whole = bytes(4 * MIB, 14);
        fs::write(scratch.0.join("there"), &whole).unwrap();
        let server = serve_folder(&scratch, EVERY_WAIT_COUNTS);
        let connection = server.connect().await;
        let from = From { content: content_of("there", &whole), offset: 0 };
        let (_items, mut pieces) = connection.bidi(GET, &from).await.unwrap();
        let mut taken = 0;
        let error = loop {
            match pieces.next_raw().await {
                Ok(Some(_)) => taken += 1,
                Ok(None) => panic!("the transfer is complete"),
                Err(error) => break error,
            }
            Timer::after(Duration::from_millis(50)).await;
        };
        assert_eq!(error.kind(), &ErrorKind::StreamReset(Code::DEADLINE_EXCEEDED));
        assert!(taken > 0);
    });
}

/// How long a peer can make a transfer last with pieces of this many bytes at this interval, up to a day.
fn lasts(piece: usize, interval: Duration) -> Option<(Duration, TooSlow)> {
    let (mut pace, mut time) = (Pace::new(PeerLimits::default()), Duration::ZERO);
    while time < 24 * Duration::from_secs(3600) {
        let (longest, reason) = pace.longest_wait();
        if longest < interval {
            return Some((time + longest, reason));
        }
        time += interval;
        pace.waited(interval);
        pace.moved(piece);
    }
    None
}

#[test]
fn a_slow_link_is_fast_enough_and_a_trickle_is_not() {
    let second = Duration::from_secs(1);
    // 1 KiB/s, in small pieces and in pieces of the longest that such a link moves within the limit for silence.
    for (piece, interval) in
        [(1024, second), (4096, 4 * second), (30 * 1024, 30 * second), (MAX_PIECE, 30 * second)]
    {
        assert_eq!(lasts(piece, interval), None, "{piece}");
    }
    let (time, reason) = lasts(1, 30 * second).unwrap();
    // The bytes add a little.
    assert!(time >= 120 * second && time < 121 * second, "{time:?}");
    assert_eq!(reason, TooSlow::BelowMinRate);
    assert_eq!(lasts(1, second / 10).map(|(_, reason)| reason), Some(TooSlow::BelowMinRate));
    assert_eq!(lasts(MAX_PIECE, 31 * second), Some((30 * second, TooSlow::Silent)));
    // What was moved fast before gives no time for later.
    let mut pace = Pace::new(PeerLimits::default());
    pace.moved(1 << 30);
    pace.waited(119 * second);
    assert_eq!(pace.longest_wait(), (second, TooSlow::BelowMinRate));
}

#[test]
fn what_cannot_be_moved_is_refused_in_words() {
    let fixture = Fixture::new();
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let whole = bytes(200_000, 15);
    let content = content_of("image", &whole);
    for name in ["../image", "", ".image"] {
        let name = minicbor::to_vec(name).unwrap();
        let refusal = block_on(connection.call_raw(STAT.name(), name));
        refused(refusal, WireError::InvalidRequest, "the name is not 1 to 128 bytes of letters");
    }
    block_on(async {
        let from = From { content: content.clone(), offset: 0 };
        let mut upload = connection.request(PUT, &from).unwrap().send_items::<Raw>().await.unwrap();
        // One item may arrive as the answer does.
        let _ = upload.send_raw(whole[..100_000].to_vec()).await;
        refused(upload.finish().await, WireError::InvalidRequest, "a piece has more than 65536 bytes");
    });
    put(&connection, &content, 0, &whole).unwrap();
    block_on(async {
        let from = From { content: content.clone(), offset: 200_001 };
        let (_items, mut pieces) = connection.bidi(GET, &from).await.unwrap();
        let refusal = pieces.next_raw().await;
        refused(refusal, WireError::InvalidRequest, "beyond the 200000 bytes of the file");
    });
}

#[test]
fn an_upload_by_the_same_client_on_another_connection_takes_over() {
    let fixture = Fixture::new();
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let whole = bytes(4 * MIB, 12);
    let content = content_of("image", &whole);
    let older = begin(&connection, &content, 0, &whole[..2 * MIB]).unwrap();
    let (_again, connection) = fixture.connect(&server.address);
    let offered = offer(&connection, &content).unwrap();
    assert!(!offered.complete && offered.offset >= MIB_U64, "{offered:?}");
    let error = refused(block_on(older.finish()), WireError::InvalidRequest, "the same client");
    assert_eq!(error.retry_after(), None, "both would take over from each other for ever");
    let offset = usize::try_from(offered.offset).unwrap();
    put(&connection, &content, offered.offset, &whole[offset..]).unwrap();
    assert!(fs::read(fixture.folder.0.join("image")).unwrap() == whole);
}

#[test]
fn another_content_of_a_name_begins_anew_after_kill_9() {
    let fixture = Fixture::new();
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let (first, second) = (bytes(4 * MIB, 6), bytes(4 * MIB, 7));
    let contents = (content_of("image", &first), content_of("image", &second));
    let upload = begin(&connection, &contents.0, 0, &first[..2 * MIB]).unwrap();
    server.running.signal("KILL");
    drop((upload, server));

    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let there = offer(&connection, &contents.0).unwrap().offset;
    assert!(usize::try_from(there).is_ok_and(|there| there >= MIB), "{there}");
    assert_eq!(offer(&connection, &contents.1).unwrap().offset, 0);
    put(&connection, &contents.1, 0, &second).unwrap();
    assert_eq!(fixture.names(), ["image"], "what was left of the first is gone");
    assert!(fs::read(fixture.folder.0.join("image")).unwrap() == second);
    assert_eq!(offer(&connection, &contents.0).unwrap().offset, 0);
}

#[test]
fn what_a_power_failure_left_wrong_is_found_and_sent_again() {
    let fixture = Fixture::new();
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let whole = bytes(300_000, 8);
    let content = content_of("image", &whole);
    refused(put(&connection, &content, 0, &whole[..200_000]), WireError::InvalidRequest, "only");
    let [partial] = &fixture.names()[..] else { panic!() };
    fs::write(fixture.folder.0.join(partial), vec![0; 200_000]).unwrap();
    let rest = put(&connection, &content, 200_000, &whole[200_000..]);
    refused(rest, WireError::InvalidRequest, "another hash");
    assert_eq!(offer(&connection, &content).unwrap().offset, 0);
    // Longer than the content: somebody else's.
    fs::write(fixture.folder.0.join(partial), vec![0; 300_001]).unwrap();
    assert_eq!(offer(&connection, &content).unwrap().offset, 0);
    put(&connection, &content, 0, &whole).unwrap();
}

/// A content with any name, as CBOR.
fn named(name: &str) -> Vec<u8> {
    let mut encoder = minicbor::Encoder::new(Vec::new());
    encoder.map(3).unwrap().u8(0).unwrap().str(name).unwrap();
    encoder.u8(1).unwrap().u64(1).unwrap().u8(2).unwrap().bytes(&[7; 32]).unwrap();
    encoder.into_writer()
}

#[test]
fn no_name_leads_out_of_the_folder() {
    let fixture = Fixture::new();
    let outside = Scratch::new();
    fs::write(outside.0.join("secret"), "secret").unwrap();
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let call = |method: &str, params: Vec<u8>| block_on(connection.call_raw(method, Bytes::from(params)));
    let absolute = outside.0.join("secret").to_str().unwrap().to_owned();
    let long = "x".repeat(129);
    let names =
        ["", ".", "..", "../secret", "a/../b", "a/b", "a\\b", ".hidden", "a\0", "a\nb", "c:x", "a\u{202e}b"];
    for name in names.into_iter().chain([&*absolute, &long]) {
        let stat = minicbor::to_vec(name).unwrap();
        refused(call(STAT.name(), stat), WireError::InvalidRequest, "");
        refused(call(OFFER.name(), named(name)), WireError::InvalidRequest, "");
        let from = [&[0xa2, 0][..], &named(name), &[1, 0]].concat();
        for method in [PUT.name(), GET.name()] {
            let sent =
                block_on(async { connection.send_items_raw(method, from.clone()).await?.finish_raw().await });
            let refusal = refused(sent, WireError::InvalidRequest, "");
            assert!(refusal.to_string().contains("params"), "{name:?} {refusal}");
        }
    }
    // The same parameters with a good name are understood.
    assert!(call(OFFER.name(), named("good")).is_ok());
    assert!(fixture.names().is_empty());

    let place = |name: &str| fixture.folder.0.join(name);
    symlink(outside.0.join("secret"), place("link")).unwrap();
    symlink(&outside.0, place("out")).unwrap();
    fs::create_dir(place("directory")).unwrap();
    mknodat(CWD, place("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    for name in ["link", "out", "directory", "pipe", "missing"] {
        let name = name.parse().unwrap();
        refused(block_on(connection.call(STAT, &name)), WireError::InvalidRequest, "no such file");
    }
    put(&connection, &content_of("link", b"new"), 0, b"new").unwrap();
    assert_eq!(fs::read(outside.0.join("secret")).unwrap(), b"secret");
    assert!(fs::symlink_metadata(place("link")).unwrap().is_file());
    // Nor is a link in the place of a partial file followed.
    let content = content_of("trap", b"secre!");
    symlink(outside.0.join("secret"), place(&format!(".trap.6.{}.part", content.hash))).unwrap();
    assert!(put(&connection, &content, 0, b"secre!").is_err());
    assert_eq!(fs::read(outside.0.join("secret")).unwrap(), b"secret");
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_not_stored() {
    let fixture = Fixture::new();
    let here = Scratch::new();
    let path = here.0.join("image");
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let before = bytes(2 * MIB, 9);
    // What the disk has read ahead when this happens is less.
    let changed_at_first = |change: &dyn Fn(&Path)| {
        fs::write(&path, &before).unwrap();
        let changed = AtomicBool::new(false);
        let progress = |progress: Progress| {
            if matches!(progress, Progress::Moved { .. }) && !changed.swap(true, Ordering::Relaxed) {
                change(&path);
            }
        };
        let name = "image".parse().unwrap();
        block_on(client::put(&connection, Disk::Threads, &path, name, progress)).map(drop)
    };
    let other = changed_at_first(&|path| fs::write(path, bytes(2 * MIB, 10)).unwrap());
    let Err(TransferError::Peer(error)) = other else { panic!("{other:?}") };
    refused(Err::<(), _>(error), WireError::InvalidRequest, "another hash");
    let shorter = changed_at_first(&|path| {
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(MIB_U64).unwrap()
    });
    assert!(matches!(shorter, Err(TransferError::Here(FileError::Changed))), "{shorter:?}");
    assert!(!fixture.folder.0.join("image").exists());
}

#[test]
fn a_full_disk_is_an_answer_and_the_rest_follows_when_there_is_room() {
    let fixture = Fixture::new();
    // The kernel would end a process that does not ignore the signal.
    let serve = r#"trap '' XFSZ; exec "$0" serve --listen 127.0.0.1:0 --pki "$1" --files "$2""#;
    let child = Command::new("sh")
        .args(["-c", serve])
        .args([binary(), Path::new(fixture.pki.dir()), &fixture.folder.0])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut full = Running::started(child.unwrap());
    let address = full.line()["listening"].as_str().unwrap().to_owned();
    let id = Pid::from_raw(i32::try_from(full.child.id()).unwrap());
    let limit = Rlimit { current: Some(MIB_U64), ..getrlimit(Resource::Fsize) };
    prlimit(id, Resource::Fsize, limit).unwrap();
    let (_endpoint, connection) = fixture.connect(&address);
    let whole = bytes(4 * MIB, 11);
    let content = content_of("image", &whole);
    refused(put(&connection, &content, 0, &whole), WireError::ResourceExhausted, "the disk");
    assert_eq!(offer(&connection, &content).unwrap().offset, MIB_U64);
    put(&connection, &content_of("small", b"small"), 0, b"small").unwrap();
    prlimit(id, Resource::Fsize, getrlimit(Resource::Fsize)).unwrap();
    put(&connection, &content, MIB_U64, &whole[MIB..]).unwrap();
    assert!(fs::read(fixture.folder.0.join("image")).unwrap() == whole);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_answer() {
    let fixture = Fixture::new();
    let server = fixture.serve();
    let (_endpoint, connection) = fixture.connect(&server.address);
    let content = content_of("image", b"content");
    fs::remove_dir(&fixture.folder.0).unwrap();
    refused(put(&connection, &content, 0, b"content"), WireError::Internal, "the disk");
    fs::create_dir(&fixture.folder.0).unwrap();
    put(&connection, &content, 0, b"content").unwrap();

    // Nobody creates files there, root included.
    #[cfg(target_os = "linux")]
    {
        let server = fixture.pki.serve(&["--files", "/sys/kernel"]);
        let (_endpoint, connection) = fixture.connect(&server.address);
        assert_eq!(offer(&connection, &content).unwrap().offset, 0);
        refused(put(&connection, &content, 0, b"content"), WireError::Internal, "the disk");
    }
}

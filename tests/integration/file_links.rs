//! File transfers over a simulated link that loses packets, in virtual time.

use std::{cell::Cell, fs, time::Duration};

use palyra_quic::{Peers, Router, TransportLimits, sim::Link};

use crate::{
    cli::{Scratch, file_names},
    file_transfers::bytes,
    files::{
        client::{self, Progress, TransferError, Transferred},
        disk::Disk,
        folder::Folder,
        methods::ServedFolder,
    },
    simulation::{Pair, SECOND, patient},
};

const MILLI: Duration = Duration::from_millis(1);
const SIZE: usize = 3 * 1024 * 1024 + 1;

/// The disk is used by the thread of the simulation: virtual time does not wait for others.
fn router(folder: &Scratch, limits: &TransportLimits) -> Router {
    let folder = Folder::new(&folder.0, Disk::Caller).unwrap();
    ServedFolder::new(folder, Peers::identified(), limits.max_frame_bytes()).methods(Router::new())
}

/// A file goes there and back, each in two parts because the node crashes in between.
fn there_and_back(seed: u64, limits: &TransportLimits) {
    let pair = Pair::new(seed, Link::new().delay(10 * MILLI).rate(20_000_000).loss(0.02));
    let (there, here) = (Scratch::new(), Scratch::new());
    let content = bytes(SIZE, seed);
    let path = here.0.join("image");
    fs::write(&path, &content).unwrap();
    let fetched = Folder::new(&here.0, Disk::Caller).unwrap();
    pair.sim.run(async {
        for direction in ["put", "get"] {
            let node = pair.serve(router(&there, limits), limits.clone());
            let client = pair.client(limits.clone());
            let transfer = async |until: u64, begun: &Cell<u64>| -> Result<Transferred, TransferError> {
                let crash = Cell::new(false);
                let progress = |progress: Progress| {
                    if let Progress::Moved { bytes, .. } = progress {
                        begun.set(begun.get().min(bytes));
                        if bytes > until && !crash.replace(true) {
                            pair.gateway.crash();
                        }
                    }
                };
                let connection = client.connection().await?;
                match direction {
                    "put" => {
                        let name = "image".parse().unwrap();
                        client::put(&connection, Disk::Caller, &path, name, progress).await
                    }
                    _ => {
                        let (remote, local) = ("image".parse().unwrap(), "copy".parse().unwrap());
                        client::get(&connection, &fetched, &remote, local, progress).await
                    }
                }
            };
            let begun = Cell::new(u64::MAX);
            let half = u64::try_from(SIZE / 2).unwrap();
            transfer(half, &begun).await.expect_err("the node crashes");
            assert_eq!(begun.get(), 0);
            drop(node);
            let again = pair.serve(router(&there, limits), limits.clone());
            begun.set(u64::MAX);
            let end = transfer(u64::MAX, &begun).await.unwrap();
            assert!(end.offset > 0 && begun.get() == end.offset, "{direction} {} {end:?}", begun.get());
            // Which frees the port.
            pair.gateway.crash();
            drop(again);
        }
    });
    assert_eq!(file_names(&there.0), ["image"]);
    assert_eq!(file_names(&here.0), ["copy", "image"]);
    assert!(fs::read(there.0.join("image")).unwrap() == content);
    assert!(fs::read(here.0.join("copy")).unwrap() == content);
}

#[test]
fn transfers_continue_under_loss_of_2_percent() {
    let limits = patient().to_builder().idle_timeout(5 * SECOND).keep_alive_interval(SECOND).build().unwrap();
    for seed in 0..3 {
        there_and_back(seed, &limits);
    }
}

#[test]
fn transfers_continue_under_loss_of_2_percent_within_16_mib() {
    let limits = TransportLimits::within(16 * 1024 * 1024).unwrap().to_builder();
    there_and_back(7, &limits.idle_timeout(5 * SECOND).keep_alive_interval(SECOND).build().unwrap());
}

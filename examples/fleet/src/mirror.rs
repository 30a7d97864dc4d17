//! A gateway or a centre: follows logs of other processes, and serves them.

use std::{
    fs, future,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use palyra_quic::{Backoff, Client, Mirror, MirrorState, Router};

use crate::{
    Outcome,
    args::{MirrorArgs, Upstream},
    bounds::consumer,
    node,
    reading::Reading,
    report::{LogReport, Report},
};

/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

pub(crate) async fn run(args: &MirrorArgs) -> Outcome {
    let dialler = node::dialler(&args.node.dir.join("pki"), &args.node.name, node::SHORT_HANDSHAKE_TIMEOUT)?;
    let directory = args.node.dir.join(&args.node.name);
    fs::create_dir_all(&directory)?;
    let mut mirrors = Vec::new();
    for Upstream { log, bounds, origin } in &args.logs {
        let backoff = Backoff::new().first(LONGEST_PAUSE / 4).cap(LONGEST_PAUSE);
        let client = Client::builder(dialler.clone()).backoff(backoff).address(*origin).build()?;
        let mirror = Mirror::builder::<Reading>(&client, &**log)
            .bounds(bounds.builder(args.reader.as_deref()))
            .consumer(consumer(&args.node.name))
            .open(directory.join(log))?;
        mirrors.push((log, mirror));
    }
    let router =
        mirrors.iter().fold(Router::new(), |router, (log, mirror)| router.log(&***log, mirror.served()));
    let endpoint = node::serve(&args.node, router)?;
    let report = || mirrors.iter().map(|(log, mirror)| report(log, mirror)).collect();
    let orders = node::orders(Arc::new(AtomicBool::new(false)));
    node::work(&endpoint, orders, future::pending(), report).await?;
    for (_, mirror) in mirrors {
        mirror.close().await?;
    }
    dialler.shutdown(Duration::ZERO).await;
    Ok(())
}

fn report(log: &str, mirror: &Mirror) -> Report {
    let (status, held) = (mirror.status(), mirror.log());
    Report::Log(LogReport {
        log: log.into(),
        epoch: held.as_ref().map_or(0, |held| held.epoch()),
        first: held.as_ref().map_or(0, |held| held.first_seq()),
        last: held.as_ref().map_or(0, |held| held.committed_seq()),
        skipped: status.skipped,
        state: match status.state {
            MirrorState::Following => node::FOLLOWING.into(),
            MirrorState::Disconnected(None) => "connecting".into(),
            MirrorState::Disconnected(Some(reason)) => format!("disconnected: {reason}"),
            MirrorState::Failing(reason) => format!("failing: {reason}"),
            MirrorState::Diverged(reason) => format!("diverged: {reason}"),
            other => format!("{other:?}").to_lowercase(),
        },
    })
}

//! A sensor: publishes readings to a log in files, and serves it.

use std::{
    future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use palyra_quic::{EventItem, EventLog, LogState, Router};
use smol::{Timer, stream::StreamExt};

use crate::{
    Outcome,
    args::{NodeArgs, SensorArgs},
    node,
    reading::{Reading, log_of},
    report::{LogReport, Report},
};

pub(crate) async fn run(args: &SensorArgs) -> Outcome {
    let name = log_of(&args.node.name);
    // A commit begins as soon as the disk is free: the sensor waits for each one.
    let builder = args.bounds.builder(Some(&args.reader)).commit_interval(Duration::ZERO);
    let log = builder.open(args.node.dir.join(&args.node.name))?;
    let endpoint = node::serve(&args.node, Router::new().log(&*name, log.clone()))?;
    let report = || vec![report(&name, &log)];
    let stopped = Arc::new(AtomicBool::new(false));
    let publishing = publish(args, &log, endpoint.local_addr()?, &stopped);
    node::work(&endpoint, node::orders(Arc::clone(&stopped)), publishing, report).await?;
    log.close().await?;
    Ok(())
}

/// Publishes readings until it is stopped, and waits for each to be durable.
async fn publish(args: &SensorArgs, log: &EventLog, own: SocketAddr, stopped: &AtomicBool) -> Outcome {
    let mut counter = newest_counter(args, log, own).await? + 1;
    let mut ticks = Timer::interval(Duration::from_secs(1) / args.rate);
    while !stopped.load(Ordering::Acquire) {
        ticks.next().await;
        let reading = Reading::new(&args.node.name, counter, args.start);
        match log.publish_durable(&reading).await {
            Ok(seq) => {
                node::print(&Report::Acknowledged { seq, counter })?;
                counter += 1;
            }
            Err(error) => match error.retry_after() {
                // A full disk, for instance. The same reading comes again, under the same number.
                Some(pause) => drop(Timer::after(pause).await),
                None => return Err(error.into()),
            },
        }
    }
    node::print(&Report::Stopped)?;
    // Until the process is ended, it serves what it has.
    future::pending().await
}

/// The counter of the newest event that the log had when it was opened. A log is read through a connection,
/// by its owner too.
async fn newest_counter(args: &SensorArgs, log: &EventLog, address: SocketAddr) -> Outcome<u64> {
    let Some(before) = log.last_seq().checked_sub(1) else { return Ok(0) };
    let NodeArgs { name, dir, .. } = &args.node;
    let dialler = node::dialler(&dir.join("pki"), name, node::LONG_HANDSHAKE_TIMEOUT)?;
    let connection = dialler.connect(address).await?;
    let events = connection.events::<Reading>(&*log_of(name)).resume_from(before).epoch(log.epoch());
    match events.open().await?.next().await? {
        Some(EventItem::Event { payload, .. }) => Ok(payload.counter),
        other => Err(format!("the newest event of the log cannot be read: {other:?}").into()),
    }
}

fn report(name: &str, log: &EventLog) -> Report {
    let state = match log.health().state {
        LogState::Writable => "publishing".into(),
        LogState::Failing(reason) => format!("failing: {reason}"),
        other => format!("{other:?}").to_lowercase(),
    };
    Report::Log(LogReport {
        log: name.into(),
        epoch: log.epoch(),
        first: log.first_seq(),
        last: log.committed_seq(),
        skipped: 0,
        state,
    })
}

//! A sensor, a gateway that mirrors it and a centre that mirrors the gateway, in virtual time: on links that
//! lose datagrams, and on disks that lose power.
//!
//! `FLEET_TRIALS=10000 cargo test --release --lib mirror::tests::trial::everything -- --nocapture` runs that
//! number of trials, and `FLEET_SEED=7` in its place the trial with that seed alone.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod absent;
mod application;
mod certificates;
mod damage;
mod fail_over;
mod fleet;
mod ledger;
mod settings;
mod status;
mod trial;

use std::time::Duration;

use futures_lite::future;

use self::ledger::{Finding, Rule};
use crate::sim::Sim;

/// The result, if there is one within this much virtual time.
async fn within<T>(
    sim: &Sim,
    limit: Duration,
    what: &str,
    work: impl Future<Output = T>,
) -> Result<T, Finding> {
    let late = async {
        sim.sleep(limit).await;
        Err(Finding { rule: Rule::CatchesUp, text: format!("{what} took more than {limit:?}") })
    };
    future::or(async { Ok(work.await) }, late).await
}

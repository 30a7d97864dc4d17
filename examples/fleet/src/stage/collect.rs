//! Reads what the processes hold.

use std::{net::SocketAddr, path::Path};

use palyra_quic::{EventItem, Raw};

use super::check::{Item, Record};
use crate::{Outcome, args::Plant, node};

/// The name in the certificate of the reader.
pub(crate) const READER: &str = "reader";

/// Reads all events of a log that the process at this address holds.
pub(crate) async fn collect(certificates: &Path, address: SocketAddr, log: &str) -> Outcome<Record> {
    let dialler = node::dialler(certificates, READER, node::LONG_HANDSHAKE_TIMEOUT)?;
    let connection = dialler.connect(address).await?;
    // From the beginning, so that what is no longer held is a gap.
    let mut events = connection.events::<Raw>(log).resume_from(0).open().await?;
    let mut record = Record::default();
    while let Some(item) = events.next_raw().await? {
        let (epoch, item) = match item {
            EventItem::Event { seq, epoch, payload } => (epoch, Item::Event { seq, payload }),
            EventItem::Gap(gap) => (Some(gap.epoch), Item::Gap { from: gap.from, next: gap.next_seq }),
        };
        record.epoch = epoch.ok_or("the process has no epochs")?;
        record.items.push(item);
    }
    Ok(record)
}

/// Falsifies an event in the middle.
pub(crate) fn falsify(record: &mut Record, plant: Plant) {
    let items = &mut record.items;
    let middle = items.len() / 2;
    match plant {
        Plant::Lose => drop(items.remove(middle)),
        Plant::Duplicate => items.insert(middle, items[middle].clone()),
        Plant::Swap => items.swap(middle, middle + 1),
        Plant::Alter => {
            if let Item::Event { payload, .. } = &mut items[middle] {
                let mut altered = payload.to_vec();
                if let Some(last) = altered.last_mut() {
                    *last ^= 1;
                }
                *payload = altered.into();
            }
        }
        // This one is made while the fleet runs.
        Plant::Acknowledge => {}
    }
}

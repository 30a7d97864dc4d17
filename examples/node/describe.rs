//! `node describe`: a table of the methods of a node, and its limits.

use std::{fmt::Write, time::Duration};

use palyra_quic::{DescribedMethod, Description};

use crate::{
    args::Describe,
    client::{in_time, with_connection},
    failure::{Failure, one_line},
    lines,
};

pub(crate) fn describe(Describe { peer, timeout_ms }: &Describe) -> Result<(), Failure> {
    with_connection(peer, async |connection| {
        let request = connection.request::<(), Description>("node.describe", &())?;
        let request = request.codec(peer.codec.into());
        let description = in_time(Duration::from_millis(*timeout_ms), request.send()).await?;
        let methods = methods(&description.methods);
        let omitted = omitted(&description);
        lines::write(&format!("{methods}{omitted}\n{}", limits(&description)))
    })
}

/// One row for each name.
fn methods(methods: &[DescribedMethod]) -> String {
    let by_name = methods.chunk_by(|one, next| one.name == next.name).filter_map(|same_name| {
        let kinds: Vec<_> = same_name.iter().map(|method| method.kind.as_str()).collect();
        Some((one_line(&same_name.first()?.name), kinds.join(", ")))
    });
    table(("METHOD", "KIND"), by_name.collect())
}

fn omitted(Description { omitted, .. }: &Description) -> String {
    if *omitted == 0 { String::new() } else { format!("({omitted} more did not fit into a frame)\n") }
}

fn limits(description: &Description) -> String {
    let limits = [
        ("max_frame_bytes", description.max_frame_bytes),
        ("streams", description.streams),
        ("notification_streams", description.notification_streams),
    ];
    table(("LIMIT", "VALUE"), limits.map(|(name, value)| (name.to_owned(), value.to_string())).into())
}

fn table((left, right): (&str, &str), rows: Vec<(String, String)>) -> String {
    let width =
        rows.iter().map(|(name, _)| name.chars().count()).chain([left.len()]).max().unwrap_or_default();
    let mut table = format!("{left:width$}  {right}\n");
    for (name, value) in rows {
        // Writing to a string does not fail.
        let _ = writeln!(table, "{name:width$}  {value}");
    }
    table
}

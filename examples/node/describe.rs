//! `node describe`: a table of the methods of a node, and its limits.

use std::{fmt::Write, time::Duration};

use palyra_quic::{DescribedMethod, Description, minicbor};

use crate::{
    args::Describe,
    client::{in_time, with_connection},
    failure::{Failure, one_line},
    lines,
};

/// Of a peer that is a node of the tokio implementation.
const NOT_DESCRIBED: &str = "it does not describe its methods";

pub(crate) fn describe(Describe { peer, timeout_ms }: &Describe) -> Result<(), Failure> {
    let longest = Duration::from_millis(*timeout_ms);
    with_connection(peer, longest, NOT_DESCRIBED, async |connection| {
        // Without parameters, so that a node of the tokio implementation can read it in JSON.
        let request = connection.request_raw("node.describe", "").codec(peer.codec.into());
        let answer = in_time(longest, request.send_raw()).await?;
        let description = minicbor::decode::<Description>(&answer)
            .map_err(|error| Failure::new(error).during("the description cannot be read"))?;
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

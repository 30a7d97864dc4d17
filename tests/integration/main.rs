//! How nodes behave, over loopback sockets and the simulated network. One program, since each would be
//! linked by itself; tests that change or measure their own process are programs of their own beside this
//! folder.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[cfg(all(unix, feature = "streams"))]
#[path = "../../examples/node/bar.rs"]
mod bar;
#[path = "../common/mod.rs"]
mod common;
#[cfg(target_os = "linux")]
#[path = "../common/faulty.rs"]
mod faulty;
#[cfg(all(unix, feature = "streams"))]
#[path = "../../examples/node/files/mod.rs"]
#[allow(dead_code, reason = "not every part is tested by itself")]
mod files;
#[cfg(unix)]
#[path = "../common/program.rs"]
mod program;
#[path = "../common/simulation.rs"]
mod simulation;
#[cfg(any(unix, feature = "json"))]
#[path = "../common/tokio_node.rs"]
mod tokio_node;

mod ack_vectors;
#[cfg(unix)]
mod acks;
mod addresses;
mod admission;
mod authorization;
mod backoff;
mod blocked_writes;
mod call_interceptors;
#[cfg(feature = "rsa")]
mod certificates;
mod chain_sizes;
#[cfg(unix)]
mod cli;
mod client;
mod client_calls;
mod client_dials;
#[cfg(feature = "streams")]
mod client_pipelines;
mod clock;
mod closing;
mod concurrency;
mod config;
#[cfg(unix)]
mod crash;
mod datagrams;
mod deadlines;
mod describe;
#[cfg(unix)]
mod documents;
mod drain;
mod drain_seeds;
#[cfg(unix)]
mod dropped_runtime;
mod durable;
mod error_names;
mod events;
mod exchange;
#[cfg(target_os = "linux")]
mod file_limit;
#[cfg(all(unix, feature = "streams"))]
mod file_links;
#[cfg(all(unix, feature = "streams"))]
mod file_transfers;
#[cfg(all(unix, feature = "streams"))]
mod file_uploads;
mod frames;
mod identity;
mod interceptors;
#[cfg(feature = "streams")]
mod items_links;
#[cfg(feature = "streams")]
mod items_sent;
#[cfg(feature = "streams")]
mod items_served;
mod journal;
mod key_log;
mod layers;
mod links;
mod logs;
mod many_paths;
mod may_have_run;
mod method_limits;
#[cfg(unix)]
mod mirror_holes;
#[cfg(unix)]
mod mirrors;
mod nesting;
mod notifications;
mod other_nodes;
mod paths;
mod peers;
mod permissions;
#[cfg(all(unix, feature = "streams"))]
mod pictures;
#[cfg(feature = "streams")]
mod pipelines;
#[cfg(target_os = "linux")]
mod receive_buffer;
mod requests;
mod responses;
#[cfg(unix)]
mod restored;
mod resumption;
mod revocation;
mod rotation;
mod runtime;
#[cfg(unix)]
mod runtime_poll;
mod serde_values;
mod shutdown;
#[cfg(target_os = "linux")]
mod socket_errors;
mod stats;
mod subscribers;
mod trace;
mod typed;
mod unreadable_store;
mod unverifiable_certificates;
mod vectors;

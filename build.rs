//! Writes down when this is built: no clock that is right shows an earlier time.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // Builds that are to be repeatable say what time it is
    // (https://reproducible-builds.org/specs/source-date-epoch/).
    let given = env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.trim().parse::<u64>().ok());
    let built = given.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since_1970| since_1970.as_secs())
    });
    println!("cargo::rustc-env=PALYRA_QUIC_BUILT={built}");
}

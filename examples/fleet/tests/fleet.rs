//! Short runs of a fleet: one that passes, and some with a fault made on purpose, which the check must find.

use std::process::Command;

/// What the program printed, and its exit code.
fn fleet(arguments: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_fleet")).args(arguments).output();
    let output = output.expect("the program starts");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (text, output.status.code())
}

/// A run without any harm but this fault.
fn planted(plant: &str, found: &str) {
    let (text, code) =
        fleet(&["--kills=0", "--cuts=0", "--full-disks=0", "--sensors=1", "--rate=1000", "--plant", plant]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(found) && text.contains("logs that failed: 1 of 1"), "{text}");
}

#[test]
fn every_event_is_accounted_for_after_kills_cuts_and_full_disks() {
    let (text, code) = fleet(&["--kills=16", "--cuts=4", "--full-disks=3", "--sensors=2", "--seed=1"]);
    assert_eq!(code, Some(0), "{text}");
    for expected in [
        "16 kills (sensor-1 4, sensor-2 4, gateway 4, centre 4)",
        "4 cuts and 3 full disks",
        "all logs passed: 2",
        "each once and in order\n",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn an_event_that_the_reader_loses_is_found() {
    planted("lose", "are missing without a gap");
}

#[test]
fn an_event_that_comes_twice_is_found() {
    planted("duplicate", "came twice");
}

#[test]
fn events_in_the_wrong_order_are_found() {
    planted("swap", "came behind event");
}

#[test]
fn an_altered_event_is_found() {
    planted("alter", "is not as the sensor publishes it");
}

/// The sensor itself is misled, and drops events that the gateway does not have.
#[test]
fn events_that_are_dropped_before_they_were_received_are_found() {
    planted("acknowledge", "were dropped before they were acknowledged");
}

#[test]
fn a_directory_that_exists_is_left_alone() {
    let (text, code) = fleet(&["--keep", env!("CARGO_MANIFEST_DIR")]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cannot make"), "{text}");
}

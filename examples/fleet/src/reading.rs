//! What the sensors publish.

use palyra_quic::minicbor::{self, Decode, Encode};

/// An event. All of it can be derived from the first three fields, so that the check recognises any change.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Reading {
    #[n(0)]
    pub(crate) sensor: String,
    /// From 1 by 1. A sensor that starts again continues behind the newest event of its log.
    #[n(1)]
    pub(crate) counter: u64,
    /// How often the sensor had been started when it published this. It tells events from each other that
    /// were published under the same number, before a kill and after it.
    #[n(2)]
    pub(crate) start: u32,
    #[n(3)]
    pub(crate) value: u64,
}

impl Reading {
    pub(crate) fn new(sensor: &str, counter: u64, start: u32) -> Self {
        let seed = sensor.bytes().fold(u64::from(start), |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        let value = fastrand::Rng::with_seed(seed ^ counter.rotate_left(32)).u64(..);
        Self { sensor: sensor.into(), counter, start, value }
    }

    /// Whether it is as its sensor made it.
    pub(crate) fn is_genuine(&self) -> bool {
        *self == Self::new(&self.sensor, self.counter, self.start)
    }
}

/// The method that serves the log of a sensor, at every step.
pub(crate) fn log_of(sensor: &str) -> String {
    format!("plant.{sensor}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_field_shows() {
        let reading = Reading::new("sensor-1", 7, 2);
        assert!(reading.is_genuine());
        let changed = [
            Reading { sensor: "sensor-2".into(), ..reading.clone() },
            Reading { counter: 8, ..reading.clone() },
            Reading { start: 3, ..reading.clone() },
            Reading { value: reading.value ^ 1, ..reading },
        ];
        for reading in changed {
            assert!(!reading.is_genuine(), "{reading:?}");
        }
    }
}

//! Accounts for every event of a sensor: what the sensor and the gateway hold at the end, and what the sensor
//! has reported as durable, beside what a reader of the centre gets.

use std::{collections::BTreeMap, fmt};

use palyra_quic::{Bytes, minicbor};

use crate::{bounds::Bounds, reading::Reading};

/// What a reader gets who asks a process for all events of a log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// 0 for a process that has not heard of the log.
    pub(crate) epoch: u64,
    pub(crate) items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Event {
        seq: u64,
        payload: Bytes,
    },
    /// The events from `from` on and before `next` are missing.
    Gap {
        from: u64,
        next: u64,
    },
}

/// An event that `publish_durable` has returned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AcknowledgedEvent {
    pub(crate) seq: u64,
    pub(crate) counter: u64,
    pub(crate) start: u32,
}

/// All that is known of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) sensor_name: &'a str,
    pub(crate) bounds: Bounds,
    /// In the order in which they were reported. A kill may lose the latest reports.
    pub(crate) acknowledged: &'a [AcknowledgedEvent],
    pub(crate) sensor: &'a Record,
    pub(crate) gateway: &'a Record,
    pub(crate) centre: &'a Record,
}

/// What became of the events of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// How many numbers the sensor has given.
    pub(crate) published: u64,
    /// How many events the centre has.
    pub(crate) arrived: u64,
    /// How many numbers lie in gaps.
    pub(crate) missing: u64,
    pub(crate) gaps: u64,
    /// What is wrong, in the order of the events.
    pub(crate) faults: Vec<Fault>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process does not have the history of the sensor.
    OtherEpoch {
        holder: &'static str,
    },
    /// The events from `from` on and before `next` are missing, and no gap says so.
    Lost {
        from: u64,
        next: u64,
    },
    Twice {
        seq: u64,
    },
    OutOfOrder {
        seq: u64,
        after: u64,
    },
    /// It is not what the sensor published, or not what it published under this number.
    Altered {
        seq: u64,
    },
    /// The process holds another event under this number.
    Differs {
        seq: u64,
        holder: &'static str,
    },
    /// An event of an earlier start of the sensor comes behind one of a later start.
    EarlierStart {
        seq: u64,
    },
    /// Events are missing though the process holds them.
    HeldInGap {
        from: u64,
        next: u64,
        holder: &'static str,
    },
    /// Events are missing from a log that must keep them.
    GapInKeptLog {
        from: u64,
        next: u64,
    },
    /// The centre has events that the sensor does not know of.
    Ahead {
        seq: u64,
        newest: u64,
    },
    /// `publish_durable` has returned for another event than the centre has.
    NotAsAcknowledged {
        seq: u64,
    },
    /// `publish_durable` has returned for an event that is not in the log of the sensor any more, though it
    /// would be the newest.
    AcknowledgedAndLost {
        seq: u64,
    },
}

/// What the centre has of a log, read from the start.
struct Comparison<'a> {
    evidence: Evidence<'a>,
    sensor: BTreeMap<u64, &'a Bytes>,
    gateway: BTreeMap<u64, &'a Bytes>,
    seen: BTreeMap<u64, Option<Reading>>,
    /// The newest number that was seen.
    last: u64,
    start: u32,
    verdict: Verdict,
}

/// Compares all that is known of a log.
pub(crate) fn check(evidence: Evidence<'_>) -> Verdict {
    let (sensor, gateway) = (events_of(evidence.sensor), events_of(evidence.gateway));
    let verdict = Verdict { published: newest_of(evidence.sensor), ..Verdict::default() };
    let (seen, last, start) = (BTreeMap::new(), 0, 0);
    let mut comparison = Comparison { evidence, sensor, gateway, seen, last, start, verdict };
    comparison.epochs();
    for item in &evidence.centre.items {
        match item {
            Item::Event { seq, payload } => comparison.event(*seq, payload),
            Item::Gap { from, next } => comparison.gap(*from, *next),
        }
    }
    comparison.end();
    comparison.acknowledged();
    comparison.verdict
}

impl Comparison<'_> {
    fn fault(&mut self, fault: Fault) {
        self.verdict.faults.push(fault);
    }

    fn epochs(&mut self) {
        let Evidence { sensor, gateway, centre, .. } = self.evidence;
        for (record, holder) in [(gateway, "gateway"), (centre, "centre")] {
            if record.epoch != sensor.epoch {
                self.fault(Fault::OtherEpoch { holder });
            }
        }
    }

    fn event(&mut self, seq: u64, payload: &Bytes) {
        let reading = minicbor::decode::<Reading>(payload).ok();
        if self.seen.insert(seq, reading.clone()).is_some() {
            return self.fault(Fault::Twice { seq });
        }
        self.verdict.arrived += 1;
        if seq <= self.last {
            self.fault(Fault::OutOfOrder { seq, after: self.last });
        } else {
            self.expect(seq);
            self.last = seq;
        }
        let name = self.evidence.sensor_name;
        match reading
            .filter(|reading| reading.is_genuine() && reading.sensor == name && reading.counter == seq)
        {
            None => self.fault(Fault::Altered { seq }),
            Some(reading) if reading.start < self.start => self.fault(Fault::EarlierStart { seq }),
            Some(reading) => self.start = reading.start,
        }
        for (held, holder) in [(self.sensor.get(&seq), "sensor"), (self.gateway.get(&seq), "gateway")] {
            if held.is_some_and(|held| *held != payload) {
                self.verdict.faults.push(Fault::Differs { seq, holder });
            }
        }
    }

    /// What lies before event `next` is missing, if anything does.
    fn expect(&mut self, next: u64) {
        let from = self.last + 1;
        if from < next {
            self.fault(Fault::Lost { from, next });
        }
    }

    fn gap(&mut self, from: u64, next: u64) {
        self.verdict.gaps += 1;
        if from <= self.last {
            self.fault(Fault::OutOfOrder { seq: from, after: self.last });
        }
        self.expect(from);
        self.last = next.saturating_sub(1).max(self.last);
        self.verdict.missing += next.saturating_sub(from);
        if self.evidence.bounds != Bounds::Newest {
            self.fault(Fault::GapInKeptLog { from, next });
        }
        for (held, holder) in [(&self.sensor, "sensor"), (&self.gateway, "gateway")] {
            if from < next && held.range(from..next).next().is_some() {
                self.verdict.faults.push(Fault::HeldInGap { from, next, holder });
            }
        }
    }

    fn end(&mut self) {
        let newest = self.verdict.published;
        if self.last > newest {
            self.fault(Fault::Ahead { seq: self.last, newest });
        } else {
            self.expect(newest + 1);
        }
    }

    /// Every event that was reported as durable is there, or lies in a gap.
    fn acknowledged(&mut self) {
        for &AcknowledgedEvent { seq, counter, start } in self.evidence.acknowledged {
            if seq > self.verdict.published {
                self.fault(Fault::AcknowledgedAndLost { seq });
            }
            let as_acknowledged = |reading: &Reading| reading.counter == counter && reading.start == start;
            let seen = self.seen.get(&seq);
            if seen.is_some_and(|reading| !reading.as_ref().is_some_and(as_acknowledged)) {
                self.fault(Fault::NotAsAcknowledged { seq });
            }
        }
    }
}

fn events_of(record: &Record) -> BTreeMap<u64, &Bytes> {
    let event = |item| match item {
        &Item::Event { seq, ref payload } => Some((seq, payload)),
        Item::Gap { .. } => None,
    };
    record.items.iter().filter_map(event).collect()
}

/// The newest number that the record accounts for.
fn newest_of(record: &Record) -> u64 {
    let number = |item: &Item| match *item {
        Item::Event { seq, .. } => seq,
        Item::Gap { next, .. } => next.saturating_sub(1),
    };
    record.items.iter().map(number).max().unwrap_or(0)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherEpoch { holder } => write!(f, "the {holder} does not have the sensor's epoch"),
            Self::Lost { from, next } => write!(f, "events {from} to {} are missing without a gap", next - 1),
            Self::Twice { seq } => write!(f, "event {seq} came twice"),
            Self::OutOfOrder { seq, after } => write!(f, "event {seq} came behind event {after}"),
            Self::Altered { seq } => write!(f, "event {seq} is not as the sensor publishes it"),
            Self::Differs { seq, holder } => write!(f, "the {holder} holds another event {seq}"),
            Self::EarlierStart { seq } => {
                write!(f, "event {seq} is of an earlier start than the one before it")
            }
            Self::HeldInGap { from, next, holder } => {
                write!(f, "events {from} to {} are missing, and the {holder} holds some of them", next - 1)
            }
            Self::GapInKeptLog { from, next } => {
                write!(f, "events {from} to {} were dropped before they were acknowledged", next - 1)
            }
            Self::Ahead { seq, newest } => {
                write!(f, "the centre has event {seq}, and the newest of the sensor is {newest}")
            }
            Self::NotAsAcknowledged { seq } => write!(f, "event {seq} is another one than was acknowledged"),
            Self::AcknowledgedAndLost { seq } => {
                write!(f, "event {seq} was acknowledged, and the sensor lost it")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENSOR: &str = "sensor-1";

    fn event(seq: u64) -> Item {
        changed(seq, Reading::new(SENSOR, seq, 1))
    }

    fn changed(seq: u64, reading: Reading) -> Item {
        Item::Event { seq, payload: minicbor::to_vec(reading).unwrap().into() }
    }

    fn gap(from: u64, next: u64) -> Item {
        Item::Gap { from, next }
    }

    fn events(numbers: impl IntoIterator<Item = u64>) -> Vec<Item> {
        numbers.into_iter().map(event).collect()
    }

    fn of(
        bounds: Bounds,
        sensor: Vec<Item>,
        centre: Vec<Item>,
        acknowledged: &[AcknowledgedEvent],
    ) -> Verdict {
        let record = |items| Record { epoch: 5, items };
        let (sensor, gateway, centre) = (record(sensor), record(Vec::new()), record(centre));
        let (sensor, gateway, centre) = (&sensor, &gateway, &centre);
        check(Evidence { sensor_name: SENSOR, bounds, acknowledged, sensor, gateway, centre })
    }

    fn faults(sensor: Vec<Item>, centre: Vec<Item>) -> Vec<Fault> {
        of(Bounds::Newest, sensor, centre, &[]).faults
    }

    fn acknowledged(seq: u64) -> AcknowledgedEvent {
        AcknowledgedEvent { seq, counter: seq, start: 1 }
    }

    #[test]
    fn each_event_once_and_in_order_is_right() {
        let all: Vec<_> = (1..=5).map(acknowledged).collect();
        // The sensor holds the newest two.
        let sensor = [vec![gap(1, 4)], events(4..=5)].concat();
        let verdict = of(Bounds::Unacknowledged, sensor, events(1..=5), &all);
        assert_eq!(verdict, Verdict { published: 5, arrived: 5, ..Verdict::default() });
        // Nothing was published.
        assert_eq!(of(Bounds::Unacknowledged, vec![], vec![], &[]), Verdict::default());
    }

    #[test]
    fn a_gap_is_right_where_the_sensor_holds_nothing_and_need_not() {
        let sensor = [vec![gap(1, 5)], events(5..=6)].concat();
        let centre = [events(1..=2), vec![gap(3, 5)], events(5..=6)].concat();
        let all: Vec<_> = (1..=6).map(acknowledged).collect();
        let verdict = of(Bounds::Newest, sensor.clone(), centre.clone(), &all);
        assert_eq!(verdict, Verdict { published: 6, arrived: 4, missing: 2, gaps: 1, faults: vec![] });
        let kept = of(Bounds::Unacknowledged, sensor, centre.clone(), &all).faults;
        assert_eq!(kept, [Fault::GapInKeptLog { from: 3, next: 5 }]);
        let held = faults([vec![gap(1, 4)], events(4..=6)].concat(), centre);
        assert_eq!(held, [Fault::HeldInGap { from: 3, next: 5, holder: "sensor" }]);
    }

    #[test]
    fn what_the_gateway_holds_must_not_be_missing_at_the_centre() {
        let sensor = Record { epoch: 5, items: [vec![gap(1, 5)], events(5..=5)].concat() };
        let gateway = Record { epoch: 5, items: events(1..=5) };
        let centre = Record { epoch: 5, items: [events(1..=2), vec![gap(3, 5)], events(5..=5)].concat() };
        let evidence = Evidence {
            sensor_name: SENSOR,
            bounds: Bounds::Newest,
            acknowledged: &[],
            sensor: &sensor,
            gateway: &gateway,
            centre: &centre,
        };
        assert_eq!(check(evidence).faults, [Fault::HeldInGap { from: 3, next: 5, holder: "gateway" }]);
    }

    #[test]
    fn missing_events_without_a_gap_are_found_anywhere() {
        assert_eq!(faults(events(1..=3), events(2..=3)), [Fault::Lost { from: 1, next: 2 }]);
        assert_eq!(faults(events(1..=4), events([1, 4])), [Fault::Lost { from: 2, next: 4 }]);
        assert_eq!(faults(events(1..=3), events(1..=1)), [Fault::Lost { from: 2, next: 4 }]);
        let before_a_gap = [events(1..=1), vec![gap(3, 4)], events(4..=4)].concat();
        let sensor = [vec![gap(1, 4)], events(4..=4)].concat();
        assert_eq!(faults(sensor, before_a_gap), [Fault::Lost { from: 2, next: 3 }]);
    }

    #[test]
    fn repeated_and_exchanged_events_are_found() {
        assert_eq!(faults(events(1..=3), events([1, 2, 2, 3])), [Fault::Twice { seq: 2 }]);
        assert_eq!(
            faults(events(1..=3), events([1, 3, 2])),
            [Fault::Lost { from: 2, next: 3 }, Fault::OutOfOrder { seq: 2, after: 3 }]
        );
        let behind = [events(1..=3), vec![gap(2, 4)]].concat();
        assert_eq!(faults(vec![gap(1, 4)], behind), [Fault::OutOfOrder { seq: 2, after: 3 }]);
    }

    #[test]
    fn other_events_are_found() {
        let reading = Reading::new(SENSOR, 2, 1);
        let altered = Reading { value: reading.value ^ 1, ..reading.clone() };
        for wrong in [altered, Reading::new("sensor-2", 2, 1), Reading::new(SENSOR, 3, 1)] {
            let centre = vec![event(1), changed(2, wrong)];
            let sensor = [vec![gap(1, 3)]].concat();
            assert_eq!(faults(sensor, centre), [Fault::Altered { seq: 2 }]);
        }
        // As a sensor may publish it, and not as it did.
        let centre = vec![event(1), changed(2, Reading::new(SENSOR, 2, 2))];
        let differs = Fault::Differs { seq: 2, holder: "sensor" };
        assert_eq!(faults(events(1..=2), centre.clone()), [differs]);
        let verdict = of(Bounds::Newest, vec![gap(1, 3)], centre, &[acknowledged(2)]);
        assert_eq!(verdict.faults, [Fault::NotAsAcknowledged { seq: 2 }]);
        let starts = vec![changed(1, Reading::new(SENSOR, 1, 2)), event(2)];
        assert_eq!(faults(vec![gap(1, 3)], starts), [Fault::EarlierStart { seq: 2 }]);
    }

    #[test]
    fn a_sensor_that_lost_events_is_found() {
        let ahead = Fault::Ahead { seq: 3, newest: 2 };
        assert_eq!(faults(events(1..=2), events(1..=3)), [ahead]);
        let verdict = of(Bounds::Newest, events(1..=2), events(1..=2), &[acknowledged(3)]);
        assert_eq!(verdict.faults, [Fault::AcknowledgedAndLost { seq: 3 }]);
    }

    #[test]
    fn another_history_is_found() {
        let (own, other) = (Record { epoch: 5, items: vec![] }, Record { epoch: 6, items: vec![] });
        let evidence = Evidence {
            sensor_name: SENSOR,
            bounds: Bounds::Newest,
            acknowledged: &[],
            sensor: &own,
            gateway: &own,
            centre: &other,
        };
        assert_eq!(check(evidence).faults, [Fault::OtherEpoch { holder: "centre" }]);
    }
}

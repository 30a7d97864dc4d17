//! Faults that the checkers must find: one change each to a copy of the crate's sources.

pub(crate) struct Plant {
    /// What is wrong then.
    pub(crate) name: &'static str,
    /// The case that must fail.
    pub(crate) case: &'static str,
    pub(crate) file: &'static str,
    /// What is replaced, and what by. Each occurs once in the file.
    pub(crate) changes: &'static [(&'static str, &'static str)],
}

pub(crate) const SHUTTLE: &[Plant] = &[
    Plant {
        name: "waits_without_a_second_look_for_room",
        case: "turns",
        file: "src/admission/budget.rs",
        changes: &[(
            "            if !self.has_room_for(bytes) {\n                if woken {",
            "            if true {\n                if woken {",
        )],
    },
    Plant {
        name: "becomes_exempt_and_tells_nobody",
        case: "exemption",
        file: "src/admission/budget.rs",
        changes: &[("                self.wake_own();\n                true\n", "                true\n")],
    },
    Plant {
        name: "wakes_the_oldest_whether_it_fits_or_not",
        case: "room_for_small",
        file: "src/admission/budget.rs",
        changes: &[
            (".find(|waiter| fits(waiter.bytes))", ".find(|waiter| fits(waiter.bytes) || true)"),
            ("                if woken {", "                if woken && false {"),
        ],
    },
    Plant {
        name: "finds_too_little_and_tells_nobody",
        case: "room_that_shrinks",
        file: "src/admission/budget.rs",
        changes: &[("                if woken {", "                if woken && false {")],
    },
    Plant {
        name: "leaves_and_tells_nobody",
        case: "cancellation",
        file: "src/admission/budget.rs",
        changes: &[("        drop(left);\n        budget.wake_next();\n", "")],
    },
    Plant {
        name: "loses_what_is_paid_meanwhile",
        case: "pieces",
        file: "src/admission/unread_pieces.rs",
        changes: &[(
            "let paid = self.paid.swap(0, Relaxed)",
            "let paid = self.paid.load(Relaxed);\n self.paid.store(0, Relaxed);\n let paid = paid",
        )],
    },
    Plant {
        name: "looks_a_handshake_up_before_it_takes_it",
        case: "handshakes",
        file: "src/admission/handshakes.rs",
        changes: &[(
            "let entry = lock(&self.handshakes.pending).remove(self.id);\n        let Entry",
            "let index = lock(&self.handshakes.pending)\n            .entries\n            \
            .binary_search_by_key(&self.id, |entry| entry.id)\n            .ok()?;\n        \
            let entry = Some(lock(&self.handshakes.pending).take(index));\n        let Entry",
        )],
    },
    Plant {
        name: "counts_connections_in_two_steps",
        case: "accounts",
        file: "src/admission/accounts.rs",
        changes: &[(
            "self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).ok()?;",
            "below(self.open.load(Ordering::Relaxed))?;\n        self.open.fetch_add(1, Ordering::Relaxed);",
        )],
    },
    Plant {
        name: "waits_without_a_second_look",
        case: "drain",
        file: "src/sync.rs",
        changes: &[("        if condition() {\n            return;\n        }\n", "")],
    },
    Plant {
        name: "ends_a_task_and_tells_nobody",
        case: "drain",
        file: "src/drain.rs",
        changes: &[(
            "        self.drain.tasks.fetch_sub(1, SeqCst);\n        self.drain.tell_shutdown();\n",
            "        self.drain.tasks.fetch_sub(1, SeqCst);\n",
        )],
    },
    Plant {
        name: "awaits_a_shutdown_and_tells_nobody",
        case: "drain_in_handlers",
        file: "src/drain.rs",
        changes: &[(
            "        lock(&self.leaving).push(own);\n        self.tell_shutdown();\n",
            "        lock(&self.leaving).push(own);\n",
        )],
    },
    Plant {
        name: "tells_of_an_event_before_it_is_there",
        case: "wakeups",
        file: "src/events/history.rs",
        changes: &[
            ("        let last = {\n", "        self.published.notify(usize::MAX);\n        let last = {\n"),
            ("        };\n        self.published.notify(usize::MAX);\n", "        };\n"),
        ],
    },
    Plant {
        name: "counts_subscribers_in_two_steps",
        case: "subscribers",
        file: "src/events/history.rs",
        changes: &[(
            "            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, \
            |count| (count < max).then_some(count + 1));\n        taken.is_ok().then(",
            "            .load(Ordering::Relaxed);\n        if taken < max {\n            \
            self.subscribers.fetch_add(1, Ordering::Relaxed);\n        }\n        (taken < max).then(",
        )],
    },
    Plant {
        name: "uses_what_was_abandoned",
        case: "loan",
        file: "src/router/loan.rs",
        changes: &[("            *value = None;\n", "")],
    },
    Plant {
        name: "wants_work_and_tells_nobody",
        case: "handoff",
        file: "src/handoff.rs",
        changes: &[("        worker.into_iter().for_each(Waker::wake);\n", "")],
    },
    Plant {
        name: "finishes_work_and_tells_nobody",
        case: "handoff",
        file: "src/handoff.rs",
        changes: &[(
            "        let wakers = state.take_wakers();\n        drop(state);\n        wake(wakers);\n    }\n",
            "        drop(state);\n    }\n",
        )],
    },
];

pub(crate) const LOOM: &[Plant] = &[
    Plant {
        name: "rings_before_the_task_is_ready",
        case: "wakes",
        file: "src/runtime/poll/shared.rs",
        changes: &[
            (
                "            lock(&shared.tasks).schedule(",
                "            shared.bell.ring();\n lock(&shared.tasks).schedule(",
            ),
            ("            shared.bell.ring();\n        });\n", "        });\n"),
        ],
    },
    Plant {
        name: "rings_before_the_task_is_spawned",
        case: "spawns",
        file: "src/runtime/poll/shared.rs",
        changes: &[
            (
                "        let mut tasks = lock(&self.tasks);\n",
                "self.bell.ring();\n let mut tasks = lock(&self.tasks);\n",
            ),
            ("        drop(tasks);\n        self.bell.ring();\n", "        drop(tasks);\n"),
        ],
    },
    Plant {
        name: "rings_before_main_is_ready",
        case: "wakes_main",
        file: "src/runtime/poll/shared.rs",
        changes: &[(
            "        lock(&self.0.tasks).wake_main();\n        self.0.bell.ring();\n",
            "        self.0.bell.ring();\n        lock(&self.0.tasks).wake_main();\n",
        )],
    },
    Plant {
        name: "forgets_that_the_thread_sleeps",
        case: "wakes_main",
        file: "src/runtime/poll/bell.rs",
        changes: &[("            self.fd.signal();\n", "")],
    },
    Plant {
        name: "stores_the_flag",
        case: "wakes_main",
        file: "src/runtime/poll/bell.rs",
        changes: &[
            ("self.asleep.swap(true, Ordering::AcqRel)", "self.asleep.store(true, Ordering::Release)"),
            ("self.asleep.swap(false, Ordering::AcqRel);", "self.asleep.store(false, Ordering::Relaxed);"),
        ],
    },
    Plant {
        name: "sleeps_without_a_second_look",
        case: "wakes_main",
        file: "src/with_loom/cases.rs",
        changes: &[(
            "is_idle();\n        if idle {\n            self.signal",
            "is_idle();\n        if idle || true {\n            self.signal",
        )],
    },
    Plant {
        name: "forgets_that_it_is_closed",
        case: "closes",
        file: "src/runtime/poll/tasks.rs",
        changes: &[("        self.closed = true;\n", "")],
    },
];

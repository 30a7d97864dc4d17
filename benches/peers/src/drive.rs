//! The client process: one command a line on standard input, one answer a line on standard output.
//!
//! | command | |
//! |---|---|
//! | `connect N` | has N connections open, no more and no fewer |
//! | `calls IN_FLIGHT MILLIS` | echoes for that long, by so many tasks in all |
//! | `count IN_FLIGHT COUNT` | so many echoes |
//! | `pipelined IN_FLIGHT MILLIS` | echoes for that long, all on one stream |
//! | `bidi STREAMS MILLIS` | items and answers in turn for that long, on each stream |
//! | `upload MILLIS` | one request with items for that long |
//! | `replay MILLIS` | the whole event log, again and again |
//! | `follow MILLIS` | publishes an event, waits for it on the stream that follows, again and again |
//! | `take MILLIS`, `give MILLIS` | large payloads, one at a time |
//! | `handshakes AT_ONCE MILLIS` | a new connection and one echo on it, again and again |

use std::{
    io::{self, BufRead, Write},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    Result,
    link::{Echo, Events, Items, Link, Measured, Stack},
    setup::{LARGE_BYTES, Setup},
};

/// Does as it is told until the input ends.
pub fn drive<S: Stack>(setup: &Setup, address: &str) -> Result<()> {
    let stack = S::new(setup, address)?;
    let (lines, commands) = async_channel::unbounded();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(io::Result::ok) {
            if lines.send_blocking(line).is_err() {
                return;
            }
        }
    });
    let mut driver = Driver { stack: stack.clone(), links: Vec::new(), published: u64::from(setup.events) };
    stack.block_on(async move {
        while let Ok(line) = commands.recv().await {
            answer(&driver.obey(&line).await)?;
        }
        Ok(())
    })
}

pub fn answer(outcome: &Measured<String>) -> Result<()> {
    let mut output = io::stdout();
    match outcome {
        Ok(figures) => writeln!(output, "ok {figures}")?,
        Err(failure) => writeln!(output, "{}", failure.to_string().replace('\n', " "))?,
    }
    output.flush()?;
    Ok(())
}

/// A command's words: its name, and up to two numbers.
pub fn parse(line: &str) -> Option<(&str, u64, u64)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let mut number = || words.next().map_or(Some(0), |word| word.parse().ok());
    Some((name, number()?, number()?))
}

struct Driver<S: Stack> {
    stack: S,
    links: Vec<S::Link>,
    /// How many events the server's log holds.
    published: u64,
}

impl<S: Stack> Driver<S> {
    async fn obey(&mut self, line: &str) -> Measured<String> {
        let Some((command, first, second)) = parse(line) else { return Err("not a command".into()) };
        let millis = Duration::from_millis;
        match command {
            "connect" => self.connect(usize::try_from(first)?).await,
            "calls" => self.calls(usize::try_from(first)?, Limit::For(millis(second))).await,
            "count" => self.calls(usize::try_from(first)?, Limit::Each(second / first)).await,
            "pipelined" => self.pipelined(first, millis(second)).await,
            "bidi" => self.bidi(first, millis(second)).await,
            "upload" => {
                let start = Instant::now();
                let count = self.link()?.upload(Items::during(millis(first))).await?;
                Ok(figures(start.elapsed(), count))
            }
            "replay" => self.replay(millis(first)).await,
            "follow" => self.follow(millis(first)).await,
            "take" => {
                let (payload, link) = (Bytes::from(vec![7; LARGE_BYTES]), self.link()?);
                repeat(millis(first), || {
                    let (link, payload) = (link.clone(), payload.clone());
                    async move { link.take(payload).await }
                })
                .await
            }
            "give" => {
                let link = self.link()?;
                repeat(millis(first), || {
                    let link = link.clone();
                    async move {
                        let length = link.give().await?;
                        if length == LARGE_BYTES {
                            Ok(())
                        } else {
                            Err(format!("{length} bytes came").into())
                        }
                    }
                })
                .await
            }
            "handshakes" => self.handshakes(first, millis(second)).await,
            _ => Err("no such command".into()),
        }
    }

    fn link(&self) -> Measured<S::Link> {
        self.links.first().cloned().ok_or_else(|| "not connected".into())
    }

    async fn connect(&mut self, count: usize) -> Measured<String> {
        for link in self.links.drain(count.min(self.links.len())..) {
            link.close();
        }
        while self.links.len() < count {
            let link = self.stack.connect().await?;
            link.accepted().await?;
            self.links.push(link);
        }
        Ok(String::new())
    }

    /// Where tasks are fewer than connections, each rotates among connections of its own; where they are
    /// more, several share one.
    async fn calls(&self, in_flight: usize, limit: Limit) -> Measured<String> {
        let count = self.links.len();
        let start = Instant::now();
        let mut tasks = Vec::with_capacity(in_flight);
        for task in 0..in_flight {
            let own: Vec<_> = self.links.iter().skip(task % count).step_by(in_flight).cloned().collect();
            tasks.push(self.stack.spawn(async move {
                let mut latencies = Vec::new();
                let mut now = start;
                for link in own.iter().cycle() {
                    if limit.reached(start, now, latencies.len()) {
                        break;
                    }
                    let before = Instant::now();
                    link.echo().await?;
                    now = Instant::now();
                    latencies.push(nanos(now - before));
                }
                Measured::Ok(latencies)
            }));
        }
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.append(&mut task.await?);
        }
        Ok(latency_figures(start.elapsed(), latencies))
    }

    async fn pipelined(&self, in_flight: u64, duration: Duration) -> Measured<String> {
        let pipeline = self.link()?.pipeline().await?;
        let callers = (0..in_flight).map(|_| pipeline.clone()).collect();
        self.echoes(callers, duration).await
    }

    async fn bidi(&self, streams: u64, duration: Duration) -> Measured<String> {
        let link = self.link()?;
        let mut opened = Vec::new();
        for _ in 0..streams {
            opened.push(link.bidi().await?);
        }
        self.echoes(opened, duration).await
    }

    /// Each by a task of its own.
    async fn echoes(&self, streams: Vec<impl Echo>, duration: Duration) -> Measured<String> {
        let start = Instant::now();
        let mut tasks = Vec::new();
        for mut stream in streams {
            tasks.push(self.stack.spawn(async move {
                let mut latencies = Vec::new();
                let mut now = start;
                while now - start < duration {
                    let before = Instant::now();
                    stream.echo().await?;
                    now = Instant::now();
                    latencies.push(nanos(now - before));
                }
                Measured::Ok(latencies)
            }));
        }
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.append(&mut task.await?);
        }
        Ok(latency_figures(start.elapsed(), latencies))
    }

    async fn replay(&self, duration: Duration) -> Measured<String> {
        let link = self.link()?;
        let start = Instant::now();
        let mut events = 0;
        while start.elapsed() < duration {
            events += link.replay().await?;
        }
        Ok(figures(start.elapsed(), events))
    }

    async fn follow(&mut self, duration: Duration) -> Measured<String> {
        let link = self.link()?;
        let mut events = link.follow(self.published).await?;
        // The first finds out that the stream is there.
        for _ in 0..10 {
            link.publish().await?;
            events.next().await?;
            self.published += 1;
        }
        let start = Instant::now();
        let mut latencies = Vec::new();
        while start.elapsed() < duration {
            let before = Instant::now();
            link.publish().await?;
            events.next().await?;
            latencies.push(nanos(before.elapsed()));
            self.published += 1;
        }
        Ok(latency_figures(start.elapsed(), latencies))
    }

    async fn handshakes(&self, at_once: u64, duration: Duration) -> Measured<String> {
        let start = Instant::now();
        let mut tasks = Vec::new();
        for _ in 0..at_once {
            let stack = self.stack.clone();
            tasks.push(self.stack.spawn(async move {
                let mut count = 0;
                while start.elapsed() < duration {
                    let link = stack.connect().await?;
                    link.echo().await?;
                    link.close();
                    count += 1;
                }
                Measured::Ok(count)
            }));
        }
        let mut count = 0;
        for task in tasks {
            count += task.await?;
        }
        Ok(figures(start.elapsed(), count))
    }
}

#[derive(Clone, Copy)]
enum Limit {
    For(Duration),
    Each(u64),
}

impl Limit {
    fn reached(self, start: Instant, now: Instant, done: usize) -> bool {
        match self {
            Self::For(duration) => now - start >= duration,
            Self::Each(count) => u64::try_from(done).is_ok_and(|done| done >= count),
        }
    }
}

async fn repeat<F>(duration: Duration, exchange: impl Fn() -> F) -> Measured<String>
where
    F: Future<Output = Measured<()>>,
{
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < duration {
        exchange().await?;
        count += 1;
    }
    Ok(figures(start.elapsed(), count))
}

fn nanos(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX)
}

fn figures(elapsed: Duration, count: u64) -> String {
    format!("count={count} seconds={}", elapsed.as_secs_f64())
}

/// `p50` and `p99` are in seconds.
pub fn latency_figures(elapsed: Duration, mut latencies: Vec<u32>) -> String {
    let count = latencies.len();
    let mut quantile = |per_cent: usize| {
        let index = count * per_cent / 100;
        if latencies.is_empty() { f64::NAN } else { f64::from(*latencies.select_nth_unstable(index).1) / 1e9 }
    };
    let (p50, p99) = (quantile(50), quantile(99));
    format!("count={count} seconds={} p50={p50} p99={p99}", elapsed.as_secs_f64())
}

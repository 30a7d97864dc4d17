//! What two nodes do that have nothing to do but to stay connected: `cargo bench --bench wakeups`, on Linux.
//!
//! Counts how often the threads of each process went to sleep and were woken (voluntary context switches),
//! and the processor time. Beside them stands what keep-alives need at least: their sender wakes to send and
//! to hear, their receiver to hear and, as it delays acknowledgements, to acknowledge.
//!
//! `WAKEUPS_SECONDS` is how long it counts, 60 if unset, and `WAKEUPS_KINDS` the runtimes: `PollRuntime
//! AsyncIoRuntime` if unset.

mod support;

use std::{env, error::Error, fs, io, io::Read as _, process, thread, time::Duration};

use palyra_quic::Router;

use self::support::{
    dialler,
    kind::{Kind, Runner},
    serve,
    stage::{Actor, Role, Stage, address, credentials, kind_of_this_process, say, setting},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// After this, what the handshake left behind is done.
const SETTLE: Duration = Duration::from_secs(6);

fn main() -> Result<()> {
    match Role::of_this_process()? {
        Role::Node => node(),
        Role::Client => client(),
        Role::Stage => count(),
        Role::Nothing => Ok(()),
    }
}

fn count() -> Result<()> {
    let seconds: u32 = setting("WAKEUPS_SECONDS", 60);
    let kinds = env::var("WAKEUPS_KINDS").unwrap_or_else(|_| "PollRuntime AsyncIoRuntime".into());
    let (stage, executable) = (Stage::new()?, env::current_exe()?);
    println!(
        "| {seconds} s without a call | wakeups of the node | of the client | CPU of the node | of the client |"
    );
    println!("|---|---|---|---|---|");
    for kind in kinds.split_whitespace() {
        let kind = Kind::parse(kind)?;
        let mut node = Actor::start(stage.node(&executable, kind))?;
        let address = node.line()?;
        let mut client = Actor::start(stage.client(&executable, kind, &address))?;
        client.line()?;
        thread::sleep(SETTLE);
        let look = || Ok::<_, Box<dyn Error + Send + Sync>>([Spent::by(node.id())?, Spent::by(client.id())?]);
        let before = look()?;
        thread::sleep(Duration::from_secs(seconds.into()));
        let after = look()?;
        let [node, client] = [0, 1].map(|which| after[which].since(before[which]));
        let percent = |spent: Spent| 100.0 * spent.processor.as_secs_f64() / f64::from(seconds);
        println!(
            "| {} | {} | {} | {:.3} % | {:.3} % |",
            kind.name(),
            node.wakeups,
            client.wakeups,
            percent(node),
            percent(client)
        );
    }
    Ok(())
}

/// What the threads of a process have used.
#[derive(Clone, Copy, Default)]
struct Spent {
    wakeups: u64,
    processor: Duration,
}

impl Spent {
    fn by(process: u32) -> Result<Self> {
        let mut spent = Self::default();
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = thread?.path();
            let status = fs::read_to_string(thread.join("status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            spent.wakeups += line.ok_or("no switches are counted")?.trim().parse::<u64>()?;
            let times = fs::read_to_string(thread.join("schedstat"))?;
            spent.processor += Duration::from_nanos(times.split(' ').next().ok_or("no times")?.parse()?);
        }
        Ok(spent)
    }

    fn since(self, before: Self) -> Self {
        Self { wakeups: self.wakeups - before.wakeups, processor: self.processor - before.processor }
    }
}

fn node() -> Result<()> {
    let (identity, trust) = credentials()?;
    let runner = Runner::new(kind_of_this_process()?)?;
    let endpoint = serve(runner.handle(), identity, trust, Router::new())?;
    say(endpoint.local_addr()?)?;
    runner.run_until_input_ends();
    Ok(())
}

fn client() -> Result<()> {
    let (identity, trust) = credentials()?;
    let runner = Runner::new(kind_of_this_process()?)?;
    let endpoint = dialler(runner.handle(), identity, trust)?;
    let address = address()?;
    thread::spawn(|| {
        // Nothing comes; one that cannot be read has ended, too.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        process::exit(0)
    });
    runner.run(async move {
        let connection = endpoint.connect(address).await?;
        connection.health().await?;
        say("connected")?;
        Err(connection.closed().await.into())
    })
}

//! A link: carries datagrams between the processes of a fleet, and loses all of them while it is cut.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use smol::{Task, net::UdpSocket};

/// The clients that are remembered. One that is killed comes back as another one.
const MAX_FLOWS: usize = 16;
/// The largest payload of a UDP datagram.
const MAX_DATAGRAM: usize = 65_535;

/// A link to a process, from its clients, which only ever know the address of the link.
pub(crate) struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: Task<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Where the process is. It may have another port when it was started again.
    target: Option<SocketAddr>,
    cut_until: Option<Instant>,
}

/// The datagrams of one client. The target sees a socket for each, and so tells them from each other.
struct Flow {
    client: SocketAddr,
    socket: UdpSocket,
    _answers: Task<()>,
}

impl Link {
    /// A link that leads nowhere yet.
    pub(crate) fn new() -> io::Result<Self> {
        let socket = smol::block_on(UdpSocket::bind(loopback()))?;
        let (address, shared) = (socket.local_addr()?, Arc::<Shared>::default());
        let task = smol::spawn(carry(socket, Arc::clone(&shared)));
        Ok(Self { address, shared, _task: task })
    }

    /// Where clients find the process.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads to this address from now on.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.shared.state().target = Some(target);
    }

    /// Loses every datagram for this long from now on.
    pub(crate) fn cut(&self, length: Duration) {
        self.shared.state().cut_until = Some(Instant::now() + length);
    }

    /// Ends a cut.
    pub(crate) fn mend(&self) {
        self.shared.state().cut_until = None;
    }

    /// For how long it will be cut; `None` if it is not.
    pub(crate) fn is_cut_for(&self) -> Option<Duration> {
        self.shared.state().cut_until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// How many datagrams it has lost.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a datagram goes; `None` if it is lost.
    fn target(&self) -> Option<SocketAddr> {
        let State { target, cut_until } = *self.state();
        let target = target.filter(|_| cut_until.is_none_or(|until| until <= Instant::now()));
        if target.is_none() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        target
    }
}

/// Carries datagrams from clients to the target. A link loses what cannot be sent, as networks do.
async fn carry(socket: UdpSocket, shared: Arc<Shared>) {
    let mut flows = VecDeque::new();
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut datagram).await else { return };
        let Some(target) = shared.target() else { continue };
        if !flows.iter().any(|flow: &Flow| flow.client == client) {
            let Ok(flow) = Flow::new(client, &socket, &shared).await else { continue };
            flows.push_back(flow);
            if flows.len() > MAX_FLOWS {
                flows.pop_front();
            }
        }
        let Some(flow) = flows.iter().find(|flow| flow.client == client) else { continue };
        drop(flow.socket.send_to(&datagram[..length], target).await);
    }
}

impl Flow {
    async fn new(client: SocketAddr, clients: &UdpSocket, shared: &Arc<Shared>) -> io::Result<Self> {
        let socket = UdpSocket::bind(loopback()).await?;
        let answers = answer(socket.clone(), clients.clone(), client, Arc::clone(shared));
        Ok(Self { client, socket, _answers: smol::spawn(answers) })
    }
}

/// Carries datagrams from the target to a client.
async fn answer(socket: UdpSocket, clients: UdpSocket, client: SocketAddr, shared: Arc<Shared>) {
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut datagram).await else { return };
        if shared.target().is_some() {
            drop(clients.send_to(&datagram[..length], client).await);
        }
    }
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

#[cfg(test)]
mod tests {
    use smol::Timer;

    use super::*;

    /// Fails instead of waiting for ever for a datagram that does not come.
    fn run(test: impl Future<Output = ()>) {
        let too_late = async {
            Timer::after(Duration::from_secs(20)).await;
            panic!("a datagram did not arrive");
        };
        smol::block_on(smol::future::or(test, too_late));
    }

    /// Sends a datagram, and waits until the target has it.
    async fn reaches(client: &UdpSocket, link: &Link, target: &UdpSocket, text: &[u8]) -> SocketAddr {
        let mut datagram = [0; 100];
        client.send_to(text, link.address()).await.unwrap();
        let (length, from) = target.recv_from(&mut datagram).await.unwrap();
        assert_eq!(&datagram[..length], text);
        from
    }

    #[test]
    fn datagrams_of_each_client_pass_and_answers_come_back() {
        run(async {
            let [target, a, b] = [
                UdpSocket::bind(loopback()).await,
                UdpSocket::bind(loopback()).await,
                UdpSocket::bind(loopback()).await,
            ]
            .map(Result::unwrap);
            let link = Link::new().unwrap();
            link.lead_to(target.local_addr().unwrap());
            let from_a = reaches(&a, &link, &target, b"a").await;
            let from_b = reaches(&b, &link, &target, b"b").await;
            assert_ne!(from_a, from_b);
            assert_eq!(reaches(&a, &link, &target, b"again").await, from_a);
            target.send_to(b"to a", from_a).await.unwrap();
            let mut datagram = [0; 100];
            let (length, from) = a.recv_from(&mut datagram).await.unwrap();
            assert_eq!((&datagram[..length], from), (&b"to a"[..], link.address()));
        });
    }

    #[test]
    fn a_cut_link_loses_datagrams_and_the_next_address_is_used_afterwards() {
        run(async {
            let [before, after, client] = [
                UdpSocket::bind(loopback()).await,
                UdpSocket::bind(loopback()).await,
                UdpSocket::bind(loopback()).await,
            ]
            .map(Result::unwrap);
            let link = Link::new().unwrap();
            link.lead_to(before.local_addr().unwrap());
            reaches(&client, &link, &before, b"before").await;
            link.cut(Duration::from_secs(3600));
            assert!(link.is_cut_for().is_some());
            client.send_to(b"lost", link.address()).await.unwrap();
            while link.lost() == 0 {
                smol::future::yield_now().await;
            }
            link.lead_to(after.local_addr().unwrap());
            link.mend();
            assert_eq!(link.is_cut_for(), None);
            reaches(&client, &link, &after, b"after").await;
            assert_eq!(link.lost(), 1);
        });
    }
}

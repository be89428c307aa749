//! Owns a TCP proxy between programs on loopback, and the weather on it: what passes, late or in
//! part or never. Refuses to understand a byte of what it carries.

mod links;

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

pub use links::{Links, To};

const CHUNK_BYTES: usize = 16 * 1024;
/// A listener that cannot accept (no file descriptor left) is asked again no sooner.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What becomes of the bytes on a link, from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weather {
    Pass,
    /// Each piece arrives so much later, either way.
    Delay(#[serde(with = "millis")] Duration),
    /// Nothing arrives while it lasts, and nobody is told; what was sent arrives afterwards.
    BlackHole,
    /// Every connection is cut, and a new one at once.
    Reset,
    /// A connection is cut whenever the link has carried so many bytes more.
    CutAfter(u64),
    /// A request arrives; its reply does not, and the connection is cut.
    DropReplies,
}

/// What a link has seen since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub connections: u64,
    /// By the weather, not by one of its ends.
    pub cut: u64,
    /// From those who connect.
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub bytes_dropped: u64,
    pub replies_dropped: u64,
    /// Pieces that had to wait.
    pub held: u64,
}

/// One listener and the one address that it leads to.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    road: Arc<Road>,
}

impl Link {
    /// Listens on a free port of loopback, on that runtime, until the runtime ends.
    pub fn start(runtime: &Handle, to: SocketAddr) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let _inside = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let (weather, _) = watch::channel(Weather::Pass);
        let road = Arc::new(Road { to, weather, left: Mutex::default(), tally: Tally::default() });
        runtime.spawn(accept(listener, Arc::clone(&road)));
        Ok(Self { address, road })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, weather: Weather) {
        if let Weather::CutAfter(bytes) = weather {
            *self.road.left.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        }
        self.road.weather.send_replace(weather);
    }

    pub fn count(&self) -> Counts {
        let Tally { connections, cut, bytes_up, bytes_down, bytes_dropped, replies_dropped, held } =
            &self.road.tally;
        Counts {
            connections: connections.load(Relaxed),
            cut: cut.load(Relaxed),
            bytes_up: bytes_up.load(Relaxed),
            bytes_down: bytes_down.load(Relaxed),
            bytes_dropped: bytes_dropped.load(Relaxed),
            replies_dropped: replies_dropped.load(Relaxed),
            held: held.load(Relaxed),
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    connections: AtomicU64,
    cut: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    bytes_dropped: AtomicU64,
    replies_dropped: AtomicU64,
    held: AtomicU64,
}

/// What all connections of a link share.
#[derive(Debug)]
struct Road {
    to: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Bytes to carry until the next cut, when the weather is [`Weather::CutAfter`].
    left: Mutex<u64>,
    tally: Tally,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// Why a connection ends before both sides have said all.
enum End {
    /// One of its ends is gone.
    Gone,
    Cut,
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

async fn accept(listener: TcpListener, road: Arc<Road>) {
    loop {
        if let Ok((client, _)) = listener.accept().await {
            let road = Arc::clone(&road);
            tokio::spawn(async move { road.connect(client).await });
        } else {
            sleep_until(Instant::now() + ACCEPT_PAUSE).await;
        }
    }
}

impl Road {
    async fn connect(&self, mut client: TcpStream) {
        self.tally.connections.fetch_add(1, Relaxed);
        let mut weather = self.weather.subscribe();
        let ended = tokio::select! {
            biased;
            _ = weather.wait_for(|weather| *weather == Weather::Reset) => Err(End::Cut),
            ended = self.carry(&mut client) => ended,
        };
        if let Err(end) = ended {
            if matches!(end, End::Cut) {
                self.tally.cut.fetch_add(1, Relaxed);
            }
            // The server only sees an end, for a reset would take back what it has not read yet. A
            // client that is gone itself has nothing left to be reset.
            let _ = client.set_zero_linger();
        }
    }

    async fn carry(&self, client: &mut TcpStream) -> Result<(), End> {
        let not_dark = |weather: &Weather| *weather != Weather::BlackHole;
        // The sender lives as long as this does.
        let _ = self.weather.subscribe().wait_for(not_dark).await;
        let mut server = TcpStream::connect(self.to).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(
            self.pump(Way::Up, from_client, to_server),
            self.pump(Way::Down, from_server, to_client),
        )
        .map(|((), ())| ())
    }

    async fn pump(
        &self,
        way: Way,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
    ) -> Result<(), End> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = from.read(&mut chunk).await?;
            let (passed, next) = self.pass(way, read as u64).await;
            let piece = &chunk[..usize::try_from(passed).unwrap_or(read).min(read)];
            to.write_all(piece).await?;
            let bytes = match way {
                Way::Up => &self.tally.bytes_up,
                Way::Down => &self.tally.bytes_down,
            };
            bytes.fetch_add(piece.len() as u64, Relaxed);
            if next.is_break() {
                self.tally.bytes_dropped.fetch_add((read - piece.len()) as u64, Relaxed);
                return Err(End::Cut);
            }
            if read == 0 {
                return Ok(to.shutdown().await?);
            }
        }
    }

    /// Waits as long as the weather wants a piece to wait, and says how much of it goes on and
    /// whether the connection does.
    async fn pass(&self, way: Way, bytes: u64) -> (u64, ControlFlow<()>) {
        let mut weather = self.weather.subscribe();
        // An end has no bytes: it waits like a piece, and counts as none.
        let is_end = bytes == 0;
        let mut held = is_end;
        loop {
            let now = *weather.borrow_and_update();
            if !held && matches!(now, Weather::Delay(_) | Weather::BlackHole) {
                held = true;
                self.tally.held.fetch_add(1, Relaxed);
            }
            match (now, way) {
                (Weather::Pass | Weather::Reset, _) | (Weather::DropReplies, Way::Up) => {
                    return (bytes, ControlFlow::Continue(()));
                }
                (Weather::CutAfter(_) | Weather::DropReplies, _) if is_end => {
                    return (bytes, ControlFlow::Continue(()));
                }
                (Weather::Delay(delay), _) => {
                    tokio::select! {
                        () = sleep_until(Instant::now() + delay) => {
                            return (bytes, ControlFlow::Continue(()));
                        }
                        _ = weather.changed() => {}
                    }
                }
                // The sender lives as long as this does.
                (Weather::BlackHole, _) => drop(weather.changed().await),
                (Weather::CutAfter(every), _) => return self.spend(bytes, every),
                (Weather::DropReplies, Way::Down) => {
                    self.tally.replies_dropped.fetch_add(1, Relaxed);
                    return (0, ControlFlow::Break(()));
                }
            }
        }
    }

    fn spend(&self, bytes: u64, every: u64) -> (u64, ControlFlow<()>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes < *left {
            *left -= bytes;
            return (bytes, ControlFlow::Continue(()));
        }
        (std::mem::replace(&mut *left, every), ControlFlow::Break(()))
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u128(time.as_millis())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

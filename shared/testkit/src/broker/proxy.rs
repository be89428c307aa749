//! Owns a listener that passes bytes to another address on loopback, on a thread of its own.
//! Refuses to look at them.

use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Passes bytes until it is dropped.
pub(super) struct Proxy {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(super) fn start(at: SocketAddr, to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread =
            std::thread::Builder::new().name("broker-proxy".to_owned()).spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, to) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

/// A client that cannot be served is cut off; it comes again by itself.
async fn accept(listener: tokio::net::TcpListener, to: SocketAddr) {
    loop {
        if let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, to));
        } else {
            // Out of file descriptors, most likely: others must end first.
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

async fn pass(mut client: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut broker = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut broker).await?;
    Ok(())
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

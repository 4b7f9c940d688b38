//! Accepts connections and lets hyper drive them, until told to stop.

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use socket2::SockRef;
use std::{convert::Infallible, fmt, io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;

use crate::{App, routes, stall::StallExecutor};

/// How long a client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest request head, in bytes. A cursor and some dozen topics fit many times over.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What the kernel may hold for a client, in bytes (it books twice as much). At 100 ms from
/// here and back, that is 640 KiB a second.
const SEND_BUFFER: usize = 64 * 1024;

/// How often an HTTP/2 peer is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Pause after a failure to accept: most often all file descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Some connections were still open when the time to finish was over.
#[derive(Debug)]
pub struct Unfinished(pub usize);

/// Serves until `stop`, then ends every stream and waits up to `grace` for the clients to
/// take what is theirs.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    stop: CancellationToken,
    grace: Duration,
) -> Result<(), Unfinished> {
    let mut builder = auto::Builder::new(StallExecutor {
        timeout: app.settings.stall_timeout,
    });
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).expect("it is small"))
        .keep_alive_interval(Some(PING_INTERVAL));
    let graceful = GracefulShutdown::new();

    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => accept(stream, &builder, &graceful, &app),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;

    app.health.drain();
    drop(listener);
    app.hub.close();
    let open = graceful.count();
    tracing::info!(connections = open, grace_s = grace.as_secs(), "draining");
    // hyper only stops keeping connections alive; that streams end is the hub's doing.
    let drained = time::timeout(grace, graceful.shutdown()).await;
    drained.map_err(|_| Unfinished(open))
}

fn accept(
    stream: TcpStream,
    builder: &auto::Builder<StallExecutor>,
    graceful: &GracefulShutdown,
    app: &Arc<App>,
) {
    // A socket that refuses is closed already, and hyper will find out.
    if let Err(error) = prepare(&stream, app.settings.stall_timeout) {
        tracing::debug!(%error, "cannot set up a connection");
    }
    // hyper waits for a client that does not read for as long as it takes. (For a stream of
    // HTTP/2 see `stall`.)
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(app.settings.stall_timeout));
    let app = Arc::clone(app);
    let service = service_fn(move |request: Request<Incoming>| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(routes::answer(app, request).await) }
    });
    let connection = builder
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
        .into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        // Most streams end so: the client went away.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    });
}

fn prepare(stream: &TcpStream, stall_timeout: Duration) -> io::Result<()> {
    // An event is to leave at once, however small.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // Left to itself the kernel grows it to 4 MiB for each client that stalls.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    #[cfg(target_os = "linux")]
    // For those that vanish without a word, and whose buffer a heartbeat does not fill.
    socket.set_tcp_user_timeout(Some(stall_timeout))?;
    Ok(())
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of {} connections some were still open when the grace period was over",
            self.0
        )
    }
}

impl std::error::Error for Unfinished {}

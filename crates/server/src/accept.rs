//! Accepts connections, and has them go the short way or by hyper, until told to stop.

use bytes::Bytes;
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::SockRef;
use std::{convert::Infallible, fmt, io, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    App,
    direct::{self, Beginning, Direct, Reread},
    routes,
    stall::StallExecutor,
    stream,
};

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
    let connections = TaskTracker::new();
    let door = Arc::new(Door {
        app: Arc::clone(&app),
        builder,
        stop: stop.clone(),
        connections: connections.clone(),
    });

    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(Arc::clone(&door).pass(stream));
                }
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
    connections.close();
    let open = connections.len();
    tracing::info!(connections = open, grace_s = grace.as_secs(), "draining");
    let drained = time::timeout(grace, connections.wait()).await;
    drained.map_err(|_| Unfinished(connections.len()))
}

/// Where connections come in.
struct Door {
    app: Arc<App>,
    builder: auto::Builder<StallExecutor>,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl Door {
    /// Sees a connection through.
    async fn pass(self: Arc<Self>, mut stream: TcpStream) {
        let stall_timeout = self.app.settings.stall_timeout;
        // A socket that refuses is closed already, as will be found out.
        if let Err(error) = prepare(&stream, stall_timeout) {
            tracing::debug!(%error, "cannot set up a connection");
        }
        let begin = time::timeout(HEADER_TIMEOUT, direct::begin(&mut stream, MAX_HEAD_BYTES));
        let ended = match self.stop.run_until_cancelled(begin).await {
            // Nothing was asked yet, or nothing for too long.
            None | Some(Err(_)) => return,
            Some(Ok(Ok(Beginning::Stream(plain, read)))) => {
                match stream::open_plain(&self.app, *plain).await {
                    Ok(response) => {
                        let direct = Direct::new(stream, response, stall_timeout);
                        // In a task of its own, which is as large as it must be and no larger.
                        self.connections.spawn(direct.expect("it is a stream"));
                        return;
                    }
                    // Which is hyper's to write.
                    Err(_refusal) => Box::pin(self.hand_to_hyper(read, stream)).await,
                }
            }
            Some(Ok(Ok(Beginning::Other(read)))) => {
                Box::pin(self.hand_to_hyper(read, stream)).await
            }
            Some(Ok(Err(error))) => Err(error.into()),
        };
        // Most streams end so: the client went away.
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn hand_to_hyper(&self, read: Bytes, stream: TcpStream) -> Result<(), BoxError> {
        // hyper waits for a client that does not read for as long as it takes. (For a stream of
        // HTTP/2 see `stall`.)
        let mut stream = TimeoutWriter::new(Reread::new(read, stream));
        stream.set_timeout(Some(self.app.settings.stall_timeout));
        let service = service_fn(|request: Request<Incoming>| {
            let app = Arc::clone(&self.app);
            async move { Ok::<_, Infallible>(routes::answer(app, request).await) }
        });
        let connection = self
            .builder
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        // It only stops keeping the connection alive; that streams end is the hub's doing.
        connection.await
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

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

//! Accepts connections, and has them go the short way or by hyper, until told to stop.

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    error::Error,
    fmt, io, iter,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};

use crate::{
    App,
    direct::{self, Beginning, Direct, Reread},
    groups::Groups,
    limits::{Limit, Seat},
    outlet::Connection,
    proxy, routes,
    socket::Socket,
    stall::StallExecutor,
    stream, streams,
};

/// How often an HTTP/2 peer is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Pause after a failure to accept: most often all file descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a request that is on its way when the hub stops has to come in. HTTP/1.1 cannot tell a
/// client which of its requests were still taken, and a proxy does not repeat a POST by itself.
const LAST_MOMENT: Duration = Duration::from_secs(1);

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
    let connections = TaskTracker::new();
    let door = Arc::new(Door::new(&app, stop.clone(), connections.clone()));

    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => door.open(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    let serving = async { tokio::join!(accepting, app.edge.upkeep()) };
    stop.run_until_cancelled(serving).await;

    app.health.drain();
    if let Err(error) = empty(listener, &door) {
        tracing::warn!(%error, "cannot accept the last connections");
    }
    app.hub.close();
    connections.close();
    let open = app.edge.connections();
    tracing::info!(connections = open, grace_s = grace.as_secs(), "draining");
    let drained = time::timeout(grace, connections.wait()).await;
    drained.map_err(|_| Unfinished(app.edge.connections()))
}

/// Takes the connections that the kernel has already made: their requests may be on the way.
fn empty(listener: TcpListener, door: &Arc<Door>) -> io::Result<()> {
    // Not tokio's, which knows only what its last look at all sockets told it.
    let listener = listener.into_std()?;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                door.open(TcpStream::from_std(stream)?, peer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Where connections come in.
struct Door {
    app: Arc<App>,
    groups: Arc<Groups>,
    http1: auto::Builder<StallExecutor>,
    http2: auto::Builder<StallExecutor>,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl Door {
    fn new(app: &Arc<App>, stop: CancellationToken, connections: TaskTracker) -> Self {
        let limits = app.edge.limits;
        let executor = StallExecutor {
            timeout: app.settings.stall_timeout,
        };
        let mut http1 = auto::Builder::new(executor).http1_only();
        http1
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request_time)
            .max_buf_size(limits.head_bytes);
        let mut http2 = auto::Builder::new(executor).http2_only();
        http2
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_per_connection)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(Some(PING_INTERVAL));
        Self {
            app: Arc::clone(app),
            groups: Groups::new(Arc::clone(app), connections.clone()),
            http1,
            http2,
            stop,
            connections,
        }
    }

    /// Lets a connection in, if there is a place for it.
    fn open(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let peer = peer.ip().to_canonical();
        // Who finds no place is told by the connection's end, which costs next to nothing: a
        // browser comes back by itself.
        if let Some(seat) = self.app.edge.admit_connection(peer) {
            let passing = Arc::clone(self).pass(stream, peer, seat);
            self.connections.spawn(passing);
        }
    }

    /// Sees a connection to where it is served from.
    async fn pass(self: Arc<Self>, stream: TcpStream, peer: IpAddr, seat: Seat) {
        if let Err(error) = self.admit(stream, peer, seat).await {
            tracing::debug!(%error, client = %peer, "connection ended");
        }
    }

    /// Finds out whom it is from, and shakes hands.
    async fn admit(
        self: &Arc<Self>,
        mut stream: TcpStream,
        mut peer: IpAddr,
        mut seat: Seat,
    ) -> io::Result<()> {
        let edge = &self.app.edge;
        if edge.proxies.announces(peer)
            && let Some(told) = self.in_time(proxy::read_header(&mut stream)).await?
        {
            peer = told;
            if edge.assign_connection(&mut seat, peer).is_none() {
                return Ok(());
            }
        }
        let socket = Socket::new(stream, self.app.settings.stall_timeout, seat);
        let Some(tls) = &edge.tls else {
            return self.begin(Either::Left(socket), peer).await;
        };
        // Boxed: whoever has not got so far, and maybe never will, is not to take the room for it.
        let accepted = TlsAcceptor::from(tls.config()).accept(socket);
        match Box::pin(self.in_time(accepted)).await {
            Ok(stream) => self.begin(Either::Right(Box::new(stream)), peer).await,
            Err(error) => {
                tls.handshake_failed();
                Err(error)
            }
        }
    }

    /// Has it go the short way or by hyper, in a task of its own, which is as large as it must be
    /// and no larger.
    async fn begin(self: &Arc<Self>, mut stream: Connection, peer: IpAddr) -> io::Result<()> {
        let begin = direct::begin(&mut stream, &self.app.edge.limits);
        match self.in_time(begin).await? {
            Beginning::Stream(plain, read) => {
                match Box::pin(stream::open_plain(&self.app, *plain, peer)).await {
                    Ok(response) => {
                        let direct = Direct::new(stream, response);
                        self.groups.spawn(direct.expect("it is a stream"));
                    }
                    // Which is hyper's to write.
                    Err(_refusal) => self.hand_to_hyper(Reread::new(read, stream), peer, false),
                }
            }
            Beginning::Http1(read) => self.hand_to_hyper(Reread::new(read, stream), peer, false),
            Beginning::Http2(read) => self.hand_to_hyper(Reread::new(read, stream), peer, true),
        }
        Ok(())
    }

    fn hand_to_hyper(self: &Arc<Self>, stream: Reread, peer: IpAddr, is_http2: bool) {
        let by_hyper = Arc::clone(self).serve_by_hyper(stream, peer, is_http2);
        self.connections.spawn(by_hyper);
    }

    async fn serve_by_hyper(self: Arc<Self>, stream: Reread, peer: IpAddr, is_http2: bool) {
        let service = service_fn(|request: Request<Incoming>| {
            let app = Arc::clone(&self.app);
            async move { Ok::<_, Infallible>(routes::answer(app, request, peer).await) }
        });
        let builder = if is_http2 { &self.http2 } else { &self.http1 };
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = Box::pin(connection);
        let closing = async {
            if is_http2 {
                self.stop.cancelled().await;
            } else {
                self.last_moment().await;
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = closing => {
                connection.as_mut().graceful_shutdown();
                // It only stops keeping the connection alive; that streams end is the hub's doing.
                connection.as_mut().await
            }
        };
        // Most streams end so: the client went away.
        if let Err(error) = ended {
            if let Some(error) = error.downcast_ref::<hyper::Error>()
                && error.is_parse_too_large()
            {
                self.app.edge.refusals.count(Limit::Head);
            }
            tracing::debug!(%error, client = %peer, "connection ended");
            if is_timeout(&*error) {
                streams::drop_stalled(connection);
            }
        }
    }

    /// A step that a client has to take, and may not take for ever.
    async fn in_time<T>(&self, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let edge = &self.app.edge;
        let limited = time::timeout(edge.limits.request_time, step);
        tokio::select! {
            done = limited => done.unwrap_or_else(|_| {
                edge.refusals.count(Limit::Time);
                Err(io::ErrorKind::TimedOut.into())
            }),
            () = self.last_moment() => Err(io::Error::other("the hub is stopping")),
        }
    }

    /// Over when the hub stops and waits no longer for what is on its way.
    async fn last_moment(&self) {
        self.stop.cancelled().await;
        time::sleep(LAST_MOMENT).await;
    }
}

/// Whether it ended because its peer took nothing.
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::TimedOut)
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

impl Error for Unfinished {}

//! One hub: the parts, put together and run until a signal.

use anyhow::{Context, Result, anyhow, bail};
use embedded::Postgres;
use hub::{Hub, Limits};
use pg::{
    Backoff, Database, Doorbell, EventsTable, Feed, History, Link, Listener, Publisher,
    PublisherTask, Retention, Scene, Snapshot,
};
use server::{App, Edge, Gate, Health, Metrics, Pages, Settings};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{HubOptions, PrivateOptions, say},
    signals, systemd,
};

/// What a hub runs on: its place on the network and a database.
#[derive(Debug)]
pub(crate) struct Ground {
    listener: TcpListener,
    edge: Edge,
    gate: Gate,
    database: Database,
    /// The server behind `database`, if it is the private one.
    private: Option<Postgres>,
    /// What happens there, if it is a demo.
    scene: Option<Scene>,
    /// What is to be queried now and then.
    snapshots: Vec<Snapshot>,
}

/// A hub that is about to be run.
#[derive(Debug)]
pub(crate) struct Instance {
    app: Arc<App>,
    database: Database,
    listener: Listener,
    feed: Feed,
    publishing: PublisherTask,
    retention: Retention,
    snapshots: Vec<Snapshot>,
    metrics: pg::Metrics,
    /// Up once the schema is what this program needs.
    schema: watch::Sender<Link>,
}

// === impl Ground ===

impl Ground {
    /// Takes the user's database or else starts a private one, then takes the address. In this
    /// order because who starts the same thing twice is to be told which process has the data.
    pub(crate) async fn prepare(
        url: Option<&str>,
        private: PrivateOptions,
        hub: &HubOptions,
        holder: &str,
    ) -> Result<Self> {
        let address = hub.listen;
        let has_keys = hub.auth.keys.is_there();
        if !address.ip().is_loopback() && !has_keys && !hub.allow_anonymous {
            bail!(
                "{address} can be reached by others, who could read and publish everything: ask them for tokens with \
                 --auth-secret or --auth-keys, listen on a loopback address and have a proxy that authenticates \
                 before it, or say --allow-anonymous"
            );
        }
        if has_keys && hub.allow_anonymous {
            bail!(
                "--allow-anonymous is for a hub that asks nobody for a token, and this one has keys: name what \
                 everybody may read with --anonymous-subscribe PATTERN"
            );
        }
        let edge = hub.edge.open()?;
        let gate = hub.auth.gate().await?;
        let (database, private) = match url {
            Some(url) => (Database::parse(url)?, None),
            None => {
                let postgres = start_private(private, holder).await?;
                (Database::parse(&postgres.url())?, Some(postgres))
            }
        };
        let bound = listen(address).with_context(|| {
            format!("cannot listen on {address}: stop what does, or choose another address with --listen")
        });
        match (bound, private) {
            (Ok(listener), private) => Ok(Self {
                listener,
                edge,
                gate,
                database,
                private,
                scene: None,
                snapshots: Vec::new(),
            }),
            (Err(error), None) => Err(error),
            (Err(error), Some(postgres)) => {
                postgres.stop().await?;
                Err(error)
            }
        }
    }

    /// The database.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// The same with the tables of a demo.
    pub(crate) fn with(mut self, scene: Option<Scene>) -> Self {
        self.scene = scene;
        self
    }

    /// The same with snapshots to be taken.
    pub(crate) fn with_snapshots(mut self, snapshots: Vec<Snapshot>) -> Self {
        self.snapshots = snapshots;
        self
    }

    /// Runs a hub until it is told to stop, beside something that a ready hub is for.
    pub(crate) async fn run(
        mut self,
        options: &HubOptions,
        beside: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let address = self
            .listener
            .local_addr()
            .context("cannot tell the address that was taken")?;
        let scheme = if options.edge.has_tls() {
            "https"
        } else {
            "http"
        };
        let base = format!("{scheme}://{address}");
        let has_keys = options.auth.keys.is_there();
        let greeting = greeting(&base, self.private.as_ref(), self.scene, has_keys);
        let instance = Instance::new(self.database, self.edge, self.gate, self.snapshots, options);
        let app = Arc::clone(&instance.app);
        let stop = CancellationToken::new();

        let hub = instance.run(self.private.is_some(), self.scene, stop.clone());
        let once_ready = async {
            app.health.ready().await;
            say(greeting).context("cannot write to standard output")?;
            systemd::ready();
            beside.await
        };
        let serving = server::serve(self.listener, Arc::clone(&app), stop.clone(), options.grace);
        let notice = async {
            systemd::stopping();
            app.health.drain();
            time::sleep(options.drain_delay).await;
        };
        let done = tokio::select! {
            done = signals::drain(serving, notice, &stop) => done,
            failed = async { tokio::try_join!(hub, once_ready, signals::reload(&app)) } => failed.map(drop),
            () = exit_of(self.private.as_mut()) => {
                Err(anyhow!("the private Postgres has stopped by itself: see its log"))
            }
        };
        stop.cancel();
        if let Some(postgres) = self.private {
            postgres.stop().await?;
        }
        done
    }
}

/// How many connections may wait to be accepted (the kernel may allow fewer). When a hub
/// restarts, thousands of clients come back at once; who does not fit in tries again after
/// one second, then two, then four.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn start_private(options: PrivateOptions, holder: &str) -> Result<Postgres> {
    let data_dir = match options.data_dir {
        Some(dir) => dir,
        None => embedded::default_data_dir()?,
    };
    let builder = embedded::Builder::new(data_dir)
        .binaries(options.pg_bin)
        .holder(holder)
        // The role is named like our schema, so by Postgres's default, a schema named like the
        // user first, what somebody creates in psql would land among our tables.
        .setting("search_path", "public");
    // Ctrl-C while it starts drops it, which stops it.
    tokio::select! {
        started = builder.start() => Ok(started?),
        () = signals::asked_to_stop() => Err(anyhow!("stopped before the private Postgres was up")),
    }
}

/// Waits until the private server ends by itself.
async fn exit_of(private: Option<&mut Postgres>) {
    let Some(postgres) = private else {
        return std::future::pending().await;
    };
    if let Err(error) = postgres.exited().await {
        // Its absence will be noticed soon enough.
        tracing::warn!(%error, "cannot watch the private Postgres");
        std::future::pending::<()>().await;
    }
}

/// Lines to paste, each on its own, and then one that says that they will work.
fn greeting(
    base: &str,
    private: Option<&Postgres>,
    scene: Option<Scene>,
    has_keys: bool,
) -> String {
    let (page, topic, insert) = match scene {
        None => (
            "",
            if private.is_some() { "events" } else { ">" },
            r#"INSERT INTO events (name, properties) VALUES ('signup', '{\"plan\": \"pro\"}')"#,
        ),
        Some(Scene::Analytics) => (
            "/analytics",
            "events",
            r#"INSERT INTO events (name, properties) VALUES ('purchase', '{\"session\": \"me\"}')"#,
        ),
        Some(Scene::Shop) => (
            "/shop",
            "shop.>",
            "INSERT INTO orders (product_id, quantity, customer) VALUES (1, 2, 'me')",
        ),
        Some(Scene::Uptime) => (
            "/uptime?org=1",
            "org.1.>",
            "INSERT INTO probes (monitor_id, is_ok, latency_ms) VALUES (1, false, 9000)",
        ),
    };
    // `bellwether token` makes one.
    let token = if has_keys {
        "-H \"Authorization: Bearer $BELLWETHER_TOKEN\" "
    } else {
        ""
    };
    let mut lines = vec![
        format!("{base}{page}"),
        format!("curl -N {token}'{base}/v1/stream?topic={topic}'"),
    ];
    if let Some(postgres) = private {
        lines.push(format!("psql '{}' -c \"{insert}\"", postgres.url()));
    }
    lines.push("ready: what is inserted appears wherever the second line runs".to_owned());
    lines.join("\n")
}

// === impl Instance ===

impl Instance {
    fn new(
        database: Database,
        edge: Edge,
        gate: Gate,
        snapshots: Vec<Snapshot>,
        options: &HubOptions,
    ) -> Self {
        let limits = Limits {
            ring_frames: options.ring_events,
            ring_bytes: options.ring_bytes,
        };
        let settings = Settings {
            heartbeat: options.heartbeat,
            retry: options.retry,
            stall_timeout: options.stall_timeout,
        };
        let retention = Retention {
            max_age: Some(options.max_age).filter(|age| !age.is_zero()),
            max_events: Some(options.max_events).filter(|&events| events > 0),
        };
        let metrics = pg::Metrics::default();
        let doorbell = Doorbell::default();
        let listener = Listener::new(database.clone(), doorbell.clone(), metrics.clone());
        let feed = Feed::new(
            database.clone(),
            doorbell,
            metrics.clone(),
            limits.ring_frames,
        );
        let (publisher, publishing) = Publisher::new(&database, feed.at(), metrics.clone());
        let schema = watch::Sender::new(Link::Down("not connected yet".to_owned()));
        let history = History::new(&database, &metrics);
        let pages = Pages::new(history.clone());
        let hub = Hub::new(limits);
        let app = App {
            publisher,
            health: Health::new(vec![schema.subscribe(), listener.link(), feed.link()]),
            metrics: Metrics::new(&hub, &metrics, &pages, &edge),
            hub,
            history,
            pages,
            edge,
            gate,
            settings,
        };
        Self {
            app: Arc::new(app),
            database,
            listener,
            feed,
            publishing,
            retention,
            snapshots,
            metrics,
            schema,
        }
    }

    /// Makes the schema what it must be, then follows the database.
    async fn run(
        self,
        has_events_table: bool,
        scene: Option<Scene>,
        stop: CancellationToken,
    ) -> Result<()> {
        self.prepare_schema(has_events_table, scene).await?;
        // In tasks, whose threads also drive the connections and the clients: a wake from one thread
        // to another, such as the main one, costs more than many a look.
        let mut tasks = JoinSet::new();
        tasks.spawn(self.listener.run(stop.clone()));
        let (feed, app) = (self.feed, Arc::clone(&self.app));
        tasks.spawn(async move { server::ingest(feed, &app).await });
        tasks.spawn(self.publishing.run());
        for snapshot in self.snapshots {
            let (database, metrics) = (self.database.clone(), self.metrics.clone());
            tasks.spawn(snapshot.run(database, metrics, stop.clone()));
        }
        tasks.spawn(self.retention.run(self.database, self.metrics, stop));
        while let Some(ended) = tasks.join_next().await {
            ended.context("a task of the hub has failed")?;
        }
        Ok(())
    }

    /// Tries until it is done. Only what no waiting can mend is an error.
    async fn prepare_schema(&self, has_events_table: bool, scene: Option<Scene>) -> Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let prepared = async {
                pg::migrate(&self.database, pg::Purpose::Hub).await?;
                if has_events_table {
                    EventsTable::create(&self.database).await?;
                }
                if let Some(scene) = scene {
                    scene.create(&self.database).await?;
                }
                Ok::<_, pg::Error>(())
            };
            match prepared.await {
                Ok(()) => {
                    self.schema.send_replace(Link::Up);
                    return Ok(());
                }
                Err(error) if error.is_permanent() => return Err(error.into()),
                Err(error) => {
                    let delay = backoff.next(fastrand::f64());
                    let reason = pg::chain(&error);
                    tracing::warn!(error = %reason, retry_ms = delay.as_millis(), "no database yet");
                    self.schema
                        .send_replace(Link::Down(format!("no database yet: {reason}")));
                    time::sleep(delay).await;
                }
            }
        }
    }
}

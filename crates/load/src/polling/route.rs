//! The tutorial's route: a stream for each client, for which the database is asked again and
//! again what is newest, one row of `metrics_snapshots` and five of `events`.
//!
//! It has it easier than in the tutorial: its queries are prepared, find the newest rows by the
//! primary key, and come from a pool of ten connections; and it runs in this process, so that its
//! own processor time is not counted. Times and JSON come as text, as Node's driver has them.

use anyhow::{Context, Result};
use deadpool_postgres::{Client, Config, Pool, PoolConfig, Runtime};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_postgres::{NoTls, Row};

const SNAPSHOT: &str = "
    SELECT id, page_views, active_sessions, events_count, recorded_at::text
    FROM metrics_snapshots ORDER BY id DESC LIMIT 1";
const ACTIVITY: &str = "
    SELECT id, name, properties::text, created_at::text FROM events ORDER BY id DESC LIMIT 5";

const HEAD: &str = "HTTP/1.1 200 OK\r\n\
    Content-Type: text/event-stream\r\n\
    Cache-Control: no-cache, no-transform\r\n\
    X-Accel-Buffering: no\r\n\
    Connection: close\r\n\r\n\
    retry: 5000\n\n";

/// Connections to the database.
const POOL: usize = 10;

/// Serves until it is dropped.
pub(super) struct Route {
    pub(super) address: SocketAddr,
    _accepting: JoinSet<Result<()>>,
}

impl Route {
    pub(super) async fn start(url: &str, every: Duration) -> Result<Self> {
        let mut config = Config::new();
        config.url = Some(url.to_owned());
        config.pool = Some(PoolConfig::new(POOL));
        let pool = config.create_pool(Some(Runtime::Tokio1), NoTls)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, pool, every));
        Ok(Self {
            address,
            _accepting: accepting,
        })
    }
}

async fn accept(listener: TcpListener, pool: Pool, every: Duration) -> Result<()> {
    let mut streams = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        // If one ends, its dashboard tells.
        streams.spawn(stream(socket, pool.clone(), every));
    }
}

async fn stream(socket: TcpStream, pool: Pool, every: Duration) -> Result<()> {
    let mut socket = BufReader::new(socket);
    let mut line = String::new();
    while socket.read_line(&mut line).await? > "\r\n".len() {
        line.clear();
    }
    socket.write_all(HEAD.as_bytes()).await?;
    let mut ticks = time::interval(every);
    for id in 1_u64.. {
        ticks.tick().await;
        let client = pool.get().await?;
        let snapshot = ask(&client, SNAPSHOT).await?;
        let activity = ask(&client, ACTIVITY).await?;
        drop(client);
        let metrics = snapshot.iter().map(snapshot_json).next();
        let metrics = metrics.context("there is a snapshot")??;
        let activity: Result<Vec<_>> = activity.iter().map(event_json).collect();
        let activity = Value::from(activity?);
        let text = format!(
            "id: {id}\nevent: metrics\ndata: {metrics}\n\n\
            id: {id}\nevent: activity\ndata: {activity}\n\n: heartbeat\n\n"
        );
        socket.write_all(text.as_bytes()).await?;
    }
    Ok(())
}

async fn ask(client: &Client, query: &str) -> Result<Vec<Row>> {
    let query = client.prepare_cached(query).await?;
    Ok(client.query(&query, &[]).await?)
}

fn snapshot_json(row: &Row) -> Result<Value> {
    Ok(json!({
        "id": row.try_get::<_, i32>(0)?,
        "page_views": row.try_get::<_, i32>(1)?,
        "active_sessions": row.try_get::<_, i32>(2)?,
        "events_count": row.try_get::<_, i32>(3)?,
        "recorded_at": row.try_get::<_, &str>(4)?,
    }))
}

fn event_json(row: &Row) -> Result<Value> {
    Ok(json!({
        "id": row.try_get::<_, i32>(0)?,
        "name": row.try_get::<_, &str>(1)?,
        "properties": serde_json::from_str::<Value>(row.try_get(2)?)?,
        "created_at": row.try_get::<_, &str>(3)?,
    }))
}

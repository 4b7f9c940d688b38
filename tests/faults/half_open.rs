use embedded::Postgres;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    process,
    time::Duration,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

use super::{is_not_ready, is_ready};
use crate::harness::{Delivery, Hub, HubOptions, TestDatabase, private_postgres};

/// What README says: how long a line may be dead unnoticed.
const NOTICED: Duration = Duration::from_secs(15);

/// For what the machine does meanwhile.
const LENIENCE: Duration = Duration::from_secs(10);

/// A network namespace with two lines to ours: over one, it is asked how it is; the other one
/// leads to the database, and can be cut.
struct Island {
    name: String,
    line: String,
    ours: Ipv4Addr,
    theirs: Ipv4Addr,
}

impl Island {
    fn make() -> Self {
        let id = process::id();
        let name = format!("bellwether-{id}");
        let (line, control) = (format!("bwl{id}"), format!("bwc{id}"));
        // Addresses for tests of networks (RFC 2544), which nobody else has.
        let [high, low] = u16::try_from(id % (1 << 13)).unwrap().to_be_bytes();
        let base =
            u32::from(Ipv4Addr::new(198, 18, 0, 0)) + u32::from_be_bytes([0, 0, high, low]) * 8;
        let address = |host: u32| Ipv4Addr::from(base + host);
        let made = ip(&format!("netns add {name}"));
        made.unwrap_or_else(|error| {
            panic!(
                "{error}: this test makes a network namespace, for which it needs iproute2 and \
                 the right to (CAP_NET_ADMIN and CAP_SYS_ADMIN): run it as root"
            )
        });
        let island = Self {
            ours: address(1),
            theirs: address(6),
            name,
            line,
        };
        let Self { name, line, .. } = &island;
        for command in [
            format!("link add {line} type veth peer name db netns {name}"),
            format!("addr add {}/30 dev {line}", address(1)),
            format!("link set {line} up"),
            format!("-n {name} addr add {}/30 dev db", address(2)),
            format!("-n {name} link set db up"),
            format!("link add {control} type veth peer name http netns {name}"),
            format!("addr add {}/30 dev {control}", address(5)),
            format!("link set {control} up"),
            format!("-n {name} addr add {}/30 dev http", address(6)),
            format!("-n {name} link set http up"),
        ] {
            ip(&command).unwrap();
        }
        island
    }

    /// From now on, what either side sends vanishes.
    fn cut(&self) {
        ip(&format!("link set {} down", self.line)).unwrap();
    }

    fn heal(&self) {
        ip(&format!("link set {} up", self.line)).unwrap();
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // The lines go with it.
        if let Err(error) = ip(&format!("netns delete {}", self.name)) {
            eprintln!("{error}");
        }
    }
}

fn ip(args: &str) -> Result<(), String> {
    let output = process::Command::new("ip").args(args.split(' ')).output();
    let output = output.map_err(|error| format!("ip {args}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {args}: {}", why.trim()))
}

/// Takes connections to the database on our end of the line.
async fn door(address: Ipv4Addr, port: u16) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((address, 0)).await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        let mut visits = JoinSet::new();
        while let Ok((mut visitor, _)) = listener.accept().await {
            visits.spawn(async move {
                let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                copy_bidirectional(&mut visitor, &mut server).await
            });
        }
    });
    Ok(at)
}

#[tokio::test]
async fn packets_that_vanish_are_noticed_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let server = private_postgres(folder.path()).await;
    let database = TestDatabase::of(&server);
    Hub::start(&database).await.kill().await;
    let island = Island::make();
    let door = door(island.ours, server.port()).await.unwrap();
    let inside = format!("127.0.0.1:{}", server.port());
    let url = database.url.replace(&inside, &door.to_string());
    let options = HubOptions {
        listen: format!("{}:0", island.theirs),
        args: vec!["--allow-anonymous".to_owned()],
        network: Some(island.name.clone()),
        ..HubOptions::default()
    };
    let hub = Hub::spawn(&url, options).await.unwrap();
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    database.insert(1).await;
    let mut seen = client.events(1).await;

    for _ in 0..2 {
        hub.is_asleep().await;
        island.cut();
        let began = Instant::now();
        database.insert(10).await;
        is_not_ready(&hub, "not following the stream").await;
        let took = began.elapsed();
        eprintln!("a dead line was noticed within {took:?}");
        assert!(
            took < NOTICED + LENIENCE,
            "the kernel alone takes far longer"
        );
        is_not_ready(&hub, "not listening").await;
        database.insert(10).await;
        island.heal();
        seen.extend(client.events(20).await);
        is_ready(&hub).await;
    }
    // A busy hub, too.
    database.insert(100).await;
    island.cut();
    database.insert(100).await;
    is_not_ready(&hub, "not following the stream").await;
    island.heal();
    seen.extend(client.events(200).await);

    let (epoch, _) = client.cursor().split_once('-').unwrap();
    for (event, seq) in seen.iter().zip(1..) {
        assert_eq!(event.id, format!("{epoch}-{seq}"));
    }
    assert_eq!(seen.len(), 241);
    drop(hub);
    server.stop().await.unwrap();
}

/// A server that is frozen to its last process answers no packet with a word, but its kernel
/// does: connections stay open, and new ones are taken.
#[tokio::test]
async fn a_frozen_server_is_noticed_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let server = private_postgres(folder.path()).await;
    let database = TestDatabase::of(&server);
    let options = HubOptions::args(&["--ring-events", "2"]);
    let mut hub = Hub::start_with(&database, options).await;
    let mut client = hub.stream("topic=events").await;
    let first = client.opened().await.cursor().to_owned();
    database.insert(5).await;
    client.events(5).await;

    let frozen = freeze(&server);
    let began = Instant::now();
    is_not_ready(&hub, "not following the stream: no answer within").await;
    is_not_ready(&hub, "not listening: no answer within").await;
    let took = began.elapsed();
    eprintln!("a frozen server was noticed within {took:?}");
    assert!(took < NOTICED + LENIENCE);
    // Who wants what only the server has is sent away to come back, rather than left waiting.
    let mut early = hub.resume("topic=events", &first).await;
    assert!(matches!(early.next().await, Delivery::Retry(_)));
    while early.next().await != Delivery::End {}
    thaw(&frozen);

    is_ready(&hub).await;
    database.insert(5).await;
    assert!(client.events(5).await[4].id.ends_with("-10"));
    let mut early = hub.resume("topic=events", &first).await;
    assert!(early.events(10).await[9].id.ends_with("-10"));

    // And a hub that is told to stop does not wait for it.
    let frozen = freeze(&server);
    hub.terminate();
    assert_eq!(hub.exit_code().await, Some(0));
    thaw(&frozen);
    server.stop().await.unwrap();
}

/// Stops a postmaster and its children, and returns which.
fn freeze(server: &Postgres) -> Vec<Pid> {
    let postmaster = server.pid();
    let parent = Pid::from_raw(postmaster.try_into().unwrap());
    kill(parent, Signal::SIGSTOP).unwrap();
    let children = format!("/proc/{postmaster}/task/{postmaster}/children");
    let children = std::fs::read_to_string(children).unwrap();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    let frozen: Vec<Pid> = children.map(Pid::from_raw).chain([parent]).collect();
    send(&frozen, Signal::SIGSTOP);
    frozen
}

fn thaw(frozen: &[Pid]) {
    send(frozen, Signal::SIGCONT);
}

fn send(processes: &[Pid], signal: Signal) {
    for &process in processes {
        // A child that was about to end has ended.
        let _: nix::Result<()> = kill(process, signal);
    }
}

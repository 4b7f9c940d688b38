//! Other people's proxies, with the configurations that `packaging/` has for them.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::{eventually, within};

/// Where the configurations have a hub, which is replaced by hubs.
const HUB: &str = "127.0.0.1:7080";

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Caddy,
    Haproxy,
}

/// A proxy in front of hubs. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    _process: Child,
    _folder: TempDir,
    /// Where it takes HTTP/1.1 in clear text.
    pub(crate) address: SocketAddr,
    /// Where it takes HTTP/1.1 and HTTP/2 over TLS.
    pub(crate) tls: SocketAddr,
}

impl Kind {
    /// The one that all hubs are to be tested behind, if there is one (`cargo xtask proxies`).
    pub(crate) fn of_all_hubs() -> Option<Self> {
        let name = std::env::var("BELLWETHER_TEST_PROXY").ok()?;
        let kind = match name.as_str() {
            "nginx" => Self::Nginx,
            "caddy" => Self::Caddy,
            "haproxy" => Self::Haproxy,
            other => panic!("BELLWETHER_TEST_PROXY={other:?}: nginx, caddy or haproxy"),
        };
        Some(kind)
    }

    /// The configuration as it stands in `packaging/`.
    fn packaged(self) -> &'static str {
        match self {
            Self::Nginx => include_str!("../../packaging/proxy/nginx.conf"),
            Self::Caddy => include_str!("../../packaging/proxy/Caddyfile"),
            Self::Haproxy => include_str!("../../packaging/proxy/haproxy.cfg"),
        }
    }
}

/// Where a proxy has its files, what it is before, and where it listens.
#[derive(Clone, Copy)]
struct Site<'a> {
    folder: &'a Path,
    hubs: &'a [SocketAddr],
    address: SocketAddr,
    tls: SocketAddr,
}

impl Proxy {
    /// As it is packaged.
    pub(crate) async fn start(kind: Kind, hubs: &[SocketAddr]) -> Self {
        Self::start_with(kind, hubs, &[]).await
    }

    /// With some of the configuration's text replaced by another.
    pub(crate) async fn start_with(
        kind: Kind,
        hubs: &[SocketAddr],
        replaced: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (address, tls) = (free_address(), free_address());
        certify(folder.path()).await;
        let mut config = kind.packaged().to_owned();
        for (from, to) in replaced {
            replace(&mut config, from, to);
        }
        let site = Site {
            folder: folder.path(),
            hubs,
            address,
            tls,
        };
        let mut command = match kind {
            Kind::Nginx => nginx(config, site),
            Kind::Caddy => caddy(config, site),
            Kind::Haproxy => haproxy(config, site),
        };
        let process = command.kill_on_drop(true).stdin(Stdio::null()).spawn();
        let missing = "cargo xtask test installs it";
        let proxy = Self {
            _process: process.unwrap_or_else(|error| panic!("{kind:?}: {error}: {missing}")),
            _folder: folder,
            address,
            tls,
        };
        eventually("the proxy listens", true, async || {
            TcpStream::connect(tls).await.is_ok()
        })
        .await;
        proxy
    }
}

fn nginx(mut config: String, site: Site<'_>) -> Command {
    each_hub(&mut config, site.hubs);
    let listen = format!("listen {}; listen {} ssl http2;", site.address, site.tls);
    replace(&mut config, "listen 443 ssl http2;", &listen);
    let folder = site.folder.display();
    replace(&mut config, "/etc/ssl/", &format!("{folder}/"));
    fs::write(format!("{folder}/bellwether.conf"), config).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|of| format!("{of}_temp_path {folder}/{of}; "))
        .concat();
    let main = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr error;
         events {{ worker_connections 4096; }}
         http {{ access_log off; {temporary} include {folder}/bellwether.conf; }}"
    );
    let path = format!("{folder}/nginx.conf");
    fs::write(&path, main).unwrap();
    let mut command = debian("nginx");
    command.args(["-e", "stderr", "-c", &path]);
    command
}

fn caddy(mut config: String, site: Site<'_>) -> Command {
    let hubs: Vec<String> = site.hubs.iter().map(ToString::to_string).collect();
    replace(&mut config, HUB, &hubs.join(" "));
    let folder = site.folder.display();
    // The same in clear text and over TLS.
    replace(&mut config, "events.example.com {", "(events) {");
    let key = format!("{folder}/events.example.com.key");
    let (plain, secure) = (site.address.port(), site.tls.port());
    let sites = format!(
        "http://:{plain} {{\nbind 127.0.0.1\nimport events\n}}\n\
         https://:{secure} {{\nbind 127.0.0.1\ntls {folder}/events.example.com.pem {key}\nimport events\n}}\n"
    );
    let global = "{\nadmin off\nauto_https disable_redirects\nlog {\nlevel ERROR\n}\n}\n";
    let path = format!("{folder}/Caddyfile");
    fs::write(&path, format!("{global}{config}{sites}")).unwrap();
    let mut command = debian("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config", &path]);
    for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
        command.env(name, folder.to_string());
    }
    command
}

fn haproxy(mut config: String, site: Site<'_>) -> Command {
    each_hub(&mut config, site.hubs);
    replace(
        &mut config,
        "bind :443",
        &format!("bind {}\n    bind {}", site.address, site.tls),
    );
    // So many need more file descriptors than a test may have.
    replace(&mut config, "maxconn 100000", "maxconn 4000");
    let folder = site.folder.display();
    replace(&mut config, "/etc/ssl/", &format!("{folder}/"));
    let path = format!("{folder}/haproxy.cfg");
    fs::write(&path, config).unwrap();
    let mut command = debian("haproxy");
    command.args(["-db", "-q", "-f", &path]);
    command
}

/// Makes the line with the hub one for each.
fn each_hub(config: &mut String, hubs: &[SocketAddr]) {
    let line = config.lines().find(|line| line.contains(HUB));
    let line = line.expect("there is one").to_owned();
    let lines: Vec<String> = (1..)
        .zip(hubs)
        .map(|(nth, hub)| {
            let line = line.replace(HUB, &hub.to_string());
            line.replace("hub1", &format!("hub{nth}"))
        })
        .collect();
    replace(config, &line, &lines.join("\n"));
}

#[track_caller]
fn replace(config: &mut String, from: &str, to: &str) {
    assert!(config.contains(from), "{from:?} is in the configuration");
    *config = config.replace(from, to);
}

/// A certificate that nobody trusts, and its key: apart, and in one file as `HAProxy` wants it.
async fn certify(folder: &Path) {
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-nodes", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-subj", "/CN=events.example.com", "-days", "1"])
        .args([
            "-keyout",
            "events.example.com.key",
            "-out",
            "events.example.com.pem",
        ])
        .current_dir(folder);
    let made = within("a certificate", openssl.output()).await.unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let both = read("events.example.com.pem") + &read("events.example.com.key");
    fs::write(folder.join("events.example.com.pem"), both).unwrap();
}

/// A program that Debian may have put where only root looks.
fn debian(program: &str) -> Command {
    let path = Path::new("/usr/sbin").join(program);
    if path.is_file() {
        Command::new(path)
    } else {
        Command::new(program)
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

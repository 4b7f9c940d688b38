use super::{ask, ask_with, now};
use crate::harness::{Hub, HubOptions, TestDatabase, bellwether, eventually, within};
use auth::Signer;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};
use tokio::net::TcpListener;

const PATH: &str = "/v1/events?topic=a";

/// Runs openssl as `docs/authentication.md` shows it.
fn openssl(folder: &Path, args: &str) {
    let ran = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{args}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// A private and a public key, as PEM, of each kind.
fn make_keys(folder: &Path) {
    for (name, how) in [
        ("ed", "-algorithm ed25519"),
        ("ec", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
        ("rsa", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
    ] {
        openssl(folder, &format!("genpkey {how} -out {name}-private.pem"));
        openssl(
            folder,
            &format!("pkey -in {name}-private.pem -pubout -out {name}.pem"),
        );
    }
}

async fn made_token(args: &[&str]) -> String {
    let made = bellwether()
        .args(["token", "--subscribe", "a"])
        .args(args)
        .output();
    let made = within("a token", made).await.unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// Keys of openssl, one or all of them in a file, or in the environment.
#[tokio::test]
async fn keys_of_openssl() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    make_keys(folder.path());
    let kinds = ["ed", "ec", "rsa"];
    let all = kinds.map(|kind| text(&format!("{kind}.pem"))).concat();
    std::fs::write(path("all.pem"), &all).unwrap();
    let hub = Hub::start_with(
        &database,
        HubOptions::args(&["--auth-keys", &path("all.pem")]),
    )
    .await;
    let in_environment = HubOptions {
        env: vec![("BELLWETHER_AUTH_KEYS".to_owned(), text("rsa.pem"))],
        ..HubOptions::default()
    };
    let one = Hub::start_with(&database, in_environment).await;
    for kind in kinds {
        let token = made_token(&["--auth-keys", &path(&format!("{kind}-private.pem"))]).await;
        assert_eq!(ask_with(&hub, PATH, &token).await.0, 200, "{kind}");
        let expected = if kind == "rsa" { 200 } else { 401 };
        assert_eq!(ask_with(&one, PATH, &token).await.0, expected, "{kind}");
    }
    // What is public is no secret to sign with, however it is written.
    for secret in [
        all.as_str(),
        &text("rsa.pem"),
        text("rsa.pem").trim(),
        &text("ec.pem"),
    ] {
        let claims = json!({"exp": now() + 60, "bellwether": {"subscribe": ["a"]}});
        let token = Signer::secret(secret).unwrap().sign(&claims).unwrap();
        assert_eq!(ask_with(&hub, PATH, &token).await.0, 401);
        assert_eq!(ask_with(&one, PATH, &token).await.0, 401);
    }
    for (keys, part) in [
        (path("ec-private.pem"), "the public one only"),
        (path("none.pem"), "cannot read the keys"),
    ] {
        let options = HubOptions::args(&["--auth-keys", &keys]);
        let (status, said) = Hub::spawn(&database.url, options).await.unwrap_err();
        assert_eq!(status.code(), Some(1));
        assert!(said.contains(part), "{said}");
    }
    let made = bellwether()
        .args(["token", "--auth-keys", &path("ec.pem")])
        .output();
    let made = within("no token", made).await.unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(
        !made.status.success() && said.contains("nothing to sign with"),
        "{said}"
    );
}

/// Keys come and go while the hub runs, and what cannot be read takes none away.
#[tokio::test]
async fn a_file_is_read_again_at_sighup() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let (old, new) = (Named::new("old"), Named::new("new"));
    let write = |keys: &[&Named]| {
        let set: Vec<_> = keys.iter().map(|key| &key.jwk).collect();
        std::fs::write(&path, json!({"keys": set}).to_string()).unwrap();
    };
    write(&[&old]);
    let args = HubOptions::args(&["--auth-keys", path.to_str().unwrap()]);
    let hub = Hub::start_with(&database, args).await;
    let statuses = async || {
        let old = ask_with(&hub, PATH, &old.token()).await.0;
        (old, ask_with(&hub, PATH, &new.token()).await.0)
    };
    assert_eq!(statuses().await, (200, 401));
    let hang_up = || kill(hub.pid(), Signal::SIGHUP).unwrap();
    write(&[&old, &new]);
    assert_eq!(statuses().await, (200, 401), "not before it is told");
    hang_up();
    eventually("both", (200, 200), statuses).await;
    write(&[&new]);
    hang_up();
    eventually("the new one only", (401, 200), statuses).await;
    std::fs::write(&path, "no keys").unwrap();
    hang_up();
    std::fs::remove_file(&path).unwrap();
    hang_up();
    // It has read both by the time that it has read this.
    write(&[&old, &new]);
    hang_up();
    eventually("both again", (200, 200), async || {
        let statuses = statuses().await;
        assert_eq!(statuses.1, 200, "what was good last is kept");
        statuses
    })
    .await;
}

/// Names of keys are names and nothing else.
#[tokio::test]
async fn a_kid_is_only_a_name() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let secret = super::SECRET;
    let set = json!({"keys": [
        {"kty": "oct", "kid": "one", "k": URL_SAFE_NO_PAD.encode(secret)},
        {"kty": "oct", "kid": "two", "k": URL_SAFE_NO_PAD.encode("the other secret, which nobody has")},
    ]});
    let path = folder.path().join("keys.json");
    std::fs::write(&path, set.to_string()).unwrap();
    let args = HubOptions::args(&["--auth-keys", path.to_str().unwrap()]);
    let hub = Hub::start_with(&database, args).await;
    let claims = json!({"exp": now() + 60, "bellwether": {"subscribe": ["a"]}});
    let signer = Signer::secret(secret).unwrap();
    let file = path.to_str().unwrap().to_owned();
    let long = "x".repeat(4000);
    for (id, expected) in [
        (None, 200),
        (Some("one"), 200),
        (Some("two"), 401),
        (Some("ONE"), 401),
        (Some(" one"), 401),
        (Some(""), 401),
        (Some("../../../../dev/null"), 401),
        (Some(file.as_str()), 401),
        (Some("' OR 1=1 --"), 401),
        (Some("one\u{0}"), 401),
        (Some("$(id)"), 401),
        (Some(long.as_str()), 401),
    ] {
        let token = signer.sign_as(id, &claims).unwrap();
        assert_eq!(ask_with(&hub, PATH, &token).await.0, expected, "{id:?}");
    }
    // A key that comes along is not the one to verify with, nor is one at an address that it names.
    let own = "a secret of the forger's own, of 32 bytes";
    for header in [
        json!({"alg": "HS256", "jwk": {"kty": "oct", "k": URL_SAFE_NO_PAD.encode(own)}}),
        json!({"alg": "HS256", "jku": "http://127.0.0.1:1/keys.json"}),
        json!({"alg": "HS256", "kid": "one", "x5u": "http://127.0.0.1:1/"}),
    ] {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, own.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, message.as_bytes()));
        let token = format!("{message}.{signature}");
        assert_eq!(ask_with(&hub, PATH, &token).await.0, 401, "{header}");
    }
}

/// An Ed25519 key with a name.
struct Named {
    id: &'static str,
    signer: Signer,
    jwk: Value,
}

impl Named {
    fn new(id: &'static str) -> Self {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
        let encoded = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{encoded}\n-----END PRIVATE KEY-----\n");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        Self {
            id,
            signer: Signer::private_key(&pem).unwrap(),
            jwk: json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": x}),
        }
    }

    fn token(&self) -> String {
        let claims = json!({"exp": now() + 600, "bellwether": {"subscribe": ["a"]}});
        self.signer.sign_as(Some(self.id), &claims).unwrap()
    }
}

/// What answers at the address of keys: what, and how often it was asked.
#[derive(Clone, Default)]
struct Provider(Arc<Mutex<(u16, String, u32)>>);

impl Provider {
    fn set(&self, status: u16, keys: &[&Named]) {
        let set: Vec<_> = keys.iter().map(|key| &key.jwk).collect();
        let mut state = self.0.lock().unwrap();
        (state.0, state.1) = (status, json!({"keys": set}).to_string());
    }

    fn times(&self) -> u32 {
        self.0.lock().unwrap().2
    }

    async fn listen(&self, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let provider = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let provider = provider.clone();
                let service = service_fn(move |_: Request<Incoming>| {
                    let mut state = provider.0.lock().unwrap();
                    state.2 += 1;
                    let answer = Response::builder()
                        .status(state.0)
                        .header("Location", "/elsewhere")
                        .body(Full::<bytes::Bytes>::from(state.1.clone()));
                    async move { Ok::<_, Infallible>(answer.unwrap()) }
                });
                let io = TokioIo::new(stream);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service),
                );
            }
        });
        address
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn keys_at_an_address_change() {
    let database = TestDatabase::create().await;
    let provider = Provider::default();
    let (old, new) = (Named::new("old"), Named::new("new"));
    provider.set(200, &[&old]);
    let address = provider.listen(loopback()).await;
    let args = HubOptions::args(&["--auth-keys", &format!("http://{address}/jwks")]);
    let hub = Hub::start_with(&database, args).await;
    let status = async |token: &str| ask_with(&hub, PATH, token).await.0;
    assert_eq!(status(&old.token()).await, 200);
    assert_eq!(provider.times(), 1, "what it has it does not ask for");
    assert_eq!(status(&new.token()).await, 401);

    // A name that is not known makes it look, and however many come, not more often than it should.
    provider.set(200, &[&old, &new]);
    eventually("the new key", 200, async || status(&new.token()).await).await;
    assert_eq!(status(&old.token()).await, 200);
    let before = provider.times();
    let strangers: Vec<_> = (0..200).map(|_| Named::new("stranger").token()).collect();
    let began = tokio::time::Instant::now();
    for stranger in &strangers {
        assert_eq!(status(stranger).await, 401);
    }
    let most = 1 + u32::try_from(began.elapsed().as_secs() / 5).unwrap();
    assert!(
        provider.times() - before <= most,
        "{} of {most}",
        provider.times() - before
    );

    // What is no longer there does not count any more. Nor do keys of a stranger's name.
    provider.set(200, &[&new]);
    eventually("the old key is gone", 401, async || {
        status(&strangers[0]).await;
        status(&old.token()).await
    })
    .await;

    // An address that fails takes nothing away.
    for (code, keys) in [(500, &[&new][..]), (302, &[&old]), (200, &[])] {
        provider.set(code, keys);
        let before = provider.times();
        eventually("it has asked", true, async || {
            assert_eq!(status(&strangers[0]).await, 401);
            provider.times() > before
        })
        .await;
        assert_eq!(status(&new.token()).await, 200, "{code}");
        assert_eq!(status(&old.token()).await, 401, "{code}");
    }
}

/// A hub that begins before its keys can be had sends nobody away for good.
#[tokio::test]
async fn keys_that_come_later() {
    let database = TestDatabase::create().await;
    let address = TcpListener::bind(loopback())
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let args = HubOptions::args(&["--auth-keys", &format!("http://{address}/jwks")]);
    let hub = Hub::start_with(&database, args).await;
    let key = Named::new("key");
    let token = key.token();
    let (status, headers, text) = ask_with(&hub, PATH, &token).await;
    assert_eq!(
        (status, &headers["retry-after"]),
        (503, &"1".parse().unwrap()),
        "{text}"
    );
    let (status, headers, text) = ask_with(&hub, "/v1/stream?topic=a", &token).await;
    assert_eq!(
        (status, &headers["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    assert!(text.starts_with("retry: "), "{text}");
    assert_eq!(
        text.lines().filter(|line| !line.is_empty()).count(),
        1,
        "and nothing else: {text}"
    );
    assert_eq!(
        ask(&hub, PATH, &[]).await.0,
        401,
        "it is locked all the same"
    );

    let provider = Provider::default();
    provider.set(200, &[&key]);
    provider.listen(address).await;
    eventually("the keys", 200, async || {
        ask_with(&hub, PATH, &token).await.0
    })
    .await;
}

/// Over TLS, with a certificate that the machine trusts, and not with any other.
#[tokio::test]
async fn keys_at_an_address_over_tls() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let key = Named::new("key");
    let body = json!({"keys": [&key.jwk]}).to_string();
    let answer = format!(
        "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    std::fs::write(folder.path().join("jwks"), answer).unwrap();
    openssl(
        folder.path(),
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem \
         -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE",
    );
    let free = TcpListener::bind(loopback())
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let _server = tokio::process::Command::new("openssl")
        .args([
            "s_server", "-quiet", "-HTTP", "-cert", "cert.pem", "-key", "key.pem", "-accept",
        ])
        .arg(free.to_string())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("it listens", true, async || {
        tokio::net::TcpStream::connect(free).await.is_ok()
    })
    .await;
    let keys = format!("https://{free}/jwks");
    let cert = folder.path().join("cert.pem");
    let options = HubOptions::args(&["--auth-keys", &keys]);
    let stranger = Hub::start_with(&database, options.clone()).await;
    assert_eq!(ask_with(&stranger, PATH, &key.token()).await.0, 503);
    let trusting = HubOptions {
        env: vec![(
            "SSL_CERT_FILE".to_owned(),
            cert.to_str().unwrap().to_owned(),
        )],
        ..options
    };
    let hub = Hub::start_with(&database, trusting).await;
    assert_eq!(ask_with(&hub, PATH, &key.token()).await.0, 200);
}

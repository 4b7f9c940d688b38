use embedded::Postgres;
use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
};
use tempfile::TempDir;

use crate::harness::{
    Authority, Hub, HubOptions, TestDatabase, bellwether, eventually, private_postgres, within,
};

/// A server of its own, with a certificate for these names.
struct Server {
    postgres: Postgres,
    _folder: TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("bellwether-tls-")
            .permissions(Permissions::from_mode(0o755)) // the server may be another user's
            .tempdir()
            .unwrap();
        let postgres = private_postgres(&folder.path().join("postgres")).await;
        Self {
            postgres,
            _folder: folder,
        }
    }

    fn database(&self) -> TestDatabase {
        TestDatabase::of(&self.postgres)
    }

    /// Writes a file into the server's folder, as its own.
    fn write(&self, name: &str, text: &str) {
        let folder = self.postgres.data_dir().join("pgdata");
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let owner = fs::metadata(&folder).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    /// Has it show this certificate to whoever connects from now on.
    async fn show(&self, authority: &Authority, names: &[&str]) {
        let (cert, key) = authority.issue(names);
        self.write("server.crt", &cert);
        self.write("server.key", &key);
        self.set("ssl", "on").await;
    }

    async fn set(&self, name: &str, value: &str) {
        let psql = self.database().connect().await;
        // Not in one: ALTER SYSTEM runs outside transactions.
        for sql in [
            format!("ALTER SYSTEM SET {name} = '{value}'"),
            "SELECT pg_reload_conf()".to_owned(),
        ] {
            psql.batch_execute(&sql).await.unwrap();
        }
        eventually("the server has noticed", value.to_owned(), async || {
            let show = format!("SHOW {name}");
            let row = self.database().connect().await.query_one(&show, &[]).await;
            row.unwrap().get(0)
        })
        .await;
    }

    fn url(&self, parameters: &str) -> String {
        format!("{}?{parameters}", self.postgres.url())
    }
}

/// What `bellwether doctor` says of a connection; whether it can connect.
async fn doctor(url: &str) -> (bool, String) {
    let mut command = bellwether();
    let output = command.args(["doctor", "--database-url", url]).output();
    let output = within("a diagnosis", output).await.unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (!text.contains("cannot connect"), text)
}

/// What a hub says that cannot start.
async fn refusal(url: &str) -> String {
    let options = HubOptions {
        is_quiet: true,
        ..HubOptions::default()
    };
    let (status, said) = Hub::spawn(url, options).await.expect_err("it ends at once");
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

#[tokio::test]
async fn every_connection_is_encrypted_and_verified() {
    let server = Server::start().await;
    let authority = Authority::new();
    server.show(&authority, &["127.0.0.1"]).await;
    let ca = authority.path("ca.pem");
    let url = server.url(&format!("sslmode=verify-full&sslrootcert={ca}"));
    let hub = Hub::spawn(&url, HubOptions::default()).await.unwrap();
    let database = server.database();
    database.create_events_table().await;
    let mut stream = hub.stream("topic=events").await;
    stream.opened().await;
    database.insert(3).await;
    assert_eq!(stream.events(3).await.len(), 3);
    let request = http::Request::post("/v1/events")
        .header("Host", "test")
        .header("Content-Type", "application/json")
        .body(r#"{"topic": "events", "event": "n", "data": 1}"#.into())
        .unwrap();
    let (status, _, text) = crate::harness::request_whole(hub.address, request).await;
    assert_eq!(status, 201, "{text}");
    let ask = "SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl)
        FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'bellwether'";
    let row = database.connect().await.query_one(ask, &[]).await.unwrap();
    let (with, without): (i64, i64) = (row.get(0), row.get(1));
    assert!(
        with >= 3,
        "the listener, the sequencer and the pool: {with}"
    );
    assert_eq!(without, 0);
    drop(hub);
    server.postgres.stop().await.unwrap();
}

#[tokio::test]
async fn who_else_shows_a_certificate_is_refused() {
    let server = Server::start().await;
    let (authority, other) = (Authority::new(), Authority::new());
    let (ca, other_ca) = (authority.path("ca.pem"), other.path("ca.pem"));
    let mode = |mode: &str, ca: &str| server.url(&format!("sslmode={mode}&sslrootcert={ca}"));

    // It speaks no TLS yet.
    let said = refusal(&server.url("sslmode=require")).await;
    assert!(said.contains("server does not support TLS"), "{said}");
    let said = refusal(&mode("verify-full", &ca)).await;
    assert!(said.contains("server does not support TLS"), "{said}");
    for mode in ["disable", "allow", "prefer"] {
        let (can_connect, said) = doctor(&server.url(&format!("sslmode={mode}"))).await;
        assert!(can_connect, "{said}");
    }

    // Its certificate is for another name.
    server.show(&authority, &["db.test"]).await;
    let said = refusal(&mode("verify-full", &ca)).await;
    assert!(said.contains("not valid for name"), "{said}");
    for url in [mode("verify-ca", &ca), mode("require", &ca)] {
        let (can_connect, said) = doctor(&url).await;
        assert!(can_connect, "{said}");
    }

    // It was signed by somebody else.
    for mode in [
        mode("verify-full", &other_ca),
        mode("verify-ca", &other_ca),
        mode("require", &other_ca), // with roots, as libpq
        server.url("sslmode=verify-full&sslrootcert=system"),
    ] {
        let said = refusal(&mode).await;
        assert!(said.contains("UnknownIssuer"), "{said}");
    }
    for url in [server.url("sslmode=require"), server.url("sslmode=prefer")] {
        let (can_connect, said) = doctor(&url).await;
        assert!(can_connect, "{said}");
    }
    server.postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_may_want_a_certificate_of_the_hub() {
    let server = Server::start().await;
    let authority = Authority::new();
    server.show(&authority, &["127.0.0.1"]).await;
    server.write(
        "root.crt",
        &fs::read_to_string(authority.path("ca.pem")).unwrap(),
    );
    server.set("ssl_ca_file", "root.crt").await;
    let hba = server.postgres.data_dir().join("pgdata/pg_hba.conf");
    let rules = "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n\
                 local all all scram-sha-256\n";
    assert!(hba.exists());
    let psql = server.database().connect().await;
    server.write("pg_hba.conf", rules);
    psql.batch_execute("SELECT pg_reload_conf()").await.unwrap();

    authority.write(&["hub.test"]);
    let (ca, cert, key) = (
        authority.path("ca.pem"),
        authority.path("cert.pem"),
        authority.path("key.pem"),
    );
    let without = server.url(&format!("sslmode=verify-full&sslrootcert={ca}"));
    eventually("nobody gets in without", false, async || {
        doctor(&without).await.0
    })
    .await;
    let (can_connect, said) = doctor(&format!("{without}&sslcert={cert}&sslkey={key}")).await;
    assert!(can_connect, "{said}");
    drop(psql);
    server.postgres.stop().await.unwrap();
}

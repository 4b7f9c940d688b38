use super::{is_not_ready, is_ready};
use crate::harness::{Hub, HubOptions, TestDatabase};

/// What a hub that does not start says is to be run.
async fn wanted(url: &str) -> String {
    let (status, said) = Hub::spawn(url, HubOptions::default()).await.unwrap_err();
    assert_eq!(status.code(), Some(1), "{said}");
    let (_, grants) = said
        .rsplit_once("have the schema's owner or a superuser run ")
        .unwrap_or_else(|| panic!("it says what to do: {said}"));
    grants.trim().to_owned()
}

/// What the error says, and nothing else, is what helps.
#[tokio::test]
async fn a_role_without_rights_is_told_what_to_grant() {
    let database = TestDatabase::create().await;
    let url = database.role("makes_the_schema").await;
    let grant = wanted(&url).await;
    assert!(
        grant.starts_with("GRANT CREATE ON DATABASE test_"),
        "{grant}"
    );
    let admin = database.connect().await;
    admin.batch_execute(&grant).await.unwrap();
    let owner = Hub::spawn(&url, HubOptions::default()).await.unwrap();
    owner.kill().await;

    let url = database.role("uses_the_schema").await;
    let grants = wanted(&url).await;
    assert_eq!(grants, "SELECT bellwether.allow('uses_the_schema', 'hub')");
    admin.batch_execute(&grants).await.unwrap();
    let hub = Hub::spawn(&url, HubOptions::default()).await.unwrap();
    database.create_events_table().await;
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    database.insert(3).await;
    client.events(3).await;
}

#[tokio::test]
async fn rights_that_are_revoked_and_given_back() {
    let database = TestDatabase::create().await;
    Hub::start(&database).await.kill().await;
    let url = database.role("loses_rights").await;
    let grants = wanted(&url).await;
    let admin = database.connect().await;
    admin.batch_execute(&grants).await.unwrap();
    let hub = Hub::spawn(&url, HubOptions::default()).await.unwrap();
    let mut client = hub.stream("topic=events").await;
    client.opened().await;
    database.insert(1).await;
    let mut seen = client.events(1).await;

    for lost in [
        "SELECT ON bellwether.stream",
        "EXECUTE ON FUNCTION bellwether.advance",
        "USAGE ON SCHEMA bellwether",
    ] {
        let revoke = format!("REVOKE {lost} FROM loses_rights");
        admin.batch_execute(&revoke).await.unwrap();
        // Writers have other rights, and notice nothing.
        database.insert(5).await;
        is_not_ready(&hub, "rights are missing").await;
        is_not_ready(&hub, "allow('loses_rights', 'hub')").await;
        database.insert(5).await;
        admin.batch_execute(&grants).await.unwrap();
        is_ready(&hub).await;
        seen.extend(client.events(10).await);
    }
    let (epoch, _) = client.cursor().split_once('-').unwrap();
    for (event, seq) in seen.iter().zip(1..) {
        assert_eq!(event.id, format!("{epoch}-{seq}"));
    }
    assert_eq!(seen.len(), 31);
}

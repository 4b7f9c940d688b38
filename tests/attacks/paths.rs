use super::exchange;
use crate::harness::{Hub, TestDatabase};

#[tokio::test]
async fn nothing_outside_the_folder_is_served() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let mut refused = 0;
    for folder in ["/", "/vendor/", "//", "/./", "http://t/"] {
        for up in [
            "..",
            "%2e%2e",
            "%2E.",
            "%252e%252e",
            "..%00",
            "..%c0%af",
            "....",
            "..;",
        ] {
            for slash in ["/", "%2f", "%252f", "\\", "%5c", "%255c"] {
                for file in ["Cargo.toml", "README.md", "etc/passwd", "sql/events.sql"] {
                    for depth in [1, 8] {
                        let way = format!("{up}{slash}").repeat(depth);
                        let request = format!(
                            "GET {folder}{way}{file} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
                        );
                        let answer = exchange(&hub, request.as_bytes()).await;
                        let status = answer.get(9..12).unwrap_or_default();
                        assert!(matches!(status, "400" | "404"), "{request}{answer}");
                        assert!(!answer.contains("root:"), "{request}{answer}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert_eq!(refused, 5 * 8 * 6 * 4 * 2);
    let absolute = "GET /etc/passwd HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    let answer = exchange(&hub, absolute.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

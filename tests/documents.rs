use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
};

use crate::harness::{Hub, TestDatabase, bellwether, get, within};

/// Between its marks in this file stands what the program says of itself. `cargo xtask docs` puts
/// it there.
fn check_section(file: &str, section: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- {section}: cargo xtask docs -->\n");
    let end = format!("<!-- end of {section} -->");
    let (before, rest) = text.split_once(&begin).expect("the section begins");
    let (present, after) = rest.split_once(&end).expect("the section ends");
    if env::var_os("BELLWETHER_BLESS").is_some() {
        if present != expected {
            fs::write(&path, format!("{before}{begin}{expected}{end}{after}")).unwrap();
        }
        return;
    }
    assert!(
        present == expected,
        "{file} is stale: run `cargo xtask docs`\n{present}\nis not\n{expected}"
    );
}

/// A metric as `/metrics` describes it.
#[derive(Default)]
struct Described {
    kind: String,
    help: String,
    /// Labels, with their values.
    labels: BTreeMap<String, BTreeSet<String>>,
}

fn describe(text: &str) -> Vec<(String, Described)> {
    let mut all: Vec<(String, Described)> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            let help = help.trim_end_matches('.').to_owned();
            all.push((
                name.to_owned(),
                Described {
                    help,
                    ..Described::default()
                },
            ));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            rest.split_once(' ')
                .unwrap()
                .1
                .clone_into(&mut all.last_mut().unwrap().1.kind);
        } else if let Some((_, rest)) = line.split_once('{') {
            let (labels, _) = rest.split_once('}').unwrap();
            for label in labels.split(',') {
                let (name, value) = label.split_once('=').unwrap();
                if !["le", "version"].contains(&name) {
                    let values = all.last_mut().unwrap().1.labels.entry(name.to_owned());
                    values
                        .or_default()
                        .insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    all
}

/// What a command prints that is over in a moment.
async fn output(args: &[&str]) -> String {
    let ran = within("its end", bellwether().args(args).output()).await;
    let ran = ran.unwrap();
    let complaint = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && complaint.is_empty(), "{complaint}");
    String::from_utf8(ran.stdout).unwrap()
}

#[tokio::test]
async fn the_tables_of_commands_and_flags() {
    let tables = output(&["markdown"]).await;
    check_section("README.md", "command line", &format!("\n{tables}\n"));
}

/// Bash reads the script, and completes with it as a person at the prompt would have it do.
#[tokio::test]
async fn bash_completes() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("bellwether.bash");
    fs::write(&script, output(&["completions", "bash"]).await).unwrap();
    let ask = r#"source "$1"; COMP_WORDS=(bellwether "${@:2}"); COMP_CWORD=$(($# - 1))
        _bellwether bellwether "${!#}"; printf '%s\n' "${COMPREPLY[@]}""#;
    for (words, expected) in [
        (&["ser"][..], "serve"),
        (&["serve", "--heart"], "--heartbeat"),
        (&["demo", "up"], "uptime"),
    ] {
        let mut bash = tokio::process::Command::new("bash");
        bash.args(["--norc", "-c", ask, "bash"])
            .arg(&script)
            .args(words);
        let replied = within("bash", bash.output()).await.unwrap();
        let complaint = String::from_utf8_lossy(&replied.stderr);
        assert!(
            replied.status.success() && complaint.is_empty(),
            "{complaint}"
        );
        let replies = String::from_utf8(replied.stdout).unwrap();
        assert_eq!(replies.trim(), expected, "after {words:?}");
    }
    for shell in ["elvish", "fish", "powershell", "zsh"] {
        let script = output(&["completions", shell]).await;
        assert!(script.contains("attachments"), "{shell}");
    }
}

/// A page for each command, which name each other.
#[tokio::test]
async fn manual_pages() {
    let folder = tempfile::tempdir().unwrap();
    output(&["man", folder.path().to_str().unwrap()]).await;
    let page = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(page("bellwether.1"), output(&["man"]).await);
    assert!(page("bellwether.1").contains("bellwether\\-serve(1)"));
    assert!(page("bellwether-serve.1").contains("BELLWETHER_HEARTBEAT"));
}

#[tokio::test]
async fn the_table_of_metrics() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let (_, text) = get(hub.address, "/metrics").await;
    let mut table = "\n| metric | | |\n|---|---|---|\n".to_owned();
    for (name, Described { kind, help, labels }) in describe(&text) {
        assert!(!help.is_empty() && !kind.is_empty(), "{name} is described");
        let suffix = match kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels: Vec<String> = labels
            .into_iter()
            .map(|(label, values)| {
                let values: Vec<String> = values.into_iter().collect();
                format!("<br>`{label}`: {}", values.join(", "))
            })
            .collect();
        let labels = labels.concat();
        table += "| ";
        table += &[format!("`{name}{suffix}`"), kind, help + &labels].join(" | ");
        table += " |\n";
    }
    table.push('\n');
    check_section("docs/operations.md", "metrics", &table);
}

/// What dashboards and alerts ask for exists.
#[tokio::test]
async fn the_dashboard_and_the_alerts_ask_for_what_there_is() {
    let database = TestDatabase::create().await;
    let hub = Hub::start(&database).await;
    let (_, text) = get(hub.address, "/metrics").await;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let names: BTreeSet<&str> = samples
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let dashboard: Value = serde_json::from_str(include_str!("../packaging/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut queries = vec![include_str!("../packaging/alerts.yml")];
    for target in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
    {
        queries.push(target["expr"].as_str().unwrap());
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    queries.extend(
        variables
            .iter()
            .filter_map(|of| of["query"]["query"].as_str()),
    );
    assert!(queries.len() > 20, "{queries:?}");
    let mut asked = 0;
    for query in queries {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("bellwether_")) {
            assert!(names.contains(word), "there is no {word}");
            asked += 1;
        }
    }
    assert!(asked > 30, "{asked} names");
}

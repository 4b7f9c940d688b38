//! The configuration file: `bellwether.toml`.
//!
//! A key is a flag's name without its dashes; what it says becomes that flag's default, so
//! that flags and the environment go before it. Beside those there are `[[snapshot]]` tables.

use anyhow::{Context, Result, bail};
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches};
use hub::Topic;
use pg::Snapshot;
use serde::Deserialize;
use std::{
    collections::BTreeMap, env, ffi::OsString, io::ErrorKind, path::PathBuf, time::Duration,
};

use crate::cli::Cli;

/// Read if it is there and no other is named.
const DEFAULT_PATH: &str = "bellwether.toml";

/// Shortest interval of a snapshot.
const MIN_EVERY: Duration = Duration::from_millis(100);

/// What stands in the file.
#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    snapshot: Vec<SnapshotTable>,
    #[serde(flatten)]
    flags: BTreeMap<String, toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotTable {
    name: String,
    every: String,
    sql: String,
    topic: String,
}

/// The command line with the file behind it, and what only the file can say.
pub(crate) fn read(args: Vec<OsString>) -> Result<(Result<Cli, clap::Error>, Vec<Snapshot>)> {
    let file = read_file(&args)?;
    file.behind(args)
}

/// The same with this text for a file. For `fuzz/` only.
#[cfg(fuzzing)]
pub(crate) fn understand(
    text: &str,
    args: Vec<OsString>,
) -> Result<(Result<Cli, clap::Error>, Vec<Snapshot>)> {
    let file: File = toml::from_str(text)?;
    file.behind(args)
}

fn read_file(args: &[OsString]) -> Result<File> {
    let named = named_path(args);
    let path = named.clone().unwrap_or_else(|| DEFAULT_PATH.into());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
            return Ok(File::default());
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    toml::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))
}

/// `--config PATH`, which must be known before the command line can be read.
fn named_path(args: &[OsString]) -> Option<PathBuf> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--config" {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    env::var_os("BELLWETHER_CONFIG").map(PathBuf::from)
}

/// Makes defaults of what the file says.
fn with_defaults(
    mut command: clap::Command,
    flags: &BTreeMap<String, toml::Value>,
) -> Result<clap::Command> {
    let serve = command.find_subcommand("serve").expect("there is serve");
    let is_flag = |command: &clap::Command, name: &str| {
        command
            .get_arguments()
            .any(|arg| arg.get_long() == Some(name) && name != "config")
    };
    for name in flags.keys() {
        if !is_flag(serve, name) && !is_flag(&command, name) {
            bail!(
                "the configuration file has {name:?}, which is no flag of `bellwether serve`: see --help"
            );
        }
    }
    for (name, value) in flags {
        let values = match value {
            toml::Value::Array(values) => values.iter().map(text).collect(),
            value => text(value).map(|text| vec![text]),
        };
        let values =
            values.with_context(|| format!("the configuration file's {name:?} cannot be read"))?;
        if values.len() != 1 && !takes_several(&command, name) {
            bail!("the configuration file's {name:?} is a list, and that flag has one value");
        }
        command = set_default(command, name, &values);
        let subcommands: Vec<String> = command
            .get_subcommands()
            .map(|sub| sub.get_name().to_owned())
            .collect();
        for subcommand in subcommands {
            command = command.mut_subcommand(subcommand, |sub| set_default(sub, name, &values));
        }
    }
    Ok(command)
}

fn takes_several(command: &clap::Command, flag: &str) -> bool {
    let serve = command.find_subcommand("serve").expect("there is serve");
    let mut arguments = serve.get_arguments();
    let found = arguments.find(|arg| arg.get_long() == Some(flag));
    found.is_some_and(|arg| matches!(arg.get_action(), ArgAction::Append))
}

/// A value as a flag's would be written.
fn text(value: &toml::Value) -> Result<String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(is_on) => Ok(is_on.to_string()),
        other => bail!("{other:?}: write it as a text, a number or a list of such"),
    }
}

fn set_default(command: clap::Command, flag: &str, values: &[String]) -> clap::Command {
    command.mut_args(|arg| {
        if arg.get_long() == Some(flag) {
            // It may hold a password.
            let is_secret = arg.is_hide_env_values_set();
            arg.default_values(values.to_vec())
                .hide_default_value(is_secret)
        } else {
            arg
        }
    })
}

impl File {
    fn behind(self, args: Vec<OsString>) -> Result<(Result<Cli, clap::Error>, Vec<Snapshot>)> {
        let command = with_defaults(Cli::command(), &self.flags)?;
        let snapshots = self.snapshot.into_iter().map(SnapshotTable::check);
        let snapshots = snapshots.collect::<Result<_>>()?;
        let matched = command.try_get_matches_from(args);
        let cli = matched.and_then(|matches: ArgMatches| Cli::from_arg_matches(&matches));
        Ok((cli, snapshots))
    }
}

impl SnapshotTable {
    fn check(self) -> Result<Snapshot> {
        let Self {
            name,
            every,
            sql,
            topic,
        } = self;
        let of = || format!("the configuration file's snapshot {name:?}");
        let every = humantime::parse_duration(&every)
            .with_context(|| format!("{}: every = {every:?}", of()))?;
        if every < MIN_EVERY {
            bail!("{}: every is less than {MIN_EVERY:?}", of());
        }
        if name.is_empty() || name.len() > 200 || name.contains(char::is_control) {
            bail!(
                "{}: a name has from 1 to 200 bytes and no control characters",
                of()
            );
        }
        let topic = Topic::new(&topic).with_context(|| format!("{}: topic = {topic:?}", of()))?;
        Ok(Snapshot {
            name,
            every,
            sql,
            topic,
        })
    }
}

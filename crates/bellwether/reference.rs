//! What the command line says of itself: completions, manual pages, and the README's tables.

use anyhow::{Context, Result};
use clap::{Arg, Command, CommandFactory};
use std::{fmt::Write as _, io};

use crate::cli::{Cli, CompletionsOptions, ManOptions, say};

/// Prints a script that completes commands and flags.
pub(crate) fn completions(options: &CompletionsOptions) {
    let mut command = Cli::command();
    clap_complete::generate(options.shell, &mut command, "bellwether", &mut io::stdout());
}

/// Writes a manual page for each command, or prints the first.
pub(crate) fn man(options: ManOptions) -> Result<()> {
    let command = Cli::command().disable_help_subcommand(true);
    match options.folder {
        Some(folder) => clap_mangen::generate_to(command, &folder)
            .with_context(|| format!("cannot write manual pages to {}", folder.display())),
        None => {
            let page = clap_mangen::Man::new(command);
            page.render(&mut io::stdout())
                .context("cannot write to standard output")
        }
    }
}

/// Prints the README's tables: the commands, and the flags of a hub.
pub(crate) fn markdown() -> Result<()> {
    let mut command = Cli::command();
    // Puts the global flags where they can be used.
    command.build();
    let mut text = "| command | |\n|---|---|\n".to_owned();
    for command in commands(&command) {
        row(&mut text, &[usage(command), about(command)]);
    }
    text += "\n| flag | variable | default | |\n|---|---|---|---|\n";
    let serve = command.find_subcommand("serve").expect("there is serve");
    for arg in serve.get_arguments() {
        if let Some(flag) = arg.get_long().filter(|&flag| flag != "help") {
            let (meaning, default) = meaning_and_default(arg);
            row(
                &mut text,
                &[format!("`--{flag}`"), variable(arg), default, meaning],
            );
        }
    }
    say(text.trim_end()).context("cannot write to standard output")
}

fn commands(command: &Command) -> impl Iterator<Item = &Command> {
    let all = command.get_subcommands();
    all.filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

/// Its name, what it must be told, and its own flags.
fn usage(command: &Command) -> String {
    let mut usage = format!("`{}`", command.get_name());
    for arg in command.get_positionals() {
        let _ = write!(usage, " `{arg}`");
    }
    let is_own = |arg: &&Arg| {
        // What a hub is told has a table of its own.
        arg.get_env().is_none() && !arg.is_global_set()
    };
    let flags = command.get_opts().filter(is_own);
    let switches = command
        .get_arguments()
        .filter(|arg| !arg.get_action().takes_values() && !arg.is_positional())
        .filter(is_own);
    for flag in flags.chain(switches).filter_map(Arg::get_long) {
        if !["help", "version"].contains(&flag) {
            let _ = write!(usage, " `--{flag}`");
        }
    }
    usage
}

fn about(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string);
    about.unwrap_or_default()
}

fn variable(arg: &Arg) -> String {
    let name = arg.get_env().and_then(|name| name.to_str());
    name.map_or_else(String::new, |name| format!("`{name}`"))
}

/// What its help says, and apart from it what it is by default, be that written there.
fn meaning_and_default(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let (help, said) = match help.rsplit_once(" [default: ") {
        Some((help, said)) => (help.to_owned(), said.trim_end_matches(']').to_owned()),
        None => (help, String::new()),
    };
    let values: Vec<_> = arg.get_default_values().iter().collect();
    let default = match values.as_slice() {
        [value] if arg.get_action().takes_values() => format!("`{}`", value.display()),
        _ => said,
    };
    (help, default)
}

fn row(text: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

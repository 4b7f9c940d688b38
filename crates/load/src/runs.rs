//! What fan-out has measured, read again.

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Clients, events a second and hubs; and the figures of that run.
pub(crate) type Runs = BTreeMap<(u64, u64, u64), Map<String, Value>>;

/// All that is in these files. Of figures that are in several, the last counts.
pub(crate) fn read(files: &[PathBuf]) -> Result<Runs> {
    let mut runs = Runs::new();
    for file in files {
        add(file, &mut runs).with_context(|| format!("cannot use {}", file.display()))?;
    }
    Ok(runs)
}

fn add(file: &Path, runs: &mut Runs) -> Result<()> {
    let all: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    for section in all["sections"].as_array().context("it has no sections")? {
        let figures = &section["figures"];
        let number = |name: &str| figures[name].as_u64();
        if let (Some(clients), Some(rate), Some(hubs)) =
            (number("clients"), number("rate"), number("hubs"))
        {
            let known = runs.entry((clients, rate, hubs)).or_default();
            known.extend(figures.as_object().cloned().unwrap_or_default());
        }
    }
    Ok(())
}

/// A figure's median, if it was measured in several rounds.
pub(crate) fn median(figures: &Map<String, Value>, name: &str) -> Option<f64> {
    let value = figures.get(name)?;
    value.as_f64().or(value["median"].as_f64())
}

//! What was measured, for people and for programs.

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

/// Where reports are written.
pub(crate) const REPORTS: &str = "target/load";

/// Figures in the order they were measured, by section; and what went wrong.
#[derive(Debug, Default)]
pub(crate) struct Report {
    sections: Vec<(String, Vec<(String, Value)>)>,
    notes: Vec<String>,
    faults: Vec<String>,
}

impl Report {
    /// The figures that follow belong to this part of the scenario.
    pub(crate) fn section(&mut self, name: impl Into<String>) {
        let name = name.into();
        println!("… {name}");
        self.sections.push((name, Vec::new()));
    }

    /// A figure. Its name says the unit.
    pub(crate) fn add(&mut self, name: &str, value: impl Into<Value>) {
        let (_, figures) = self.sections.last_mut().expect("a section has begun");
        figures.push((name.to_owned(), value.into()));
    }

    pub(crate) fn add_ms(&mut self, name: &str, time: Duration) {
        self.add(&format!("{name}_ms"), tenths(time.as_secs_f64() * 1000.0));
    }

    /// The quantiles of times in microseconds, in milliseconds.
    pub(crate) fn add_quantiles(&mut self, name: &str, times: &Histogram<u64>) {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let ms = |us: u64| ((us as f64) / 10.0).round() / 100.0;
        for (suffix, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)] {
            self.add(
                &format!("{name}_{suffix}_ms"),
                ms(times.value_at_quantile(quantile)),
            );
        }
        self.add(&format!("{name}_max_ms"), ms(times.max()));
    }

    /// The median of a figure's rounds; and the lowest and highest, if there are several.
    pub(crate) fn add_spread(&mut self, name: &str, mut rounds: Vec<f64>) {
        let middle = median(&mut rounds);
        let value = match rounds[..] {
            [lowest, .., highest] => {
                let [median, min, max] = [middle, lowest, highest].map(rounded);
                json!({"median": median, "min": min, "max": max})
            }
            _ => rounded(middle).into(),
        };
        self.add(name, value);
    }

    /// Something that a reader of the figures should know.
    pub(crate) fn note(&mut self, what: impl Into<String>) {
        let what = what.into();
        println!("  {what}");
        self.notes.push(what);
    }

    /// Something that must hold. If it does not, the run has failed, but goes on.
    pub(crate) fn expect(&mut self, holds: bool, what: impl Into<String>) {
        if !holds {
            self.faults.push(what.into());
        }
    }

    pub(crate) fn write(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let sections = self.sections.iter().map(|(name, figures)| {
            let figures: Map<String, Value> = figures.iter().cloned().collect();
            json!({"section": name, "figures": figures})
        });
        let all = json!({
            "scenario": name,
            "options": env::args().skip(2).collect::<Vec<_>>(),
            "taken": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            "machine": machine(),
            "sections": sections.collect::<Vec<_>>(),
            "notes": self.notes,
            "faults": self.faults,
        });
        let path = folder.join(format!("{name}.json"));
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, format!("{all:#}\n")))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    pub(crate) fn verdict(&self) -> Result<()> {
        ensure!(
            self.faults.is_empty(),
            "not as it must be:\n  {}",
            self.faults.join("\n  ")
        );
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, figures) in &self.sections {
            writeln!(f, "\n{name}")?;
            for (name, value) in figures {
                let text = match value {
                    // A spread.
                    Value::Object(of) => {
                        format!("{} ({} to {})", of["median"], of["min"], of["max"])
                    }
                    value => value.to_string(),
                };
                writeln!(f, "  {name:<36} {text:>14}")?;
            }
        }
        writeln!(f)
    }
}

/// What it was measured on.
fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find(|line| line.starts_with("model name"));
    let kernel = read("/proc/sys/kernel/osrelease");
    json!({
        "processors": thread::available_parallelism().map_or(0, usize::from),
        "model": model.and_then(|line| line.split_once(": ")).map(|(_, model)| model),
        "linux": kernel.trim().split('-').next(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

/// With three digits after the point.
pub(crate) fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// With one digit after the point.
pub(crate) fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// The median, with the numbers put in order.
pub(crate) fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

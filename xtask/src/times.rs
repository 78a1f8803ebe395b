//! Where the time of the suite goes (`cargo xtask test --times`): by part and kind of work, by crate, by kernel text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::rustc;

/// What a command's time is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Fetching and unpacking: pip, debootstrap, apt.
    Install,
    /// Turning source into programs: cargo, swift build, make.
    Compile,
    /// Running tests and checks.
    Run,
}

/// Seconds on the clock and of processors.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) wall: Duration,
    pub(crate) processor: Duration,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.processor += other.processor;
    }
}

/// What one part took, or several together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    install: Spent,
    compile: Spent,
    run: Spent,
}

impl Times {
    /// Adds a command's time.
    pub(crate) fn add(&mut self, work: Work, spent: Spent) {
        *match work {
            Work::Install => &mut self.install,
            Work::Compile => &mut self.compile,
            Work::Run => &mut self.run,
        } += spent;
    }

    fn row(&self, name: &str, wall: Duration) -> String {
        let kinds = [self.install, self.compile, self.run];
        let processor: Duration = kinds.iter().map(|spent| spent.processor).sum();
        let mut row = format!("{name:<18}");
        for spent in kinds {
            row += &format!(" {:>8.1}", spent.wall.as_secs_f64());
        }
        row + &format!(
            " {:>8.1} {:>10.1}",
            wall.as_secs_f64(),
            processor.as_secs_f64()
        )
    }
}

impl AddAssign for Times {
    fn add_assign(&mut self, other: Self) {
        self.install += other.install;
        self.compile += other.compile;
        self.run += other.run;
    }
}

/// The files that compilers append a line to for everything that they compile.
struct Logs {
    program: PathBuf,
    crates: PathBuf,
    kernels: PathBuf,
}

static LOGS: OnceLock<Logs> = OnceLock::new();

/// Begins to record what is compiled, in this folder.
pub(crate) fn record(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let logs = Logs {
        program: std::env::current_exe().context("looking for this program")?,
        crates: folder.join("crates.txt"),
        kernels: folder.join("kernels.txt"),
    };
    for file in [&logs.crates, &logs.kernels] {
        fs::write(file, "").with_context(|| format!("creating {}", file.display()))?;
    }
    // A second call would name the same files.
    let _ = LOGS.set(logs);
    Ok(())
}

/// Has the compilers that a command starts write down what they compile, if that is recorded.
pub(crate) fn watch(command: &mut Command) {
    if let Some(logs) = LOGS.get() {
        command
            .env("RUSTC_WRAPPER", &logs.program)
            .env(rustc::TIMES, &logs.crates)
            .env("SOFTWARE_METAL_LOG", &logs.kernels);
    }
}

/// The tables. Parts come with their time on the clock, `total` is that of all.
pub(crate) fn report(parts: &[(String, Times, Duration)], total: Duration) -> String {
    let mut text = format!(
        "{:<18} {:>8} {:>8} {:>8} {:>8} {:>10}\n",
        "seconds", "install", "compile", "run", "all", "processor"
    );
    let mut sum = Times::default();
    for (name, times, wall) in parts {
        sum += *times;
        text += &times.row(name, *wall);
        text.push('\n');
    }
    text += &sum.row("together", total);
    text.push('\n');
    if let Some(logs) = LOGS.get() {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        text += &crates(&read(&logs.crates));
        text += &kernels(&read(&logs.kernels));
    }
    text
}

/// How many rows of the table of crates are shown.
const CRATES: usize = 24;

/// Lines of [`rustc`], added up: `crate kind seconds processor-seconds`.
fn crates(log: &str) -> String {
    let mut sums: BTreeMap<(&str, &str), (usize, f64)> = BTreeMap::new();
    let (mut count, mut seconds) = (0, 0.0);
    for line in log.lines() {
        if let [name, kind, _, processor] = line.split('\t').collect::<Vec<_>>()[..] {
            let processor: f64 = processor.parse().unwrap_or(0.0);
            let sum = sums.entry((name, kind)).or_default();
            sum.0 += 1;
            sum.1 += processor;
            count += 1;
            seconds += processor;
        }
    }
    let mut rows: Vec<_> = sums.into_iter().collect();
    rows.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let mut text =
        format!("\nrustc: {count} compilations, {seconds:.0} processor-seconds; the longest:\n");
    for ((name, kind), (times, seconds)) in rows.iter().take(CRATES) {
        text += &format!("{seconds:>8.1} s  {times:>2} x  {name} ({kind})\n");
    }
    text
}

/// Lines of the software Metal device, added up: `made checked NAME front 0.123 instrument 0.004 …`, with seconds of a
/// processor by stage behind what was made or refused; or `found checked NAME`.
fn kernels(log: &str) -> String {
    let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
    let mut distinct = BTreeSet::new();
    let mut stages: BTreeMap<&str, f64> = BTreeMap::new();
    for line in log.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [outcome, _, name, times @ ..] = words.as_slice() else {
            continue;
        };
        *wanted.entry(outcome).or_default() += 1;
        distinct.insert(*name);
        for pair in times.chunks_exact(2) {
            *stages.entry(pair[0]).or_default() += pair[1].parse().unwrap_or(0.0);
        }
    }
    let number = |outcome| wanted.get(outcome).copied().unwrap_or_default();
    let seconds = stages.values().fold(0.0, |sum, seconds| sum + seconds);
    let stages: Vec<_> = (stages.iter())
        .map(|(name, seconds)| format!("{name} {seconds:.1}"))
        .collect();
    format!(
        "\nMetal texts: {} distinct; {} compiled, {} refused, {} found compiled; {seconds:.1} processor-seconds ({})\n",
        distinct.len(),
        number("made"),
        number("refused"),
        number("found"),
        stages.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_what_compilers_wrote() {
        let log = "half\tcheck\t2.0\t1.5\nhalf\tcheck\t2.0\t1.0\nmfa_cpu\t-O2\t40.0\t80.0\n";
        let text = crates(log);
        assert!(text.contains("3 compilations, 82 processor-seconds"));
        assert!(text.contains("2.5 s   2 x  half (check)"));
        let log = "made checked k-1 front 0.5 emit 0.25\nfound checked k-1\nrefused fast k-2 front 0.25\n";
        let expected = "2 distinct; 1 compiled, 1 refused, 1 found compiled; 1.0 processor-seconds (emit 0.2, front 0.8)";
        assert!(kernels(log).contains(expected), "{}", kernels(log));
    }
}

//! `cargo xtask test`: every test and check, as named parts.

mod checks;
mod cross;
mod metal;
mod native;
mod packages;
mod python;
mod rust;
mod swift;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};

use crate::counts::Counts;
use crate::dist;
use crate::place::Place;
use crate::process::Step;
use crate::repo::Repo;
use crate::venv::Venv;
use crate::wheel;

/// Options of `cargo xtask test`.
#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// Install a CPU build of PyTorch first; tests against it fail, instead of being skipped, without it.
    #[arg(long)]
    torch: bool,
    /// Run only this part, or the parts whose names begin with it and a dash. May be repeated.
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Count a part that had to be skipped as failed.
    #[arg(long)]
    strict: bool,
    /// Run the tests of every language on this driver library instead of the CPU engine that is linked in.
    #[arg(long, value_name = "LIBRARY")]
    driver: Option<PathBuf>,
    /// The same on the driver of this machine's GPU, which is built first: on a Mac, `--device metal`.
    #[arg(long, value_enum, conflicts_with = "driver")]
    device: Option<Device>,
    /// List the parts and end.
    #[arg(long)]
    list: bool,
}

/// A device with a driver that tasks can build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Device {
    /// The Swift driver, where Swift is.
    Metal,
}

/// How a part ended, if nothing went wrong.
enum Verdict {
    /// It ran; the note (may be empty) says on what.
    Ran(String),
    /// It could not run, for this reason.
    Skipped(String),
}

type Run = Box<dyn Fn(&mut Lab, &mut Step) -> Result<Verdict>>;

/// A piece of the suite.
struct Part {
    name: String,
    about: String,
    run: Run,
}

impl Part {
    fn new(
        name: impl Into<String>,
        about: impl Into<String>,
        run: impl Fn(&mut Lab, &mut Step) -> Result<Verdict> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            about: about.into(),
            run: Box::new(run),
        }
    }

    fn selected(&self, only: &[String]) -> bool {
        only.is_empty()
            || only.iter().any(|wanted| {
                self.name
                    .strip_prefix(wanted.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            })
    }
}

/// What parts share: made when the first of them asks.
struct Lab<'a> {
    repo: &'a Repo,
    options: &'a Options,
    venv: Option<Venv>,
    wheel: bool,
    built: bool,
    /// What parts have to say in the end.
    closing: Vec<String>,
}

impl Lab<'_> {
    /// The Python environment with the tools.
    fn venv(&mut self, step: &mut Step) -> Result<&Venv> {
        if self.venv.is_none() {
            self.venv = Some(Venv::ensure(self.repo, step)?);
        }
        match &self.venv {
            Some(venv) => Ok(venv),
            None => bail!("the Python environment was not made"),
        }
    }

    /// The same, with the Python package installed from a wheel.
    fn venv_with_package(&mut self, step: &mut Step) -> Result<&Venv> {
        let (repo, installed) = (self.repo, self.wheel);
        let venv = self.venv(step)?;
        if !installed {
            wheel::install(repo, venv, step, "test,demo,bench")?;
            self.wheel = true;
        }
        self.venv(step)
    }

    /// Builds the whole workspace, with debug assertions and overflow checks; returns the folder of what was built. Parts
    /// take programs and libraries from there: to build packages by themselves would build them with other features, again.
    fn built(&mut self, step: &mut Step) -> Result<PathBuf> {
        if !self.built {
            step.run(&mut self.repo.cargo(["build", "--locked", "--workspace"]))?;
            self.built = true;
        }
        Ok(self.repo.target.join("debug"))
    }

    /// The CPU driver as a shared library.
    fn cpu_driver(&mut self, step: &mut Step) -> Result<PathBuf> {
        Ok(self.built(step)?.join(dist::CPU_DRIVER))
    }
}

/// One line of the final report.
struct Line {
    name: String,
    word: &'static str,
    counts: Counts,
    time: Duration,
    note: String,
}

/// Runs the parts one after another: each of them uses all processors.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<()> {
    let parts: Vec<Part> = checks::parts()
        .into_iter()
        .chain(rust::parts())
        .chain(native::parts())
        .chain(python::parts())
        .chain(packages::parts())
        .chain(swift::parts())
        .chain(metal::parts())
        .chain(cross::parts())
        .collect();
    if options.list {
        for part in &parts {
            println!("{:<18} {}", part.name, part.about);
        }
        return Ok(());
    }
    for wanted in &options.only {
        if !parts
            .iter()
            .any(|part| part.selected(std::slice::from_ref(wanted)))
        {
            bail!("there is no part {wanted:?}: `cargo xtask test --list` names them");
        }
    }

    let mut options = options.clone();
    if options.device == Some(Device::Metal) {
        let place = Place::of_swift(repo).map_err(|reason| anyhow!(reason))?;
        ensure!(
            place.is_here(),
            "the Metal driver runs in a root here, which no other part can enter: --only metal and --only cross test it"
        );
        let mut step = Step::new("metal-driver", &repo.scratch("logs"))?;
        options.driver = Some(crate::metal::driver(repo, &mut step, &place)?);
        step.finish();
    }
    let options = &options;

    let mut lab = Lab {
        repo,
        options,
        venv: None,
        wheel: false,
        built: false,
        closing: Vec::new(),
    };
    let started = Instant::now();
    let mut lines = Vec::new();
    for part in parts.iter().filter(|part| part.selected(&options.only)) {
        let line = run_part(part, &mut lab)?;
        println!("{}", shown(&line));
        lines.push(line);
    }

    for text in &lab.closing {
        println!("\n{}", text.trim_end());
    }
    println!("\n{:.0} s in all", started.elapsed().as_secs_f64());
    let mut total = Counts::default();
    for line in &lines {
        println!("{}", shown(line));
        total += line.counts;
    }
    println!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    if total.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn run_part(part: &Part, lab: &mut Lab) -> Result<Line> {
    let mut step = Step::new(&part.name, &lab.repo.scratch("logs"))?;
    let result = (part.run)(lab, &mut step);
    if let Err(error) = &result {
        step.say(&format!("error: {error:#}"))?;
    }
    let (mut counts, time, log, tail) = step.finish();
    let (mut word, note) = match result {
        Ok(Verdict::Ran(note)) => ("passed", note),
        Ok(Verdict::Skipped(reason)) => ("skipped", reason),
        Err(error) => ("failed", format!("{error:#}")),
    };
    match word {
        // A part that broke before its runner could count, or after it, is a failure of its own.
        "failed" if counts.failed == 0 => counts.failed = 1,
        "skipped" if lab.options.strict => {
            word = "failed";
            counts.failed += 1;
        }
        "skipped" => counts.skipped += 1,
        "passed" if counts.failed > 0 => word = "failed",
        "passed" if counts.passed == 0 => {
            word = "failed";
            counts.failed = 1;
        }
        _ => {}
    }
    if word == "failed" && !tail.is_empty() {
        println!("\n---- {}: the end of {}", part.name, log.display());
        for line in tail {
            println!("{line}");
        }
        println!("----");
    }
    Ok(Line {
        name: part.name.clone(),
        word,
        counts,
        time,
        note,
    })
}

fn shown(line: &Line) -> String {
    let Counts {
        passed,
        failed,
        skipped,
    } = line.counts;
    let text = format!(
        "{:<8} {:<18} {:>6.1} s  {passed:>5} ok {failed:>3} failed {skipped:>3} skipped  {}",
        line.word,
        line.name,
        line.time.as_secs_f64(),
        line.note.lines().next().unwrap_or("")
    );
    text.trim_end().to_owned()
}

//! `cargo xtask test`: every test and check, as named parts.

mod checks;
mod cross;
mod doors;
mod metal;
mod native;
mod options;
mod packages;
mod part;
mod python;
mod rust;
mod schedule;
mod swift;
mod test_env;

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};

use crate::counts::Counts;
use crate::host::Host;
use crate::process::{Finished, LoggedStep, print};
use crate::repo::Repo;
use crate::test::options::Device;
use crate::test::part::{Outcome, Part};
use crate::test::test_env::TestEnv;
use crate::times::{self, Times};

pub(crate) use options::Options;
pub(crate) use rust::instruction_sets;

/// More parts at once than this gain nothing: each of them uses several processors for most of its time.
const JOBS: usize = 3;

/// One line of the final report.
struct Line {
    name: String,
    word: &'static str,
    counts: Counts,
    wall: Duration,
    times: Times,
    note: String,
}

/// Runs the parts, several at once, the longest chain of them first.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<()> {
    let parts: Vec<Part> = checks::parts()
        .into_iter()
        .chain(swift::parts())
        .chain(metal::parts())
        .chain(native::objective_c())
        .chain(cross::parts())
        .chain(doors::parts())
        .chain(rust::parts())
        .chain(native::parts())
        .chain(python::parts())
        .chain(packages::parts())
        .collect();
    if options.list {
        for part in &parts {
            println!("{:<18} {}", part.name, part.about);
        }
        return Ok(());
    }
    for wanted in options.only.iter().chain(&options.must_run) {
        if !parts
            .iter()
            .any(|part| part.selected(std::slice::from_ref(wanted)))
        {
            bail!("there is no part {wanted:?}: `cargo xtask test --list` names them");
        }
    }

    let mut options = options.clone();
    if options.device == Some(Device::Metal) {
        let host = Host::of_swift(repo).map_err(|reason| anyhow!(reason))?;
        ensure!(
            host.is_here(),
            "the Metal driver runs in a root here, which no other part can enter: --only metal and --only cross test it"
        );
        let mut step = LoggedStep::new("metal-driver", &repo.scratch("logs"))?;
        options.driver = Some(crate::metal::driver(repo, &mut step, &host)?);
        step.finish();
    }
    let options = &options;

    if options.times {
        times::record(&repo.scratch("times"))?;
    }
    let env = TestEnv::new(repo, options);
    let started = Instant::now();
    let lines = Mutex::new(Vec::new());
    let selected: Vec<&Part> = (parts.iter())
        .filter(|part| part.selected(&options.only))
        .collect();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let jobs = options.jobs.unwrap_or(processors.min(JOBS));
    schedule::run(
        jobs,
        selected,
        |part| part.lane,
        |part| {
            let line = run_part(part, &env)?;
            print(&shown(&line));
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push(line);
            Ok(())
        },
    )?;
    let mut lines = lines.into_inner().unwrap_or_else(PoisonError::into_inner);
    let position = |line: &Line| parts.iter().position(|part| part.name == line.name);
    lines.sort_by_key(position);

    let closing = env.closing.into_inner();
    for text in closing.unwrap_or_else(PoisonError::into_inner) {
        println!("\n{}", text.trim_end());
    }
    if options.times {
        let rows: Vec<_> = (lines.iter())
            .map(|line| (line.name.clone(), line.times, line.wall))
            .collect();
        println!("\n{}", times::report(&rows, started.elapsed()).trim_end());
    }
    println!("\n{:.0} s in all", started.elapsed().as_secs_f64());
    let mut total = Counts::default();
    for line in &lines {
        println!("{}", shown(line));
        total += line.counts;
    }
    let ran: Vec<&str> = (lines.iter())
        .filter(|line| line.word != "skipped")
        .filter_map(|line| line.name.strip_prefix("isa-"))
        .collect();
    if !ran.is_empty() {
        println!("instruction sets that ran: {}", ran.join(", "));
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

fn run_part(part: &Part, env: &TestEnv<'_>) -> Result<Line> {
    let mut step = LoggedStep::new(&part.name, &env.repo.scratch("logs"))?;
    let result = (part.run)(env, &mut step);
    if let Err(error) = &result {
        step.say(&format!("error: {error:#}"))?;
    }
    let Finished {
        mut counts,
        wall,
        times,
        log,
        tail,
    } = step.finish();
    let (mut word, note) = match result {
        Ok(Outcome::Ran(note)) => ("passed", note),
        Ok(Outcome::Skipped(reason)) if env.options.strict => ("failed", reason),
        Ok(Outcome::Impossible(reason)) if env.options.must_run.contains(&part.name) => {
            ("failed", reason)
        }
        Ok(Outcome::Skipped(reason) | Outcome::Impossible(reason)) => ("skipped", reason),
        Err(error) => ("failed", format!("{error:#}")),
    };
    match word {
        // A part that broke before its runner could count, or after it, is a failure of its own.
        "failed" if counts.failed == 0 => counts.failed = 1,
        "skipped" => counts.skipped += 1,
        "passed" if counts.failed > 0 => word = "failed",
        "passed" if counts.passed == 0 => {
            word = "failed";
            counts.failed = 1;
        }
        _ => {}
    }
    if word == "failed" && !tail.is_empty() {
        print(&format!(
            "\n---- {}: the end of {}\n{}\n----",
            part.name,
            log.display(),
            tail.join("\n")
        ));
    }
    Ok(Line {
        name: part.name.clone(),
        word,
        counts,
        wall,
        times,
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
        line.wall.as_secs_f64(),
        line.note.lines().next().unwrap_or("")
    );
    text.trim_end().to_owned()
}

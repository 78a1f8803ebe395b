//! Runs commands: full output to a log, the latest line to the terminal, runners' closing lines counted.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use wait4::Wait4;

use crate::counts::{Counts, closing_line, junit};
use crate::times::{self, Spent, Times, Work};

/// How many of a log's last lines are shown when something failed.
const TAIL: usize = 60;
/// Where there is no terminal to draw on, a long step says this often that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// The lines of progress of all steps.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Prints above the lines of progress.
pub(crate) fn print(text: &str) {
    BARS.suspend(|| println!("{text}"));
}

/// One piece of work with a name, a log and a line of progress.
pub(crate) struct LoggedStep {
    name: String,
    log: File,
    log_path: PathBuf,
    bar: ProgressBar,
    terminal: bool,
    started: Instant,
    tail: VecDeque<String>,
    times: Times,
    /// What the runners started by this step reported so far.
    pub(crate) counts: Counts,
}

impl LoggedStep {
    /// A step whose output goes to `logs/name.log`.
    pub(crate) fn new(name: &str, logs: &Path) -> Result<Self> {
        fs::create_dir_all(logs).with_context(|| format!("creating {}", logs.display()))?;
        let log_path = logs.join(format!("{name}.log"));
        let log =
            File::create(&log_path).with_context(|| format!("creating {}", log_path.display()))?;
        let terminal = std::io::stderr().is_terminal();
        let bar = BARS.add(ProgressBar::new_spinner());
        bar.set_style(ProgressStyle::with_template(
            "{spinner} {prefix:<16} {elapsed:>4}  {wide_msg:.dim}",
        )?);
        bar.set_prefix(name.to_owned());
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Ok(Self {
            name: name.to_owned(),
            log,
            log_path,
            bar,
            terminal,
            started: Instant::now(),
            tail: VecDeque::new(),
            times: Times::default(),
            counts: Counts::default(),
        })
    }

    /// Adds a line to the log and shows it.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.log, "{line}")
            .with_context(|| format!("writing {}", self.log_path.display()))?;
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
        if !line.trim().is_empty() {
            self.bar.set_message(line.trim().to_owned());
        }
        Ok(())
    }

    /// Adds to the counts the result of a check that is not a runner of its own.
    pub(crate) fn check(&mut self, name: &str, problems: &[String]) -> Result<()> {
        if problems.is_empty() {
            self.say(&format!("ok: {name}"))?;
            self.counts += Counts::passed(1);
        } else {
            for problem in problems {
                self.say(problem)?;
            }
            self.say(&format!("FAILED: {name}"))?;
            self.counts += Counts::failed(1);
        }
        Ok(())
    }

    /// Runs a command that tests or checks, to its end; its failure is an error.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        self.work(Work::Run, command)
    }

    /// Runs pytest, whose counts are those of the JUnit report that it writes.
    pub(crate) fn pytest(&mut self, command: &mut Command) -> Result<()> {
        let report = self.log_path.with_extension("junit.xml");
        // That of an earlier run must not be taken for this one's.
        let _ = fs::remove_file(&report);
        let result = self.run(command.arg(format!("--junit-xml={}", report.display())));
        match fs::read_to_string(&report) {
            Ok(text) => self.counts += junit(&text)?,
            Err(_) if result.is_err() => {}
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", report.display()));
            }
        }
        result
    }

    /// The same for a command that turns source into programs.
    pub(crate) fn compile(&mut self, command: &mut Command) -> Result<()> {
        self.work(Work::Compile, command)
    }

    /// The same for a command that fetches and unpacks.
    pub(crate) fn install(&mut self, command: &mut Command) -> Result<()> {
        self.work(Work::Install, command)
    }

    /// Runs a command that is one check by itself: success counts as one test passed.
    pub(crate) fn run_check(&mut self, command: &mut Command) -> Result<()> {
        self.run(command)?;
        self.counts += Counts::passed(1);
        Ok(())
    }

    /// The same for a compilation.
    pub(crate) fn compile_check(&mut self, command: &mut Command) -> Result<()> {
        self.compile(command)?;
        self.counts += Counts::passed(1);
        Ok(())
    }

    fn work(&mut self, work: Work, command: &mut Command) -> Result<()> {
        let started = Instant::now();
        times::watch(command);
        let (status, processor) = self.ended(command)?;
        let wall = started.elapsed();
        self.times.add(work, Spent { wall, processor });
        if !status.success() {
            bail!("`{}` ended with {status}", program(command));
        }
        Ok(())
    }

    /// Runs a command to its end; returns how it ended, and the processors' time that it and its children took.
    fn ended(&mut self, command: &mut Command) -> Result<(ExitStatus, Duration)> {
        self.say(&format!("$ {}", shown(command)))?;
        let mut child = command
            .env("CARGO_TERM_COLOR", "never")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{}`", program(command)))?;
        let (sender, lines) = channel();
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(read_lines(stdout, sender.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(read_lines(stderr, sender.clone()));
        }
        drop(sender);

        let mut heartbeat = Instant::now();
        loop {
            match lines.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => {
                    if let Some(counts) = closing_line(&line) {
                        self.counts += counts;
                    }
                    self.say(&line)?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !self.terminal && heartbeat.elapsed() >= HEARTBEAT {
                heartbeat = Instant::now();
                let last = self.tail.back().map_or("", |line| line.trim());
                print(&format!(
                    "   {} ({:.0} s): {last}",
                    self.name,
                    self.started.elapsed().as_secs_f64()
                ));
            }
        }
        for reader in readers {
            // A reader ends with its pipe and cannot fail.
            let _ = reader.join();
        }
        let ended = child
            .wait4()
            .with_context(|| format!("waiting for `{}`", program(command)))?;
        Ok((ended.status, ended.rusage.utime + ended.rusage.stime))
    }

    /// Takes the line of progress away; says what was done.
    pub(crate) fn finish(self) -> Finished {
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
        Finished {
            counts: self.counts,
            wall: self.started.elapsed(),
            times: self.times,
            log: self.log_path,
            tail: self.tail.into(),
        }
    }
}

/// What a step was.
pub(crate) struct Finished {
    pub(crate) counts: Counts,
    pub(crate) wall: Duration,
    pub(crate) times: Times,
    pub(crate) log: PathBuf,
    /// The log's last lines.
    pub(crate) tail: Vec<String>,
}

/// Sends what arrives on a pipe line by line. A carriage return ends a line as well: progress bars use it.
fn read_lines<R: Read + Send + 'static>(pipe: R, lines: Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&bytes);
            let line = text.trim_end_matches(['\n', '\r']);
            let line = line.rsplit('\r').next().unwrap_or(line);
            if lines.send(line.to_owned()).is_err() {
                return;
            }
            bytes.clear();
        }
    })
}

/// The command's standard output, with surrounding white space removed; for questions with short answers.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting `{}`", program(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` ended with {}: {}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command on the caller's own terminal.
pub(crate) fn foreground(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting `{}`", program(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", program(command));
    }
    Ok(())
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn shown(command: &Command) -> String {
    let mut text = String::new();
    for (name, value) in command.get_envs().filter(|(name, _)| *name != "PATH") {
        if let Some(value) = value {
            text += &format!("{}={} ", name.to_string_lossy(), value.to_string_lossy());
        }
    }
    text += &program(command);
    for argument in command.get_args() {
        text += &format!(" {}", argument.to_string_lossy());
    }
    text
}

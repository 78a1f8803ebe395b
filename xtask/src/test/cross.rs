//! One answer in every language: builds the runners of `tests/cross`, and compares what they get.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::c;
use crate::host::Host;
use crate::metal;
use crate::objc;
use crate::process::{LoggedStep, output};
use crate::repo::Repo;
use crate::test::part::{Outcome, Part};
use crate::test::rust;
use crate::test::schedule::Lane;
use crate::test::test_env::TestEnv;
use crate::venv::Venv;

/// The part of the suite.
pub(super) fn parts() -> Vec<Part> {
    vec![Part::new(
        Lane::Swift,
        "cross",
        "every language gets the same bits from a driver, the same refusals; drivers agree",
        |env, step| {
            let mut drivers = vec![Driver {
                name: "cpu".to_owned(),
                library: env.cpu_driver(step)?,
                loaded: false,
            }];
            let named = match (&env.options.driver, Host::of_swift(env.repo)) {
                (Some(named), _) => Some(named.clone()),
                (None, Ok(host)) => match metal::unavailable(env.repo, step, &host)? {
                    None => Some(metal::driver(env.repo, step, &host)?),
                    Some(reason) => {
                        step.say(&format!("without the Swift driver: {reason}"))?;
                        step.counts.skipped += 1;
                        None
                    }
                },
                (None, Err(reason)) => {
                    step.say(&format!("without the Swift driver: {reason}"))?;
                    step.counts.skipped += 1;
                    None
                }
            };
            if let Some(named) = named {
                let library = fs::canonicalize(&named)
                    .with_context(|| format!("looking for {}", named.display()))?;
                let stem = library.file_stem().unwrap_or_default().to_string_lossy();
                drivers.push(Driver {
                    name: stem.trim_start_matches("lib").to_owned(),
                    library: library.clone(),
                    loaded: true,
                });
            }
            let folder = env.repo.scratch("cross");
            fs::create_dir_all(&folder)
                .with_context(|| format!("creating {}", folder.display()))?;
            let rust = rust::test_program(env.repo, step, "conformance")?;
            let mut runners = Vec::new();
            for driver in &drivers {
                for (language, runner) in driver.runners(env, step, &rust)? {
                    runners.push(runner.to_json(&driver.name, language));
                }
            }
            let list = folder.join("runners.json");
            let text = serde_json::to_string_pretty(&runners).context("writing JSON")?;
            fs::write(&list, text + "\n").with_context(|| format!("writing {}", list.display()))?;

            let repo = env.repo;
            let table = folder.join("table.txt");
            let venv = env.venv_with_package(step)?;
            let ended = step.pytest(
                venv.python(["-m", "pytest", "-q", "tests/cross"])
                    .env("MFA_RUNNERS", &list)
                    .env("MFA_TABLE", &table)
                    .current_dir(&repo.root),
            );
            env.close_with(fs::read_to_string(&table).unwrap_or_default());
            ended?;
            Ok(Outcome::Ran(String::new()))
        },
    )]
}

/// A driver library.
struct Driver {
    name: String,
    library: PathBuf,
    /// Languages that can load it do so; otherwise they use the CPU engine that they bring along.
    loaded: bool,
}

/// How a language's runner is started.
enum Runner {
    Command(Command),
    /// Why there is none here.
    Missing(String),
}

/// Where the runners of a driver run. `Err`: why they cannot.
type Somewhere<'a> = std::result::Result<&'a Host, &'a String>;

impl Driver {
    fn runners(
        &self,
        env: &TestEnv<'_>,
        step: &mut LoggedStep,
        rust: &Path,
    ) -> Result<Vec<(&'static str, Runner)>> {
        let repo = env.repo;
        let venv = env.venv_with_package(step)?;
        let python = Interpreter::of(venv)?;
        let library_folder = self.library.parent().unwrap_or(Path::new("."));
        let mut visible = vec![library_folder];
        if !python.is_the_systems() {
            visible.push(&python.folder);
        }
        let found = Host::find(repo, &visible);
        let special = found.as_ref();
        // A library that this machine's system is too old for loads in the root only.
        let here = Host::HERE;
        let question = format!("import ctypes; ctypes.CDLL({:?})", self.library);
        let loads = !self.loaded || output(&mut venv.python(["-c", &question])).is_ok();
        let usual: Somewhere<'_> = if loads { Ok(&here) } else { special };

        let vectors = repo.path("tests/conformance/vectors");
        let start = |host: &Host, program: &Path| {
            let mut command = host.command(repo, program);
            if self.loaded {
                command.env("MFA_DRIVER", &self.library);
            }
            command
        };
        let linked = |host: &Host, folder: &Path| {
            let mut command = host.command(repo, &folder.join("conformance"));
            command.arg(&vectors);
            Runner::Command(command)
        };
        let out = |language: &str| repo.scratch("cross/build").join(&self.name).join(language);
        let missing = |reason: &String| Runner::Missing(reason.clone());

        let c = match usual {
            Err(reason) => missing(reason),
            Ok(host) => {
                let make = host.command(repo, Path::new("make"));
                c::build_conformance(repo, step, make, &self.library, &out("c"))?;
                linked(host, &out("c"))
            }
        };
        let objective_c = match special {
            Err(reason) => missing(reason),
            Ok(host) => {
                let folder = out("objc");
                objc::build(host, repo, step, &self.library, &folder, "-O2 -g", &[])?;
                linked(host, &folder)
            }
        };
        let swift = match special {
            Err(reason) => missing(reason),
            Ok(host) => {
                let mut make = host.command(repo, Path::new("make"));
                make.args(["-C", "tests/cross/swift", "--always-make"])
                    .arg(format!("DRIVER={}", self.library.display()))
                    .arg(format!("OUT={}", out("swift").display()));
                step.compile(&mut make)?;
                linked(host, &out("swift"))
            }
        };
        let rust = match usual {
            Err(reason) => missing(reason),
            Ok(host) => Runner::Command(start(host, rust)),
        };
        let python_runner = match usual {
            Err(reason) => missing(reason),
            Ok(_) if !loads && python.is_the_systems() => Runner::Missing(
                "the driver loads in the Debian root only, and Python is the system's".to_owned(),
            ),
            Ok(host) => {
                let mut command = python.command(repo, host);
                if self.loaded {
                    command.env("MFA_DRIVER", &self.library);
                }
                command.arg(repo.path("tests/cross/run_python.py"));
                Runner::Command(command)
            }
        };
        Ok(vec![
            ("C", c),
            ("Objective-C", objective_c),
            ("Swift", swift),
            ("Rust", rust),
            ("Python", python_runner),
        ])
    }
}

/// The Python that an environment was made from: the environment's own program is a link to it, which leads nowhere in a root.
pub(super) struct Interpreter {
    program: PathBuf,
    folder: PathBuf,
    /// What is installed in the environment.
    packages: PathBuf,
}

impl Interpreter {
    pub(super) fn of(venv: &Venv) -> Result<Self> {
        let question =
            "import os, sys; print(os.path.realpath(sys.executable), sys.base_prefix, sep='\\n')";
        let answer = output(&mut venv.python(["-c", question]))?;
        match answer.lines().collect::<Vec<_>>().as_slice() {
            [program, folder] => Ok(Self {
                program: program.into(),
                folder: folder.into(),
                packages: venv.site_packages()?,
            }),
            _ => bail!("Python says of itself {answer:?}, expected two paths"),
        }
    }

    /// What a root must show for it to run there.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The interpreter with the environment's packages, at a host.
    pub(super) fn command(&self, repo: &Repo, host: &Host) -> Command {
        let mut command = host.command(repo, &self.program);
        command
            .env("PYTHONPATH", &self.packages)
            .env("LD_LIBRARY_PATH", self.folder.join("lib"));
        command
    }

    /// Then it cannot be shown to the root, which has a system of its own.
    pub(super) fn is_the_systems(&self) -> bool {
        self.folder == Path::new("/usr")
    }
}

impl Runner {
    /// As `tests/cross/results.py` reads it.
    fn to_json(&self, driver: &str, language: &str) -> Value {
        let command = match self {
            Self::Missing(reason) => {
                return json!({ "driver": driver, "language": language, "missing": reason });
            }
            Self::Command(command) => command,
        };
        let environment: Vec<String> = (command.get_envs())
            .filter_map(|(name, value)| Some((name.to_string_lossy(), value?.to_string_lossy())))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy())
            .collect();
        let folder = command.get_current_dir().unwrap_or(Path::new("."));
        json!({
            "driver": driver,
            "language": language,
            "folder": folder,
            "environment": environment,
            "words": words,
        })
    }
}

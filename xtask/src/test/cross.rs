//! One answer in every language: builds the runners of `tests/cross`, and compares what they get.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::c;
use crate::objc;
use crate::place::Place;
use crate::process::{Step, output};
use crate::repo::Repo;
use crate::test::{Lab, Part, Verdict};

/// The part of the suite.
pub(super) fn parts() -> Vec<Part> {
    vec![Part::new(
        "cross",
        "every language gets the same bits from a driver, the same refusals; drivers agree",
        |lab, step| {
            let mut drivers = vec![Driver {
                name: "cpu".to_owned(),
                library: lab.cpu_driver(step)?,
                loaded: false,
            }];
            if let Some(named) = &lab.options.driver {
                let library = fs::canonicalize(named)
                    .with_context(|| format!("looking for {}", named.display()))?;
                let stem = library.file_stem().unwrap_or_default().to_string_lossy();
                drivers.push(Driver {
                    name: stem.trim_start_matches("lib").to_owned(),
                    library: library.clone(),
                    loaded: true,
                });
            }
            let folder = lab.repo.scratch("cross");
            fs::create_dir_all(&folder)
                .with_context(|| format!("creating {}", folder.display()))?;
            let rust = rust_runner(lab.repo, step)?;
            let mut text = String::new();
            for driver in &drivers {
                text += &format!("driver {}\n", driver.name);
                for (language, runner) in driver.runners(lab, step, &rust)? {
                    text += &runner.lines(language);
                }
            }
            let list = folder.join("runners.txt");
            fs::write(&list, text).with_context(|| format!("writing {}", list.display()))?;

            let repo = lab.repo;
            let table = folder.join("table.txt");
            let venv = lab.venv_with_package(step)?;
            let ended = step.run(
                venv.python(["-m", "pytest", "-q", "tests/cross"])
                    .env("MFA_RUNNERS", &list)
                    .env("MFA_TABLE", &table)
                    .current_dir(&repo.root),
            );
            lab.closing
                .push(fs::read_to_string(&table).unwrap_or_default());
            ended?;
            Ok(Verdict::Ran(String::new()))
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
type Somewhere<'a> = std::result::Result<&'a Place, &'a String>;

impl Driver {
    fn runners(
        &self,
        lab: &mut Lab,
        step: &mut Step,
        rust: &Path,
    ) -> Result<Vec<(&'static str, Runner)>> {
        let repo = lab.repo;
        let venv = lab.venv_with_package(step)?;
        // The interpreter of the environment is not in it.
        let interpreter = PathBuf::from(output(
            &mut venv.python(["-c", "import sys; print(sys.base_prefix)"]),
        )?);
        let library_folder = self.library.parent().unwrap_or(Path::new("."));
        let mut visible = vec![library_folder];
        if interpreter != Path::new("/usr") {
            visible.push(&interpreter);
        }
        let found = Place::find(repo, &visible);
        let special = found.as_ref();
        // A library that this machine's system is too old for loads in the root only.
        let here = Place::HERE;
        let question = format!("import ctypes; ctypes.CDLL({:?})", self.library);
        let loads = !self.loaded || output(&mut venv.python(["-c", &question])).is_ok();
        let usual: Somewhere<'_> = if loads { Ok(&here) } else { special };

        let vectors = repo.path("tests/conformance/vectors");
        let start = |place: &Place, program: &Path| {
            let mut command = place.command(repo, program);
            if self.loaded {
                command.env("MFA_DRIVER", &self.library);
            }
            command
        };
        let linked = |place: &Place, folder: &Path| {
            let mut command = place.command(repo, &folder.join("conformance"));
            command.arg(&vectors);
            Runner::Command(command)
        };
        let out = |language: &str| repo.scratch("cross/build").join(&self.name).join(language);
        let missing = |reason: &String| Runner::Missing(reason.clone());

        let c = match usual {
            Err(reason) => missing(reason),
            Ok(place) => {
                let make = place.command(repo, Path::new("make"));
                c::build_conformance(repo, step, make, &self.library, &out("c"))?;
                linked(place, &out("c"))
            }
        };
        let objective_c = match special {
            Err(reason) => missing(reason),
            Ok(place) => {
                let folder = out("objc");
                objc::build(place, repo, step, &self.library, &folder, "-O2 -g")?;
                linked(place, &folder)
            }
        };
        let swift = match special {
            Err(reason) => missing(reason),
            Ok(place) => {
                let mut make = place.command(repo, Path::new("make"));
                make.args(["-C", "tests/cross/swift", "--always-make"])
                    .arg(format!("DRIVER={}", self.library.display()))
                    .arg(format!("OUT={}", out("swift").display()));
                step.run(&mut make)?;
                linked(place, &out("swift"))
            }
        };
        let rust = match usual {
            Err(reason) => missing(reason),
            Ok(place) => Runner::Command(start(place, rust)),
        };
        let python = match usual {
            Err(reason) => missing(reason),
            Ok(_) if !loads && interpreter == Path::new("/usr") => Runner::Missing(
                "the driver loads in the Debian root only, and Python is the system's".to_owned(),
            ),
            Ok(place) => {
                let program = venv.program("python");
                let mut command = start(place, Path::new(program.get_program()));
                command
                    .arg(repo.path("tests/cross/run_python.py"))
                    .env("LD_LIBRARY_PATH", interpreter.join("lib"));
                Runner::Command(command)
            }
        };
        Ok(vec![
            ("C", c),
            ("Objective-C", objective_c),
            ("Swift", swift),
            ("Rust", rust),
            ("Python", python),
        ])
    }
}

impl Runner {
    /// As `tests/cross/results.py` reads it.
    fn lines(&self, language: &str) -> String {
        let mut text = format!("language {language}\n");
        let command = match self {
            Self::Missing(reason) => return text + &format!("missing {reason}\n"),
            Self::Command(command) => command,
        };
        if let Some(folder) = command.get_current_dir() {
            text += &format!("folder {}\n", folder.display());
        }
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
                text += &format!("env {name}={value}\n");
            }
        }
        for word in std::iter::once(command.get_program()).chain(command.get_args()) {
            text += &format!("word {}\n", word.to_string_lossy());
        }
        text
    }
}

/// Builds Rust's runner, a test of the crate `mfa`, and finds it.
fn rust_runner(repo: &Repo, step: &mut Step) -> Result<PathBuf> {
    let build = [
        "test",
        "--locked",
        "--workspace",
        "--test",
        "conformance",
        "--no-run",
    ];
    step.run(&mut repo.cargo(build))?;
    let messages = output(repo.cargo(build).arg("--message-format=json"))?;
    let executable = |line: &str| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        Some(PathBuf::from(rest.split_once('"')?.0))
    };
    match messages.lines().find_map(executable) {
        Some(path) => Ok(path),
        None => bail!("cargo does not say where it has put the test `conformance`"),
    }
}

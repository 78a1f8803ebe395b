//! One answer in every language: builds the runners of `tests/cross`, and compares what they get.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::c;
use crate::objc;
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
            if let Some(library) = &lab.options.driver {
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

impl Driver {
    fn runners(
        &self,
        lab: &mut Lab,
        step: &mut Step,
        rust: &Path,
    ) -> Result<Vec<(&'static str, Runner)>> {
        let repo = lab.repo;
        let out = Path::new("cross").join(&self.name);
        let vectors = repo.path("tests/conformance/vectors");

        let folder = repo.scratch("c").join(&out);
        c::build_conformance(repo, step, &self.library, &folder)?;
        let mut c = Command::new(folder.join("conformance"));
        c.arg(&vectors);

        let library_folder = self.library.parent().unwrap_or(Path::new("."));
        let objective_c = match objc::Place::find(repo, &[library_folder]) {
            Ok(place) => {
                let name = out.display().to_string();
                let built = place.build(repo, step, &self.library, &name, "-O2 -g")?;
                let mut command = place.command(repo, &built.join("conformance"));
                command.arg(&vectors);
                Runner::Command(command)
            }
            Err(reason) => Runner::Missing(reason),
        };

        let mut python = lab.venv_with_package(step)?.program("python");
        python.arg(repo.path("tests/cross/run_python.py"));
        let mut rust = Command::new(rust);
        for command in [&mut c, &mut rust, &mut python] {
            command.current_dir(&repo.root);
            if self.loaded {
                command.env("MFA_DRIVER", &self.library);
            }
        }
        Ok(vec![
            ("C", Runner::Command(c)),
            ("Objective-C", objective_c),
            ("Rust", Runner::Command(rust)),
            ("Python", Runner::Command(python)),
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

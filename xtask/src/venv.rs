//! The project's own Python environment, below the build folder.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{LoggedStep, output};
use crate::repo::Repo;

/// The oldest Python that the pinned tools run on (the package itself supports older ones).
const OLDEST: (u32, u32) = (3, 10);

/// A virtual environment with the tools that tasks need, at the versions of `xtask/python/tools.txt`.
pub(crate) struct Venv {
    dir: PathBuf,
    constraints: PathBuf,
    /// Two pips at once would spoil the environment.
    installing: Mutex<()>,
}

impl Venv {
    /// Makes the environment, or brings the one that is there up to date.
    pub(crate) fn ensure(repo: &Repo, step: &mut LoggedStep) -> Result<Self> {
        let venv = Self {
            dir: repo.scratch("venv"),
            constraints: repo.path("xtask/python/constraints.txt"),
            installing: Mutex::new(()),
        };
        if !venv.python_path().exists() {
            let python = base_python()?;
            step.install(Command::new(&python).args(["-m", "venv"]).arg(&venv.dir))?;
        }
        let tools = repo.path("xtask/python/tools.txt");
        let text =
            fs::read_to_string(&tools).with_context(|| format!("reading {}", tools.display()))?;
        venv.once("tools", &text, || {
            step.install(&mut venv.pip_install(["--upgrade", "pip"]))?;
            step.install(venv.pip_install(["-r"]).arg(&tools))
        })?;
        Ok(venv)
    }

    /// Installs something, unless that was done already and neither `text`, which describes it, nor the pinned versions have
    /// changed since.
    pub(crate) fn once(
        &self,
        name: &str,
        text: &str,
        install: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let _alone = self.alone();
        let pins = fs::read_to_string(&self.constraints)
            .with_context(|| format!("reading {}", self.constraints.display()))?;
        let stamp = self.dir.join(format!("{name}.stamp"));
        let wanted = format!("{text}\n{pins}");
        if fs::read_to_string(&stamp).ok().as_deref() == Some(wanted.as_str()) {
            return Ok(());
        }
        install()?;
        fs::write(&stamp, &wanted).with_context(|| format!("writing {}", stamp.display()))
    }

    /// Waits until nobody else installs into the environment; others wait until the result is dropped.
    pub(crate) fn alone(&self) -> MutexGuard<'_, ()> {
        self.installing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A program of the environment.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin(name));
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.bin("")).chain(env::split_paths(&path));
        if let Ok(path) = env::join_paths(folders) {
            command.env("PATH", path);
        }
        command
            .env("VIRTUAL_ENV", &self.dir)
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PYTHONUNBUFFERED", "1")
            .env_remove("PYTHONHOME")
            .env_remove("PYTHONPATH");
        command
    }

    /// Its Python.
    pub(crate) fn python<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        arguments: I,
    ) -> Command {
        let mut command = self.program("python");
        command.args(arguments);
        command
    }

    /// `pip install`, held to the pinned versions.
    pub(crate) fn pip_install<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        arguments: I,
    ) -> Command {
        let mut command = self.python(["-m", "pip", "install", "--progress-bar", "off", "-c"]);
        command.arg(&self.constraints).args(arguments);
        command
    }

    /// Whether a module can be found, without importing it.
    pub(crate) fn has(&self, module: &str) -> bool {
        let question = format!("import importlib.util as u; assert u.find_spec({module:?})");
        output(&mut self.python(["-c", &question])).is_ok()
    }

    /// A path in its site-packages.
    pub(crate) fn site_packages(&self) -> Result<PathBuf> {
        let question = "import sysconfig; print(sysconfig.get_path('platlib'))";
        Ok(output(&mut self.python(["-c", question]))?.into())
    }

    /// The file that pins versions.
    pub(crate) fn constraints(&self) -> &Path {
        &self.constraints
    }

    /// The file of its Python.
    pub(crate) fn python_path(&self) -> PathBuf {
        self.bin("python")
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.dir
            .join(if cfg!(windows) { "Scripts" } else { "bin" })
            .join(name)
    }
}

/// The interpreter that the environment is made from: `PYTHON`, else the first that answers.
fn base_python() -> Result<String> {
    let named = env::var("PYTHON").ok();
    let candidates = match &named {
        Some(name) => vec![name.as_str()],
        None => vec!["python3", "python"],
    };
    let question = "import sys; print(*sys.version_info[:2])";
    for candidate in &candidates {
        let Ok(answer) = output(Command::new(candidate).args(["-c", question])) else {
            continue;
        };
        let mut numbers = answer.split(' ').map_while(|number| number.parse().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        ensure!(
            version >= OLDEST,
            "{candidate} is Python {}.{}; {}.{} or newer is needed (name another with PYTHON=…)",
            version.0,
            version.1,
            OLDEST.0,
            OLDEST.1
        );
        return Ok((*candidate).to_owned());
    }
    bail!(
        "no Python found (tried {}): install Python 3, or name it with PYTHON=…",
        candidates.join(", ")
    )
}

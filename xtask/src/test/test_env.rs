//! What parts share: made when the first of them asks, while others that need it wait.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};

use crate::dist;
use crate::package::User;
use crate::process::LoggedStep;
use crate::repo::Repo;
use crate::test::options::Options;
use crate::torch;
use crate::venv::Venv;
use crate::wheel;

/// A value that is made once. Where making it fails, the next one who asks tries again.
pub(super) struct Once<T> {
    making: Mutex<()>,
    value: OnceLock<T>,
}

impl<T> Once<T> {
    const fn new() -> Self {
        Self {
            making: Mutex::new(()),
            value: OnceLock::new(),
        }
    }

    fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        // A panic while it was made has left nothing behind.
        let _alone = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if self.value.get().is_none() {
            // The lock is held: nobody else has set it.
            let _ = self.value.set(make()?);
        }
        self.value.get().context("it was not made")
    }
}

/// The repository, the options, and what was made so far.
pub(super) struct TestEnv<'a> {
    pub(super) repo: &'a Repo,
    pub(super) options: &'a Options,
    venv: Once<Venv>,
    wheel: Once<PathBuf>,
    installed: Once<()>,
    built: Once<PathBuf>,
    user: Once<User<'a>>,
    /// What parts have to say in the end.
    pub(super) closing: Mutex<Vec<String>>,
}

impl<'a> TestEnv<'a> {
    pub(super) fn new(repo: &'a Repo, options: &'a Options) -> Self {
        Self {
            repo,
            options,
            venv: Once::new(),
            wheel: Once::new(),
            installed: Once::new(),
            built: Once::new(),
            user: Once::new(),
            closing: Mutex::new(Vec::new()),
        }
    }

    /// The Python environment with the tools.
    pub(super) fn venv(&self, step: &mut LoggedStep) -> Result<&Venv> {
        self.venv.get(|| Venv::ensure(self.repo, step))
    }

    /// The wheel as users get it: what is tested is what `dist` makes.
    pub(super) fn wheel(&self, step: &mut LoggedStep) -> Result<&PathBuf> {
        let venv = self.venv(step)?;
        self.wheel.get(|| {
            let out = self.repo.scratch("dist/wheel");
            dist::portable_wheel(self.repo, venv, step, &out)
        })
    }

    /// The environment with the Python package installed from that wheel.
    pub(super) fn venv_with_package(&self, step: &mut LoggedStep) -> Result<&Venv> {
        let wheel = self.wheel(step)?;
        let venv = self.venv(step)?;
        self.installed
            .get(|| wheel::install_from(self.repo, venv, step, wheel, "test,demo,bench"))?;
        Ok(venv)
    }

    /// The same, with PyTorch if that was asked for: tests that need it are skipped without it.
    pub(super) fn venv_with_torch(&self, step: &mut LoggedStep) -> Result<&Venv> {
        let venv = self.venv_with_package(step)?;
        if self.options.torch {
            torch::ensure(self.repo, venv, step)?;
        }
        Ok(venv)
    }

    /// Builds what tests of the workspace need, with debug assertions and overflow checks; returns the folder of what was
    /// built. Parts take programs and libraries from there: to build packages by themselves would build them with other
    /// features, again.
    pub(super) fn built(&self, step: &mut LoggedStep) -> Result<PathBuf> {
        let folder = self.built.get(|| {
            step.compile(&mut self.repo.build_workspace())?;
            Ok(self.repo.target.join("debug"))
        })?;
        Ok(folder.clone())
    }

    /// The CPU driver as a shared library.
    pub(super) fn cpu_driver(&self, step: &mut LoggedStep) -> Result<PathBuf> {
        Ok(self.built(step)?.join(dist::CPU_DRIVER))
    }

    /// The driver that was named, else the CPU engine's library; and whether it must support everything, as that engine does.
    pub(super) fn driver(&self, step: &mut LoggedStep) -> Result<(PathBuf, bool)> {
        match &self.options.driver {
            Some(driver) => Ok((driver.clone(), false)),
            None => Ok((self.cpu_driver(step)?, true)),
        }
    }

    /// A project that uses the packages of the crates.
    pub(super) fn user(&self, step: &mut LoggedStep) -> Result<&User<'a>> {
        self.user.get(|| User::new(self.repo, step))
    }

    /// Keeps a text for the end of the report.
    pub(super) fn close_with(&self, text: String) {
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        closing.push(text);
    }
}

//! Where things lie.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The checkout and the folders that tasks write to, all of them below the build folder.
pub(crate) struct Repo {
    /// The workspace root.
    pub(crate) root: PathBuf,
    /// Cargo's build folder.
    pub(crate) target: PathBuf,
    /// What tasks make that is not cargo's.
    pub(crate) scratch: PathBuf,
}

impl Repo {
    /// The checkout that this program was started for: cargo says where its manifest is.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .context("CARGO_MANIFEST_DIR is not set: start this as `cargo xtask`")?;
        let root = Path::new(&manifest)
            .parent()
            .context("the manifest of xtask has no parent folder")?
            .to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        let scratch = target.join("xtask");
        Ok(Self {
            root,
            target,
            scratch,
        })
    }

    /// A path in the checkout.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// A path among what tasks make.
    pub(crate) fn scratch(&self, relative: &str) -> PathBuf {
        self.scratch.join(relative)
    }

    /// `cargo` with these arguments, run in the root. It is the cargo that started this program.
    pub(crate) fn cargo<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: I,
    ) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).args(arguments);
        // What cargo set for this program would make cargo rebuild crates that look at it.
        for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"] {
            command.env_remove(name);
        }
        command
    }

    /// A subcommand of cargo on everything that tests need: the workspace without the Python module, which the wheel has, and
    /// without the generator. It is always the same set, so that no crate is compiled twice with other features.
    pub(crate) fn workspace(&self, subcommand: &str, arguments: &[&str]) -> Command {
        let mut command = self.cargo([subcommand, "--locked", "--workspace"]);
        for package in ["umfa", "mfa-codegen"] {
            command.args(["--exclude", package]);
        }
        command.args(arguments);
        command
    }

    /// Builds the programs and libraries of that set. With the tests: without them cargo would leave out features that only they
    /// ask for, and compile all again for them.
    pub(crate) fn build_workspace(&self) -> Command {
        self.workspace("build", &["--lib", "--bins", "--tests"])
    }

    /// The version of the workspace.
    pub(crate) const VERSION: &'static str = env!("CARGO_PKG_VERSION");
}

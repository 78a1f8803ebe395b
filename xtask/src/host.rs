//! Where programs in Objective-C and Swift are built and run: on this machine or, where Linux has no clang 19 and GNUstep, in a
//! Debian 13 root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::repo::Repo;
use crate::sysroot;

/// This machine or the root.
pub(crate) struct Host {
    inside: Option<Vec<PathBuf>>,
}

impl Host {
    /// This machine, whatever it has.
    pub(crate) const HERE: Self = Self { inside: None };

    /// Where Objective-C programs are built and run; in a root, these folders are visible. The error is the reason why it is
    /// nowhere.
    pub(crate) fn find(repo: &Repo, folders: &[&Path]) -> std::result::Result<Self, String> {
        Self::here_or_root(repo, has_objective_c(), "clang 19 and GNUstep", folders)
    }

    /// Where Swift 6 is, and on Linux the clang 19 of the software device. The error is the reason why it is nowhere.
    pub(crate) fn of_swift(repo: &Repo) -> std::result::Result<Self, String> {
        Self::of_swift_with(repo, None)
    }

    /// The same; in a root, a folder is visible.
    pub(crate) fn of_swift_with(
        repo: &Repo,
        folder: Option<&Path>,
    ) -> std::result::Result<Self, String> {
        let here = cfg!(target_os = "macos") || sysroot::native();
        let folders: Vec<&Path> = folder.into_iter().collect();
        Self::here_or_root(repo, here, "Swift 6 and clang 19", &folders)
    }

    fn here_or_root(
        repo: &Repo,
        here: bool,
        needed: &str,
        folders: &[&Path],
    ) -> std::result::Result<Self, String> {
        if here {
            return Ok(Self::HERE);
        }
        if let Some(reason) = sysroot::unavailable() {
            return Err(format!("no {needed} here, and {reason}"));
        }
        let mut visible = vec![repo.target.clone()];
        visible.extend(folders.iter().map(|folder| folder.to_path_buf()));
        Ok(Self {
            inside: Some(visible),
        })
    }

    /// Whether it is this machine.
    pub(crate) fn is_here(&self) -> bool {
        self.inside.is_none()
    }

    /// For reports.
    pub(crate) fn name(&self) -> &'static str {
        match self.inside {
            None => "this machine",
            Some(_) => "a Debian 13 root under target/",
        }
    }

    /// A program there, started in the repository's root folder.
    pub(crate) fn command(&self, repo: &Repo, program: &Path) -> Command {
        match &self.inside {
            None => {
                let mut command = Command::new(program);
                command.current_dir(&repo.root);
                command
            }
            Some(folders) => {
                let mut command = sysroot::at(repo, &repo.root, folders);
                command.arg(program);
                command
            }
        }
    }
}

/// Whether Objective-C programs can be built here: Apple's frameworks, or clang with GNUstep.
fn has_objective_c() -> bool {
    let answers = |program: &str, argument: &str| {
        let found = Command::new(program).arg(argument).output();
        found.is_ok_and(|output| output.status.success())
    };
    cfg!(target_os = "macos")
        || (answers("clang-19", "--version") && answers("gnustep-config", "--objc-flags"))
}

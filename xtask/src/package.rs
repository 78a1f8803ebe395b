//! The crates as crates.io would get them, and a project that uses them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::LoggedStep;
use crate::repo::Repo;

/// The crates that are published, dependencies first.
pub(crate) const CRATES: [&str; 4] = ["mfa-sys", "mfa-kernels", "mfa-cpu", "mfa"];

/// Where the packages are made.
pub(crate) fn folder(repo: &Repo) -> PathBuf {
    repo.scratch("package/package")
}

/// The name of a crate's package.
pub(crate) fn file(name: &str) -> String {
    format!("{name}-{}.crate", Repo::VERSION)
}

/// What a user of the crates writes.
const PROGRAM: &str = r#"
use mfa::{Attention, MfaContext, Quantizer, TensorView};

fn main() -> Result<(), mfa::MfaError> {
    let context = MfaContext::new()?;
    let data: Vec<f32> = (0..4 * 32 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
    let query = TensorView::from_slice(&context, &data, [1, 4, 32, 64])?;
    let key = Quantizer::int8().quantize(&context, &query)?;
    let output = Attention::new(&context).causal(true).forward(&query, &key.view(), &key.view())?;
    assert_eq!(output.shape(), [1, 4, 32, 64]);
    println!("attention on {}", context.device_name());
    Ok(())
}
"#;

/// A project away from the repository, with the unpacked packages in the host of crates.io's.
pub(crate) struct User<'a> {
    repo: &'a Repo,
    folder: PathBuf,
}

impl<'a> User<'a> {
    /// Makes the packages and the project.
    pub(crate) fn new(repo: &'a Repo, step: &mut LoggedStep) -> Result<Self> {
        // Not built here: the project builds them, from what was packed, once.
        let mut command = repo.cargo(["package", "--locked", "--allow-dirty", "--no-verify"]);
        command.arg("--target-dir").arg(repo.scratch("package"));
        for name in CRATES {
            command.args(["--package", name]);
        }
        step.compile(&mut command)?;

        let user = Self {
            repo,
            folder: repo.scratch("clean/crates"),
        };
        let mut patches = String::new();
        let unpacked = fresh(repo.scratch("clean/unpacked"))?;
        for name in CRATES {
            unpack(step, &folder(repo).join(file(name)), &unpacked)?;
        }
        for name in CRATES {
            let package = format!("{name}-{}", Repo::VERSION);
            // All files of a package have the same old time, by which cargo would take what it has compiled for the newest.
            bring_up_to_date(&unpacked.join(&package), &user.folder.join(&package))?;
            patches += &format!("{name} = {{ path = {package:?} }}\n");
        }
        let manifest = format!(
            "[package]\nname = \"user\"\nedition = \"2024\"\n\n[dependencies]\nmfa = \"{version}\"\n\n\
             [workspace]\nmembers = [\"mfa-{version}\"]\n\n[patch.crates-io]\n{patches}\n{}",
            profile(repo)?,
            version = Repo::VERSION
        );
        user.write("Cargo.toml", &manifest)?;
        user.write("src/main.rs", PROGRAM)?;
        // The versions that the repository has downloaded already: offline there are no others.
        let lock = fs::read_to_string(repo.path("Cargo.lock")).context("reading Cargo.lock")?;
        user.write("Cargo.lock", &lock)?;
        Ok(user)
    }

    /// Builds the three crates, the project's program and the tests, which is one check.
    pub(crate) fn build(&self, step: &mut LoggedStep) -> Result<()> {
        step.compile_check(&mut self.cargo(&["build", "--workspace", "--bins", "--tests"]))
    }

    /// The project's program, which was built. (`cargo run` alone would compile the crates with other features.)
    pub(crate) fn run(&self) -> Command {
        Command::new(self.target().join("debug/user"))
    }

    /// Runs the tests of the members.
    pub(crate) fn test(&self) -> Command {
        self.cargo(&["test", "--workspace"])
    }

    fn target(&self) -> PathBuf {
        self.repo.scratch("clean/target")
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.repo.cargo(arguments);
        command
            .arg("--offline")
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", self.target());
        command
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.folder.join(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        write_changed(&path, text.as_bytes())
    }
}

/// Makes a folder hold what another one holds. What was equal keeps its time.
fn bring_up_to_date(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    let names = |folder: &Path| -> Result<Vec<_>> {
        let entries =
            fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
        entries.map(|entry| Ok(entry?.file_name())).collect()
    };
    let wanted = names(from)?;
    for name in &wanted {
        let (source, target) = (from.join(name), to.join(name));
        if source.is_dir() {
            bring_up_to_date(&source, &target)?;
        } else {
            let bytes =
                fs::read(&source).with_context(|| format!("reading {}", source.display()))?;
            write_changed(&target, &bytes)?;
        }
    }
    for name in names(to)?.iter().filter(|name| !wanted.contains(name)) {
        let path = to.join(name);
        if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        }
        .with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// Writes a file, unless it holds these bytes.
fn write_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// The repository's own development profile: the engine is optimised, for its tests run.
fn profile(repo: &Repo) -> Result<String> {
    let manifest = fs::read_to_string(repo.path("Cargo.toml")).context("reading Cargo.toml")?;
    let from = manifest
        .find("[profile.dev]")
        .context("Cargo.toml has no profile dev")?;
    let end = manifest.find("[profile.release]").unwrap_or(manifest.len());
    // Those of packages that only the repository has would be warned about.
    let lines = manifest[from..end]
        .lines()
        .filter(|line| !line.starts_with("mfa-support"));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

/// An empty folder.
pub(crate) fn fresh(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// Unpacks an archive into a folder.
pub(crate) fn unpack(step: &mut LoggedStep, archive: &Path, folder: &Path) -> Result<()> {
    step.run(
        Command::new("tar")
            .arg("-xzf")
            .arg(archive)
            .arg("-C")
            .arg(folder),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_equal_keeps_its_time() {
        let folder = std::env::temp_dir().join(format!("xtask-package-{}", std::process::id()));
        let (from, to) = (folder.join("from"), folder.join("to"));
        for (file, text) in [
            ("from/a/same", "1"),
            ("from/a/new", "2"),
            ("to/a/same", "1"),
            ("to/a/new", "old"),
            ("to/gone", ""),
        ] {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let time = || fs::metadata(to.join("a/same")).unwrap().modified().unwrap();
        let before = time();
        bring_up_to_date(&from, &to).unwrap();
        assert_eq!(time(), before);
        assert_eq!(fs::read_to_string(to.join("a/new")).unwrap(), "2");
        assert!(!to.join("gone").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}

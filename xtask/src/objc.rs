//! Programs in Objective-C: on macOS as they are, on Linux with clang and GNUstep, if need be in a Debian 13 root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::counts::Counts;
use crate::docs;
use crate::process::Step;
use crate::repo::Repo;
use crate::sysroot;

/// Where the programs are built and run.
pub(crate) struct Place {
    inside: Option<Vec<PathBuf>>,
}

impl Place {
    /// This machine, or a root in which these folders are visible. The error is the reason why there is neither.
    pub(crate) fn find(repo: &Repo, folders: &[&Path]) -> std::result::Result<Self, String> {
        if has_objective_c() {
            return Ok(Self { inside: None });
        }
        if let Some(reason) = sysroot::unavailable() {
            return Err(format!("no clang and GNUstep here, and {reason}"));
        }
        let mut visible = vec![repo.target.clone()];
        visible.extend(folders.iter().map(|folder| folder.to_path_buf()));
        Ok(Self {
            inside: Some(visible),
        })
    }

    /// For reports.
    pub(crate) fn name(&self) -> &'static str {
        match self.inside {
            None => "this machine's Objective-C",
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

    /// Builds everything in objc/ against the driver `library`; returns the folder of the programs.
    pub(crate) fn build(
        &self,
        repo: &Repo,
        step: &mut Step,
        library: &Path,
        name: &str,
        flags: &str,
    ) -> Result<PathBuf> {
        let out = repo.scratch("objc").join(name);
        step.run(
            self.command(repo, Path::new("make"))
                .args(["-C", "objc", "--always-make"])
                .arg(format!("DRIVER={}", library.display()))
                .arg(format!("OUT={}", out.display()))
                .arg(format!("CFLAGS={flags}")),
        )?;
        Ok(out)
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

/// The tests of the bridge, also under sanitizers; the conformance vectors; the examples, also by CMake. With `require`,
/// what the driver does not support is a failure.
pub(crate) fn test(
    repo: &Repo,
    step: &mut Step,
    place: &Place,
    library: &Path,
    require: bool,
) -> Result<()> {
    let out = place.build(repo, step, library, "plain", "-O2 -g")?;
    step.run(&mut place.command(repo, &out.join("bridge_tests")))?;
    let mut conformance = place.command(repo, &out.join("conformance"));
    conformance.env_remove("MFA_DRIVER");
    if require {
        conformance.arg("--require");
    }
    step.run(conformance.arg("tests/conformance/vectors"))?;
    for (example, arguments) in [("attention", &["300", "80", "3"][..]), ("quantized", &[])] {
        step.run_check(
            place
                .command(repo, &out.join(example))
                .args(arguments.iter()),
        )?;
    }
    documents(repo, step, place, library, &out)?;

    let sanitizers = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined";
    let out = place.build(repo, step, library, "sanitized", sanitizers)?;
    step.run(
        // GNUstep and the driver keep caches until the process ends.
        place
            .command(repo, &out.join("bridge_tests"))
            .env("ASAN_OPTIONS", "detect_leaks=0"),
    )?;

    let out = repo.scratch("objc/cmake");
    step.run(
        place
            .command(repo, Path::new("cmake"))
            .args(["-S", "objc", "-B"])
            .arg(&out)
            .arg(format!("-DMFA_DRIVER={}", library.display()))
            .args(if cfg!(target_os = "macos") {
                &[][..]
            } else {
                &[
                    "-DCMAKE_C_COMPILER=clang-19",
                    "-DCMAKE_OBJC_COMPILER=clang-19",
                ]
            }),
    )?;
    step.run(
        place
            .command(repo, Path::new("cmake"))
            .arg("--build")
            .arg(&out),
    )?;
    step.run(
        place
            .command(repo, Path::new("ctest"))
            .args(["--output-on-failure", "--test-dir"])
            .arg(&out),
    )?;
    step.counts += Counts::passed(2);
    Ok(())
}

/// The Objective-C programs in Markdown files.
fn documents(
    repo: &Repo,
    step: &mut Step,
    place: &Place,
    library: &Path,
    out: &Path,
) -> Result<()> {
    for (file, blocks) in docs::markdown(repo)? {
        for block in blocks.iter().filter(|block| block.language == "objc") {
            let name = format!("{}-{}", file.replace('/', "-"), block.line);
            let (program, source) = (out.join(&name), out.join(format!("{name}.m")));
            fs::write(&source, &block.code)
                .with_context(|| format!("writing {}", source.display()))?;
            let result = step
                .run(
                    place
                        .command(repo, Path::new("make"))
                        .args(["-C", "objc", "program"])
                        .arg(format!("DRIVER={}", library.display()))
                        .arg(format!("OUT={}", out.display()))
                        .arg(format!("SOURCE={}", source.display()))
                        .arg(format!("PROGRAM={}", program.display())),
                )
                .and_then(|()| step.run(&mut place.command(repo, &program)));
            docs::count(step, &file, block, result)?;
        }
    }
    Ok(())
}

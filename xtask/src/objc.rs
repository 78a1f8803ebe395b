//! Programs in Objective-C: on macOS as they are, on Linux with clang and GNUstep.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::counts::Counts;
use crate::docs;
use crate::host::Host;
use crate::process::LoggedStep;
use crate::repo::Repo;

/// Builds everything in objc/ against the driver `library`, into the folder `out`; `variables` are more of make's.
pub(crate) fn build(
    host: &Host,
    repo: &Repo,
    step: &mut LoggedStep,
    library: &Path,
    out: &Path,
    flags: &str,
    variables: &[&str],
) -> Result<()> {
    step.compile(
        host.command(repo, Path::new("make"))
            .args(["-C", "objc", "--always-make"])
            .arg(format!("DRIVER={}", library.display()))
            .arg(format!("OUT={}", out.display()))
            .args([format!("CFLAGS={flags}").as_str(), "WERROR=1"])
            .args(variables),
    )
}

/// Compiles with automatic reference counting: the bridge and the examples, or the program `source`.
fn with_arc(
    host: &Host,
    repo: &Repo,
    step: &mut LoggedStep,
    library: &Path,
    out: &Path,
    source: Option<&Path>,
) -> Result<()> {
    let mut make = host.command(repo, Path::new("make"));
    make.args(["-C", "objc", "check-arc", "WERROR=1"])
        .arg(format!("DRIVER={}", library.display()))
        .arg(format!("OUT={}", out.display()));
    if let Some(source) = source {
        make.arg(format!("SOURCE={}", source.display()));
    }
    step.compile(&mut make)
}

/// The tests of the bridge, also under sanitizers; the conformance vectors; the examples, also by CMake. With `require`,
/// what the driver does not support is a failure.
pub(crate) fn test(
    repo: &Repo,
    step: &mut LoggedStep,
    host: &Host,
    library: &Path,
    require: bool,
) -> Result<()> {
    let out = repo.scratch("objc/plain");
    build(host, repo, step, library, &out, "-O2 -g", &[])?;
    step.run(&mut host.command(repo, &out.join("bridge_tests")))?;
    let mut conformance = host.command(repo, &out.join("conformance"));
    conformance.env_remove("MFA_DRIVER");
    if require {
        conformance.arg("--require");
    }
    step.run(conformance.arg("tests/conformance/vectors"))?;
    for (example, arguments) in [("attention", &["300", "80", "3"][..]), ("quantized", &[])] {
        step.run_check(
            host.command(repo, &out.join(example))
                .args(arguments.iter()),
        )?;
    }
    with_arc(host, repo, step, library, &out, None)?;
    step.counts += Counts::passed(1);
    documents(repo, step, host, library, &out)?;

    // Debian's runtime has no reference counting of its own: there the sources are read only.
    if cfg!(target_os = "macos") {
        let out = repo.scratch("objc/arc");
        build(host, repo, step, library, &out, "-O2 -g", &["ARC=1"])?;
        for example in ["attention", "quantized"] {
            step.run_check(&mut host.command(repo, &out.join(example)))?;
        }
    }

    let sanitizers = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined";
    let out = repo.scratch("objc/sanitized");
    build(host, repo, step, library, &out, sanitizers, &[])?;
    step.run(
        // GNUstep and the driver keep caches until the process ends.
        host.command(repo, &out.join("bridge_tests"))
            .env("ASAN_OPTIONS", "detect_leaks=0"),
    )?;

    let out = repo.scratch("objc/cmake");
    step.compile(
        host.command(repo, Path::new("cmake"))
            .args(["-S", "objc", "-B"])
            .arg(&out)
            .args([
                &format!("-DMFA_DRIVER={}", library.display()),
                "-DMFA_WERROR=ON",
            ])
            .args(if cfg!(target_os = "macos") {
                &[][..]
            } else {
                &[
                    "-DCMAKE_C_COMPILER=clang-19",
                    "-DCMAKE_OBJC_COMPILER=clang-19",
                ]
            }),
    )?;
    step.compile(
        host.command(repo, Path::new("cmake"))
            .arg("--build")
            .arg(&out),
    )?;
    step.run(
        host.command(repo, Path::new("ctest"))
            .args(["--output-on-failure", "--test-dir"])
            .arg(&out),
    )?;
    step.counts += Counts::passed(2);
    Ok(())
}

/// The Objective-C programs in Markdown files.
fn documents(
    repo: &Repo,
    step: &mut LoggedStep,
    host: &Host,
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
                    host.command(repo, Path::new("make"))
                        .args(["-C", "objc", "program"])
                        .arg(format!("DRIVER={}", library.display()))
                        .arg(format!("OUT={}", out.display()))
                        .arg(format!("SOURCE={}", source.display()))
                        .args([&format!("PROGRAM={}", program.display()), "WERROR=1"]),
                )
                .and_then(|()| with_arc(host, repo, step, library, out, Some(&source)))
                .and_then(|()| step.run(&mut host.command(repo, &program)));
            docs::count(step, &file, block, result)?;
        }
    }
    Ok(())
}

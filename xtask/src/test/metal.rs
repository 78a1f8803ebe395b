//! Tests of the Swift driver: on a Mac's GPU, elsewhere on the software device. (The part `cross` calls it from every language.)

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::codegen;
use crate::docs;
use crate::host::Host;
use crate::metal;
use crate::process::LoggedStep;
use crate::repo::Repo;
use crate::support;
use crate::test::part::{Outcome, Part};
use crate::test::rust;
use crate::test::schedule::Lane;
use crate::test::test_env::TestEnv;

/// Random calls of each property: the software device is a thousand times slower than a processor.
const RANDOM_CALLS: &str = "200";

pub(super) fn parts() -> Vec<Part> {
    vec![
        part(
            "metal-swift",
            "MFABridge: kernels' text and results, the conformance vectors through the Swift API",
            |env, step, host| {
                step.compile(metal::swift(env.repo, host, "build").arg("--build-tests"))?;
                step.run(metal::swift(env.repo, host, "test").arg("--skip-build"))
            },
        ),
        part(
            "metal-arithmetic",
            "MFABridge where subnormal numbers are zero, and its kernels where functions err as far as Metal lets them",
            |env, step, host| {
                step.compile(metal::swift(env.repo, host, "build").arg("--build-tests"))?;
                for (option, tests, but) in [
                    (
                        "SOFTWARE_METAL_FTZ",
                        "ConformanceTests|ForwardTests|BackwardTests",
                        "-",
                    ),
                    (
                        // One key has exactly no gradient only if 2^0 is exactly 1, which no table of Metal promises.
                        "SOFTWARE_METAL_FUNCTION_ERRORS",
                        "testQuantization|ForwardTests|BackwardTests|MaskTests",
                        "testOneKeyHasNoScoreGradient",
                    ),
                ] {
                    let mut test = metal::swift(env.repo, host, "test");
                    test.args(["--skip-build", "--filter", tests, "--skip", but]);
                    step.run(test.env(option, "1"))?;
                }
                Ok(())
            },
        ),
        part(
            "metal-exports",
            "the Swift driver exports the functions of mfa.h, and no others of that name",
            |env, step, host| {
                let driver = metal::driver(env.repo, step, host)?;
                let built = env.built(step)?;
                codegen::check_exports(step, &built, &driver)
            },
        ),
        part(
            "metal-support",
            "README's table of features is what the devices answer",
            |env, step, host| {
                let built = env.built(step)?;
                support::check(env.repo, step, host, &built)
            },
        ),
        part(
            "metal-random",
            "random calls with every option on the Swift driver, against float64",
            |env, step, host| {
                let driver = metal::driver(env.repo, step, host)?;
                let program = rust::test_program(env.repo, step, "properties")?;
                step.run(
                    host.command(env.repo, &program)
                        .env("MFA_DRIVER", driver)
                        .env("MFA_REQUIRE_ALL", "1")
                        .env("PROPTEST_CASES", RANDOM_CALLS),
                )
            },
        ),
        part(
            "metal-package",
            "a package that depends on the repository's root builds and runs the Swift code of the guide",
            |env, step, host| {
                for (file, blocks) in docs::markdown(env.repo)? {
                    for block in blocks {
                        if block.language == "swift" && block.program {
                            let result = user(env.repo, step, host, &block.code);
                            docs::count(step, &file, &block, result)?;
                        }
                    }
                }
                Ok(())
            },
        ),
        part(
            "metal-counts",
            "INT8 and INT4 keys and values cost the kernels what is promised, and no more",
            |env, step, host| {
                let mut counter = metal::counter(env.repo, step, host)?;
                step.run_check(counter.arg("--check"))
            },
        ),
    ]
}

/// Builds and runs a program in a package of its own.
fn user(repo: &Repo, step: &mut LoggedStep, host: &Host, code: &str) -> Result<()> {
    // SwiftPM names a dependency after its folder.
    let folder = repo.scratch("metal-package");
    let named = folder.join("umfa");
    let write = |file: &str, text: &str| {
        let path = folder.join("user").join(file);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    write("Package.swift", MANIFEST)?;
    write("Sources/user/main.swift", code)?;
    step.run(Command::new("ln").arg("-sfn").arg(&repo.root).arg(named))?;
    let swift = |arguments: &[&str]| {
        let mut command = host.command(repo, Path::new("swift"));
        command
            .args(arguments)
            .args(["--configuration", "release", "--package-path"])
            .arg(folder.join("user"));
        command
    };
    step.compile(&mut swift(&["build"]))?;
    step.run(&mut swift(&["run", "--skip-build"]))
}

const MANIFEST: &str = r#"// swift-tools-version: 6.0
import PackageDescription

let package = Package(
  name: "user", platforms: [.macOS(.v14)],
  dependencies: [.package(path: "../umfa")],
  targets: [.executableTarget(name: "user", dependencies: [.product(name: "MetalAttention", package: "umfa")])])
"#;

/// A part that is skipped where there is no Swift and no root can be made.
fn part(
    name: &str,
    about: &str,
    run: impl Fn(&TestEnv<'_>, &mut LoggedStep, &Host) -> Result<()> + Send + Sync + 'static,
) -> Part {
    Part::new(Lane::Swift, name, about, move |env, step| {
        let host = match Host::of_swift(env.repo) {
            Ok(host) => host,
            Err(reason) => return Ok(Outcome::Skipped(reason)),
        };
        run(env, step, &host)?;
        let device = if cfg!(target_os = "macos") {
            "the GPU of this Mac"
        } else {
            "the software device"
        };
        Ok(Outcome::Ran(format!("{device}, on {}", host.name())))
    })
}

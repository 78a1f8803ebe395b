//! Tests of the Swift driver: on a Mac's GPU, elsewhere on the software device. (The part `cross` calls it from every language.)

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::codegen;
use crate::docs;
use crate::host::Host;
use crate::metal;
use crate::metal_cuda;
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
            Needs::Nothing,
            "MFABridge: kernels' text and results, the conformance vectors through the Swift API",
            |env, step, host| {
                step.compile(metal::swift(env.repo, host, "build").arg("--build-tests"))?;
                step.run(metal::swift(env.repo, host, "test").arg("--skip-build"))
            },
        ),
        part(
            "metal-as-on-apple",
            Needs::SoftwareDevice,
            "Swift and its tests build without what the software device has beyond Apple's Metal",
            |env, step, host| {
                step.compile_check(
                    metal::swift(env.repo, host, "build")
                        .args(["--build-tests", "--scratch-path"])
                        .arg(env.repo.scratch("as-on-apple"))
                        .env("AS_ON_APPLE", "1"),
                )
            },
        ),
        part(
            "metal-arithmetic",
            Needs::SoftwareDevice,
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
            Needs::Nothing,
            "the Swift driver exports the functions of mfa.h, and no others of that name",
            |env, step, host| {
                let driver = metal::driver(env.repo, step, host)?;
                let built = env.built(step)?;
                codegen::check_exports(step, &built, &driver)
            },
        ),
        part(
            "metal-support",
            Needs::Device,
            "README's table of features is what the devices answer",
            |env, step, host| {
                let built = env.built(step)?;
                support::check(env.repo, step, host, &built)
            },
        ),
        part(
            "metal-random",
            Needs::Device,
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
        metal_cuda(),
        part(
            "metal-package",
            Needs::Device,
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
            Needs::SoftwareDevice,
            "INT8 and INT4 keys and values cost the kernels what is promised, and no more",
            |env, step, host| {
                let mut counter = metal::counter(env.repo, step, host)?;
                step.run_check(counter.arg("--check"))
            },
        ),
    ]
}

/// The texts before a second compiler, and the translated kernels on a processor.
fn metal_cuda() -> Part {
    Part::new(
        Lane::Swift,
        "metal-cuda",
        "every Metal text compiles as CUDA C++; translated kernels pass the vectors on a processor",
        |env, step| {
            if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
                return Ok(Outcome::Skipped("NVRTC is tested on Linux, x86-64".into()));
            }
            let host = match Host::of_swift(env.repo) {
                Ok(host) => host,
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            let venv = env.venv(step)?;
            metal_cuda::check_page(env.repo, venv, step)?;
            let folder = metal_cuda::every_text(env.repo, step, &host)?;
            metal_cuda::compile(env.repo, venv, step, &folder, false)?;
            let calls = env.repo.scratch("metal-cuda/calls");
            let recorded = env.repo.scratch("metal-cuda/recorded");
            step.run(
                metal_cuda::python(env.repo, venv)
                    .arg("metal_cuda.tests.calls")
                    .arg(&calls),
            )?;
            metal_cuda::record(env.repo, step, &host, &calls, &recorded)?;
            step.pytest(
                metal_cuda::python(env.repo, venv)
                    .args(["pytest", "-q"])
                    .arg(env.repo.path("xtask/python/metal_cuda/tests"))
                    .env("METAL_CUDA_RECORDED", &recorded)
                    .env("METAL_CUDA_LIBRARIES", env.repo.scratch("metal-cuda/host")),
            )?;
            Ok(Outcome::Ran(format!("NVRTC, on {}", host.name())))
        },
    )
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

/// What a part cannot do without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Its tests that run kernels skip themselves, each with the reason.
    Nothing,
    /// A device that runs the kernels.
    Device,
    /// What the software device alone can say.
    SoftwareDevice,
}

/// A part that is skipped where there is no Swift and no root can be made, or not what it needs: a Mac whose GPU is older than the
/// kernels compiles them, and runs none.
fn part(
    name: &str,
    needs: Needs,
    about: &str,
    run: impl Fn(&TestEnv<'_>, &mut LoggedStep, &Host) -> Result<()> + Send + Sync + 'static,
) -> Part {
    Part::new(Lane::Swift, name, about, move |env, step| {
        if needs == Needs::SoftwareDevice && cfg!(target_os = "macos") {
            let reason = "a Mac has no software device";
            return Ok(Outcome::Impossible(reason.into()));
        }
        let host = match Host::of_swift(env.repo) {
            Ok(host) => host,
            Err(reason) => return Ok(Outcome::Skipped(reason)),
        };
        let unavailable = metal::unavailable(env.repo, step, &host)?;
        if let (Some(reason), Needs::Device) = (&unavailable, needs) {
            return Ok(Outcome::Impossible(reason.clone()));
        }
        run(env, step, &host)?;
        let device = match unavailable {
            Some(reason) => format!("no kernel ran: {reason}"),
            None if cfg!(target_os = "macos") => "the GPU of this Mac".to_owned(),
            None => "the software device".to_owned(),
        };
        Ok(Outcome::Ran(format!("{device}, on {}", host.name())))
    })
}

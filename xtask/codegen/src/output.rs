//! Writes generated files, or shows how they differ from those in the repository.

use std::path::Path;

use anyhow::{Context, Result, bail};
use similar::TextDiff;

/// A file in the repository that is made from the header.
pub(crate) struct Generated {
    path: &'static str,
    text: String,
}

impl Generated {
    pub(crate) fn new(path: &'static str, text: String) -> Self {
        Self { path, text }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Write,
    Check,
}

/// Brings the files up to date, or fails with a diff if one of them is not.
pub(crate) fn settle(root: &Path, files: &[Generated], mode: Mode) -> Result<()> {
    let mut stale = Vec::new();
    for Generated { path, text } in files {
        let target = root.join(path);
        let found = match std::fs::read_to_string(&target) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        if found == *text {
            continue;
        }
        stale.push(*path);
        if mode == Mode::Check {
            eprint!(
                "{}",
                TextDiff::from_lines(&found, text)
                    .unified_diff()
                    .header(path, "generated from mfa.h")
            );
            continue;
        }
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&target, text).with_context(|| format!("cannot write {path}"))?;
        eprintln!("wrote {path}");
    }
    if mode == Mode::Check && !stale.is_empty() {
        bail!("stale: {} (run `cargo xtask codegen`)", stale.join(", "));
    }
    Ok(())
}

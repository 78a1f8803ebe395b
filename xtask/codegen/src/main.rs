//! Generates the declarations of `mfa.h` in other languages.
//!
//! ```text
//! mfa-codegen            write the generated files
//! mfa-codegen --check    fail, with a diff, if one of them is stale
//! ```
//!
//! libclang is found through `LIBCLANG_PATH`. `cargo xtask codegen` sets it.

mod doc;
mod header;
mod output;
mod python;
mod rust;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::header::Header;
use crate::output::{Generated, Mode};

const USAGE: &str = "usage: mfa-codegen [--check]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mfa-codegen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => output::settle(&root, &generate(&root)?, Mode::Write),
        ["--check"] => output::settle(&root, &generate(&root)?, Mode::Check),
        _ => bail!("{USAGE}"),
    }
}

/// Every generated file: one emitter per language.
fn generate(root: &Path) -> Result<Vec<Generated>> {
    let header = Header::read(root)?;
    Ok(vec![
        rust::bindings(root, &header)?,
        rust::api(root, &header)?,
        python::constants(&header),
    ])
}

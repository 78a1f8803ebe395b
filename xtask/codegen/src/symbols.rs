//! What drivers export, against what the header declares.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::read::NameOrOrdinal;
use object::{BinaryFormat, Object};

use crate::header::{Function, Header};

/// Fails unless each library's dynamic symbols `mfa_*` are exactly the functions that the header declares for its system.
pub(crate) fn check(header: &Header, libraries: &[PathBuf]) -> Result<()> {
    let mut faults = Vec::new();
    for library in libraries {
        let (apple, exported) =
            exports(library).with_context(|| format!("cannot read {}", library.display()))?;
        let declared = header.functions.iter().filter(|f| apple || !f.apple);
        let declared: BTreeSet<String> = declared.map(Function::name).collect();
        for missing in declared.difference(&exported) {
            faults.push(format!("{} lacks {missing}", library.display()));
        }
        for extra in exported.difference(&declared) {
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

/// Whether the library is for Apple's systems, and its exported names that begin with `mfa_`.
fn exports(path: &Path) -> Result<(bool, BTreeSet<String>)> {
    let data = std::fs::read(path)?;
    let file = object::File::parse(&*data)?;
    let apple = file.format() == BinaryFormat::MachO;
    let mut names = BTreeSet::new();
    for export in file.exports()? {
        let export = export?;
        // Windows has exports without a name.
        let NameOrOrdinal::Name(name) = export.name() else {
            continue;
        };
        let name = String::from_utf8_lossy(name);
        // Mach-O puts an underscore before the names of C.
        let name = if apple {
            name.strip_prefix('_').unwrap_or(&name)
        } else {
            &name
        };
        if name.starts_with("mfa_") {
            names.insert(name.to_owned());
        }
    }
    Ok((apple, names))
}

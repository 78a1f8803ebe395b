//! Archives whose bytes depend on their content alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// Packs the folder `tree` as `name/…` into a `.tar.gz`: sorted, without owners and times.
pub(super) fn pack(tree: &Path, name: &str, path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut archive = Builder::new(GzBuilder::new().write(file, Compression::best()));
    for entry in entries(tree)? {
        let inside = Path::new(name).join(entry.strip_prefix(tree)?);
        let mut header = Header::new_gnu();
        header.set_mtime(0);
        header.set_mode(0o644);
        let context = || format!("packing {}", entry.display());
        if entry.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            let target = fs::read_link(&entry).with_context(context)?;
            archive
                .append_link(&mut header, inside, target)
                .with_context(context)?;
        } else {
            let bytes = fs::read(&entry).with_context(context)?;
            header.set_size(bytes.len() as u64);
            archive
                .append_data(&mut header, inside, bytes.as_slice())
                .with_context(context)?;
        }
    }
    archive.into_inner()?.finish()?;
    Ok(())
}

/// The files and links of a folder and the folders in it, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(entries(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

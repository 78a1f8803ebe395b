//! Which file of a crate names which.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::imports::{self, Import};

/// The files of a crate and their imports of one another.
pub(super) struct Graph<'a> {
    edges: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

/// A file as a module.
struct Module<'a> {
    file: &'a str,
    imports: Vec<Import>,
}

type Modules<'a> = BTreeMap<Vec<String>, Module<'a>>;

impl<'a> Graph<'a> {
    /// Reads the files of a crate, by their paths below its folder of sources.
    pub(super) fn of(files: &BTreeMap<&'a str, &'a str>) -> Result<Self> {
        let mut modules: Modules<'a> = BTreeMap::new();
        for (file, text) in files {
            let imports = imports::of(text).with_context(|| (*file).to_owned())?;
            modules.insert(module_path(file), Module { file, imports });
        }
        let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (path, module) in &modules {
            let of_file = edges.entry(module.file).or_default();
            // A file that exports again what another one defines does not use it.
            for import in module.imports.iter().filter(|i| i.exported.is_none()) {
                if let Some(to) = resolve(&modules, path, &import.path, 0)
                    && to != module.file
                {
                    of_file.insert(to);
                }
            }
        }
        Ok(Graph { edges })
    }

    /// Pairs of a file and one that it uses.
    pub(super) fn imports(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        (self.edges.iter()).flat_map(|(from, all)| all.iter().map(|to| (*from, *to)))
    }

    /// Groups of files that use one another.
    pub(super) fn circles(&self) -> Vec<Vec<&'a str>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> = (self.edges.keys())
            .map(|from| (*from, self.reached(from)))
            .collect();
        let mut groups = BTreeSet::new();
        for (file, reached) in &reach {
            if reached.contains(file) {
                let group: Vec<&'a str> = (reached.iter())
                    .filter(|other| reach.get(**other).is_some_and(|back| back.contains(file)))
                    .copied()
                    .collect();
                groups.insert(group);
            }
        }
        groups.into_iter().collect()
    }

    fn reached(&self, from: &str) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        let mut next: Vec<&'a str> = self.edges[from].iter().copied().collect();
        while let Some(file) = next.pop() {
            if found.insert(file) {
                next.extend(&self.edges[file]);
            }
        }
        found
    }
}

/// The module path of a file.
fn module_path(file: &str) -> Vec<String> {
    let mut path: Vec<String> = (file.trim_end_matches(".rs").split('/'))
        .map(str::to_owned)
        .collect();
    if matches!(
        path.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        path.pop();
    }
    path
}

/// The file that a path leads to, from the module `at`; `None` outside the crate.
fn resolve<'a>(
    modules: &Modules<'a>,
    at: &[String],
    path: &[String],
    depth: usize,
) -> Option<&'a str> {
    // Exports that lead in a circle lead nowhere.
    if depth > 8 {
        return None;
    }
    let mut module = at.to_vec();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => {
            module.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|first| first == "super") {
                module.pop()?;
                rest = &rest[1..];
            }
        }
        first => {
            let mut child = module.clone();
            child.push(first.to_owned());
            modules.get(&child)?;
        }
    }
    while let Some(next) = rest.first() {
        let mut child = module.clone();
        child.push(next.clone());
        if !modules.contains_key(&child) {
            break;
        }
        module = child;
        rest = &rest[1..];
    }
    let found = modules.get(&module)?;
    if let Some(name) = rest.first() {
        let again = (found.imports.iter()).find(|import| import.exported.as_deref() == Some(name));
        if let Some(again) = again
            && let Some(file) = resolve(modules, &module, &again.path, depth + 1)
        {
            return Some(file);
        }
    }
    // Exports of a crate's root are for others.
    (!module.is_empty() || rest.is_empty()).then_some(found.file)
}

//! The paths that a Rust file names, without those of its tests.

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, Macro, Path, UseTree, Visibility};

/// A path, as segments; `public`: it is exported again under its last segment (or `alias`).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import {
    pub(super) path: Vec<String>,
    pub(super) exported: Option<String>,
}

/// All paths of a file, in which `super` of inline modules is resolved to the file's own.
pub(super) fn of(text: &str) -> Result<Vec<Import>> {
    let file = syn::parse_file(text).context("parsing Rust")?;
    let mut imports = Imports::default();
    imports.visit_file(&file);
    Ok(imports.found)
}

#[derive(Default)]
struct Imports {
    found: Vec<Import>,
    /// Inline modules around the place.
    depth: usize,
}

impl Imports {
    fn add(&mut self, mut path: Vec<String>, exported: Option<String>) {
        // `super` within an inline module is the file's module.
        let mut left = self.depth;
        while left > 0 && path.first().is_some_and(|first| first == "super") {
            path.remove(0);
            left -= 1;
            if left == 0 {
                path.insert(0, "self".to_owned());
            }
        }
        self.found.push(Import { path, exported });
    }

    fn tree(&mut self, tree: &UseTree, before: &mut Vec<String>, public: bool) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(&path.tree, before, public);
                before.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, before, public);
                }
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.leaf(before, &name, public.then(|| name.clone()));
            }
            UseTree::Rename(rename) => {
                let alias = rename.rename.to_string();
                self.leaf(before, &rename.ident.to_string(), public.then_some(alias));
            }
            UseTree::Glob(_) => self.leaf(before, "*", public.then(|| "*".to_owned())),
        }
    }

    fn leaf(&mut self, before: &[String], name: &str, exported: Option<String>) {
        let last = (name != "self").then(|| name.to_owned());
        self.add(before.iter().cloned().chain(last).collect(), exported);
    }

    /// Paths in the tokens of a macro.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.end(&mut path);
                    self.tokens(group.stream());
                }
                _ => {
                    self.end(&mut path);
                    colons = 0;
                }
            }
        }
        self.end(&mut path);
    }

    fn end(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.add(path, None);
        }
    }
}

impl<'a> Visit<'a> for Imports {
    fn visit_item(&mut self, item: &'a syn::Item) {
        if !attributes(item).iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        let public = !matches!(item.vis, Visibility::Inherited);
        self.tree(&item.tree, &mut Vec::new(), public);
    }

    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if item.content.is_some() {
            self.depth += 1;
            visit::visit_item_mod(self, item);
            self.depth -= 1;
        }
    }

    fn visit_path(&mut self, path: &'a Path) {
        if path.segments.len() > 1 {
            let segments = path.segments.iter().map(|s| s.ident.to_string()).collect();
            self.add(segments, None);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, of: &'a Macro) {
        self.visit_path(&of.path);
        self.tokens(of.tokens.clone());
    }

    fn visit_attribute(&mut self, _: &'a Attribute) {}
}

fn is_for_tests(attribute: &Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    list.path.is_ident("cfg")
        && (list.tokens.clone().into_iter()).any(|token| match token {
            TokenTree::Ident(ident) => ident == "test",
            TokenTree::Group(group) => {
                let words = group.stream().to_string();
                words
                    .split(|c: char| !c.is_alphanumeric())
                    .any(|word| word == "test")
            }
            _ => false,
        })
}

fn attributes(item: &syn::Item) -> &[Attribute] {
    use syn::Item;
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let imports = of(text).unwrap();
        imports
            .iter()
            .map(|import| import.path.join("::"))
            .collect()
    }

    #[test]
    fn trees_are_taken_apart() {
        let found = paths("use crate::a::{self, b::C, d as e}; pub use super::f::*;");
        assert_eq!(
            found,
            ["crate::a", "crate::a::b::C", "crate::a::d", "super::f::*"]
        );
        let exported = of("pub(crate) use a::{B as C, d};").unwrap();
        let names: Vec<_> = exported.iter().map(|i| i.exported.as_deref()).collect();
        assert_eq!(names, [Some("C"), Some("d")]);
    }

    #[test]
    fn expressions_types_and_macros_are_read() {
        let found = paths("fn f(x: crate::a::B) { ensure!(super::c::d(x), kind); x::y(); }");
        assert_eq!(found, ["crate::a::B", "super::c::d", "x::y"]);
    }

    #[test]
    fn inline_modules_are_seen_through() {
        assert_eq!(paths("mod unix { use super::A; }"), ["self::A"]);
        assert_eq!(
            paths("#[cfg(all(test, unix))] mod tests { use super::A; }"),
            [""; 0]
        );
    }
}

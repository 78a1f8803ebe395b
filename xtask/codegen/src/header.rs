//! `mfa.h` as data: read by bindgen for each family of targets, and the results compared.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bindgen::{Builder, EnumVariation, Formatter, RustEdition, RustTarget};
use quote::ToTokens;
use syn::{Expr, ExprLit, ForeignItem, ForeignItemFn, Item, ItemConst, ItemType, Lit, Type};

use crate::doc;

/// The header's path in the repository.
pub(crate) const PATH: &str = "crates/mfa-sys/include/mfa.h";

/// The Rust release whose syntax bindgen may use: `rust-version` of the workspace.
const RUST_MINOR: u64 = 89;

/// Everything the emitters need.
pub(crate) struct Header {
    /// Structs, aliases, constants and layout assertions, in the header's order, documentation normalised.
    pub items: Vec<Item>,
    pub(crate) enums: Vec<Enum>,
    pub functions: Vec<Function>,
    /// `MFA_VERSION_MAJOR`, `_MINOR`, `_PATCH`.
    pub version: [i64; 3],
}

/// The use of an enum's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One of them, in an `int32_t`.
    Code,
    /// Any of them together, in a `uint32_t`.
    Flags,
}

/// The naming of an enum in other languages, which the header does not tell.
struct Naming {
    /// The enum's tag in C.
    tag: &'static str,
    /// The class in other languages.
    class: &'static str,
    kind: Kind,
    /// Prefixes to cut from its constants: the first that fits.
    prefixes: &'static [&'static str],
}

const NAMING: [Naming; 9] = [
    Naming {
        tag: "mfa_status",
        class: "Status",
        kind: Kind::Code,
        prefixes: &["MFA_ERROR_", "MFA_"],
    },
    Naming {
        tag: "mfa_precision",
        class: "Precision",
        kind: Kind::Code,
        prefixes: &["MFA_PRECISION_"],
    },
    Naming {
        tag: "mfa_granularity",
        class: "Granularity",
        kind: Kind::Code,
        prefixes: &["MFA_GRANULARITY_"],
    },
    Naming {
        tag: "mfa_alignment",
        class: "Alignment",
        kind: Kind::Code,
        prefixes: &["MFA_ALIGNMENT_"],
    },
    Naming {
        tag: "mfa_compute",
        class: "Compute",
        kind: Kind::Code,
        prefixes: &["MFA_COMPUTE_"],
    },
    Naming {
        tag: "mfa_device_kind",
        class: "DeviceKind",
        kind: Kind::Code,
        prefixes: &["MFA_DEVICE_"],
    },
    Naming {
        tag: "mfa_option",
        class: "Option",
        kind: Kind::Flags,
        prefixes: &["MFA_OPTION_"],
    },
    Naming {
        tag: "mfa_backward_flag",
        class: "BackwardFlag",
        kind: Kind::Flags,
        prefixes: &["MFA_BACKWARD_"],
    },
    Naming {
        tag: "mfa_quantize_flag",
        class: "QuantizeFlag",
        kind: Kind::Flags,
        prefixes: &["MFA_QUANTIZE_"],
    },
];

pub(crate) struct Enum {
    pub class: &'static str,
    pub kind: Kind,
    pub doc: Vec<String>,
    pub(crate) constants: Vec<Constant>,
}

pub(crate) struct Constant {
    /// Without prefix: `FP32`.
    pub name: String,
    pub value: i64,
    pub doc: Vec<String>,
}

pub(crate) struct Function {
    pub item: ForeignItemFn,
    pub doc: Vec<String>,
    /// Declared for Apple's systems only.
    pub apple: bool,
}

impl Function {
    pub(crate) fn name(&self) -> String {
        self.item.sig.ident.to_string()
    }
}

impl Header {
    /// Reads the header for Linux, Windows and Apple's systems, which must agree in everything but the functions that
    /// Apple's alone have.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut header = Self::parse(root, "x86_64-unknown-linux-gnu")?;
        let windows = Self::parse(root, "x86_64-pc-windows-msvc")?;
        let apple = Self::parse(root, "arm64-apple-macosx")?;
        for (system, other) in [("Windows", &windows), ("Apple's systems", &apple)] {
            same(&header.items, &other.items).with_context(|| {
                format!("{PATH} declares another layout on {system} than on Linux")
            })?;
        }
        let names = |header: &Self| -> Vec<String> {
            header.functions.iter().map(Function::name).collect()
        };
        ensure!(
            names(&header) == names(&windows),
            "{PATH} declares other functions on Windows than on Linux"
        );
        let everywhere = names(&header);
        header.functions = apple.functions;
        for function in &mut header.functions {
            function.apple = !everywhere.contains(&function.name());
        }
        let missing: Vec<_> = everywhere
            .iter()
            .filter(|&name| !names(&header).contains(name))
            .collect();
        ensure!(
            missing.is_empty(),
            "{PATH} does not declare {missing:?} on Apple's systems"
        );
        Ok(header)
    }

    fn parse(root: &Path, target: &str) -> Result<Self> {
        let text = bindings(root, target)?;
        let file = syn::parse_file(&text).context("bindgen's output is not Rust")?;
        let mut header = Self {
            items: Vec::new(),
            enums: Vec::new(),
            functions: Vec::new(),
            version: [-1; 3],
        };
        let mut constants: Vec<(String, Constant)> = Vec::new();
        for item in file.items {
            match item {
                Item::ForeignMod(block) => {
                    for item in block.items {
                        let ForeignItem::Fn(mut item) = item else {
                            bail!(
                                "{PATH} declares something other than functions: {}",
                                item.to_token_stream()
                            );
                        };
                        let doc = doc::lines(&item.attrs);
                        item.attrs = doc::others(&item.attrs);
                        header.functions.push(Function {
                            item,
                            doc,
                            apple: false,
                        });
                    }
                }
                Item::Const(item) if item.ident != "_" => {
                    let (tag, constant) = constant(&item)?;
                    match constant.name.strip_prefix("MFA_VERSION_") {
                        Some("MAJOR") => header.version[0] = constant.value,
                        Some("MINOR") => header.version[1] = constant.value,
                        Some("PATCH") => header.version[2] = constant.value,
                        _ => constants.push((tag, constant)),
                    }
                    header.items.push(Item::Const(item));
                }
                Item::Type(mut item) => {
                    if let Some(found) = take_enum(&item, &mut constants)? {
                        // C leaves the size of an enum to the compiler; the functions and structs have fixed types.
                        item.ty = match found.kind {
                            Kind::Code => Box::new(syn::parse_quote!(i32)),
                            Kind::Flags => Box::new(syn::parse_quote!(u32)),
                        };
                        header.enums.push(found);
                    }
                    header.items.push(Item::Type(item));
                }
                item => header.items.push(item),
            }
        }
        if let Some((tag, constant)) = constants.first() {
            bail!(
                "{} of {tag} belongs to no enum that code generation knows",
                constant.name
            );
        }
        ensure!(
            !header.version.contains(&-1),
            "{PATH} lacks MFA_VERSION_MAJOR, _MINOR or _PATCH"
        );
        ensure!(
            header.enums.len() == NAMING.len(),
            "an enum of `NAMING` is not in {PATH}"
        );
        Ok(header)
    }
}

fn bindings(root: &Path, target: &str) -> Result<String> {
    let stubs = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let rust = RustTarget::stable(RUST_MINOR, 0)
        .ok()
        .context("bindgen does not know this Rust release")?;
    let bindings = Builder::default()
        .header(root.join(PATH).display().to_string())
        .allowlist_file(r".*mfa\.h")
        .clang_arg(format!("--target={target}"))
        .clang_args(["-ffreestanding", "-nostdinc", "-isystem"])
        .clang_arg(stubs.display().to_string())
        .clang_arg("-fparse-all-comments")
        .use_core()
        .layout_tests(true)
        .derive_default(true)
        .default_enum_style(EnumVariation::Consts)
        .prepend_enum_name(false)
        .rust_target(rust)
        .rust_edition(RustEdition::Edition2024)
        .disable_header_comment()
        .formatter(Formatter::None)
        .generate()
        .with_context(|| format!("bindgen cannot read {PATH} for {target}"))?;
    Ok(bindings.to_string())
}

/// The enum or macro type that a constant belongs to, and the constant under its full name.
fn constant(item: &ItemConst) -> Result<(String, Constant)> {
    let Expr::Lit(ExprLit {
        lit: Lit::Int(value),
        ..
    }) = &*item.expr
    else {
        bail!(
            "{} is not an integer: {}",
            item.ident,
            item.expr.to_token_stream()
        );
    };
    let constant = Constant {
        name: item.ident.to_string(),
        value: value.base10_parse()?,
        doc: doc::lines(&item.attrs),
    };
    Ok((item.ty.to_token_stream().to_string(), constant))
}

/// If the alias is an enum's, the enum with the constants of its type, which precede it.
fn take_enum(item: &ItemType, constants: &mut Vec<(String, Constant)>) -> Result<Option<Enum>> {
    let tag = item.ident.to_string();
    let (own, rest): (Vec<_>, Vec<_>) = constants.drain(..).partition(|(of, _)| *of == tag);
    *constants = rest;
    if own.is_empty() {
        return Ok(None);
    }
    let naming = NAMING.iter().find(|n| n.tag == tag);
    let naming = naming.with_context(|| format!("enum {tag} is new: give it a row in `NAMING`"))?;
    let short = |name: &str| {
        let short = naming
            .prefixes
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix));
        short.map(str::to_owned).with_context(|| {
            format!(
                "{name} of {tag} has none of the prefixes {:?}",
                naming.prefixes
            )
        })
    };
    let constants = own
        .into_iter()
        .map(|(_, c)| {
            Ok(Constant {
                name: short(&c.name)?,
                ..c
            })
        })
        .collect::<Result<_>>()?;
    Ok(Some(Enum {
        class: naming.class,
        kind: naming.kind,
        doc: doc::lines(&item.attrs),
        constants,
    }))
}

fn same(ours: &[Item], theirs: &[Item]) -> Result<()> {
    ensure!(
        ours.len() == theirs.len(),
        "{} items, {} expected",
        theirs.len(),
        ours.len()
    );
    for (ours, theirs) in ours.iter().zip(theirs) {
        let (ours, theirs) = (
            ours.to_token_stream().to_string(),
            theirs.to_token_stream().to_string(),
        );
        ensure!(ours == theirs, "found `{theirs}`, expected `{ours}`");
    }
    Ok(())
}

/// The type of a function pointer to `item`.
pub(crate) fn pointer(item: &ForeignItemFn) -> Type {
    let (inputs, output) = (&item.sig.inputs, &item.sig.output);
    syn::parse_quote!(unsafe extern "C" fn(#inputs) #output)
}

//! Comments of the header, which bindgen turns into `#[doc = "..."]` attributes.

use syn::{Attribute, Expr, ExprLit, Lit, Meta};

/// The text of the doc attributes, one line per line of the header; rulers between its sections are dropped.
pub(crate) fn lines(attributes: &[Attribute]) -> Vec<String> {
    let text: Vec<String> = attributes.iter().filter_map(text).collect();
    let mut lines: Vec<String> = text
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned())
        .filter(|line| !line.starts_with("---"))
        .collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

/// The attributes without documentation.
pub(crate) fn others(attributes: &[Attribute]) -> Vec<Attribute> {
    attributes
        .iter()
        .filter(|a| text(a).is_none())
        .cloned()
        .collect()
}

fn text(attribute: &Attribute) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

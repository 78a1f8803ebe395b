//! The Rust code of the repository's Markdown files, as documentation tests. Code in other languages is run by the part
//! `docs` of `cargo xtask test`.

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

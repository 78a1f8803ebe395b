//! The loader, against libraries that are compiled here: a driver that does nothing, and faulty ones.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::*;
use crate::SYMBOLS;

/// A folder of its own for one test, under the build's.
fn folder(test: &str) -> PathBuf {
    let folder = std::env::current_exe()
        .unwrap()
        .with_file_name(format!("loader-{test}"));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The libraries that the tests look for.
const NAMES: [&str; 2] = ["FirstDriver", "SecondDriver"];

/// Compiles a library `name` that exports `functions` and answers with `version`.
fn library(
    test: &str,
    name: &str,
    version: [u32; 3],
    functions: impl Iterator<Item = &'static str>,
) -> PathBuf {
    let mut source = String::from("#![allow(clippy::missing_safety_doc)]\n");
    for function in functions {
        source += &if function == "mfa_get_version" {
            let [major, minor, patch] = version;
            format!(
                "#[unsafe(no_mangle)] pub unsafe extern \"C\" fn {function}(a: *mut u32, b: *mut u32, c: *mut u32) -> i32 {{ \
                 unsafe {{ *a = {major}; *b = {minor}; *c = {patch}; }} 0 }}\n"
            )
        } else {
            format!("#[unsafe(no_mangle)] pub extern \"C\" fn {function}() -> i32 {{ 6 }}\n")
        };
    }
    let folder = folder(test);
    let (from, to) = (
        folder.join(format!("{name}.rs")),
        folder.join(libloading::library_filename(name)),
    );
    fs::write(&from, source).unwrap();
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let arguments = [
        "--crate-type=cdylib",
        "--crate-name=driver",
        "--edition=2024",
        "-Cpanic=abort",
        "-o",
    ];
    let status = Command::new(compiler)
        .args(arguments)
        .arg(&to)
        .arg(&from)
        .status()
        .unwrap();
    assert!(status.success());
    to
}

const OURS: [u32; 3] = [MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH];

/// A complete driver of this version.
fn complete() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| library("complete", NAMES[0], OURS, SYMBOLS.iter().copied()))
}

fn open(path: &Path) -> Result<Driver, LoadError> {
    // SAFETY: libraries that do nothing.
    unsafe { Driver::open(path) }
}

fn search(
    variable: Option<&Path>,
    folder: Option<&Path>,
    linked: Option<Api>,
) -> Result<Drivers, LoadError> {
    // SAFETY: libraries that do nothing.
    unsafe {
        Drivers::search(
            variable.map(Into::into),
            folder.map(Into::into),
            &NAMES,
            linked,
        )
    }
}

fn origins(drivers: &Drivers) -> Vec<&Origin> {
    drivers.usable.iter().map(Driver::origin).collect()
}

#[test]
fn a_complete_library_is_opened_and_callable() {
    let driver = open(complete()).unwrap();
    assert_eq!(driver.origin(), &Origin::Opened(complete().to_owned()));
    let mut found = [u32::MAX; 3];
    let [major, minor, patch] = &mut found;
    // SAFETY: valid pointers.
    let status = unsafe { (driver.api().mfa_get_version)(major, minor, patch) };
    assert_eq!(status, 0);
    assert_eq!(found, OURS);
    let mut count = 0;
    // SAFETY: a valid pointer.
    let status = unsafe { (driver.api().mfa_device_count)(&raw mut count) };
    assert_eq!(status, 6);
}

#[test]
fn a_file_that_is_not_there_is_an_error_with_its_path() {
    let path = folder("absent").join("libnothing.so");
    let error = open(&path).unwrap_err();
    assert!(matches!(error, LoadError::Open { .. }), "{error:?}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_name_without_folder_is_not_searched_for_in_the_system() {
    // The C library is in the system's folders on Linux, and not in the current one.
    let error = open(Path::new("libc.so.6")).unwrap_err();
    assert!(matches!(error, LoadError::Open { .. }), "{error:?}");
}

#[test]
fn a_text_is_not_a_library() {
    let path = folder("text").join("text.so");
    fs::write(&path, "not a library").unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, LoadError::Open { .. }), "{error:?}");
}

#[test]
fn a_library_that_is_no_driver_lacks_the_version() {
    let path = library("stranger", NAMES[0], OURS, ["something_else"].into_iter());
    let error = open(&path).unwrap_err();
    assert!(
        matches!(
            error,
            LoadError::MissingSymbol {
                symbol: "mfa_get_version",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_missing_function_is_named() {
    let path = library(
        "incomplete",
        NAMES[0],
        OURS,
        SYMBOLS
            .iter()
            .copied()
            .filter(|&name| name != "mfa_dequantize"),
    );
    let error = open(&path).unwrap_err();
    assert!(
        matches!(
            error,
            LoadError::MissingSymbol {
                symbol: "mfa_dequantize",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn another_version_is_told_before_missing_functions() {
    let [major, minor, patch] = OURS;
    let path = library(
        "newer",
        NAMES[0],
        [major, minor + 1, patch],
        ["mfa_get_version"].into_iter(),
    );
    let error = open(&path).unwrap_err();
    let LoadError::Version {
        found, expected, ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!((found.minor, *expected), (minor + 1, Version::HEADER));
}

#[test]
fn versions_of_the_same_kind_are_accepted() {
    let version = |major, minor, patch| Version {
        major,
        minor,
        patch,
    };
    assert!(version(0, 1, 0).accepts(version(0, 1, 7)));
    assert!(!version(0, 1, 0).accepts(version(0, 2, 0)));
    assert!(!version(0, 1, 0).accepts(version(1, 1, 0)));
    assert!(version(1, 1, 0).accepts(version(1, 2, 0)));
    assert!(!version(1, 1, 0).accepts(version(2, 1, 0)));
}

#[test]
fn the_variable_comes_first_and_the_linked_driver_last() {
    let linked = *open(complete()).unwrap().api();
    let drivers = search(Some(complete()), complete().parent(), Some(linked)).unwrap();
    assert_eq!(
        origins(&drivers),
        [&Origin::Variable(complete().to_owned()), &Origin::Linked]
    );

    let drivers = search(None, complete().parent(), Some(linked)).unwrap();
    assert_eq!(
        origins(&drivers),
        [&Origin::Adjacent(complete().to_owned()), &Origin::Linked]
    );

    let drivers = search(None, None, Some(linked)).unwrap();
    assert_eq!(origins(&drivers), [&Origin::Linked]);

    // Set but empty is not set.
    let drivers = search(Some(Path::new("")), None, None).unwrap();
    assert!(drivers.usable.is_empty() && drivers.skipped.is_empty());
}

#[test]
fn a_variable_that_names_nothing_is_an_error_whatever_else_there_is() {
    let linked = *open(complete()).unwrap().api();
    let absent = folder("unset").join("libabsent.so");
    let error = search(Some(&absent), complete().parent(), Some(linked)).unwrap_err();
    assert!(matches!(error, LoadError::Open { .. }), "{error:?}");
}

#[test]
fn a_faulty_library_beside_the_program_is_skipped_and_told() {
    let linked = *open(complete()).unwrap().api();
    let [major, minor, patch] = OURS;
    let path = library(
        "faulty",
        NAMES[0],
        [major + 1, minor, patch],
        SYMBOLS.iter().copied(),
    );
    let drivers = search(None, path.parent(), Some(linked)).unwrap();
    assert_eq!(origins(&drivers), [&Origin::Linked]);
    assert!(
        matches!(drivers.skipped[..], [LoadError::Version { .. }]),
        "{:?}",
        drivers.skipped
    );
}

#[test]
fn libraries_beside_the_program_are_tried_in_the_order_of_their_names() {
    let linked = *open(complete()).unwrap().api();
    let build = |test, name, version| library(test, name, version, SYMBOLS.iter().copied());
    // What an earlier run left there would be tried too.
    fs::remove_dir_all(folder("two")).unwrap();
    let second = build("two", NAMES[1], OURS);
    let alone = search(None, second.parent(), Some(linked)).unwrap();
    assert_eq!(
        origins(&alone),
        [&Origin::Adjacent(second.clone()), &Origin::Linked]
    );

    let first = build("two", NAMES[0], OURS);
    let both = search(None, second.parent(), Some(linked)).unwrap();
    assert_eq!(
        origins(&both),
        [
            &Origin::Adjacent(first),
            &Origin::Adjacent(second),
            &Origin::Linked
        ]
    );
    assert!(both.skipped.is_empty());

    // One that cannot be used does not hide the next.
    let [major, minor, patch] = OURS;
    let faulty = build("one-of-two", NAMES[0], [major + 1, minor, patch]);
    let usable = build("one-of-two", NAMES[1], OURS);
    let drivers = search(None, faulty.parent(), Some(linked)).unwrap();
    assert_eq!(
        origins(&drivers),
        [&Origin::Adjacent(usable), &Origin::Linked]
    );
    assert!(matches!(drivers.skipped[..], [LoadError::Version { .. }]));
}

#[test]
fn the_metal_driver_is_the_first_that_is_looked_for() {
    assert_eq!(ADJACENT.first(), Some(&"MFABridge"));
}

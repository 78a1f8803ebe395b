//! Drivers: function tables, and their origins.

mod module;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, OsString, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use libloading::Library;

use crate::{Api, MFA_SUCCESS, MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH};

/// The environment variable that names a driver library.
pub const DRIVER_VARIABLE: &str = "MFA_DRIVER";

/// The driver libraries that are looked for beside the running code, in order of preference, by name without prefix and
/// suffix: `MFABridge` is `libMFABridge.dylib`, `libMFABridge.so` or `MFABridge.dll`. A new driver is one more line.
const ADJACENT: &[&str] = &[
    "MFABridge", // Swift, Metal
];

/// A driver: its functions and its origin.
#[derive(Clone, Debug)]
pub struct Driver {
    api: Api,
    origin: Origin,
}

/// The place that a driver came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Compiled into the program.
    Linked,
    /// Opened by path.
    Opened(PathBuf),
    /// Named by [`DRIVER_VARIABLE`].
    Variable(PathBuf),
    /// Found in the folder of the library or program that contains this code.
    Adjacent(PathBuf),
}

/// A version of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Changes when callers must.
    pub major: u32,
    /// Changes when something is added; while `major` is 0, also when callers must.
    pub minor: u32,
    /// Changes otherwise.
    pub patch: u32,
}

/// The reason why a driver library cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The system does not load it.
    #[error("cannot load the driver {path}: {source}", path = path.display())]
    Open {
        /// The library.
        path: PathBuf,
        /// The system's reason.
        source: libloading::Error,
    },
    /// It is no driver, or lacks a function.
    #[error("the driver {path} does not export {symbol}, which mfa.h declares", path = path.display())]
    MissingSymbol {
        /// The library.
        path: PathBuf,
        /// The function's name.
        symbol: &'static str,
    },
    /// It does not tell its version.
    #[error("the driver {path} answers mfa_get_version() with status {status}, expected 0", path = path.display())]
    NoVersion {
        /// The library.
        path: PathBuf,
        /// The status of `mfa_get_version`.
        status: i32,
    },
    /// It implements another version of the contract.
    #[error(
        "the driver {path} has version {found}, expected {major}.{minor} as in mfa.h",
        path = path.display(), major = expected.major, minor = expected.minor
    )]
    Version {
        /// The library.
        path: PathBuf,
        /// The library's version.
        found: Version,
        /// The header's version.
        expected: Version,
    },
}

/// The drivers of a process.
#[derive(Debug, Default)]
pub struct Drivers {
    /// Those that can be used, in order of preference.
    pub usable: Vec<Driver>,
    /// The reasons why other libraries that were found are not among them.
    pub skipped: Vec<LoadError>,
}

impl Version {
    /// The version of `mfa.h` that this crate was made from.
    pub const HEADER: Self = Self {
        major: MFA_VERSION_MAJOR,
        minor: MFA_VERSION_MINOR,
        patch: MFA_VERSION_PATCH,
    };

    /// Whether callers of version `self` can use a library of version `library`.
    #[must_use]
    pub fn accepts(self, library: Self) -> bool {
        self.major == library.major && (self.major > 0 || self.minor == library.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linked => f.write_str("(linked)"),
            Self::Opened(path) | Self::Variable(path) | Self::Adjacent(path) => {
                path.display().fmt(f)
            }
        }
    }
}

impl Driver {
    /// A driver that is compiled in.
    #[must_use]
    pub fn linked(api: Api) -> Self {
        Self {
            api,
            origin: Origin::Linked,
        }
    }

    /// Opens a driver library. It stays loaded until the process ends.
    ///
    /// # Errors
    ///
    /// [`LoadError`]: no library, not a driver, or of another version.
    ///
    /// # Safety
    ///
    /// Loading runs the library's initializers, and its functions must do what `mfa.h` says: it must be trusted as if it
    /// had been linked.
    pub unsafe fn open(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        // SAFETY: the caller's promise.
        let api = unsafe { load(path) }?;
        Ok(Self {
            api,
            origin: Origin::Opened(path.to_owned()),
        })
    }

    /// Its functions.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Its origin.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Drivers {
    /// The drivers of this process, in order of preference:
    ///
    /// 1. the library that [`DRIVER_VARIABLE`] names. If it is set and not empty, no other library is looked for;
    /// 2. else the known driver libraries in the folder of the library or program that contains this code: `MFABridge`
    ///    (`libMFABridge.dylib`, `libMFABridge.so`, `MFABridge.dll`). If one cannot be used, the reason is in
    ///    [`Drivers::skipped`], and the others are;
    /// 3. `linked`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if [`DRIVER_VARIABLE`] is set but its library cannot be loaded: there is no fallback.
    ///
    /// # Safety
    ///
    /// As [`Driver::open`], for the libraries named above.
    pub unsafe fn find(linked: Option<Api>) -> Result<Self, LoadError> {
        // SAFETY: the caller's promise.
        unsafe {
            Self::search(
                std::env::var_os(DRIVER_VARIABLE),
                module::folder(),
                ADJACENT,
                linked,
            )
        }
    }

    /// [`Self::find`], without the process: `variable` is the environment variable's value, `folder` the code's folder,
    /// `names` the libraries to look for in it.
    ///
    /// # Safety
    ///
    /// As [`Self::find`].
    unsafe fn search(
        variable: Option<OsString>,
        folder: Option<PathBuf>,
        names: &[&str],
        linked: Option<Api>,
    ) -> Result<Self, LoadError> {
        let mut drivers = Self::default();
        if let Some(path) = variable.filter(|path| !path.is_empty()).map(PathBuf::from) {
            // SAFETY: the caller's promise.
            let api = unsafe { load(&path) }?;
            drivers.usable.push(Driver {
                api,
                origin: Origin::Variable(path),
            });
        } else if let Some(folder) = folder {
            let paths = names
                .iter()
                .map(|name| folder.join(libloading::library_filename(name)));
            for path in paths.filter(|path| path.exists()) {
                // SAFETY: the caller's promise.
                match unsafe { load(&path) } {
                    Ok(api) => drivers.usable.push(Driver {
                        api,
                        origin: Origin::Adjacent(path),
                    }),
                    Err(error) => drivers.skipped.push(error),
                }
            }
        }
        drivers.usable.extend(linked.map(Driver::linked));
        Ok(drivers)
    }
}

/// Loads a library for good, and fills a table from it.
///
/// # Safety
///
/// As [`Driver::open`].
unsafe fn load(path: &Path) -> Result<Api, LoadError> {
    // SAFETY: the caller's promise.
    let library = unsafe { open(path) }.map_err(|source| LoadError::Open {
        path: path.to_owned(),
        source,
    })?;
    let find = |name: &'static CStr| {
        // SAFETY: an address is only looked up here, not used.
        let symbol = unsafe { library.get::<*mut c_void>(name.to_bytes_with_nul()) };
        let address = symbol.ok().and_then(|symbol| NonNull::new(*symbol));
        address.ok_or_else(|| LoadError::MissingSymbol {
            path: path.to_owned(),
            symbol: name.to_str().unwrap_or_default(),
        })
    };
    // The version before the rest: a library of another version may well lack functions.
    let version = find(c"mfa_get_version")?;
    // SAFETY: the signature of this function is part of every version of the contract.
    let version: unsafe extern "C" fn(*mut u32, *mut u32, *mut u32) -> i32 =
        unsafe { std::mem::transmute(version) };
    let mut found = Version {
        major: 0,
        minor: 0,
        patch: 0,
    };
    // SAFETY: three valid pointers.
    let status = unsafe {
        version(
            &raw mut found.major,
            &raw mut found.minor,
            &raw mut found.patch,
        )
    };
    if status != MFA_SUCCESS {
        return Err(LoadError::NoVersion {
            path: path.to_owned(),
            status,
        });
    }
    if !Version::HEADER.accepts(found) {
        return Err(LoadError::Version {
            path: path.to_owned(),
            found,
            expected: Version::HEADER,
        });
    }
    // SAFETY: the version says that these functions have the header's signatures; the library stays loaded (below).
    let api = unsafe { Api::resolve(find) }?;
    // Tables are copied freely, and drivers have threads: unloading could never be proved safe.
    let _ = ManuallyDrop::new(library);
    Ok(api)
}

/// Opens a library so that all of its symbols are bound now: an unresolved one is an error here, not an abort later.
///
/// # Safety
///
/// As [`Driver::open`].
#[cfg(unix)]
unsafe fn open(path: &Path) -> Result<Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // A name without a folder would be searched for in the system's folders; a path never is.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // SAFETY: the caller's promise.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map(Into::into)
}

/// Opens a library; what it depends on is looked for in its own folder first.
///
/// # Safety
///
/// As [`Driver::open`].
#[cfg(windows)]
unsafe fn open(path: &Path) -> Result<Library, libloading::Error> {
    use libloading::os::windows::{LOAD_WITH_ALTERED_SEARCH_PATH, Library};
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // SAFETY: the caller's promise.
    unsafe { Library::load_with_flags(path, LOAD_WITH_ALTERED_SEARCH_PATH) }.map(Into::into)
}

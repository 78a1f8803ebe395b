//! The folder of the library or program that contains this code.

use std::path::PathBuf;

/// The folder, if the system tells it.
pub(super) fn folder() -> Option<PathBuf> {
    let file = file().filter(|file| file.is_absolute());
    // For a program, some systems tell the name that it was started by instead of its path. To look in the current folder
    // for that reason would load whatever is stored there.
    let file = file.or_else(|| std::env::current_exe().ok())?;
    file.parent().map(PathBuf::from)
}

/// The file that contains this function.
#[cfg(unix)]
fn file() -> Option<PathBuf> {
    use std::ffi::{CStr, OsStr};
    use std::os::unix::ffi::OsStrExt;

    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let here = (file as fn() -> Option<PathBuf>) as *const libc::c_void;
    // SAFETY: dladdr() takes any address, and fills the struct if it returns other than 0.
    let found = unsafe { libc::dladdr(here, info.as_mut_ptr()) } != 0;
    // SAFETY: all zero is a value of the struct.
    let name = unsafe { info.assume_init() }.dli_fname;
    if !found || name.is_null() {
        return None;
    }
    // SAFETY: a C string that lives as long as the module, which is running.
    let name = unsafe { CStr::from_ptr(name) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// The file that contains this function.
#[cfg(windows)]
fn file() -> Option<PathBuf> {
    use std::ffi::OsString;
    use std::os::windows::ffi::OsStringExt;

    use windows_sys::Win32::Foundation::HMODULE;
    use windows_sys::Win32::System::LibraryLoader::{
        GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
        GetModuleFileNameW, GetModuleHandleExW,
    };

    /// No path of Windows is longer than this many UTF-16 units.
    const LONGEST: u32 = 1 << 15;

    let flags =
        GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
    let here = (file as fn() -> Option<PathBuf>) as *const u16;
    let mut module: HMODULE = std::ptr::null_mut();
    // SAFETY: with FROM_ADDRESS any address will do; `module` is valid.
    if unsafe { GetModuleHandleExW(flags, here, &raw mut module) } == 0 {
        return None;
    }
    let mut name = std::vec![0_u16; LONGEST as usize];
    // SAFETY: the module is running; the buffer has the length given.
    let length = unsafe { GetModuleFileNameW(module, name.as_mut_ptr(), LONGEST) };
    (0 < length && length < LONGEST).then(|| OsString::from_wide(&name[..length as usize]).into())
}

/// The file that contains this function: unknown on this system.
#[cfg(not(any(unix, windows)))]
fn file() -> Option<PathBuf> {
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_folder_is_that_of_the_test_program() {
        let program = std::env::current_exe().unwrap().canonicalize().unwrap();
        let folder = super::folder().unwrap().canonicalize().unwrap();
        assert_eq!(Some(folder.as_path()), program.parent());
    }
}

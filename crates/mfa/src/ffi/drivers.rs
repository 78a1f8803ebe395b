//! The drivers of the process, found once.

use std::ffi::c_char;
use std::sync::{Arc, OnceLock};

use mfa_sys::{self as sys, Driver, Drivers};

use crate::device::{Device, DeviceKind};
use crate::error::{MfaError, Result};
use crate::ffi::context::check;

/// The drivers of this process, in order of preference, and why others are not among them.
///
/// They are looked for once: the library that the environment variable `MFA_DRIVER` names, or the one beside the running
/// code, then the CPU engine that is part of this crate.
///
/// # Errors
///
/// [`MfaError::Load`] if `MFA_DRIVER` names a library that cannot be used.
pub fn drivers() -> Result<&'static Drivers> {
    static FOUND: OnceLock<std::result::Result<Drivers, Arc<sys::LoadError>>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        // SAFETY: the user who sets MFA_DRIVER, or installs a driver beside the program, answers for that library as for
        // any other that the program is made of.
        unsafe { Drivers::find(Some(mfa_cpu::api())) }.map_err(Arc::new)
    });
    found
        .as_ref()
        .map_err(|error| MfaError::Load(Arc::clone(error)))
}

/// The devices of each of [`drivers`].
pub(crate) fn devices_by_driver() -> Result<Vec<(&'static Driver, Vec<Device>)>> {
    let usable = drivers()?.usable.iter();
    // SAFETY: one of `drivers`.
    usable
        .map(|driver| Ok((driver, unsafe { devices_of(driver) }?)))
        .collect()
}

/// The devices of one driver.
///
/// # Errors
///
/// What the driver answers.
///
/// # Safety
///
/// The driver's functions must do what `mfa.h` says. Those of [`drivers`] do.
pub unsafe fn devices_of(driver: &'static Driver) -> Result<Vec<Device>> {
    let mut count = 0;
    // SAFETY: a valid pointer.
    let status = unsafe { (driver.api().mfa_device_count)(&raw mut count) };
    check(driver.api(), std::ptr::null_mut(), status)?;
    (0..count).map(|index| device(driver, index)).collect()
}

/// The signature of the functions that describe a device by a text.
type Describe = unsafe extern "C" fn(u32, *mut c_char, usize, *mut usize) -> i32;

fn device(driver: &'static Driver, index: u32) -> Result<Device> {
    let api = driver.api();
    let mut kind = 0;
    // SAFETY: a valid pointer.
    let status = unsafe { (api.mfa_device_kind)(index, &raw mut kind) };
    check(api, std::ptr::null_mut(), status)?;
    let described = |describe: Describe| {
        text(api, std::ptr::null_mut(), |text, capacity, length| {
            // SAFETY: the pointers are those of `text`, which the function fills as the contract says.
            unsafe { describe(index, text, capacity, length) }
        })
    };
    Ok(Device {
        driver,
        index,
        name: described(api.mfa_device_name)?,
        kind: DeviceKind::from_code(kind),
        vendor: described(api.mfa_device_vendor)?,
        backend: described(api.mfa_device_backend)?,
    })
}

/// The text that a function of the contract writes: asked for its length first.
pub(super) fn text(
    api: &sys::Api,
    context: *mut std::ffi::c_void,
    write: impl Fn(*mut c_char, usize, *mut usize) -> i32,
) -> Result<String> {
    let mut length = 0;
    check(
        api,
        context,
        write(std::ptr::null_mut(), 0, &raw mut length),
    )?;
    let mut bytes = vec![0_u8; length + 1];
    check(
        api,
        context,
        write(bytes.as_mut_ptr().cast(), bytes.len(), &raw mut length),
    )?;
    bytes.truncate(length.min(bytes.len() - 1));
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

//! The devices of all drivers, in order of preference.

use std::ffi::CStr;
use std::path::Path;
use std::sync::OnceLock;

use mfa_sys as sys;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyString};

use crate::error;

/// A device of a driver.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) api: &'static sys::Api,
    /// Among the devices of its driver.
    pub(crate) index: u32,
    pub(crate) name: String,
    /// "cpu" or "metal".
    kind: &'static str,
    driver: String,
}

/// Finds the drivers once; a driver that was asked for and cannot be loaded is an error of every call.
fn drivers() -> PyResult<&'static [sys::Driver]> {
    static FOUND: OnceLock<Result<Vec<sys::Driver>, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        // SAFETY: the library is the one beside this module or the one that the user named, and is trusted alike.
        unsafe { sys::Drivers::find(Some(mfa_cpu::api())) }
            .map(|drivers| drivers.usable)
            .map_err(|problem| problem.to_string())
    });
    match found {
        Ok(drivers) => Ok(drivers),
        Err(message) => Err(error::unsupported(message.clone())),
    }
}

fn origin(driver: &sys::Driver) -> String {
    let file = |path: &Path| path.display().to_string();
    match driver.origin() {
        sys::Origin::Linked => "linked".to_owned(),
        sys::Origin::Opened(path) | sys::Origin::Variable(path) | sys::Origin::Adjacent(path) => {
            file(path)
        }
    }
}

/// The device's name, in full.
fn name(api: &sys::Api, index: u32) -> Option<String> {
    let mut length = 0;
    // SAFETY: with capacity 0 the name may be NULL.
    let status = unsafe { (api.mfa_device_name)(index, std::ptr::null_mut(), 0, &raw mut length) };
    if status != sys::MFA_SUCCESS {
        return None;
    }
    let mut text = vec![0_u8; length + 1];
    // SAFETY: the buffer has the capacity given.
    let status = unsafe {
        (api.mfa_device_name)(
            index,
            text.as_mut_ptr().cast(),
            text.len(),
            std::ptr::null_mut(),
        )
    };
    let text = CStr::from_bytes_until_nul(&text).ok()?;
    (status == sys::MFA_SUCCESS).then(|| text.to_string_lossy().into_owned())
}

fn all() -> PyResult<Vec<Device>> {
    let mut devices = Vec::new();
    for driver in drivers()? {
        let api = driver.api();
        let mut count = 0;
        // SAFETY: the out pointer is valid.
        if unsafe { (api.mfa_device_count)(&raw mut count) } != sys::MFA_SUCCESS {
            continue;
        }
        for index in 0..count {
            let Some(name) = name(api, index) else {
                continue;
            };
            let linked = *driver.origin() == sys::Origin::Linked;
            let kind = if linked || name.to_lowercase().contains("cpu") {
                "cpu"
            } else {
                "metal"
            };
            devices.push(Device {
                api,
                index,
                name,
                kind,
                driver: origin(driver),
            });
        }
    }
    Ok(devices)
}

/// The device that a caller asks for: "auto", a kind, a name, or an index of `devices()`.
pub(crate) fn find(wanted: &Bound<'_, PyAny>) -> PyResult<Device> {
    let devices = all()?;
    let names: Vec<String> = devices.iter().map(|device| device.name.clone()).collect();
    let found = if let Ok(text) = wanted.cast::<PyString>() {
        let text = text.to_cow()?;
        devices
            .into_iter()
            .find(|device| text == "auto" || text == device.kind || text == device.name)
    } else if !wanted.is_instance_of::<PyBool>()
        && let Ok(index) = wanted.extract::<usize>()
    {
        devices.into_iter().nth(index)
    } else {
        None
    };
    match found {
        Some(device) => Ok(device),
        None => Err(error::argument(format!(
            "device: {}, expected \"auto\", \"cpu\", \"metal\", or a name or index of {names:?}",
            wanted.repr()?
        ))),
    }
}

/// The devices that can be used now, the best first.
#[pyfunction]
pub(crate) fn devices(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyAny>>> {
    static DEVICE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = DEVICE.get_or_try_init(py, || {
        PyResult::Ok(py.import("umfa._types")?.getattr("Device")?.unbind())
    })?;
    (all()?.into_iter().enumerate())
        .map(|(index, device)| {
            class
                .bind(py)
                .call1((index, device.name, device.kind, device.driver))
        })
        .collect()
}

/// Whether a Metal device can be used now.
#[pyfunction]
pub(crate) fn is_metal_available() -> bool {
    all().is_ok_and(|devices| devices.iter().any(|device| device.kind == "metal"))
}

/// The version of the library: (major, minor, patch). Its `str` is "major.minor.patch".
#[pyfunction]
pub(crate) fn get_version(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    if let Some(driver) = drivers()?.first() {
        // SAFETY: the out pointers are valid.
        unsafe { (driver.api().mfa_get_version)(&raw mut major, &raw mut minor, &raw mut patch) };
    }
    py.import(intern!(py, "umfa._types"))?
        .getattr("Version")?
        .call1((major, minor, patch))
}

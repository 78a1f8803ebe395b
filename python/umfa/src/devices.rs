//! The devices of all drivers, in order of preference.

use mfa::MfaContext;
use mfa::raw::drivers;
use mfa::raw::sys::Origin;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyString};

use crate::error;

/// A context on the device that a caller asks for: "auto", a backend, a name, or an index of `devices()`.
pub(crate) fn open(wanted: &Bound<'_, PyAny>) -> PyResult<MfaContext> {
    if let Ok(name) = wanted.cast::<PyString>() {
        return MfaContext::with_device(&name.to_cow()?).map_err(error::from_mfa);
    }
    let devices = mfa::devices().map_err(error::from_mfa)?;
    let index = match wanted.extract::<usize>() {
        Ok(index) if !wanted.is_instance_of::<PyBool>() => Some(index),
        _ => None,
    };
    match index.and_then(|index| devices.get(index)) {
        Some(device) => MfaContext::on(device).map_err(error::from_mfa),
        None => Err(error::argument(format!(
            "device: {}, expected \"auto\", \"cpu\", \"metal\", a name, or an index below {}",
            wanted.repr()?,
            devices.len()
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
    let devices = mfa::devices().map_err(error::from_mfa)?;
    (devices.iter().enumerate())
        .map(|(index, device)| {
            let origin = match device.driver().origin() {
                Origin::Linked => "linked".to_owned(),
                library => library.to_string(),
            };
            class.bind(py).call1((
                index,
                device.name(),
                device.kind().name(),
                device.vendor(),
                device.backend(),
                origin,
            ))
        })
        .collect()
}

/// Whether a Metal device can be used now.
#[pyfunction]
pub(crate) fn is_metal_available() -> bool {
    mfa::devices().is_ok_and(|devices| devices.iter().any(|device| device.backend() == "metal"))
}

/// The version of the library that is used first: (major, minor, patch). Its `str` is "major.minor.patch".
#[pyfunction]
pub(crate) fn get_version(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    if let Some(driver) = drivers().map_err(error::from_mfa)?.usable.first() {
        // SAFETY: the out pointers are valid.
        unsafe { (driver.api().mfa_get_version)(&raw mut major, &raw mut minor, &raw mut patch) };
    }
    py.import("umfa._types")?
        .getattr("Version")?
        .call1((major, minor, patch))
}

//! Devices: what drivers can compute on.

use std::fmt;

use mfa_sys::{Driver, Origin};

use crate::error::{MfaError, Result};
use crate::ffi::devices_by_driver;

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A GPU, or its imitation in software, programmed in Metal.
    Metal,
}

impl DeviceKind {
    /// `cpu` or `metal`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Metal => "metal",
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A device of a driver.
#[derive(Clone, Debug)]
pub struct Device {
    driver: &'static Driver,
    index: u32,
    name: String,
}

impl Device {
    pub(crate) fn new(driver: &'static Driver, index: u32, name: String) -> Self {
        Self {
            driver,
            index,
            name,
        }
    }

    /// Its name, as the driver tells it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is. The CPU engine's device is called "CPU ..."; every other is Metal's.
    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        match self.name.get(..3) {
            Some(start) if start.eq_ignore_ascii_case("cpu") => DeviceKind::Cpu,
            _ => DeviceKind::Metal,
        }
    }

    /// Its place among the devices of its driver.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The driver that it belongs to.
    #[must_use]
    pub fn driver(&self) -> &'static Driver {
        self.driver
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The devices of all drivers, best first.
///
/// # Errors
///
/// [`MfaError::Load`] if `MFA_DRIVER` names a library that cannot be used, and what drivers answer.
pub fn devices() -> Result<Vec<Device>> {
    let mut devices = Vec::new();
    for (driver, found) in devices_by_driver()? {
        if found.is_empty() && matches!(driver.origin(), Origin::Variable(_)) {
            return Err(MfaError::NoDevice(format!(
                "the driver {}, which {} names, finds no device that it can use",
                driver.origin(),
                mfa_sys::DRIVER_VARIABLE
            )));
        }
        devices.extend(found);
    }
    Ok(devices)
}

/// Finds a device by `auto` (the first), its kind (`cpu`, `metal`), its kind and place among that kind (`metal:1`), or its
/// name.
pub(crate) fn choose(devices: &[Device], wanted: &str) -> Result<Device> {
    let (kind, place) = match wanted.rsplit_once(':') {
        Some((kind, place)) => (kind, place.parse().ok()),
        None => (wanted, Some(0)),
    };
    let of_kind = || {
        devices
            .iter()
            .filter(|device| device.kind().name().eq_ignore_ascii_case(kind))
    };
    let found = if wanted.eq_ignore_ascii_case("auto") {
        devices.first()
    } else {
        let by_kind = place.and_then(|place: usize| of_kind().nth(place));
        by_kind.or_else(|| devices.iter().find(|device| device.name == wanted))
    };
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = devices.iter().map(|device| format!("{} ({device})", device.kind())).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        MfaError::NoDevice(format!(
            "found no {wanted:?}; expected \"auto\", \"cpu\", \"metal\", \"metal:N\" or a name; there are: {names}"
        ))
    })
}

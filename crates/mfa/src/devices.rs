//! The devices of all drivers, and the choice of one.

use mfa_sys::Origin;

use crate::device::Device;
use crate::error::{MfaError, Result};
use crate::ffi::devices_by_driver;

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

/// Finds a device by `auto` (the first), its backend (`cpu`, `metal`), its backend and index among that backend's devices
/// (`metal:1`), or its name.
pub(crate) fn choose(devices: &[Device], wanted: &str) -> Result<Device> {
    let (backend, index) = match wanted.rsplit_once(':') {
        Some((backend, index)) => (backend, index.parse().ok()),
        None => (wanted, Some(0)),
    };
    let of_backend = || {
        devices
            .iter()
            .filter(|device| device.backend.eq_ignore_ascii_case(backend))
    };
    let found = if wanted.eq_ignore_ascii_case("auto") {
        devices.first()
    } else {
        let by_backend = index.and_then(|index: usize| of_backend().nth(index));
        by_backend.or_else(|| devices.iter().find(|device| device.name == wanted))
    };
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = devices.iter().map(|device| format!("{} ({device})", device.backend)).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        MfaError::NoDevice(format!(
            "found no {wanted:?}; expected \"auto\", \"cpu\", \"metal\", \"metal:N\" or a name; there are: {names}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use mfa_sys::Driver;

    use super::*;
    use crate::device::DeviceKind;

    static DRIVER: LazyLock<Driver> = LazyLock::new(|| Driver::linked(mfa_cpu::api()));

    fn device(name: &str, kind: DeviceKind, backend: &str) -> Device {
        Device {
            driver: &DRIVER,
            index: 0,
            name: name.to_owned(),
            kind,
            vendor: String::new(),
            backend: backend.to_owned(),
        }
    }

    #[test]
    fn devices_are_chosen_by_backend_whatever_their_names_and_kinds() {
        let devices = [
            device("CPU (first)", DeviceKind::Cpu, "metal"),
            device("Metal (second)", DeviceKind::Gpu, "cpu"),
            device("cuda", DeviceKind::Gpu, "metal"),
            device("a new one", DeviceKind::Accelerator, "cuda"),
        ];
        let index = |wanted: &str| {
            let chosen = choose(&devices, wanted).ok()?;
            devices
                .iter()
                .position(|device| device.name == chosen.name())
        };
        for (wanted, expected) in [
            ("auto", Some(0)),
            ("metal", Some(0)),
            ("Metal:0", Some(0)),
            ("metal:1", Some(2)),
            ("metal:2", None),
            ("CPU", Some(1)),
            ("cpu:1", None),
            ("cuda", Some(3)),
            ("a new one", Some(3)),
            ("CPU (first)", Some(0)),
            ("gpu", None),
        ] {
            assert_eq!(index(wanted), expected, "{wanted}");
        }
    }
}

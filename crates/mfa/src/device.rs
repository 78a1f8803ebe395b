//! A device of a driver.

use std::fmt;

use mfa_sys::Driver;

/// The kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The processor, also where it runs another device in software.
    Cpu,
    /// A GPU.
    Gpu,
    /// A processor that is made for such work alone.
    Accelerator,
    /// A kind that this version of the contract does not know.
    Other,
}

impl DeviceKind {
    /// The kind that a number of the contract stands for.
    #[must_use]
    pub const fn from_code(code: i32) -> Self {
        match code {
            mfa_sys::MFA_DEVICE_CPU => Self::Cpu,
            mfa_sys::MFA_DEVICE_GPU => Self::Gpu,
            mfa_sys::MFA_DEVICE_ACCELERATOR => Self::Accelerator,
            _ => Self::Other,
        }
    }

    /// `cpu`, `gpu`, `accelerator` or `other`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Accelerator => "accelerator",
            Self::Other => "other",
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
    pub(crate) driver: &'static Driver,
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: DeviceKind,
    pub(crate) vendor: String,
    pub(crate) backend: String,
}

impl Device {
    /// The name, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// The vendor; "" if the driver does not know it.
    #[must_use]
    pub fn vendor(&self) -> &str {
        &self.vendor
    }

    /// The interface by which the driver programs the device: `cpu`, `metal`.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// The index among the devices of its driver.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The driver.
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

//! Contexts.

use std::sync::Arc;
use std::time::Duration;

use crate::device::Device;
use crate::devices;
use crate::error::{MfaError, Result};
use crate::ffi::Context;

/// A device, ready to compute. Clones share it; so do threads, whose calls run one after another.
#[derive(Clone, Debug)]
pub struct MfaContext(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    raw: Context,
    device: Device,
}

impl MfaContext {
    /// A context on the best device that works: Metal, then the CPU.
    ///
    /// If the environment variable `MFA_DRIVER` names a driver, nothing else stands in for its devices.
    ///
    /// # Errors
    ///
    /// [`MfaError::Load`], [`MfaError::NoDevice`], or the first device's refusal if none works.
    pub fn new() -> Result<Self> {
        let mut refusal = None;
        for device in devices::devices()? {
            match Self::on(&device) {
                Ok(context) => return Ok(context),
                Err(error) if matches!(device.driver().origin(), mfa_sys::Origin::Variable(_)) => {
                    return Err(error);
                }
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        Err(refusal.unwrap_or_else(|| {
            MfaError::NoDevice("no driver finds a device that it can use".to_owned())
        }))
    }

    /// A context on the device that `name` selects: `auto`, a backend (`cpu`, `metal`), a backend with a number
    /// (`metal:1`), or a device's name.
    ///
    /// # Errors
    ///
    /// [`MfaError::NoDevice`], with the names of those that there are.
    pub fn with_device(name: &str) -> Result<Self> {
        if name.eq_ignore_ascii_case("auto") {
            return Self::new();
        }
        Self::on(&devices::choose(&devices::devices()?, name)?)
    }

    /// A context on a device of [`devices`](crate::devices).
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn on(device: &Device) -> Result<Self> {
        Ok(Self(Arc::new(Shared {
            raw: Context::on(device)?,
            device: device.clone(),
        })))
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The device's name.
    #[must_use]
    pub fn device_name(&self) -> &str {
        self.0.device.name()
    }

    /// Sets the number of worker threads of a CPU context: 0 is the default (the environment variable
    /// `MFA_NUM_THREADS`, else the processors that the process may use). Other devices ignore it.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn set_num_threads(&self, threads: u32) -> Result<()> {
        self.raw().set_num_threads(threads)
    }

    /// The number of worker threads.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn num_threads(&self) -> Result<u32> {
        self.raw().num_threads()
    }

    /// How long the last attention or quantization took on the device; zero before the first.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn latency(&self) -> Result<Duration> {
        let seconds = self.raw().latency()?;
        Duration::try_from_secs_f64(seconds).map_err(|error| {
            MfaError::KernelExecution(format!(
                "the driver tells a latency of {seconds} s: {error}"
            ))
        })
    }

    /// The handle and functions beneath, for bindings to other languages.
    #[must_use]
    pub fn raw(&self) -> &Context {
        &self.0.raw
    }
}

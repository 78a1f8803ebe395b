//! Contexts: a device of a driver, shared by the threads that use it.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mfa::MfaContext;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString};

use crate::devices;
use crate::error;
use crate::options::shown;

/// Counts forks: worker threads stay in the parent, so a child cannot use (nor destroy) what was made before.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Threads of contexts made from now on; 0 is the driver's default.
static THREADS: AtomicU32 = AtomicU32::new(0);

/// The context of calls that don't name one.
static DEFAULT: Mutex<Option<Arc<Handle>>> = Mutex::new(None);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A context, destroyed with its last user, unless that is in another process than the one that made it.
pub(crate) struct Handle {
    context: ManuallyDrop<MfaContext>,
    generation: u64,
}

impl Handle {
    fn new(device: &Bound<'_, PyAny>, threads: u32) -> PyResult<Handle> {
        let handle = Handle {
            context: ManuallyDrop::new(devices::open(device)?),
            generation: GENERATION.load(Ordering::Relaxed),
        };
        handle.set_threads(threads)?;
        Ok(handle)
    }

    pub(crate) fn context(&self) -> &MfaContext {
        &self.context
    }

    pub(crate) fn raw(&self) -> &mfa::raw::Context {
        self.context.raw()
    }

    fn set_threads(&self, threads: u32) -> PyResult<()> {
        (self.context.set_num_threads(threads)).map_err(error::from_mfa)
    }

    fn threads(&self) -> PyResult<u32> {
        self.context.num_threads().map_err(error::from_mfa)
    }

    fn is_of_this_process(&self) -> bool {
        self.generation == GENERATION.load(Ordering::Relaxed)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.is_of_this_process() {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.context) };
        }
    }
}

/// A context that must be given.
pub(crate) fn required(name: &str, context: &Bound<'_, PyAny>) -> PyResult<Arc<Handle>> {
    match context.is_none() {
        true => Err(error::dtype(format!(
            "{name}: None, expected an MFAContext"
        ))),
        false => handle(context.py(), name, Some(context)),
    }
}

/// The context of a call: the given one, or the default. `name` is what the function calls the argument.
pub(crate) fn handle(
    py: Python<'_>,
    name: &str,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<Arc<Handle>> {
    let Some(given) = context.filter(|context| !context.is_none()) else {
        return default_handle(py);
    };
    if let Ok(context) = given.cast::<Context>() {
        return context.get().open();
    }
    let is_text = given.is_instance_of::<PyString>();
    let is_array = given.hasattr("__array_interface__")? || given.hasattr("__dlpack__")?;
    let found = match is_text {
        true => shown(given)?,
        false => given.get_type().name()?.to_string(),
    };
    let hint = match name {
        _ if is_text => format!("; did you mean {name}=umfa.MFAContext({found})?"),
        // The position behind q, k and v.
        "context" if is_array => "; did you mean attn_mask=...?".to_owned(),
        "context" if given.is_instance_of::<PyBool>() => "; did you mean causal=...?".to_owned(),
        "ctx" if is_array => "; it comes before q, k and v".to_owned(),
        _ => String::new(),
    };
    Err(error::dtype(format!(
        "{name}: {found}, expected an MFAContext{hint}"
    )))
}

fn default_handle(py: Python<'_>) -> PyResult<Arc<Handle>> {
    let mut slot = locked(&DEFAULT);
    if let Some(handle) = slot.as_ref().filter(|handle| handle.is_of_this_process()) {
        return Ok(handle.clone());
    }
    let device = PyString::new(py, "auto").into_any();
    let handle = Arc::new(Handle::new(&device, THREADS.load(Ordering::Relaxed))?);
    // A handle from before a fork does nothing when it is dropped.
    *slot = Some(handle.clone());
    Ok(handle)
}

/// Reads a thread count: 0 is the default.
fn thread_count(value: &Bound<'_, PyAny>) -> PyResult<u32> {
    match value.extract::<u32>() {
        Ok(threads) if !value.is_instance_of::<PyBool>() => Ok(threads),
        _ => Err(error::argument(format!(
            "num_threads: {}, expected a number of threads, 0 for the default",
            value.repr()?
        ))),
    }
}

/// A device, ready to compute; use it with `with`, or call `close`.
///
/// Threads may share a context: their calls run one after another. A context made before `os.fork` cannot be used in
/// the child; make a new one there.
///
/// Args:
///     device: "auto" (the best that works), "cpu", "metal", "metal:1", a name, or an index of `umfa.devices()`.
///     num_threads: worker threads of a CPU device; 0 is the default (`umfa.set_num_threads`, `MFA_NUM_THREADS`, or
///         the processors that this process may use).
#[pyclass(frozen, module = "umfa", name = "MFAContext", weakref)]
pub(crate) struct Context {
    handle: Mutex<Option<Arc<Handle>>>,
}

impl Context {
    pub(crate) fn open(&self) -> PyResult<Arc<Handle>> {
        match locked(&self.handle).as_ref() {
            None => Err(error::context(
                "the context is closed, expected an open MFAContext",
            )),
            Some(handle) if !handle.is_of_this_process() => Err(error::context(
                "the context was made before os.fork(), expected one made in this process",
            )),
            Some(handle) => Ok(handle.clone()),
        }
    }
}

#[pymethods]
impl Context {
    #[new]
    #[pyo3(signature = (device=None, *, num_threads=None), text_signature = "(device='auto', *, num_threads=0)")]
    fn new(
        py: Python<'_>,
        device: Option<Bound<'_, PyAny>>,
        num_threads: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Context> {
        let device = device.unwrap_or_else(|| PyString::new(py, "auto").into_any());
        let threads = match num_threads.map(|value| thread_count(&value)).transpose()? {
            None | Some(0) => THREADS.load(Ordering::Relaxed),
            Some(threads) => threads,
        };
        let handle = Handle::new(&device, threads)?;
        Ok(Context {
            handle: Mutex::new(Some(Arc::new(handle))),
        })
    }

    /// Releases the device. Calls that are running finish first; closing twice is fine.
    fn close(&self) {
        let handle = locked(&self.handle).take();
        drop(handle);
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        locked(&self.handle).is_none()
    }

    /// The device's name.
    #[getter]
    fn device(&self) -> PyResult<String> {
        Ok(self.open()?.context.device_name().to_owned())
    }

    /// Worker threads of a CPU device. Setting 0 restores the default.
    #[getter]
    fn num_threads(&self) -> PyResult<u32> {
        self.open()?.threads()
    }

    #[setter]
    fn set_num_threads(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.open()?.set_threads(thread_count(value)?)
    }

    /// Seconds that the last call took on the device; 0 before the first.
    #[getter]
    fn latency(&self) -> PyResult<f64> {
        let latency = self.open()?.context.latency();
        Ok(latency.map_err(error::from_mfa)?.as_secs_f64())
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().open()?;
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, pyo3::types::PyTuple>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        match locked(&self.handle).as_ref() {
            Some(handle) => format!("MFAContext(device='{}')", handle.context.device_name()),
            None => "MFAContext(closed)".to_owned(),
        }
    }
}

/// Sets the worker threads of the default context and of contexts made from now on.
///
/// Args:
///     n: at least 1, or 0 for the default: `MFA_NUM_THREADS`, else the processors that this process may use.
#[pyfunction]
pub(crate) fn set_num_threads(n: &Bound<'_, PyAny>) -> PyResult<()> {
    let threads = thread_count(n)?;
    THREADS.store(threads, Ordering::Relaxed);
    match locked(&DEFAULT).as_ref() {
        Some(handle) if handle.is_of_this_process() => handle.set_threads(threads),
        _ => Ok(()),
    }
}

/// The worker threads of the default context.
#[pyfunction]
pub(crate) fn get_num_threads(py: Python<'_>) -> PyResult<u32> {
    default_handle(py)?.threads()
}

/// Called in the child after a fork.
#[pyfunction]
pub(crate) fn _after_fork() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

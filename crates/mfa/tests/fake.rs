//! The crate against a fake driver: statuses, messages, handles and devices.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;

use mfa::raw::devices_of;
use mfa::raw::sys::{self, Api, Driver};
use mfa::{
    Attention, BackwardInputs, BackwardOutputs, DValues, Device, DeviceKind, Forward, MfaBuffer,
    MfaContext, MfaError, Quantizer, Tensor, TensorView,
};

thread_local! {
    /// What operations return on this thread.
    static STATUS: Cell<i32> = const { Cell::new(sys::MFA_SUCCESS) };
    /// The driver's message for it.
    static MESSAGE: Cell<&'static CStr> = const { Cell::new(c"") };
    /// Handles that were given out on this thread and not destroyed.
    static ALIVE: Cell<i32> = const { Cell::new(0) };
    /// The last backward call, and its options.
    static BACKWARD: Cell<Option<(sys::mfa_backward_desc, sys::mfa_attention_options)>> = const { Cell::new(None) };
}

/// Handles are the same numbers in every fake driver: only the crate can tell them apart.
const HANDLE: *mut c_void = 16 as *mut c_void;
/// Every buffer's contents.
static MEMORY: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];

/// A device of the fake driver.
struct Fake {
    name: &'static CStr,
    kind: i32,
    vendor: &'static CStr,
    backend: &'static CStr,
}

/// The first two are named after the other's kind and backend; the last is of a kind that the contract does not know.
const DEVICES: [Fake; 4] = [
    Fake {
        name: c"CPU (fake)",
        kind: sys::MFA_DEVICE_GPU,
        vendor: c"Maker",
        backend: c"metal",
    },
    Fake {
        name: c"Metal GPU (fake)",
        kind: sys::MFA_DEVICE_CPU,
        vendor: c"",
        backend: c"cpu",
    },
    Fake {
        name: c"metal",
        kind: sys::MFA_DEVICE_ACCELERATOR,
        vendor: c"Maker",
        backend: c"other",
    },
    Fake {
        name: c"",
        kind: 77,
        vendor: c"Maker",
        backend: c"metal",
    },
];

/// Writes a text as the contract describes.
fn describe(text: &CStr, to: *mut c_char, capacity: usize, length: *mut usize) -> i32 {
    let text = text.to_bytes_with_nul();
    // SAFETY: the crate passes valid pointers.
    unsafe {
        *length = text.len() - 1;
        if capacity > 0 {
            to.cast::<u8>()
                .copy_from_nonoverlapping(text.as_ptr(), text.len().min(capacity));
        }
    }
    STATUS.get()
}

fn give(to: *mut *mut c_void, handle: *mut c_void) -> i32 {
    if STATUS.get() == sys::MFA_SUCCESS {
        // SAFETY: the crate passes valid pointers.
        unsafe { *to = handle };
        ALIVE.set(ALIVE.get() + 1);
    }
    STATUS.get()
}

fn take() -> i32 {
    ALIVE.set(ALIVE.get() - 1);
    STATUS.get()
}

unsafe extern "C" fn mfa_get_version(_: *mut u32, _: *mut u32, _: *mut u32) -> i32 {
    STATUS.get()
}
unsafe extern "C" fn mfa_error_string(_: i32) -> *const c_char {
    c"static text".as_ptr()
}
unsafe extern "C" fn mfa_last_error(_: *mut c_void) -> *const c_char {
    MESSAGE.get().as_ptr()
}
unsafe extern "C" fn mfa_device_count(count: *mut u32) -> i32 {
    // SAFETY: the crate passes a valid pointer.
    unsafe { *count = DEVICES.len() as u32 };
    STATUS.get()
}
unsafe extern "C" fn mfa_device_name(
    index: u32,
    name: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    describe(DEVICES[index as usize].name, name, capacity, length)
}
unsafe extern "C" fn mfa_device_kind(index: u32, kind: *mut i32) -> i32 {
    // SAFETY: the crate passes a valid pointer.
    unsafe { *kind = DEVICES[index as usize].kind };
    STATUS.get()
}
unsafe extern "C" fn mfa_device_vendor(
    index: u32,
    vendor: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    describe(DEVICES[index as usize].vendor, vendor, capacity, length)
}
unsafe extern "C" fn mfa_device_backend(
    index: u32,
    backend: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    describe(DEVICES[index as usize].backend, backend, capacity, length)
}
unsafe extern "C" fn mfa_device_registry_id(index: u32, registry_id: *mut u64) -> i32 {
    // SAFETY: valid for writing, by contract.
    unsafe { registry_id.write(u64::from(index)) };
    STATUS.get()
}
unsafe extern "C" fn mfa_create_context(context: *mut *mut c_void) -> i32 {
    give(context, HANDLE)
}
unsafe extern "C" fn mfa_create_context_on(_: u32, context: *mut *mut c_void) -> i32 {
    give(context, HANDLE)
}
unsafe extern "C" fn mfa_destroy_context(_: *mut c_void) -> i32 {
    take()
}
unsafe extern "C" fn mfa_set_num_threads(_: *mut c_void, _: u32) -> i32 {
    STATUS.get()
}
unsafe extern "C" fn mfa_get_num_threads(_: *mut c_void, threads: *mut u32) -> i32 {
    // SAFETY: the crate passes a valid pointer.
    unsafe { *threads = 3 };
    STATUS.get()
}
unsafe extern "C" fn mfa_get_latency(_: *mut c_void, seconds: *mut f64) -> i32 {
    // SAFETY: the crate passes a valid pointer.
    unsafe { *seconds = f64::NAN };
    STATUS.get()
}
unsafe extern "C" fn mfa_create_buffer(_: *mut c_void, _: u64, buffer: *mut *mut c_void) -> i32 {
    give(buffer, HANDLE)
}
unsafe extern "C" fn mfa_buffer_from_ptr(
    _: *mut c_void,
    _: *mut c_void,
    _: u64,
    buffer: *mut *mut c_void,
) -> i32 {
    give(buffer, HANDLE)
}
#[cfg(target_vendor = "apple")]
unsafe extern "C" fn mfa_buffer_from_mtl(
    _: *mut c_void,
    _: *mut c_void,
    buffer: *mut *mut c_void,
) -> i32 {
    give(buffer, HANDLE)
}
unsafe extern "C" fn mfa_buffer_contents(_: *mut c_void, contents: *mut *mut c_void) -> i32 {
    // SAFETY: the crate passes a valid pointer.
    unsafe { *contents = (&raw const MEMORY).cast_mut().cast() };
    STATUS.get()
}
unsafe extern "C" fn mfa_buffer_size(_: *mut c_void, _: *mut u64) -> i32 {
    STATUS.get()
}
unsafe extern "C" fn mfa_destroy_buffer(_: *mut c_void) -> i32 {
    take()
}
unsafe extern "C" fn mfa_quantize(_: *mut c_void, _: *const sys::mfa_quantize_desc) -> i32 {
    STATUS.get()
}
unsafe extern "C" fn mfa_dequantize(
    _: *mut c_void,
    _: *const sys::mfa_tensor,
    _: *const sys::mfa_tensor,
) -> i32 {
    STATUS.get()
}
unsafe extern "C" fn mfa_forward(_: *mut c_void, _: *const sys::mfa_forward_desc) -> i32 {
    STATUS.get()
}
unsafe extern "C" fn mfa_backward(_: *mut c_void, desc: *const sys::mfa_backward_desc) -> i32 {
    // SAFETY: the crate passes valid pointers.
    let desc = unsafe { *desc };
    // SAFETY: as above.
    BACKWARD.set(Some((desc, unsafe { *desc.options })));
    STATUS.get()
}
unsafe extern "C" fn mfa_workspace_size(
    _: *mut c_void,
    _: *const sys::mfa_forward_desc,
    _: *const sys::mfa_backward_desc,
    _: *mut u64,
) -> i32 {
    STATUS.get()
}
unsafe extern "C" fn mfa_explain(
    _: *mut c_void,
    _: *const sys::mfa_forward_desc,
    _: *const sys::mfa_backward_desc,
    _: *mut c_char,
    _: usize,
    _: *mut usize,
) -> i32 {
    STATUS.get()
}

/// A table of the functions above; those with fixed signatures are another table's, since the crate does not call them.
fn api() -> Api {
    Api {
        mfa_get_version,
        mfa_error_string,
        mfa_last_error,
        mfa_device_count,
        mfa_device_name,
        mfa_device_kind,
        mfa_device_vendor,
        mfa_device_backend,
        mfa_device_registry_id,
        mfa_create_context,
        mfa_create_context_on,
        mfa_destroy_context,
        mfa_set_num_threads,
        mfa_get_num_threads,
        mfa_get_latency,
        mfa_create_buffer,
        mfa_buffer_from_ptr,
        #[cfg(target_vendor = "apple")]
        mfa_buffer_from_mtl,
        mfa_buffer_contents,
        mfa_buffer_size,
        mfa_destroy_buffer,
        mfa_quantize,
        mfa_dequantize,
        mfa_forward,
        mfa_backward,
        mfa_workspace_size,
        mfa_explain,
        ..mfa_cpu::api()
    }
}

static DRIVER: LazyLock<Driver> = LazyLock::new(|| Driver::linked(api()));

fn devices() -> Vec<Device> {
    // SAFETY: the fake functions do nothing.
    unsafe { devices_of(&DRIVER) }.unwrap()
}

fn context() -> MfaContext {
    MfaContext::on(&devices()[0]).unwrap()
}

fn fails<T: std::fmt::Debug>(
    status: i32,
    message: &'static CStr,
    call: impl FnOnce() -> mfa::Result<T>,
) -> MfaError {
    STATUS.set(status);
    MESSAGE.set(message);
    let result = call();
    STATUS.set(sys::MFA_SUCCESS);
    result.unwrap_err()
}

const SHAPE: [usize; 4] = [1, 2, 3, 4];
static DATA: [f32; 24] = [0.0; 24];

#[test]
fn devices_are_what_the_driver_tells_and_not_what_their_names_suggest() {
    let devices = devices();
    let found: Vec<_> = devices
        .iter()
        .map(|device| {
            let texts = (device.name(), device.vendor(), device.backend());
            (device.index(), texts, device.kind())
        })
        .collect();
    assert_eq!(
        found,
        [
            (0, ("CPU (fake)", "Maker", "metal"), DeviceKind::Gpu),
            (1, ("Metal GPU (fake)", "", "cpu"), DeviceKind::Cpu),
            (2, ("metal", "Maker", "other"), DeviceKind::Accelerator),
            (3, ("", "Maker", "metal"), DeviceKind::Other),
        ]
    );
    let names: Vec<_> = devices.iter().map(|device| device.kind().name()).collect();
    assert_eq!(names, ["gpu", "cpu", "accelerator", "other"]);
}

#[test]
fn a_device_that_cannot_be_described_is_an_error() {
    // SAFETY: the fake functions do nothing.
    let error = fails(6, c"no", || unsafe { devices_of(&DRIVER) });
    assert!(matches!(error, MfaError::Unsupported(_)), "{error:?}");
}

#[test]
fn each_status_is_a_variant_with_the_drivers_message() {
    let context = context();
    let view = TensorView::from_slice(&context, &DATA, SHAPE).unwrap();
    let attention = Attention::new(&context);
    let message = c"query: 513 columns; expected 1 ... 512";
    let mut output = Tensor::zeros(&context, mfa::Precision::Fp32, SHAPE).unwrap();
    let mut forward = |status| {
        let mut output = output.view_mut();
        fails(status, message, || {
            attention.forward_into(&view, &view, &view, &mut output, None)
        })
    };
    for status in 1..=7 {
        let error = forward(status);
        let right = match error {
            MfaError::InvalidContext(_) => status == 1,
            MfaError::BufferAllocation(_) => status == 2,
            MfaError::InvalidDimensions(_) => status == 3,
            MfaError::KernelExecution(_) => status == 4,
            MfaError::InvalidArgument(_) => status == 5,
            MfaError::Unsupported(_) => status == 6,
            MfaError::Unknown { .. } => status == 7,
            _ => false,
        };
        assert!(right, "{status}: {error:?}");
        assert_eq!(error.status(), Some(status));
        assert_eq!(error.message(), message.to_str().unwrap());
        assert!(
            error.to_string().ends_with(message.to_str().unwrap()),
            "{error}"
        );
    }
}

#[test]
fn without_a_message_the_static_text_stands_in() {
    let context = context();
    let error = fails(2, c"", || MfaBuffer::new(&context, 8));
    assert_eq!(error.to_string(), "buffer allocation failed: static text");
}

#[test]
fn every_call_reports_its_failure() {
    let context = context();
    let view = TensorView::from_slice(&context, &DATA, SHAPE).unwrap();
    let tensor = Tensor::from_slice(&context, &DATA, SHAPE).unwrap();
    let attention = Attention::new(&context);
    let forward = attention
        .forward_with_logsumexp(&view, &view, &view)
        .unwrap();
    let quantized = Quantizer::int8().quantize(&context, &view).unwrap();
    let message = |error: MfaError| assert_eq!(error.message(), "no");
    message(fails(5, c"no", || MfaContext::on(context.device())));
    message(fails(5, c"no", || context.set_num_threads(1)));
    message(fails(5, c"no", || context.num_threads()));
    message(fails(5, c"no", || context.latency()));
    message(fails(5, c"no", || {
        TensorView::from_slice(&context, &DATA, SHAPE)
    }));
    message(fails(5, c"no", || {
        Tensor::zeros(&context, mfa::Precision::Fp32, SHAPE)
    }));
    message(fails(5, c"no", || attention.forward(&view, &view, &view)));
    message(fails(5, c"no", || attention.explain(&view, &view, &view)));
    message(fails(5, c"no", || {
        attention.workspace_size(&view, &view, &view)
    }));
    message(fails(5, c"no", || {
        attention.backward(&view, &view, &view, &forward, &tensor.view())
    }));
    message(fails(5, c"no", || {
        Quantizer::int8().quantize(&context, &view)
    }));
    message(fails(5, c"no", || quantized.dequantize(&context)));
}

#[test]
fn a_latency_that_is_no_time_is_an_error() {
    assert!(matches!(
        context().latency(),
        Err(MfaError::KernelExecution(_))
    ));
}

#[test]
fn every_handle_is_destroyed_once() {
    assert_eq!(ALIVE.get(), 0);
    {
        let context = context();
        let shared = context.clone();
        let tensor = Tensor::from_slice(&context, &DATA, SHAPE).unwrap();
        drop(context);
        let view = TensorView::from_slice(&shared, &DATA, SHAPE).unwrap();
        let again = view.clone();
        let attention = Attention::new(&shared)
            .mask(view)
            .varlen(&[0, 3], &[0, 3])
            .unwrap();
        let quantizer = Quantizer::int8().asymmetric(true).smooth(true);
        let quantized = quantizer.quantize(&shared, &tensor.view()).unwrap();
        // The context, the tensor, the view, two lists of starts, and four parts.
        assert_eq!(ALIVE.get(), 9);
        let clone = attention.clone();
        drop((attention, quantized, again, shared, tensor));
        // What the clone of the attention needs: its context, mask and starts.
        assert_eq!(ALIVE.get(), 4);
        drop(clone);
    }
    assert_eq!(ALIVE.get(), 0);
}

#[test]
fn nothing_is_kept_of_a_failed_creation() {
    let context = context();
    let before = ALIVE.get();
    fails(2, c"no", || MfaBuffer::new(&context, 8));
    fails(2, c"no", || MfaBuffer::from_slice(&context, &DATA));
    fails(2, c"no", || MfaContext::on(context.device()));
    assert_eq!(ALIVE.get(), before);
}

#[test]
fn buffers_of_another_driver_are_refused_before_they_reach_it() {
    static OTHER: LazyLock<Driver> = LazyLock::new(|| Driver::linked(api()));
    // SAFETY: the fake functions do nothing.
    let other = MfaContext::on(&unsafe { devices_of(&OTHER) }.unwrap()[0]).unwrap();
    let context = context();
    let ours = TensorView::from_slice(&context, &DATA, SHAPE).unwrap();
    let theirs = TensorView::from_slice(&other, &DATA, SHAPE).unwrap();
    let attention = Attention::new(&context);
    let refused = |result: mfa::Result<Tensor>, name: &str| match result {
        Err(MfaError::InvalidArgument(message)) => assert!(message.starts_with(name), "{message}"),
        other => panic!("{name}: {other:?}"),
    };
    refused(attention.forward(&theirs, &ours, &ours), "query");
    refused(attention.forward(&ours, &theirs, &ours), "key");
    refused(attention.forward(&ours, &ours, &theirs), "value");
    refused(
        attention
            .clone()
            .mask(theirs.clone())
            .forward(&ours, &ours, &ours),
        "mask",
    );
    refused(
        attention
            .clone()
            .sinks(theirs.clone())
            .forward(&ours, &ours, &ours),
        "sinks",
    );
    refused(
        attention
            .clone()
            .alibi(theirs.clone())
            .forward(&ours, &ours, &ours),
        "alibi slopes",
    );
    let quantized = Quantizer::int8().quantize(&other, &theirs).unwrap();
    refused(attention.forward(&ours, &quantized.view(), &ours), "key");
    refused(quantized.dequantize(&context), "source");
    let mut output = Tensor::zeros(&other, mfa::Precision::Fp32, SHAPE).unwrap();
    let result = attention.forward_into(&ours, &ours, &ours, &mut output.view_mut(), None);
    assert!(
        matches!(result, Err(MfaError::InvalidArgument(message)) if message.starts_with("output"))
    );
    // A context of the same driver shares its buffers.
    attention.forward(&ours, &ours, &ours).unwrap();
    let sibling = MfaContext::on(&devices()[1]).unwrap();
    Attention::new(&sibling)
        .forward(&ours, &ours, &ours)
        .unwrap();
}

#[test]
fn each_tensor_of_a_backward_call_has_its_place() {
    let context = context();
    // Every tensor has another shape.
    let make = |shape| Tensor::zeros(&context, mfa::Precision::Fp32, shape).unwrap();
    let (query, key, value) = (make([1, 4, 3, 8]), make([1, 2, 5, 8]), make([1, 2, 5, 6]));
    let (grad_output, mask, sinks) = (make([1, 4, 3, 6]), make([1, 1, 3, 5]), make([1, 4, 1, 1]));
    let forward = Forward {
        output: make([1, 4, 3, 6]),
        logsumexp: make([1, 4, 3, 1]),
    };
    let attention = Attention::new(&context)
        .scale(0.5)
        .causal(true)
        .alignment(mfa::Alignment::TopLeft)
        .clip_gradients(true);
    let attention = attention.mask(mask.view()).sinks(sinks.view());
    let (q, k, v, d) = (query.view(), key.view(), value.view(), grad_output.view());
    let gradients = attention.backward(&q, &k, &v, &forward, &d).unwrap();
    let (desc, options) = BACKWARD.take().unwrap();
    assert_eq!(desc.struct_size as usize, size_of_val(&desc));
    assert_eq!(desc.flags, sys::MFA_BACKWARD_CLIP);
    assert_eq!(
        options.flags,
        sys::MFA_OPTION_SCALE | sys::MFA_OPTION_CAUSAL
    );
    assert_eq!(options.softmax_scale, 0.5);
    for (found, expected) in [
        (desc.query, [1, 4, 3, 8]),
        (desc.key, [1, 2, 5, 8]),
        (desc.value, [1, 2, 5, 6]),
        (desc.output, [1, 4, 3, 6]),
        (desc.grad_output, [1, 4, 3, 6]),
        (desc.logsumexp, [1, 4, 3, 1]),
        (desc.grad_query, [1, 4, 3, 8]),
        (desc.grad_key, [1, 2, 5, 8]),
        (desc.grad_value, [1, 2, 5, 6]),
        (desc.grad_mask, [1, 1, 3, 5]),
        (desc.grad_sinks, [1, 4, 1, 1]),
        (options.mask, [1, 1, 3, 5]),
        (options.sinks, [1, 4, 1, 1]),
    ] {
        assert_eq!(found.shape, expected);
        assert_eq!(found.buffer, HANDLE);
    }
    assert!(desc.d_values.buffer.is_null() && options.alibi_slopes.buffer.is_null());
    assert_eq!(gradients.mask.unwrap().shape(), [1, 1, 3, 5]);

    // One pass of two: only the gradients that are wanted, and D from before.
    let (mut grad_key, d_values) = (make([1, 2, 5, 8]), make([1, 4, 3, 1]));
    let logsumexp = forward.logsumexp.view();
    let inputs = BackwardInputs {
        grad_logsumexp: None,
        query: &q,
        key: &k,
        value: &v,
        output: None,
        grad_output: &d,
        logsumexp: &logsumexp,
    };
    let given = d_values.view();
    let outputs = BackwardOutputs {
        key: Some(grad_key.view_mut()),
        d_values: DValues::Given(&given),
        ..BackwardOutputs::default()
    };
    Attention::new(&context)
        .backward_into(&inputs, outputs)
        .unwrap();
    let (desc, options) = BACKWARD.take().unwrap();
    assert_eq!((desc.flags, options.flags), (sys::MFA_BACKWARD_D_GIVEN, 0));
    assert_eq!(
        (desc.grad_key.shape, desc.d_values.shape),
        ([1, 2, 5, 8], [1, 4, 3, 1])
    );
    for absent in [
        desc.output,
        desc.grad_query,
        desc.grad_value,
        desc.grad_mask,
        desc.grad_sinks,
    ] {
        assert!(absent.buffer.is_null());
    }
}

#[test]
fn null_is_refused_by_the_linked_driver() {
    // SAFETY: null is what the function must refuse.
    let status = unsafe { (mfa_cpu::api().mfa_forward)(null_mut(), &sys::mfa_forward_desc::new()) };
    assert_eq!(status, sys::MFA_ERROR_INVALID_CONTEXT);
}

//! The general calls and quantization. The documentation of each function is in `mfa.h`.
#![allow(clippy::missing_safety_doc, missing_docs)]

use std::ffi::{c_char, c_void};

use mfa_sys as sys;

use super::explain;
use super::handles;
use super::{guard, write, write_text};
use crate::backward::{self, Backward};
use crate::contract::array::Access;
use crate::contract::sized::sized_required;
use crate::error::{Result, ensure};
use crate::forward;
use crate::forward::Forward;
use crate::forward::plan::ForwardPlan;
use crate::fp64;
use crate::merge::{Merge, MergeBackward};
use crate::quantize::{Dequantize, Quantize};
use crate::runtime::context::Context;
use crate::runtime::memory::Aligned;

/// Validates, plans and runs a forward call.
pub(super) fn run_forward(context: &Context, desc: &sys::mfa_forward_desc) -> Result<()> {
    let call = Forward::check(desc, Access::Run)?;
    if call.problem.is_fp64() {
        return context.on_workers(
            |threads| fp64::workspace_forward(&call.problem, threads),
            |pool, threads, memory| fp64::run_forward(&call, pool, threads, memory),
        );
    }
    context.timed(|state| {
        let plan = ForwardPlan::new(&call, context.kernels, state.threads());
        let bytes = forward::workspace(&call.problem, &plan, context.kernels);
        let (pool, memory) = state.resources(bytes)?;
        forward::run(&call, &plan, context.kernels, pool, memory);
        Ok(())
    })
}

/// Validates, plans and runs a backward call.
pub(super) fn run_backward(context: &Context, desc: &sys::mfa_backward_desc) -> Result<()> {
    let call = Backward::check(desc, Access::Run)?;
    if call.problem.is_fp64() {
        return context.on_workers(
            |threads| fp64::workspace_backward(&call, threads),
            |pool, threads, memory| fp64::run_backward(&call, pool, threads, memory),
        );
    }
    context.timed(|state| {
        let plan = backward::BackwardPlan::new(&call, context.kernels, state.threads())?;
        let bytes = backward::workspace(&call, &plan, context.kernels);
        let (pool, memory) = state.resources(bytes)?;
        backward::run(&call, &plan, context.kernels, pool, memory);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_forward(
    context: *mut c_void,
    desc: *const sys::mfa_forward_desc,
) -> i32 {
    guard(|| {
        let context = handles::context(context)?;
        // SAFETY: NULL or a struct of its struct_size, by contract.
        run_forward(&context, &unsafe {
            sized_required(desc, "forward descriptor")?
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_backward(
    context: *mut c_void,
    desc: *const sys::mfa_backward_desc,
) -> i32 {
    guard(|| {
        let context = handles::context(context)?;
        // SAFETY: NULL or a struct of its struct_size, by contract.
        run_backward(&context, &unsafe {
            sized_required(desc, "backward descriptor")?
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_merge(context: *mut c_void, desc: *const sys::mfa_merge_desc) -> i32 {
    guard(|| {
        let context = handles::context(context)?;
        // SAFETY: NULL or a struct of its struct_size, whose pointers are NULL or to `count` tensors, by contract.
        let call = unsafe { Merge::check(&sized_required(desc, "merge descriptor")?)? };
        context.on_workers(|_| 0, |pool, threads, _| call.run(pool, threads))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_merge_backward(
    context: *mut c_void,
    desc: *const sys::mfa_merge_backward_desc,
) -> i32 {
    guard(|| {
        let context = handles::context(context)?;
        // SAFETY: as for `mfa_merge`.
        let call =
            unsafe { MergeBackward::check(&sized_required(desc, "merge backward descriptor")?)? };
        context.on_workers(|_| 0, |pool, threads, _| call.run(pool, threads))
    })
}

/// A checked forward or backward call.
enum Call {
    Forward(Box<Forward>),
    Backward(Box<Backward>),
}

impl Call {
    /// Bytes of memory that the call would need, and the text of its plan.
    fn describe(&self, context: &Context) -> Result<(usize, String)> {
        let (kernels, threads) = (context.kernels, context.lock().threads());
        let problem = match self {
            Call::Forward(call) => &call.problem,
            Call::Backward(call) => &call.problem,
        };
        if problem.is_fp64() {
            let (operation, bytes) = match self {
                Call::Forward(_) => ("forward", fp64::workspace_forward(problem, threads)),
                Call::Backward(call) => ("backward", fp64::workspace_backward(call, threads)),
            };
            let bytes = Aligned::size_for(bytes).saturating_add(problem.sequences.bytes());
            let workers = fp64::workers(problem.work(), threads);
            return Ok((bytes, explain::fp64(operation, problem, workers, bytes)));
        }
        Ok(match self {
            Call::Forward(call) => {
                let plan = ForwardPlan::new(call, kernels, threads);
                (
                    forward::allocated(&call.problem, &plan, kernels),
                    explain::forward(call, &plan, kernels),
                )
            }
            Call::Backward(call) => {
                let plan = backward::BackwardPlan::new(call, kernels, threads)?;
                (
                    backward::allocated(call, &plan, kernels),
                    explain::backward(call, &plan, kernels),
                )
            }
        })
    }
}

/// # Safety
/// Each pointer is NULL or a struct of its struct_size.
unsafe fn one_of(
    forward: *const sys::mfa_forward_desc,
    backward: *const sys::mfa_backward_desc,
) -> Result<Call> {
    ensure!(
        forward.is_null() != backward.is_null(),
        argument,
        "{} descriptors were given; expected exactly one of forward and backward",
        if forward.is_null() { "no" } else { "two" }
    );
    // SAFETY: by this function's contract.
    unsafe {
        if forward.is_null() {
            let desc = sized_required(backward, "backward descriptor")?;
            return Ok(Call::Backward(Box::new(Backward::check(
                &desc,
                Access::Plan,
            )?)));
        }
        let desc = sized_required(forward, "forward descriptor")?;
        Ok(Call::Forward(Box::new(Forward::check(
            &desc,
            Access::Plan,
        )?)))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_workspace_size(
    context: *mut c_void,
    forward: *const sys::mfa_forward_desc,
    backward: *const sys::mfa_backward_desc,
    bytes: *mut u64,
) -> i32 {
    guard(|| {
        let context = handles::context(context)?;
        // SAFETY: as this function's contract.
        let (size, _) = unsafe { one_of(forward, backward)? }.describe(&context)?;
        // SAFETY: NULL or valid for writing, by contract.
        unsafe { write(bytes, size as u64, "bytes") }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_explain(
    context: *mut c_void,
    forward: *const sys::mfa_forward_desc,
    backward: *const sys::mfa_backward_desc,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    guard(|| {
        let context = handles::context(context)?;
        // SAFETY: as this function's contract.
        let (_, explained) = unsafe { one_of(forward, backward)? }.describe(&context)?;
        // SAFETY: as this function's contract.
        unsafe { write_text(&explained, text, capacity, length, "text") }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_quantize(
    context: *mut c_void,
    desc: *const sys::mfa_quantize_desc,
) -> i32 {
    guard(|| {
        let context = handles::context(context)?;
        // SAFETY: NULL or a struct of its struct_size, by contract.
        let desc = unsafe { sized_required(desc, "quantize descriptor")? };
        let call = Quantize::check(&desc)?;
        let wanted = !desc.error.is_null();
        let error = context.on_workers(
            |threads| call.workspace(threads),
            |pool, threads, memory| call.run(context.kernels, pool, threads, memory, wanted),
        )??;
        if wanted {
            // SAFETY: not NULL, so valid for writing by contract.
            unsafe { write(desc.error, error.report(), "error")? };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_dequantize(
    context: *mut c_void,
    source: *const sys::mfa_tensor,
    destination: *const sys::mfa_tensor,
) -> i32 {
    guard(|| {
        let context = handles::context(context)?;
        ensure!(
            !source.is_null(),
            argument,
            "source is NULL; expected a tensor"
        );
        ensure!(
            !destination.is_null(),
            argument,
            "destination is NULL; expected a tensor"
        );
        // SAFETY: not NULL, so tensors by contract; callers in C may not align.
        let (source, destination) =
            unsafe { (source.read_unaligned(), destination.read_unaligned()) };
        let call = Dequantize::check(&source, &destination)?;
        context.on_workers(
            |threads| call.workspace(threads),
            |pool, threads, memory| call.run(context.kernels, pool, threads, memory),
        )
    })
}

//! The CPU driver of universal quantized Flash Attention: `mfa.h` on AVX-512, AVX2, NEON or plain Rust.
//!
//! As a Rust library it offers one function, [`api`]: the table of its C functions, which the crate `mfa` wraps. As a C
//! library it exports exactly the functions of the header.
//!
//! The path of a call: `ffi` resolves handles and descriptors; `contract` and the operation's check make a legal call of them;
//! its plan chooses arithmetic, blocks and workers; its loops run on micro-kernels. `forward`, `backward` and `quantize` are
//! such operations, over `operands` and `runtime`. The instruction set is chosen once per process, or forced by
//! `MFA_CPU_ISA`: see `mfa-kernels`.

mod backward;
mod contract;
mod error;
mod ffi;
mod forward;
mod fp64;
mod merge;
mod operands;
mod quantize;
mod runtime;

pub use ffi::*;

/// The functions of this driver.
#[must_use]
pub fn api() -> mfa_sys::Api {
    mfa_sys::Api {
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
        mfa_merge,
        mfa_merge_backward,
        mfa_workspace_size,
        mfa_explain,
        mfa_attention_forward,
        mfa_attention_forward_quantized,
        mfa_attention_backward_query_quantized,
        mfa_attention_backward_kv_quantized,
    }
}

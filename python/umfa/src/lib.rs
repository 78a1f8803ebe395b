//! `umfa._native`: the functions and classes of the Python package `umfa`, over the contract's general calls.
//!
//! A call goes through three steps: arguments are read in place (`array`, `torch`, `dlpack`) and options parsed
//! (`options`); descriptors are made of them (`prepare`, `call`); the driver runs without the GIL. What shapes and
//! values are legal is the driver's decision, and its message the exception's.

mod array;
mod attention;
mod aux_tensors;
mod backward;
mod buffer;
mod call;
mod context;
mod devices;
mod dlpack;
mod dtype;
mod error;
mod merge;
mod options;
mod prepare;
mod quantize;
mod quantized;
mod reuse;
mod scheme;
mod shapes;
mod torch;
mod view;

use pyo3::prelude::*;

#[pymodule(name = "_native", gil_used = false)]
mod native {
    #[pymodule_export]
    use crate::attention::{
        _operand, _sdpa, attention, explain, flash_attention_forward, quantized_attention,
        workspace_size,
    };
    #[pymodule_export]
    use crate::backward::flash_attention_backward;
    #[pymodule_export]
    use crate::buffer::{Buffer, Memory};
    #[pymodule_export]
    use crate::context::{_after_fork, Context, get_num_threads, set_num_threads};
    #[pymodule_export]
    use crate::devices::{devices, get_version, is_metal_available};
    #[pymodule_export]
    use crate::merge::{merge, merge_backward};
    #[pymodule_export]
    use crate::options::{_check_options, _options};
    #[pymodule_export]
    use crate::quantize::quantize;
    #[pymodule_export]
    use crate::quantized::QuantizedTensor;

    /// The version of the package.
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}

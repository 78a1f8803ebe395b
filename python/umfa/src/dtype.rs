//! Element types: what NumPy and torch call them, and what the contract does.

use std::fmt;

use mfa::raw::sys;
use pyo3::prelude::*;

use crate::error;
use crate::options::{dtype_name, one_of, shown};

/// An element type of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    Float64,
    Float32,
    Float16,
    BFloat16,
    Int8,
    UInt8,
    Bool,
    Int32,
    Int64,
}

impl Dtype {
    pub(crate) const ALL: [Dtype; 9] = [
        Dtype::Float64,
        Dtype::Float32,
        Dtype::Float16,
        Dtype::BFloat16,
        Dtype::Int8,
        Dtype::UInt8,
        Dtype::Bool,
        Dtype::Int32,
        Dtype::Int64,
    ];

    /// What is computed with in float32.
    pub(crate) const FLOATS: &'static [Dtype] = &[Dtype::Float32, Dtype::Float16, Dtype::BFloat16];
    /// What an operand or a part of a merge may be.
    pub(crate) const OPERANDS: &'static [Dtype] = &[
        Dtype::Float32,
        Dtype::Float16,
        Dtype::BFloat16,
        Dtype::Float64,
    ];

    /// What outputs, their gradients and additive masks beside a query of this type may be.
    pub(crate) const fn results(self) -> &'static [Dtype] {
        match self {
            Dtype::Float64 => &[Dtype::Float64],
            _ => Dtype::FLOATS,
        }
    }

    /// How the numbers beside a query of this type are stored that are not rounded to it: logsumexp, gradients.
    pub(crate) const fn exact(self) -> Dtype {
        match self {
            Dtype::Float64 => Dtype::Float64,
            _ => Dtype::Float32,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Dtype::Float64 => "float64",
            Dtype::Float32 => "float32",
            Dtype::Float16 => "float16",
            Dtype::BFloat16 => "bfloat16",
            Dtype::Int8 => "int8",
            Dtype::UInt8 => "uint8",
            Dtype::Bool => "bool",
            Dtype::Int32 => "int32",
            Dtype::Int64 => "int64",
        }
    }

    /// One of `allowed`, by its name or as an object of NumPy or torch.
    pub(crate) fn parse(value: &Bound<'_, PyAny>, allowed: &[Dtype]) -> PyResult<Dtype> {
        let name = dtype_name(value);
        let found = (allowed.iter()).find(|dtype| Some(dtype.name()) == name.as_deref());
        found.copied().ok_or_else(|| match shown(value) {
            Ok(text) => error::argument(format!("dtype: {text}, expected {}", list(allowed))),
            Err(problem) => problem,
        })
    }

    /// A type of NumPy's own with as many bytes.
    pub(crate) const fn plain(self) -> Dtype {
        match self.size() {
            1 => Dtype::UInt8,
            2 => Dtype::Float16,
            4 => Dtype::Int32,
            _ => Dtype::Int64,
        }
    }

    pub(crate) const fn size(self) -> usize {
        match self {
            Dtype::Int8 | Dtype::UInt8 | Dtype::Bool => 1,
            Dtype::Float16 | Dtype::BFloat16 => 2,
            Dtype::Float32 | Dtype::Int32 => 4,
            Dtype::Int64 | Dtype::Float64 => 8,
        }
    }

    /// The contract's code for floats and masks; -1, which no driver takes, for the rest.
    pub(crate) const fn precision(self) -> i32 {
        match self {
            Dtype::Float32 => sys::MFA_PRECISION_FP32,
            Dtype::Float16 => sys::MFA_PRECISION_FP16,
            Dtype::BFloat16 => sys::MFA_PRECISION_BF16,
            Dtype::Bool => sys::MFA_PRECISION_BOOL,
            Dtype::Float64 => sys::MFA_PRECISION_FP64,
            Dtype::Int8 | Dtype::UInt8 | Dtype::Int32 | Dtype::Int64 => -1,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// "float32, float16 or bfloat16"
pub(crate) fn list(allowed: &[Dtype]) -> String {
    let names: Vec<&str> = allowed.iter().map(|dtype| dtype.name()).collect();
    one_of(&names)
}

//! The arithmetic of the products Q Kᵀ and P V, chosen here for both passes (eq. 54 of docs/math.md).

#![forbid(unsafe_code)]

use crate::contract::problem::Problem;
use crate::contract::quant_scheme::{Granularity, Quant};
use crate::operands::dequantize::ScaleLayout;
use mfa_kernels::bf16_split::{Bf16Kernels, Bf16Products};
use mfa_kernels::{Kernels, Precision};

/// The arithmetic of S = Q Kᵀ, with its kernels or quantizations.
#[derive(Clone, Copy)]
pub(crate) enum ScoreArithmetic<'a> {
    /// FP32 products.
    F32,
    /// INT8 products, INT32 sums.
    I8(Int8Scores<'a>),
    /// FP32 sums of products of BF16 slices.
    Bf16(Bf16Products, &'a Bf16Kernels),
}

/// The quantizations of the operands of an integer Q Kᵀ.
#[derive(Clone, Copy)]
pub(crate) struct Int8Scores<'a> {
    pub q: &'a Quant,
    pub k: &'a Quant,
}

/// The arithmetic of O = P V, with its kernels or quantization.
#[derive(Clone, Copy)]
pub(crate) enum ValueArithmetic<'a> {
    /// FP32 products.
    F32,
    /// P to 15 bits, INT32 sums.
    I16(&'a Quant),
    /// P to 8 bits, INT32 sums.
    U8(&'a Quant),
    /// FP32 sums of products of BF16 slices; P has as many slices as V.
    Bf16(Bf16Products, &'a Bf16Kernels),
}

/// The loops that compute scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScorePass {
    /// Forward: a few rows of Q against K as it is stored.
    Decode,
    /// Forward: strips of Q against panels of K.
    Prefill,
    /// Backward: strips of K against panels of Q.
    Transposed,
}

impl ScoreArithmetic<'_> {
    pub(crate) fn describe(self) -> String {
        match self {
            ScoreArithmetic::F32 => "FP32 products".into(),
            ScoreArithmetic::I8(_) => "INT8 products, INT32 sums".into(),
            ScoreArithmetic::Bf16(products, _) => products.describe(),
        }
    }
}

impl ValueArithmetic<'_> {
    pub(crate) fn describe(self) -> String {
        match self {
            ValueArithmetic::F32 => "FP32 products".into(),
            ValueArithmetic::I16(_) => "16-bit products, INT32 sums".into(),
            ValueArithmetic::U8(_) => "8-bit products, INT32 sums".into(),
            ValueArithmetic::Bf16(products, _) => products.describe(),
        }
    }
}

const FEW_ROWS: &str = "few rows: memory is the limit, integers are widened in registers";

/// Chooses integers or floats for the scores; returns the reason as well.
pub(crate) fn score_arithmetic<'a>(
    problem: &'a Problem,
    kernels: &Kernels,
    pass: ScorePass,
) -> (ScoreArithmetic<'a>, &'static str) {
    match int8_scores(problem, kernels, pass) {
        Ok(operands) => (
            ScoreArithmetic::I8(operands),
            "Q and K are integers with row scales: exact INT32 sums",
        ),
        Err(reason) => (ScoreArithmetic::F32, reason),
    }
}

/// The operands of integer scores, or the reason against them.
///
/// A kernel adds a constant per score for the zero point of the operand that it takes in strips (Q in the forward pass, K in
/// the backward pass), so that this zero point must be the same for all rows.
fn int8_scores<'a>(
    problem: &'a Problem,
    kernels: &Kernels,
    pass: ScorePass,
) -> Result<Int8Scores<'a>, &'static str> {
    let (Some(q), Some(k)) = (&problem.q.quant, &problem.k.quant) else {
        return Err("Q or K is not quantized");
    };
    if pass == ScorePass::Decode {
        return Err(FEW_ROWS);
    }
    if !kernels.int8 {
        return Err("this instruction set has no fast INT8 product");
    }
    let within_row = |layout| matches!(layout, ScaleLayout::WithinRow(_));
    if within_row(problem.q.scale_layout()) || within_row(problem.k.scale_layout()) {
        return Err("scales within a row: products cannot be summed as integers");
    }
    if q.rotated != k.rotated {
        return Err("only one of Q and K is rotated");
    }
    if q.mean.is_some() {
        return Err("Q has a mean");
    }
    let transposed = pass == ScorePass::Transposed;
    // The forward pass adds the mean's share to the scores; the backward pass takes it from the logsumexp.
    if transposed && k.mean.is_some() && problem.options.caps() {
        return Err("the softcap comes after the mean of K");
    }
    if transposed && !has_one_zero(k) {
        return Err("zero points of K differ by row");
    }
    if !transposed && !has_one_zero(q) {
        return Err("zero points of Q differ by row");
    }
    Ok(Int8Scores { q, k })
}

/// Chooses integers or floats for P V in the forward pass; returns the reason as well.
pub(crate) fn value_arithmetic<'a>(
    problem: &'a Problem,
    kernels: &Kernels,
    pass: ScorePass,
) -> (ValueArithmetic<'a>, &'static str) {
    let v = &problem.v;
    let Some(quant) = &v.quant else {
        return (ValueArithmetic::F32, "V is not quantized");
    };
    if pass == ScorePass::Decode {
        return (ValueArithmetic::F32, FEW_ROWS);
    }
    if !kernels.int8_values {
        return (
            ValueArithmetic::F32,
            "this instruction set has no fast integer product",
        );
    }
    if matches!(v.scale_layout(), ScaleLayout::WithinRow(_)) {
        return (ValueArithmetic::F32, "scales of V within a row");
    }
    if problem.options.fast && has_one_zero(quant) {
        if kernels.multiplies_bytes() {
            return (ValueArithmetic::U8(quant), "fast mode: P to 8 bits");
        }
        return (
            ValueArithmetic::I16(quant),
            "fast mode: P to 15 bits, for this instruction set has no product of bytes",
        );
    }
    (
        ValueArithmetic::I16(quant),
        "exact mode: P to 15 bits, INT32 sums",
    )
}

/// Whether all rows have the same zero point.
fn has_one_zero(quant: &Quant) -> bool {
    !quant.has_zeros() || quant.granularity == Granularity::Tensor
}

/// The fewest products of slices that are as exact as FP32 products of Q and K.
///
/// Of the softmax kernels only that of slices multiplies the scores. The others take scores in base 2, for which Q is
/// multiplied while it is packed, and then has all the bits of an FP32.
pub(crate) fn score_products(problem: &Problem, values: ValueArithmetic<'_>) -> Bf16Products {
    if !matches!(values, ValueArithmetic::Bf16(..)) {
        return Bf16Products::X6;
    }
    match (problem.q.precision, problem.k.precision) {
        (Precision::Bf16, Precision::Bf16) => Bf16Products::X1,
        (Precision::F16, Precision::Bf16) => Bf16Products::X2x1,
        (Precision::F32, Precision::Bf16) => Bf16Products::X3x1,
        (Precision::Bf16 | Precision::F16, Precision::F16) => Bf16Products::X4,
        _ => Bf16Products::X6,
    }
}

/// The products of slices of P and V: P is rounded as V is, but to 16 bits beside a BF16 if the output shows more than 8.
pub(crate) fn value_products(problem: &Problem, output: Precision) -> Bf16Products {
    match (problem.v.precision, output) {
        (Precision::Bf16, Precision::Bf16) => Bf16Products::X1,
        (Precision::Bf16, _) => Bf16Products::X2x1,
        (Precision::F16, _) => Bf16Products::X3,
        _ => Bf16Products::X6,
    }
}

//! A call, checked once: every shape, option and precision is legal from here on.

use mfa_sys as sys;

use crate::contract::array::Access;
use crate::contract::options::Options;
use crate::contract::precision;
use crate::contract::sequences::Sequences;
use crate::contract::sized::sized;
use crate::contract::tensor::Tensor;
use crate::error::{Result, ensure};
use mfa_kernels::Precision;

/// The largest head dimension.
pub(crate) const MAX_HEAD_DIM: usize = 1024;

/// The operands and options that forward and backward calls share.
pub(crate) struct Problem {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    /// Columns of Q and K; one of zeros if the caller's have none.
    pub d: usize,
    /// The caller's columns of Q and K.
    pub columns: usize,
    /// Columns of V.
    pub dv: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Query heads that share a key/value head.
    pub group: usize,
    pub sequences: Sequences,
    pub options: Options,
}

impl Problem {
    pub(crate) fn check(
        [query, key, value]: [&sys::mfa_tensor; 3],
        options: *const sys::mfa_attention_options,
        access: Access,
    ) -> Result<Self> {
        let operands = match query.precision {
            sys::MFA_PRECISION_FP64 => &[Precision::F64][..],
            _ => &precision::OPERANDS,
        };
        let mut q = access.required(query, "query", operands)?;
        let mut k = access.required(key, "key", operands)?;
        let mut v = access.required(value, "value", operands)?;
        for (tensor, what) in [(&q, "query"), (&k, "key"), (&v, "value")] {
            let columns = tensor.shape[3];
            let least = usize::from(what == "value");
            ensure!(
                (least..=MAX_HEAD_DIM).contains(&columns),
                dimensions,
                "{what}: head dimension is {columns}; expected {least} to {MAX_HEAD_DIM}"
            );
            ensure!(
                columns == 1 || tensor.strides[3] > 0 || tensor.shape.contains(&0),
                dimensions,
                "{what}: the stride of columns is 0; expected 1 or more, for {columns} columns that differ"
            );
        }
        let [batch, heads, rows, columns] = q.shape;
        let [_, kv_heads, nk, _] = k.shape;
        let dv = v.shape[3];
        k.expect_shape("key", [batch, kv_heads, nk, columns])?;
        v.expect_shape("value", [batch, kv_heads, nk, dv])?;
        ensure!(
            heads == 0 || (kv_heads > 0 && heads % kv_heads == 0),
            dimensions,
            "query: {heads} heads; expected a multiple of the {kv_heads} key/value heads"
        );
        for (tensor, what) in [(&mut q, "query"), (&mut k, "key"), (&mut v, "value")] {
            let precision = tensor.precision;
            if let Some(quant) = &mut tensor.quant {
                quant.check_values(what, precision)?;
            }
        }
        if columns == 0 {
            // A product without terms is 0, as that of a column of zeros.
            q = Tensor::zeros(q.precision, [batch, heads, rows, 1]);
            k = Tensor::zeros(k.precision, [batch, kv_heads, nk, 1]);
        }
        // SAFETY: the contract makes `options` NULL or the address of a struct whose struct_size is true.
        let raw = unsafe { sized(options, "options")? };
        let (options, sequences) = Options::check(raw.as_ref(), &q, &k, access)?;
        Ok(Problem {
            d: q.shape[3],
            columns,
            dv,
            heads,
            kv_heads,
            group: heads.checked_div(kv_heads).unwrap_or(0),
            sequences,
            options,
            q,
            k,
            v,
        })
    }

    /// Whether the operands are FP64, so that everything is computed in FP64.
    pub(crate) fn is_fp64(&self) -> bool {
        self.v.precision == Precision::F64
    }

    /// The precisions of outputs and their gradients.
    pub(crate) fn floats(&self) -> &'static [Precision] {
        precision::floats_beside(self.v.precision)
    }

    /// The precisions of logsumexp, D and the gradients of operands.
    pub(crate) fn exact(&self) -> &'static [Precision] {
        precision::exact_beside(self.v.precision)
    }

    /// Multiply-adds of the two products.
    pub(crate) fn work(&self) -> f64 {
        self.score_count() * (self.d + self.dv) as f64
    }

    /// Elements of S: Σ nq·nk over sequences, times query heads.
    pub(crate) fn score_count(&self) -> f64 {
        self.sequences.pairs * self.heads as f64
    }
}

//! Records of forward calls, which the training entries of the contract read.

use std::ffi::c_void;

use mfa_sys as sys;

use crate::error::{Result, ensure};
use mfa_kernels::Precision;

/// One `mfa_attention_forward_quantized` call.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    /// Handles of query, key and value.
    pub operands: [*mut c_void; 3],
    /// Batch, query rows, key rows, heads.
    pub shape: [u32; 4],
    pub head_dim: u16,
    pub precisions: [i32; 3],
    pub scales: [f32; 3],
    pub zero_points: [i32; 3],
    /// Query, key, value and output.
    pub transposed: [bool; 4],
    pub softmax_scale: f32,
    pub causal: bool,
}

// SAFETY: handles are numbers; a record dereferences none.
unsafe impl Send for Record {}

/// The names of the operands.
pub(crate) const OPERANDS: [&str; 3] = ["query", "key", "value"];

impl Record {
    /// `options.flags` of the recorded call.
    pub(crate) fn flags(&self) -> u32 {
        sys::MFA_OPTION_SCALE
            | if self.causal {
                sys::MFA_OPTION_CAUSAL
            } else {
                0
            }
    }

    pub(crate) fn is_quantized(&self, operand: usize) -> bool {
        Precision::from_code(self.precisions[operand]).is_some_and(Precision::is_quantized)
    }

    /// Demands the shape of the recorded call, and its scales and zero points. `given` are those of query, key and value, as
    /// far as the call has them.
    pub(crate) fn expect(
        &self,
        shape: [u32; 4],
        head_dim: u16,
        given: &[(f32, i32)],
    ) -> Result<()> {
        const NAMES: [&str; 4] = ["batch_size", "seq_len_q", "seq_len_kv", "num_heads"];
        let found = shape.into_iter().chain([u32::from(head_dim)]);
        let expected = self.shape.into_iter().chain([u32::from(self.head_dim)]);
        for (name, (found, expected)) in NAMES
            .into_iter()
            .chain(["head_dim"])
            .zip(found.zip(expected))
        {
            ensure!(
                found == expected,
                argument,
                "{name} is {found}; expected {expected}, as in mfa_attention_forward_quantized on these buffers"
            );
        }
        for (operand, &(scale, zero)) in given.iter().enumerate() {
            let expected = (self.scales[operand], self.zero_points[operand]);
            ensure!(
                !self.is_quantized(operand) || (scale, zero) == expected,
                argument,
                "{}: scale is {scale} and zero point {zero}; expected {} and {}, as in mfa_attention_forward_quantized on \
                 these buffers",
                OPERANDS[operand],
                expected.0,
                expected.1
            );
        }
        Ok(())
    }
}

/// Records that a context keeps, at most. The oldest is removed first.
const KEPT: usize = 4096;

/// Adds a record, in place of an earlier one of the same operands.
pub(crate) fn remember(records: &mut Vec<Record>, record: Record) {
    records.retain(|old| old.operands != record.operands);
    if records.len() >= KEPT {
        records.remove(0);
    }
    records.push(record);
}

/// The record of the forward call on these buffers.
pub(crate) fn recall(records: &[Record], operands: [*mut c_void; 3]) -> Result<Record> {
    let found = records.iter().find(|record| record.operands == operands);
    match found {
        Some(record) => Ok(*record),
        None => Err(crate::error::Error::argument(
            "no forward call is recorded for these query, key and value buffers; expected \
             mfa_attention_forward_quantized on them, in this context, before its backward entries",
        )),
    }
}

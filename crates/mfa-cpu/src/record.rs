//! What the training entries of the contract need to know of the forward call.

use std::ffi::c_void;

use mfa_sys as sys;

/// One `mfa_attention_forward_quantized` call.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    /// Handles of query, key and value.
    pub operands: [*mut c_void; 3],
    pub shape: [u32; 4],
    pub head_dim: u16,
    pub precisions: [i32; 3],
    pub scales: [f32; 3],
    pub zero_points: [i32; 3],
    pub transposed: [bool; 3],
    pub softmax_scale: f32,
    pub causal: bool,
}

// SAFETY: handles are numbers; nothing behind them is touched through a record.
unsafe impl Send for Record {}

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
}

/// Records that a context keeps at most; the oldest goes first.
const KEPT: usize = 4096;

/// Adds a record, in place of an earlier one of the same operands.
pub(crate) fn remember(records: &mut Vec<Record>, record: Record) {
    records.retain(|old| old.operands != record.operands);
    if records.len() >= KEPT {
        records.remove(0);
    }
    records.push(record);
}

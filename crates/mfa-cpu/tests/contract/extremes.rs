//! Sizes that only strides of 0 can have: planned in constant memory or refused, and never written past the memory there is.

use std::ptr::null_mut;
use std::time::{Duration, Instant};

use mfa_sys as sys;

use crate::session::{Session, tensor};

const ALLOCATION: i32 = sys::MFA_ERROR_BUFFER_ALLOCATION;

/// `shape` of a small buffer, all of it one row of `columns` again and again.
fn repeated(session: &Session, shape: [u64; 4]) -> sys::mfa_tensor {
    sys::mfa_tensor {
        strides: [0, 0, 0, 1],
        ..tensor(session.buffer(4 * shape[3].max(1)), shape)
    }
}

/// A backward call of `batch` x `heads` x `rows` rows that wants nothing yet.
fn backward(
    session: &Session,
    [batch, heads, rows]: [u64; 3],
    kv_heads: u64,
) -> sys::mfa_backward_desc {
    sys::mfa_backward_desc {
        query: repeated(session, [batch, heads, rows, 1]),
        key: repeated(session, [batch, kv_heads, 3, 1]),
        value: repeated(session, [batch, kv_heads, 3, 1]),
        grad_output: repeated(session, [batch, heads, rows, 1]),
        logsumexp: repeated(session, [batch, heads, rows, 1]),
        ..sys::mfa_backward_desc::new()
    }
}

#[test]
fn d_that_no_memory_holds_is_refused() {
    let session = Session::new();
    // Four bytes each are 0, a small number, or more than there is, modulo two to the power of 64.
    for counts in [
        [1 << 20, 1 << 20, 1 << 20],
        [1 << 40, 1 << 22, 1],
        [3, 1 << 47, 5],
        [1, 1 << 15, 1 << 47],
        [1 << 7, 7, 1 << 48],
    ] {
        let mask = tensor(session.buffer(12), [1, 1, 1, 3]);
        let options = sys::mfa_attention_options {
            mask,
            ..sys::mfa_attention_options::new()
        };
        let desc = sys::mfa_backward_desc {
            options: &raw const options,
            // Wants D, and is small itself.
            grad_mask: tensor(session.buffer(12), [1, 1, 1, 3]),
            ..backward(&session, counts, 1)
        };
        // SAFETY: a descriptor of live buffers.
        let status = unsafe { (session.api.mfa_backward)(session.context, &desc) };
        assert_eq!(status, ALLOCATION, "{counts:?}: {}", session.message());
        assert!(session.message().contains("bytes"), "{}", session.message());
    }
}

#[test]
fn heads_without_number_are_planned_in_no_time() {
    let session = Session::new();
    let start = Instant::now();
    for [batch, heads] in [
        [1u64 << 33, 1],
        [1, 1 << 33],
        [1 << 20, 1 << 20],
        [3, 1 << 40],
    ] {
        for shared in [false, true] {
            let kv_heads = if shared { 1 } else { heads };
            let desc = backward(&session, [batch, heads, 1], kv_heads);
            let (mut bytes, mut length) = (0, 0);
            // SAFETY: descriptors of live buffers, and places for the results.
            unsafe {
                let status = (session.api.mfa_workspace_size)(
                    session.context,
                    std::ptr::null(),
                    &desc,
                    &mut bytes,
                );
                assert_eq!(status, sys::MFA_SUCCESS, "{}", session.message());
                let status = (session.api.mfa_explain)(
                    session.context,
                    std::ptr::null(),
                    &desc,
                    null_mut(),
                    0,
                    &mut length,
                );
                assert_eq!(status, sys::MFA_SUCCESS, "{}", session.message());
                // Nothing is wanted: nothing is to be done.
                let status = (session.api.mfa_backward)(session.context, &desc);
                assert_eq!(status, sys::MFA_SUCCESS, "{}", session.message());
            }
            assert!(bytes < 64 << 20, "{bytes}");
        }
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_query_without_rows_costs_nothing() {
    let session = Session::new();
    let start = Instant::now();
    for [batch, heads] in [[1u64 << 25, 2], [1 << 48, 4], [5, 1 << 44]] {
        let desc = sys::mfa_forward_desc {
            query: repeated(&session, [batch, heads, 0, 8]),
            key: repeated(&session, [batch, 1, 3, 8]),
            value: repeated(&session, [batch, 1, 3, 4]),
            output: repeated(&session, [batch, heads, 0, 4]),
            ..sys::mfa_forward_desc::new()
        };
        assert_eq!(
            session.forward(&desc),
            sys::MFA_SUCCESS,
            "{}",
            session.message()
        );
        let mut bytes = 0;
        // SAFETY: a descriptor of live buffers.
        let status = unsafe {
            (session.api.mfa_workspace_size)(session.context, &desc, std::ptr::null(), &mut bytes)
        };
        assert_eq!(status, sys::MFA_SUCCESS, "{}", session.message());
        assert!(bytes < 4 << 20, "{bytes}");
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn nothing_is_quantized_at_once() {
    let session = Session::new();
    let start = Instant::now();
    for shape in [
        [1 << 40, 1, 1, 0],
        [1 << 30, 1 << 30, 5, 0],
        [1 << 48, 1 << 10, 0, 0],
        [2, 3, 0, 4],
    ] {
        for granularity in [sys::MFA_GRANULARITY_TENSOR, sys::MFA_GRANULARITY_ROW] {
            let quantization = sys::mfa_quantization {
                granularity,
                scale_buffer: session.buffer(64),
                mean_buffer: session.buffer(2 * 3 * 4 * 4),
                ..sys::mfa_quantization::new()
            };
            let desc = sys::mfa_quantize_desc {
                flags: sys::MFA_QUANTIZE_SMOOTH,
                source: repeated(&session, shape),
                destination: sys::mfa_tensor {
                    precision: sys::MFA_PRECISION_INT8,
                    quantization: &raw const quantization,
                    ..tensor(session.buffer(1), shape)
                },
                ..sys::mfa_quantize_desc::new()
            };
            session.bytes(quantization.mean_buffer).fill(0xA5);
            // SAFETY: a descriptor of live buffers.
            let status = unsafe { (session.api.mfa_quantize)(session.context, &desc) };
            assert_eq!(status, sys::MFA_SUCCESS, "{shape:?}: {}", session.message());
            // A mean over no rows is 0; without columns there is no mean.
            let written = session
                .bytes(quantization.mean_buffer)
                .iter()
                .all(|&b| b == 0);
            assert_eq!(written, shape[3] > 0, "{shape:?}");
        }
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

//! What is wrong with a backward call is said, and no gradient is touched.

use mfa_sys as sys;

use crate::case::Case;
use crate::run::Prepared;
use crate::session::Session;

type Change = fn(&mut sys::mfa_backward_desc);

const ARGUMENT: i32 = sys::MFA_ERROR_INVALID_ARGUMENT;
const DIMENSIONS: i32 = sys::MFA_ERROR_INVALID_DIMENSIONS;

#[test]
fn wrong_calls_are_refused() {
    let wrong: [(Change, i32, &str); 18] = [
        (|d| d.flags = 8, ARGUMENT, "flags"),
        (|d| d.query = sys::mfa_tensor::ABSENT, ARGUMENT, "query"),
        (
            |d| d.logsumexp = sys::mfa_tensor::ABSENT,
            ARGUMENT,
            "logsumexp",
        ),
        (
            |d| d.grad_output = sys::mfa_tensor::ABSENT,
            ARGUMENT,
            "grad_output",
        ),
        (|d| d.grad_output.shape[3] -= 1, DIMENSIONS, "grad_output"),
        (|d| d.output.shape[2] -= 1, DIMENSIONS, "output"),
        (|d| d.logsumexp.shape[1] -= 1, DIMENSIONS, "logsumexp"),
        (|d| d.logsumexp.precision = 1, ARGUMENT, "logsumexp"),
        (|d| d.grad_query.precision = 2, ARGUMENT, "grad_query"),
        (|d| d.grad_key.shape[1] = 1, DIMENSIONS, "grad_key"),
        (|d| d.grad_value.strides[2] = 0, DIMENSIONS, "overlap"),
        (|d| d.grad_value.byte_offset = 4, ARGUMENT, "grad_value"),
        (|d| d.grad_mask.shape[2] = 1, DIMENSIONS, "grad_mask"),
        (|d| d.options = std::ptr::null(), ARGUMENT, "grad_mask"),
        (
            |d| {
                d.flags = sys::MFA_BACKWARD_D_GIVEN;
                d.d_values = sys::mfa_tensor::ABSENT;
            },
            ARGUMENT,
            "d_values",
        ),
        (|d| d.grad_key = d.grad_value, ARGUMENT, "grad_value"),
        (|d| d.grad_query.buffer = d.query.buffer, ARGUMENT, "query"),
        (
            |d| d.d_values.buffer = d.logsumexp.buffer,
            ARGUMENT,
            "logsumexp",
        ),
    ];
    let case = Case {
        d: 4,
        dv: 4,
        mask: Some(("fp32", 0b0111)),
        ..Case::small()
    };
    for (change, status, word) in wrong {
        let session = Session::new(1);
        let prepared = Prepared::new(&session, &case);
        let mut desc = prepared.desc();
        change(&mut desc);
        // SAFETY: a descriptor of live buffers.
        let found = unsafe { (session.api.mfa_backward)(session.context, &desc) };
        let message = session.message();
        assert_eq!(found, status, "{word}: {message}");
        assert!(message.contains(word), "{message:?} does not say {word:?}");
        let untouched = prepared.gradients_untouched();
        assert!(untouched, "{message}");
    }
}

/// Gradients side by side in the rows of one buffer share bytes between their ends, and no element.
#[test]
fn packed_gradients_are_legal() {
    let session = Session::new(1);
    let case = Case {
        nq: 5,
        nk: 5,
        d: 8,
        dv: 8,
        ..Case::small()
    };
    let prepared = Prepared::new(&session, &case);
    let mut desc = prepared.desc();
    let (heads, rows) = (case.heads(), case.nq);
    let buffer = session.buffer(rows * 3 * heads * 8 * 4);
    let place = |tensor: &mut sys::mfa_tensor, slot: usize| {
        tensor.buffer = buffer;
        tensor.byte_offset = (slot * heads * 8 * 4) as u64;
        tensor.strides = [0, 8, (3 * heads * 8) as i64, 1];
    };
    place(&mut desc.grad_query, 0);
    place(&mut desc.grad_key, 1);
    place(&mut desc.grad_value, 2);
    // SAFETY: a descriptor of live buffers.
    session.expect(unsafe { (session.api.mfa_backward)(session.context, &desc) });
    let separate = prepared.run();
    let packed: Vec<f64> = session
        .bytes(buffer)
        .chunks_exact(4)
        .map(|x| f64::from(f32::from_le_bytes(x.try_into().unwrap())))
        .collect();
    let parts = [&separate.query, &separate.key, &separate.value];
    for (slot, part) in parts.into_iter().enumerate() {
        for (i, x) in part.iter().enumerate() {
            let (h, n, c) = (i / 8 / rows, i / 8 % rows, i % 8);
            assert_eq!(packed[(n * 3 + slot) * heads * 8 + h * 8 + c], *x);
        }
    }
}

#[test]
fn explained() {
    let session = Session::new(2);
    let case = Case {
        give_output: false,
        ..Case::small()
    };
    let prepared = Prepared::new(&session, &case);
    let desc = prepared.desc();
    let mut text = vec![0u8; 4096];
    let mut length = 0;
    // SAFETY: a descriptor of live buffers, room for the text, a place for its length.
    let status = unsafe {
        let (at, capacity) = (text.as_mut_ptr().cast(), text.len());
        (session.api.mfa_explain)(
            session.context,
            std::ptr::null(),
            &desc,
            at,
            capacity,
            &mut length,
        )
    };
    session.expect(status);
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    for line in [
        "operation: backward",
        "loop: fused",
        "d: from P and dP",
        "workspace: ",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

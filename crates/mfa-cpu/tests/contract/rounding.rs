//! What `mfa_quantize` refuses: arrays that cannot hold its results, and parameters that nothing can be rounded with.

use mfa_sys as sys;

use crate::session::{Session, tensor};

const SHAPE: [u64; 4] = [1, 2, 5, 8];
const SCALES: u64 = 10;

struct Call {
    flags: u32,
    source: sys::mfa_tensor,
    destination: sys::mfa_tensor,
    quantization: sys::mfa_quantization,
}

/// Spoils a call by `edit` and demands the refusal that says `word`, with every byte of the results as it was.
#[track_caller]
fn refused(edit: impl Fn(&Session, &mut Call), word: &str) {
    let session = Session::new();
    let (status, message, untouched) = run(&session, edit);
    assert!(
        matches!(
            status,
            sys::MFA_ERROR_INVALID_ARGUMENT | sys::MFA_ERROR_INVALID_DIMENSIONS
        ),
        "{status}: {message}"
    );
    assert!(message.contains(word), "{message:?} does not say {word:?}");
    assert!(untouched, "{message}");
}

fn run(session: &Session, edit: impl Fn(&Session, &mut Call)) -> (i32, String, bool) {
    let mut call = Call {
        flags: 0,
        source: session.tensor(SHAPE),
        destination: sys::mfa_tensor {
            precision: sys::MFA_PRECISION_INT8,
            ..tensor(session.buffer(2 * 80), SHAPE)
        },
        quantization: sys::mfa_quantization {
            granularity: sys::MFA_GRANULARITY_ROW,
            scale_buffer: session.buffer(4 * 2 * SCALES),
            ..sys::mfa_quantization::new()
        },
    };
    for (i, x) in session
        .bytes(call.source.buffer)
        .chunks_exact_mut(4)
        .enumerate()
    {
        x.copy_from_slice(&((i % 7) as f32 - 3.0).to_le_bytes());
    }
    session.bytes(call.destination.buffer).fill(0x5A);
    edit(session, &mut call);
    call.destination.quantization = &raw const call.quantization;
    let results = [call.destination.buffer, call.quantization.scale_buffer];
    let before = results.map(|buffer| session.bytes(buffer).to_vec());
    let desc = sys::mfa_quantize_desc {
        flags: call.flags,
        source: call.source,
        destination: call.destination,
        ..sys::mfa_quantize_desc::new()
    };
    // SAFETY: a descriptor of live buffers.
    let status = unsafe { (session.api.mfa_quantize)(session.context, &desc) };
    let after = results.map(|buffer| session.bytes(buffer).to_vec());
    (status, session.message(), before == after)
}

#[test]
fn the_legal_call_is_legal() {
    let session = Session::new();
    assert_eq!(
        run(&session, |_, _| ()).0,
        sys::MFA_SUCCESS,
        "{}",
        session.message()
    );
}

#[test]
fn scales_that_share_memory() {
    let strides = |strides| move |_: &Session, c: &mut Call| c.quantization.scale_strides = strides;
    refused(strides([0, 0, 0, 1]), "scale_buffer");
    refused(strides([0, 0, 1, 1]), "overlap");
    refused(strides([0, 4, 1, 1]), "overlap");
    let session = Session::new();
    let every_other = run(&session, strides([20, 10, 2, 1]));
    assert_eq!(every_other.0, sys::MFA_SUCCESS, "{}", every_other.1);
}

#[test]
fn results_that_share_memory() {
    refused(
        |_, c| {
            (c.quantization.scale_buffer, c.quantization.scale_offset) = (c.destination.buffer, 40)
        },
        "destination: shares elements with scale_buffer",
    );
    refused(
        |_, c| c.quantization.scale_buffer = c.source.buffer,
        "scale_buffer: shares",
    );
    refused(
        |_, c| c.destination.buffer = c.source.buffer,
        "destination: shares",
    );
    refused(
        |_, c| {
            c.flags = sys::MFA_QUANTIZE_ASYMMETRIC;
            c.quantization.zero_point_buffer = c.quantization.scale_buffer;
            c.quantization.zero_point_bytes = 4;
        },
        "scale_buffer: shares elements with zero_point_buffer",
    );
    refused(
        |_, c| {
            c.flags = sys::MFA_QUANTIZE_SMOOTH;
            c.quantization.mean_buffer = c.source.buffer;
        },
        "mean_buffer: shares elements with source",
    );
}

#[test]
fn given_scales_and_zero_points() {
    for bad in [0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        refused(
            |session, c| {
                c.flags = sys::MFA_QUANTIZE_SCALE_GIVEN;
                let scales = session
                    .bytes(c.quantization.scale_buffer)
                    .chunks_exact_mut(4);
                for (i, scale) in scales.enumerate() {
                    let x = if i == 7 { bad } else { 0.5f32 };
                    scale.copy_from_slice(&x.to_le_bytes());
                }
            },
            "expected a finite number other than 0",
        );
    }
    for (int4, bad) in [
        (false, i32::MAX),
        (false, -129),
        (true, 8),
        (true, i32::MIN),
    ] {
        refused(
            |session, c| {
                c.flags = sys::MFA_QUANTIZE_SCALE_GIVEN | sys::MFA_QUANTIZE_ASYMMETRIC;
                if int4 {
                    c.destination.precision = sys::MFA_PRECISION_INT4;
                }
                for scale in session
                    .bytes(c.quantization.scale_buffer)
                    .chunks_exact_mut(4)
                {
                    scale.copy_from_slice(&0.5f32.to_le_bytes());
                }
                let zeros = session.buffer(4 * SCALES);
                session.bytes(zeros)[4 * 9..4 * 10].copy_from_slice(&bad.to_le_bytes());
                (
                    c.quantization.zero_point_buffer,
                    c.quantization.zero_point_bytes,
                ) = (zeros, 4);
            },
            "zero point is",
        );
    }
}

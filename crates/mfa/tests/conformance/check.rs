//! Whether what the driver wrote is what a case expects.

use mfa::raw::sys;
use mfa_testing::{bits, decode};

use crate::memory::Memory;
use crate::vectors::{Case, Values};

/// The first byte of an element.
fn place(view: &sys::mfa_tensor, index: [usize; 4]) -> usize {
    let elements: usize = index
        .iter()
        .zip(view.strides)
        .map(|(i, stride)| i * stride as usize)
        .sum();
    view.byte_offset as usize + elements * bits(view.precision) / 8
}

fn element(bytes: &[u8], at: usize, precision: i32) -> f64 {
    decode(&bytes[at..at + bits(precision) / 8], precision)
}

/// Every tensor that the call writes, and every buffer whose bytes are known.
pub(crate) fn results(
    case: &Case,
    memory: &Memory<'_>,
    written: impl Fn(&str) -> bool,
) -> Result<(), String> {
    for expected in case
        .values
        .iter()
        .filter(|expected| written(&expected.role))
    {
        values(case, memory, expected).map_err(|wrong| format!("{}{wrong}", expected.role))?;
    }
    for &(buffer, offset) in &case.same {
        let actual = memory.bytes(buffer);
        let expected = &case.bytes[offset..offset + actual.len()];
        if let Some(i) = (0..actual.len()).find(|&i| actual[i] != expected[i]) {
            return Err(format!(
                "byte {i} of buffer {buffer} is {:#04x}, expected {:#04x}",
                actual[i], expected[i]
            ));
        }
    }
    Ok(())
}

fn values(case: &Case, memory: &Memory<'_>, expected: &Values) -> Result<(), String> {
    let tensor = case
        .tensor(&expected.role)
        .ok_or(" is expected, but not there")?;
    let (view, bytes) = (&tensor.view, memory.bytes(tensor.buffer));
    let [batch, heads, rows, columns] = view.shape.map(|n| n as usize);
    let mut next = expected.offset;
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        let (mut squares, mut counted) = (0.0, 0usize);
        for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
            let wanted = element(&case.bytes, next, sys::MFA_PRECISION_FP32);
            let found = element(bytes, place(view, [b, h, r, c]), view.precision);
            let error = (found - wanted).abs();
            let right = if wanted.is_nan() {
                found.is_nan()
            } else if wanted.is_infinite() {
                found == wanted
            } else {
                error <= expected.max
            };
            if !right {
                return Err(format!(
                    "[{b},{h},{r},{c}] is {found}, expected {wanted}, error allowed {:.3e}",
                    expected.max
                ));
            }
            if wanted.is_finite() {
                squares += error * error;
                counted += 1;
            }
            next += 4;
        }
        let rms = (squares / counted.max(1) as f64).sqrt();
        if rms > expected.rms {
            return Err(format!(
                " of head [{b},{h}] has an RMS error of {rms:.3e}, allowed {:.3e}",
                expected.rms
            ));
        }
    }
    Ok(())
}

/// Inputs are as they were; rooms are 0xFF outside the tensors in them, or everywhere after a refusal.
pub(crate) fn untouched(case: &Case, memory: &Memory<'_>) -> Result<(), String> {
    let refused = case.status != sys::MFA_SUCCESS;
    for (number, buffer) in case.buffers.iter().enumerate() {
        let known = case.same.iter().any(|&(same, _)| same == number);
        if buffer.data.is_none() && known && !refused {
            continue;
        }
        let mut own = vec![false; buffer.size];
        if buffer.data.is_none() && !refused {
            let here = case
                .tensors
                .iter()
                .filter(|(_, tensor)| tensor.buffer == number);
            here.for_each(|(_, tensor)| mark(&tensor.view, &mut own));
        }
        let before = |i: usize| buffer.data.map_or(0xFF, |offset| case.bytes[offset + i]);
        let bytes = memory.bytes(number);
        if let Some(i) = (0..buffer.size).find(|&i| !own[i] && bytes[i] != before(i)) {
            return Err(format!(
                "byte {i} of buffer {number} was changed; it belongs to no tensor of this call"
            ));
        }
    }
    Ok(())
}

/// Marks the bytes that belong to elements of a view.
fn mark(view: &sys::mfa_tensor, own: &mut [bool]) {
    let [batch, heads, rows, columns] = view.shape.map(|n| n as usize);
    let width = bits(view.precision).div_ceil(8);
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
            let at = place(view, [b, h, r, c]);
            own[at..at + width].fill(true);
        }
    }
}

/// What `mfa_quantize` reports.
pub(crate) fn report(
    case: &Case,
    found: Option<&sys::mfa_quantization_error>,
) -> Result<(), String> {
    let (Some(expected), Some(found)) = (case.report, found) else {
        return Ok(());
    };
    let names = ["rmse", "relative_rmse", "max_abs", "worst_row_rmse"];
    let found = [
        found.rmse,
        found.relative_rmse,
        found.max_abs,
        found.worst_row_rmse,
    ];
    for ((name, found), expected) in names.iter().zip(found).zip(expected) {
        if (found - expected).abs() > 1e-4 * expected.abs() || found.is_nan() {
            return Err(format!(
                "reported {name} is {found:e}, expected {expected:e}"
            ));
        }
    }
    Ok(())
}

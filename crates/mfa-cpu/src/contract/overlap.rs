//! Tests whether two views share an element.

#![forbid(unsafe_code)]

use crate::contract::tensor::Tensor;
use crate::error::{Result, ensure};

/// Demands that none of `results` shares an element with another one, or with any of `operands`.
pub(crate) fn expect_apart(
    results: &[(Option<&Tensor>, &str)],
    operands: &[(Option<&Tensor>, &str)],
) -> Result<()> {
    for (i, (result, what)) in results.iter().enumerate() {
        let Some(result) = result else { continue };
        for (other, name) in results[i + 1..].iter().chain(operands) {
            let Some(other) = other else { continue };
            ensure!(
                !shared(result, other),
                argument,
                "{what}: shares elements with {name}; expected memory of its own"
            );
        }
    }
    Ok(())
}

/// Steps of the search, at most. Usual views need a few. Undecided ones pass: the caller promises that they share nothing.
const STEPS: usize = 10_000;

/// One term of the distance between two elements: any of `low..=high` times `stride`.
struct Term {
    stride: i128,
    low: i128,
    high: i128,
}

/// Whether `a` and `b` share an element. Exact for views that nest their dimensions, as Q, K and V of one packed buffer do:
/// there the bytes between first and last element overlap, and the elements do not.
pub(crate) fn shared(a: &Tensor, b: &Tensor) -> bool {
    if !a.has_memory() || !b.has_memory() {
        return false;
    }
    let (Some(bytes_a), Some(bytes_b)) = (span(a), span(b)) else {
        return false;
    };
    if bytes_a.1 <= bytes_b.0 || bytes_b.1 <= bytes_a.0 {
        return false;
    }
    if a.precision.bits() != b.precision.bits() {
        return true;
    }
    let bytes = a.precision.bytes() as i128;
    let distance = bytes_b.0 as i128 - bytes_a.0 as i128;
    if distance % bytes != 0 {
        return true;
    }
    let mut terms = Vec::with_capacity(8);
    for axis in 0..4 {
        let (na, nb) = (a.shape[axis] as i128 - 1, b.shape[axis] as i128 - 1);
        let (sa, sb) = (a.strides[axis] as i128, b.strides[axis] as i128);
        if sa == sb {
            add(&mut terms, sa, -nb, na);
        } else {
            add(&mut terms, sa, 0, na);
            add(&mut terms, sb, -nb, 0);
        }
    }
    terms.sort_by_key(|term| std::cmp::Reverse(term.stride));
    let mut steps = STEPS;
    reaches(&terms, distance / bytes, &mut steps)
}

fn add(terms: &mut Vec<Term>, stride: i128, low: i128, high: i128) {
    if stride != 0 && low != high {
        terms.push(Term { stride, low, high });
    }
}

/// First byte and the byte after the last; `None` without elements.
fn span(tensor: &Tensor) -> Option<(usize, usize)> {
    if tensor.shape.contains(&0) {
        return None;
    }
    let last: usize = (0..4)
        .map(|axis| (tensor.shape[axis] - 1) * tensor.strides[axis])
        .sum();
    let start = tensor.ptr as usize;
    Some((
        start,
        start + ((last + 1) * tensor.precision.bits()).div_ceil(8),
    ))
}

/// Whether some choice of the terms adds up to `distance`.
fn reaches(terms: &[Term], distance: i128, steps: &mut usize) -> bool {
    let Some((term, rest)) = terms.split_first() else {
        return distance == 0;
    };
    let (least, most) = rest.iter().fold((0, 0), |(least, most), t| {
        (least + t.low * t.stride, most + t.high * t.stride)
    });
    let from = (distance - most + term.stride - 1).div_euclid(term.stride);
    let to = (distance - least).div_euclid(term.stride);
    for n in from.max(term.low)..=to.min(term.high) {
        if *steps == 0 {
            return false;
        }
        *steps -= 1;
        if reaches(rest, distance - n * term.stride, steps) {
            return true;
        }
    }
    false
}

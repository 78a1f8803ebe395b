//! Operands in real numbers.

use mfa_sys as sys;

use crate::array::indices;
use crate::{Arithmetic, Array};

/// An operand of attention in real numbers.
#[derive(Clone, Debug)]
pub struct Operand {
    /// One of `MFA_PRECISION_*`.
    pub precision: i32,
    /// For integers: the scale of each element, apart from the integer less its zero point.
    pub scales: Option<Array>,
    /// Real numbers, or with `scales` integers less their zero points: `[batch, heads, rows, columns]`.
    pub elements: Array,
    /// Whether the integers are stored rotated by [`hadamard`].
    pub rotated: bool,
    /// `[batch, heads, 1, columns]`, added after scaling and rotating back.
    pub mean: Option<Array>,
    /// `[batch, heads, rows, 1]`, where each row of integers has one scale of its own or its block's.
    pub row_scales: Option<Array>,
    /// For the clip option: whether an element is stored inside the quantized range.
    pub inside: Option<Vec<bool>>,
}

impl Operand {
    /// Numbers that are stored as they are.
    pub fn plain(precision: i32, elements: Array) -> Self {
        Operand {
            precision,
            scales: None,
            elements,
            rotated: false,
            mean: None,
            row_scales: None,
            inside: None,
        }
    }

    /// Whether it is stored in integers.
    pub fn is_quantized(&self) -> bool {
        matches!(
            self.precision,
            sys::MFA_PRECISION_INT8 | sys::MFA_PRECISION_INT4
        )
    }

    /// Computes the real values: scale · (n - zero point), rotated back, plus the mean.
    ///
    /// Disturbed arithmetic takes the mean along through the rotation, as a driver may that works in the rotated basis.
    pub(crate) fn real(&self, a: &Arithmetic) -> Array {
        let mut real = self.elements.clone();
        let Some(scales) = &self.scales else {
            return real;
        };
        let scaled = real.values.iter_mut().zip(&scales.values);
        scaled.for_each(|(x, scale)| *x = a.r(*x * scale));
        let add = |real: &mut Array, mean: &Array| {
            for at in indices(real.shape) {
                real.set(at, a.r(real.at(at) + mean.at(at)));
            }
        };
        match &self.mean {
            Some(mean) if self.rotated && matches!(a, Arithmetic::Disturbed(_)) => {
                let mut mean = mean.clone();
                rotate(a, &mut mean);
                add(&mut real, &mean);
                rotate(a, &mut real);
            }
            mean => {
                if self.rotated {
                    rotate(a, &mut real);
                }
                if let Some(mean) = mean {
                    add(&mut real, mean);
                }
            }
        }
        real
    }

    /// Zeroes a gradient, in the basis in which the operand is stored, where an element ends the quantized range.
    pub(crate) fn clip(&self, gradient: &mut Array) {
        let Some(inside) = &self.inside else { return };
        let rotate = |gradient: &mut Array| {
            if self.rotated {
                rotate(&Arithmetic::Float64, gradient);
            }
        };
        rotate(gradient);
        let clipped = gradient.values.iter_mut().zip(inside);
        clipped
            .filter(|(_, inside)| !**inside)
            .for_each(|(x, _)| *x = 0.0);
        rotate(gradient);
    }
}

fn rotate(a: &Arithmetic, array: &mut Array) {
    let rows = array.values.chunks_mut(array.shape[3].max(1));
    rows.for_each(|row| hadamard(a, row));
}

/// Multiplies a row by Sylvester matrices of the largest power of two that divides its length, orthonormal.
pub fn hadamard(a: &Arithmetic, row: &mut [f64]) {
    let size = row.len() & row.len().wrapping_neg();
    for block in row.chunks_mut(size) {
        let mut half = 1;
        while half < size {
            for pair in block.chunks_mut(2 * half) {
                let (first, second) = pair.split_at_mut(half);
                for (x, y) in first.iter_mut().zip(second) {
                    (*x, *y) = (a.r(*x + *y), a.r(*x - *y));
                }
            }
            half *= 2;
        }
        block
            .iter_mut()
            .for_each(|x| *x = a.r(*x / (size as f64).sqrt()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fast transform is the matrix of `mfa.h`: entry (i, j) is (-1)^popcount(i & j) / sqrt(n).
    #[test]
    fn hadamard_follows_its_definition() {
        for columns in [1usize, 2, 6, 8, 24, 64] {
            let size = 1usize << columns.trailing_zeros();
            let row: Vec<f64> = (0..columns).map(|i| (i as f64 * 1.7).sin()).collect();
            let mut fast = row.clone();
            hadamard(&Arithmetic::Float64, &mut fast);
            for (n, x) in fast.iter().enumerate() {
                let (first, i) = (n / size * size, n % size);
                let sign = |j: usize| {
                    if (i & j).count_ones().is_multiple_of(2) {
                        1.0
                    } else {
                        -1.0
                    }
                };
                let sum: f64 = (0..size).map(|j| sign(j) * row[first + j]).sum();
                assert!((x - sum / (size as f64).sqrt()).abs() < 1e-14);
            }
        }
    }
}

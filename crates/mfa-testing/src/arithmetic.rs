//! The arithmetics in which the plain formulas are evaluated: float64, FP32 rounded to nearest, and float64 disturbed.
//!
//! Where FP32 would round, the last adds a random error as large as that of a rounding. The spread of some such runs is the
//! error to be expected of any order of operations; it stands in for a naive error that is small by luck.

use std::cell::Cell;

use mfa_sys as sys;

use crate::Random;

/// How the plain formulas are evaluated.
#[derive(Clone, Debug)]
pub enum Arithmetic {
    /// Nothing is rounded.
    Float64,
    /// Products, sums and stored intermediates are FP32, in one of [`Arithmetic::ORDERS`] orders of summation.
    Nearest(usize),
    /// As much noise as FP32 has, from a state of [`Random`].
    Disturbed(Cell<u64>),
}

/// Bits after the leading one, and the exponent of the smallest number.
fn format(precision: i32) -> (i32, i32) {
    match precision {
        sys::MFA_PRECISION_FP16 => (10, -24),
        sys::MFA_PRECISION_BF16 => (7, -133),
        _ => (23, -149),
    }
}

impl Arithmetic {
    /// Orders of summation that [`Arithmetic::Nearest`] knows.
    pub const ORDERS: usize = 4;

    /// Whether nothing is rounded.
    pub(crate) fn is_exact(&self) -> bool {
        matches!(self, Arithmetic::Float64)
    }

    /// Rounds to a multiple of `step`.
    pub(crate) fn to_step(&self, x: f64, step: f64) -> f64 {
        match self {
            Arithmetic::Float64 => x,
            Arithmetic::Nearest(_) => (x / step).round_ties_even() * step,
            Arithmetic::Disturbed(state) => {
                let mut random = Random(state.get());
                let x = x + step * (random.unit() - 0.5);
                state.set(random.0);
                x
            }
        }
    }

    /// Rounds to a floating-point precision.
    pub(crate) fn to_precision(&self, x: f64, precision: i32) -> f64 {
        let (bits, smallest) = format(precision);
        self.to_bits(x, bits, smallest)
    }

    /// Rounds to `bits` bits after the leading one, or to multiples of 2^`smallest`.
    pub(crate) fn to_bits(&self, x: f64, bits: i32, smallest: i32) -> f64 {
        if x == 0.0 || !x.is_finite() {
            return x;
        }
        let smallest = power(smallest);
        let step = if let Arithmetic::Disturbed(_) = self {
            // A unit of typical size for numbers like x, whatever its mantissa: its mean square over logarithmically
            // uniform mantissas. A driver that works in base 2, say, rounds other numbers.
            x.abs() * power(-bits) * (3.0 / (8.0 * 2f64.ln())).sqrt()
        } else {
            let exponent = ((x.to_bits() >> 52) & 0x7FF) as i32 - 1023;
            power(exponent - bits)
        };
        self.to_step(x, step.max(smallest))
    }

    /// Rounds a result to FP32.
    pub(crate) fn r(&self, x: f64) -> f64 {
        match self {
            Arithmetic::Float64 => x,
            // What the processor rounds by itself; beyond its range, no result is infinite here.
            Arithmetic::Nearest(_) if x.abs() <= f64::from(f32::MAX) => f64::from(x as f32),
            _ => self.to_precision(x, sys::MFA_PRECISION_FP32),
        }
    }

    /// e^x in FP32.
    pub(crate) fn exp(&self, x: f64) -> f64 {
        self.r(x.exp())
    }

    /// Rounds a computed factor to the precision of the stored factor beside it.
    pub(crate) fn beside(&self, x: f64, partner: i32) -> f64 {
        match partner {
            sys::MFA_PRECISION_FP16 | sys::MFA_PRECISION_BF16 if !self.is_exact() => {
                self.to_precision(x, partner)
            }
            _ => x,
        }
    }

    /// Rounds a result to the precision in which it is stored.
    pub(crate) fn stored(&self, x: f64, precision: i32) -> f64 {
        if self.is_exact() {
            x
        } else {
            self.to_precision(x, precision)
        }
    }

    /// The order in which `n` terms are summed.
    pub(crate) fn order(&self, n: usize) -> Vec<usize> {
        match self {
            Arithmetic::Nearest(1) => (0..n).rev().collect(),
            Arithmetic::Nearest(2) => (0..n).step_by(2).chain((1..n).step_by(2)).collect(),
            Arithmetic::Nearest(3) => (n / 2..n).chain(0..n / 2).collect(),
            _ => (0..n).collect(),
        }
    }

    /// The sum of `n` terms, one after the other, in the order of this arithmetic.
    pub(crate) fn sum(&self, n: usize, term: impl Fn(usize) -> f64) -> f64 {
        let add = |sum, i| self.r(sum + self.r(term(i)));
        match self {
            Arithmetic::Float64 => (0..n).fold(0.0, |sum, i| sum + term(i)),
            Arithmetic::Nearest(1) => (0..n).rev().fold(0.0, add),
            Arithmetic::Nearest(2) => (0..n).step_by(2).chain((1..n).step_by(2)).fold(0.0, add),
            Arithmetic::Nearest(3) => (n / 2..n).chain(0..n / 2).fold(0.0, add),
            _ => (0..n).fold(0.0, add),
        }
    }

    /// The scalar product of two rows.
    pub(crate) fn dot(&self, x: &[f64], y: &[f64]) -> f64 {
        self.sum(x.len(), |i| x[i] * y[i])
    }

    /// Adds `x` times a row to a row of sums.
    pub(crate) fn add_scaled(&self, sums: &mut [f64], x: f64, row: &[f64]) {
        let pairs = sums.iter_mut().zip(row);
        if self.is_exact() {
            pairs.for_each(|(sum, y)| *sum += x * y);
        } else {
            pairs.for_each(|(sum, y)| *sum = self.r(*sum + self.r(x * y)));
        }
    }
}

/// 2^`exponent`, or the smallest normal number, which is below every step.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023).max(1) as u64) << 52)
}

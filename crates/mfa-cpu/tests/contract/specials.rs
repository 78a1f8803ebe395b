//! NaN, infinities and the ends of the range, on sizes of several strips and panels, in every float precision.

use half::{bf16, f16};
use mfa_sys as sys;

use crate::legal::{session, tensor};

const ROWS: usize = 40;
const KEYS: usize = 70;
const D: usize = 64;

/// One head, operands by element.
struct Case {
    precision: i32,
    causal: bool,
    scale: Option<f32>,
    query: fn(usize, usize) -> f32,
    key: fn(usize, usize) -> f32,
    value: fn(usize, usize) -> f32,
}

const PLAIN: Case = Case {
    precision: sys::MFA_PRECISION_FP32,
    causal: false,
    scale: None,
    query: |_, _| 1.0,
    key: |_, _| 0.0,
    value: |j, _| j as f32,
};

/// Every precision of floats.
const FLOATS: [i32; 3] = [
    sys::MFA_PRECISION_FP32,
    sys::MFA_PRECISION_FP16,
    sys::MFA_PRECISION_BF16,
];

impl Case {
    /// O, FP32.
    fn run(&self) -> Vec<f32> {
        let session = session();
        let operand = |rows: usize, at: fn(usize, usize) -> f32| {
            let mut tensor = tensor(&session, [1, 1, rows as u64, D as u64]);
            tensor.precision = self.precision;
            let bytes = session.bytes(tensor.buffer);
            for i in 0..rows * D {
                let x = at(i / D, i % D);
                match self.precision {
                    sys::MFA_PRECISION_FP32 => {
                        bytes[4 * i..][..4].copy_from_slice(&x.to_le_bytes())
                    }
                    sys::MFA_PRECISION_FP16 => {
                        bytes[2 * i..][..2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
                    }
                    _ => bytes[2 * i..][..2].copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
                }
            }
            tensor
        };
        let mut options = sys::mfa_attention_options::new();
        if self.causal {
            options.flags |= sys::MFA_OPTION_CAUSAL;
        }
        if let Some(scale) = self.scale {
            options.flags |= sys::MFA_OPTION_SCALE;
            options.softmax_scale = scale;
        }
        let desc = sys::mfa_forward_desc {
            query: operand(ROWS, self.query),
            key: operand(KEYS, self.key),
            value: operand(KEYS, self.value),
            output: tensor(&session, [1, 1, ROWS as u64, D as u64]),
            options: &options,
            ..sys::mfa_forward_desc::new()
        };
        let status = session.forward(&desc);
        assert_eq!(status, sys::MFA_SUCCESS, "{}", session.message());
        session
            .bytes(desc.output.buffer)
            .chunks_exact(4)
            .map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]]))
            .collect()
    }

    /// Checks O against `want`, row and column, in every precision.
    #[track_caller]
    fn expect(self, want: impl Fn(usize, usize) -> f32) {
        for precision in FLOATS {
            let got = Case { precision, ..self }.run();
            for (at, got) in got.into_iter().enumerate() {
                let want = want(at / D, at % D);
                let same = got == want || got.is_nan() && want.is_nan();
                let near = (got - want).abs() <= 2e-3 * want.abs();
                assert!(
                    same || near,
                    "precision {precision}, row {}, column {}: {got}, expected {want}",
                    at / D,
                    at % D
                );
            }
        }
    }
}

/// The mean of the values of all keys but `without`.
fn mean(without: usize) -> f32 {
    let keys = (0..KEYS).filter(|&j| j != without);
    keys.clone().sum::<usize>() as f32 / keys.count() as f32
}

/// The score is -infinity, and the weight 0, however many parts the query is split into: most of them are 0.
#[test]
fn an_infinite_key_may_weigh_nothing() {
    Case {
        key: |j, c| {
            if (j, c) == (33, 5) {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        },
        ..PLAIN
    }
    .expect(|_, _| mean(33));
    // As many columns of infinities as there can be.
    Case {
        key: |j, _| if j == 33 { f32::NEG_INFINITY } else { 0.0 },
        ..PLAIN
    }
    .expect(|_, _| mean(33));
}

#[test]
fn an_infinite_query_spoils_its_row() {
    Case {
        query: |i, c| {
            if (i, c) == (35, 0) {
                f32::INFINITY
            } else {
                1.0
            }
        },
        key: |j, c| if c == 0 { 1.0 + j as f32 / 128.0 } else { 0.0 },
        value: |_, _| 3.0,
        ..PLAIN
    }
    .expect(|i, _| if i == 35 { f32::NAN } else { 3.0 });
}

#[test]
fn infinities_of_values_stay_infinities() {
    Case {
        value: |j, c| {
            if (j, c) == (20, 7) {
                f32::INFINITY
            } else {
                1.0
            }
        },
        ..PLAIN
    }
    .expect(|_, c| if c == 7 { f32::INFINITY } else { 1.0 });
    // The infinity does not reach rows whose key range ends before the key.
    Case {
        causal: true,
        value: |j, c| {
            if (j, c) == (20, 7) {
                f32::NEG_INFINITY
            } else {
                1.0
            }
        },
        ..PLAIN
    }
    .expect(|i, c| {
        if i >= 20 && c == 7 {
            f32::NEG_INFINITY
        } else {
            1.0
        }
    });
}

#[test]
fn nan_reaches_what_uses_it() {
    Case {
        causal: true,
        key: |j, c| if (j, c) == (20, 63) { f32::NAN } else { 0.0 },
        value: |_, _| 2.0,
        ..PLAIN
    }
    .expect(|i, _| if i >= 20 { f32::NAN } else { 2.0 });
    Case {
        causal: true,
        value: |j, c| if (j, c) == (20, 63) { f32::NAN } else { 2.0 },
        ..PLAIN
    }
    .expect(|i, c| if i >= 20 && c == 63 { f32::NAN } else { 2.0 });
}

#[test]
fn any_finite_scale_is_applied() {
    // Equal scores: equal weights.
    for scale in [0.0, -0.5, 1e-30] {
        Case {
            scale: Some(scale),
            ..PLAIN
        }
        .expect(|_, _| mean(KEYS));
    }
    // Of scores of opposite signs the smaller weighs more, if the scale is negative.
    Case {
        scale: Some(-100.0),
        key: |j, _| if j == 9 { -1.0 } else { 1.0 },
        ..PLAIN
    }
    .expect(|_, _| 9.0);
}

/// What rounds to infinity in BF16 does not in three of them.
#[test]
fn the_largest_numbers_stay_finite() {
    const LARGE: f32 = f32::from_bits(0x7f7f_8000);
    let got = Case {
        query: |_, _| 1e-36,
        key: |j, _| if j == 3 { f32::MAX } else { 0.0 },
        value: |j, _| if j == 3 { LARGE } else { 0.0 },
        scale: Some(1.0),
        ..PLAIN
    }
    .run();
    // Scores of about 64 * 340 and 0.
    for x in got {
        assert!((x / LARGE - 1.0).abs() < 1e-6, "{x:e}");
    }
}

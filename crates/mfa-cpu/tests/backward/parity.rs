//! The driver against the plain formulas in f64.
//!
//! Rule: an error is at most three times the larger of two: that of the plain formulas in f32, and half a unit in the last
//! place of what is added up (a small sum can be right in f32 by luck). It holds for the largest error, and for the root
//! mean square of each head. As everywhere in the project, the plain formulas take P and dS in the precision of the stored
//! factor beside them.

use proptest::prelude::*;

use crate::case::{Case, Storage, any_case};
use crate::reference::Real;
use crate::run::{Operand, Prepared};
use crate::session::Session;

const FACTOR: f64 = 3.0;
const HALF_UNIT: f64 = 0.5 * f32::EPSILON as f64;

/// Largest magnitude, and largest root mean square of a head.
fn norms(x: &[f64], shape: [usize; 4]) -> [f64; 2] {
    let head = (shape[2] * shape[3]).max(1);
    let rms = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
    [
        x.iter().fold(0.0, |top, x| x.abs().max(top)),
        x.chunks(head).map(rms).fold(0.0, f64::max),
    ]
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// What the clip option leaves of a gradient.
fn clipped(mut gradient: Real, operand: &Operand, clip: bool) -> Real {
    let (Some(inside), true) = (&operand.inside, clip) else {
        return gradient;
    };
    let columns = gradient.shape[3];
    for (row, inside) in gradient
        .values
        .chunks_mut(columns)
        .zip(inside.chunks(columns))
    {
        let turn = |row: &mut [f64]| {
            if operand.rotated {
                rotate(row);
            }
        };
        turn(row);
        row.iter_mut()
            .zip(inside)
            .filter(|(_, inside)| !**inside)
            .for_each(|(x, _)| *x = 0.0);
        turn(row);
    }
    gradient
}

/// The Hadamard rotation of mfa.h, by its definition.
fn rotate(row: &mut [f64]) {
    let size = 1usize << row.len().trailing_zeros();
    for block in row.chunks_mut(size) {
        let old = block.to_vec();
        for (i, x) in block.iter_mut().enumerate() {
            let sum: f64 = old
                .iter()
                .enumerate()
                .map(|(j, y)| {
                    if (i & j).count_ones() % 2 == 0 {
                        *y
                    } else {
                        -y
                    }
                })
                .sum();
            *x = sum / (size as f64).sqrt();
        }
    }
}

fn compare(
    found: &[f64],
    exact: &Real,
    naive: &Real,
    size: &Real,
    what: &str,
) -> Result<(), String> {
    assert_eq!(found.len(), exact.values.len());
    let error = norms(&minus(found, &exact.values), exact.shape);
    let naive = norms(&minus(&naive.values, &exact.values), exact.shape);
    let size = norms(&size.values, exact.shape);
    for (i, norm) in ["largest", "root mean square"].iter().enumerate() {
        let bound = FACTOR * naive[i].max(HALF_UNIT * size[i]);
        // The largest of some numbers and NaN is a number.
        if error[i] > bound || found.iter().any(|x| x.is_nan()) {
            return Err(format!(
                "{what}: {norm} error {:.3e}, allowed {bound:.3e}",
                error[i]
            ));
        }
    }
    Ok(())
}

pub(crate) fn check(case: &Case) -> Result<(), String> {
    let session = Session::new(case.threads);
    let prepared = Prepared::new(&session, case);
    let (setup, output) = (&prepared.setup, prepared.output.as_ref());
    let l = &prepared.logsumexp;
    let (exact, size) = setup.exact(l, output);
    let naive = setup.backward::<f32>(l, output, None);
    let found = prepared.run();
    let [q, k, v] = &prepared.operands;
    let clip = |gradient: Real, operand: &Operand| clipped(gradient, operand, case.clip);
    let parts = [
        (
            &found.query,
            clip(exact.query, q),
            clip(naive.query, q),
            size.query,
            "query",
        ),
        (
            &found.key,
            clip(exact.key, k),
            clip(naive.key, k),
            size.key,
            "key",
        ),
        (
            &found.value,
            clip(exact.value, v),
            clip(naive.value, v),
            size.value,
            "value",
        ),
        (
            &found.d_values,
            exact.d_values,
            naive.d_values,
            size.d_values,
            "d_values",
        ),
    ];
    for (found, exact, naive, size, what) in parts {
        compare(found, &exact, &naive, &size, what)?;
    }
    if let Some(found) = &found.mask {
        let part = |real: Option<Real>| real.unwrap();
        compare(
            found,
            &part(exact.mask),
            &part(naive.mask),
            &part(size.mask),
            "mask",
        )?;
    }
    if let Some(found) = &found.sinks {
        let part = |real: Option<Real>| real.unwrap();
        compare(
            found,
            &part(exact.sinks),
            &part(naive.sinks),
            &part(size.sinks),
            "sinks",
        )?;
    }
    Ok(())
}

/// At least 300 cases; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(300),
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_options(case in any_case()) {
        if let Err(message) = check(&case) {
            return Err(TestCaseError::fail(message));
        }
    }
}

/// Long enough for every kind of block to be whole, cut and skipped.
#[test]
fn over_blocks() {
    let plain = Case {
        nq: 530,
        nk: 410,
        d: 64,
        dv: 64,
        group: 2,
        kv_heads: 1,
        ..Case::small()
    };
    let options: [fn(&mut Case); 6] = [
        |_| {},
        |c| c.causal = true,
        |c| (c.causal, c.bottom_right, c.threads) = (true, true, 4),
        |c| (c.window, c.give_output) = (Some((100, 20)), false),
        |c| (c.mask, c.threads) = (Some(("fp16", 0b1011)), 3),
        |c| (c.dv, c.two_calls) = (40, true),
    ];
    for option in options {
        let mut case = plain.clone();
        option(&mut case);
        check(&case).unwrap_or_else(|message| panic!("{case:?}: {message}"));
    }
}

/// The same of operands that are multiplied as they are stored: their blocks of keys are longer.
#[test]
fn over_blocks_of_short_floats() {
    for (precision, causal) in [("bf16", false), ("bf16", true), ("fp16", true)] {
        let case = Case {
            nq: 290,
            nk: 1100,
            d: 48,
            dv: 32,
            kv_heads: 1,
            storage: [0; 3].map(|_| Storage::Float(precision)),
            grad: precision,
            causal,
            bottom_right: true,
            threads: 2,
            ..Case::small()
        };
        check(&case).unwrap_or_else(|message| panic!("{case:?}: {message}"));
    }
}

//! The error rule, as `tests/conformance/reference/errorrule.py` has it: an error is at most a factor times the larger of
//! *naive* and *noise*, in the largest error of an element and in the largest root mean square of a head.
//!
//! *Naive* is the error of the plain formula in the operands' precision with FP32 sums, the largest over some orders of
//! summation. *Noise* is the naive error to be expected, from runs in [`Arithmetic::Disturbed`]: three standard deviations
//! of the worst element, and for a head of few rows what their errors may reach.

use std::cell::Cell;

use crate::{Arithmetic, Array, Forward, Given, Gradients, Problem};

/// The factor for O and logsumexp.
pub const FORWARD_FACTOR: f64 = 2.0;
/// The factor for gradients and D.
pub const GRADIENT_FACTOR: f64 = 3.0;

/// Both norms of an error.
#[derive(Clone, Copy, Debug, Default)]
struct Norms {
    max: f64,
    rms: f64,
}

impl Norms {
    /// Of errors, over the elements whose expected value is finite.
    fn of(errors: &[f64], expected: &Array) -> Self {
        let head = (expected.shape[2] * expected.shape[3]).max(1);
        let mut norms = Self::default();
        for (errors, expected) in errors.chunks(head).zip(expected.values.chunks(head)) {
            let finite = || (errors.iter().zip(expected)).filter(|(_, x)| x.is_finite());
            let squares: f64 = finite().map(|(e, _)| e * e).sum();
            let rms = (squares / finite().count().max(1) as f64).sqrt();
            norms.rms = norms.rms.max(rms);
            norms.max = finite().fold(norms.max, |most, (e, _)| most.max(e.abs()));
        }
        norms
    }

    fn or(self, other: Self) -> Self {
        Self {
            max: self.max.max(other.max),
            rms: self.rms.max(other.rms),
        }
    }

    fn within(self, factor: f64, allowed: Self) -> bool {
        self.max <= factor * allowed.max && self.rms <= factor * allowed.rms
    }
}

/// A result of the driver, with what is known of its bound so far.
struct Checked<'a> {
    name: &'a str,
    /// Its place among the results of an evaluation.
    which: usize,
    found: &'a Array,
    expected: &'a Array,
    error: Norms,
    naive: Norms,
    /// Of each element, in disturbed arithmetic.
    variance: Vec<f64>,
}

impl<'a> Checked<'a> {
    fn new(
        which: usize,
        name: &'a str,
        found: &'a Array,
        expected: &'a Array,
    ) -> Result<Self, String> {
        if found.shape != expected.shape {
            return Err(format!(
                "{name}: shape {:?}, expected {:?}",
                found.shape, expected.shape
            ));
        }
        for (i, (found, expected)) in found.values.iter().zip(&expected.values).enumerate() {
            let right = if expected.is_finite() {
                found.is_finite()
            } else {
                found == expected || found.is_nan() && expected.is_nan()
            };
            if !right {
                return Err(format!(
                    "{name}: element {i} is {found}, expected {expected}"
                ));
            }
        }
        Ok(Checked {
            name,
            which,
            error: Norms::of(&differences(found, expected), expected),
            found,
            expected,
            naive: Norms::default(),
            variance: vec![0.0; expected.values.len()],
        })
    }

    fn failure(&self, factor: f64, noise: Norms) -> String {
        let errors = differences(self.found, self.expected);
        let finite = (0..errors.len()).filter(|i| self.expected.values[*i].is_finite());
        let worst = finite.max_by(|i, j| errors[*i].abs().total_cmp(&errors[*j].abs()));
        let worst = worst.unwrap_or(0);
        format!(
            "{}: {:?}, allowed {factor} times the larger of {:?} and noise {noise:?}; element {worst} is {}, expected {}",
            self.name,
            self.error,
            self.naive,
            self.found.values[worst],
            self.expected.values[worst]
        )
    }
}

/// Found less expected; 0 where that is no number.
fn differences(found: &Array, expected: &Array) -> Vec<f64> {
    let pairs = found.values.iter().zip(&expected.values);
    pairs
        .map(|(found, expected)| found - expected)
        .map(|x| if x.is_finite() { x } else { 0.0 })
        .collect()
}

/// What the errors of few rows may reach, given the variance of each element: three deviations of the worst element, and
/// over a head 1 + 8/n variances, where n of its rows matter. The elements of a row share the errors of P, so n is (sum of
/// variances)² / sum of squared variances of the rows, which is their number if all are alike.
fn few_rows(variance: &[f64], expected: &Array) -> Norms {
    let [_, _, rows, columns] = expected.shape;
    let mut norms = Norms::default();
    let size = (rows * columns).max(1);
    for (head, expected) in variance.chunks(size).zip(expected.values.chunks(size)) {
        let of_row = |row: &[f64]| row.iter().sum::<f64>();
        let variances: Vec<f64> = head.chunks(columns.max(1)).map(of_row).collect();
        let total: f64 = variances.iter().sum();
        let squares: f64 = variances.iter().map(|x| x * x).sum();
        if squares > 0.0 {
            let matter = total * total / squares;
            let mean = total / expected.iter().filter(|x| x.is_finite()).count() as f64;
            norms.rms = norms.rms.max((mean * (1.0 + 8.0 / matter)).sqrt());
        }
        norms.max = head
            .iter()
            .fold(norms.max, |most, x| most.max(3.0 * x.sqrt()));
    }
    norms
}

/// Checks results against the rule. `evaluate` gives the results of the plain formula in an arithmetic; it is asked only
/// until the bound is known to be large enough.
fn check(
    factor: f64,
    rows: usize,
    mut pending: Vec<Checked<'_>>,
    evaluate: impl Fn(&Arithmetic) -> Vec<Option<Array>>,
) -> Result<(), String> {
    for order in 0..Arithmetic::ORDERS {
        if pending.is_empty() {
            return Ok(());
        }
        let naive = evaluate(&Arithmetic::Nearest(order));
        for checked in &mut pending {
            if let Some(naive) = &naive[checked.which] {
                let errors = differences(naive, checked.expected);
                checked.naive = checked.naive.or(Norms::of(&errors, checked.expected));
            }
        }
        pending.retain(|checked| !checked.error.within(factor, checked.naive));
    }
    if pending.is_empty() {
        return Ok(());
    }
    // More often where few rows tell of their spread.
    let runs = (120 / rows.max(1) as u64).clamp(6, 40);
    for seed in 0..runs {
        let disturbed = evaluate(&Arithmetic::Disturbed(Cell::new(seed << 32)));
        for checked in &mut pending {
            if let Some(disturbed) = &disturbed[checked.which] {
                let errors = differences(disturbed, checked.expected);
                for (variance, error) in checked.variance.iter_mut().zip(errors) {
                    *variance += error * error / runs as f64;
                }
            }
        }
    }
    for checked in &pending {
        let noise = few_rows(&checked.variance, checked.expected);
        if !checked.error.within(factor, checked.naive.or(noise)) {
            return Err(checked.failure(factor, noise));
        }
    }
    Ok(())
}

/// Checks the results of a driver's forward pass against [`Problem::forward`].
pub fn forward(problem: &Problem, expected: &Forward, found: &Forward) -> Result<(), String> {
    let checked = vec![
        Checked::new(0, "output", &found.output, &expected.output)?,
        Checked::new(1, "logsumexp", &found.logsumexp, &expected.logsumexp)?,
    ];
    check(FORWARD_FACTOR, expected.output.shape[2], checked, |a| {
        let forward = problem.forward_in(a);
        vec![Some(forward.output), Some(forward.logsumexp)]
    })
}

/// Checks the gradients of a driver, which was given what is `given`, against [`Problem::backward`].
pub fn backward(
    problem: &Problem,
    given: &Given,
    expected: &Gradients,
    found: &Gradients,
) -> Result<(), String> {
    let mut checked = Vec::new();
    for (which, (found, expected)) in found.all().into_iter().zip(expected.all()).enumerate() {
        match (found, expected) {
            ((name, Some(found)), (_, Some(expected))) => {
                checked.push(Checked::new(which, name, found, expected)?);
            }
            ((_, None), (_, None)) => {}
            ((name, found), _) => {
                let found = found.is_some();
                return Err(format!("{name}: found {found}, expected {}", !found));
            }
        }
    }
    check(GRADIENT_FACTOR, given.grad_output.shape[2], checked, |a| {
        let gradients = problem.backward_in(given, a);
        gradients.all().map(|(_, array)| array.cloned()).to_vec()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Operand, Random};
    use mfa_sys as sys;

    fn problem() -> Problem {
        let mut random = Random(5);
        let mut operand = |rows| {
            Operand::plain(
                sys::MFA_PRECISION_FP32,
                Array::normal([1, 2, rows, 16], &mut random),
            )
        };
        Problem::new(operand(9), operand(20), operand(20))
    }

    #[test]
    fn the_plain_formula_keeps_the_rule() {
        let problem = problem();
        let exact = problem.forward();
        for order in 0..Arithmetic::ORDERS {
            let found = problem.forward_in(&Arithmetic::Nearest(order));
            assert_eq!(forward(&problem, &exact, &found), Ok(()));
        }
    }

    #[test]
    fn errors_of_an_element_and_of_a_head_are_found() {
        let problem = problem();
        let exact = problem.forward();
        for (step, share) in [(20, 3e-6), (1, 1e-6)] {
            let mut found = exact.clone();
            for x in found.output.values.iter_mut().step_by(step) {
                *x += share;
            }
            let wrong = forward(&problem, &exact, &found).unwrap_err();
            assert!(wrong.starts_with("output: "), "{wrong}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_compared() {
        let mut problem = problem();
        problem.value.elements.values[5] = f64::NAN;
        problem.value.elements.values[6] = f64::INFINITY;
        let exact = problem.forward();
        assert_eq!(forward(&problem, &exact, &exact.clone()), Ok(()));
        for at in [5, 6, 7] {
            let mut found = exact.clone();
            found.output.values[at] = if at == 7 { f64::NAN } else { 0.0 };
            forward(&problem, &exact, &found).unwrap_err();
        }
    }
}

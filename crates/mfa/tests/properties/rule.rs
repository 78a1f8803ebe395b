//! The error rule: at most `factor` times the error of the plain formula in the operands' precision with FP32 sums, in the
//! largest error of an element and in the largest root mean square of a head.

use std::cell::Cell;

use proptest::test_runner::TestCaseError;

use crate::arithmetic::{Arithmetic, ORDERS};
use crate::reference::{Array, Forward, Given, Gradients, Problem};

/// Runs in disturbed arithmetic: more where few rows tell of their spread.
fn runs(rows: usize) -> u64 {
    (120 / rows.max(1) as u64).clamp(6, 40)
}

#[derive(Clone, Copy, Debug, Default)]
struct Norms {
    max: f64,
    rms: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    factor: f64,
    naive: Norms,
    noise: Norms,
}

impl Norms {
    /// Of errors, over the elements whose expected value is finite.
    fn of(errors: &[f64], expected: &Array) -> Self {
        let head = (expected.shape[2] * expected.shape[3]).max(1);
        let mut norms = Self::default();
        for (errors, expected) in errors.chunks(head).zip(expected.values.chunks(head)) {
            let finite: Vec<f64> = errors
                .iter()
                .zip(expected)
                .filter(|(_, x)| x.is_finite())
                .map(|(e, _)| *e)
                .collect();
            let squares: f64 = finite.iter().map(|e| e * e).sum();
            norms.rms = norms.rms.max((squares / finite.len().max(1) as f64).sqrt());
            norms.max = finite.iter().fold(norms.max, |most, e| most.max(e.abs()));
        }
        norms
    }

    fn or(self, other: Self) -> Self {
        Self {
            max: self.max.max(other.max),
            rms: self.rms.max(other.rms),
        }
    }
}

/// What the errors of few rows may reach, given the standard deviation of each element: three deviations of the worst
/// element, and over a head 1 + 8/n variances, where n of its rows matter. The elements of a row share the errors of P, so
/// n is (sum of variances)² / sum of squared variances of the rows, which is their number if all are alike.
fn few_rows(deviation: &[f64], expected: &Array) -> Norms {
    let [_, _, rows, columns] = expected.shape;
    let mut norms = Norms::default();
    let size = (rows * columns).max(1);
    for (head, expected) in deviation.chunks(size).zip(expected.values.chunks(size)) {
        let of_row = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>();
        let variances: Vec<f64> = head.chunks(columns.max(1)).map(of_row).collect();
        let total: f64 = variances.iter().sum();
        let squares: f64 = variances.iter().map(|x| x * x).sum();
        if squares > 0.0 {
            let matter = total * total / squares;
            let mean = total / expected.iter().filter(|x| x.is_finite()).count() as f64;
            norms.rms = norms.rms.max((mean * (1.0 + 8.0 / matter)).sqrt());
        }
        norms.max = head.iter().fold(norms.max, |most, x| most.max(3.0 * x));
    }
    norms
}

fn differences(found: &Array, expected: &Array) -> Vec<f64> {
    found
        .values
        .iter()
        .zip(&expected.values)
        .map(|(found, expected)| found - expected)
        .collect()
}

impl Rule {
    fn of(factor: f64, rows: usize, expected: &Array, run: impl Fn(&Arithmetic) -> Array) -> Self {
        let naive = (0..ORDERS)
            .map(|order| {
                Norms::of(
                    &differences(&run(&Arithmetic::Nearest(order)), expected),
                    expected,
                )
            })
            .fold(Norms::default(), Norms::or);
        let mut variance = vec![0.0; expected.values.len()];
        let runs = runs(rows);
        for seed in 0..runs {
            let found = run(&Arithmetic::Disturbed(Cell::new(seed << 32)));
            for (variance, error) in variance.iter_mut().zip(differences(&found, expected)) {
                *variance += error * error / runs as f64;
            }
        }
        let deviation: Vec<f64> = variance
            .iter()
            .map(|x| if x.is_finite() { x.sqrt() } else { 0.0 })
            .collect();
        let noise = few_rows(&deviation, expected);
        Self {
            factor,
            naive,
            noise,
        }
    }

    pub(crate) fn of_forward(problem: &Problem, part: impl Fn(&Forward) -> &Array) -> Self {
        let expected = problem.forward();
        let rows = expected.output.shape[2];
        Self::of(2.0, rows, part(&expected), |a| {
            part(&problem.forward_in(a)).clone()
        })
    }

    /// One rule for each of [`Gradients::all`].
    pub(crate) fn of_backward(
        problem: &Problem,
        given: &Given,
        expected: &Gradients,
    ) -> [Option<Self>; 6] {
        let rows = given.grad_output.shape[2];
        let found: Vec<Gradients> = (0..ORDERS)
            .map(Arithmetic::Nearest)
            .chain((0..runs(rows)).map(|seed| Arithmetic::Disturbed(Cell::new(seed << 32))))
            .map(|a| problem.backward_in(given, &a))
            .collect();
        let part = |gradients: &Gradients, which: usize| gradients.all()[which].cloned();
        std::array::from_fn(|which| {
            let expected = part(expected, which)?;
            Some(Self::of(3.0, rows, &expected, |a| {
                let index = match a {
                    Arithmetic::Disturbed(seed) => ORDERS + (seed.get() >> 32) as usize,
                    Arithmetic::Nearest(order) => *order,
                    Arithmetic::Float64 => 0,
                };
                part(&found[index], which).unwrap_or_else(|| expected.clone())
            }))
        })
    }

    pub(crate) fn check(
        &self,
        what: &str,
        found: &Array,
        expected: &Array,
    ) -> Result<(), TestCaseError> {
        let fail = |text: String| Err(TestCaseError::fail(format!("{what}: {text}")));
        if found.shape != expected.shape {
            return fail(format!(
                "shape {:?}, expected {:?}",
                found.shape, expected.shape
            ));
        }
        for (i, (found, expected)) in found.values.iter().zip(&expected.values).enumerate() {
            if !expected.is_finite() && found != expected
                || expected.is_finite() && !found.is_finite()
            {
                return fail(format!("element {i} is {found}, expected {expected}"));
            }
        }
        let errors = differences(found, expected);
        let error = Norms::of(&errors, expected);
        let allowed = self.naive.or(self.noise);
        if error.max > self.factor * allowed.max || error.rms > self.factor * allowed.rms {
            let finite = (0..errors.len()).filter(|i| expected.values[*i].is_finite());
            let worst = finite.max_by(|i, j| errors[*i].abs().total_cmp(&errors[*j].abs()));
            let worst = worst.map_or(0, |i| i);
            return fail(format!(
                "{error:?}, allowed {} times {allowed:?} ({self:?}); element {worst} is {}, expected {}",
                self.factor, found.values[worst], expected.values[worst]
            ));
        }
        Ok(())
    }
}

/// RMS of the error, as a share of the RMS of what is expected; 0 if that is 0.
pub(crate) fn relative_rmse(found: &Array, expected: &Array) -> f64 {
    let square = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>();
    let (error, size) = (
        square(&differences(found, expected)),
        square(&expected.values),
    );
    if size == 0.0 {
        0.0
    } else {
        (error / size).sqrt()
    }
}

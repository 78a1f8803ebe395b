//! The error rule: at most `factor` times the error of the plain formula in the operands' precision with FP32 sums, in the
//! largest error of an element and in the largest root mean square of a head.

use std::cell::Cell;

use proptest::test_runner::TestCaseError;

use crate::arithmetic::{Arithmetic, ORDERS};
use crate::reference::{Array, Forward, Given, Gradients, Problem};

/// Every order of FP32 rounded to nearest, then disturbed arithmetic: more often where few rows tell of their spread.
fn arithmetics(rows: usize) -> impl Iterator<Item = Arithmetic> {
    let runs = (120 / rows.max(1) as u64).clamp(6, 40);
    (0..ORDERS)
        .map(Arithmetic::Nearest)
        .chain((0..runs).map(|seed| Arithmetic::Disturbed(Cell::new(seed << 32))))
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
    /// From what the plain formula gives in each of [`arithmetics`].
    fn of(factor: f64, expected: &Array, found: &[&Array]) -> Self {
        let (nearest, disturbed) = found.split_at(ORDERS);
        let naive = nearest
            .iter()
            .map(|found| Norms::of(&differences(found, expected), expected))
            .fold(Norms::default(), Norms::or);
        let mut variance = vec![0.0; expected.values.len()];
        for found in disturbed {
            for (variance, error) in variance.iter_mut().zip(differences(found, expected)) {
                *variance += error * error / disturbed.len() as f64;
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

    /// For the output, and for the logsumexp.
    pub(crate) fn of_forward(problem: &Problem, expected: &Forward) -> [Self; 2] {
        let found: Vec<Forward> = arithmetics(expected.output.shape[2])
            .map(|a| problem.forward_in(&a))
            .collect();
        let parts: [fn(&Forward) -> &Array; 2] = [|all| &all.output, |all| &all.logsumexp];
        parts.map(|part| {
            let found: Vec<&Array> = found.iter().map(part).collect();
            Self::of(2.0, part(expected), &found)
        })
    }

    /// One rule for each of [`Gradients::all`].
    pub(crate) fn of_backward(
        problem: &Problem,
        given: &Given,
        expected: &Gradients,
    ) -> [Option<Self>; 6] {
        let found: Vec<Gradients> = arithmetics(given.grad_output.shape[2])
            .map(|a| problem.backward_in(given, &a))
            .collect();
        std::array::from_fn(|which| {
            let found: Vec<&Array> = found.iter().filter_map(|all| all.all()[which]).collect();
            Some(Self::of(3.0, expected.all()[which]?, &found))
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

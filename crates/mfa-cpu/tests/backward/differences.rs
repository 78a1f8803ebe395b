//! The reference against finite differences: what the driver is compared with is itself right.

use mfa_testing::{Array, Given};

use crate::case::{Case, Setup};

const STEP: f64 = 1e-5;

fn loss(setup: &Setup) -> f64 {
    let output = setup.problem.forward().output;
    output
        .values
        .iter()
        .zip(&setup.grad.values)
        .map(|(o, g)| o * g)
        .sum()
}

/// The numbers of a part of the setup.
type Part = fn(&mut Setup) -> &mut [f64];

/// Central differences of the loss in each element of a part of the setup.
fn differences(setup: &Setup, part: Part, gradient: &Array, what: &str) {
    for i in 0..gradient.values.len() {
        let mut moved = setup.clone();
        let start = part(&mut moved)[i];
        if start == f64::NEG_INFINITY {
            assert_eq!(gradient.values[i], 0.0, "{what}[{i}] is masked");
            continue;
        }
        part(&mut moved)[i] = start + STEP;
        let after = loss(&moved);
        part(&mut moved)[i] = start - STEP;
        let before = loss(&moved);
        let expected = (after - before) / (2.0 * STEP);
        let found = gradient.values[i];
        assert!(
            (found - expected).abs() <= 1e-7 * (1.0 + expected.abs()),
            "{what}[{i}] is {found}, expected {expected}"
        );
    }
}

fn check(case: &Case) {
    let setup = case.setup();
    let forward = setup.problem.forward();
    for output in [None, Some(forward.output)] {
        let given = Given {
            output,
            ..Given::new(setup.grad.clone(), forward.logsumexp.clone())
        };
        let g = setup.problem.backward(&given);
        let differ = |part, gradient: &Array, what| differences(&setup, part, gradient, what);
        differ(|s| &mut s.problem.query.elements.values, &g.query, "query");
        differ(|s| &mut s.problem.key.elements.values, &g.key, "key");
        differ(|s| &mut s.problem.value.elements.values, &g.value, "value");
        if let Some(mask) = &g.mask {
            differ(
                |s| &mut s.problem.mask.as_mut().unwrap().values.values,
                mask,
                "mask",
            );
        }
        if let Some(sinks) = &g.sinks {
            differ(|s| s.problem.sinks.as_mut().unwrap(), sinks, "sinks");
        }
    }
}

/// One small case for each option, and one with all.
#[test]
fn reference_matches_finite_differences() {
    let plain = Case::small();
    let options: [fn(&mut Case); 13] = [
        |_| {},
        |c| c.group = 3,
        |c| c.causal = true,
        |c| (c.causal, c.bottom_right) = (true, true),
        |c| c.window = Some((1, 1)),
        |c| (c.window, c.bottom_right) = (Some((2, -1)), true),
        |c| c.softcap = 0.7,
        |c| c.mask = Some(("bool", 0b1111)),
        |c| c.mask = Some(("fp32", 0b1111)),
        |c| c.mask = Some(("fp32", 0b0001)),
        |c| c.alibi = Some(true),
        |c| c.sinks = true,
        |c| c.lengths = Some(vec![(3, 2), (0, 1), (2, 0), (2, 4)]),
    ];
    for option in options {
        let mut case = plain.clone();
        option(&mut case);
        check(&case);
    }
    let mut all = plain;
    for option in &options[1..] {
        option(&mut all);
    }
    check(&all);
}

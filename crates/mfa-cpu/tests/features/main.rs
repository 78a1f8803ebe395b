//! What the contract can say beyond plain attention, each against plain formulas in FP64: key lengths, spare rows, the
//! gradient of logsumexp, merges, FP64 operands, sizes of 0, wide heads, and plans without memory.
#![allow(clippy::panic)] // A failed check ends the test with the rule's message.

mod call;
mod formula;

use call::{Call, Driver, Results};
use formula::{Problem, attention};
use mfa_testing::rule;

/// The worst difference of two arrays, of which the second is right, relative to its largest number.
fn error(found: &[f64], right: &[f64]) -> f64 {
    assert_eq!(found.len(), right.len());
    let largest = right.iter().fold(1e-30f64, |most, x| most.max(x.abs()));
    (found.iter().zip(right))
        .map(|(x, y)| if x == y { 0.0 } else { (x - y).abs() / largest })
        .fold(
            0.0,
            |worst, x| if x > worst || x.is_nan() { x } else { worst },
        )
}

/// FP64 is computed as the reference is; other precisions keep the error rule, and stay near whatever it allows.
#[track_caller]
fn check(problem: &Problem, what: &str) {
    for (precision, most) in [("fp64", 1e-12), ("fp32", 2e-5), ("fp16", 6e-3)] {
        // Rounded operands are another problem, exactly solved.
        let problem = &match precision {
            "fp64" => problem.clone(),
            _ => problem.rounded(precision),
        };
        let right = attention(problem);
        let driver = Driver::new();
        let found = Call::new(&driver, problem, precision).run();
        for ((name, found), (_, right)) in found.all().into_iter().zip(right.all()) {
            let worst = error(&found.values, &right.values);
            assert!(
                worst <= most,
                "{what}, {precision}: {name} is off by {worst:e}"
            );
        }
        if precision != "fp64" {
            let reference = problem.reference(precision);
            let given = problem.given(precision, found.forward.logsumexp.clone());
            let (forward, gradients) = (&right.forward, &right.gradients);
            rule::forward(&reference, forward, &found.forward)
                .and_then(|()| rule::backward(&reference, &given, gradients, &found.gradients))
                .unwrap_or_else(|message| panic!("{what}, {precision}: {message}"));
        }
    }
}

#[test]
fn fp64_is_exact() {
    for (seed, [nq, nk]) in [[1, 1], [5, 9], [17, 64], [40, 130]]
        .into_iter()
        .enumerate()
    {
        let mut problem = Problem::random(seed as u64, [2, 4, 2], [nq, nk], [12, 7]);
        check(&problem, "plain");
        problem.softcap = 1.5;
        problem.sinks = Some(vec![0.5, -1.0, 2.0, 0.0]);
        problem.add_mask(seed as u64);
        check(&problem, "softcap, sinks, mask");
        problem.causal = true;
        problem.window = Some((7, 2));
        problem.bottom_right = true;
        problem.slopes = Some(vec![0.1, 0.0, 0.5, 0.25]);
        check(&problem, "diagonal");
    }
}

#[test]
fn key_lengths_end_each_sequence() {
    for bottom_right in [false, true] {
        for masked in [false, true] {
            let mut problem = Problem::random(7, [4, 4, 2], [6, 23], [16, 8]);
            problem.lengths = Some(vec![0, 5, 23, 22]);
            problem.causal = true;
            problem.bottom_right = bottom_right;
            if masked {
                problem.add_mask(3);
            }
            check(&problem, "lengths");
            problem.causal = false;
            problem.window = Some((4, 1));
            check(&problem, "lengths and window");
        }
    }
}

/// A mask has the rows of the tensors, even of a batch of none.
#[test]
fn an_empty_batch_may_have_key_lengths() {
    let mut problem = Problem::random(15, [0, 9, 1], [17, 5], [8, 8]);
    problem.lengths = Some(Vec::new());
    problem.add_mask(1);
    check(&problem, "empty batch");
}

/// Rows beyond a sequence's keys are never read, and their gradients are 0.
#[test]
fn rows_beyond_the_keys_are_not_read() {
    let mut problem = Problem::random(8, [2, 2, 1], [3, 70], [32, 32]);
    problem.lengths = Some(vec![33, 64]);
    let right = attention(&problem);
    problem.poison_beyond_lengths();
    let driver = Driver::new();
    for precision in ["fp64", "fp32"] {
        let found = Call::new(&driver, &problem, precision).run();
        for ((name, found), (_, right)) in found.all().into_iter().zip(right.all()) {
            assert!(
                error(&found.values, &right.values) < 2e-5,
                "{precision}: {name}"
            );
        }
    }
}

#[test]
fn packed_sequences_may_leave_spare_rows() {
    for lengths in [None, Some(vec![2, 0, 7])] {
        let mut problem = Problem::random(9, [1, 4, 2], [14, 20], [8, 16]);
        problem.packed = Some((vec![0, 5, 5, 11], vec![0, 4, 9, 17]));
        problem.lengths = lengths;
        check(&problem, "spare rows");
        problem.causal = true;
        problem.bottom_right = true;
        problem.sinks = Some(vec![0.5, -1.0, 2.0, 0.0]);
        check(&problem, "spare rows, causal, sinks");
        problem.add_mask(5);
        check(&problem, "spare rows, mask");
    }
}

#[test]
fn wide_heads_keep_the_error_rule() {
    for (d, dv) in [(576, 512), (1024, 1024), (513, 1), (1, 1023)] {
        for nq in [1, 9] {
            let problem = Problem::random(10, [1, 2, 1], [nq, 37], [d, dv]);
            check(&problem, "wide");
        }
    }
}

#[test]
fn sizes_of_zero_are_legal() {
    // Batch; heads; query rows; keys; columns of query and key.
    for (counts, rows, columns) in [
        ([0, 2, 1], [3, 4], [8, 8]),
        ([2, 0, 0], [3, 4], [8, 8]),
        ([2, 0, 3], [3, 4], [8, 8]),
        ([2, 2, 1], [0, 4], [8, 8]),
        ([2, 2, 1], [3, 0], [8, 8]),
        ([2, 2, 1], [3, 4], [0, 8]),
        ([0, 0, 0], [0, 0], [0, 1]),
    ] {
        check(&Problem::random(11, counts, rows, columns), "empty");
    }
}

#[test]
fn sinks_and_slopes_may_be_any_float() {
    let mut problem = Problem::random(12, [2, 2, 2], [4, 9], [8, 8]);
    problem.sinks = Some(vec![0.5, -1.25]);
    problem.slopes = Some(vec![0.125, 0.5]);
    let driver = Driver::new();
    let right = attention(&problem);
    for small in ["fp32", "fp16", "bf16"] {
        let mut call = Call::new(&driver, &problem, "fp32");
        call.small = small;
        let found = call.run();
        for ((name, found), (_, right)) in found.all().into_iter().zip(right.all()) {
            assert!(
                error(&found.values, &right.values) < 1e-5,
                "{small}: {name}"
            );
        }
    }
}

/// Parts of the keys, merged, are all of the keys; and so are their gradients.
#[test]
fn merged_parts_are_the_whole() {
    for precision in ["fp64", "fp32"] {
        let driver = Driver::new();
        let whole = Problem::random(13, [2, 2, 2], [5, 40], [8, 136]);
        let right = attention(&whole);
        let cuts = [0, 1, 17, 17, 40];
        let parts: Vec<Problem> = cuts
            .windows(2)
            .map(|cut| whole.keys(cut[0]..cut[1]))
            .collect();
        let found: Vec<Results> = (parts.iter())
            .map(|part| Call::new(&driver, part, precision).run())
            .collect();
        let merged = driver.merge(&whole, &found, precision);
        let near = |found: &[f64], right: &[f64], most: f64| {
            assert!(error(found, right) < most, "{precision}");
        };
        near(&merged.output.values, &right.forward.output.values, 1e-6);
        near(
            &merged.logsumexp.values,
            &right.forward.logsumexp.values,
            1e-6,
        );
        // Back through the merge and through each part.
        let gradients = driver.merge_backward(&whole, &found, precision);
        let right = right.gradients;
        let (mut dq, mut dk) = (vec![0.0; right.query.values.len()], Vec::new());
        for (part, (d_output, d_logsumexp)) in parts.iter().zip(gradients) {
            let part = Problem {
                d_output: d_output.values,
                d_logsumexp: d_logsumexp.values,
                ..part.clone()
            };
            let back = Call::new(&driver, &part, precision).run().gradients;
            dq.iter_mut()
                .zip(&back.query.values)
                .for_each(|(x, y)| *x += y);
            dk.push(back.key.values);
        }
        near(&dq, &right.query.values, 1e-5);
        near(&whole.join_keys(&dk, &cuts), &right.key.values, 1e-5);
    }
}

/// `mfa_explain` and `mfa_workspace_size` need no memory behind any tensor.
#[test]
fn plans_need_no_memory() {
    let driver = Driver::new();
    let mut problem = Problem::random(14, [2, 4, 2], [6, 23], [16, 8]);
    problem.causal = true;
    problem.bottom_right = true;
    problem.add_mask(1);
    for precision in ["fp32", "fp64"] {
        let mut call = Call::new(&driver, &problem, precision);
        let with = call.explain();
        call.forget_buffers();
        assert_eq!(call.explain(), with);
        assert!(
            with[0].contains("diagonal: bottom right, causal; row 0 sees keys 0 to 17"),
            "{}",
            with[0]
        );
        assert!(
            with[0].contains("row 5 sees keys 0 to 22, of 23"),
            "{}",
            with[0]
        );
        assert!(with[0].contains("mask: "), "{}", with[0]);
    }
}

//! NaN and infinities: they reach the gradients that use them, and no other.

use mfa_testing::{Array, rule};

use crate::case::{Case, Setup, Storage};
use crate::run::{Prepared, session};

type Part = fn(&mut Setup) -> &mut Array;
type Change = fn(&mut Case);

/// Rows (or keys) 3 and 20 of every head hold `x` in one column.
fn poison(real: &mut Array, x: f64) {
    let [batch, heads, rows, columns] = real.shape;
    for row in [3, 20].into_iter().filter(|row| *row < rows) {
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            real.set([b, h, row, columns / 2], x);
        }
    }
}

fn check(case: &Case, part: Part, x: f64, what: &str) {
    let session = session(case.threads);
    let change = |setup: &mut Setup| poison(part(setup), x);
    let prepared = Prepared::changed(&session, case, change);
    // From what the driver is given: which sum of infinities is NaN depends on where D comes from.
    let exact = &prepared.problem.backward(&prepared.given);
    let found = prepared.run();
    let all =
        || (exact.all().into_iter()).flat_map(|(_, array)| array.map_or(&[][..], |x| &x.values));
    assert!(all().any(|x| x.is_finite()), "{what}: nothing is finite");
    assert!(
        !all().all(|x| x.is_finite()),
        "{what}: everything is finite"
    );
    rule::backward(&prepared.problem, &prepared.given, exact, &found)
        .unwrap_or_else(|message| panic!("{what}: {message}"));
}

#[test]
fn specials_reach_what_uses_them() {
    let operands: [(Part, &str); 4] = [
        (|s| &mut s.problem.query.elements, "query"),
        (|s| &mut s.problem.key.elements, "key"),
        (|s| &mut s.problem.value.elements, "value"),
        (|s| &mut s.grad, "grad_output"),
    ];
    let options: [(Change, &str); 6] = [
        (|c| c.causal = true, "causal"),
        (
            |c| (c.causal, c.give_output) = (true, false),
            "causal, D from P",
        ),
        (|c| c.window = Some((2, 2)), "window"),
        (|c| c.mask = Some(("bool", 0b1111)), "mask"),
        (
            |c| (c.softcap, c.mask) = (2.0, Some(("fp32", 0b0011))),
            "softcap and mask",
        ),
        (|c| (c.causal, c.two_calls) = (true, true), "two calls"),
    ];
    for (option, options) in options {
        for (part, operand) in operands {
            // An infinity in Q or K may make a score of -infinity, which counts as masked.
            let scores = matches!(operand, "query" | "key");
            let infinity = (!scores).then_some(f64::INFINITY);
            for x in [f64::NAN].into_iter().chain(infinity) {
                let mut case = Case {
                    nq: 40,
                    nk: 37,
                    d: 16,
                    dv: 24,
                    storage: [const { Storage::Float("fp32") }; 3],
                    ..Case::small()
                };
                option(&mut case);
                check(&case, part, x, &format!("{x} in {operand}, {options}"));
            }
        }
    }
}

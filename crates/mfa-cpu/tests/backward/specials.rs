//! NaN and infinities: they reach the gradients that use them, and no other.

use crate::case::{Case, Storage};
use crate::reference::{Real, Setup};
use crate::run::Prepared;
use crate::session::Session;

type Part = fn(&mut Setup) -> &mut Real;
type Change = fn(&mut Case);

/// Rows (or keys) 3 and 20 of every head hold `x` in one column.
fn poison(real: &mut Real, x: f64) {
    let [batch, heads, rows, columns] = real.shape;
    for row in [3, 20].into_iter().filter(|row| *row < rows) {
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let at = real.index([b, h, row, columns / 2]);
            real.values[at] = x;
        }
    }
}

fn check(case: &Case, part: Part, x: f64, what: &str) {
    let session = Session::new(case.threads);
    let change = |setup: &mut Setup| poison(part(setup), x);
    let prepared = Prepared::changed(&session, case, change);
    let setup = &prepared.setup;
    let (exact, size) = setup.exact(&prepared.logsumexp, prepared.output.as_ref());
    let found = prepared.run();
    let parts = [
        (&found.query, &exact.query, &size.query, "query"),
        (&found.key, &exact.key, &size.key, "key"),
        (&found.value, &exact.value, &size.value, "value"),
        (&found.d_values, &exact.d_values, &size.d_values, "d_values"),
    ];
    let all = || parts.iter().flat_map(|part| &part.1.values);
    assert!(all().any(|x| x.is_finite()), "{what}: nothing is finite");
    assert!(
        !all().all(|x| x.is_finite()),
        "{what}: everything is finite"
    );
    for (found, exact, size, name) in parts {
        let finite = |x: &&f64| x.is_finite();
        let top = size.values.iter().filter(finite).fold(0.0, |a, b| b.max(a));
        for (i, (found, exact)) in found.iter().zip(&exact.values).enumerate() {
            let right = if exact.is_finite() {
                (found - exact).abs() <= 1e-5 * f64::max(top, 1.0)
            } else {
                !found.is_finite()
            };
            assert!(right, "{what}: {name}[{i}] is {found}, expected {exact}");
        }
    }
}

#[test]
fn specials_reach_what_uses_them() {
    let operands: [(Part, &str); 4] = [
        (|s| &mut s.q, "query"),
        (|s| &mut s.k, "key"),
        (|s| &mut s.v, "value"),
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

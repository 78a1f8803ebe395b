//! The driver against the plain formulas, by the error rule.

use mfa_testing::rule;
use proptest::prelude::*;

use crate::case::{Case, Storage, any_case};
use crate::run::{Prepared, session};

fn check(case: &Case) -> Result<(), String> {
    let session = session(case.threads);
    let prepared = Prepared::new(&session, case);
    let found = prepared.run();
    rule::backward(&prepared.problem, &prepared.given, &prepared.exact, &found)
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
    fn any_options_keep_the_error_rule(case in any_case()) {
        if let Err(message) = check(&case) {
            return Err(TestCaseError::fail(message));
        }
    }
}

/// Long enough for every kind of block to be whole, cut and skipped.
#[test]
fn long_calls_keep_the_error_rule() {
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
fn long_calls_of_short_floats_keep_the_error_rule() {
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

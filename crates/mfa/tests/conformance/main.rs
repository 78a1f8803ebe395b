//! The conformance vectors, on the device that [`MfaContext::new`] takes: one test for each `mfa` call of a case.
//!
//! What the driver answers with "unsupported" is ignored, with its reason; with `MFA_REQUIRE_ALL` set, it fails.
//! `MFA_RESULTS`, a folder, receives what the driver returned, for `tests/cross`. `MFA_DRIVER` and `MFA_CPU_ISA` choose what is tested; arguments are those of any test, `cargo test … -- decode`.

mod calls;
mod check;
mod memory;
mod results;
mod vectors;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use mfa::MfaContext;

use crate::calls::{Call, Outcome};
use crate::results::Results;
use crate::vectors::Case;

fn trial(
    context: &Arc<MfaContext>,
    results: &Option<Arc<Results>>,
    case: &Arc<Case>,
    calls: &'static [Call],
) -> Trial {
    let (context, case, results) = (Arc::clone(context), Arc::clone(case), results.clone());
    let name = format!("{}::{}", calls[calls.len() - 1].name(), case.name);
    Trial::ignorable_test(name, move || {
        match calls::run(context.raw(), &case, calls, results.as_deref())? {
            Outcome::Right => Ok(Completion::Completed),
            Outcome::Unsupported(reason) if std::env::var_os("MFA_REQUIRE_ALL").is_some() => {
                Err(Failed::from(format!("not supported: {reason}")))
            }
            Outcome::Unsupported(reason) => Ok(Completion::ignored_with(reason)),
        }
    })
}

/// The calls of a case, in order; each makes a test of its own.
fn sequences(case: &Case) -> Vec<&'static [Call]> {
    let gradient = case.tensor("grad_output").is_some();
    match case.call.as_str() {
        "quantize" => vec![&[Call::Quantize]],
        "dequantize" => vec![&[Call::Dequantize]],
        "plain" => vec![&[Call::Plain]],
        "training" if gradient => vec![
            &[Call::TrainingForward],
            &[Call::TrainingForward, Call::TrainingBackward],
        ],
        "training" => vec![&[Call::TrainingForward]],
        _ => {
            let forward = case
                .tensor("output")
                .is_some()
                .then_some(&[Call::Forward][..]);
            let backward = gradient.then_some(&[Call::Backward][..]);
            forward.into_iter().chain(backward).collect()
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/vectors");
    let ready = MfaContext::new()
        .map_err(|error| error.to_string())
        .and_then(|context| Ok((Arc::new(context), vectors::read(&folder)?)));
    let (context, cases) = match ready {
        Ok(ready) => ready,
        Err(reason) => {
            eprintln!("conformance: {reason}");
            return ExitCode::FAILURE;
        }
    };
    eprintln!(
        "conformance: {} cases on {}",
        cases.len(),
        context.device_name()
    );
    let results = std::env::var_os("MFA_RESULTS").map(|folder| {
        let results = Results::new(Path::new(&folder), context.device_name());
        Arc::new(results)
    });
    let trials = cases
        .iter()
        .flat_map(|case| {
            sequences(case)
                .into_iter()
                .map(|calls| trial(&context, &results, case, calls))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(Err(error)) = results.map(|results| results.write()) {
        eprintln!("conformance: the results cannot be written: {error}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

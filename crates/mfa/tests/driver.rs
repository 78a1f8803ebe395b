//! Which driver and device is taken. The environment belongs to the whole process, so each case is one of its own.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output};

use mfa::raw::drivers;
use mfa::raw::sys::Origin;
use mfa::{Attention, MfaContext, MfaError, TensorView, devices};

/// Runs one of the ignored tests below with `MFA_DRIVER` set.
fn with_driver(test: &str, driver: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    let arguments = ["--exact", test, "--ignored", "--nocapture"];
    Command::new(program)
        .args(arguments)
        .env("MFA_DRIVER", driver)
        .output()
        .unwrap()
}

#[track_caller]
fn passes(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The CPU engine as a library of its own, which cargo builds beside the test programs.
fn library() -> PathBuf {
    let name = format!(
        "{}mfa_cpu{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    std::env::current_exe().unwrap().with_file_name(name)
}

#[test]
fn a_driver_is_loaded_and_computes() {
    passes(&with_driver("loaded", library().to_str().unwrap()));
}

#[test]
#[ignore = "run in a process of its own by a_driver_is_loaded_and_computes"]
fn loaded() {
    let context = MfaContext::new().unwrap();
    assert_eq!(
        context.device().driver().origin(),
        &Origin::Variable(library())
    );
    // The linked driver is still there, and is another.
    let linked = devices()
        .unwrap()
        .into_iter()
        .find(|device| device.driver().origin() == &Origin::Linked)
        .unwrap();
    let linked = MfaContext::on(&linked).unwrap();

    let data: Vec<f32> = (0..2 * 5 * 8).map(|n| (n as f32).sin()).collect();
    let view = |context| TensorView::from_slice(context, &data, [1, 2, 5, 8]).unwrap();
    let (ours, theirs) = (view(&context), view(&linked));
    let here = Attention::new(&context)
        .forward(&ours, &ours, &ours)
        .unwrap();
    let there = Attention::new(&linked)
        .forward(&theirs, &theirs, &theirs)
        .unwrap();
    assert_eq!(
        here.as_slice::<f32>().unwrap(),
        there.as_slice::<f32>().unwrap()
    );

    let error = Attention::new(&context)
        .forward(&ours, &theirs, &ours)
        .unwrap_err();
    assert!(
        matches!(&error, MfaError::InvalidArgument(message) if message.starts_with("key: ")),
        "{error}"
    );
}

#[test]
fn a_driver_that_cannot_be_loaded_is_an_error_for_everything() {
    passes(&with_driver("absent", "no/such/driver.so"));
}

#[test]
#[ignore = "run in a process of its own by a_driver_that_cannot_be_loaded_is_an_error_for_everything"]
fn absent() {
    let results = [
        MfaContext::new().map(drop),
        MfaContext::with_device("cpu").map(drop),
        devices().map(drop),
        drivers().map(drop),
    ];
    for result in results {
        let error = result.unwrap_err();
        assert!(matches!(error, MfaError::Load(_)), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("MFA_DRIVER") && text.contains("no/such/driver.so"),
            "{text}"
        );
        assert_eq!(error.status(), None);
    }
}

#[test]
fn devices_are_found_by_kind_number_and_name() {
    let name = |wanted: &str| {
        MfaContext::with_device(wanted).map(|context| context.device_name().to_owned())
    };
    let cpu = name("cpu").unwrap();
    for wanted in ["CPU", "cpu:0", &cpu] {
        assert_eq!(name(wanted).unwrap(), cpu);
    }
    assert_eq!(name("auto").unwrap(), devices().unwrap()[0].name());
    for wanted in ["cpu:1000", "cpu:x", "toaster", ""] {
        let error = name(wanted).unwrap_err();
        assert!(matches!(error, MfaError::NoDevice(_)), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("{wanted:?}")) && text.contains(&cpu),
            "{text}"
        );
    }
}

#[test]
fn threads_can_be_set() {
    let context = MfaContext::with_device("cpu").unwrap();
    let default = context.num_threads().unwrap();
    assert!(default > 0);
    context.set_num_threads(3).unwrap();
    assert_eq!(context.clone().num_threads().unwrap(), 3);
    context.set_num_threads(0).unwrap();
    assert_eq!(context.num_threads().unwrap(), default);
    assert!(context.latency().unwrap().is_zero());
}

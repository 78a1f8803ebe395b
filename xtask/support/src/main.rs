//! Asks every device of this process what it supports, by small calls, and prints the answers as a table in Markdown.
//!
//! A device that answers "unsupported" gets a dash. Any other error, and a result that is not finite, ends the program: the
//! table must not be made by a device that is broken.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line prints")]

mod call;
mod probes;

use std::process::ExitCode;

use mfa::{Device, MfaContext, MfaError};

use crate::call::Call;

fn main() -> ExitCode {
    match table() {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mfa-support: {error}");
            ExitCode::FAILURE
        }
    }
}

fn table() -> Result<String, String> {
    let devices = mfa::devices().map_err(|error| error.to_string())?;
    let mut columns = Vec::new();
    for device in &devices {
        columns.push(answers(device)?);
    }
    let mut text = "| | feature |".to_owned();
    for device in &devices {
        text += &format!(" {0}: forward | {0}: gradients |", title(device));
    }
    text += "\n|---|---|";
    text += &":-:|:-:|".repeat(devices.len());
    text.push('\n');
    let mut group = "";
    for (row, probe) in probes::list().iter().enumerate() {
        let heading = if probe.group == group {
            ""
        } else {
            probe.group
        };
        group = probe.group;
        text += &format!("| {heading} | {} |", probe.feature);
        for column in &columns {
            let [forward, gradients] = column[row];
            text += &format!(" {} | {} |", mark(forward), mark(gradients));
        }
        text.push('\n');
    }
    Ok(text)
}

fn title(device: &Device) -> &str {
    match device.backend() {
        "cpu" => "CPU",
        "metal" => "Metal",
        other => other,
    }
}

fn mark(supported: bool) -> &'static str {
    if supported { "yes" } else { "–" }
}

/// Per probe, whether forward and backward are supported.
fn answers(device: &Device) -> Result<Vec<[bool; 2]>, String> {
    let context = MfaContext::on(device).map_err(|error| error.to_string())?;
    let mut answers = Vec::new();
    for probe in probes::list() {
        let mut answer = [true, true];
        for call in &probe.calls {
            let (forward, gradients) = ask(&context, call)
                .map_err(|error| format!("{}: {}: {error}", device.name(), probe.feature))?;
            answer = [answer[0] && forward, answer[1] && gradients];
        }
        answers.push(answer);
    }
    Ok(answers)
}

fn ask(context: &MfaContext, call: &Call) -> mfa::Result<(bool, bool)> {
    let supported = |result: mfa::Result<()>| match result {
        Ok(()) => Ok(true),
        Err(MfaError::Unsupported(_)) => Ok(false),
        Err(error) => Err(error),
    };
    let forward = supported(call.run(context, false))?;
    Ok((forward, forward && supported(call.run(context, true))?))
}

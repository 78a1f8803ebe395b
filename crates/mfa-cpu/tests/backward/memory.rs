//! Peak memory of a process that trains: it grows with the length, not with its square.

use std::io::Write;
use std::process::Command;

use mfa_sys as sys;
use mfa_testing::{Layout, Random};

use crate::run::session;

/// Length and mask for [`one_training_step`], as `4096 masked`.
const VARIABLE: &str = "MFA_TEST_PEAK";
/// Columns of every operand: few, for time grows with the square.
const COLUMNS: usize = 8;
/// What a process may touch beside the call's memory, in bytes: pages of code, stacks, the allocator.
const SLACK: u64 = 2 << 20;

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = all
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    let kib: u64 = line
        .trim_matches(|c: char| !c.is_ascii_digit())
        .parse()
        .unwrap();
    kib << 10
}

/// A process of its own, for [`peak_memory_is_linear`]: forward and backward of one length.
#[test]
#[ignore = "started by peak_memory_is_linear"]
fn one_training_step() {
    let given = std::env::var(VARIABLE).unwrap();
    let (n, masked) = given.split_once(' ').unwrap();
    let (n, masked) = (n.parse().unwrap(), masked == "masked");
    let session = session(2);
    let tensor =
        |columns| session.tensor([1, 1, n, columns], sys::MFA_PRECISION_FP32, Layout::Packed);
    let [query, key, value, output, grad] = std::array::from_fn(|_| tensor(COLUMNS));
    let logsumexp = tensor(1);
    let gradients: [sys::mfa_tensor; 3] = std::array::from_fn(|_| tensor(COLUMNS));
    let mut random = Random(7);
    for tensor in [query, key, value, grad] {
        for bytes in session.bytes(tensor.buffer).chunks_exact_mut(4) {
            bytes.copy_from_slice(&(random.unit() as f32 - 0.5).to_le_bytes());
        }
    }
    let mut options = sys::mfa_attention_options::new();
    if masked {
        let mask = session.tensor([1, 1, 1, n], sys::MFA_PRECISION_BOOL, Layout::Packed);
        for byte in session.bytes(mask.buffer) {
            *byte = u8::from(random.unit() < 0.75);
        }
        options.mask = mask;
        options.mask.shape[2] = n as u64;
        options.mask.strides[2] = 0;
    }
    let forward = sys::mfa_forward_desc {
        query,
        key,
        value,
        output,
        logsumexp,
        options: &raw const options,
        ..sys::mfa_forward_desc::new()
    };
    let backward = sys::mfa_backward_desc {
        query,
        key,
        value,
        output,
        grad_output: grad,
        logsumexp,
        grad_query: gradients[0],
        grad_key: gradients[1],
        grad_value: gradients[2],
        options: &raw const options,
        ..sys::mfa_backward_desc::new()
    };
    let mut bytes = [0; 2];
    let before = status("VmRSS:");
    // SAFETY: descriptors of live buffers, and places for the numbers.
    unsafe {
        let (api, context) = (&session.api, session.context);
        let none = std::ptr::null();
        session.expect((api.mfa_workspace_size)(
            context,
            &forward,
            none,
            &mut bytes[0],
        ));
        session.expect((api.mfa_workspace_size)(
            context,
            none.cast(),
            &backward,
            &mut bytes[1],
        ));
        session.expect((api.mfa_forward)(context, &forward));
        session.expect((api.mfa_backward)(context, &backward));
    }
    let line = format!(
        "peak {} {before} {} {}",
        status("VmHWM:"),
        bytes[0],
        bytes[1]
    );
    writeln!(std::io::stdout(), "{line}").unwrap();
}

/// Peak, memory before the calls, and what the calls said they would take.
fn measured(n: usize, masked: bool) -> [u64; 4] {
    let mask = if masked { "masked" } else { "plain" };
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "memory::one_training_step",
            "--ignored",
            "--nocapture",
        ])
        .env(VARIABLE, format!("{n} {mask}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once("peak "));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(line.is_some(), "no peak in {text}{errors}");
    let numbers: Vec<u64> = line
        .unwrap()
        .1
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    numbers.try_into().unwrap()
}

#[test]
fn peak_memory_is_linear() {
    for masked in [false, true] {
        let lengths = [2 << 10, 4 << 10, 8 << 10, 16 << 10];
        let peaks = lengths.map(|n| {
            let [peak, before, forward, backward] = measured(n, masked);
            let (taken, told) = (peak - before, forward + backward);
            assert!(
                taken <= told + SLACK,
                "N = {n}, masked: {masked}: the calls took {taken} bytes, workspaces are {told}"
            );
            peak
        });
        // Of four bytes per pair, the last step alone would be 768 MiB.
        for (i, pair) in peaks.windows(2).enumerate() {
            let more = pair[1].saturating_sub(pair[0]);
            // Operands, O, their gradients and dO, of which each row is in memory twice at most, and L and D.
            let rows = (lengths[i + 1] - lengths[i]) as u64;
            let bound = 4 * rows * (2 * 8 * COLUMNS as u64 + 2) + SLACK;
            assert!(
                more <= bound,
                "N = {}, masked: {masked}: {more} bytes more than at half of it, expected at most {bound}",
                lengths[i + 1]
            );
        }
    }
}

//! The same bits every run, and memory that grows with the length and not with its square.

use mfa_sys as sys;
use mfa_testing::Session;

use crate::case::{Case, Storage};
use crate::run::{Prepared, bits, session};

#[test]
fn every_run_gives_the_same_bits() {
    let plain = Case {
        nq: 300,
        nk: 290,
        d: 40,
        dv: 32,
        group: 2,
        ..Case::small()
    };
    // Fused and split, with everything that is added up over heads and batches.
    let options: [fn(&mut Case); 4] = [
        |_| {},
        |c| c.storage = [0; 3].map(|_| Storage::Float("bf16")),
        |c| (c.kv_heads, c.group, c.causal) = (1, 1, true),
        |c| {
            c.batch = 2;
            c.mask = Some(("fp32", 0b0011));
            c.sinks = true;
        },
    ];
    for option in options {
        for threads in [1, 2] {
            let mut case = plain.clone();
            option(&mut case);
            case.threads = threads;
            let session = session(threads);
            let prepared = Prepared::new(&session, &case);
            let first = bits(&prepared.run());
            for run in 1..20 {
                assert_eq!(
                    first,
                    bits(&prepared.run()),
                    "run {run}, {threads} threads: {case:?}"
                );
            }
        }
    }
}

fn workspace(session: &Session, desc: &sys::mfa_backward_desc) -> u64 {
    let mut bytes = 0;
    // SAFETY: a descriptor of live buffers, and a place for the number.
    let status = unsafe {
        (session.api.mfa_workspace_size)(session.context, std::ptr::null(), desc, &mut bytes)
    };
    session.expect(status);
    bytes
}

/// Views of one buffer may stand for tensors of any length here: nothing is run.
fn of_length(session: &Session, n: usize, masked: bool, wide: sys::mfa_buffer_t) -> u64 {
    let at = |slot: usize, columns: usize| sys::mfa_tensor {
        buffer: wide,
        byte_offset: (slot * 4 * n * 64 * 4) as u64,
        shape: [1, 4, n as u64, columns as u64],
        strides: [0, n as i64 * columns as i64, columns as i64, 1],
        ..sys::mfa_tensor::ABSENT
    };
    let mut mask = at(0, n);
    mask.strides = [0, 0, 0, 1];
    let options = sys::mfa_attention_options {
        mask: if masked {
            mask
        } else {
            sys::mfa_tensor::ABSENT
        },
        ..sys::mfa_attention_options::new()
    };
    let desc = sys::mfa_backward_desc {
        query: at(0, 64),
        key: at(1, 64),
        value: at(2, 64),
        grad_output: at(3, 64),
        logsumexp: at(4, 1),
        grad_query: at(5, 64),
        grad_key: at(6, 64),
        grad_value: at(7, 64),
        options: &raw const options,
        ..sys::mfa_backward_desc::new()
    };
    workspace(session, &desc)
}

#[test]
fn memory_is_linear_in_the_length() {
    let session = session(2);
    let longest = 16 << 10;
    let wide = session.buffer(8 * 4 * longest * 64 * 4);
    for masked in [false, true] {
        let bytes = |n: usize| of_length(&session, n, masked, wide);
        // A worker's blocks, which do not grow, and D: four bytes per row and head; in whole large pages.
        let fixed = bytes(2 << 10) - 4 * 4 * (2 << 10);
        for n in [2 << 10, 4 << 10, 8 << 10, longest] {
            let wanted = fixed + 4 * 4 * n as u64;
            assert!(
                bytes(n).abs_diff(wanted) <= 2 << 20,
                "N = {n}, masked: {masked}: {} bytes, about {wanted} expected",
                bytes(n)
            );
        }
        // Two workers: blocks of 512 keys and 128 queries in three parts, and their mask.
        let most = if masked { 7 << 20 } else { 5 << 20 };
        assert!(fixed < most, "{fixed} bytes of blocks, masked: {masked}");
    }
}

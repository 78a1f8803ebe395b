//! Descriptors of random nonsense, and calls from many threads at once.

use std::ffi::c_void;
use std::ptr::null_mut;

use mfa_sys as sys;
use proptest::prelude::*;

use crate::legal::{legal, session, tensor};

/// Numbers that break things.
fn awkward() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 0i64..9,
        1 => Just(-1),
        1 => Just(i64::MAX),
        1 => Just(i64::MIN),
        1 => Just(1 << 32),
        1 => Just(513),
        1 => any::<i64>(),
    ]
}

fn awkward_tensor() -> impl Strategy<Value = ([i64; 4], [i64; 4], i64, i64)> {
    (
        prop::array::uniform4(awkward()),
        prop::array::uniform4(awkward()),
        awkward(),
        awkward(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a descriptor says, the call returns; and where it is refused, the output is untouched.
    #[test]
    fn nonsense_is_refused(
        views in prop::array::uniform4(awkward_tensor()),
        edits in prop::array::uniform4(0u8..3),
        flags in any::<u32>(),
        window in prop::array::uniform2(awkward()),
        enums in prop::array::uniform2(-1i32..4),
    ) {
        let session = session();
        let mut desc = legal(&session);
        let targets = [&mut desc.query, &mut desc.key, &mut desc.value, &mut desc.output];
        for ((target, view), edit) in targets.into_iter().zip(views).zip(edits) {
            if edit > 0 {
                target.strides = view.1;
                target.byte_offset = view.2 as u64;
            }
            if edit > 1 {
                target.shape = view.0.map(|x| x as u64);
                target.precision = view.3 as i32;
            }
        }
        let options = sys::mfa_attention_options {
            flags: flags & 7,
            window_left: window[0],
            window_right: window[1],
            softmax_scale: 1.0,
            alignment: enums[0],
            compute: enums[1],
            ..sys::mfa_attention_options::new()
        };
        desc.options = &options;
        session.bytes(desc.output.buffer).fill(0xA5);
        let status = session.forward(&desc);
        prop_assert!((0..=6).contains(&status));
        prop_assert_ne!(status, sys::MFA_ERROR_KERNEL_EXECUTION, "{}", session.message());
        if status != sys::MFA_SUCCESS {
            prop_assert!(!session.message().is_empty());
            prop_assert!(session.bytes(desc.output.buffer).iter().all(|&b| b == 0xA5));
        }
    }
}

#[test]
fn calls_from_many_threads_are_serialised() {
    let session = session();
    let expected = {
        let desc = legal(&session);
        for tensor in [desc.query, desc.key, desc.value] {
            for (i, x) in session.bytes(tensor.buffer).chunks_exact_mut(4).enumerate() {
                x.copy_from_slice(&((i * 7 % 13) as f32 / 7.0).to_le_bytes());
            }
        }
        assert_eq!(session.forward(&desc), sys::MFA_SUCCESS);
        (desc, session.bytes(desc.output.buffer).to_vec())
    };
    /// Handles are numbers; the contract allows calls from any thread.
    #[derive(Clone, Copy)]
    struct Anywhere(sys::mfa_forward_desc, *mut c_void);
    // SAFETY: see above.
    unsafe impl Send for Anywhere {}
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mine = Anywhere(
                sys::mfa_forward_desc {
                    output: tensor(&session, [1, 4, 5, 8]),
                    ..expected.0
                },
                session.context,
            );
            let want = &expected.1;
            scope.spawn(move || {
                let mine = mine;
                let api = mfa_cpu::api();
                let size = want.len();
                for _ in 0..50 {
                    let mut contents = null_mut();
                    // SAFETY: live handles; each thread has its own output.
                    let got = unsafe {
                        assert_eq!((api.mfa_forward)(mine.1, &mine.0), sys::MFA_SUCCESS);
                        assert_eq!(
                            (api.mfa_buffer_contents)(mine.0.output.buffer, &mut contents),
                            sys::MFA_SUCCESS
                        );
                        std::slice::from_raw_parts(contents.cast::<u8>(), size)
                    };
                    assert_eq!(got, want.as_slice());
                }
            });
        }
    });
}

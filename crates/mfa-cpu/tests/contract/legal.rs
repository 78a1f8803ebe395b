//! What the tests share: a session, and a legal call to spoil.

use mfa_sys as sys;
use mfa_testing::{Session, contiguous};

/// A context of the driver.
pub(crate) fn session() -> Session {
    Session::new(mfa_cpu::api())
}

/// A contiguous FP32 tensor of zeros.
pub(crate) fn tensor(session: &Session, shape: [u64; 4]) -> sys::mfa_tensor {
    let size = 4 * shape.iter().product::<u64>() as usize;
    contiguous(session.buffer(size), shape)
}

/// A legal call: batch 1, 4 query and 2 key/value heads, 5 rows, 7 keys, 8 columns.
pub(crate) fn legal(session: &Session) -> sys::mfa_forward_desc {
    sys::mfa_forward_desc {
        query: tensor(session, [1, 4, 5, 8]),
        key: tensor(session, [1, 2, 7, 8]),
        value: tensor(session, [1, 2, 7, 8]),
        output: tensor(session, [1, 4, 5, 8]),
        ..sys::mfa_forward_desc::new()
    }
}

/// Runs a call that must end with `status` and a message that says `word`; a refused call must not touch the output.
#[track_caller]
pub(crate) fn ends_with(session: &Session, desc: &sys::mfa_forward_desc, status: i32, word: &str) {
    let output = desc.output.buffer;
    session.bytes(output).fill(0xA5);
    assert_eq!(session.forward(desc), status, "{}", session.message());
    let untouched = session.bytes(output).iter().all(|&b| b == 0xA5);
    assert_eq!(
        untouched,
        status != sys::MFA_SUCCESS,
        "output untouched: {untouched}"
    );
    if status != sys::MFA_SUCCESS {
        let message = session.message();
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
}

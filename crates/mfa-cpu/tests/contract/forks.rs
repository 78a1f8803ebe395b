//! Children of a process whose threads were at work when it forked.
#![cfg(unix)]

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mfa_sys as sys;
use mfa_testing::Session;

use crate::legal::{legal, session};

/// What a child found, as its exit status.
const FINE: i32 = 0;

/// Runs `child` in a fork; its status, or `None` if it was not done in time.
fn fork(child: impl FnOnce() -> i32) -> Option<i32> {
    // SAFETY: the child runs `child` and leaves by `_exit`, whatever happens.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(99);
        // SAFETY: ends the child without running what the parent registered.
        unsafe { libc::_exit(status) };
    }
    let start = Instant::now();
    let mut status = 0;
    loop {
        // SAFETY: a child of this process, and a place for its status.
        match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
            0 if start.elapsed() > Duration::from_secs(10) => {
                // SAFETY: a child of this process, which is waited for.
                unsafe {
                    libc::kill(pid, libc::SIGKILL);
                    libc::waitpid(pid, &mut status, 0);
                }
                return None;
            }
            0 => std::thread::sleep(Duration::from_micros(200)),
            _ => return Some(libc::WEXITSTATUS(status)),
        }
    }
}

/// A new context in the child computes what the parent's did; the parent's is refused, and can be destroyed.
fn child_computes(parent: &Session, desc: &sys::mfa_forward_desc) -> i32 {
    let (api, mut context) = (&parent.api, null_mut());
    // SAFETY: descriptors of live buffers, which a fork copies.
    unsafe {
        if (api.mfa_forward)(parent.context, desc) != sys::MFA_ERROR_INVALID_CONTEXT {
            return 1;
        }
        if !parent.message().contains("forked") {
            return 2;
        }
        if (api.mfa_create_context)(&mut context) != sys::MFA_SUCCESS {
            return 3;
        }
        if (api.mfa_forward)(context, desc) != sys::MFA_SUCCESS {
            return 4;
        }
        let mut buffer = null_mut();
        if (api.mfa_create_buffer)(context, 64, &mut buffer) != sys::MFA_SUCCESS
            || (api.mfa_destroy_buffer)(buffer) != sys::MFA_SUCCESS
        {
            return 5;
        }
        if (api.mfa_destroy_context)(parent.context) != sys::MFA_SUCCESS
            || (api.mfa_destroy_context)(context) != sys::MFA_SUCCESS
        {
            return 6;
        }
    }
    FINE
}

#[test]
fn children_of_busy_parents_compute() {
    let session = session();
    let desc = legal(&session);
    assert_eq!(session.forward(&desc), sys::MFA_SUCCESS);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let busy = crate::legal::session();
                while !stop.load(Ordering::Relaxed) {
                    let buffer = busy.buffer(64);
                    let desc = legal(&busy);
                    assert_eq!(busy.forward(&desc), sys::MFA_SUCCESS);
                    // SAFETY: buffers of this thread.
                    unsafe {
                        for tensor in [desc.query, desc.key, desc.value, desc.output] {
                            (busy.api.mfa_destroy_buffer)(tensor.buffer);
                        }
                        (busy.api.mfa_destroy_buffer)(buffer);
                    }
                }
            });
        }
        let found: Vec<_> = (0..60)
            .map(|_| fork(|| child_computes(&session, &desc)))
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert!(
            found.iter().all(|status| *status == Some(FINE)),
            "{found:?}"
        );
    });
    assert_eq!(
        session.forward(&desc),
        sys::MFA_SUCCESS,
        "{}",
        session.message()
    );
}

//! What the tests share: a context, buffers, and a legal call to spoil.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use mfa_sys as sys;

/// A context and the buffers made on it.
pub(crate) struct Session {
    pub(crate) api: sys::Api,
    pub(crate) context: *mut c_void,
}

impl Session {
    pub(crate) fn new() -> Self {
        let api = mfa_cpu::api();
        let mut context = null_mut();
        // SAFETY: a place for the handle.
        let status = unsafe { (api.mfa_create_context)(&mut context) };
        assert_eq!(status, sys::MFA_SUCCESS);
        Session { api, context }
    }

    pub(crate) fn buffer(&self, size: u64) -> *mut c_void {
        let mut buffer = null_mut();
        // SAFETY: a place for the handle.
        let status = unsafe { (self.api.mfa_create_buffer)(self.context, size, &mut buffer) };
        assert_eq!(status, sys::MFA_SUCCESS);
        buffer
    }

    #[allow(clippy::mut_from_ref)] // A window on the buffer's memory, used between calls only.
    pub(crate) fn bytes(&self, buffer: *mut c_void) -> &mut [u8] {
        let (mut contents, mut size) = (null_mut(), 0);
        // SAFETY: live buffers of this session; the slice is used between calls only.
        unsafe {
            assert_eq!(
                (self.api.mfa_buffer_contents)(buffer, &mut contents),
                sys::MFA_SUCCESS
            );
            assert_eq!(
                (self.api.mfa_buffer_size)(buffer, &mut size),
                sys::MFA_SUCCESS
            );
            std::slice::from_raw_parts_mut(contents.cast(), size as usize)
        }
    }

    pub(crate) fn message(&self) -> String {
        // SAFETY: a NUL-terminated string that lives until the thread's next failure.
        unsafe { CStr::from_ptr((self.api.mfa_last_error)(null_mut())) }
            .to_string_lossy()
            .into_owned()
    }

    pub(crate) fn forward(&self, desc: &sys::mfa_forward_desc) -> i32 {
        // SAFETY: a descriptor of its struct_size.
        unsafe { (self.api.mfa_forward)(self.context, desc) }
    }

    /// A legal call: batch 1, 4 query and 2 key/value heads, 5 rows, 7 keys, 8 columns.
    pub(crate) fn legal(&self) -> sys::mfa_forward_desc {
        sys::mfa_forward_desc {
            query: self.tensor([1, 4, 5, 8]),
            key: self.tensor([1, 2, 7, 8]),
            value: self.tensor([1, 2, 7, 8]),
            output: self.tensor([1, 4, 5, 8]),
            ..sys::mfa_forward_desc::new()
        }
    }

    pub(crate) fn tensor(&self, shape: [u64; 4]) -> sys::mfa_tensor {
        tensor(self.buffer(4 * shape.iter().product::<u64>()), shape)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: a live context.
        unsafe { (self.api.mfa_destroy_context)(self.context) };
    }
}

pub(crate) fn tensor(buffer: *mut c_void, shape: [u64; 4]) -> sys::mfa_tensor {
    let mut strides = [1i64; 4];
    for axis in (0..3).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1].max(1) as i64;
    }
    sys::mfa_tensor {
        buffer,
        shape,
        strides,
        ..sys::mfa_tensor::ABSENT
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

//! A context over the C contract, and its buffers.

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

use mfa_sys as sys;

/// A context of a driver. Buffers live as long as the process: tests make few.
pub struct Session {
    /// The driver's functions.
    pub api: sys::Api,
    /// The context's handle.
    pub context: *mut c_void,
}

impl Session {
    /// Makes a context of a driver.
    pub fn new(api: sys::Api) -> Self {
        let mut context = null_mut();
        // SAFETY: a place for the handle.
        let status = unsafe { (api.mfa_create_context)(&mut context) };
        assert_eq!(status, sys::MFA_SUCCESS);
        Session { api, context }
    }

    /// Makes a context that runs calls on some threads.
    pub fn with_threads(api: sys::Api, threads: u32) -> Self {
        let session = Self::new(api);
        // SAFETY: a live context.
        session.expect(unsafe { (api.mfa_set_num_threads)(session.context, threads) });
        session
    }

    /// Makes a buffer of zeros.
    pub fn buffer(&self, size: usize) -> *mut c_void {
        let mut buffer = null_mut();
        // SAFETY: a place for the handle.
        let status =
            unsafe { (self.api.mfa_create_buffer)(self.context, size as u64, &mut buffer) };
        self.expect(status);
        buffer
    }

    /// Makes a buffer of some bytes.
    pub fn buffer_of(&self, bytes: &[u8]) -> *mut c_void {
        let buffer = self.buffer(bytes.len());
        self.bytes(buffer).copy_from_slice(bytes);
        buffer
    }

    /// Makes a buffer of INT32 numbers.
    pub fn integers(&self, values: impl IntoIterator<Item = usize>) -> *mut c_void {
        let bytes: Vec<u8> = values
            .into_iter()
            .flat_map(|n| (n as i32).to_le_bytes())
            .collect();
        self.buffer_of(&bytes)
    }

    /// The bytes of a buffer. They are not borrowed from the session: the driver holds addresses, as it would a C program's.
    #[allow(clippy::mut_from_ref, clippy::not_unsafe_ptr_arg_deref)] // Handles are looked up, not dereferenced.
    pub fn bytes(&self, buffer: *mut c_void) -> &mut [u8] {
        let (mut contents, mut size) = (null_mut(), 0);
        // SAFETY: live buffers of this session; the slice is used between calls only.
        unsafe {
            self.expect((self.api.mfa_buffer_contents)(buffer, &mut contents));
            self.expect((self.api.mfa_buffer_size)(buffer, &mut size));
            std::slice::from_raw_parts_mut(contents.cast(), size as usize)
        }
    }

    /// The message of the thread's last failure.
    pub fn message(&self) -> String {
        // SAFETY: a NUL-terminated string that lives until the thread's next failure.
        unsafe { CStr::from_ptr((self.api.mfa_last_error)(null_mut())) }
            .to_string_lossy()
            .into_owned()
    }

    /// Demands success.
    #[track_caller]
    pub fn expect(&self, status: i32) {
        assert_eq!(status, sys::MFA_SUCCESS, "{}", self.message());
    }

    /// Runs the general forward call.
    pub fn forward(&self, desc: &sys::mfa_forward_desc) -> i32 {
        // SAFETY: a descriptor of its struct_size; handles in it are looked up.
        unsafe { (self.api.mfa_forward)(self.context, desc) }
    }

    /// Runs the general backward call.
    pub fn backward(&self, desc: &sys::mfa_backward_desc) -> i32 {
        // SAFETY: a descriptor of its struct_size; handles in it are looked up.
        unsafe { (self.api.mfa_backward)(self.context, desc) }
    }

    /// The plan of a call, of which one descriptor is given.
    pub fn explain(
        &self,
        forward: Option<&sys::mfa_forward_desc>,
        backward: Option<&sys::mfa_backward_desc>,
    ) -> String {
        let forward = forward.map_or(null(), std::ptr::from_ref);
        let backward = backward.map_or(null(), std::ptr::from_ref);
        let (mut text, mut length) = (vec![0u8; 4096], 0);
        // SAFETY: descriptors of their struct_size, room for the text, and a place for its length.
        let status = unsafe {
            let (at, capacity) = (text.as_mut_ptr().cast(), text.len());
            (self.api.mfa_explain)(self.context, forward, backward, at, capacity, &mut length)
        };
        self.expect(status);
        String::from_utf8_lossy(&text[..length]).into_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: a live context.
        unsafe { (self.api.mfa_destroy_context)(self.context) };
    }
}

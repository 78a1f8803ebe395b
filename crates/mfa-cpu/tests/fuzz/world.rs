//! A driver, a context, and what is held against each call.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use mfa_sys as sys;
use mfa_testing::Random;

use crate::arena::{Arena, Piece};
use crate::random::seeded;

/// What must come out of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It is legal.
    Success,
    /// It is not.
    Refusal,
    /// Either.
    Any,
}

/// Statuses that are documented for a call that has not begun to work.
const DOCUMENTED: [i32; 6] = [
    sys::MFA_SUCCESS,
    sys::MFA_ERROR_INVALID_CONTEXT,
    sys::MFA_ERROR_BUFFER_ALLOCATION,
    sys::MFA_ERROR_INVALID_DIMENSIONS,
    sys::MFA_ERROR_INVALID_ARGUMENT,
    sys::MFA_ERROR_UNSUPPORTED,
];

/// Seconds of processor time that no call may need, for each of its threads.
const LONG: f64 = 1.0;
pub(crate) const THREADS: u32 = 2;

/// Calls of an entry, and how many succeeded.
#[derive(Clone, Copy, Default)]
pub(crate) struct Count {
    pub calls: u64,
    pub successes: u64,
}

pub(crate) struct World {
    pub api: sys::Api,
    pub context: *mut c_void,
    pub arena: Arena,
    pub random: Random,
    /// Another driver was named: it may not support everything, and be slow.
    other: bool,
    pub counts: BTreeMap<&'static str, Count>,
    /// What was wrong with the calls of this seed.
    pub violations: Vec<String>,
    /// Buffers of this seed.
    buffers: Vec<*mut c_void>,
    /// A buffer that was destroyed, and a context.
    dead: [*mut c_void; 2],
}

impl World {
    pub(crate) fn new(api: sys::Api) -> Self {
        let mut world = World {
            api,
            context: null_mut(),
            arena: Arena::new(),
            random: seeded(0),
            other: std::env::var_os(sys::DRIVER_VARIABLE).is_some(),
            counts: BTreeMap::new(),
            violations: Vec::new(),
            buffers: Vec::new(),
            dead: [null_mut(); 2],
        };
        // SAFETY: places for handles; live handles are destroyed once.
        unsafe {
            let (mut buffer, mut context) = (null_mut(), null_mut());
            assert_eq!((api.mfa_create_context)(&mut world.context), 0);
            assert_eq!((api.mfa_set_num_threads)(world.context, THREADS), 0);
            assert_eq!((api.mfa_create_buffer)(world.context, 64, &mut buffer), 0);
            assert_eq!((api.mfa_destroy_buffer)(buffer), 0);
            assert_eq!((api.mfa_create_context)(&mut context), 0);
            assert_eq!((api.mfa_destroy_context)(context), 0);
            world.dead = [buffer, context];
        }
        world
    }

    /// Begins a seed.
    pub(crate) fn begin(&mut self, seed: u64) {
        self.random = seeded(seed);
        self.arena.clear();
        self.violations.clear();
    }

    /// Ends it.
    pub(crate) fn end(&mut self) {
        for buffer in self.buffers.drain(..) {
            // SAFETY: live, and destroyed once.
            let status = unsafe { (self.api.mfa_destroy_buffer)(buffer) };
            if status != sys::MFA_SUCCESS {
                (self.violations).push(format!("mfa_destroy_buffer: {status} for a live buffer"));
            }
        }
    }

    /// A handle for a piece of memory.
    pub(crate) fn wrap(&mut self, piece: Piece) -> *mut c_void {
        let mut buffer = null_mut();
        // SAFETY: the piece outlives the buffer.
        let status = unsafe {
            (self.api.mfa_buffer_from_ptr)(
                self.context,
                piece.at.cast(),
                piece.bytes as u64,
                &mut buffer,
            )
        };
        assert_eq!(status, sys::MFA_SUCCESS, "{}", self.message());
        self.buffers.push(buffer);
        buffer
    }

    /// Changes the 32-bit number at a place in a buffer; false if there is none.
    pub(crate) fn poke(&self, buffer: *mut c_void, offset: u64, value: i32) -> bool {
        let (mut contents, mut size) = (null_mut(), 0);
        // SAFETY: places for the answers; the handle is looked up.
        let found = unsafe {
            (self.api.mfa_buffer_contents)(buffer, &mut contents) == sys::MFA_SUCCESS
                && (self.api.mfa_buffer_size)(buffer, &mut size) == sys::MFA_SUCCESS
        };
        let inside = found && offset.checked_add(4).is_some_and(|end| end <= size);
        if inside {
            let at = contents.cast::<u8>().wrapping_add(offset as usize);
            // SAFETY: inside the buffer, which is not in use.
            unsafe { at.cast::<i32>().write_unaligned(value) };
        }
        inside
    }

    /// A handle that no call may take for a buffer.
    pub(crate) fn bad_buffer(&mut self) -> *mut c_void {
        match self.random.below(5) {
            0 => self.dead[0],
            1 => self.context,
            2 => self.random.next() as *mut c_void,
            3 => 7 as *mut c_void,
            _ => self.dead[1],
        }
    }

    /// A handle that no call may take for a context.
    pub(crate) fn bad_context(&mut self) -> *mut c_void {
        match self.random.below(5) {
            0 => self.dead[1],
            1 => null_mut(),
            2 => self.random.next() as *mut c_void,
            3 => self.context.wrapping_byte_add(1),
            _ => self.buffers.first().copied().unwrap_or(self.dead[0]),
        }
    }

    pub(crate) fn message(&self) -> String {
        // SAFETY: a NUL-terminated string that lives until the thread's next failure.
        unsafe { CStr::from_ptr((self.api.mfa_last_error)(null_mut())) }
            .to_string_lossy()
            .into_owned()
    }

    /// Makes one call, which may change the pieces in `outputs`, and holds it to the contract.
    pub(crate) fn call(
        &mut self,
        entry: &'static str,
        expect: Expect,
        outputs: &[usize],
        run: impl FnOnce(&sys::Api) -> i32,
    ) -> i32 {
        crate::progress::entered(entry);
        self.arena.remember();
        let began = processor_seconds();
        let status = run(&self.api);
        let took = processor_seconds() - began;
        let count = self.counts.entry(entry).or_default();
        count.calls += 1;
        count.successes += u64::from(status == sys::MFA_SUCCESS);
        let mut wrong = Vec::new();
        if !DOCUMENTED.contains(&status) {
            wrong.push("not a documented status".to_owned());
        }
        if status != sys::MFA_SUCCESS && self.message().is_empty() {
            wrong.push("no message".to_owned());
        }
        if took > LONG * f64::from(THREADS) && !self.other {
            wrong.push(format!("{took:.1} s of processor time"));
        }
        let may: &[usize] = if status == sys::MFA_SUCCESS {
            outputs
        } else {
            &[]
        };
        if let Some((slot, byte)) = self.arena.changed(may) {
            wrong.push(format!("byte {byte} of piece {slot} was changed"));
        }
        match (expect, status == sys::MFA_SUCCESS) {
            (Expect::Success, false) if self.other && status == sys::MFA_ERROR_UNSUPPORTED => {}
            (Expect::Success, false) => wrong.push("a legal call".to_owned()),
            (Expect::Refusal, true) => wrong.push("accepted".to_owned()),
            _ => {}
        }
        if !wrong.is_empty() {
            let message = if status == 0 {
                String::new()
            } else {
                self.message()
            };
            (self.violations).push(format!(
                "{entry}: {} (status {status}) {message}",
                wrong.join(", ")
            ));
        }
        status
    }
}

/// Of all threads of the process: a machine that is busy with other things does not make a call long.
fn processor_seconds() -> f64 {
    // SAFETY: a place for the time.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
}

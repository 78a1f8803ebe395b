//! Versions, devices, contexts and buffers.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use mfa_sys as sys;

use crate::random::Awkward;
use crate::world::{Expect, World};

impl World {
    /// One of the entries that make, describe and destroy things.
    pub(crate) fn lives(&mut self) {
        match self.random.below(12) {
            0 => self.version(),
            1 => self.texts(),
            2 => self.devices(),
            3 => self.contexts(),
            4 => self.threads(),
            5..8 => self.allocated(),
            8 | 9 => self.wrapped(),
            10 => self.destroyed(),
            _ => self.latency(),
        }
    }

    /// A place for a result of 8 bytes, or NULL; and what to expect.
    fn place_for<T>(&mut self) -> (*mut T, Vec<usize>, Expect) {
        if self.random.one_in(5) {
            return (null_mut(), Vec::new(), Expect::Refusal);
        }
        let piece = self.arena.take(8);
        (piece.at.cast(), vec![piece.slot], Expect::Success)
    }

    fn version(&mut self) {
        let pieces = [4, 4, 4].map(|bytes| self.arena.take(bytes));
        let slots = pieces.map(|piece| piece.slot);
        let [major, minor, patch] = pieces.map(|piece| {
            if self.random.one_in(3) {
                null_mut()
            } else {
                piece.at.cast()
            }
        });
        self.call("mfa_get_version", Expect::Success, &slots, |api| {
            // SAFETY: places for the numbers, or NULL.
            unsafe { (api.mfa_get_version)(major, minor, patch) }
        });
    }

    fn texts(&mut self) {
        let status = self.random.awkward() as i32;
        let handle = self.bad_context();
        self.call("mfa_error_string", Expect::Success, &[], |api| {
            // SAFETY: both return static or kept text.
            unsafe {
                let text = CStr::from_ptr((api.mfa_error_string)(status));
                assert!(!text.is_empty());
            }
            sys::MFA_SUCCESS
        });
        self.call("mfa_last_error", Expect::Success, &[], |api| {
            // SAFETY: as above.
            let text = unsafe { CStr::from_ptr((api.mfa_last_error)(handle)) };
            assert!(text.to_bytes().len() < 1 << 16);
            sys::MFA_SUCCESS
        });
    }

    fn devices(&mut self) {
        let (place, outputs, expect) = self.place_for();
        self.call("mfa_device_count", expect, &outputs, |api| {
            // SAFETY: a place for the number, or NULL.
            unsafe { (api.mfa_device_count)(place) }
        });
        let index = self.random.pick(&[0, 0, 0, 1, u32::MAX, 1 << 31]);
        let capacity = self.random.pick(&[0, 1, 2, 5, 300]);
        let (text, length) = (self.arena.take(capacity), self.arena.take(8));
        let named: *mut std::ffi::c_char = if self.random.one_in(4) {
            null_mut()
        } else {
            text.at.cast()
        };
        let counted: *mut usize = if self.random.one_in(4) {
            null_mut()
        } else {
            length.at.cast()
        };
        let legal = index == 0 && (capacity == 0 || !named.is_null());
        let expect = if legal {
            Expect::Success
        } else {
            Expect::Refusal
        };
        let entry =
            self.random
                .pick(&["mfa_device_name", "mfa_device_vendor", "mfa_device_backend"]);
        self.call(entry, expect, &[text.slot, length.slot], |api| {
            let tell = match entry {
                "mfa_device_name" => api.mfa_device_name,
                "mfa_device_vendor" => api.mfa_device_vendor,
                _ => api.mfa_device_backend,
            };
            // SAFETY: places of these sizes, or NULL.
            unsafe { tell(index, named, capacity, counted) }
        });
        let (place, outputs, expect) = self.place_for();
        let expect = if index == 0 { expect } else { Expect::Refusal };
        self.call("mfa_device_kind", expect, &outputs, |api| {
            // SAFETY: a place for the number, or NULL.
            unsafe { (api.mfa_device_kind)(index, place) }
        });
        let (place, outputs, _) = self.place_for();
        self.call("mfa_device_registry_id", Expect::Refusal, &outputs, |api| {
            // SAFETY: a place for the number, or NULL.
            unsafe { (api.mfa_device_registry_id)(index, place) }
        });
    }

    fn contexts(&mut self) {
        let (place, outputs, expect) = self.place_for::<*mut c_void>();
        let index = self.random.pick(&[0, 0, 1, u32::MAX]);
        let on = self.random.one_in(2);
        let (entry, expect) = match (on, index) {
            (false, _) => ("mfa_create_context", expect),
            (true, 0) => ("mfa_create_context_on", expect),
            (true, _) => ("mfa_create_context_on", Expect::Refusal),
        };
        let status = self.call(entry, expect, &outputs, |api| {
            // SAFETY: a place for the handle, or NULL.
            unsafe {
                if on {
                    (api.mfa_create_context_on)(index, place)
                } else {
                    (api.mfa_create_context)(place)
                }
            }
        });
        if status == sys::MFA_SUCCESS && !place.is_null() {
            // SAFETY: the handle was written there.
            let context = unsafe { place.read_unaligned() };
            for expect in [Expect::Success, Expect::Refusal] {
                // SAFETY: a live handle, then a dead one.
                self.call("mfa_destroy_context", expect, &[], |api| unsafe {
                    (api.mfa_destroy_context)(context)
                });
            }
        }
        // SAFETY: NULL is fine.
        self.call("mfa_destroy_context", Expect::Success, &[], |api| unsafe {
            (api.mfa_destroy_context)(null_mut())
        });
    }

    /// A context to call with, and whether it is a bad one: one in `n` is.
    fn some_context(&mut self, n: u64) -> (*mut c_void, bool) {
        let bad = self.random.one_in(n);
        let context = if bad {
            self.bad_context()
        } else {
            self.context
        };
        (context, bad)
    }

    fn threads(&mut self) {
        let (context, bad) = self.some_context(4);
        let (place, outputs, expect) = self.place_for();
        let expect = if bad { Expect::Refusal } else { expect };
        self.call("mfa_get_num_threads", expect, &outputs, |api| {
            // SAFETY: a place for the number, or NULL.
            unsafe { (api.mfa_get_num_threads)(context, place) }
        });
        let (threads, legal) = self.random.pick(&[
            (1, true),
            (2, true),
            (3, true),
            (u32::MAX, false),
            (1 << 20, false),
        ]);
        let expect = if legal && !bad {
            Expect::Success
        } else {
            Expect::Refusal
        };
        self.call("mfa_set_num_threads", expect, &[], |api| {
            // SAFETY: looks the handle up.
            unsafe { (api.mfa_set_num_threads)(context, threads) }
        });
        let own = self.context;
        // SAFETY: a live context.
        let status = unsafe { (self.api.mfa_set_num_threads)(own, crate::world::THREADS) };
        assert_eq!(status, sys::MFA_SUCCESS);
    }

    fn latency(&mut self) {
        let (context, bad) = self.some_context(3);
        let (place, outputs, expect) = self.place_for();
        let expect = if bad { Expect::Refusal } else { expect };
        self.call("mfa_get_latency", expect, &outputs, |api| {
            // SAFETY: a place for the number, or NULL.
            unsafe { (api.mfa_get_latency)(context, place) }
        });
    }

    /// A buffer of the driver's, its contents and size.
    fn allocated(&mut self) {
        let size = self.random.pick(&[
            0,
            1,
            63,
            64,
            65,
            4096,
            1 << 20,
            1 << 45,
            1 << 60,
            u64::MAX,
            u64::MAX - 63,
        ]);
        let (place, outputs, expect) = self.place_for::<*mut c_void>();
        let expect = if size > 1 << 44 {
            Expect::Refusal
        } else {
            expect
        };
        let context = self.context;
        let status = self.call("mfa_create_buffer", expect, &outputs, |api| {
            // SAFETY: a place for the handle, or NULL.
            unsafe { (api.mfa_create_buffer)(context, size, place) }
        });
        if status != sys::MFA_SUCCESS || place.is_null() {
            return;
        }
        // SAFETY: the handle was written there.
        let buffer = unsafe { place.read_unaligned() };
        let (contents, outputs, expect) = self.place_for::<*mut c_void>();
        let status = self.call("mfa_buffer_contents", expect, &outputs, |api| {
            // SAFETY: a place for the address, or NULL.
            unsafe { (api.mfa_buffer_contents)(buffer, contents) }
        });
        if status == sys::MFA_SUCCESS && size > 0 {
            // SAFETY: the address was written there; the buffer has `size` bytes.
            unsafe {
                let start = contents.read_unaligned().cast::<u8>();
                let aligned = (start as usize).is_multiple_of(64);
                let zero = start.read() == 0 && start.add(size as usize - 1).read() == 0;
                start.write(1);
                start.add(size as usize - 1).write(1);
                if !aligned || !zero {
                    (self.violations).push("mfa_create_buffer: not aligned or not zero".to_owned());
                }
            }
        }
        let (bytes, outputs, expect) = self.place_for::<u64>();
        let status = self.call("mfa_buffer_size", expect, &outputs, |api| {
            // SAFETY: a place for the number, or NULL.
            unsafe { (api.mfa_buffer_size)(buffer, bytes) }
        });
        // SAFETY: the size was written there.
        if status == sys::MFA_SUCCESS && unsafe { bytes.read_unaligned() } != size {
            (self.violations).push("mfa_buffer_size: another size".to_owned());
        }
        for expect in [Expect::Success, Expect::Refusal] {
            // SAFETY: a live handle, then a dead one.
            self.call("mfa_destroy_buffer", expect, &[], |api| unsafe {
                (api.mfa_destroy_buffer)(buffer)
            });
        }
    }

    /// A buffer over memory that is not there, or is.
    fn wrapped(&mut self) {
        let piece = self.arena.take(16);
        let (data, size, legal) = match self.random.below(4) {
            0 => (null_mut(), 1 << self.random.below(63), false),
            1 => (null_mut(), 0, true),
            2 => (piece.at.cast(), 0, true),
            _ => (piece.at.cast(), 16, true),
        };
        let (context, bad) = self.some_context(4);
        let (place, outputs, expect) = self.place_for::<*mut c_void>();
        let expect = if legal && !bad {
            expect
        } else {
            Expect::Refusal
        };
        let status = self.call("mfa_buffer_from_ptr", expect, &outputs, |api| {
            // SAFETY: the memory is there, or NULL is to be refused.
            unsafe { (api.mfa_buffer_from_ptr)(context, data, size, place) }
        });
        if status == sys::MFA_SUCCESS && !place.is_null() {
            // SAFETY: the handle was written there.
            let buffer = unsafe { place.read_unaligned() };
            // SAFETY: live, destroyed once.
            self.call("mfa_destroy_buffer", Expect::Success, &[], |api| unsafe {
                (api.mfa_destroy_buffer)(buffer)
            });
        }
    }

    /// Handles that are none.
    fn destroyed(&mut self) {
        let (buffer, context) = (self.bad_buffer(), self.bad_context());
        let (place, outputs, _) = self.place_for();
        self.call("mfa_buffer_contents", Expect::Refusal, &outputs, |api| {
            // SAFETY: a place for the address, or NULL.
            unsafe { (api.mfa_buffer_contents)(buffer, place) }
        });
        let (place, outputs, _) = self.place_for();
        self.call("mfa_buffer_size", Expect::Refusal, &outputs, |api| {
            // SAFETY: a place for the number, or NULL.
            unsafe { (api.mfa_buffer_size)(buffer, place) }
        });
        // SAFETY: looked up.
        self.call("mfa_destroy_buffer", Expect::Refusal, &[], |api| unsafe {
            (api.mfa_destroy_buffer)(buffer)
        });
        let expect = if context.is_null() {
            Expect::Success
        } else {
            Expect::Refusal
        };
        // SAFETY: looked up.
        self.call("mfa_destroy_context", expect, &[], |api| unsafe {
            (api.mfa_destroy_context)(context)
        });
    }
}

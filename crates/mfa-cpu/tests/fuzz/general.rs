//! The general calls: legal ones, and ones with something spoiled.

use std::ffi::c_void;
use std::ptr::null;

use mfa_sys as sys;

use crate::grammar::{Kind, NO_QUANTIZATION, Role, Subject};
use crate::mutate;
use crate::world::{Expect, World};

/// Products of a call (query rows times keys times columns) that are done in far less than a second.
const SMALL: f64 = 3e6;
/// Prints what is called.
const SHOW: &str = "MFA_FUZZ_SHOW";
/// Bytes of D that cannot be had.
const IMPOSSIBLE: f64 = (1u64 << 40) as f64;

/// A descriptor in memory that ends at a forbidden page.
enum Descriptor {
    Forward(*const sys::mfa_forward_desc),
    Backward(*const sys::mfa_backward_desc),
    Quantize(*const sys::mfa_quantize_desc),
    Dequantize([*const sys::mfa_tensor; 2]),
    Merge(*const sys::mfa_merge_desc),
    MergeBackward(*const sys::mfa_merge_backward_desc),
}

impl World {
    /// One call of a kind, with what can be asked about it.
    pub(crate) fn general(&mut self, kind: Kind) {
        let mut subject = match kind {
            Kind::Forward | Kind::Backward => self.attention(kind),
            Kind::Quantize | Kind::Dequantize => self.rounding(kind),
            Kind::Merge | Kind::MergeBackward => self.merge(kind),
        };
        let changes = self.random.pick(&[0, 0, 0, 1, 1, 1, 1, 2, 3, 4]);
        let mut expect = if changes == 0 {
            Expect::Success
        } else {
            Expect::Any
        };
        for _ in 0..changes {
            let illegal = mutate::mutate(self, &mut subject);
            if changes == 1 && illegal {
                expect = Expect::Refusal;
            }
        }
        let bad_context = self.random.one_in(60).then(|| self.bad_context());
        if bad_context.is_some() {
            expect = Expect::Refusal;
        }
        let context = bad_context.unwrap_or(self.context);
        let descriptor = self.place(&mut subject);
        let outputs = subject.outputs.clone();
        if std::env::var_os(SHOW).is_some() {
            println!("{expect:?} after {changes} changes: {subject:#?}");
        }
        let work = work(&subject);
        match descriptor {
            Descriptor::Forward(desc) => {
                self.ask(context, desc, null(), expect);
                if runs(&subject, work) {
                    // SAFETY: a descriptor of its struct_size.
                    self.call("mfa_forward", expect, &outputs, |api| unsafe {
                        (api.mfa_forward)(context, desc)
                    });
                }
            }
            Descriptor::Backward(desc) => {
                self.ask(context, null(), desc, expect);
                if runs(&subject, work) {
                    // SAFETY: a descriptor of its struct_size.
                    self.call("mfa_backward", expect, &outputs, |api| unsafe {
                        (api.mfa_backward)(context, desc)
                    });
                }
            }
            Descriptor::Quantize(desc) if runs(&subject, work) => {
                // SAFETY: a descriptor of its struct_size.
                self.call("mfa_quantize", expect, &outputs, |api| unsafe {
                    (api.mfa_quantize)(context, desc)
                });
            }
            Descriptor::Dequantize([source, destination]) if runs(&subject, work) => {
                self.call("mfa_dequantize", expect, &outputs, |api| {
                    // SAFETY: two tensors, or NULL.
                    unsafe { (api.mfa_dequantize)(context, source, destination) }
                });
            }
            Descriptor::Merge(desc) if runs(&subject, work) => {
                self.call("mfa_merge", expect, &outputs, |api| {
                    // SAFETY: a descriptor of its struct_size.
                    unsafe { (api.mfa_merge)(context, desc) }
                });
            }
            Descriptor::MergeBackward(desc) if runs(&subject, work) => {
                self.call("mfa_merge_backward", expect, &outputs, |api| {
                    // SAFETY: a descriptor of its struct_size.
                    unsafe { (api.mfa_merge_backward)(context, desc) }
                });
            }
            // Much work.
            _ => {}
        }
    }

    /// Asks about a call, sometimes.
    fn ask(
        &mut self,
        context: *mut c_void,
        forward: *const sys::mfa_forward_desc,
        backward: *const sys::mfa_backward_desc,
        expect: Expect,
    ) {
        // To ask needs no memory: what is wrong with it alone is not noticed.
        let expect = if expect == Expect::Refusal {
            Expect::Any
        } else {
            expect
        };
        if self.random.one_in(4) {
            let bytes = self.arena.take(8);
            self.call("mfa_workspace_size", expect, &[bytes.slot], |api| {
                // SAFETY: descriptors of their struct_size, and a place for the answer.
                unsafe { (api.mfa_workspace_size)(context, forward, backward, bytes.at.cast()) }
            });
        }
        if self.random.one_in(4) {
            let capacity = self.random.pick(&[0, 1, 20, 5000]);
            let (text, length) = (self.arena.take(capacity), self.arena.take(8));
            self.call("mfa_explain", expect, &[text.slot, length.slot], |api| {
                // SAFETY: as above; `capacity` bytes of text.
                unsafe {
                    (api.mfa_explain)(
                        context,
                        forward,
                        backward,
                        text.at.cast(),
                        capacity,
                        length.at.cast(),
                    )
                }
            });
        }
    }

    /// Gives structs their addresses.
    fn place(&mut self, subject: &mut Subject) -> Descriptor {
        for at in 0..subject.views.len() {
            let view = subject.views[at];
            subject.views[at].tensor.quantization = match view.quantization {
                Some(quantization) => {
                    let bytes = struct_bytes(quantization.struct_size);
                    self.arena.put(&quantization, bytes, subject.filling)
                }
                None => NO_QUANTIZATION,
            };
        }
        let options = match subject.options {
            Some(mut options) => {
                options.mask = subject.tensor(Role::Mask);
                options.alibi_slopes = subject.tensor(Role::Slopes);
                options.sinks = subject.tensor(Role::Sinks);
                let bytes = struct_bytes(options.struct_size);
                self.arena.put(&options, bytes, subject.filling)
            }
            None => null(),
        };
        let bytes = struct_bytes(subject.struct_size);
        let t = |role| subject.tensor(role);
        match subject.kind {
            Kind::Forward => {
                let desc = sys::mfa_forward_desc {
                    struct_size: subject.struct_size,
                    reserved: subject.reserved,
                    query: t(Role::Query),
                    key: t(Role::Key),
                    value: t(Role::Value),
                    output: t(Role::Output),
                    logsumexp: t(Role::Logsumexp),
                    options,
                    ..sys::mfa_forward_desc::new()
                };
                Descriptor::Forward(self.arena.put(&desc, bytes, subject.filling))
            }
            Kind::Backward => {
                let desc = sys::mfa_backward_desc {
                    struct_size: subject.struct_size,
                    flags: subject.flags,
                    query: t(Role::Query),
                    key: t(Role::Key),
                    value: t(Role::Value),
                    output: t(Role::Output),
                    grad_output: t(Role::GradOutput),
                    logsumexp: t(Role::Logsumexp),
                    d_values: t(Role::DValues),
                    grad_query: t(Role::GradQuery),
                    grad_key: t(Role::GradKey),
                    grad_value: t(Role::GradValue),
                    grad_mask: t(Role::GradMask),
                    grad_sinks: t(Role::GradSinks),
                    options,
                    grad_logsumexp: t(Role::GradLogsumexp),
                    ..sys::mfa_backward_desc::new()
                };
                Descriptor::Backward(self.arena.put(&desc, bytes, subject.filling))
            }
            Kind::Quantize => {
                let mut desc = sys::mfa_quantize_desc {
                    struct_size: subject.struct_size,
                    flags: subject.flags,
                    source: t(Role::Source),
                    destination: t(Role::Destination),
                    ..sys::mfa_quantize_desc::new()
                };
                if subject.error {
                    let piece = self.arena.take(size_of::<sys::mfa_quantization_error>());
                    subject.outputs.push(piece.slot);
                    desc.error = piece.at.cast();
                }
                Descriptor::Quantize(self.arena.put(&desc, bytes, subject.filling))
            }
            Kind::Dequantize => {
                let size = size_of::<sys::mfa_tensor>();
                let pair = [Role::Source, Role::Destination].map(t);
                Descriptor::Dequantize(pair.map(|tensor| self.arena.put(&tensor, size, 0)))
            }
            Kind::Merge => {
                let desc = sys::mfa_merge_desc {
                    struct_size: subject.struct_size,
                    count: subject.count,
                    outputs: self.parts(subject, Role::PartOutput),
                    logsumexps: self.parts(subject, Role::PartLogsumexp),
                    output: t(Role::Output),
                    logsumexp: t(Role::Logsumexp),
                    ..sys::mfa_merge_desc::new()
                };
                Descriptor::Merge(self.arena.put(&desc, bytes, subject.filling))
            }
            Kind::MergeBackward => {
                let desc = sys::mfa_merge_backward_desc {
                    struct_size: subject.struct_size,
                    count: subject.count,
                    outputs: self.parts(subject, Role::PartOutput),
                    logsumexps: self.parts(subject, Role::PartLogsumexp),
                    grad_output: t(Role::GradOutput),
                    grad_logsumexp: t(Role::GradLogsumexp),
                    grad_outputs: self.parts(subject, Role::GradPartOutput),
                    grad_logsumexps: self.parts(subject, Role::GradPartLogsumexp),
                    ..sys::mfa_merge_backward_desc::new()
                };
                Descriptor::MergeBackward(self.arena.put(&desc, bytes, subject.filling))
            }
        }
    }

    /// The tensors of the parts of a merge, one after the other; NULL if there are none.
    fn parts(&mut self, subject: &Subject, role: Role) -> *const sys::mfa_tensor {
        let mut tensors: Vec<_> = (subject.views.iter())
            .filter(|view| view.role == role)
            .map(|view| view.tensor)
            .collect();
        if tensors.is_empty() {
            return null();
        }
        let size = size_of::<sys::mfa_tensor>();
        tensors.resize(subject.count.max(1) as usize, sys::mfa_tensor::ABSENT);
        let piece = self.arena.take(size * tensors.len());
        for (at, tensor) in tensors.iter().enumerate() {
            let to = piece.at.wrapping_add(at * size).cast::<sys::mfa_tensor>();
            // SAFETY: inside the piece.
            unsafe { to.write_unaligned(*tensor) };
        }
        piece.at.cast()
    }
}

/// The bytes of a struct that says this size: at least the size itself can be read.
fn struct_bytes(struct_size: u32) -> usize {
    (struct_size as usize).clamp(4, 1 << 12)
}

/// Products that a call would compute, as far as its shapes tell.
fn work(subject: &Subject) -> f64 {
    let shape = |role| subject.tensor(role).shape.map(|n| n as f64);
    match subject.kind {
        Kind::Forward | Kind::Backward => {
            let [batch, heads, rows, d] = shape(Role::Query);
            let [_, _, keys, dv] = shape(Role::Value);
            batch * heads * rows * keys.max(1.0) * (d + dv)
        }
        Kind::Merge | Kind::MergeBackward => {
            shape(Role::PartOutput).into_iter().product::<f64>() * f64::from(subject.count)
        }
        _ => shape(Role::Source).into_iter().product(),
    }
}

/// Whether a call is made: one with much work only if its temporary memory cannot be had.
fn runs(subject: &Subject, work: f64) -> bool {
    let [batch, heads, rows, _] = subject.tensor(Role::Query).shape.map(|n| n as f64);
    let wanted = |role| !subject.tensor(role).buffer.is_null();
    let needs_d = [
        Role::GradQuery,
        Role::GradKey,
        Role::GradMask,
        Role::GradSinks,
    ]
    .into_iter()
    .any(wanted);
    let keeps_d = subject.kind == Kind::Backward && needs_d && !wanted(Role::DValues);
    work <= SMALL || (keeps_d && 4.0 * batch * heads * rows >= IMPOSSIBLE)
}

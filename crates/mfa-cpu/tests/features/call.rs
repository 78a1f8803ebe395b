//! The same through the C contract.

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

use half::{bf16, f16};
use mfa_sys as sys;

use crate::formula::Problem;

/// What forward and backward give.
#[derive(Clone)]
pub(crate) struct Results {
    pub output: Vec<f64>,
    pub logsumexp: Vec<f64>,
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dv: Vec<f64>,
    pub dmask: Vec<f64>,
    pub dsinks: Vec<f64>,
}

/// A context.
pub(crate) struct Driver {
    api: sys::Api,
    context: *mut c_void,
}

fn code(precision: &str) -> i32 {
    match precision {
        "fp64" => sys::MFA_PRECISION_FP64,
        "fp32" => sys::MFA_PRECISION_FP32,
        "fp16" => sys::MFA_PRECISION_FP16,
        _ => sys::MFA_PRECISION_BF16,
    }
}

/// What logsumexp and gradients are stored in beside `precision`.
fn exact(precision: &str) -> &'static str {
    if precision == "fp64" { "fp64" } else { "fp32" }
}

fn encode(values: &[f64], precision: &str) -> Vec<u8> {
    let bytes = |x: &f64| match precision {
        "fp64" => x.to_le_bytes().to_vec(),
        "fp32" => (*x as f32).to_le_bytes().to_vec(),
        "fp16" => f16::from_f64(*x).to_le_bytes().to_vec(),
        _ => bf16::from_f64(*x).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}

fn decode(bytes: &[u8], precision: &str) -> Vec<f64> {
    match precision {
        "fp64" => (bytes.chunks_exact(8))
            .map(|b| f64::from_le_bytes(std::array::from_fn(|i| b[i])))
            .collect(),
        "fp32" => (bytes.chunks_exact(4))
            .map(|b| f64::from(f32::from_le_bytes(std::array::from_fn(|i| b[i]))))
            .collect(),
        _ => (bytes.chunks_exact(2))
            .map(|b| f16::from_le_bytes(std::array::from_fn(|i| b[i])).to_f64())
            .collect(),
    }
}

impl Driver {
    pub(crate) fn new() -> Self {
        let api = mfa_cpu::api();
        let mut context = null_mut();
        // SAFETY: a place for the handle.
        let status = unsafe { (api.mfa_create_context)(&mut context) };
        assert_eq!(status, sys::MFA_SUCCESS);
        Driver { api, context }
    }

    fn buffer(&self, bytes: &[u8]) -> *mut c_void {
        let mut buffer = null_mut();
        // SAFETY: a place for the handle.
        let status =
            unsafe { (self.api.mfa_create_buffer)(self.context, bytes.len() as u64, &mut buffer) };
        self.expect(status);
        self.contents(buffer).copy_from_slice(bytes);
        buffer
    }

    #[allow(clippy::mut_from_ref)] // A window on the buffer's memory, used between calls only.
    fn contents(&self, buffer: *mut c_void) -> &mut [u8] {
        let (mut contents, mut size) = (null_mut(), 0);
        // SAFETY: a live buffer, used between calls only.
        unsafe {
            (self.api.mfa_buffer_contents)(buffer, &mut contents);
            (self.api.mfa_buffer_size)(buffer, &mut size);
            std::slice::from_raw_parts_mut(contents.cast(), size as usize)
        }
    }

    #[track_caller]
    fn expect(&self, status: i32) {
        // SAFETY: a NUL-terminated string.
        let message = unsafe { CStr::from_ptr((self.api.mfa_last_error)(null_mut())) };
        assert_eq!(status, sys::MFA_SUCCESS, "{message:?}");
    }

    fn tensor(&self, values: &[f64], shape: [usize; 4], precision: &str) -> sys::mfa_tensor {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let mut strides = [1i64; 4];
        for axis in (0..3).rev() {
            strides[axis] = strides[axis + 1] * shape[axis + 1].max(1) as i64;
        }
        sys::mfa_tensor {
            buffer: self.buffer(&encode(values, precision)),
            precision: code(precision),
            shape: shape.map(|n| n as u64),
            strides,
            ..sys::mfa_tensor::ABSENT
        }
    }

    /// A tensor to be written, full of NaN.
    fn room(&self, shape: [usize; 4], precision: &str) -> sys::mfa_tensor {
        self.tensor(&vec![f64::NAN; shape.iter().product()], shape, precision)
    }

    fn read(&self, tensor: &sys::mfa_tensor, precision: &str) -> Vec<f64> {
        decode(self.contents(tensor.buffer), precision)
    }

    fn integers(&self, values: &[usize]) -> *mut c_void {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|n| (*n as i32).to_le_bytes())
            .collect();
        self.buffer(&bytes)
    }

    fn parts(&self, p: &Problem, parts: &[Results], precision: &str) -> [Vec<sys::mfa_tensor>; 2] {
        let ([b, h, _], [nq, _], dv) = (p.counts, p.rows, p.columns[1]);
        [
            (parts
                .iter()
                .map(|part| self.tensor(&part.output, [b, h, nq, dv], precision)))
            .collect(),
            (parts
                .iter()
                .map(|part| self.tensor(&part.logsumexp, [b, h, nq, 1], exact(precision))))
            .collect(),
        ]
    }

    /// Merges the results on parts of the keys.
    pub(crate) fn merge(&self, p: &Problem, parts: &[Results], precision: &str) -> Results {
        let [outputs, logsumexps] = self.parts(p, parts, precision);
        let ([b, h, _], [nq, _], dv) = (p.counts, p.rows, p.columns[1]);
        let desc = sys::mfa_merge_desc {
            count: parts.len() as u32,
            outputs: outputs.as_ptr(),
            logsumexps: logsumexps.as_ptr(),
            output: self.room([b, h, nq, dv], precision),
            logsumexp: self.room([b, h, nq, 1], exact(precision)),
            ..sys::mfa_merge_desc::new()
        };
        // SAFETY: descriptors of live buffers.
        self.expect(unsafe { (self.api.mfa_merge)(self.context, &desc) });
        Results {
            output: self.read(&desc.output, precision),
            logsumexp: self.read(&desc.logsumexp, exact(precision)),
            ..parts[0].clone()
        }
    }

    /// The gradients of each part's output and logsumexp.
    pub(crate) fn merge_backward(
        &self,
        p: &Problem,
        parts: &[Results],
        precision: &str,
    ) -> Vec<(Vec<f64>, Vec<f64>)> {
        let [outputs, logsumexps] = self.parts(p, parts, precision);
        let ([b, h, _], [nq, _], dv) = (p.counts, p.rows, p.columns[1]);
        let kept = exact(precision);
        let room = |columns: usize| -> Vec<_> {
            parts
                .iter()
                .map(|_| self.room([b, h, nq, columns], kept))
                .collect()
        };
        let (grad_outputs, grad_logsumexps) = (room(dv), room(1));
        let desc = sys::mfa_merge_backward_desc {
            count: parts.len() as u32,
            outputs: outputs.as_ptr(),
            logsumexps: logsumexps.as_ptr(),
            grad_output: self.tensor(&p.d_output, [b, h, nq, dv], precision),
            grad_logsumexp: self.tensor(&p.d_logsumexp, [b, h, nq, 1], kept),
            grad_outputs: grad_outputs.as_ptr(),
            grad_logsumexps: grad_logsumexps.as_ptr(),
            ..sys::mfa_merge_backward_desc::new()
        };
        // SAFETY: descriptors of live buffers.
        self.expect(unsafe { (self.api.mfa_merge_backward)(self.context, &desc) });
        (grad_outputs.iter().zip(&grad_logsumexps))
            .map(|(output, logsumexp)| (self.read(output, kept), self.read(logsumexp, kept)))
            .collect()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // SAFETY: a live context.
        unsafe { (self.api.mfa_destroy_context)(self.context) };
    }
}

/// A forward and a backward call.
pub(crate) struct Call<'a> {
    driver: &'a Driver,
    problem: &'a Problem,
    precision: &'static str,
    /// What sinks and slopes are stored in.
    pub small: &'static str,
    memory: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn new(driver: &'a Driver, problem: &'a Problem, precision: &'static str) -> Self {
        Call {
            driver,
            problem,
            precision,
            small: exact(precision),
            memory: true,
        }
    }

    /// From now on no tensor has any.
    pub(crate) fn forget_buffers(&mut self) {
        self.memory = false;
    }

    fn options(&self) -> sys::mfa_attention_options {
        let (driver, p) = (self.driver, self.problem);
        let heads = p.counts[1];
        let per_head = |values: &Option<Vec<f64>>| match values {
            Some(values) => driver.tensor(values, [1, heads, 1, 1], self.small),
            None => sys::mfa_tensor::ABSENT,
        };
        let [sequences, rows, columns] = p.mask_shape();
        let (left, right) = p.window.unwrap_or((0, 0));
        let mut options = sys::mfa_attention_options {
            flags: if p.causal { sys::MFA_OPTION_CAUSAL } else { 0 }
                | if p.window.is_some() {
                    sys::MFA_OPTION_WINDOW
                } else {
                    0
                },
            softcap: p.softcap,
            alignment: i32::from(p.bottom_right),
            window_left: left,
            window_right: right,
            mask: match &p.mask {
                Some(mask) => {
                    driver.tensor(mask, [sequences, 1, rows, columns], exact(self.precision))
                }
                None => sys::mfa_tensor::ABSENT,
            },
            alibi_slopes: per_head(&p.slopes),
            sinks: per_head(&p.sinks),
            ..sys::mfa_attention_options::new()
        };
        if let Some((q, k)) = &p.packed {
            options.sequence_count = q.len() as u32 - 1;
            options.cu_seqlens_q = driver.integers(q);
            options.cu_seqlens_k = driver.integers(k);
        }
        if let Some(lengths) = &p.lengths {
            options.seqlens_k = driver.integers(lengths);
        }
        options
    }

    fn forward(&self) -> sys::mfa_forward_desc {
        let (driver, p, kept) = (self.driver, self.problem, exact(self.precision));
        let ([b, h, kv], [nq, nk], [d, dv]) = (p.counts, p.rows, p.columns);
        sys::mfa_forward_desc {
            query: driver.tensor(&p.q, [b, h, nq, d], self.precision),
            key: driver.tensor(&p.k, [b, kv, nk, d], self.precision),
            value: driver.tensor(&p.v, [b, kv, nk, dv], self.precision),
            output: driver.room([b, h, nq, dv], kept),
            logsumexp: driver.room([b, h, nq, 1], kept),
            ..sys::mfa_forward_desc::new()
        }
    }

    fn backward(&self, of: &sys::mfa_forward_desc) -> sys::mfa_backward_desc {
        let (driver, p, kept) = (self.driver, self.problem, exact(self.precision));
        let ([b, h, kv], [nq, nk], [d, dv]) = (p.counts, p.rows, p.columns);
        let [sequences, rows, columns] = p.mask_shape();
        let optional = |wanted: bool, shape| match wanted {
            true => driver.room(shape, kept),
            false => sys::mfa_tensor::ABSENT,
        };
        sys::mfa_backward_desc {
            query: of.query,
            key: of.key,
            value: of.value,
            logsumexp: of.logsumexp,
            grad_output: driver.tensor(&p.d_output, [b, h, nq, dv], self.precision),
            grad_logsumexp: driver.tensor(&p.d_logsumexp, [b, h, nq, 1], kept),
            grad_query: driver.room([b, h, nq, d], kept),
            grad_key: driver.room([b, kv, nk, d], kept),
            grad_value: driver.room([b, kv, nk, dv], kept),
            grad_mask: optional(p.mask.is_some(), [sequences, 1, rows, columns]),
            grad_sinks: optional(p.sinks.is_some(), [1, h, 1, 1]),
            ..sys::mfa_backward_desc::new()
        }
    }

    pub(crate) fn run(&self) -> Results {
        let (driver, kept) = (self.driver, exact(self.precision));
        let options = self.options();
        let forward = sys::mfa_forward_desc {
            options: &raw const options,
            ..self.forward()
        };
        let backward = sys::mfa_backward_desc {
            options: &raw const options,
            ..self.backward(&forward)
        };
        // SAFETY: descriptors of live buffers.
        unsafe {
            driver.expect((driver.api.mfa_forward)(driver.context, &forward));
            driver.expect((driver.api.mfa_backward)(driver.context, &backward));
        }
        let optional = |tensor: &sys::mfa_tensor| match tensor.buffer.is_null() {
            true => Vec::new(),
            false => driver.read(tensor, kept),
        };
        Results {
            output: driver.read(&forward.output, kept),
            logsumexp: driver.read(&forward.logsumexp, kept),
            dq: driver.read(&backward.grad_query, kept),
            dk: driver.read(&backward.grad_key, kept),
            dv: driver.read(&backward.grad_value, kept),
            dmask: optional(&backward.grad_mask),
            dsinks: optional(&backward.grad_sinks),
        }
    }

    /// The plans of forward and backward.
    pub(crate) fn explain(&self) -> [String; 2] {
        let mut options = self.options();
        let mut forward = self.forward();
        let mut backward = self.backward(&forward);
        if !self.memory {
            let tensors = [
                &mut options.mask,
                &mut forward.query,
                &mut forward.key,
                &mut forward.value,
                &mut forward.output,
                &mut forward.logsumexp,
                &mut backward.query,
                &mut backward.key,
                &mut backward.value,
                &mut backward.logsumexp,
                &mut backward.grad_output,
                &mut backward.grad_logsumexp,
                &mut backward.grad_query,
                &mut backward.grad_key,
                &mut backward.grad_value,
                &mut backward.grad_mask,
            ];
            tensors
                .into_iter()
                .for_each(|tensor| tensor.buffer = null_mut());
        }
        (forward.options, backward.options) = (&raw const options, &raw const options);
        let text = |forward: *const sys::mfa_forward_desc,
                    backward: *const sys::mfa_backward_desc| {
            let mut text = vec![0u8; 4096];
            let mut length = 0;
            // SAFETY: descriptors, and room for the text.
            let status = unsafe {
                (self.driver.api.mfa_explain)(
                    self.driver.context,
                    forward,
                    backward,
                    text.as_mut_ptr().cast(),
                    text.len(),
                    &mut length,
                )
            };
            self.driver.expect(status);
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        [text(&forward, null()), text(null(), &backward)]
    }
}

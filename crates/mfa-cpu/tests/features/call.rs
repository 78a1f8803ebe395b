//! The same through the C contract.

use std::ptr::null_mut;

use mfa_sys as sys;
use mfa_testing::{Array, Forward, Gradients, Layout, Session};

use crate::formula::Problem;

/// What forward and backward give.
#[derive(Clone)]
pub(crate) struct Results {
    pub forward: Forward,
    pub gradients: Gradients,
}

impl Results {
    /// All of them and their names.
    pub(crate) fn all(&self) -> Vec<(&'static str, &Array)> {
        let forward = [
            ("output", &self.forward.output),
            ("logsumexp", &self.forward.logsumexp),
        ];
        let gradients = self.gradients.all();
        let gradients = gradients
            .into_iter()
            .filter_map(|(name, array)| Some((name, array?)));
        forward.into_iter().chain(gradients).collect()
    }
}

pub(crate) fn code(precision: &str) -> i32 {
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

/// A session, and its tensors by the names of precisions.
pub(crate) struct Driver(Session);

impl Driver {
    pub(crate) fn new() -> Self {
        Driver(Session::new(mfa_cpu::api()))
    }

    fn tensor(&self, values: &[f64], shape: [usize; 4], precision: &str) -> sys::mfa_tensor {
        let array = Array::new(shape, values.to_vec());
        self.0.store(&array, code(precision), Layout::Packed)
    }

    /// A tensor to be written, full of NaN.
    fn room(&self, shape: [usize; 4], precision: &str) -> sys::mfa_tensor {
        let array = Array::full(shape, f64::NAN);
        self.0.store(&array, code(precision), Layout::Packed)
    }

    fn read(&self, tensor: &sys::mfa_tensor) -> Array {
        self.0.load(tensor)
    }

    fn parts(&self, p: &Problem, parts: &[Results], precision: &str) -> [Vec<sys::mfa_tensor>; 2] {
        let ([b, h, _], [nq, _], dv) = (p.counts, p.rows, p.columns[1]);
        [
            (parts
                .iter()
                .map(|part| self.tensor(&part.forward.output.values, [b, h, nq, dv], precision)))
            .collect(),
            (parts.iter().map(|part| {
                self.tensor(
                    &part.forward.logsumexp.values,
                    [b, h, nq, 1],
                    exact(precision),
                )
            }))
            .collect(),
        ]
    }

    /// Merges the results on parts of the keys.
    pub(crate) fn merge(&self, p: &Problem, parts: &[Results], precision: &str) -> Forward {
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
        self.0
            .expect(unsafe { (self.0.api.mfa_merge)(self.0.context, &desc) });
        Forward {
            output: self.read(&desc.output),
            logsumexp: self.read(&desc.logsumexp),
        }
    }

    /// The gradients of each part's output and logsumexp.
    pub(crate) fn merge_backward(
        &self,
        p: &Problem,
        parts: &[Results],
        precision: &str,
    ) -> Vec<(Array, Array)> {
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
        self.0
            .expect(unsafe { (self.0.api.mfa_merge_backward)(self.0.context, &desc) });
        (grad_outputs.iter().zip(&grad_logsumexps))
            .map(|(output, logsumexp)| (self.read(output), self.read(logsumexp)))
            .collect()
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
            options.cu_seqlens_q = driver.0.integers(q.iter().copied());
            options.cu_seqlens_k = driver.0.integers(k.iter().copied());
        }
        if let Some(lengths) = &p.lengths {
            options.seqlens_k = driver.0.integers(lengths.iter().copied());
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
            d_values: driver.room([b, h, nq, 1], kept),
            grad_mask: optional(p.mask.is_some(), [sequences, 1, rows, columns]),
            grad_sinks: optional(p.sinks.is_some(), [1, h, 1, 1]),
            ..sys::mfa_backward_desc::new()
        }
    }

    pub(crate) fn run(&self) -> Results {
        let driver = self.driver;
        let options = self.options();
        let forward = sys::mfa_forward_desc {
            options: &raw const options,
            ..self.forward()
        };
        let backward = sys::mfa_backward_desc {
            options: &raw const options,
            ..self.backward(&forward)
        };
        driver.0.expect(driver.0.forward(&forward));
        driver.0.expect(driver.0.backward(&backward));
        let optional =
            |tensor: &sys::mfa_tensor| (!tensor.buffer.is_null()).then(|| driver.read(tensor));
        Results {
            forward: Forward {
                output: driver.read(&forward.output),
                logsumexp: driver.read(&forward.logsumexp),
            },
            gradients: Gradients {
                query: driver.read(&backward.grad_query),
                key: driver.read(&backward.grad_key),
                value: driver.read(&backward.grad_value),
                d_values: driver.read(&backward.d_values),
                mask: optional(&backward.grad_mask),
                sinks: optional(&backward.grad_sinks),
            },
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
        let session = &self.driver.0;
        [
            session.explain(Some(&forward), None),
            session.explain(None, Some(&backward)),
        ]
    }
}

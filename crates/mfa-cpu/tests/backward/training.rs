//! The entries for training: forward_quantized, then backward_query, then backward_kv.

use std::ffi::c_void;

use mfa_sys as sys;

use crate::case::{Case, Layout, Storage};
use crate::reference::{Gradients, Real};
use crate::run::store;
use crate::session::Session;

const SHAPE: [u32; 4] = [2, 19, 23, 3];
const HEAD_DIM: u16 = 16;

/// A training step's buffers.
struct Step {
    session: Session,
    operands: [*mut c_void; 3],
    precisions: [i32; 3],
    scales: [(f32, i32); 3],
    transposed: [bool; 4],
    output: *mut c_void,
    logsumexp: *mut c_void,
    grad_output: *mut c_void,
    d_values: *mut c_void,
    gradients: [*mut c_void; 3],
    setup: crate::reference::Setup,
}

impl Step {
    /// INT8 K and V, FP32 Q; `transposed` lays the matrices of all but K and V as columns.
    fn new(transposed: bool) -> Self {
        let session = Session::new(2);
        let [batch, nq, nk, heads] = SHAPE.map(|n| n as usize);
        let int8 = Storage::Quantized {
            int4: false,
            granularity: 0,
            block: 0,
            group: 0,
            asymmetric: true,
            rotated: false,
            smooth: false,
            half: false,
        };
        let case = Case {
            batch,
            kv_heads: heads,
            nq,
            nk,
            d: usize::from(HEAD_DIM),
            dv: usize::from(HEAD_DIM),
            storage: [Storage::Float("fp32"), int8.clone(), int8],
            causal: true,
            ..Case::small()
        };
        let mut setup = case.setup();
        let layout = if transposed {
            Layout::Transposed
        } else {
            Layout::Packed
        };
        let q = store(&session, &mut setup.q, &case.storage[0], layout);
        let k = store(&session, &mut setup.k, &case.storage[1], Layout::Packed);
        let v = store(&session, &mut setup.v, &case.storage[2], Layout::Packed);
        let scale = |view: &crate::session::View| {
            // SAFETY: the operand lives, and its quantization with it.
            let Some(q) = (unsafe { view.tensor.quantization.as_ref() }) else {
                return (0.0, 0);
            };
            let scale = session.bytes(q.scale_buffer)[..4].try_into().unwrap();
            let zero = session.bytes(q.zero_point_buffer)[0] as i8;
            (f32::from_le_bytes(scale), i32::from(zero))
        };
        let scales = [(0.0, 0), scale(&k.view), scale(&v.view)];
        let (rows, d) = (batch * heads * nq, usize::from(HEAD_DIM));
        let (queries, keys) = (4 * rows * d, 4 * batch * heads * nk * d);
        Step {
            operands: [&q, &k, &v].map(|x| x.view.tensor.buffer),
            precisions: [&q, &k, &v].map(|x| x.view.tensor.precision),
            scales,
            transposed: [transposed, false, false, transposed],
            output: session.buffer(queries),
            logsumexp: session.buffer(4 * rows),
            grad_output: session.store(&setup.grad, "fp32", layout).tensor.buffer,
            d_values: session.buffer(4 * rows),
            gradients: [
                session.buffer(queries),
                session.buffer(keys),
                session.buffer(keys),
            ],
            session,
            setup,
        }
    }

    fn forward(&self) -> i32 {
        let ([q, k, v], [pq, pk, pv]) = (self.operands, self.precisions);
        let [(qs, qz), (ks, kz), (vs, vz)] = self.scales;
        let ([b, n, m, h], [tq, tk, tv, to]) = (SHAPE, self.transposed);
        let scale = self.setup.scale as f32;
        // SAFETY: live buffers.
        unsafe {
            (self.session.api.mfa_attention_forward_quantized)(
                self.session.context,
                q,
                k,
                v,
                self.output,
                self.logsumexp,
                b,
                n,
                m,
                h,
                HEAD_DIM,
                scale,
                true,
                pq,
                pk,
                pv,
                qs,
                qz,
                ks,
                kz,
                vs,
                vz,
                tq,
                tk,
                tv,
                to,
            )
        }
    }

    fn query(&self, context: *mut c_void, shape: [u32; 4], scale: f32) -> i32 {
        let ([q, k, v], [b, n, m, h]) = (self.operands, shape);
        // SAFETY: buffers that are live or were.
        unsafe {
            (self.session.api.mfa_attention_backward_query_quantized)(
                context,
                q,
                k,
                v,
                self.grad_output,
                self.logsumexp,
                self.gradients[0],
                self.d_values,
                b,
                n,
                m,
                h,
                HEAD_DIM,
                scale,
                0,
            )
        }
    }

    fn keys(&self, context: *mut c_void, head_dim: u16, k_scale: f32) -> i32 {
        let ([q, k, v], [b, n, m, h]) = (self.operands, SHAPE);
        let [(qs, qz), (_, kz), (vs, vz)] = self.scales;
        // SAFETY: as above.
        unsafe {
            (self.session.api.mfa_attention_backward_kv_quantized)(
                context,
                q,
                k,
                v,
                self.grad_output,
                self.logsumexp,
                self.d_values,
                self.gradients[1],
                self.gradients[2],
                b,
                n,
                m,
                h,
                head_dim,
                qs,
                qz,
                k_scale,
                kz,
                vs,
                vz,
            )
        }
    }

    fn floats(&self, buffer: *mut c_void) -> Vec<f64> {
        let bytes = self.session.bytes(buffer);
        bytes
            .chunks_exact(4)
            .map(|x| f64::from(f32::from_le_bytes(x.try_into().unwrap())))
            .collect()
    }

    /// Demands code 5 and a message with `word`, from calls that change nothing.
    #[track_caller]
    fn refused(&self, status: i32, word: &str) {
        assert_eq!(status, sys::MFA_ERROR_INVALID_ARGUMENT);
        let message = self.session.message();
        assert!(message.contains(word), "{message:?} does not say {word:?}");
        for gradient in self.gradients {
            assert!(self.session.bytes(gradient).iter().all(|x| *x == 0));
        }
    }
}

#[test]
fn step_gives_the_gradients() {
    for transposed in [false, true] {
        let step = Step::new(transposed);
        let context = step.session.context;
        step.session.expect(step.forward());
        step.session.expect(step.query(context, SHAPE, f32::NAN));
        step.session
            .expect(step.keys(context, HEAD_DIM, step.scales[1].0));
        let logsumexp = step.setup.forward::<f64>().logsumexp;
        let (exact, _): (Gradients, _) = step.setup.exact(&logsumexp, None);
        let near = |found: &[f64], exact: &Real, columns_first: bool, what: &str| {
            let [_, _, rows, columns] = exact.shape;
            for (i, x) in exact.values.iter().enumerate() {
                let (matrix, n, c) = (i / (rows * columns), i / columns % rows, i % columns);
                let at = if columns_first {
                    matrix * rows * columns + c * rows + n
                } else {
                    i
                };
                let difference = (found[at] - x).abs();
                assert!(
                    difference < 1e-4,
                    "{what}[{i}] is {}, expected {x}",
                    found[at]
                );
            }
        };
        let [q, k, v] = step.gradients.map(|gradient| step.floats(gradient));
        near(&q, &exact.query, transposed, "query");
        near(&k, &exact.key, false, "key");
        near(&v, &exact.value, false, "value");
        near(
            &step.floats(step.d_values),
            &exact.d_values,
            false,
            "d_values",
        );
    }
}

#[test]
fn backward_without_its_forward_is_refused() {
    let step = Step::new(false);
    let context = step.session.context;
    let k_scale = step.scales[1].0;
    let missing = "mfa_attention_forward_quantized";
    step.refused(step.query(context, SHAPE, 0.0), missing);
    step.refused(step.keys(context, HEAD_DIM, k_scale), missing);

    step.session.expect(step.forward());
    let other = Session::new(1);
    step.refused(step.query(other.context, SHAPE, 0.0), missing);
    step.refused(step.keys(other.context, HEAD_DIM, k_scale), missing);
    for (axis, name) in ["batch_size", "seq_len_q", "seq_len_kv", "num_heads"]
        .into_iter()
        .enumerate()
    {
        let mut shape = SHAPE;
        shape[axis] += 1;
        step.refused(step.query(context, shape, 0.0), name);
    }
    step.refused(step.keys(context, HEAD_DIM + 1, k_scale), "head_dim");
    step.refused(step.keys(context, HEAD_DIM, 2.0 * k_scale), "key: scale");

    // SAFETY: a live buffer.
    unsafe { (step.session.api.mfa_destroy_buffer)(step.operands[1]) };
    step.refused(step.query(context, SHAPE, 0.0), missing);
    step.refused(step.keys(context, HEAD_DIM, k_scale), missing);
}

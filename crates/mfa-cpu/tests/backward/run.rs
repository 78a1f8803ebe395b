//! A case on the driver.

use std::ffi::c_void;
use std::ptr::null_mut;

use mfa_sys as sys;

use crate::case::{Case, Layout, Storage};
use crate::reference::{Real, Setup};
use crate::session::{Session, View};

/// A stored operand. The quantization is kept where its tensor points to.
pub(crate) struct Operand {
    pub(crate) view: View,
    _quantization: Option<Box<sys::mfa_quantization>>,
    /// For clip: whether an element is stored inside the range, and whether it is rotated.
    pub(crate) inside: Option<Vec<bool>>,
    pub(crate) rotated: bool,
}

/// Stores an operand, and replaces `real` by the numbers that it then stands for.
pub(crate) fn store(
    session: &Session,
    real: &mut Real,
    storage: &Storage,
    layout: Layout,
) -> Operand {
    let Storage::Quantized {
        int4,
        granularity,
        block,
        group,
        asymmetric,
        rotated,
        smooth,
        half,
    } = *storage
    else {
        let Storage::Float(precision) = storage else {
            unreachable!()
        };
        return Operand {
            view: session.store(real, precision, layout),
            _quantization: None,
            inside: None,
            rotated: false,
        };
    };
    let layout = if int4 && layout == Layout::Transposed {
        Layout::Packed
    } else {
        layout
    };
    let (precision, size) = if int4 {
        (sys::MFA_PRECISION_INT4, 8)
    } else {
        (sys::MFA_PRECISION_INT8, 128)
    };
    let [batch, heads, rows, columns] = real.shape;
    // As many scales as there can be.
    let count = batch * heads * rows.max(1) * columns + 1;
    let optional = |wanted: bool, size: usize| {
        if wanted {
            session.buffer(size)
        } else {
            null_mut::<c_void>()
        }
    };
    let blocks = rows.div_ceil(block.max(1) as usize);
    let groups = match granularity {
        sys::MFA_GRANULARITY_ROW if group > 0 => columns.div_ceil(group as usize),
        sys::MFA_GRANULARITY_CHANNEL => columns,
        _ => 1,
    };
    let scale_strides = [heads * blocks * groups, blocks * groups, groups, 1];
    let quantization = Box::new(sys::mfa_quantization {
        granularity,
        block_rows: block,
        group_size: group,
        scale_strides: scale_strides.map(|stride| stride as i64),
        scale_buffer: session.buffer(4 * count),
        scale_precision: if half {
            sys::MFA_PRECISION_FP16
        } else {
            sys::MFA_PRECISION_FP32
        },
        rotated: u32::from(rotated),
        zero_point_buffer: optional(asymmetric, count),
        zero_point_bytes: u32::from(asymmetric),
        mean_buffer: optional(smooth, 4 * batch * heads * columns),
        ..sys::mfa_quantization::new()
    });
    let mut view = session.view(real.shape, precision, layout);
    view.tensor.quantization = &raw const *quantization;
    let source = session.store(real, "fp32", Layout::Packed);
    let real_view = session.view(real.shape, sys::MFA_PRECISION_FP32, Layout::Packed);
    let desc = sys::mfa_quantize_desc {
        flags: if asymmetric {
            sys::MFA_QUANTIZE_ASYMMETRIC
        } else {
            0
        } | if smooth { sys::MFA_QUANTIZE_SMOOTH } else { 0 },
        source: source.tensor,
        destination: view.tensor,
        ..sys::mfa_quantize_desc::new()
    };
    // SAFETY: descriptors of live buffers.
    unsafe {
        session.expect((session.api.mfa_quantize)(session.context, &desc));
        let (from, to) = (&view.tensor, &real_view.tensor);
        session.expect((session.api.mfa_dequantize)(session.context, from, to));
    }
    real.values = session.load(&real_view);
    let bytes = session.bytes(view.tensor.buffer);
    let zero = if asymmetric {
        session.bytes(quantization.zero_point_buffer)[0]
    } else {
        0
    };
    let symmetric = !asymmetric || (granularity == sys::MFA_GRANULARITY_TENSOR && zero == 0);
    let inside = |at: usize| {
        let code = if int4 {
            i32::from((bytes[at / 2] << (4 - 4 * (at % 2))) as i8 >> 4)
        } else {
            i32::from(bytes[at] as i8)
        };
        let low = if symmetric { 1 - size } else { -size };
        code > low && code < size - 1
    };
    Operand {
        inside: Some(view.elements().into_iter().map(inside).collect()),
        view,
        _quantization: Some(quantization),
        rotated,
    }
}

/// What a call gave.
pub(crate) struct Results {
    pub(crate) query: Vec<f64>,
    pub(crate) key: Vec<f64>,
    pub(crate) value: Vec<f64>,
    pub(crate) d_values: Vec<f64>,
    pub(crate) mask: Option<Vec<f64>>,
    pub(crate) sinks: Option<Vec<f64>>,
}

impl Results {
    /// The bits of all numbers, one after another.
    pub(crate) fn bits(&self) -> Vec<u32> {
        let parts = [
            Some(&self.query),
            Some(&self.key),
            Some(&self.value),
            Some(&self.d_values),
            self.mask.as_ref(),
            self.sinks.as_ref(),
        ];
        let numbers = parts.into_iter().flatten().flatten();
        numbers.map(|x| (*x as f32).to_bits()).collect()
    }
}

/// A case in a session's buffers.
pub(crate) struct Prepared<'a> {
    session: &'a Session,
    case: &'a Case,
    pub(crate) setup: Setup,
    pub(crate) operands: [Operand; 3],
    pub(crate) logsumexp: Real,
    pub(crate) output: Option<Real>,
    options: Box<sys::mfa_attention_options>,
    _lengths: Vec<*mut c_void>,
    desc: sys::mfa_backward_desc,
    gradients: [View; 6],
}

impl<'a> Prepared<'a> {
    pub(crate) fn new(session: &'a Session, case: &'a Case) -> Self {
        Self::changed(session, case, |_| {})
    }

    /// The case with other numbers.
    pub(crate) fn changed(
        session: &'a Session,
        case: &'a Case,
        change: impl Fn(&mut Setup),
    ) -> Self {
        let mut setup = case.setup();
        change(&mut setup);
        let [operand, grad, out, result] = case.layouts;
        let operands = [
            store(session, &mut setup.q, &case.storage[0], operand),
            store(session, &mut setup.k, &case.storage[1], operand),
            store(session, &mut setup.v, &case.storage[2], operand),
        ];
        let exact = setup.forward::<f64>();
        let single = |mut real: Real| {
            real.values
                .iter_mut()
                .for_each(|x| *x = f64::from(*x as f32));
            real
        };
        let (logsumexp, output) = (single(exact.logsumexp), single(exact.output));
        let (options, lengths) = options(session, case, &setup);
        let wanted = |real: Option<&Real>, layout| {
            real.map_or(View::absent(), |real| {
                session.view(real.shape, sys::MFA_PRECISION_FP32, layout)
            })
        };
        let mask = setup
            .mask
            .as_ref()
            .filter(|_| case.mask.is_some_and(|m| m.0 != "bool"));
        let gradients = [
            wanted(Some(&setup.q), result),
            wanted(Some(&setup.k), result),
            wanted(Some(&setup.v), result),
            wanted(Some(&logsumexp), Layout::Packed),
            wanted(mask, result),
            wanted(setup.sinks.as_ref(), Layout::Packed),
        ];
        let store =
            |real: &Real, precision: &str, layout| session.store(real, precision, layout).tensor;
        let desc = sys::mfa_backward_desc {
            flags: if case.clip { sys::MFA_BACKWARD_CLIP } else { 0 },
            query: operands[0].view.tensor,
            key: operands[1].view.tensor,
            value: operands[2].view.tensor,
            output: if case.give_output {
                store(&output, "fp32", out)
            } else {
                sys::mfa_tensor::ABSENT
            },
            grad_output: store(&setup.grad, case.grad, grad),
            logsumexp: store(&logsumexp, "fp32", Layout::Packed),
            ..sys::mfa_backward_desc::new()
        };
        Prepared {
            session,
            case,
            setup,
            operands,
            logsumexp,
            output: case.give_output.then_some(output),
            options,
            _lengths: lengths,
            desc,
            gradients,
        }
    }

    /// The descriptor of the whole call.
    pub(crate) fn desc(&self) -> sys::mfa_backward_desc {
        let [query, key, value, d_values, mask, sinks] = self.gradients.map(|view| view.tensor);
        sys::mfa_backward_desc {
            grad_query: query,
            grad_key: key,
            grad_value: value,
            d_values,
            grad_mask: mask,
            grad_sinks: sinks,
            options: &raw const *self.options,
            ..self.desc
        }
    }

    /// Whether every gradient is as it was made.
    pub(crate) fn gradients_untouched(&self) -> bool {
        self.gradients
            .iter()
            .filter(|view| !view.tensor.buffer.is_null())
            .all(|view| self.session.untouched(view))
    }

    pub(crate) fn run(&self) -> Results {
        let desc = self.desc();
        let call = |desc: &sys::mfa_backward_desc| {
            // SAFETY: a descriptor of live buffers.
            let status = unsafe { (self.session.api.mfa_backward)(self.session.context, desc) };
            self.session.expect(status);
        };
        if self.case.two_calls {
            let none = sys::mfa_tensor::ABSENT;
            let first = sys::mfa_backward_desc {
                grad_key: none,
                grad_value: none,
                grad_mask: none,
                grad_sinks: none,
                ..desc
            };
            call(&first);
            call(&sys::mfa_backward_desc {
                flags: desc.flags | sys::MFA_BACKWARD_D_GIVEN,
                output: none,
                grad_query: none,
                ..desc
            });
        } else {
            call(&desc);
        }
        let [query, key, value, d_values, mask, sinks] = &self.gradients;
        let load = |view: &View| self.session.load(view);
        let optional =
            |view: &View| (!view.tensor.buffer.is_null()).then(|| self.session.load(view));
        Results {
            query: load(query),
            key: load(key),
            value: load(value),
            d_values: load(d_values),
            mask: optional(mask),
            sinks: optional(sinks),
        }
    }
}

fn options(
    session: &Session,
    case: &Case,
    setup: &Setup,
) -> (Box<sys::mfa_attention_options>, Vec<*mut c_void>) {
    let store = |real: &Option<Real>, precision: &str| {
        real.as_ref().map_or(sys::mfa_tensor::ABSENT, |real| {
            session.store(real, precision, Layout::Packed).tensor
        })
    };
    let flag = |wanted: bool, flag: u32| if wanted { flag } else { 0 };
    let (left, right) = case.window.unwrap_or_default();
    let mut options = Box::new(sys::mfa_attention_options {
        flags: flag(case.scale.is_some(), sys::MFA_OPTION_SCALE)
            | flag(case.causal, sys::MFA_OPTION_CAUSAL)
            | flag(case.window.is_some(), sys::MFA_OPTION_WINDOW),
        softmax_scale: case.scale.unwrap_or_default(),
        softcap: case.softcap,
        alignment: if case.bottom_right {
            sys::MFA_ALIGNMENT_BOTTOM_RIGHT
        } else {
            sys::MFA_ALIGNMENT_TOP_LEFT
        },
        window_left: left,
        window_right: right,
        mask: store(&setup.mask, case.mask.map_or("", |mask| mask.0)),
        alibi_slopes: store(&setup.alibi, "fp32"),
        sinks: store(&setup.sinks, "fp32"),
        ..sys::mfa_attention_options::new()
    });
    let mut buffers = Vec::new();
    if let Some(lengths) = &case.lengths {
        for side in [|l: &(usize, usize)| l.0, |l: &(usize, usize)| l.1] {
            let buffer = session.buffer(4 * (lengths.len() + 1));
            let mut end = 0;
            for (i, x) in session.bytes(buffer).chunks_exact_mut(4).enumerate() {
                end += if i == 0 { 0 } else { side(&lengths[i - 1]) };
                x.copy_from_slice(&(end as i32).to_le_bytes());
            }
            buffers.push(buffer);
        }
        options.sequence_count = lengths.len() as u32;
        (options.cu_seqlens_q, options.cu_seqlens_k) = (buffers[0], buffers[1]);
    }
    (options, buffers)
}

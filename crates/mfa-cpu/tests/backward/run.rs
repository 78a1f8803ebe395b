//! A case on the driver.

use std::ffi::c_void;
use std::ptr::null_mut;

use mfa_sys as sys;
use mfa_testing::{Array, Given, Gradients, Layout, Operand, Problem, Session, elements};

use crate::case::{Case, Setup, Storage, code};

/// A context of the driver that runs calls on some threads.
pub(crate) fn session(threads: u32) -> Session {
    Session::with_threads(mfa_cpu::api(), threads)
}

/// A stored operand. The quantization is kept where its tensor points to.
pub(crate) struct Stored {
    pub(crate) tensor: sys::mfa_tensor,
    _quantization: Option<Box<sys::mfa_quantization>>,
}

/// Stores an operand, and replaces it by the numbers that are then stored.
pub(crate) fn store(
    session: &Session,
    operand: &mut Operand,
    storage: &Storage,
    layout: Layout,
) -> Stored {
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
        return Stored {
            tensor: session.store(&operand.elements, operand.precision, layout),
            _quantization: None,
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
    let [batch, heads, rows, columns] = operand.elements.shape;
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
    let shape = operand.elements.shape;
    let mut tensor = session.tensor(shape, precision, layout);
    tensor.quantization = &raw const *quantization;
    let source = session.store(&operand.elements, sys::MFA_PRECISION_FP32, Layout::Packed);
    let back = session.tensor(shape, sys::MFA_PRECISION_FP32, Layout::Packed);
    let desc = sys::mfa_quantize_desc {
        flags: if asymmetric {
            sys::MFA_QUANTIZE_ASYMMETRIC
        } else {
            0
        } | if smooth { sys::MFA_QUANTIZE_SMOOTH } else { 0 },
        source,
        destination: tensor,
        ..sys::mfa_quantize_desc::new()
    };
    // SAFETY: descriptors of live buffers.
    unsafe {
        session.expect((session.api.mfa_quantize)(session.context, &desc));
        session.expect((session.api.mfa_dequantize)(
            session.context,
            &tensor,
            &back,
        ));
    }
    operand.elements = session.load(&back);
    operand.rotated = rotated;
    let bytes = session.bytes(tensor.buffer);
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
    operand.inside = Some(elements(&tensor).into_iter().map(inside).collect());
    Stored {
        tensor,
        _quantization: Some(quantization),
    }
}

/// The bits of all gradients, one after another.
pub(crate) fn bits(gradients: &Gradients) -> Vec<u32> {
    let arrays = gradients.all().into_iter().filter_map(|(_, array)| array);
    arrays
        .flat_map(|array| &array.values)
        .map(|x| (*x as f32).to_bits())
        .collect()
}

/// A case in a session's buffers.
pub(crate) struct Prepared<'a> {
    session: &'a Session,
    case: &'a Case,
    pub(crate) problem: Problem,
    /// What the driver is given beside the operands.
    pub(crate) given: Given,
    /// The gradients in float64, from L as float64 has it.
    pub(crate) exact: Gradients,
    _operands: [Stored; 3],
    options: Box<sys::mfa_attention_options>,
    desc: sys::mfa_backward_desc,
    gradients: [sys::mfa_tensor; 6],
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
        let Setup { mut problem, grad } = setup;
        let [operand, grad_layout, out, result] = case.layouts;
        let [q, k, v] = &case.storage;
        let operands = [
            store(session, &mut problem.query, q, operand),
            store(session, &mut problem.key, k, operand),
            store(session, &mut problem.value, v, operand),
        ];
        let forward = problem.forward();
        let exact = Given {
            precision: code(case.grad),
            clip: case.clip,
            ..Given::new(grad, forward.logsumexp)
        };
        let given = Given {
            logsumexp: exact.logsumexp.single(),
            output: case.give_output.then(|| forward.output.single()),
            ..exact.clone()
        };
        let exact = problem.backward(&exact);
        let options = options(session, case, &problem);
        let (fp32, none) = (sys::MFA_PRECISION_FP32, sys::mfa_tensor::ABSENT);
        let wanted = |(array, layout): (Option<&Array>, Layout)| {
            array.map_or(none, |array| session.tensor(array.shape, fp32, layout))
        };
        let gradients = [
            (Some(&exact.query), result),
            (Some(&exact.key), result),
            (Some(&exact.value), result),
            (Some(&exact.d_values), Layout::Packed),
            (exact.mask.as_ref(), result),
            (exact.sinks.as_ref(), Layout::Packed),
        ]
        .map(wanted);
        let output = (given.output.as_ref()).map(|output| session.store(output, fp32, out));
        let desc = sys::mfa_backward_desc {
            flags: if case.clip { sys::MFA_BACKWARD_CLIP } else { 0 },
            query: operands[0].tensor,
            key: operands[1].tensor,
            value: operands[2].tensor,
            output: output.unwrap_or(none),
            grad_output: session.store(&given.grad_output, given.precision, grad_layout),
            logsumexp: session.store(&given.logsumexp, fp32, Layout::Packed),
            ..sys::mfa_backward_desc::new()
        };
        Prepared {
            session,
            case,
            problem,
            given,
            exact,
            _operands: operands,
            options,
            desc,
            gradients,
        }
    }

    /// The descriptor of the whole call.
    pub(crate) fn desc(&self) -> sys::mfa_backward_desc {
        let [query, key, value, d_values, mask, sinks] = self.gradients;
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
            .filter(|tensor| !tensor.buffer.is_null())
            .all(|tensor| self.session.untouched(tensor))
    }

    pub(crate) fn run(&self) -> Gradients {
        let desc = self.desc();
        let call = |desc| self.session.expect(self.session.backward(desc));
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
        let load = |tensor: &sys::mfa_tensor| self.session.load(tensor);
        let optional = |tensor: &sys::mfa_tensor| (!tensor.buffer.is_null()).then(|| load(tensor));
        Gradients {
            query: load(query),
            key: load(key),
            value: load(value),
            d_values: load(d_values),
            mask: optional(mask),
            sinks: optional(sinks),
        }
    }
}

fn options(session: &Session, case: &Case, problem: &Problem) -> Box<sys::mfa_attention_options> {
    let store = |array: Option<&Array>, precision: &str| {
        array.map_or(sys::mfa_tensor::ABSENT, |array| {
            session.store(array, code(precision), Layout::Packed)
        })
    };
    let flag = |wanted: bool, flag: u32| if wanted { flag } else { 0 };
    let (left, right) = case.window.unwrap_or_default();
    let sinks =
        (problem.sinks.as_ref()).map(|sinks| Array::new([1, sinks.len(), 1, 1], sinks.clone()));
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
        mask: store(
            problem.mask.as_ref().map(|mask| &mask.values),
            case.mask.map_or("", |mask| mask.0),
        ),
        alibi_slopes: store(problem.alibi.as_ref(), "fp32"),
        sinks: store(sinks.as_ref(), "fp32"),
        ..sys::mfa_attention_options::new()
    });
    if let Some(lengths) = &case.lengths {
        let ends = |side: fn(&(usize, usize)) -> usize| {
            let mut end = 0;
            let ends = lengths.iter().map(|pair| {
                end += side(pair);
                end
            });
            session.integers(std::iter::once(0).chain(ends))
        };
        options.sequence_count = lengths.len() as u32;
        options.cu_seqlens_q = ends(|pair| pair.0);
        options.cu_seqlens_k = ends(|pair| pair.1);
    }
    options
}

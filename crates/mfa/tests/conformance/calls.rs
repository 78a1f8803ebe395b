//! From a case to calls of the driver, and the verdict.

use std::ffi::c_void;
use std::ptr::null_mut;

use mfa::raw::{Context, sys};

use crate::check;
use crate::memory::Memory;
use crate::results::Results;
use crate::vectors::Case;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Forward,
    Backward,
    Quantize,
    Dequantize,
    Plain,
    TrainingForward,
    TrainingBackward,
}

pub(crate) enum Outcome {
    Right,
    Unsupported(String),
}

impl Call {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Call::Forward => "forward",
            Call::Backward => "backward",
            Call::Quantize => "quantize",
            Call::Dequantize => "dequantize",
            Call::Plain => "plain",
            Call::TrainingForward => "training_forward",
            Call::TrainingBackward => "training_backward",
        }
    }

    /// Whether this call writes the tensor of that role.
    fn writes(self, role: &str) -> bool {
        let gradient = role.starts_with("grad_") || role == "d_values";
        gradient == matches!(self, Call::Backward | Call::TrainingBackward)
    }
}

/// Runs the calls on fresh memory; judges the last one, and adds it to the results.
pub(crate) fn run(
    context: &Context,
    case: &Case,
    calls: &[Call],
    results: Option<&Results>,
) -> Result<Outcome, String> {
    let memory = Memory::new(context, case)?;
    let live = Live {
        context,
        case,
        memory: &memory,
    };
    let mut report = None;
    for (i, &call) in calls.iter().enumerate() {
        let status = live.call(call, &mut report);
        let last = i + 1 == calls.len();
        let message = match context.check(status) {
            Ok(()) => String::new(),
            Err(error) => error.message(),
        };
        if let (true, Some(results)) = (last, results) {
            let answer = (status, message.as_str());
            results.add(case, call, &memory, answer, report.as_ref());
        }
        if status == sys::MFA_ERROR_UNSUPPORTED {
            return Ok(Outcome::Unsupported(message));
        }
        let expected = if last { case.status } else { sys::MFA_SUCCESS };
        if status != expected {
            return Err(format!(
                "{}: status {status}, expected {expected}: {message}",
                call.name()
            ));
        }
        if status != sys::MFA_SUCCESS && message.is_empty() {
            return Err("refused without a message".to_owned());
        }
        if last {
            check::untouched(case, &memory)?;
            if status == sys::MFA_SUCCESS {
                check::results(case, &memory, |role| call.writes(role))?;
                check::report(case, report.as_ref())?;
            }
        }
    }
    Ok(Outcome::Right)
}

struct Live<'a> {
    context: &'a Context,
    case: &'a Case,
    memory: &'a Memory<'a>,
}

/// What a descriptor points to.
#[derive(Default)]
#[expect(
    clippy::vec_box,
    reason = "descriptors hold their addresses while the vector grows"
)]
struct Attached {
    quantizations: Vec<Box<sys::mfa_quantization>>,
}

impl Live<'_> {
    fn handle(&self, buffer: Option<usize>) -> *mut c_void {
        buffer.map_or(null_mut(), |buffer| self.memory.handle(buffer))
    }

    /// The whole buffer of a role, for the fixed signatures.
    fn whole(&self, role: &str) -> *mut c_void {
        self.handle(self.case.tensor(role).map(|tensor| tensor.buffer))
    }

    fn tensor(&self, role: &str, attached: &mut Attached) -> sys::mfa_tensor {
        let Some(tensor) = self.case.tensor(role) else {
            return sys::mfa_tensor::ABSENT;
        };
        let mut view = tensor.view;
        view.buffer = self.memory.handle(tensor.buffer);
        if let Some(quantization) = &tensor.quantization {
            let mut parameters = Box::new(quantization.parameters);
            parameters.scale_buffer = self.handle(quantization.scales);
            parameters.zero_point_buffer = self.handle(quantization.zero_points);
            parameters.mean_buffer = self.handle(quantization.mean);
            view.quantization = &raw const *parameters;
            attached.quantizations.push(parameters);
        }
        view
    }

    fn options(&self, attached: &mut Attached) -> sys::mfa_attention_options {
        let mut options = self.case.options;
        options.mask = self.tensor("mask", attached);
        options.alibi_slopes = self.tensor("alibi_slopes", attached);
        options.sinks = self.tensor("sinks", attached);
        if let Some([query, key]) = self.case.varlen {
            options.cu_seqlens_q = self.memory.handle(query);
            options.cu_seqlens_k = self.memory.handle(key);
        }
        options
    }

    fn call(&self, call: Call, report: &mut Option<sys::mfa_quantization_error>) -> i32 {
        match call {
            Call::Forward => self.forward(),
            Call::Backward => self.backward(),
            Call::Quantize => self.quantize(report),
            Call::Dequantize => self.dequantize(),
            Call::Plain => self.plain(),
            Call::TrainingForward => self.training_forward(),
            Call::TrainingBackward => self.training_backward(),
        }
    }

    fn forward(&self) -> i32 {
        let attached = &mut Attached::default();
        let options = self.options(attached);
        let mut desc = sys::mfa_forward_desc::new();
        desc.query = self.tensor("query", attached);
        desc.key = self.tensor("key", attached);
        desc.value = self.tensor("value", attached);
        desc.output = self.tensor("output", attached);
        desc.logsumexp = self.tensor("logsumexp", attached);
        desc.options = &raw const options;
        // SAFETY: the descriptor and what it points to live until the call returns.
        unsafe { (self.context.api().mfa_forward)(self.context.handle(), &raw const desc) }
    }

    fn backward(&self) -> i32 {
        let attached = &mut Attached::default();
        let options = self.options(attached);
        let mut desc = sys::mfa_backward_desc::new();
        desc.flags = self.case.flags;
        desc.query = self.tensor("query", attached);
        desc.key = self.tensor("key", attached);
        desc.value = self.tensor("value", attached);
        desc.output = self.tensor("given_output", attached);
        desc.grad_output = self.tensor("grad_output", attached);
        desc.logsumexp = self.tensor("given_logsumexp", attached);
        desc.d_values = self.tensor("d_values", attached);
        desc.grad_query = self.tensor("grad_query", attached);
        desc.grad_key = self.tensor("grad_key", attached);
        desc.grad_value = self.tensor("grad_value", attached);
        desc.grad_mask = self.tensor("grad_mask", attached);
        desc.grad_sinks = self.tensor("grad_sinks", attached);
        desc.options = &raw const options;
        // SAFETY: the descriptor and what it points to live until the call returns.
        unsafe { (self.context.api().mfa_backward)(self.context.handle(), &raw const desc) }
    }

    fn quantize(&self, report: &mut Option<sys::mfa_quantization_error>) -> i32 {
        let attached = &mut Attached::default();
        let mut desc = sys::mfa_quantize_desc::new();
        let nothing = sys::mfa_quantization_error {
            rmse: -1.0,
            relative_rmse: -1.0,
            max_abs: -1.0,
            worst_row_rmse: -1.0,
        };
        desc.flags = self.case.flags;
        desc.source = self.tensor("source", attached);
        desc.destination = self.tensor("destination", attached);
        desc.error = report.insert(nothing);
        // SAFETY: the descriptor and what it points to live until the call returns.
        unsafe { (self.context.api().mfa_quantize)(self.context.handle(), &raw const desc) }
    }

    fn dequantize(&self) -> i32 {
        let attached = &mut Attached::default();
        let source = self.tensor("source", attached);
        let destination = self.tensor("destination", attached);
        // SAFETY: the views and what they point to live until the call returns.
        unsafe {
            (self.context.api().mfa_dequantize)(
                self.context.handle(),
                &raw const source,
                &raw const destination,
            )
        }
    }

    fn fixed(&self) -> Fixed {
        let part = |role: &str| {
            let Some(tensor) = self.case.tensor(role) else {
                return Part {
                    view: sys::mfa_tensor::ABSENT,
                    scale: 0.0,
                    zero_point: 0,
                };
            };
            let parameters = tensor
                .quantization
                .as_ref()
                .map(|quantization| &quantization.parameters);
            Part {
                view: tensor.view,
                scale: parameters.map_or(0.0, |parameters| parameters.scale),
                zero_point: parameters.map_or(0, |parameters| parameters.zero_point),
            }
        };
        Fixed {
            q: part("query"),
            k: part("key"),
            v: part("value"),
            o: part("output"),
            causal: self.case.options.flags & sys::MFA_OPTION_CAUSAL != 0,
        }
    }

    fn plain(&self) -> i32 {
        let f = self.fixed();
        let [batch, heads, rows_q, columns] = f.q.view.shape;
        // SAFETY: handles of this driver.
        unsafe {
            (self.context.api().mfa_attention_forward)(
                self.context.handle(),
                self.whole("query"),
                self.whole("key"),
                self.whole("value"),
                self.whole("output"),
                batch as u32,
                rows_q as u32,
                f.k.view.shape[2] as u32,
                heads as u32,
                columns as u16,
                self.case.options.softmax_scale,
                f.causal,
                f.q.view.precision,
                f.k.view.precision,
                f.v.view.precision,
                f.q.transposed(),
                f.k.transposed(),
                f.v.transposed(),
                f.o.transposed(),
            )
        }
    }

    fn training_forward(&self) -> i32 {
        let f = self.fixed();
        let [batch, heads, rows_q, columns] = f.q.view.shape;
        // SAFETY: handles of this driver.
        unsafe {
            (self.context.api().mfa_attention_forward_quantized)(
                self.context.handle(),
                self.whole("query"),
                self.whole("key"),
                self.whole("value"),
                self.whole("output"),
                self.whole("logsumexp"),
                batch as u32,
                rows_q as u32,
                f.k.view.shape[2] as u32,
                heads as u32,
                columns as u16,
                self.case.options.softmax_scale,
                f.causal,
                f.q.view.precision,
                f.k.view.precision,
                f.v.view.precision,
                f.q.scale,
                f.q.zero_point,
                f.k.scale,
                f.k.zero_point,
                f.v.scale,
                f.v.zero_point,
                f.q.transposed(),
                f.k.transposed(),
                f.v.transposed(),
                f.o.transposed(),
            )
        }
    }

    fn training_backward(&self) -> i32 {
        let f = self.fixed();
        let [batch, heads, rows_q, columns] = f.q.view.shape;
        let (api, context) = (self.context.api(), self.context.handle());
        // SAFETY: handles of this driver.
        let status = unsafe {
            (api.mfa_attention_backward_query_quantized)(
                context,
                self.whole("query"),
                self.whole("key"),
                self.whole("value"),
                self.whole("grad_output"),
                self.whole("given_logsumexp"),
                self.whole("grad_query"),
                self.whole("d_values"),
                batch as u32,
                rows_q as u32,
                f.k.view.shape[2] as u32,
                heads as u32,
                columns as u16,
                f.q.scale,
                f.q.zero_point,
            )
        };
        if status != sys::MFA_SUCCESS {
            return status;
        }
        // SAFETY: handles of this driver.
        unsafe {
            (api.mfa_attention_backward_kv_quantized)(
                context,
                self.whole("query"),
                self.whole("key"),
                self.whole("value"),
                self.whole("grad_output"),
                self.whole("given_logsumexp"),
                self.whole("d_values"),
                self.whole("grad_key"),
                self.whole("grad_value"),
                batch as u32,
                rows_q as u32,
                f.k.view.shape[2] as u32,
                heads as u32,
                columns as u16,
                f.q.scale,
                f.q.zero_point,
                f.k.scale,
                f.k.zero_point,
                f.v.scale,
                f.v.zero_point,
            )
        }
    }
}

/// What the fixed signatures take apart from buffers.
struct Fixed {
    q: Part,
    k: Part,
    v: Part,
    o: Part,
    causal: bool,
}

struct Part {
    view: sys::mfa_tensor,
    scale: f32,
    zero_point: i32,
}

impl Part {
    fn transposed(&self) -> bool {
        self.view.strides[3] != 1
    }
}

//! The keyword arguments of every attention function, parsed and checked in one place.

mod quantizing;
mod table;
mod value;

use mfa::raw::sys;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

pub(crate) use quantizing::{DEFAULT_BLOCK_ROWS, Quantizing, Role};
pub(crate) use table::{_options, Function};
pub(crate) use value::{
    Names, block_rows, boolean, dtype_name, group, name_of, named, one_of, scale, shown, wrong_type,
};

use crate::error;
use value::{number, softcap, window};

pub(crate) const PRECISIONS: Names = &[
    ("int8", sys::MFA_PRECISION_INT8),
    ("int4", sys::MFA_PRECISION_INT4),
];
pub(crate) const GRANULARITIES: Names = &[
    ("tensor", sys::MFA_GRANULARITY_TENSOR),
    ("row", sys::MFA_GRANULARITY_ROW),
    ("block", sys::MFA_GRANULARITY_BLOCK),
    ("channel", sys::MFA_GRANULARITY_CHANNEL),
];
const ALIGNMENTS: Names = &[
    ("top_left", sys::MFA_ALIGNMENT_TOP_LEFT),
    ("bottom_right", sys::MFA_ALIGNMENT_BOTTOM_RIGHT),
];
const COMPUTES: Names = &[
    ("exact", sys::MFA_COMPUTE_EXACT),
    ("fast", sys::MFA_COMPUTE_FAST),
];
pub(crate) const SCALE_DTYPES: Names = &[
    ("float32", sys::MFA_PRECISION_FP32),
    ("float16", sys::MFA_PRECISION_FP16),
];
/// The number is the size in bytes.
pub(crate) const ZERO_POINT_DTYPES: Names = &[("int8", 1), ("int32", 4)];

/// How the axes of rank-4 and rank-3 arrays are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Layout {
    /// [batch, heads, rows, columns]
    #[default]
    Bhnd,
    /// [batch, rows, heads, columns]
    Bnhd,
}

impl Layout {
    pub(crate) fn parse(value: &Bound<'_, PyAny>) -> PyResult<Layout> {
        let code = named(value, "layout", &[("BHND", 0), ("BNHD", 1)])?;
        Ok(if code == 0 {
            Layout::Bhnd
        } else {
            Layout::Bnhd
        })
    }

    pub(crate) fn other(self) -> Layout {
        match self {
            Layout::Bhnd => Layout::Bnhd,
            Layout::Bnhd => Layout::Bhnd,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Layout::Bhnd => "BHND",
            Layout::Bnhd => "BNHD",
        }
    }
}

/// Everything that the functions share. Arrays are read later, when the shapes are known.
#[derive(Clone)]
pub(crate) struct Options<'py> {
    pub(crate) function: Function,
    pub(crate) causal: bool,
    pub(crate) scale: Option<f32>,
    pub(crate) softcap: f32,
    /// None: nothing was said, and nothing goes without saying at this function.
    pub(crate) alignment: Option<i32>,
    pub(crate) compute: i32,
    pub(crate) window: Option<(i64, i64)>,
    pub(crate) mask: Option<Bound<'py, PyAny>>,
    pub(crate) alibi_slopes: Option<Bound<'py, PyAny>>,
    pub(crate) sinks: Option<Bound<'py, PyAny>>,
    pub(crate) cu_seqlens_q: Option<Bound<'py, PyAny>>,
    pub(crate) cu_seqlens_k: Option<Bound<'py, PyAny>>,
    pub(crate) seqlens_k: Option<Bound<'py, PyAny>>,
    pub(crate) layout: Layout,
    pub(crate) quantizing: Quantizing,
    pub(crate) specific: SpecificOptions<'py>,
}

/// Options of some functions only.
#[derive(Clone, Default)]
pub(crate) struct SpecificOptions<'py> {
    pub(crate) return_logsumexp: bool,
    pub(crate) out: Option<Bound<'py, PyAny>>,
    /// Of plans: those of the gradients.
    pub(crate) backward: bool,
    pub(crate) need: Option<(bool, bool, bool)>,
    pub(crate) clip: bool,
    pub(crate) grad_mask: bool,
    pub(crate) grad_sinks: bool,
    pub(crate) grad_lse: Option<Bound<'py, PyAny>>,
    pub(crate) d_values: Option<Bound<'py, PyAny>>,
}

impl<'py> Options<'py> {
    fn new(function: Function) -> Options<'py> {
        Options {
            function,
            causal: false,
            scale: None,
            softcap: 0.0,
            alignment: match function {
                Function::FlashAttentionForward | Function::FlashAttentionBackward => {
                    Some(sys::MFA_ALIGNMENT_BOTTOM_RIGHT)
                }
                Function::Sdpa => Some(sys::MFA_ALIGNMENT_TOP_LEFT),
                _ => None,
            },
            compute: sys::MFA_COMPUTE_EXACT,
            window: None,
            mask: None,
            alibi_slopes: None,
            sinks: None,
            cu_seqlens_q: None,
            cu_seqlens_k: None,
            seqlens_k: None,
            layout: Layout::default(),
            quantizing: Quantizing::default(),
            specific: SpecificOptions::default(),
        }
    }

    /// Parses `keywords`, and refuses those that this function doesn't take or that don't go together.
    pub(crate) fn parse(
        function: Function,
        keywords: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Options<'py>> {
        let mut options = Options::new(function);
        let Some(keywords) = keywords else {
            return Ok(options);
        };
        for (key, value) in keywords {
            let key = key.cast_into::<PyString>()?;
            let key = key.to_cow()?;
            let option = function.option(&key)?;
            if option != key && keywords.contains(option)? {
                return Err(error::argument(format!(
                    "{key}: given together with {option}, expected one of them: they are the same"
                )));
            }
            options.set(option, &key, &value)?;
        }
        if options.cu_seqlens_q.is_some() != options.cu_seqlens_k.is_some() {
            return Err(error::argument(
                "cu_seqlens_q and cu_seqlens_k: only one is given, expected both or neither".into(),
            ));
        }
        options.quantizing.check()?;
        Ok(options)
    }

    pub(crate) fn is_varlen(&self) -> bool {
        self.cu_seqlens_q.is_some()
    }

    /// What the caller calls q, k and v.
    pub(crate) fn names(&self) -> [&'static str; 3] {
        self.function.operands()
    }

    /// What of the options needs a diagonal, as the caller wrote it.
    pub(crate) fn diagonal(&self) -> Option<String> {
        let limited = self
            .window
            .is_some_and(|(left, right)| left >= 0 || right >= 0);
        match self {
            Options { causal: true, .. } => {
                Some(format!("{}=True", self.function.called("causal")))
            }
            _ if limited => Some("a window".into()),
            Options {
                alibi_slopes: Some(_),
                ..
            } => Some("alibi_slopes".into()),
            _ => None,
        }
    }

    /// `key` is what the caller calls the option.
    fn set(&mut self, option: &'static str, key: &str, value: &Bound<'py, PyAny>) -> PyResult<()> {
        let given = || Some(value).filter(|value| !value.is_none());
        match option {
            "causal" => self.causal = boolean(value, key)?,
            "softmax_scale" => self.scale = given().map(|value| number(value, key)).transpose()?,
            "attn_mask" => self.mask = given().cloned(),
            "window" => self.window = given().map(window).transpose()?,
            "softcap" => {
                let cap = given().map(|value| softcap(value, key)).transpose()?;
                self.softcap = cap.unwrap_or(0.0);
            }
            "alibi_slopes" => self.alibi_slopes = given().cloned(),
            "sinks" => self.sinks = given().cloned(),
            "cu_seqlens_q" => self.cu_seqlens_q = given().cloned(),
            "cu_seqlens_k" => self.cu_seqlens_k = given().cloned(),
            "seqlens_k" => self.seqlens_k = given().cloned(),
            "alignment" => {
                if let Some(value) = given() {
                    self.alignment = Some(named(value, key, ALIGNMENTS)?);
                }
            }
            "compute" => self.compute = named(value, key, COMPUTES)?,
            "layout" => self.layout = Layout::parse(value)?,
            "return_logsumexp" => self.specific.return_logsumexp = boolean(value, key)?,
            "out" => self.specific.out = given().cloned(),
            "backward" => self.specific.backward = boolean(value, key)?,
            "need" => self.specific.need = Some(need(value)?),
            "clip" => self.specific.clip = boolean(value, key)?,
            "grad_mask" => self.specific.grad_mask = boolean(value, key)?,
            "grad_sinks" => self.specific.grad_sinks = boolean(value, key)?,
            "grad_lse" => self.specific.grad_lse = given().cloned(),
            "d_values" => self.specific.d_values = given().cloned(),
            _ => self.quantizing.set(option, value)?,
        }
        Ok(())
    }
}

fn need(value: &Bound<'_, PyAny>) -> PyResult<(bool, bool, bool)> {
    let wrong = || wrong_type(value, "need", "three of True and False, for q, k and v");
    if value.is_instance_of::<PyString>() || !value.len().is_ok_and(|len| len == 3) {
        return Err(wrong());
    }
    let of = |index: usize| boolean(&value.get_item(index)?, &format!("need[{index}]"));
    Ok((of(0)?, of(1)?, of(2)?))
}

/// Options of a function, checked as a call checks them and in one form: a window is a pair, of which -1 is no limit; what
/// quantizes is a mapping from "q", "k" and "v", and left out where it is the default. Arrays are as they were given.
#[pyfunction]
pub(crate) fn _check_options<'py>(
    py: Python<'py>,
    function: &str,
    options: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyDict>> {
    let Some(function) = Function::ALL
        .into_iter()
        .find(|known| known.name() == function)
    else {
        return Err(error::argument(format!(
            "function: \"{function}\", expected one of _options()"
        )));
    };
    let parsed = Options::parse(function, Some(options))?;
    let checked = PyDict::new(py);
    for (key, value) in options {
        let key = key.cast_into::<PyString>()?;
        let name = function.option(&key.to_cow()?)?;
        if value.is_none() {
            continue;
        }
        match name {
            "causal" => checked.set_item(name, parsed.causal)?,
            // As float64: what Python prints, and what is read again.
            "softmax_scale" | "softcap" => checked.set_item(name, value.extract::<f64>()?)?,
            "window" => checked.set_item(name, parsed.window)?,
            "alignment" => {
                let code = parsed.alignment.unwrap_or_default();
                checked.set_item(name, name_of(code, ALIGNMENTS))?;
            }
            "return_logsumexp" | "backward" | "clip" | "grad_mask" | "grad_sinks" => {
                checked.set_item(name, boolean(&value, name)?)?;
            }
            _ if Quantizing::knows(name) => {}
            _ => checked.set_item(name, value)?,
        }
    }
    parsed.quantizing.write(&checked)?;
    Ok(checked)
}

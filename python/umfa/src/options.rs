//! The keyword arguments that every attention function shares, parsed in one place.

use mfa::raw::sys;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt, PyMapping, PyString, PyTuple};

use crate::dtype::one_of;
use crate::error;

/// A name and the number that stands for it in the contract.
pub(crate) type Names = &'static [(&'static str, i32)];

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

/// Looks a string up in a table of names.
pub(crate) fn named(value: &Bound<'_, PyAny>, argument: &str, names: Names) -> PyResult<i32> {
    let expected = || {
        let quoted: Vec<String> = names
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        one_of(&quoted.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let Ok(text) = value.cast::<PyString>() else {
        return Err(error::dtype(format!(
            "{argument}: {}, expected {}",
            value.repr()?,
            expected()
        )));
    };
    let text = text.to_cow()?;
    match names.iter().find(|(name, _)| *name == text) {
        Some((_, code)) => Ok(*code),
        None => Err(error::argument(format!(
            "{argument}: \"{text}\", expected {}",
            expected()
        ))),
    }
}

/// The name of a number of such a table.
pub(crate) fn name_of(code: i32, names: Names) -> &'static str {
    names
        .iter()
        .find(|(_, number)| *number == code)
        .map_or("unknown", |(name, _)| name)
}

pub(crate) fn boolean(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<bool> {
    match value.cast::<PyBool>() {
        Ok(value) => Ok(value.is_true()),
        // numpy.bool_ and 0-d arrays say so themselves; strings and numbers are mistakes.
        Err(_) if value.get_type().name()?.to_cow()?.starts_with("bool") => value.is_truthy(),
        Err(_) => Err(error::dtype(format!(
            "{argument}: {}, expected True or False",
            value.repr()?
        ))),
    }
}

pub(crate) fn number(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<f32> {
    let wide: f64 = value
        .extract()
        .map_err(|_| wrong_type(value, argument, "a number"))?;
    let narrow = wide as f32;
    if !narrow.is_finite() {
        return Err(error::argument(format!(
            "{argument}: {}, expected a finite number of float32",
            value.repr()?
        )));
    }
    Ok(narrow)
}

/// A scale given as a number.
pub(crate) fn scale(value: &Bound<'_, PyAny>) -> PyResult<()> {
    match number(value, "scale")? {
        0.0 => Err(error::argument("scale: 0, expected another number".into())),
        _ => Ok(()),
    }
}

fn wrong_type(value: &Bound<'_, PyAny>, argument: &str, expected: &str) -> PyErr {
    match value.repr() {
        Ok(found) => error::dtype(format!("{argument}: {found}, expected {expected}")),
        Err(problem) => problem,
    }
}

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

    pub(crate) fn name(self) -> &'static str {
        match self {
            Layout::Bhnd => "BHND",
            Layout::Bnhd => "BNHD",
        }
    }
}

/// Which of query, key and value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Query,
    Key,
    Value,
}

/// One setting for each of query, key and value: given once for all three, or as a mapping from "q", "k" and "v".
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Each<T>([T; 3]);

impl<T: Copy> Each<T> {
    const fn all(value: T) -> Each<T> {
        Each([value; 3])
    }

    pub(crate) fn of(&self, role: Role) -> T {
        self.0[role as usize]
    }

    /// `single` says what a value without a dict means for the three.
    fn parse(
        value: &Bound<'_, PyAny>,
        argument: &str,
        default: Each<T>,
        one: impl Fn(&Bound<'_, PyAny>, &str) -> PyResult<T>,
        single: impl Fn(T) -> Each<T>,
    ) -> PyResult<Each<T>> {
        if value.is_none() || value.is_instance_of::<PyString>() {
            return one(value, argument).map(single);
        }
        let Ok(mapping) = value.cast::<PyMapping>() else {
            return one(value, argument).map(single);
        };
        let dict = PyDict::from_sequence(mapping.items()?.as_any())?;
        let mut each = default;
        for (key, value) in dict {
            let index = match key.extract::<String>().as_deref() {
                Ok("q") => 0,
                Ok("k") => 1,
                Ok("v") => 2,
                _ => {
                    return Err(error::argument(format!(
                        "{argument}: key {}, expected \"q\", \"k\" or \"v\"",
                        key.repr()?
                    )));
                }
            };
            each.0[index] = one(&value, &format!("{argument}[{}]", key.repr()?))?;
        }
        Ok(each)
    }
}

/// How float operands are quantized before the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantizing {
    pub(crate) precision: Each<Option<i32>>,
    pub(crate) granularity: Each<i32>,
    pub(crate) block_rows: Each<u32>,
    pub(crate) group: Each<u32>,
    pub(crate) symmetric: Each<bool>,
    pub(crate) scale_precision: Each<i32>,
    pub(crate) zero_point_bytes: Each<i32>,
    pub(crate) smooth: Each<bool>,
    pub(crate) rotate: Each<bool>,
}

pub(crate) const DEFAULT_BLOCK_ROWS: u32 = 64;

impl Default for Quantizing {
    fn default() -> Self {
        Quantizing {
            precision: Each::all(None),
            granularity: Each::all(sys::MFA_GRANULARITY_TENSOR),
            block_rows: Each::all(DEFAULT_BLOCK_ROWS),
            group: Each::all(0),
            symmetric: Each::all(true),
            scale_precision: Each::all(sys::MFA_PRECISION_FP32),
            zero_point_bytes: Each::all(1),
            smooth: Each::all(false),
            rotate: Each::all(false),
        }
    }
}

impl Quantizing {
    /// Whether any float operand is quantized.
    pub(crate) fn any(&self) -> bool {
        self.precision.0.iter().any(Option::is_some)
    }

    /// Takes one keyword; false if it isn't one of these.
    fn set(&mut self, key: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        fn put<T: Copy>(
            slot: &mut Each<T>,
            value: &Bound<'_, PyAny>,
            key: &str,
            one: impl Fn(&Bound<'_, PyAny>, &str) -> PyResult<T>,
        ) -> PyResult<()> {
            *slot = Each::parse(value, key, *slot, one, Each::all)?;
            Ok(())
        }
        match key {
            "precision" => put(&mut self.precision, value, key, precision)?,
            "granularity" => put(&mut self.granularity, value, key, |value, key| {
                named(value, key, GRANULARITIES)
            })?,
            "block_rows" => put(&mut self.block_rows, value, key, block_rows)?,
            "group" => put(&mut self.group, value, key, group)?,
            "symmetric" => put(&mut self.symmetric, value, key, boolean)?,
            "scale_dtype" => put(&mut self.scale_precision, value, key, |value, key| {
                named(value, key, SCALE_DTYPES)
            })?,
            "zero_point_dtype" => put(&mut self.zero_point_bytes, value, key, |value, key| {
                named(value, key, ZERO_POINT_DTYPES)
            })?,
            // Smoothing is for keys, whose mean carries no information to the softmax.
            "smooth" => {
                let keys = |on| Each([false, on, false]);
                self.smooth = Each::parse(value, key, self.smooth, boolean, keys)?;
            }
            "rotate" => put(&mut self.rotate, value, key, boolean)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn precision(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<Option<i32>> {
    if value.is_none() {
        return Ok(None);
    }
    named(value, argument, PRECISIONS).map(Some)
}

pub(crate) fn block_rows(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<u32> {
    match value.extract::<u32>() {
        Ok(rows) if rows > 0 && value.cast::<PyBool>().is_err() => Ok(rows),
        Ok(_) => Err(error::argument(format!(
            "{argument}: {value}, expected at least 1"
        ))),
        Err(_) => Err(wrong_type(value, argument, "a number of rows, at least 1")),
    }
}

pub(crate) fn group(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<u32> {
    if value.is_none() {
        return Ok(0);
    }
    match value.extract::<u32>() {
        Ok(columns @ (32 | 64)) => Ok(columns),
        _ => Err(error::argument(format!(
            "{argument}: {}, expected None, 32 or 64",
            value.repr()?
        ))),
    }
}

/// Everything that forward and backward share. Arrays are read later, when the shapes are known.
#[derive(Default)]
pub(crate) struct Options<'py> {
    pub(crate) causal: bool,
    pub(crate) scale: Option<f32>,
    pub(crate) softcap: f32,
    pub(crate) alignment: i32,
    pub(crate) compute: i32,
    pub(crate) window: Option<(i64, i64)>,
    pub(crate) mask: Option<Bound<'py, PyAny>>,
    pub(crate) alibi_slopes: Option<Bound<'py, PyAny>>,
    pub(crate) sinks: Option<Bound<'py, PyAny>>,
    pub(crate) cu_seqlens_q: Option<Bound<'py, PyAny>>,
    pub(crate) cu_seqlens_k: Option<Bound<'py, PyAny>>,
    pub(crate) layout: Layout,
    pub(crate) quantizing: Quantizing,
}

impl<'py> Options<'py> {
    /// Parses `keywords`. Those that are not shared go to `own`, which returns false for those it doesn't know.
    pub(crate) fn parse(
        function: &str,
        keywords: Option<&Bound<'py, PyDict>>,
        mut own: impl FnMut(&str, &Bound<'py, PyAny>) -> PyResult<bool>,
    ) -> PyResult<Options<'py>> {
        let mut options = Options::default();
        let Some(keywords) = keywords else {
            return Ok(options);
        };
        for (key, value) in keywords {
            let key = key.cast_into::<PyString>()?;
            let key = key.to_cow()?;
            if !options.set(&key, &value)? && !own(&key, &value)? {
                return Err(PyTypeError::new_err(format!(
                    "{function}() got an unexpected keyword argument '{key}'"
                )));
            }
        }
        if options.cu_seqlens_q.is_some() != options.cu_seqlens_k.is_some() {
            return Err(error::argument(
                "cu_seqlens_q and cu_seqlens_k: only one is given, expected both or neither".into(),
            ));
        }
        Ok(options)
    }

    pub(crate) fn is_varlen(&self) -> bool {
        self.cu_seqlens_q.is_some()
    }

    fn set(&mut self, key: &str, value: &Bound<'py, PyAny>) -> PyResult<bool> {
        let given = || Some(value).filter(|value| !value.is_none());
        match key {
            "causal" => self.causal = boolean(value, key)?,
            "softmax_scale" => self.scale = given().map(|value| number(value, key)).transpose()?,
            "attn_mask" => self.mask = given().cloned(),
            "window" => self.window = given().map(window).transpose()?,
            "softcap" => {
                self.softcap = given()
                    .map(|value| number(value, key))
                    .transpose()?
                    .unwrap_or(0.0);
            }
            "alibi_slopes" => self.alibi_slopes = given().cloned(),
            "sinks" => self.sinks = given().cloned(),
            "cu_seqlens_q" => self.cu_seqlens_q = given().cloned(),
            "cu_seqlens_k" => self.cu_seqlens_k = given().cloned(),
            "alignment" => self.alignment = named(value, key, ALIGNMENTS)?,
            "compute" => self.compute = named(value, key, COMPUTES)?,
            "layout" => self.layout = Layout::parse(value)?,
            _ => return self.quantizing.set(key, value),
        }
        Ok(true)
    }
}

/// An int is the same reach on both sides; in a pair, None or -1 is no limit.
fn window(value: &Bound<'_, PyAny>) -> PyResult<(i64, i64)> {
    let side = |value: &Bound<'_, PyAny>| -> PyResult<i64> {
        if value.is_none() {
            return Ok(-1);
        }
        let reach = value.extract::<i64>();
        match reach {
            Ok(reach) if reach >= -1 => Ok(reach),
            Ok(reach) => Err(error::argument(format!(
                "window: {reach}, expected 0 or more, or -1 for no limit"
            ))),
            Err(_) => Err(wrong_type(value, "window", "an int or None")),
        }
    };
    if let Ok(pair) = value.cast::<PyTuple>()
        && pair.len() == 2
    {
        return Ok((side(&pair.get_item(0)?)?, side(&pair.get_item(1)?)?));
    }
    if value.cast::<PyInt>().is_ok() && value.cast::<PyBool>().is_err() {
        let reach = side(value)?;
        return Ok((reach, reach));
    }
    Err(wrong_type(value, "window", "an int or (left, right)"))
}

//! Values of options: each reader says in its message what it found and what it expected.

use std::borrow::Cow;

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::error;

/// A name and the number that stands for it in the contract.
pub(crate) type Names = &'static [(&'static str, i32)];

/// What Python prints for a value, cut where it gets long.
pub(crate) fn shown(value: &Bound<'_, PyAny>) -> PyResult<String> {
    const LONGEST: usize = 60;
    let text = value.repr()?.to_string();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(LONGEST) {
        None => Ok(text),
        Some((end, _)) => Ok(format!("{}...", &text[..end])),
    }
}

pub(crate) fn wrong_type(value: &Bound<'_, PyAny>, argument: &str, expected: &str) -> PyErr {
    match shown(value) {
        Ok(found) => error::dtype(format!("{argument}: {found}, expected {expected}")),
        Err(problem) => problem,
    }
}

fn wrong_value(value: &Bound<'_, PyAny>, argument: &str, expected: &str) -> PyErr {
    match shown(value) {
        Ok(found) => error::argument(format!("{argument}: {found}, expected {expected}")),
        Err(problem) => problem,
    }
}

/// "int8" for the string, `numpy.int8`, `numpy.dtype("int8")` and `torch.int8` alike.
pub(crate) fn dtype_name<'a>(value: &'a Bound<'_, PyAny>) -> Option<Cow<'a, str>> {
    if let Ok(text) = value.cast::<PyString>() {
        return text.to_cow().ok();
    }
    let kind = value.get_type().name().ok()?.to_string();
    let name = match kind.as_str() {
        "type" => value.getattr("__name__"),
        // NumPy's have a name; torch's print as torch.int8.
        _ if kind.starts_with("dtype") || kind.ends_with("DType") => {
            match value.getattr_opt("name").ok()? {
                Some(name) => Ok(name),
                None => value.str().map(Bound::into_any),
            }
        }
        _ => return None,
    };
    let name = name.ok()?.str().ok()?.to_string();
    Some(Cow::Owned(name.rsplit('.').next()?.to_owned()))
}

/// Looks a name up in a table.
pub(crate) fn named(value: &Bound<'_, PyAny>, argument: &str, names: Names) -> PyResult<i32> {
    let expected = || {
        let quoted: Vec<String> = (names.iter())
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        one_of(&quoted.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let Some(text) = dtype_name(value) else {
        return Err(wrong_type(value, argument, &expected()));
    };
    match names.iter().find(|(name, _)| *name == text) {
        Some((_, code)) => Ok(*code),
        None if value.is_instance_of::<PyString>() => Err(error::argument(format!(
            "{argument}: \"{text}\", expected {}",
            expected()
        ))),
        None => Err(wrong_value(value, argument, &expected())),
    }
}

/// The name of a number of such a table.
pub(crate) fn name_of(code: i32, names: Names) -> &'static str {
    (names.iter())
        .find(|(_, number)| *number == code)
        .map_or("unknown", |(name, _)| name)
}

pub(crate) fn boolean(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<bool> {
    match value.cast::<PyBool>() {
        Ok(value) => Ok(value.is_true()),
        // numpy.bool_ says so itself; strings and numbers are mistakes.
        Err(_) if value.get_type().name()?.to_cow()?.starts_with("bool") => value.is_truthy(),
        Err(_) => Err(wrong_type(value, argument, "True or False")),
    }
}

/// Whether a value is True or False of Python or NumPy, which are no numbers. Python's own numbers are told fast.
fn is_boolean(value: &Bound<'_, PyAny>) -> bool {
    if value.is_exact_instance_of::<PyFloat>() || value.is_exact_instance_of::<PyInt>() {
        return false;
    }
    let kind = value.get_type();
    kind.name()
        .is_ok_and(|name| name.to_string().starts_with("bool"))
}

/// A finite number of float32; True and False are mistakes.
pub(crate) fn number(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<f32> {
    let wide: f64 = match value.extract() {
        Ok(wide) if !is_boolean(value) => wide,
        Err(problem) if problem.is_instance_of::<PyOverflowError>(value.py()) => f64::INFINITY,
        _ => return Err(wrong_type(value, argument, "a number")),
    };
    let narrow = wide as f32;
    if !narrow.is_finite() {
        return Err(wrong_value(value, argument, "a finite number of float32"));
    }
    Ok(narrow)
}

/// c of c * tanh(S / c); 0 is none, and nothing else may become it.
pub(crate) fn softcap(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<f32> {
    let cap = number(value, argument)?;
    if cap < 0.0 {
        return Err(wrong_value(value, argument, "0 (none) or more"));
    }
    if cap < f32::MIN_POSITIVE && value.extract::<f64>()? != 0.0 {
        let expected = "0 (none), or at least 1.2e-38, the least number that float32 holds in full";
        return Err(wrong_value(value, argument, expected));
    }
    Ok(cap)
}

/// A scale given as a number.
pub(crate) fn scale(value: &Bound<'_, PyAny>) -> PyResult<()> {
    match number(value, "scale")? {
        0.0 => Err(error::argument("scale: 0, expected another number".into())),
        _ => Ok(()),
    }
}

pub(crate) fn block_rows(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<u32> {
    match integer(value) {
        Some(Ok(rows)) => (u32::try_from(rows).ok().filter(|rows| *rows > 0))
            .ok_or_else(|| wrong_value(value, argument, "at least 1")),
        Some(Err(_)) => Err(wrong_value(value, argument, "fewer rows")),
        None => Err(wrong_type(value, argument, "a number of rows, at least 1")),
    }
}

pub(crate) fn group(value: &Bound<'_, PyAny>, argument: &str) -> PyResult<u32> {
    if value.is_none() {
        return Ok(0);
    }
    match integer(value) {
        Some(Ok(columns @ (32 | 64))) => Ok(columns as u32),
        _ => Err(wrong_value(value, argument, "None, 32 or 64")),
    }
}

/// Any integer: Python's, NumPy's, or what has `__index__`. An error is one beyond 64 bits.
fn integer(value: &Bound<'_, PyAny>) -> Option<Result<i64, ()>> {
    if is_boolean(value) || value.is_instance_of::<PyFloat>() {
        return None;
    }
    match value.extract::<i64>() {
        Ok(number) => Some(Ok(number)),
        Err(problem) if problem.is_instance_of::<PyOverflowError>(value.py()) => Some(Err(())),
        Err(_) => None,
    }
}

/// An int is the same reach on both sides; in a pair, None or -1 is no limit.
pub(crate) fn window(value: &Bound<'_, PyAny>) -> PyResult<(i64, i64)> {
    const SIDE: &str = "0 or more, or None for no limit";
    let side = |side: &Bound<'_, PyAny>| -> PyResult<i64> {
        if side.is_none() {
            return Ok(-1);
        }
        match integer(side) {
            Some(Ok(reach)) if reach >= -1 => Ok(reach),
            Some(Ok(reach)) => Err(error::argument(format!("window: {reach}, expected {SIDE}"))),
            Some(Err(())) => {
                let expected = "less than 2**63, or None for no limit";
                Err(wrong_value(side, "window", expected))
            }
            None => Err(wrong_type(side, "window", "an int or None")),
        }
    };
    if let Ok(pair) = value.cast::<PyTuple>()
        && pair.len() == 2
    {
        return Ok((side(&pair.get_item(0)?)?, side(&pair.get_item(1)?)?));
    }
    if integer(value).is_some() {
        let reach = side(value)?;
        return Ok((reach, reach));
    }
    let listed = value.is_instance_of::<PyList>() || value.hasattr("__array_interface__")?;
    if listed && value.len().is_ok_and(|len| len == 2) {
        return Ok((side(&value.get_item(0)?)?, side(&value.get_item(1)?)?));
    }
    Err(wrong_type(value, "window", "an int or (left, right)"))
}

/// "a, b or c"
pub(crate) fn one_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

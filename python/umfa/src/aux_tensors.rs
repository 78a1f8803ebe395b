//! The arrays among the options of a call: masks, slopes, sinks and sequence lengths.

use std::borrow::Cow;

use mfa::raw::lower;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::array::{Array, Kind};
use crate::call::{Call, TensorArg};
use crate::dtype::Dtype;
use crate::error;
use crate::options::{Layout, Options, shown, wrong_type};
use crate::shapes::Operands;
use crate::view::shape_text;

/// The arrays behind the options of a call, which must outlive it.
#[derive(Default)]
pub(crate) struct AuxTensors<'py> {
    pub(crate) mask: Option<Mask<'py>>,
    pub(crate) sinks: Option<Array<'py>>,
    alibi_slopes: Option<Array<'py>>,
    lengths: Option<[Lengths<'py>; 2]>,
    key_lengths: Option<Lengths<'py>>,
    /// The alignment of the diagonal: `MFA_ALIGNMENT_*`.
    alignment: i32,
}

/// A mask, and which of its axes is which of [batch, heads, rows of query, rows of key].
pub(crate) struct Mask<'py> {
    pub(crate) array: Array<'py>,
    pub(crate) axes: [Option<usize>; 4],
}

/// Lengths, or cumulated ones: an int32 array in place, or what other integers were converted to.
struct Lengths<'py> {
    ends: Cow<'py, [i32]>,
    _owner: Option<Array<'py>>,
}

impl<'py> Mask<'py> {
    fn read(object: &Bound<'py, PyAny>, operands: &Operands<'_>) -> PyResult<Mask<'py>> {
        const MASKS: &[Dtype] = &[Dtype::Bool, Dtype::Float32, Dtype::Float16, Dtype::BFloat16];
        const WIDE: &[Dtype] = &[Dtype::Bool, Dtype::Float64];
        let wide = operands.dtype == Dtype::Float64;
        let array = Array::read(object, "attn_mask", if wide { WIDE } else { MASKS })?;
        let rank = operands.shapes[0].len();
        let batch_first = operands.layout == Layout::Bhnd && rank == 3 && !operands.varlen;
        let axes = match array.view.rank {
            4 => [Some(0), Some(1), Some(2), Some(3)],
            3 if batch_first => [Some(0), None, Some(1), Some(2)],
            3 => [None, Some(0), Some(1), Some(2)],
            2 => [None, None, Some(0), Some(1)],
            1 => [None, None, None, Some(0)],
            _ => {
                return Err(error::dimensions(
                    "attn_mask: shape (), expected at least the key positions".into(),
                ));
            }
        };
        Ok(Mask { array, axes })
    }

    pub(crate) fn placed(&self) -> TensorArg {
        TensorArg::new(&self.array.view, self.axes)
    }
}

/// One number for each head: one of `allowed` in place, or what lists and other numbers are converted to: the first of them.
fn numbers<'py>(object: &Bound<'py, PyAny>, name: &str, allowed: &[Dtype]) -> PyResult<Array<'py>> {
    const NUMBERS: &[Dtype] = &[
        Dtype::Float32,
        Dtype::Float16,
        Dtype::BFloat16,
        Dtype::Float64,
        Dtype::Int8,
        Dtype::Int32,
        Dtype::Int64,
    ];
    let py = object.py();
    let numpy = py.import(intern!(py, "numpy"))?;
    let listed = object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>();
    let given = match listed {
        true => (numpy.call_method1("asarray", (object,)))
            .map_err(|_| wrong_type(object, name, "one number for each head"))?,
        false => object.clone(),
    };
    let array = Array::read(&given, name, NUMBERS)?;
    if allowed.contains(&array.view.dtype) {
        return Ok(array);
    }
    let wanted = allowed[0];
    // An infinity may be meant (a sink of -inf), but not one that comes of rounding.
    let too_large = |at: *mut u8| {
        // SAFETY: an element of the array, which is aligned.
        let wide = unsafe { at.cast::<f64>().read() };
        wide.is_finite() && !(wide as f32).is_finite()
    };
    if array.view.dtype == Dtype::Float64
        && wanted == Dtype::Float32
        && array.view.addresses().any(too_large)
    {
        return Err(error::argument(format!(
            "{name}: {}, expected numbers that float32 holds",
            shown(object)?
        )));
    }
    let single = match &array.kind {
        Kind::Torch(_) if wanted == Dtype::Float64 => given.call_method0("double")?,
        Kind::Torch(_) => given.call_method0("float")?,
        _ if given.hasattr("astype")? => given.call_method1("astype", (wanted.name(),))?,
        _ => numpy
            .call_method1("from_dlpack", (&given,))?
            .call_method1("astype", (wanted.name(),))?,
    };
    Array::read(&single, name, &[wanted])
}

impl<'py> AuxTensors<'py> {
    pub(crate) const SINK_AXES: [Option<usize>; 4] = [None, Some(0), None, None];

    /// Reads the arrays, and checks them against the operands.
    pub(crate) fn read(
        options: &Options<'py>,
        operands: &Operands<'_>,
    ) -> PyResult<AuxTensors<'py>> {
        let lengths = match (&options.cu_seqlens_q, &options.cu_seqlens_k) {
            (Some(q), Some(k)) => {
                let both = [lengths(q, "cu_seqlens_q")?, lengths(k, "cu_seqlens_k")?];
                if both[0].ends.len() != both[1].ends.len() {
                    return Err(error::dimensions(format!(
                        "cu_seqlens_k: {} entries, expected {} as cu_seqlens_q",
                        both[1].ends.len(),
                        both[0].ends.len()
                    )));
                }
                operands.check_lengths(0, "cu_seqlens_q", &both[0].ends)?;
                operands.check_lengths(1, "cu_seqlens_k", &both[1].ends)?;
                Some(both)
            }
            _ => None,
        };
        let mut aux = AuxTensors {
            lengths,
            ..AuxTensors::default()
        };
        if let Some(object) = &options.mask {
            let mask = Mask::read(object, operands)?;
            let sizes = mask.placed().shape;
            operands.check_mask(mask.array.view.shape(), sizes, aux.packed())?;
            aux.mask = Some(mask);
        }
        let sequences = match aux.packed() {
            Some([q, _]) => (q.len() - 1) as u64,
            None => operands.sizes[0][0],
        };
        if let Some(object) = &options.seqlens_k {
            let given = integers(object, "seqlens_k", "how many keys each sequence has")?;
            operands.check_key_lengths(&given.ends, sequences, aux.packed())?;
            aux.key_lengths = Some(given);
        }
        if let Some(object) = &options.alibi_slopes {
            let slopes = numbers(object, "alibi_slopes", operands.dtype.results())?;
            operands.check_heads("alibi_slopes", slopes.view.shape(), sequences)?;
            aux.alibi_slopes = Some(slopes);
        }
        if let Some(object) = &options.sinks {
            let sinks = numbers(object, "sinks", operands.dtype.results())?;
            operands.check_heads("sinks", sinks.view.shape(), sequences)?;
            aux.sinks = Some(sinks);
        }
        let key_lengths = aux.key_lengths.as_ref().map(|lengths| &*lengths.ends);
        aux.alignment = operands.alignment(options, aux.packed(), key_lengths)?;
        Ok(aux)
    }

    /// The ends of packed sequences in query and key.
    fn packed(&self) -> Option<[&[i32]; 2]> {
        let [q, k] = self.lengths.as_ref()?;
        Some([&q.ends, &k.ends])
    }

    /// The options of a call.
    pub(crate) fn describe(
        &self,
        call: &mut Call<'_>,
        options: &Options<'_>,
    ) -> PyResult<lower::Options> {
        let tensor = |call: &mut Call<'_>, placed: Option<TensorArg>| {
            placed.map(|placed| call.tensor(&placed)).transpose()
        };
        let slopes = self.alibi_slopes.as_ref().map(|slopes| {
            let batch = (slopes.view.rank == 2).then_some(0);
            let heads = Some(slopes.view.rank - 1);
            TensorArg::new(&slopes.view, [batch, heads, None, None])
        });
        let sinks =
            (self.sinks.as_ref()).map(|sinks| TensorArg::new(&sinks.view, AuxTensors::SINK_AXES));
        Ok(lower::Options {
            causal: options.causal,
            softmax_scale: options.scale,
            softcap: options.softcap,
            alignment: self.alignment,
            compute: options.compute,
            window: options.window.map(|(left, right)| [left, right]),
            mask: tensor(call, self.mask.as_ref().map(Mask::placed))?,
            alibi_slopes: tensor(call, slopes)?,
            sinks: tensor(call, sinks)?,
            sequences: match &self.lengths {
                None => None,
                Some([q, k]) => Some(lower::Sequences {
                    count: (q.ends.len() - 1) as u32,
                    cu_seqlens_q: call.lengths(&q.ends)?,
                    cu_seqlens_k: call.lengths(&k.ends)?,
                }),
            },
            seqlens_k: match &self.key_lengths {
                None => std::ptr::null_mut(),
                Some(lengths) => call.lengths(&lengths.ends)?,
            },
        })
    }
}

/// Cumulated lengths of packed sequences.
fn lengths<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Lengths<'py>> {
    const MEANING: &str = "0 and then the end of each sequence";
    let lengths = integers(object, name, MEANING)?;
    match lengths.ends.len() {
        0 | 1 => Err(error::dimensions(format!(
            "{name}: {} entries, expected {MEANING}",
            lengths.ends.len()
        ))),
        _ => Ok(lengths),
    }
}

/// A list or an array of one dimension, of int32 or int64.
fn integers<'py>(object: &Bound<'py, PyAny>, name: &str, meaning: &str) -> PyResult<Lengths<'py>> {
    let complain =
        |found: String| error::dimensions(format!("{name}: {found}, expected {meaning}"));
    let wide: Vec<i64> = match object.extract::<Vec<i64>>() {
        Ok(list) if object.is_instance_of::<pyo3::types::PyList>() => list,
        Ok(list) if object.is_instance_of::<pyo3::types::PyTuple>() => list,
        _ => {
            let array = Array::read(object, name, &[Dtype::Int32, Dtype::Int64])?;
            let view = &array.view;
            if view.rank != 1 {
                return Err(complain(format!("shape {}", shape_text(view.shape()))));
            }
            if view.dtype == Dtype::Int32 && view.is_contiguous() {
                // SAFETY: a contiguous int32 array, which is kept beside the slice.
                let ends =
                    unsafe { std::slice::from_raw_parts(view.data.cast::<i32>(), view.len()) };
                return Ok(Lengths {
                    ends: Cow::Borrowed(ends),
                    _owner: Some(array),
                });
            }
            (0..view.len())
                .map(|index| {
                    let at = view
                        .data
                        .wrapping_add(index * view.strides[0] * view.dtype.size());
                    // SAFETY: an element of the array, of this type and aligned.
                    unsafe {
                        match view.dtype {
                            Dtype::Int64 => at.cast::<i64>().read(),
                            _ => i64::from(at.cast::<i32>().read()),
                        }
                    }
                })
                .collect()
        }
    };
    let narrow = wide
        .into_iter()
        .map(i32::try_from)
        .collect::<Result<Vec<i32>, _>>();
    let narrow = narrow.map_err(|_| complain("an entry that does not fit int32".into()))?;
    Ok(Lengths {
        ends: Cow::Owned(narrow),
        _owner: None,
    })
}

//! What Rust got from the driver, in the files that `tests/cross` compares: its README has their grammar.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mfa::raw::sys;

use crate::calls::Call;
use crate::memory::Memory;
use crate::vectors::{Case, Quantization};

/// Results on their way to a folder.
pub(crate) struct Results {
    folder: PathBuf,
    written: Mutex<Written>,
}

struct Written {
    index: String,
    bytes: Vec<u8>,
}

/// An array in memory; an item of INT4 is a pair of elements.
struct Array<'a> {
    bytes: &'a [u8],
    start: usize,
    shape: [usize; 4],
    /// In bytes.
    strides: [usize; 4],
    item: usize,
}

impl Results {
    pub(crate) fn new(folder: &Path, device: &str) -> Self {
        Self {
            folder: folder.to_path_buf(),
            written: Mutex::new(Written {
                index: format!("mfa-results 1\ndevice {device}\n"),
                bytes: Vec::new(),
            }),
        }
    }

    /// A call and what it wrote, if it succeeded.
    pub(crate) fn add(
        &self,
        case: &Case,
        call: Call,
        memory: &Memory<'_>,
        (status, message): (i32, &str),
        report: Option<&sys::mfa_quantization_error>,
    ) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, roles): (_, &[&str]) = match call {
            Call::Forward | Call::Plain | Call::TrainingForward => {
                ("forward", &["output", "logsumexp"])
            }
            Call::Backward | Call::TrainingBackward => (
                "backward",
                &[
                    "grad_query",
                    "grad_key",
                    "grad_value",
                    "grad_mask",
                    "grad_sinks",
                    "d_values",
                ],
            ),
            Call::Quantize => ("quantize", &["destination"]),
            Call::Dequantize => ("dequantize", &["destination"]),
        };
        written.index += &format!("call {} {name} {status}\n", case.name);
        if status != sys::MFA_SUCCESS {
            written.index += &format!("sentence {message}\n");
            return;
        }
        for role in roles {
            if let Some(array) = tensor(case, role, memory) {
                written.add(role, &array);
            }
        }
        if let (Call::Quantize, Some(report)) = (call, report) {
            written.add_parameters(case, memory);
            let numbers = [
                report.rmse,
                report.relative_rmse,
                report.max_abs,
                report.worst_row_rmse,
            ];
            written.add_bytes("report", &numbers.map(f64::to_le_bytes).concat());
        }
    }

    pub(crate) fn write(&self) -> std::io::Result<()> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let index = format!("{}end\n", written.index);
        fs::write(self.folder.join("results.txt"), index)?;
        File::create(self.folder.join("results.bin"))?.write_all(&written.bytes)
    }
}

fn item_size(precision: i32) -> usize {
    match precision {
        sys::MFA_PRECISION_FP32 => 4,
        sys::MFA_PRECISION_FP16 | sys::MFA_PRECISION_BF16 => 2,
        _ => 1,
    }
}

/// A tensor that the call has written.
fn tensor<'a>(case: &Case, role: &str, memory: &'a Memory<'_>) -> Option<Array<'a>> {
    let tensor = case.tensor(role)?;
    if case.buffers[tensor.buffer].data.is_some() {
        return None;
    }
    let item = item_size(tensor.view.precision);
    let pair = if tensor.view.precision == sys::MFA_PRECISION_INT4 {
        2
    } else {
        1
    };
    let mut shape = tensor.view.shape.map(|n| n as usize);
    let mut strides = tensor.view.strides.map(|n| n as usize * item / pair);
    if pair == 2 {
        // The columns of INT4 have no gaps.
        shape[3] /= pair;
        strides[3] = item;
    }
    Some(Array {
        bytes: memory.bytes(tensor.buffer),
        start: tensor.view.byte_offset as usize,
        shape,
        strides,
        item,
    })
}

/// The shape of the array of scales.
fn scale_shape(view: &sys::mfa_tensor, parameters: &sys::mfa_quantization) -> [usize; 4] {
    let [batch, heads, rows, columns] = view.shape.map(|n| n as usize);
    let blocks = |rows: usize| rows.div_ceil((parameters.block_rows as usize).max(1));
    match parameters.granularity {
        sys::MFA_GRANULARITY_TENSOR => [1; 4],
        sys::MFA_GRANULARITY_ROW => {
            let group = match parameters.group_size {
                0 => columns,
                group => group as usize,
            };
            [batch, heads, rows, columns.div_ceil(group.max(1))]
        }
        sys::MFA_GRANULARITY_BLOCK => [batch, heads, blocks(rows), 1],
        _ => [batch, heads, blocks(rows), columns],
    }
}

impl Written {
    /// The items in the order of the shape, without gaps.
    fn add(&mut self, name: &str, array: &Array<'_>) {
        let mut packed = Vec::new();
        let [batch, heads, rows, columns] = array.shape;
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                let index = [b, h, r, c];
                let offset: usize = index.iter().zip(array.strides).map(|(i, s)| i * s).sum();
                let at = array.start + offset;
                packed.extend_from_slice(&array.bytes[at..at + array.item]);
            }
        }
        self.add_bytes(name, &packed);
    }

    fn add_bytes(&mut self, name: &str, bytes: &[u8]) {
        self.index += &format!("array {name} {} {}\n", self.bytes.len(), bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Scales, zero points and mean that the call has written.
    fn add_parameters(&mut self, case: &Case, memory: &Memory<'_>) {
        let Some(destination) = case.tensor("destination") else {
            return;
        };
        let Some(Quantization {
            parameters,
            scales,
            zero_points,
            mean,
        }) = &destination.quantization
        else {
            return;
        };
        let shape = scale_shape(&destination.view, parameters);
        let written =
            |buffer: &Option<usize>| buffer.filter(|&buffer| case.buffers[buffer].data.is_none());
        let scale_item = item_size(parameters.scale_precision);
        let zero_point_item = parameters.zero_point_bytes as usize;
        for (name, buffer, start, item) in [
            (
                "scales",
                written(scales),
                parameters.scale_offset,
                scale_item,
            ),
            (
                "zero_points",
                written(zero_points),
                parameters.zero_point_offset,
                zero_point_item,
            ),
        ] {
            let Some(buffer) = buffer else { continue };
            let mut strides = parameters.scale_strides.map(|n| n as usize * item);
            if strides == [0; 4] {
                strides =
                    [0, 1, 2, 3].map(|axis| shape[axis + 1..].iter().product::<usize>() * item);
            }
            self.add(
                name,
                &Array {
                    bytes: memory.bytes(buffer),
                    start: start as usize,
                    shape,
                    strides,
                    item,
                },
            );
        }
        if let Some(buffer) = written(mean) {
            let [batch, heads, _, columns] = destination.view.shape.map(|n| n as usize);
            let start = parameters.mean_offset as usize;
            let bytes = &memory.bytes(buffer)[start..start + 4 * batch * heads * columns];
            self.add_bytes("mean", bytes);
        }
    }
}

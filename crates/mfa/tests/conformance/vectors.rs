//! The cases of a folder of vectors: the grammar is at the top of its `manifest.txt`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::str::{FromStr, SplitWhitespace};
use std::sync::Arc;

use mfa::raw::sys;

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) call: String,
    pub(crate) status: i32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) tensors: Vec<(String, Tensor)>,
    /// Without its tensors and buffers.
    pub(crate) options: sys::mfa_attention_options,
    /// Buffers of `cu_seqlens_q` and `cu_seqlens_k`.
    pub(crate) varlen: Option<[usize; 2]>,
    pub(crate) flags: u32,
    pub(crate) values: Vec<Values>,
    /// (buffer, offset of the bytes that it must hold)
    pub(crate) same: Vec<(usize, usize)>,
    pub(crate) report: Option<[f64; 4]>,
}

// SAFETY: its raw pointers, in options and views, are null until a call copies them.
unsafe impl Send for Case {}
// SAFETY: as above.
unsafe impl Sync for Case {}

pub(crate) struct Buffer {
    /// Offset of its data in the case's bytes; `None`: room of 0xFF bytes.
    pub(crate) data: Option<usize>,
    pub(crate) size: usize,
}

pub(crate) struct Tensor {
    pub(crate) buffer: usize,
    /// Without its buffer and quantization.
    pub(crate) view: sys::mfa_tensor,
    pub(crate) quantization: Option<Quantization>,
}

pub(crate) struct Quantization {
    /// Without its buffers.
    pub(crate) parameters: sys::mfa_quantization,
    pub(crate) scales: Option<usize>,
    pub(crate) zero_points: Option<usize>,
    pub(crate) mean: Option<usize>,
}

/// What a tensor must hold.
pub(crate) struct Values {
    pub(crate) role: String,
    pub(crate) offset: usize,
    /// The largest errors allowed: of an element, and root mean square of a head.
    pub(crate) max: f64,
    pub(crate) rms: f64,
}

impl Case {
    pub(crate) fn tensor(&self, role: &str) -> Option<&Tensor> {
        self.tensors
            .iter()
            .find(|(name, _)| name == role)
            .map(|(_, tensor)| tensor)
    }
}

/// The words of a line, read one after the other.
struct Words<'a> {
    line: &'a str,
    rest: SplitWhitespace<'a>,
}

impl<'a> Words<'a> {
    fn word(&mut self) -> Result<&'a str, String> {
        self.rest
            .next()
            .ok_or_else(|| format!("line ends too soon: {}", self.line))
    }

    fn number<T: FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        word.parse()
            .map_err(|_| format!("unexpected {word:?} in: {}", self.line))
    }

    fn numbers<T: FromStr + Copy + Default, const N: usize>(&mut self) -> Result<[T; N], String> {
        let mut numbers = [T::default(); N];
        for number in &mut numbers {
            *number = self.number()?;
        }
        Ok(numbers)
    }

    /// A buffer's number; -1 is none.
    fn buffer(&mut self) -> Result<Option<usize>, String> {
        Ok(usize::try_from(self.number::<i64>()?).ok())
    }
}

/// All cases of a folder of vectors.
pub(crate) fn read(folder: &Path) -> Result<Vec<Arc<Case>>, String> {
    let load = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let text = |name: &str| String::from_utf8(load(name)?).map_err(|error| error.to_string());
    let manifest = text("manifest.txt")?;
    let mut cases = Vec::new();
    for line in manifest.lines().filter(|line| !line.starts_with('#')) {
        let mut words = Words {
            line,
            rest: line.split_whitespace(),
        };
        match words.word()? {
            "mfa-vectors" => {
                let version: u32 = words.number()?;
                if version != 2 {
                    return Err(format!("the manifest has version {version}, expected 2"));
                }
            }
            "family" => {
                let family = text(&format!("{}.txt", words.word()?))?;
                read_family(&family, &load, &mut cases)?;
            }
            _ => return Err(format!("expected a family, found: {line}")),
        }
    }
    Ok(cases)
}

/// The cases of a family; `load` reads a file of arrays.
fn read_family(
    text: &str,
    load: &impl Fn(&str) -> Result<Vec<u8>, String>,
    cases: &mut Vec<Arc<Case>>,
) -> Result<(), String> {
    let mut files: HashMap<&str, Vec<u8>> = HashMap::new();
    let mut current = None::<Case>;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = Words {
            line,
            rest: line.split_whitespace(),
        };
        match (words.word()?, &mut current) {
            ("case", None) => {
                let mut case = begin(&mut words)?;
                let (file, [base, size]) = (words.word()?, words.numbers::<usize, 2>()?);
                if !files.contains_key(file) {
                    files.insert(file, load(file)?);
                }
                let bytes = files[file].get(base..base + size);
                case.bytes = bytes
                    .ok_or_else(|| format!("{file} is too short for: {line}"))?
                    .to_vec();
                current = Some(case);
            }
            ("end", Some(_)) => cases.extend(current.take().map(Arc::new)),
            (item, Some(case)) => case.item(item, &mut words)?,
            _ => return Err(format!("expected a case, found: {line}")),
        }
    }
    Ok(())
}

fn begin(words: &mut Words<'_>) -> Result<Case, String> {
    Ok(Case {
        name: words.word()?.to_owned(),
        call: words.word()?.to_owned(),
        status: words.number()?,
        bytes: Vec::new(),
        buffers: Vec::new(),
        tensors: Vec::new(),
        options: sys::mfa_attention_options::new(),
        varlen: None,
        flags: 0,
        values: Vec::new(),
        same: Vec::new(),
        report: None,
    })
}

impl Case {
    fn item(&mut self, item: &str, words: &mut Words<'_>) -> Result<(), String> {
        match item {
            "data" => {
                let [_, offset, size] = words.numbers()?;
                self.buffers.push(Buffer {
                    data: Some(offset),
                    size,
                });
            }
            "room" => {
                let [_, size] = words.numbers()?;
                self.buffers.push(Buffer { data: None, size });
            }
            "tensor" => {
                let role = words.word()?.to_owned();
                self.tensors.push((role, tensor(words)?));
            }
            "quantization" => {
                let role = words.word()?;
                let found = self.tensors.iter_mut().find(|(name, _)| name == role);
                let (_, tensor) =
                    found.ok_or_else(|| format!("no tensor {role}: {}", words.line))?;
                tensor.quantization = Some(quantization(words)?);
            }
            "options" => {
                let options = &mut self.options;
                options.flags = words.number()?;
                [options.softmax_scale, options.softcap] = words.numbers()?;
                [options.alignment, options.compute] = words.numbers()?;
                [options.window_left, options.window_right] = words.numbers()?;
            }
            "varlen" => {
                let options = &mut self.options;
                options.sequence_count = words.number()?;
                let query: usize = words.number()?;
                options.cu_seqlens_q_offset = words.number()?;
                let key: usize = words.number()?;
                options.cu_seqlens_k_offset = words.number()?;
                self.varlen = Some([query, key]);
            }
            "flags" => self.flags = words.number()?,
            "expect" => self.values.push(Values {
                role: words.word()?.to_owned(),
                offset: words.number()?,
                max: words.number()?,
                rms: words.number()?,
            }),
            "same" => self.same.push((words.number()?, words.number()?)),
            "error" => self.report = Some(words.numbers()?),
            _ => return Err(format!("unknown item: {}", words.line)),
        }
        Ok(())
    }
}

fn tensor(words: &mut Words<'_>) -> Result<Tensor, String> {
    let mut view = sys::mfa_tensor::ABSENT;
    let buffer = words.number()?;
    view.byte_offset = words.number()?;
    view.precision = words.number()?;
    view.shape = words.numbers()?;
    view.strides = words.numbers()?;
    Ok(Tensor {
        buffer,
        view,
        quantization: None,
    })
}

fn quantization(words: &mut Words<'_>) -> Result<Quantization, String> {
    let mut parameters = sys::mfa_quantization::new();
    parameters.granularity = words.number()?;
    [parameters.block_rows, parameters.group_size] = words.numbers()?;
    parameters.scale = words.number()?;
    parameters.zero_point = words.number()?;
    let scales = words.buffer()?;
    parameters.scale_offset = words.number()?;
    parameters.scale_precision = words.number()?;
    parameters.rotated = words.number()?;
    let zero_points = words.buffer()?;
    parameters.zero_point_offset = words.number()?;
    parameters.zero_point_bytes = words.number()?;
    parameters.scale_strides = words.numbers()?;
    let mean = words.buffer()?;
    parameters.mean_offset = words.number()?;
    Ok(Quantization {
        parameters,
        scales,
        zero_points,
        mean,
    })
}

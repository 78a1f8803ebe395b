//! The builder of attention calls: what to compute, and where.

use crate::context::MfaContext;
use crate::element::Precision;
use crate::error::{MfaError, Result};
use crate::ffi::MfaBuffer;
use crate::layout::Shape;
use crate::view::TensorView;

/// Where the diagonal of causal masks, windows and ALiBi lies: query row i stands at key position i + shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[non_exhaustive]
pub enum Alignment {
    /// shift = 0, as PyTorch's `is_causal`.
    TopLeft = mfa_sys::MFA_ALIGNMENT_TOP_LEFT,
    /// shift = rows of key - rows of query, as decoding needs it: what `FlashAttention` >= 2.1 and MLX mean.
    BottomRight = mfa_sys::MFA_ALIGNMENT_BOTTOM_RIGHT,
}

/// How P V is computed when V is INT8 or INT4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
#[non_exhaustive]
pub enum Compute {
    /// Relative error below 1e-4.
    #[default]
    Exact = mfa_sys::MFA_COMPUTE_EXACT,
    /// P may be rounded to 8 bits: about 1 % of the output's RMS on N(0, 1) operands.
    Fast = mfa_sys::MFA_COMPUTE_FAST,
}

/// What attention to compute, and where.
///
/// S = scale · Q Kᵀ; S = softcap · tanh(S / softcap); S = S + mask + ALiBi; P = softmax(S); O = P V.
///
/// Query is `[batch, heads, rows, columns]`, key `[batch, key heads, key rows, columns]`, value `[batch, key heads, key
/// rows, value columns]`. Columns are 1 ... 1024; heads are a multiple of the key heads. Each may have any precision but
/// BOOL.
///
/// ```
/// use mfa::{Alignment, Attention, MfaContext, TensorView};
///
/// let context = MfaContext::with_device("cpu")?;
/// let (query, key, value) = (vec![0.1_f32; 2 * 3 * 8], vec![0.2_f32; 2 * 5 * 8], vec![0.3_f32; 2 * 5 * 4]);
/// let output = Attention::new(&context).causal(true).alignment(Alignment::BottomRight).forward(
///     &TensorView::from_slice(&context, &query, [1, 2, 3, 8])?,
///     &TensorView::from_slice(&context, &key, [1, 2, 5, 8])?,
///     &TensorView::from_slice(&context, &value, [1, 2, 5, 4])?,
/// )?;
/// assert_eq!(output.shape(), [1, 2, 3, 4]);
/// assert!(output.as_slice::<f32>()?.iter().all(|x| (x - 0.3).abs() < 1e-6));
/// # Ok::<(), mfa::MfaError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Attention<'a> {
    pub(crate) context: MfaContext,
    pub(crate) scale: Option<f32>,
    pub(crate) causal: bool,
    pub(crate) alignment: Option<Alignment>,
    pub(crate) window: Option<[Option<u32>; 2]>,
    pub(crate) softcap: f32,
    pub(crate) compute: Compute,
    pub(crate) mask: Option<TensorView<'a>>,
    pub(crate) alibi: Option<TensorView<'a>>,
    pub(crate) sinks: Option<TensorView<'a>>,
    pub(crate) varlen: Option<Varlen<'a>>,
    pub(crate) key_lengths: Option<KeyLengths<'a>>,
    pub(crate) clip: bool,
    output_precision: Option<Precision>,
}

/// Where the sequences of a varlen call begin.
#[derive(Clone, Debug)]
pub(crate) struct Varlen<'a> {
    pub sequences: u32,
    /// Rows of query and key of each sequence.
    pub rows: Vec<[i64; 2]>,
    pub query: std::sync::Arc<MfaBuffer<'a>>,
    pub key: std::sync::Arc<MfaBuffer<'a>>,
}

/// How many of its keys each sequence has.
#[derive(Clone, Debug)]
pub(crate) struct KeyLengths<'a> {
    pub lengths: &'a [i32],
    pub buffer: std::sync::Arc<MfaBuffer<'a>>,
}

impl<'a> Attention<'a> {
    /// All defaults: scale 1 / sqrt(columns), no mask.
    #[must_use]
    pub fn new(context: &MfaContext) -> Self {
        Self {
            context: context.clone(),
            scale: None,
            causal: false,
            alignment: None,
            window: None,
            softcap: 0.0,
            compute: Compute::Exact,
            mask: None,
            alibi: None,
            sinks: None,
            varlen: None,
            key_lengths: None,
            clip: false,
            output_precision: None,
        }
    }

    /// What Q Kᵀ is multiplied by; 1 / sqrt(columns) otherwise.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Whether row i sees no key position beyond i + shift (see [`Self::alignment`]).
    #[must_use]
    pub fn causal(mut self, causal: bool) -> Self {
        self.causal = causal;
        self
    }

    /// Where the diagonal lies. With a causal mask, a window or `ALiBi` it must be said where the lengths of query and key
    /// differ.
    #[must_use]
    pub fn alignment(mut self, alignment: Alignment) -> Self {
        self.alignment = Some(alignment);
        self
    }

    /// Row i sees key positions from i + shift - `left` to i + shift + `right`; `None` is no limit.
    #[must_use]
    pub fn window(mut self, left: Option<u32>, right: Option<u32>) -> Self {
        self.window = Some([left, right]);
        self
    }

    /// Bounds S to ±`softcap` by tanh; 0 does not.
    #[must_use]
    pub fn softcap(mut self, softcap: f32) -> Self {
        self.softcap = softcap;
        self
    }

    /// How P V is computed when V is INT8 or INT4.
    #[must_use]
    pub fn compute(mut self, compute: Compute) -> Self {
        self.compute = compute;
        self
    }

    /// BOOL (true = attend), or FP32, FP16, BF16 (added): `[batch, heads, rows, key rows]`, dimensions of size 1 repeat.
    /// With [`Self::varlen`]: `[sequences, heads, longest query, longest key]`.
    #[must_use]
    pub fn mask(mut self, mask: TensorView<'a>) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Slopes of ALiBi, FP32, FP16 or BF16 `[batch or 1, heads, 1, 1]`: adds -slope · |i + shift - j|.
    #[must_use]
    pub fn alibi(mut self, slopes: TensorView<'a>) -> Self {
        self.alibi = Some(slopes);
        self
    }

    /// Attention sinks, FP32, FP16 or BF16 `[1, heads, 1, 1]`: adds exp(sink) to the denominator of each row's softmax.
    #[must_use]
    pub fn sinks(mut self, sinks: TensorView<'a>) -> Self {
        self.sinks = Some(sinks);
        self
    }

    /// Several sequences behind each other in the rows, with batch 1: sequence s has the rows `starts[s]..starts[s + 1]`.
    /// Both lists begin with 0, never fall, and end with at most the number of rows: rows after the last sequence give 0.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidArgument`] unless both lists have the same length, at least 2.
    pub fn varlen(mut self, query_starts: &'a [i32], key_starts: &'a [i32]) -> Result<Self> {
        let sequences = query_starts.len().saturating_sub(1);
        let sequences = match u32::try_from(sequences) {
            Ok(sequences) if sequences > 0 && query_starts.len() == key_starts.len() => sequences,
            _ => {
                return Err(MfaError::InvalidArgument(format!(
                    "varlen: the starts are {} for queries and {} for keys; expected one more than sequences for both",
                    query_starts.len(),
                    key_starts.len()
                )));
            }
        };
        let wrap = |starts| {
            Ok(std::sync::Arc::new(
                MfaBuffer::from_slice(&self.context, starts)?.into_inner(),
            ))
        };
        let length = |starts: &[i32], at: usize| i64::from(starts[at + 1]) - i64::from(starts[at]);
        let rows = (0..query_starts.len() - 1)
            .map(|at| [length(query_starts, at), length(key_starts, at)])
            .collect();
        self.varlen = Some(Varlen {
            sequences,
            rows,
            query: wrap(query_starts)?,
            key: wrap(key_starts)?,
        });
        Ok(self)
    }

    /// How many of its rows of key and value each sequence has, from its first on: one number for each batch element, or for
    /// each sequence of [`Self::varlen`]. The others are not read. [`Alignment::BottomRight`] is that of the sequence's own
    /// last key.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn key_lengths(mut self, lengths: &'a [i32]) -> Result<Self> {
        let buffer = MfaBuffer::from_slice(&self.context, lengths)?.into_inner();
        self.key_lengths = Some(KeyLengths {
            lengths,
            buffer: std::sync::Arc::new(buffer),
        });
        Ok(self)
    }

    /// The precision of outputs that [`Self::forward`] makes: FP32, FP16 or BF16. Otherwise it is the query's, or FP32 if
    /// the query is quantized.
    #[must_use]
    pub fn output_precision(mut self, precision: Precision) -> Self {
        self.output_precision = Some(precision);
        self
    }

    /// Whether gradients of elements that are stored at the end of the quantized range are zero.
    #[must_use]
    pub fn clip_gradients(mut self, clip: bool) -> Self {
        self.clip = clip;
        self
    }

    /// Where the diagonal of a call lies, which must be said where lengths differ.
    pub(crate) fn diagonal(&self, query: Shape, key: Shape) -> Result<Alignment> {
        let (rows, keys) = (query[2] as i64, key[2] as i64);
        let lengths = match (&self.varlen, &self.key_lengths) {
            (None, None) => Some([rows, keys]).filter(|lengths| differ(*lengths)),
            (Some(varlen), None) => varlen.rows.iter().copied().find(|lengths| differ(*lengths)),
            (varlen, Some(given)) => (given.lengths.iter().enumerate())
                .map(|(at, keys)| {
                    let packed = varlen.as_ref().and_then(|varlen| varlen.rows.get(at));
                    [packed.map_or(rows, |lengths| lengths[0]), i64::from(*keys)]
                })
                .find(|lengths| differ(*lengths)),
        };
        let limited = self.window.is_some_and(|sides| sides != [None, None]);
        let what = match self {
            Self { causal: true, .. } => "a causal mask",
            _ if limited => "a window",
            Self { alibi: Some(_), .. } => "ALiBi",
            _ => return Ok(self.alignment.unwrap_or(Alignment::TopLeft)),
        };
        match (self.alignment, lengths) {
            (Some(alignment), _) => Ok(alignment),
            (None, None) => Ok(Alignment::TopLeft),
            (None, Some([rows, keys])) => Err(MfaError::InvalidArgument(format!(
                "alignment: not given with {what} and {rows} query rows to {keys} key rows; expected BottomRight (the last \
                 row stands at the last key: decoding) or TopLeft (row i stands at key i: PyTorch's is_causal)"
            ))),
        }
    }

    pub(crate) fn output(
        &self,
        query: &TensorView<'_>,
        value: &TensorView<'_>,
    ) -> (Precision, Shape) {
        let [batch, heads, rows, _] = query.shape();
        let own = if query.precision().is_quantized() {
            Precision::Fp32
        } else {
            query.precision()
        };
        let precision = self.output_precision.unwrap_or(own);
        (precision, [batch, heads, rows, value.shape()[3]])
    }
}

/// Whether rows and keys are there, and not as many.
fn differ([rows, keys]: [i64; 2]) -> bool {
    rows != keys && rows > 0 && keys > 0
}

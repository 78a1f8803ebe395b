//! The options of all functions: one table, from which keywords are recognised, which `_native._options` shows, and which the
//! tests hold against signatures and stubs.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

/// A function that takes options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Attention,
    QuantizedAttention,
    FlashAttentionForward,
    FlashAttentionBackward,
    Explain,
    WorkspaceSize,
    /// `umfa.sdpa`, `MetalSDPA` and `umfa.torch`: PyTorch's names and its diagonal.
    Sdpa,
}

/// Which functions take an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// What the attention means, and how operands are quantized before it.
    Meaning,
    /// Where results go.
    Result,
    /// Of plans.
    Plan,
    /// Of gradients.
    Gradient,
}

/// An option as Python sees it.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// The default as Python writes it.
    default: &'static str,
    /// The type in the stub.
    annotation: &'static str,
    group: Group,
}

const fn entry(
    name: &'static str,
    default: &'static str,
    annotation: &'static str,
    group: Group,
) -> Entry {
    Entry {
        name,
        default,
        annotation,
        group,
    }
}

/// In the order of signatures.
pub(crate) const TABLE: &[Entry] = &[
    entry("backward", "False", "bool", Group::Plan),
    entry(
        "need",
        "(True, True, True)",
        "tuple[bool, bool, bool]",
        Group::Gradient,
    ),
    entry("clip", "False", "bool", Group::Gradient),
    entry("grad_mask", "False", "bool", Group::Gradient),
    entry("grad_sinks", "False", "bool", Group::Gradient),
    entry("grad_lse", "None", "Any", Group::Gradient),
    entry("d_values", "None", "Any", Group::Gradient),
    entry("causal", "False", "bool", Group::Meaning),
    entry("softmax_scale", "None", "float | None", Group::Meaning),
    entry("attn_mask", "None", "Any", Group::Meaning),
    entry("window", "None", "_Window | None", Group::Meaning),
    entry("softcap", "None", "float | None", Group::Meaning),
    entry("alibi_slopes", "None", "Any", Group::Meaning),
    entry("sinks", "None", "Any", Group::Meaning),
    entry("cu_seqlens_q", "None", "Any", Group::Meaning),
    entry("cu_seqlens_k", "None", "Any", Group::Meaning),
    entry("seqlens_k", "None", "Any", Group::Meaning),
    entry("alignment", "None", "_Alignment | None", Group::Meaning),
    entry("return_logsumexp", "False", "bool", Group::Result),
    entry("out", "None", "Any", Group::Result),
    entry("layout", "'BHND'", "_Layout", Group::Meaning),
    entry("compute", "'exact'", "_Compute", Group::Meaning),
    entry(
        "precision",
        "None",
        "_PerOperand[_Precision | None]",
        Group::Meaning,
    ),
    entry(
        "granularity",
        "'tensor'",
        "_PerOperand[_Granularity]",
        Group::Meaning,
    ),
    entry("block_rows", "64", "_PerOperand[int]", Group::Meaning),
    entry(
        "group",
        "None",
        "_PerOperand[Literal[32, 64] | None]",
        Group::Meaning,
    ),
    entry("symmetric", "True", "_PerOperand[bool]", Group::Meaning),
    entry(
        "scale_dtype",
        "'float32'",
        "_PerOperand[_ScaleDtype]",
        Group::Meaning,
    ),
    entry(
        "zero_point_dtype",
        "'int8'",
        "_PerOperand[_ZeroPointDtype]",
        Group::Meaning,
    ),
    entry("smooth", "False", "_PerOperand[bool]", Group::Meaning),
    entry("rotate", "False", "_PerOperand[bool]", Group::Meaning),
];

/// What PyTorch calls it.
const TORCH_NAMES: &[(&str, &str)] = &[("is_causal", "causal"), ("scale", "softmax_scale")];

/// What others call it, for messages.
const FOREIGN_NAMES: &[(&str, &str)] = &[
    ("mask", "attn_mask"),
    ("bias", "attn_mask"),
    ("attn_bias", "attn_mask"),
    ("sm_scale", "softmax_scale"),
    ("window_size", "window"),
    ("sliding_window", "window"),
    ("local_window_size", "window"),
    ("logits_soft_cap", "softcap"),
    ("s_aux", "sinks"),
    ("cache_seqlens", "seqlens_k"),
    ("seqused_k", "seqlens_k"),
    ("return_lse", "return_logsumexp"),
    ("enable_gqa", ""),
    ("dropout_p", ""),
];

impl Function {
    pub(crate) const ALL: [Function; 7] = [
        Function::Attention,
        Function::QuantizedAttention,
        Function::FlashAttentionForward,
        Function::FlashAttentionBackward,
        Function::Explain,
        Function::WorkspaceSize,
        Function::Sdpa,
    ];

    /// The function's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Function::Attention => "attention",
            Function::QuantizedAttention => "quantized_attention",
            Function::FlashAttentionForward => "flash_attention_forward",
            Function::FlashAttentionBackward => "flash_attention_backward",
            Function::Explain => "explain",
            Function::WorkspaceSize => "workspace_size",
            Function::Sdpa => "scaled_dot_product_attention",
        }
    }

    /// What the caller calls query, key and value.
    pub(crate) const fn operands(self) -> [&'static str; 3] {
        match self {
            Function::Sdpa => ["query", "key", "value"],
            _ => ["q", "k", "v"],
        }
    }

    /// What the caller calls an option of the table.
    pub(crate) fn called(self, option: &'static str) -> &'static str {
        let torch = TORCH_NAMES.iter().find(|(_, name)| *name == option);
        match (self, torch) {
            (Function::Sdpa, Some((name, _))) => name,
            _ => option,
        }
    }

    fn takes(self, entry: &Entry) -> bool {
        let results = !matches!(self, Function::FlashAttentionBackward | Function::Sdpa);
        match entry.group {
            Group::Meaning => true,
            Group::Result => results,
            Group::Plan => matches!(self, Function::Explain | Function::WorkspaceSize),
            Group::Gradient => self == Function::FlashAttentionBackward,
        }
    }

    /// The name in the table of a keyword that the caller gave.
    pub(crate) fn option(self, keyword: &str) -> PyResult<&'static str> {
        let torch = TORCH_NAMES.iter().find(|(name, _)| *name == keyword);
        if let (Function::Sdpa, Some((_, name))) = (self, torch) {
            return Ok(name);
        }
        let found = TABLE.iter().find(|entry| entry.name == keyword);
        match found {
            Some(entry) if self.takes(entry) => Ok(entry.name),
            _ => Err(self.unexpected(keyword, found.is_some())),
        }
    }

    fn unexpected(self, keyword: &str, known: bool) -> PyErr {
        let other = TORCH_NAMES.iter().chain(FOREIGN_NAMES);
        let here = other.into_iter().find(|(name, _)| *name == keyword);
        let hint = match (here, keyword) {
            (_, "enable_gqa") => {
                "; heads are grouped wherever q has a multiple of those of k".into()
            }
            (_, "dropout_p") => "; dropout is not supported".into(),
            (Some((_, name)), _) => format!("; it is called {} here", self.called(name)),
            (None, "out" | "return_logsumexp") if known => "; umfa.attention takes it".into(),
            (None, "need" | "clip" | "grad_mask" | "grad_sinks" | "grad_lse" | "d_values")
                if known =>
            {
                "; flash_attention_backward takes it".into()
            }
            (None, "backward") if known => "; explain and workspace_size take it".into(),
            _ => String::new(),
        };
        let name = self.name();
        PyTypeError::new_err(format!(
            "{name}() got an unexpected keyword argument '{keyword}'{hint}"
        ))
    }

    /// The default of an option at this function, as Python writes it.
    fn default(self, entry: &Entry) -> &'static str {
        match (entry.name, self) {
            // FlashAttention >= 2.1 and PyTorch each fix the diagonal; umfa's own functions ask for it.
            ("alignment", Function::FlashAttentionForward | Function::FlashAttentionBackward) => {
                "'bottom_right'"
            }
            ("alignment", Function::Sdpa) => "'top_left'",
            _ => entry.default,
        }
    }
}

/// The options of every function: {function: [(name, default, type)]}, as signatures and stubs write them.
#[pyfunction]
pub(crate) fn _options() -> std::collections::BTreeMap<&'static str, Vec<[&'static str; 3]>> {
    let of = |function: Function| {
        (TABLE.iter().filter(|entry| function.takes(entry)))
            .map(|entry| {
                [
                    function.called(entry.name),
                    function.default(entry),
                    entry.annotation,
                ]
            })
            .collect()
    };
    Function::ALL
        .map(|function| (function.name(), of(function)))
        .into()
}

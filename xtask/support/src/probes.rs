//! What devices are asked.

use mfa::{Alignment, Granularity, Precision, Quantizer};

use crate::call::{Call, Operand, Switch, quantized};

/// A row of the table. It is supported where all of its calls are.
pub(crate) struct Probe {
    pub(crate) group: &'static str,
    pub(crate) feature: &'static str,
    pub(crate) calls: Vec<Call>,
}

/// Every row.
pub(crate) fn list() -> Vec<Probe> {
    [operands(), scales(), shapes(), masks()]
        .into_iter()
        .flatten()
        .collect()
}

fn probe(group: &'static str, feature: &'static str, calls: Vec<Call>) -> Probe {
    Probe {
        group,
        feature,
        calls,
    }
}

fn operands() -> Vec<Probe> {
    let float = |precision| Call::all(Operand::Float(precision));
    let int8 = Operand::Quantized(Quantizer::int8());
    let int4 = Operand::Quantized(Quantizer::int4());
    let half = Operand::Float(Precision::Fp16);
    vec![
        probe("operands", "FP32", vec![float(Precision::Fp32)]),
        probe(
            "operands",
            "FP16, BF16",
            vec![float(Precision::Fp16), float(Precision::Bf16)],
        ),
        probe(
            "operands",
            "FP64 (exact, and slow)",
            vec![float(Precision::Fp64)],
        ),
        probe("operands", "INT8", vec![Call::all(int8)]),
        probe("operands", "INT4", vec![Call::all(int4)]),
        probe(
            "operands",
            "each of Q, K, V its own (FP16, INT8, INT4; FP32, INT4, INT8)",
            vec![
                Call {
                    query: half,
                    key: int8,
                    value: int4,
                    ..Call::PLAIN
                },
                Call {
                    key: int4,
                    value: int8,
                    ..Call::PLAIN
                },
            ],
        ),
        probe(
            "operands",
            "8-bit P for quantized V, on request",
            vec![Call::all(int8).with(Switch::Fast)],
        ),
    ]
}

fn scales() -> Vec<Probe> {
    let both = |make: &dyn Fn(Quantizer) -> Operand| {
        vec![
            Call::all(make(Quantizer::int8())),
            Call::all(make(Quantizer::int4())),
        ]
    };
    let grained = |granularity| both(&|quantizer| quantized(quantizer, granularity));
    let groups = Granularity::RowGroups { columns: 32 };
    vec![
        probe("scales", "per tensor", grained(Granularity::Tensor)),
        probe("scales", "per row (token)", grained(Granularity::Row)),
        probe(
            "scales",
            "per group of 32 or 64 columns of a row",
            grained(groups),
        ),
        probe(
            "scales",
            "per block of rows",
            grained(Granularity::Block { rows: 4 }),
        ),
        probe(
            "scales",
            "per channel of a block of rows",
            grained(Granularity::Channel { rows: 4 }),
        ),
        probe(
            "scales",
            "zero points",
            both(&|quantizer| quantized(quantizer.asymmetric(true), Granularity::Row)),
        ),
        probe(
            "scales",
            "stored in FP16",
            both(&|quantizer| {
                quantized(quantizer.scale_precision(Precision::Fp16), Granularity::Row)
            }),
        ),
        probe(
            "scales",
            "mean of each column removed (smoothing)",
            both(&|quantizer| quantized(quantizer.smooth(true), Granularity::Row)),
        ),
        probe(
            "scales",
            "Hadamard rotation",
            both(&|quantizer| quantized(quantizer.rotate(true), Granularity::Row)),
        ),
    ]
}

fn shapes() -> Vec<Probe> {
    let half = Call::all(Operand::Float(Precision::Fp16));
    let columns = |columns| Call {
        columns,
        value_columns: columns,
        ..Call::PLAIN
    };
    vec![
        probe(
            "shapes",
            "grouped and single key/value heads",
            vec![
                Call {
                    heads: 4,
                    ..Call::PLAIN
                },
                Call {
                    heads: 4,
                    key_heads: 1,
                    ..Call::PLAIN
                },
            ],
        ),
        probe(
            "shapes",
            "head dimensions 1 to 512",
            vec![columns(1), columns(59), columns(128), columns(512)],
        ),
        probe(
            "shapes",
            "head dimension 576 with values of 512 (MLA), in FP16",
            vec![Call {
                columns: 576,
                value_columns: 512,
                ..half
            }],
        ),
        probe(
            "shapes",
            "head dimension 1024, in FP16",
            vec![Call {
                columns: 1024,
                value_columns: 1024,
                ..half
            }],
        ),
        probe(
            "shapes",
            "a value dimension of its own",
            vec![
                Call {
                    value_columns: 17,
                    ..Call::PLAIN
                },
                Call {
                    columns: 24,
                    value_columns: 80,
                    ..Call::PLAIN
                },
            ],
        ),
        probe(
            "shapes",
            "one query row (decoding)",
            vec![Call {
                rows: 1,
                key_rows: 300,
                ..Call::PLAIN
            }],
        ),
        probe(
            "shapes",
            "views with any strides",
            vec![Call::PLAIN.with(Switch::Transposed)],
        ),
        probe(
            "shapes",
            "sequences of varying length",
            vec![Call::PLAIN.with(Switch::Varlen)],
        ),
        probe(
            "shapes",
            "key lengths per sequence",
            vec![Call::PLAIN.with(Switch::Lengths)],
        ),
    ]
}

fn masks() -> Vec<Probe> {
    let with = |switch| vec![Call::PLAIN.with(switch)];
    let int8 = Call::all(Operand::Quantized(Quantizer::int8()));
    vec![
        probe(
            "masks",
            "causal, from the top left or the bottom right",
            vec![
                Call::PLAIN.with(Switch::Causal(Alignment::TopLeft)),
                Call::PLAIN.with(Switch::Causal(Alignment::BottomRight)),
            ],
        ),
        probe("masks", "sliding window", with(Switch::Window)),
        probe("masks", "boolean", with(Switch::Mask(Precision::Bool))),
        probe(
            "masks",
            "added, in FP32, FP16, BF16",
            [Precision::Fp32, Precision::Fp16, Precision::Bf16]
                .map(|precision| Call::PLAIN.with(Switch::Mask(precision)))
                .to_vec(),
        ),
        probe("masks", "broadcast", with(Switch::BroadcastMask)),
        probe(
            "masks",
            "with quantized operands",
            vec![int8.with(Switch::Mask(Precision::Fp32))],
        ),
        probe("masks", "ALiBi", with(Switch::Alibi)),
        probe("masks", "softcap", with(Switch::Softcap)),
        probe("masks", "attention sinks", with(Switch::Sinks)),
    ]
}

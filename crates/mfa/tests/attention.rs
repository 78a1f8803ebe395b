//! Every option of the builder, every kind of view: against the formula in f64.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use half::{bf16, f16};
use mfa::{
    Alignment, Attention, MfaBuffer, MfaContext, MfaError, Precision, Tensor, TensorView,
    TensorViewMut,
};
use proptest::prelude::*;
use support::{Formula, Sizes, distance, numbers};

/// FP32 operands in -1 ... 1 give outputs in -1 ... 1.
const TOLERANCE: f64 = 1e-5;

const SIZES: Sizes = Sizes {
    batch: 2,
    heads: 4,
    key_heads: 2,
    rows: 7,
    key_rows: 11,
    columns: 12,
    value_columns: 5,
};

struct Operands {
    context: MfaContext,
    sizes: Sizes,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
}

impl Operands {
    fn new(sizes: Sizes) -> Self {
        let count = |shape: [usize; 4]| shape.iter().product();
        Self {
            context: MfaContext::new().unwrap(),
            sizes,
            query: numbers(1, count(sizes.query())),
            key: numbers(2, count(sizes.key())),
            value: numbers(3, count(sizes.value())),
        }
    }

    fn views(&self) -> [TensorView<'_>; 3] {
        let view = |data, shape| TensorView::from_slice(&self.context, data, shape).unwrap();
        [
            view(&self.query, self.sizes.query()),
            view(&self.key, self.sizes.key()),
            view(&self.value, self.sizes.value()),
        ]
    }

    fn attention(&self) -> Attention<'_> {
        Attention::new(&self.context)
    }

    #[track_caller]
    fn check(&self, attention: &Attention<'_>, formula: &Formula<'_>) {
        let [query, key, value] = self.views();
        let found = attention
            .forward_with_logsumexp(&query, &key, &value)
            .unwrap();
        let (output, logsumexp) = formula.apply(&self.sizes, &self.query, &self.key, &self.value);
        assert_eq!(found.output.shape(), self.sizes.output());
        let far = distance(found.output.as_slice().unwrap(), &output);
        assert!(far < TOLERANCE, "output is off by {far}");
        let far = distance(found.logsumexp.as_slice().unwrap(), &logsumexp);
        assert!(far < TOLERANCE, "logsumexp is off by {far}");
        // Without logsumexp the output is the same.
        let again = attention.forward(&query, &key, &value).unwrap();
        assert_eq!(
            again.as_slice::<f32>().unwrap(),
            found.output.as_slice::<f32>().unwrap()
        );
    }
}

/// The bias of a key that a row attends to, or not.
fn attend_if(attended: bool) -> f64 {
    if attended { 0.0 } else { f64::NEG_INFINITY }
}

#[test]
fn defaults_are_plain_attention() {
    let o = Operands::new(SIZES);
    o.check(&o.attention(), &Formula::plain(SIZES.columns));
}

#[test]
fn scale_and_softcap_are_applied() {
    let o = Operands::new(SIZES);
    let formula = Formula {
        scale: 0.9,
        softcap: 0.5,
        ..Formula::plain(1)
    };
    o.check(&o.attention().scale(0.9).softcap(0.5), &formula);
}

#[test]
fn causal_follows_either_alignment() {
    for sizes in [
        SIZES,
        Sizes {
            rows: 11,
            key_rows: 7,
            ..SIZES
        },
    ] {
        let o = Operands::new(sizes);
        let plain = Formula::plain(sizes.columns);
        let top = Formula {
            bias: &|_, _, i, j| attend_if(j <= i),
            ..plain
        };
        o.check(
            &o.attention().causal(true).alignment(Alignment::TopLeft),
            &top,
        );
        let bottom = Formula {
            bias: &|_, _, i, j| attend_if(j + sizes.rows <= i + sizes.key_rows),
            ..plain
        };
        o.check(
            &o.attention().causal(true).alignment(Alignment::BottomRight),
            &bottom,
        );
    }
}

/// A diagonal between lengths that differ needs an alignment, and follows it.
#[test]
fn alignment_is_asked_for() {
    let o = Operands::new(SIZES);
    let [query, key, value] = o.views();
    let slopes = numbers(5, SIZES.heads);
    let alibi = TensorView::from_slice(&o.context, &slopes, [1, SIZES.heads, 1, 1]).unwrap();
    let diagonals = [
        o.attention().causal(true),
        o.attention().window(Some(3), None),
        o.attention().window(None, Some(0)),
        o.attention().alibi(alibi),
    ];
    let asked = |result: Result<(), MfaError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, MfaError::InvalidArgument(_)), "{error}");
        let text = error.to_string();
        for word in [
            "alignment",
            "7 query rows to 11 key rows",
            "BottomRight",
            "TopLeft",
        ] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
    };
    for attention in diagonals {
        asked(attention.forward(&query, &key, &value).map(drop));
        asked(attention.explain(&query, &key, &value).map(drop));
        asked(attention.workspace_size(&query, &key, &value).map(drop));
        asked(attention.explain_backward(&query, &key, &value).map(drop));
        for alignment in [Alignment::TopLeft, Alignment::BottomRight] {
            let said = attention.clone().alignment(alignment);
            said.forward(&query, &key, &value).unwrap();
        }
        // Equal lengths ask nothing, and neither does what has no diagonal.
        let few = key.clone().rows(0..7).unwrap();
        attention.forward(&query, &few, &few).unwrap();
    }
    let open = o.attention().window(None, None);
    open.forward(&query, &key, &value).unwrap();
}

#[test]
fn packed_sequences_ask_for_the_alignment_where_one_differs() {
    let context = MfaContext::new().unwrap();
    let (rows, keys) = (numbers(1, 9 * 8), numbers(2, 9 * 8));
    let query = TensorView::from_slice(&context, &rows, [1, 1, 9, 8]).unwrap();
    let key = TensorView::from_slice(&context, &keys, [1, 1, 9, 8]).unwrap();
    let causal = |starts: &'static [i32]| {
        let attention = Attention::new(&context).causal(true);
        attention.varlen(&[0, 4, 4, 9], starts).unwrap()
    };
    causal(&[0, 4, 4, 9]).forward(&query, &key, &key).unwrap();
    // A sequence without rows has no diagonal.
    let error = causal(&[0, 3, 5, 9])
        .forward(&query, &key, &key)
        .unwrap_err();
    assert!(
        error.to_string().contains("4 query rows to 3 key rows"),
        "{error}"
    );
}

#[test]
fn windows_limit_the_keys() {
    let o = Operands::new(SIZES);
    let plain = Formula::plain(SIZES.columns);
    let both = Formula {
        bias: &|_, _, i, j| attend_if(i <= j + 2 && j <= i + 3),
        ..plain
    };
    let at = || o.attention().alignment(Alignment::TopLeft);
    o.check(&at().window(Some(2), Some(3)), &both);
    let left = Formula {
        bias: &|_, _, i, j| attend_if(i <= j + 1),
        ..plain
    };
    o.check(&at().window(Some(1), None), &left);
}

#[test]
fn masks_repeat() {
    let o = Operands::new(SIZES);
    let plain = Formula::plain(SIZES.columns);
    let Sizes {
        batch,
        heads,
        rows,
        key_rows,
        ..
    } = SIZES;
    // A row of each mask has no key.
    let attend: Vec<bool> = (0..rows * key_rows)
        .map(|i| i / key_rows != 3 && i % 3 != 0)
        .collect();
    let mask = TensorView::from_slice(&o.context, &attend, [1, 1, rows, key_rows]).unwrap();
    let formula = Formula {
        bias: &|_, _, i, j| attend_if(attend[i * key_rows + j]),
        ..plain
    };
    o.check(&o.attention().mask(mask.clone()), &formula);
    let whole = mask.broadcast_to([batch, heads, rows, key_rows]).unwrap();
    o.check(&o.attention().mask(whole), &formula);

    let added = numbers(4, batch * heads * key_rows);
    let mask = TensorView::from_slice(&o.context, &added, [batch, heads, 1, key_rows]).unwrap();
    let bias =
        |b: usize, h: usize, _: usize, j: usize| f64::from(added[(b * heads + h) * key_rows + j]);
    o.check(
        &o.attention().mask(mask),
        &Formula {
            bias: &bias,
            ..plain
        },
    );
}

#[test]
fn alibi_and_sinks_are_applied() {
    let o = Operands::new(SIZES);
    let plain = Formula::plain(SIZES.columns);
    let (slopes, sinks) = (numbers(5, SIZES.heads), numbers(6, SIZES.heads));
    let shape = [1, SIZES.heads, 1, 1];
    let alibi = TensorView::from_slice(&o.context, &slopes, shape).unwrap();
    let bias =
        |_: usize, h: usize, i: usize, j: usize| -f64::from(slopes[h]) * i.abs_diff(j) as f64;
    o.check(
        &o.attention().alibi(alibi).alignment(Alignment::TopLeft),
        &Formula {
            bias: &bias,
            ..plain
        },
    );
    let view = TensorView::from_slice(&o.context, &sinks, shape).unwrap();
    o.check(
        &o.attention().sinks(view),
        &Formula {
            sink: &|h| f64::from(sinks[h]),
            ..plain
        },
    );
}

#[test]
fn packed_sequences_attend_to_themselves() {
    let sizes = Sizes { batch: 1, ..SIZES };
    let o = Operands::new(sizes);
    let (starts, key_starts) = ([0, 3, 3, 7], [0, 4, 6, 11]);
    let of = |starts: &[i32], row: usize| {
        starts
            .iter()
            .filter(|&&start| start as usize <= row)
            .count()
    };
    let bias =
        |_: usize, _: usize, i: usize, j: usize| attend_if(of(&starts, i) == of(&key_starts, j));
    let attention = o.attention().varlen(&starts, &key_starts).unwrap();
    o.check(
        &attention,
        &Formula {
            bias: &bias,
            ..Formula::plain(sizes.columns)
        },
    );

    assert!(o.attention().varlen(&[0, 7], &key_starts).is_err());
    assert!(o.attention().varlen(&[], &[]).is_err());
}

#[test]
fn half_precisions_are_near_the_formula() {
    fn check<T: mfa::Element + bytemuck::Pod>(
        narrow: fn(f32) -> T,
        wide: fn(T) -> f32,
        epsilon: f64,
    ) {
        let mut o = Operands::new(SIZES);
        let narrowed = |data: &[f32]| -> Vec<T> { data.iter().map(|x| narrow(*x)).collect() };
        let (query, key, value) = (narrowed(&o.query), narrowed(&o.key), narrowed(&o.value));
        let widened = |data: &[T]| -> Vec<f32> { data.iter().map(|x| wide(*x)).collect() };
        (o.query, o.key, o.value) = (widened(&query), widened(&key), widened(&value));
        let (expected, _) = Formula::plain(SIZES.columns).apply(&SIZES, &o.query, &o.key, &o.value);
        let view = |data, shape| TensorView::from_slice::<T>(&o.context, data, shape).unwrap();
        let (query, key, value) = (
            view(&query, SIZES.query()),
            view(&key, SIZES.key()),
            view(&value, SIZES.value()),
        );
        // The output has the query's precision, unless another is asked for.
        let narrow = o.attention().forward(&query, &key, &value).unwrap();
        assert_eq!(narrow.precision(), T::PRECISION);
        let far = distance(&widened(narrow.as_slice::<T>().unwrap()), &expected);
        assert!(far < epsilon, "{far}");
        let wide = o
            .attention()
            .output_precision(Precision::Fp32)
            .forward(&query, &key, &value)
            .unwrap();
        let far = distance(wide.as_slice().unwrap(), &expected);
        assert!(far < TOLERANCE, "{far}");
        assert!(narrow.as_slice::<f32>().is_err());
    }
    // Half a unit in the last place of 1, and the rounding of intermediate results.
    check(f16::from_f32, f16::to_f32, 2f64.powi(-11));
    check(bf16::from_f32, bf16::to_f32, 2f64.powi(-8));
}

#[test]
fn outputs_go_where_they_are_told() {
    let o = Operands::new(SIZES);
    let [query, key, value] = o.views();
    let expected = o.attention().forward(&query, &key, &value).unwrap();
    let expected = expected.as_slice::<f32>().unwrap();
    let [batch, heads, rows, columns] = SIZES.output();
    // [batch, rows, heads, columns], with a gap behind each row of columns and three elements before everything.
    let mut memory = vec![f32::NAN; 3 + batch * rows * heads * (columns + 2)];
    let step = columns + 2;
    {
        let mut output = TensorViewMut::from_slice(&o.context, &mut memory, SIZES.output())
            .unwrap()
            .with_byte_offset(12)
            .with_strides([rows * heads * step, step, heads * step, 1]);
        o.attention()
            .forward_into(&query, &key, &value, &mut output, None)
            .unwrap();
    }
    assert!(memory[..3].iter().all(|x| x.is_nan()));
    for (at, step) in memory[3..].chunks_exact(step).enumerate() {
        let (b, i, h) = (at / heads / rows, at / heads % rows, at % heads);
        assert_eq!(
            step[..columns],
            expected[((b * heads + h) * rows + i) * columns..][..columns]
        );
        assert!(step[columns..].iter().all(|x| x.is_nan()));
    }
}

#[test]
fn a_refused_call_leaves_the_output_alone() {
    let o = Operands::new(SIZES);
    let [query, key, value] = o.views();
    let mut memory = vec![7.0_f32; SIZES.output().iter().product()];
    let mut refused = |attention: &Attention<'_>, views: [&TensorView<'_>; 3], shape| {
        let [query, key, value] = views;
        let mut output = TensorViewMut::from_slice(&o.context, &mut memory, shape).unwrap();
        let error = attention
            .forward_into(query, key, value, &mut output, None)
            .unwrap_err();
        drop(output);
        assert!(memory.iter().all(|x| *x == 7.0));
        assert!(matches!(error.status(), Some(3 | 5)), "{error}");
        assert!(error.message().len() > 10, "{error}");
    };
    let plain = o.attention();
    let all = [&query, &key, &value];
    let output = SIZES.output();
    refused(&plain, all, [2, 4, 7, 6]);
    refused(
        &plain,
        [&query.clone().with_byte_offset(4), &key, &value],
        output,
    );
    refused(
        &plain,
        [
            &query.clone().with_strides([usize::MAX, 1, 1, 1]),
            &key,
            &value,
        ],
        output,
    );
    refused(&plain, [&query, &value, &value], output);
    refused(&plain, [&query, &key, &key], output);
    refused(&plain.clone().scale(f32::NAN), all, output);
    refused(&plain.clone().softcap(-1.0), all, output);
    refused(&plain.clone().mask(query.clone()), all, output);
    refused(&plain.clone().sinks(query.clone()), all, output);
    let huge = [usize::MAX, 2, usize::MAX / 2, 12];
    let empty = TensorView::from_slice::<f32>(&o.context, &[], huge).unwrap();
    refused(&plain, [&empty, &key, &value], output);
    let wide = numbers(9, 513);
    let wide = TensorView::from_slice(&o.context, &wide, [1, 1, 1, 513]).unwrap();
    refused(&plain, [&wide, &wide, &wide], [1, 1, 1, 513]);
    // Two rows of the output in the same place.
    let mut view = TensorViewMut::from_slice(&o.context, &mut memory, output)
        .unwrap()
        .with_strides([140, 35, 0, 1]);
    assert!(
        plain
            .forward_into(&query, &key, &value, &mut view, None)
            .is_err()
    );
    drop(view);
    assert!(memory.iter().all(|x| *x == 7.0));
}

#[test]
fn sizes_of_zero_are_legal() {
    let context = MfaContext::new().unwrap();
    let data = numbers(1, 24);
    let some = TensorView::from_slice(&context, &data, [1, 2, 3, 4]).unwrap();
    let none = TensorView::from_slice(&context, &data[..0], [1, 2, 0, 4]).unwrap();
    let attention = Attention::new(&context);
    let output = attention.forward(&none, &some, &some).unwrap();
    assert_eq!((output.shape(), output.buffer().size()), ([1, 2, 0, 4], 0));
    let found = attention
        .forward_with_logsumexp(&some, &none, &none)
        .unwrap();
    assert_eq!(found.output.as_slice::<f32>().unwrap(), [0.0; 24]);
    assert_eq!(
        found.logsumexp.as_slice::<f32>().unwrap(),
        [f32::NEG_INFINITY; 6]
    );
}

#[test]
fn threads_share_a_context() {
    let o = Operands::new(SIZES);
    let [query, key, value] = o.views();
    let expected = o.attention().forward(&query, &key, &value).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let output = o.attention().forward(&query, &key, &value).unwrap();
                    assert_eq!(
                        output.as_slice::<f32>().unwrap(),
                        expected.as_slice::<f32>().unwrap()
                    );
                }
            });
        }
    });
}

#[test]
fn a_plan_is_told_without_computing() {
    let o = Operands::new(SIZES);
    let [query, key, value] = o.views();
    let before = o.context.latency().unwrap();
    let plan = o
        .attention()
        .causal(true)
        .alignment(Alignment::BottomRight)
        .explain(&query, &key, &value)
        .unwrap();
    assert!(
        plan.lines().count() > 2 && plan.lines().all(|line| line.contains(": ")),
        "{plan}"
    );
    o.attention().workspace_size(&query, &key, &value).unwrap();
    assert_eq!((before, o.context.latency().unwrap()), Default::default());
    o.attention().forward(&query, &key, &value).unwrap();
    assert!(!o.context.latency().unwrap().is_zero());
}

#[test]
fn buffers_own_or_borrow() {
    let context = MfaContext::new().unwrap();
    let mut owned = MfaBuffer::new(&context, 24).unwrap();
    assert_eq!((owned.size(), owned.bytes()), (24, &[0; 24][..]));
    assert!(owned.bytes().as_ptr().addr().is_multiple_of(64));
    owned.as_mut_slice::<f32>().unwrap()[5] = 1.5;
    assert_eq!(
        owned.as_slice::<f32>().unwrap(),
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.5]
    );
    assert!(owned.as_slice::<[u8; 7]>().is_err());
    assert_eq!(MfaBuffer::new(&context, 0).unwrap().bytes(), []);

    let mut data = [1_u16, 2, 3];
    let address = data.as_ptr().cast();
    assert_eq!(
        MfaBuffer::from_slice(&context, &data)
            .unwrap()
            .bytes()
            .as_ptr(),
        address
    );
    MfaBuffer::from_mut_slice(&context, &mut data)
        .unwrap()
        .as_mut_slice::<u16>()
        .unwrap()[1] = 9;
    assert_eq!(data, [1, 9, 3]);

    let enormous = MfaBuffer::new(&context, isize::MAX as usize).unwrap_err();
    assert!(
        matches!(enormous, mfa::MfaError::BufferAllocation(_)),
        "{enormous}"
    );
}

#[test]
fn tensors_are_as_long_as_their_shape() {
    let context = MfaContext::new().unwrap();
    assert!(Tensor::from_slice(&context, &[1.0_f32; 5], [1, 1, 2, 3]).is_err());
    assert!(Tensor::zeros(&context, Precision::Fp32, [usize::MAX, 2, 1, 1]).is_err());
    assert_eq!(
        Tensor::zeros(&context, Precision::Int4, [1, 1, 3, 6])
            .unwrap()
            .buffer()
            .size(),
        9
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A view in another order, of some rows, is the tensor that a copy of them makes.
    #[test]
    fn views_are_what_copies_would_be(
        storage in Just([0_usize, 1, 2, 3]).prop_shuffle(),
        shape in [1_usize..3, 1_usize..3, 1_usize..9, 1_usize..9],
        cut in (0_usize..9, 0_usize..9),
        repeat in any::<[bool; 2]>(),
    ) {
        let context = MfaContext::new().unwrap();
        // Element [b, h, i, c] is stored where an array with its dimensions in the order `storage` has it.
        let stored = storage.map(|axis| shape[axis]);
        let data = numbers(7, stored.iter().product());
        let mut back = [0; 4];
        storage.iter().enumerate().for_each(|(place, &axis)| back[axis] = place);
        let rows = cut.0.min(cut.1).min(shape[2])..cut.0.max(cut.1).min(shape[2]);
        let target = [if repeat[0] && shape[0] == 1 { 3 } else { shape[0] }, shape[1], rows.len(), shape[3]];
        let view = TensorView::from_slice(&context, &data, stored).unwrap();
        let view = view.permuted(back).unwrap().rows(rows.clone()).unwrap().broadcast_to(target).unwrap();
        prop_assert_eq!(view.shape(), target);

        let mut copy = Vec::new();
        for at in (0..target.iter().product()).map(|n: usize| {
            let [_, h, i, c] = target;
            [(n / c / i / h).min(shape[0] - 1), n / c / i % h, rows.start + n / c % i, n % c]
        }) {
            copy.push(data[storage.iter().fold(0, |index, &axis| index * shape[axis] + at[axis])]);
        }
        let copy = TensorView::from_slice(&context, &copy, target).unwrap();
        let attention = Attention::new(&context);
        let (viewed, copied) = (attention.forward(&view, &view, &view), attention.forward(&copy, &copy, &copy));
        let expected: Vec<f64> = copied.unwrap().as_slice::<f32>().unwrap().iter().map(|x| f64::from(*x)).collect();
        prop_assert!(distance(viewed.unwrap().as_slice().unwrap(), &expected) < 1e-6);
    }
}

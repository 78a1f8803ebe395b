//! Rounding, caches of rounded rows, and attention on them.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use mfa::{
    Attention, Granularity, MfaBuffer, MfaContext, MfaError, Precision, Quantization,
    QuantizedTensor, Quantizer, TensorView,
};
use proptest::prelude::*;
use support::{Formula, Sizes, numbers};

const SHAPE: [usize; 4] = [2, 3, 21, 64];

fn every_quantizer() -> impl Iterator<Item = Quantizer> {
    let granularities = [
        Granularity::Tensor,
        Granularity::Row,
        Granularity::RowGroups { columns: 32 },
        Granularity::Block { rows: 4 },
        Granularity::Channel { rows: 4 },
    ];
    let flags = (0..8).map(|bits| [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0]);
    flags.flat_map(move |[asymmetric, smooth, rotate]| {
        granularities.into_iter().flat_map(move |granularity| {
            [Quantizer::int8(), Quantizer::int4()].map(|q| {
                q.granularity(granularity)
                    .asymmetric(asymmetric)
                    .smooth(smooth)
                    .rotate(rotate)
            })
        })
    })
}

fn values(seed: u32, shape: [usize; 4]) -> Vec<f32> {
    numbers(seed, shape.iter().product())
}

fn rmse(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    (found.iter().zip(expected).map(square).sum::<f64>() / found.len() as f64).sqrt()
}

#[test]
fn the_error_that_is_told_is_the_error_that_was_made() {
    let context = MfaContext::new().unwrap();
    let data = values(1, SHAPE);
    let view = TensorView::from_slice(&context, &data, SHAPE).unwrap();
    for quantizer in every_quantizer() {
        let tensor = quantizer.quantize(&context, &view).unwrap();
        let back = tensor.dequantize(&context).unwrap();
        let made = rmse(back.as_slice().unwrap(), &data);
        let told = tensor.error().unwrap();
        assert!(
            (told.rmse / made - 1.0).abs() < 1e-3,
            "{quantizer:?}: told {}, made {made}",
            told.rmse
        );
        // Values are uniform in -1 ... 1: a step of 2 / 254 or 2 / 14, an error of a step / sqrt(12). Rotated values are
        // not uniform: their largest is larger.
        let step = if tensor.precision() == Precision::Int8 {
            2.0 / 254.0
        } else {
            2.0 / 14.0
        };
        assert!(made < 2.5 * step / 12_f64.sqrt(), "{quantizer:?}: {made}");
        assert!(told.max_abs >= told.rmse && told.worst_row_rmse >= told.rmse);
    }
}

/// Large enough for two workers, and for pieces of rows that are not all alike.
const LONG: [usize; 4] = [1, 2, 1100, 64];

#[test]
fn workers_round_as_one_does() {
    let (one, many) = (MfaContext::new().unwrap(), MfaContext::new().unwrap());
    one.set_num_threads(1).unwrap();
    many.set_num_threads(3).unwrap();
    let data = values(7, LONG);
    for quantizer in every_quantizer() {
        let [a, b] = [&one, &many].map(|context| {
            let view = TensorView::from_slice(context, &data, LONG).unwrap();
            let tensor = quantizer.quantize(context, &view).unwrap();
            let back = tensor.dequantize(context).unwrap();
            (back.as_slice::<f32>().unwrap().to_vec(), tensor.error())
        });
        assert_eq!(a.0, b.0, "{quantizer:?}");
        assert_eq!(a.1.unwrap().rmse, b.1.unwrap().rmse, "{quantizer:?}");
    }
}

#[test]
fn rows_of_a_long_tensor_are_rounded_as_each_alone() {
    let context = MfaContext::new().unwrap();
    let data = values(9, LONG);
    let view = TensorView::from_slice(&context, &data, LONG).unwrap();
    for granularity in [Granularity::Row, Granularity::RowGroups { columns: 32 }] {
        for quantizer in [Quantizer::int8(), Quantizer::int4().asymmetric(true)] {
            let quantizer = quantizer.granularity(granularity).rotate(true);
            let all = quantizer.quantize(&context, &view).unwrap();
            let all = all.dequantize(&context).unwrap();
            for n in [0, 63, 64, 1099, 1100, 1877, 2199] {
                let row = 64 * n..64 * n + 64;
                let view = TensorView::from_slice(&context, &data[row.clone()], [1, 1, 1, 64]);
                let alone = quantizer.quantize(&context, &view.unwrap()).unwrap();
                let alone = alone.dequantize(&context).unwrap();
                let (alone, all) = (alone.as_slice::<f32>(), all.as_slice::<f32>());
                assert_eq!(alone.unwrap(), &all.unwrap()[row], "{quantizer:?}: {n}");
            }
        }
    }
}

#[test]
fn the_first_element_that_is_not_finite_is_named() {
    let context = MfaContext::new().unwrap();
    context.set_num_threads(2).unwrap();
    for quantizer in every_quantizer() {
        let mut data = values(8, LONG);
        data[1600 * 64 + 7] = f32::NEG_INFINITY;
        data[2000 * 64 + 5] = f32::NAN;
        let view = TensorView::from_slice(&context, &data, LONG).unwrap();
        let message = quantizer.quantize(&context, &view).unwrap_err().to_string();
        assert!(message.contains("[0, 1, 500, 7]"), "{message}");
    }
}

#[test]
fn memory_is_what_the_scheme_needs() {
    let context = MfaContext::new().unwrap();
    let elements: usize = SHAPE.iter().product();
    let rows = elements / 64;
    let bytes = |quantizer: Quantizer| {
        QuantizedTensor::empty(&context, SHAPE, &quantizer)
            .unwrap()
            .nbytes()
    };
    assert_eq!(bytes(Quantizer::int8()), elements + 4);
    assert_eq!(bytes(Quantizer::int4()), elements / 2 + 4);
    let row = Quantizer::int4()
        .granularity(Granularity::Row)
        .scale_precision(Precision::Fp16);
    assert_eq!(bytes(row), elements / 2 + 2 * rows);
    let groups = Quantizer::int8()
        .granularity(Granularity::RowGroups { columns: 32 })
        .asymmetric(true);
    assert_eq!(bytes(groups), elements + 5 * 2 * rows);
    let blocks = Quantizer::int8()
        .granularity(Granularity::Channel { rows: 4 })
        .smooth(true);
    assert_eq!(bytes(blocks), elements + 4 * 6 * 6 * 64 + 4 * 6 * 64);
}

#[test]
fn attention_on_integers_is_attention_on_what_they_stand_for() {
    let context = MfaContext::new().unwrap();
    let sizes = Sizes {
        batch: 2,
        heads: 3,
        key_heads: 3,
        rows: 21,
        key_rows: 21,
        columns: 64,
        value_columns: 64,
    };
    let data = [1, 2, 3].map(|seed| values(seed, SHAPE));
    let views = data
        .each_ref()
        .map(|data| TensorView::from_slice(&context, data, SHAPE).unwrap());
    let attention = Attention::new(&context);
    for quantizer in every_quantizer() {
        let tensors = views
            .each_ref()
            .map(|view| quantizer.quantize(&context, view).unwrap());
        let real = tensors
            .each_ref()
            .map(|tensor| tensor.dequantize(&context).unwrap());
        let [q, k, v] = real
            .each_ref()
            .map(|tensor| tensor.as_slice::<f32>().unwrap());
        let (expected, _) = Formula::plain(64).apply(&sizes, q, k, v);
        let expected: Vec<f32> = expected.iter().map(|x| *x as f32).collect();
        let size = rmse(&expected, &vec![0.0; expected.len()]);
        let [query, key, value] = tensors.each_ref().map(QuantizedTensor::view);
        for query in [&query, &real[0].view()] {
            let output = attention.forward(query, &key, &value).unwrap();
            assert_eq!(output.precision(), Precision::Fp32);
            let error = rmse(output.as_slice().unwrap(), &expected) / size;
            assert!(error < 2e-4, "{quantizer:?}: {error}");
        }
    }
}

#[test]
fn a_cache_that_is_filled_bit_by_bit_is_the_whole() {
    let context = MfaContext::new().unwrap();
    let data = values(7, SHAPE);
    let view = TensorView::from_slice(&context, &data, SHAPE).unwrap();
    for quantizer in every_quantizer() {
        let mut cache = QuantizedTensor::empty(&context, SHAPE, &quantizer).unwrap();
        // Blocks of four rows begin at multiples of four.
        for rows in [0..12, 12..16, 16..20, 20..21] {
            cache
                .write_rows(
                    &context,
                    rows.start,
                    &view.clone().rows(rows.clone()).unwrap(),
                )
                .unwrap();
            // What has been written can be read. One scale for all rows is that of the first ones.
            let single = quantizer == quantizer.granularity(Granularity::Tensor);
            let end = if single { 12 } else { rows.end };
            let mut back = mfa::Tensor::zeros(&context, Precision::Fp32, [2, 3, end, 64]).unwrap();
            let written = cache.view().rows(0..end).unwrap();
            written
                .dequantize_into(&context, &mut back.view_mut())
                .unwrap();
            let source = view.clone().rows(0..end).unwrap();
            let worst = worst(&context, &back, &source);
            let step = if cache.precision() == Precision::Int8 {
                2.0 / 254.0
            } else {
                2.0 / 14.0
            };
            assert!(worst < 2.5 * step, "{quantizer:?}, rows {rows:?}: {worst}");
        }
    }
}

#[test]
fn a_range_that_grows_is_cut_off_where_one_scale_was_found_before() {
    let context = MfaContext::new().unwrap();
    let data = [1.0f32, -0.5, 0.25, 0.5, 3.0, -4.0, 0.5, -1.0];
    let view = TensorView::from_slice(&context, &data, [1, 1, 2, 4]).unwrap();
    let mut cache = QuantizedTensor::empty(&context, [1, 1, 2, 4], &Quantizer::int8()).unwrap();
    for row in 0..2 {
        cache
            .write_rows(&context, row, &view.clone().rows(row..row + 1).unwrap())
            .unwrap();
    }
    let back = cache.dequantize(&context).unwrap();
    let expected = [1.0, -0.5, 0.25, 0.5, 1.0, -1.0, 0.5, -1.0];
    assert!(rmse(back.as_slice().unwrap(), &expected) < 0.004);
    assert_eq!(cache.error().unwrap().max_abs, 3.0);
}

/// The largest difference of two tensors, by way of copies.
fn worst(context: &MfaContext, found: &mfa::Tensor, source: &TensorView<'_>) -> f32 {
    // Attention of a single key is its value: a way to copy a view.
    let [batch, heads, rows, columns] = source.shape();
    let mut copy = Vec::new();
    for row in 0..rows {
        let value = source.clone().rows(row..row + 1).unwrap();
        let output = Attention::new(context)
            .forward(&value, &value, &value)
            .unwrap();
        copy.extend_from_slice(output.as_slice::<f32>().unwrap());
    }
    let at = |head: usize, row: usize, c: usize| copy[(row * batch * heads + head) * columns + c];
    let found = found.as_slice::<f32>().unwrap();
    let indices = (0..found.len()).map(|n| (n / columns / rows, n / columns % rows, n % columns));
    let differences = indices
        .zip(found)
        .map(|((head, row, c), x)| (x - at(head, row, c)).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn rows_that_do_not_begin_a_block_are_refused() {
    let context = MfaContext::new().unwrap();
    let quantizer = Quantizer::int8().granularity(Granularity::Block { rows: 4 });
    let mut cache = QuantizedTensor::empty(&context, SHAPE, &quantizer).unwrap();
    let data = values(1, [2, 3, 4, 64]);
    let view = TensorView::from_slice(&context, &data, [2, 3, 4, 64]).unwrap();
    let refused = |result: mfa::Result<()>| {
        assert!(
            matches!(result, Err(MfaError::InvalidDimensions(_))),
            "{result:?}"
        )
    };
    refused(cache.write_rows(&context, 2, &view));
    refused(cache.write_rows(&context, 20, &view));
    refused(cache.write_rows(&context, usize::MAX, &view));
    assert!(cache.parts().data.bytes().iter().all(|x| *x == 0));
    cache.write_rows(&context, 16, &view).unwrap();
    assert!(cache.view().rows(1..2).is_err());
}

#[test]
fn what_cannot_be_rounded_is_refused() {
    let context = MfaContext::new().unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut data = values(1, SHAPE);
        data[4000] = bad;
        let view = TensorView::from_slice(&context, &data, SHAPE).unwrap();
        let error = Quantizer::int8().quantize(&context, &view).unwrap_err();
        assert!(matches!(error, MfaError::InvalidArgument(_)), "{error}");
    }
    let data = values(1, [1, 1, 4, 7]);
    let odd = TensorView::from_slice(&context, &data, [1, 1, 4, 7]).unwrap();
    Quantizer::int8().quantize(&context, &odd).unwrap();
    assert!(Quantizer::int4().quantize(&context, &odd).is_err());
    let zero = Quantizer::int8().granularity(Granularity::Block { rows: 0 });
    assert!(zero.quantize(&context, &odd).is_err());
    let five = Quantizer::int8().granularity(Granularity::RowGroups { columns: 5 });
    assert!(five.quantize(&context, &odd).is_err());
}

#[test]
fn integers_without_scales_are_refused() {
    let context = MfaContext::new().unwrap();
    let data = [1_i8; 32];
    let bare = TensorView::from_slice(&context, &data, [1, 1, 4, 8]).unwrap();
    let attention = Attention::new(&context);
    assert!(matches!(
        attention.forward(&bare, &bare, &bare),
        Err(MfaError::InvalidArgument(_))
    ));
    for scale in [0.0, f32::NAN, f32::INFINITY] {
        let view = bare
            .clone()
            .with_quantization(Quantization::per_tensor(scale, 0));
        assert!(
            matches!(
                attention.forward(&view, &view, &view),
                Err(MfaError::InvalidArgument(_))
            ),
            "{scale}"
        );
    }
    // Every value is 0.5 * (1 - 3).
    let view = bare.with_quantization(Quantization::per_tensor(0.5, 3));
    let output = attention.forward(&view, &view, &view).unwrap();
    assert!(
        output
            .as_slice::<f32>()
            .unwrap()
            .iter()
            .all(|x| (x + 1.0).abs() < 1e-6)
    );
}

#[test]
fn tensors_can_be_taken_apart_and_put_together() {
    let context = MfaContext::new().unwrap();
    let data = values(1, SHAPE);
    let view = TensorView::from_slice(&context, &data, SHAPE).unwrap();
    let quantizer = Quantizer::int4()
        .granularity(Granularity::Row)
        .asymmetric(true)
        .smooth(true);
    let tensor = quantizer.quantize(&context, &view).unwrap();
    let back = tensor.dequantize(&context).unwrap();
    let parts = tensor.into_parts();
    let again = QuantizedTensor::from_parts(SHAPE, &quantizer, parts).unwrap();
    assert!(again.error().is_none());
    let same = again.dequantize(&context).unwrap();
    assert_eq!(
        same.as_slice::<f32>().unwrap(),
        back.as_slice::<f32>().unwrap()
    );

    let mut parts = again.into_parts();
    parts.mean = None;
    let error = QuantizedTensor::from_parts(SHAPE, &quantizer, parts).unwrap_err();
    assert!(error.message().starts_with("means: found none"), "{error}");
    let mut parts = quantizer.quantize(&context, &view).unwrap().into_parts();
    parts.scales = MfaBuffer::new(&context, 7).unwrap();
    let error = QuantizedTensor::from_parts(SHAPE, &quantizer, parts).unwrap_err();
    assert!(
        error.message().starts_with("scales: found 7 bytes"),
        "{error}"
    );
}

#[test]
fn scales_may_lie_anywhere() {
    let context = MfaContext::new().unwrap();
    // Two heads of three rows: scales of the heads are 8 apart, of the rows 2, from the second number on.
    let integers: Vec<i8> = (0..2 * 3 * 8).map(|n| (n % 11 - 5) as i8).collect();
    let mut scales = vec![f32::NAN; 1 + 16];
    let scale = |h: usize, i: usize| 0.25 + (h * 3 + i) as f32;
    (0..6).for_each(|n| scales[1 + n / 3 * 8 + n % 3 * 2] = scale(n / 3, n % 3));
    let zero_points: Vec<i32> = (0..16).map(|n| n - 7).collect();
    let (scales, zero_points) = (
        MfaBuffer::from_slice(&context, &scales).unwrap(),
        MfaBuffer::from_slice(&context, &zero_points).unwrap(),
    );
    let quantization = Quantization::new(Granularity::Row, scales.at(4), Precision::Fp32)
        .with_scale_strides([0, 8, 2, 0])
        .with_zero_points_i32(&*zero_points);
    let view = TensorView::from_slice(&context, &integers, [1, 2, 3, 8])
        .unwrap()
        .with_quantization(quantization);
    let mut real = mfa::Tensor::zeros(&context, Precision::Fp32, [1, 2, 2, 8]).unwrap();
    // Without the first row.
    view.rows(1..3)
        .unwrap()
        .dequantize_into(&context, &mut real.view_mut())
        .unwrap();
    for (n, x) in real.as_slice::<f32>().unwrap().iter().enumerate() {
        let (h, i, c) = (n / 16, n / 8 % 2 + 1, n % 8);
        let zero_point = (h * 8 + i * 2) as i32 - 7;
        let stored = i32::from(integers[(h * 3 + i) * 8 + c]);
        assert_eq!(*x, scale(h, i) * (stored - zero_point) as f32);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Symmetric INT8 rows: each value is within half a step of the largest value / 127.
    #[test]
    fn rounding_is_to_the_nearest(data in prop::collection::vec(-1e3_f32..1e3, 1..200)) {
        let context = MfaContext::new().unwrap();
        let shape = [1, 1, 1, data.len()];
        let view = TensorView::from_slice(&context, &data, shape).unwrap();
        let tensor = Quantizer::int8().granularity(Granularity::Row).quantize(&context, &view).unwrap();
        let step = data.iter().fold(0_f32, |a, b| a.max(b.abs())) / 127.0;
        let back = tensor.dequantize(&context).unwrap();
        for (x, y) in data.iter().zip(back.as_slice::<f32>().unwrap()) {
            prop_assert!((x - y).abs() <= step * 0.5001, "{x} became {y}, with steps of {step}");
        }
    }
}

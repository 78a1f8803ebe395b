//! A cache of keys and values in INT8 and INT4: memory, and what rounding does to the output.
//!
//! `cargo run -p mfa --example quantized`

#![allow(clippy::print_stdout)]

use mfa::{Attention, Granularity, MfaContext, QuantizedTensor, Quantizer, Result, TensorView};

const HEADS: usize = 8;
const ROWS: usize = 512;
const COLUMNS: usize = 64;

fn main() -> Result<()> {
    let context = MfaContext::new()?;
    let shape = [1, HEADS, ROWS, COLUMNS];
    let data: Vec<f32> = (0..3 * HEADS * ROWS * COLUMNS)
        .map(|i| (i as f32 * 1.7).sin())
        .collect();
    let mut thirds = data.chunks_exact(HEADS * ROWS * COLUMNS);
    let mut next = || TensorView::from_slice(&context, thirds.next().unwrap_or_default(), shape);
    let (query, key, value) = (next()?, next()?, next()?);

    let attention = Attention::new(&context).causal(true);
    let exact = attention.forward(&query, &key, &value)?;
    let exact = exact.as_slice::<f32>()?;

    let quantizers = [
        ("INT8, one scale", Quantizer::int8()),
        (
            "INT8, one scale per row",
            Quantizer::int8().granularity(Granularity::Row),
        ),
        (
            "INT4, groups of 32, rotated",
            Quantizer::int4()
                .granularity(Granularity::RowGroups { columns: 32 })
                .rotate(true),
        ),
    ];
    for (name, quantizer) in quantizers {
        // As a cache is filled: a prompt first, then row by row.
        let fill = |source: &TensorView<'_>| -> Result<QuantizedTensor> {
            let mut cache = QuantizedTensor::empty(&context, shape, &quantizer)?;
            cache.write_rows(&context, 0, &source.clone().rows(0..ROWS - 2)?)?;
            for row in ROWS - 2..ROWS {
                cache.write_rows(&context, row, &source.clone().rows(row..row + 1)?)?;
            }
            Ok(cache)
        };
        let (keys, values) = (fill(&key)?, fill(&value)?);
        let output = attention.forward(&query, &keys.view(), &values.view())?;
        let output = output.as_slice::<f32>()?;
        let squares = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|x| f64::from(x) * f64::from(x)).sum::<f64>()
        };
        let error = squares(&mut exact.iter().zip(output).map(|(a, b)| a - b))
            / squares(&mut exact.iter().copied());
        println!(
            "{name}: {} bytes instead of {}, relative RMSE of the output {:.1e}",
            keys.nbytes() + values.nbytes(),
            2 * size_of_val(exact),
            error.sqrt()
        );
    }
    Ok(())
}

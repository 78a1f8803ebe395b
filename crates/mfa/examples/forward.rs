//! Attention on borrowed slices: two query heads for each key head, causal, with every row's logsumexp.
//!
//! `cargo run -p mfa --example forward`

#![allow(clippy::print_stdout)]

use mfa::{Alignment, Attention, MfaContext, Result, TensorView};

const BATCH: usize = 1;
const HEADS: usize = 4;
const KEY_HEADS: usize = 2;
const ROWS: usize = 128;
const COLUMNS: usize = 64;

fn main() -> Result<()> {
    let context = MfaContext::new()?;
    println!(
        "device: {}, {} threads",
        context.device(),
        context.num_threads()?
    );

    let query = wave(BATCH * HEADS * ROWS * COLUMNS, 0.7);
    let key = wave(BATCH * KEY_HEADS * ROWS * COLUMNS, 1.3);
    let value = wave(BATCH * KEY_HEADS * ROWS * COLUMNS, 2.9);
    // The slices are used where they are: nothing is copied.
    let query = TensorView::from_slice(&context, &query, [BATCH, HEADS, ROWS, COLUMNS])?;
    let key = TensorView::from_slice(&context, &key, [BATCH, KEY_HEADS, ROWS, COLUMNS])?;
    let value = TensorView::from_slice(&context, &value, [BATCH, KEY_HEADS, ROWS, COLUMNS])?;

    let attention = Attention::new(&context).causal(true);
    let result = attention.forward_with_logsumexp(&query, &key, &value)?;
    println!(
        "output {:?}, in {:?}",
        result.output.shape(),
        context.latency()?
    );
    println!(
        "first row: {:.4?} ...",
        &result.output.as_slice::<f32>()?[..4]
    );
    println!(
        "logsumexp: {:.4?} ...",
        &result.logsumexp.as_slice::<f32>()?[..4]
    );

    // Decoding: the last query row alone, aligned with the last key.
    let last = query.rows(ROWS - 1..ROWS)?;
    let step = attention
        .alignment(Alignment::BottomRight)
        .forward(&last, &key, &value)?;
    let (step, whole) = (step.as_slice::<f32>()?, result.output.as_slice::<f32>()?);
    println!(
        "last row: {:.4?} ... decoded, {:.4?} ... before",
        &step[..4],
        &whole[(ROWS - 1) * COLUMNS..][..4]
    );
    Ok(())
}

fn wave(length: usize, step: f32) -> Vec<f32> {
    (0..length).map(|i| (i as f32 * step).sin()).collect()
}

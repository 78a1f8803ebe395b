//! Learning queries by gradient descent through attention on INT8 keys and values.
//!
//! `cargo run -p mfa --example training`

#![allow(clippy::print_stdout)]

use mfa::{Attention, Granularity, MfaContext, Quantizer, Result, TensorView};

const HEADS: usize = 2;
const ROWS: usize = 32;
const COLUMNS: usize = 16;
const STEPS: usize = 60;
const RATE: f32 = 8.0;

fn main() -> Result<()> {
    let context = MfaContext::new()?;
    let shape = [1, HEADS, ROWS, COLUMNS];
    let size: usize = shape.iter().product();
    let wave = |step: f32| -> Vec<f32> { (0..size).map(|i| (i as f32 * step).sin()).collect() };
    let (keys, values, goal) = (wave(1.9), wave(0.7), wave(2.3));

    let quantizer = Quantizer::int8().granularity(Granularity::Row);
    let key = quantizer.quantize(&context, &TensorView::from_slice(&context, &keys, shape)?)?;
    let value = quantizer.quantize(&context, &TensorView::from_slice(&context, &values, shape)?)?;
    let attention = Attention::new(&context);

    // The goal can be reached: it is what other queries would give.
    let target = attention.forward(
        &TensorView::from_slice(&context, &goal, shape)?,
        &key.view(),
        &value.view(),
    )?;
    let target = target.as_slice::<f32>()?;

    let mut queries = vec![0.0_f32; size];
    for step in 0..STEPS {
        let query = TensorView::from_slice(&context, &queries, shape)?;
        let forward = attention.forward_with_logsumexp(&query, &key.view(), &value.view())?;
        // loss = sum of squares / 2, so its gradient is the difference.
        let output = forward.output.as_slice::<f32>()?;
        let difference: Vec<f32> = output
            .iter()
            .zip(target)
            .map(|(output, target)| output - target)
            .collect();
        let loss = difference.iter().map(|d| d * d).sum::<f32>() / 2.0;
        let grad_output = TensorView::from_slice(&context, &difference, shape)?;
        let gradients =
            attention.backward(&query, &key.view(), &value.view(), &forward, &grad_output)?;
        drop(query);
        for (query, gradient) in queries.iter_mut().zip(gradients.query.as_slice::<f32>()?) {
            *query -= RATE * gradient;
        }
        if step % 10 == 0 || step + 1 == STEPS {
            println!("step {step:3}: loss {loss:.6}");
        }
    }
    Ok(())
}

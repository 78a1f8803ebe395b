//! Attention over parts of the keys: lengths of sequences, and merges.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use mfa::{
    Alignment, Attention, BackwardInputs, BackwardOutputs, Forward, MfaContext, MfaError, Part,
    Precision, Tensor, TensorView, merge, merge_backward, merge_into,
};
use support::{distance, numbers};

const NEAR: f64 = 1e-5;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

#[track_caller]
fn near(found: &[f32], expected: &[f32]) {
    let far = distance(found, &wide(expected));
    assert!(far < NEAR, "off by {far}");
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_slice().unwrap()
}

#[test]
fn each_sequence_has_its_own_length() {
    let context = MfaContext::new().unwrap();
    let (rows, keys, columns) = (5, 12, 8);
    let lengths = [9, 0, 4];
    let q = numbers(1, 3 * 2 * rows * columns);
    let mut k = numbers(2, 3 * keys * columns);
    // What is not read may hold anything.
    for (batch, length) in lengths.iter().enumerate() {
        k[(batch * keys + *length as usize) * columns..(batch + 1) * keys * columns].fill(f32::NAN);
    }
    let query = TensorView::from_slice(&context, &q, [3, 2, rows, columns]).unwrap();
    let key = TensorView::from_slice(&context, &k, [3, 1, keys, columns]).unwrap();
    for alignment in [Alignment::TopLeft, Alignment::BottomRight] {
        let attention = Attention::new(&context).causal(true).alignment(alignment);
        let given = attention.clone().key_lengths(&lengths).unwrap();
        let whole = given.forward_with_logsumexp(&query, &key, &key).unwrap();
        given.explain(&query, &key, &key).unwrap();
        let size = 2 * rows * columns;
        for (batch, length) in lengths.iter().enumerate() {
            let (q, k) = (&q[batch * size..][..size], &k[batch * keys * columns..]);
            let length = *length as usize;
            let query = TensorView::from_slice(&context, q, [1, 2, rows, columns]).unwrap();
            let key =
                TensorView::from_slice(&context, &k[..length * columns], [1, 1, length, columns]);
            let key = key.unwrap();
            let alone = attention.forward(&query, &key, &key).unwrap();
            near(
                &floats(&whole.output)[batch * size..][..size],
                floats(&alone),
            );
        }
    }
}

#[test]
fn lengths_are_checked() {
    let context = MfaContext::new().unwrap();
    let data = numbers(1, 2 * 9 * 8);
    let x = TensorView::from_slice(&context, &data, [2, 1, 9, 8]).unwrap();
    let refused = |attention: Attention<'_>| {
        let error = attention.forward(&x, &x, &x).unwrap_err();
        assert!(matches!(error, MfaError::InvalidArgument(_)), "{error}");
        error.to_string()
    };
    let attention = Attention::new(&context);
    let text = refused(attention.clone().key_lengths(&[9]).unwrap());
    assert!(text.contains("1 numbers; expected 2"), "{text}");
    let text = refused(attention.clone().key_lengths(&[9, 10]).unwrap());
    assert!(text.contains("10"), "{text}");
    // Lengths that differ from the rows ask for the alignment.
    let causal = attention.causal(true);
    let text = refused(causal.clone().key_lengths(&[9, 7]).unwrap());
    assert!(text.contains("9 query rows to 7 key rows"), "{text}");
    let same = causal.key_lengths(&[9, 9]).unwrap();
    same.forward(&x, &x, &x).unwrap();
}

/// Attention over two parts of the keys, merged, is attention over all of them; and so are its gradients.
#[test]
fn parts_make_the_whole() {
    let context = MfaContext::new().unwrap();
    let (q, k, v) = (
        numbers(1, 2 * 7 * 16),
        numbers(2, 2 * 20 * 16),
        numbers(3, 2 * 20 * 8),
    );
    let (g, dl) = (numbers(4, 2 * 7 * 8), numbers(5, 2 * 7));
    let view = |data, shape| TensorView::from_slice(&context, data, shape).unwrap();
    let (query, key, value) = (
        view(&q, [1, 2, 7, 16]),
        view(&k, [1, 2, 20, 16]),
        view(&v, [1, 2, 20, 8]),
    );
    let (grad, grad_logsumexp) = (view(&g, [1, 2, 7, 8]), view(&dl, [1, 2, 7, 1]));
    let attention = Attention::new(&context);
    let whole = attention
        .forward_with_logsumexp(&query, &key, &value)
        .unwrap();

    let pieces = [0..9, 9..9, 9..20].map(|rows: std::ops::Range<usize>| {
        let part = |columns| {
            let strides = [2 * 20 * columns, 20 * columns, columns, 1];
            let data = if columns == 16 { &k } else { &v };
            let start = 4 * rows.start * columns;
            TensorView::from_slice(&context, data, [1, 2, rows.len(), columns])
                .unwrap()
                .with_strides(strides)
                .with_byte_offset(if rows.is_empty() { 0 } else { start })
        };
        (part(16), part(8))
    });
    let forwards: Vec<Forward> = (pieces.iter())
        .map(|(key, value)| {
            attention
                .forward_with_logsumexp(&query, key, value)
                .unwrap()
        })
        .collect();
    let parts: Vec<Part<'_>> = forwards.iter().map(Part::from).collect();
    let merged = merge(&context, &parts).unwrap();
    near(floats(&merged.output), floats(&whole.output));
    near(floats(&merged.logsumexp), floats(&whole.logsumexp));
    let mut output = Tensor::zeros(&context, Precision::Fp32, [1, 2, 7, 8]).unwrap();
    merge_into(&context, &parts, &mut output.view_mut(), None).unwrap();
    assert_eq!(floats(&output), floats(&merged.output));

    let gradient = |key: &TensorView<'_>,
                    value: &TensorView<'_>,
                    forward: &Forward,
                    grad_output: &TensorView<'_>,
                    grad_logsumexp: Option<&TensorView<'_>>| {
        let mut found = Tensor::zeros(&context, Precision::Fp32, query.shape()).unwrap();
        let inputs = BackwardInputs {
            query: &query,
            key,
            value,
            output: Some(&forward.output.view()),
            grad_output,
            logsumexp: &forward.logsumexp.view(),
            grad_logsumexp,
        };
        let outputs = BackwardOutputs {
            query: Some(found.view_mut()),
            ..BackwardOutputs::default()
        };
        attention.backward_into(&inputs, outputs).unwrap();
        found
    };
    let expected = gradient(&key, &value, &whole, &grad, Some(&grad_logsumexp));
    let without = gradient(&key, &value, &whole, &grad, None);
    assert!(distance(floats(&without), &wide(floats(&expected))) > 1e-2);
    let split = merge_backward(&context, &parts, &grad, Some(&grad_logsumexp)).unwrap();
    let mut sum = vec![0.0_f32; 2 * 7 * 16];
    for (((key, value), forward), back) in pieces.iter().zip(&forwards).zip(&split) {
        let (output, logsumexp) = (back.output.view(), back.logsumexp.view());
        let part = gradient(key, value, forward, &output, Some(&logsumexp));
        for (sum, x) in sum.iter_mut().zip(floats(&part)) {
            *sum += x;
        }
    }
    near(&sum, floats(&expected));
}

#[test]
fn merges_without_parts_are_refused() {
    let context = MfaContext::new().unwrap();
    let grad = Tensor::zeros(&context, Precision::Fp32, [1, 1, 2, 4]).unwrap();
    for error in [
        merge(&context, &[]).unwrap_err(),
        merge_backward(&context, &[], &grad.view(), None).unwrap_err(),
    ] {
        assert!(matches!(error, MfaError::InvalidArgument(_)), "{error}");
    }
}

/// What a process has had of memory at most, where the system tells.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes << 10)
}

#[test]
fn plans_take_no_memory() {
    let context = MfaContext::new().unwrap();
    let data = numbers(1, 64);
    // 1 GiB of query, and as much of output and of gradient.
    let row = TensorView::from_slice(&context, &data, [1, 1, 1, 64]).unwrap();
    let query = row.clone().broadcast_to([1, 1, 1 << 22, 64]).unwrap();
    let attention = Attention::new(&context);
    attention.explain(&row, &row, &row).unwrap();
    let before = peak();
    attention.explain(&query, &row, &row).unwrap();
    attention.workspace_size(&query, &row, &row).unwrap();
    attention.explain_backward(&query, &row, &row).unwrap();
    if let (Some(before), Some(after)) = (before, peak()) {
        assert!(after - before < 64 << 20, "{} bytes", after - before);
    }
}

/// FP64 is computed in FP64, where the device has it.
#[test]
fn doubles_are_computed_in_double() {
    let context = MfaContext::new().unwrap();
    let values =
        |seed: f64, n: usize| -> Vec<f64> { (0..n).map(|i| (i as f64 * seed).sin()).collect() };
    let (rows, keys, columns) = (3, 5, 4);
    let (q, k) = (values(0.7, rows * columns), values(1.3, keys * columns));
    let query = TensorView::from_slice(&context, &q, [1, 1, rows, columns]).unwrap();
    let key = TensorView::from_slice(&context, &k, [1, 1, keys, columns]).unwrap();
    let attention = Attention::new(&context);
    let found = match attention.forward_with_logsumexp(&query, &key, &key) {
        Err(MfaError::Unsupported(_)) if std::env::var_os("MFA_REQUIRE_ALL").is_none() => return,
        found => found.unwrap(),
    };
    let output: &[f64] = found.output.as_slice().unwrap();
    let logsumexp: &[f64] = found.logsumexp.as_slice().unwrap();
    for row in 0..rows {
        let score = |key: usize| -> f64 {
            let products = (0..columns).map(|c| q[row * columns + c] * k[key * columns + c]);
            products.sum::<f64>() / 2.0
        };
        let weights: Vec<f64> = (0..keys).map(|key| score(key).exp()).collect();
        let total: f64 = weights.iter().sum();
        assert!((logsumexp[row] - total.ln()).abs() < 1e-13);
        for c in 0..columns {
            let sum: f64 = (0..keys)
                .map(|key| weights[key] * k[key * columns + c])
                .sum();
            assert!((output[row * columns + c] - sum / total).abs() < 1e-13);
        }
    }
    let gradients = attention
        .backward(&query, &key, &key, &found, &query)
        .unwrap();
    assert_eq!(gradients.query.precision(), Precision::Fp64);
    assert!(
        gradients
            .query
            .as_slice::<f64>()
            .unwrap()
            .iter()
            .any(|x| *x != 0.0)
    );
}

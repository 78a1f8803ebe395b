//! The orthonormal Hadamard rotation of a row: see `mfa_quantization` (eq. 43, 44 of docs/math.md).

#![forbid(unsafe_code)]

/// Rotates a row in place: blocks of the largest power of two that divides its length, each by the Sylvester matrix over
/// the square root of its size. The rotation is its own inverse.
pub(crate) fn rotate(row: &mut [f32]) {
    if row.is_empty() {
        return;
    }
    let size = 1 << row.len().trailing_zeros();
    let scale = 1.0 / (size as f32).sqrt();
    for block in row.chunks_exact_mut(size) {
        let mut half = 1;
        while half < size {
            for pair in block.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        for x in block {
            *x *= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::rotate;

    #[test]
    fn is_its_own_inverse_and_keeps_the_norm() {
        for n in [1usize, 2, 6, 7, 48, 64, 96, 160, 512] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 37 % 23) as f32) - 11.0).collect();
            let mut rotated = row.clone();
            rotate(&mut rotated);
            let norm = |x: &[f32]| x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            assert!(
                (norm(&row) - norm(&rotated)).abs() <= 1e-5 * norm(&row),
                "n = {n}"
            );
            assert!(n % 2 == 1 || row != rotated, "n = {n} must move");
            rotate(&mut rotated);
            for (a, b) in row.iter().zip(&rotated) {
                assert!((a - b).abs() < 1e-4, "n = {n}: {a} {b}");
            }
        }
    }
}

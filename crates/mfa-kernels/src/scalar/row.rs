//! Passes over one row of scores, or of an output.

use crate::MOST_ALIBI;
use crate::base2::to_base2;

/// See [`crate::MaskBool`].
pub(super) unsafe fn mask_bool(s: *mut f32, mask: *const u8, n: usize) {
    for j in 0..n {
        if *mask.add(j) == 0 {
            *s.add(j) = f32::NEG_INFINITY;
        }
    }
}

/// See [`crate::MaskAdd`].
pub(super) unsafe fn mask_add(s: *mut f32, mask: *const f32, n: usize) {
    let s = std::slice::from_raw_parts_mut(s, n);
    // Bytes, for the mask need not be aligned.
    let mask = std::slice::from_raw_parts(mask.cast::<[u8; 4]>(), n);
    for (s, mask) in s.iter_mut().zip(mask) {
        let mask = f32::from_ne_bytes(*mask);
        *s = if mask == f32::NEG_INFINITY {
            mask
        } else {
            *s + to_base2(mask)
        };
    }
}

/// See [`crate::Softcap`].
pub(super) unsafe fn softcap(s: *mut f32, n: usize, cap2: f32) {
    for j in 0..n {
        *s.add(j) = cap2 * (*s.add(j) / cap2).tanh();
    }
}

/// See [`crate::Alibi`].
pub(super) unsafe fn alibi(s: *mut f32, n: usize, slope2: f32, first: f32) {
    for j in 0..n {
        let bias = slope2 * (first - j as f32).abs();
        *s.add(j) -= if bias.is_nan() {
            bias
        } else {
            bias.clamp(-MOST_ALIBI, MOST_ALIBI)
        };
    }
}

/// See [`crate::Scale`].
pub(super) unsafe fn scale(x: *const f32, n: usize, factor: f32, out: *mut f32) {
    for j in 0..n {
        *out.add(j) = factor * *x.add(j);
    }
}

/// See [`crate::ToBf16`].
pub(super) unsafe fn to_bf16(x: *const f32, n: usize, out: *mut u16) {
    for j in 0..n {
        *out.add(j) = half::bf16::from_f32(*x.add(j)).to_bits();
    }
}

/// See [`crate::ToF16`].
pub(super) unsafe fn to_f16(x: *const f32, n: usize, out: *mut u16) {
    for j in 0..n {
        *out.add(j) = half::f16::from_f32(*x.add(j)).to_bits();
    }
}

/// See [`crate::Prefetch`]. There is no portable way to ask.
pub(super) unsafe fn prefetch(_: *const u8, _: usize) {}

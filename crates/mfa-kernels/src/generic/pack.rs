//! Packing of operands into strips and panels (eq. 38 of docs/math.md).

use crate::MAX_MR;
use crate::simd::{Dot4, Simd};

/// A square of 32-bit elements.
#[repr(align(64))]
pub(super) struct Square(pub(super) [f32; 16 * 16]);

/// See [`crate::PackQF32`].
#[inline(always)]
pub(crate) unsafe fn pack_q_f32<S: Simd, const MR: usize>(
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    scale: f32,
    out: *mut f32,
) {
    let scale = S::splat(scale);
    let mut c = 0;
    while c < d {
        let width = S::LANES.min(d - c);
        let mut first = 0;
        while first < MR {
            let height = S::LANES.min(MR - first);
            let mut square = Square([0.0; 256]);
            for i in 0..height.min(n.saturating_sub(first)) {
                let x = S::load_n(rows.add((first + i) * ld + c), width, 0.0);
                S::store(square.0.as_mut_ptr().add(i * S::LANES), S::mul(x, scale));
            }
            strip::<S, MR>(&square, width, height, out.add(c * MR + first));
            first += height;
        }
        c += width;
    }
}

/// See [`crate::PackQI8`].
#[inline(always)]
pub(crate) unsafe fn pack_q_i8<S: Simd, const MR: usize>(
    rows: *const i8,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut u8,
    sums: *mut i32,
) {
    // Flipping its highest bit adds 128 to a byte.
    let offset = S::splat_i(match S::DOT4 {
        Dot4::Signed => 0,
        Dot4::Unsigned | Dot4::None => 0x8080_8080_u32 as i32,
    });
    let groups = d.div_ceil(4);
    let mut totals = [S::splat_i(0); MAX_MR];
    let mut g = 0;
    while g < groups {
        let width = S::LANES.min(groups - g);
        let mut first = 0;
        while first < MR {
            let height = S::LANES.min(MR - first);
            let mut square = Square([0.0; 256]);
            for i in 0..height {
                let mut x = S::splat_i(0);
                if first + i < n {
                    let row = rows.add((first + i) * ld + 4 * g).cast();
                    x = S::load_bytes(row, (4 * S::LANES).min(d - 4 * g));
                    totals[first + i] = S::sum_i8(totals[first + i], x);
                }
                let to = square.0.as_mut_ptr().add(i * S::LANES);
                S::store_i(to.cast(), S::xor_i(x, offset));
            }
            let out = out.cast::<f32>().add(g * MR + first);
            strip::<S, MR>(&square, width, height, out);
            first += height;
        }
        g += width;
    }
    for (i, total) in totals.iter().enumerate().take(n) {
        *sums.add(i) = sum_i::<S>(*total);
    }
}

/// The rows of a square as columns.
#[inline(always)]
unsafe fn transposed<S: Simd>(square: &Square) -> Square {
    let mut columns = Square([0.0; 256]);
    let out = columns.0.as_mut_ptr();
    S::transpose(square.0.as_ptr(), S::LANES, out, S::LANES);
    columns
}

/// Writes `height` rows of a square as `width` columns of a strip.
#[inline(always)]
unsafe fn strip<S: Simd, const MR: usize>(
    square: &Square,
    width: usize,
    height: usize,
    out: *mut f32,
) {
    let columns = transposed::<S>(square);
    for c in 0..width {
        let column = S::load(columns.0.as_ptr().add(c * S::LANES));
        S::store_n(out.add(c * MR), height, column);
    }
}

/// See [`crate::PackKF32`].
#[inline(always)]
pub(crate) unsafe fn pack_k_f32<S: Simd, const NV: usize>(
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut f32,
) {
    let nr = NV * S::LANES;
    let mut j = 0;
    while j < n.next_multiple_of(nr) {
        let panel = out.add(j / nr * nr * d + j % nr);
        let keys = S::LANES.min(n.saturating_sub(j));
        let mut c = 0;
        while c < d {
            let width = S::LANES.min(d - c);
            if keys == S::LANES && width == S::LANES {
                S::transpose(rows.add(j * ld + c), ld, panel.add(c * nr), nr);
            } else {
                let mut square = Square([0.0; 256]);
                for i in 0..keys {
                    let x = S::load_n(rows.add((j + i) * ld + c), width, 0.0);
                    S::store(square.0.as_mut_ptr().add(i * S::LANES), x);
                }
                columns::<S>(&square, width, panel.add(c * nr), nr);
            }
            c += width;
        }
        j += S::LANES;
    }
}

/// See [`crate::PackKI8`]. `WIDE`: as i16.
#[inline(always)]
pub(crate) unsafe fn pack_k_i8<S: Simd, const NV: usize, const WIDE: bool>(
    rows: *const i8,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut i8,
    sums: *mut i32,
) {
    let nr = NV * S::LANES;
    let groups = d.div_ceil(4);
    let mut j = 0;
    while j < n.next_multiple_of(nr) {
        let halves = if WIDE { 2 } else { 1 };
        let panel = out
            .cast::<f32>()
            .add(j / nr * nr * groups * halves + j % nr);
        let keys = S::LANES.min(n.saturating_sub(j));
        let mut totals = [S::splat_i(0); 16];
        let mut g = 0;
        while g < groups {
            let width = S::LANES.min(groups - g);
            let mut square = Square([0.0; 256]);
            for (i, total) in totals.iter_mut().enumerate().take(keys) {
                let row = rows.add((j + i) * ld + 4 * g).cast();
                let x = S::load_bytes(row, (4 * S::LANES).min(d - 4 * g));
                *total = S::sum_i8(*total, x);
                S::store_i(square.0.as_mut_ptr().add(i * S::LANES).cast(), x);
            }
            if WIDE {
                wide_columns::<S>(&square, width, panel.add(g * nr).cast(), nr, groups * nr);
            } else {
                columns::<S>(&square, width, panel.add(g * nr), nr);
            }
            g += width;
        }
        // Sums of bytes are far below 2^24, where f32 is exact.
        let mut square = Square([0.0; 256]);
        for (i, total) in totals.iter().enumerate().take(keys) {
            S::store(square.0.as_mut_ptr().add(i * S::LANES), S::to_f(*total));
        }
        let mut totals = [0f32; 16];
        S::store(totals.as_mut_ptr(), S::across::<true>(square.0.as_ptr()));
        for (i, total) in totals.iter().enumerate().take(S::LANES) {
            *sums.add(j + i) = *total as i32;
        }
        j += S::LANES;
    }
}

/// Writes the first `width` columns of a square as rows of `LANES`, `ld` apart.
#[inline(always)]
unsafe fn columns<S: Simd>(square: &Square, width: usize, out: *mut f32, ld: usize) {
    if width == S::LANES {
        return S::transpose(square.0.as_ptr(), S::LANES, out, ld);
    }
    let columns = transposed::<S>(square);
    for c in 0..width {
        let column = S::load(columns.0.as_ptr().add(c * S::LANES));
        S::store(out.add(c * ld), column);
    }
}

/// Widens the bytes of the first `width` columns of a square to i16. Bytes 0 and 2 of each element are written as rows of
/// `LANES`, `ld` apart, bytes 1 and 3 the same `half` elements later.
#[inline(always)]
unsafe fn wide_columns<S: Simd>(
    square: &Square,
    width: usize,
    out: *mut i32,
    ld: usize,
    half: usize,
) {
    let columns = transposed::<S>(square);
    for c in 0..width {
        let column = S::load_i(columns.0.as_ptr().add(c * S::LANES).cast());
        let [even, odd] = S::split_i8(column);
        S::store_i(out.add(c * ld), even);
        S::store_i(out.add(c * ld + half), odd);
    }
}

/// See [`crate::PackVF32`].
#[inline(always)]
pub(crate) unsafe fn pack_v_f32<S: Simd, const NV: usize>(
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut f32,
) -> bool {
    let nr = NV * S::LANES;
    let zero = S::splat(0.0);
    // x * 0 is NaN for whatever is not finite, and NaN stays. A chain for each vector of a panel: a row must not wait for
    // the one before.
    let mut finite = [zero; NV];
    for panel in 0..d.div_ceil(nr) {
        let (rows, out) = (rows.add(panel * nr), out.add(panel * nr * n));
        let columns = d - panel * nr;
        for j in 0..n {
            for (v, finite) in finite.iter_mut().enumerate() {
                let from = (v * S::LANES).min(columns);
                let row = rows.add(j * ld + from);
                let x = if columns >= nr {
                    S::load(row)
                } else {
                    S::load_n(row, (columns - from).min(S::LANES), 0.0)
                };
                *finite = S::fma(x, zero, *finite);
                S::store(out.add(j * nr + v * S::LANES), x);
            }
        }
    }
    finite.into_iter().all(|finite| {
        let mut lanes = [0f32; 16];
        S::store(lanes.as_mut_ptr(), finite);
        lanes.iter().all(|x| *x == 0.0)
    })
}

/// See [`crate::PackVI16`].
#[inline(always)]
pub(crate) unsafe fn pack_v_i16<S: Simd, const NV: usize>(
    rows: *const i8,
    ld: usize,
    n: usize,
    d: usize,
    zero: *const i32,
    out: *mut i16,
) {
    let nr = NV * S::LANES;
    // Bytes are loaded zero-extended; flipping their sign bit and taking 128 off extends the sign.
    let flip = S::splat_i(0x80);
    let mut j = 0;
    while j < n {
        let mut lesser = [S::splat_i(128); 2];
        for (e, lesser) in lesser.iter_mut().enumerate() {
            if !zero.is_null() && j + e < n {
                *lesser = S::splat_i(128 + *zero.add(j + e));
            }
        }
        let mut c = 0;
        while c < d.next_multiple_of(nr) {
            let from = c.min(d);
            let count = (d - from).min(S::LANES);
            let mut x = [S::splat_i(0); 2];
            for (e, x) in x.iter_mut().enumerate() {
                // A key past the end is all zero point, that is 0.
                *x = lesser[e];
                if j + e < n {
                    let bytes = S::load_u8(rows.add((j + e) * ld + from).cast(), count);
                    *x = S::xor_i(bytes, flip);
                }
                *x = S::sub_i(*x, lesser[e]);
            }
            let panel = out
                .cast::<i32>()
                .add(c / nr * nr * n.div_ceil(2) + j / 2 * nr + c % nr);
            S::store_i(panel, S::keep_n(S::pair_i16(x[0], x[1]), count));
            c += S::LANES;
        }
        j += 2;
    }
}

/// See [`crate::PackVI8`].
#[inline(always)]
pub(crate) unsafe fn pack_v_i8<S: Simd, const NV: usize>(
    rows: *const i8,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut i8,
) {
    let nr = NV * S::LANES;
    let mut j = 0;
    while j < n {
        let mut c = 0;
        while c < d.next_multiple_of(nr) {
            let from = c.min(d);
            let count = (d - from).min(S::LANES);
            let mut x = [S::splat_i(0); 4];
            for (e, x) in x.iter_mut().enumerate().take(n - j) {
                *x = S::load_u8(rows.add((j + e) * ld + from).cast(), count);
            }
            let low = S::or_shifted::<8>(x[0], x[1]);
            let high = S::or_shifted::<8>(x[2], x[3]);
            let group = S::or_shifted::<16>(low, high);
            let at = c / nr * nr * n.div_ceil(4) + j / 4 * nr + c % nr;
            S::store_i(out.cast::<i32>().add(at), group);
            c += S::LANES;
        }
        j += 4;
    }
}

#[inline(always)]
unsafe fn sum_i<S: Simd>(x: S::I) -> i32 {
    let mut lanes = [0i32; 16];
    S::store_i(lanes.as_mut_ptr(), x);
    lanes.iter().sum()
}

/// See [`crate::UnpackI4`]. Compilers see the vectors in it.
#[inline(always)]
pub(crate) unsafe fn unpack_i4(src: *const u8, n: usize, out: *mut i8) {
    for i in 0..n / 2 {
        let byte = *src.add(i);
        *out.add(2 * i) = (byte << 4) as i8 >> 4;
        *out.add(2 * i + 1) = byte as i8 >> 4;
    }
}

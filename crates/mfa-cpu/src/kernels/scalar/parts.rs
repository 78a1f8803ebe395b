//! Products of parts: see [`crate::kernels::parts`].

use super::softmax;
use crate::kernels::parts::{MAX_PARTS, PartKernels, STEP, Terms, at_a, at_b, bf16, row_len};
use crate::kernels::{KB, MAX_MR, RowState, SCORE_LD};

/// The twins for strips of `MR` rows and panels of `NR` columns.
pub(crate) const fn table<const MR: usize, const NR: usize>() -> PartKernels {
    PartKernels {
        pack_rows: pack_rows::<MR>,
        pack_transposed: pack_transposed::<MR>,
        pack_columns: pack_columns::<NR>,
        pack_panels: pack_panels::<NR>,
        product: product::<MR, NR>,
        softmax: softmax_parts,
        rescale,
    }
}

/// The parts of a float; those past `parts` are left out.
pub(crate) fn split(x: f32, parts: usize) -> [u16; MAX_PARTS] {
    let mut out = [0; MAX_PARTS];
    if !x.is_finite() {
        let quiet = if x.is_nan() { 0x40 } else { 0 };
        out[0] = (x.to_bits() >> 16) as u16 | quiet;
        return out;
    }
    let mut rest = x;
    for part in out.iter_mut().take(parts) {
        let bits = rest.to_bits();
        let rounded = bits + 0x8000;
        // What would round to infinity is cut off instead.
        let finite = f32::from_bits(rounded).is_finite();
        *part = ((if finite { rounded } else { bits }) >> 16) as u16;
        rest -= bf16(*part);
    }
    out
}

/// Splits `get(i, t)` for rows `i` and terms `t`, of which those that are there are numbered `..n` and `..terms`.
unsafe fn pack(
    parts: usize,
    rows: usize,
    steps: usize,
    get: impl Fn(usize, usize) -> f32,
    put: impl Fn(usize, usize) -> (*mut u16, usize),
) -> bool {
    let mut finite = true;
    for i in 0..rows {
        for t in 0..steps * STEP {
            let x = get(i, t);
            finite &= x.is_finite();
            let (first, distance) = put(i, t);
            for (p, part) in split(x, parts).iter().enumerate().take(parts) {
                *first.add(p * distance) = *part;
            }
        }
    }
    finite
}

unsafe fn pack_rows<const MR: usize>(
    parts: usize,
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    let get = |i: usize, t: usize| {
        if i < n && t < d {
            *rows.add(i * ld + t)
        } else {
            0.0
        }
    };
    let put = |i: usize, t: usize| (out.add(i * row_len(d, parts) + at_a(t, parts)), STEP);
    pack(parts, MR, d.div_ceil(STEP), get, put)
}

unsafe fn pack_transposed<const MR: usize>(
    parts: usize,
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    let get = |i: usize, t: usize| {
        if i < d && t < n {
            *rows.add(t * ld + i)
        } else {
            0.0
        }
    };
    let put = |i: usize, t: usize| (out.add(i * row_len(n, parts) + at_a(t, parts)), STEP);
    pack(parts, MR, n.div_ceil(STEP), get, put)
}

unsafe fn pack_columns<const NR: usize>(
    parts: usize,
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    let get = |c: usize, t: usize| {
        if c < n && t < d {
            *rows.add(c * ld + t)
        } else {
            0.0
        }
    };
    let put = |c: usize, t: usize| (out.add(at_b(t, c, d, parts, NR)), STEP * NR);
    pack(parts, n.next_multiple_of(NR), d.div_ceil(STEP), get, put)
}

unsafe fn pack_panels<const NR: usize>(
    parts: usize,
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    let get = |c: usize, t: usize| {
        if c < d && t < n {
            *rows.add(t * ld + c)
        } else {
            0.0
        }
    };
    let put = |c: usize, t: usize| (out.add(at_b(t, c, n, parts, NR)), STEP * NR);
    pack(parts, d.next_multiple_of(NR), n.div_ceil(STEP), get, put)
}

unsafe fn product<const MR: usize, const NR: usize>(
    terms: Terms,
    a: *const u16,
    lda: usize,
    b: *const u16,
    panel: usize,
    steps: usize,
    rows: usize,
    panels: usize,
    add: bool,
    o: *mut f32,
    ldo: usize,
) {
    let (of_a, of_b) = (terms.parts_of_a(), terms.parts_of_b());
    let height = if rows <= 16 { MR.min(16) } else { MR };
    for i in 0..height {
        let a = a.add(i * lda);
        for c in 0..panels * NR {
            let b = b.add(c / NR * panel + c % NR * 2);
            let o = o.add(i * ldo + c);
            let mut total = if add { *o } else { 0.0 };
            for s in 0..steps {
                for &(x, y) in terms.pairs() {
                    let a = a.add((s * of_a + x) * STEP);
                    let b = b.add((s * of_b + y) * STEP * NR);
                    // As the unit adds: the two sums of a step's halves, then their sum.
                    let mut halves = [0f32; 2];
                    for t in 0..STEP {
                        let (pair, half) = (t / 2, t % 2);
                        let b = bf16(*b.add(pair * NR * 2 + half));
                        halves[half] = bf16(*a.add(t)).mul_add(b, halves[half]);
                    }
                    total += halves[0] + halves[1];
                }
            }
            *o = total;
        }
    }
}

unsafe fn softmax_parts(
    parts: usize,
    s: *const f32,
    rows: usize,
    n: usize,
    state: RowState,
    scale: f32,
    p: *mut u16,
    ldp: usize,
) {
    let mut weights = [0f32; MAX_MR * SCORE_LD];
    for i in 0..rows {
        for j in 0..n {
            weights[i * SCORE_LD + j] = scale * *s.add(i * SCORE_LD + j);
        }
    }
    softmax::softmax_f32(weights.as_mut_ptr(), rows, n, state);
    debug_assert!(n <= KB);
    for i in 0..rows {
        for t in 0..n.next_multiple_of(STEP) {
            let x = if t < n {
                weights[i * SCORE_LD + t]
            } else {
                0.0
            };
            let to = p.add(i * ldp + at_a(t, parts));
            for (part, bits) in split(x, parts).iter().enumerate().take(parts) {
                *to.add(part * STEP) = *bits;
            }
        }
    }
}

unsafe fn rescale(alpha: *const f32, rows: usize, columns: usize, o: *mut f32, ldo: usize) {
    for i in 0..rows {
        for c in 0..columns {
            *o.add(i * ldo + c) *= *alpha.add(i);
        }
    }
}

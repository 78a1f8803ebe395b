//! Products of slices: see [`crate::bf16_split`] (eq. 52 of docs/math.md).

use super::softmax;
use crate::Precision;
use crate::bf16_split::{
    Bf16Kernels, Bf16Products, FloatRows, MAX_SLICES, STEP, TileConfig, at_a, at_b, bf16,
    long_row_len, row_len,
};
use crate::{BLOCK_N, MAX_MR, RowState, SCORE_LD};

/// The twins for strips of `MR` rows and panels of `NR` columns.
pub(crate) const fn table<const MR: usize, const NR: usize>() -> Bf16Kernels {
    Bf16Kernels {
        pack_rows: pack_rows::<MR>,
        pack_transposed: pack_transposed::<MR>,
        pack_columns: pack_columns::<NR>,
        pack_panels: pack_panels::<NR>,
        product: product::<MR, NR>,
        softmax: softmax_bf16,
        rescale,
        tile_config: TileConfig {
            load: nothing,
            release: nothing,
        },
    }
}

unsafe fn nothing() {}

/// The slices of a float; those past `slices` are left out.
pub(crate) fn split(x: f32, slices: usize) -> [u16; MAX_SLICES] {
    let mut out = [0; MAX_SLICES];
    if !x.is_finite() {
        let quiet = if x.is_nan() { 0x40 } else { 0 };
        out[0] = (x.to_bits() >> 16) as u16 | quiet;
        return out;
    }
    let mut rest = x;
    for slice in out.iter_mut().take(slices) {
        let bits = rest.to_bits();
        let rounded = bits + 0x8000;
        // Floats that would round to infinity are truncated instead.
        let finite = f32::from_bits(rounded).is_finite();
        *slice = ((if finite { rounded } else { bits }) >> 16) as u16;
        rest -= bf16(*slice);
    }
    out
}

/// Writes the slices of a float, `distance` elements apart.
unsafe fn put(x: f32, slices: usize, first: *mut u16, distance: usize) {
    for (p, slice) in split(x, slices).iter().enumerate().take(slices) {
        *first.add(p * distance) = *slice;
    }
}

/// An element of rows in the caller's storage.
pub(crate) unsafe fn float(rows: &FloatRows, row: usize, column: usize) -> f32 {
    let at = rows.from(row, column).ptr;
    match rows.precision {
        Precision::F16 => at.cast::<half::f16>().read_unaligned().to_f32(),
        Precision::Bf16 => at.cast::<half::bf16>().read_unaligned().to_f32(),
        _ => at.cast::<f32>().read_unaligned(),
    }
}

/// Lines of terms to pack, which are rows or columns; lines and terms past the end are 0.
struct Source {
    rows: FloatRows,
    lines: usize,
    terms: usize,
    columns: bool,
}

impl Source {
    fn rows(rows: FloatRows, n: usize, d: usize) -> Self {
        Self {
            rows,
            lines: n,
            terms: d,
            columns: false,
        }
    }

    fn columns(rows: FloatRows, n: usize, d: usize) -> Self {
        Self {
            rows,
            lines: d,
            terms: n,
            columns: true,
        }
    }

    /// Packs `lines` lines; `at` says where the slices of a term begin, the others follow `distance` elements apart.
    unsafe fn pack(
        &self,
        slices: usize,
        lines: usize,
        out: *mut u16,
        distance: usize,
        at: impl Fn(usize, usize) -> usize,
    ) -> bool {
        let mut finite = true;
        for i in 0..lines {
            for t in 0..self.terms.next_multiple_of(STEP) {
                let x = match i < self.lines && t < self.terms {
                    true if self.columns => float(&self.rows, t, i),
                    true => float(&self.rows, i, t),
                    false => 0.0,
                };
                finite &= x.is_finite();
                put(x, slices, out.add(at(i, t)), distance);
            }
        }
        finite
    }

    /// Rows `len` elements apart.
    unsafe fn pack_a<const MR: usize>(&self, slices: usize, len: usize, out: *mut u16) -> bool {
        self.pack(slices, MR, out, STEP, |i, t| i * len + at_a(t, slices))
    }

    unsafe fn pack_b<const NR: usize>(&self, slices: usize, out: *mut u16) -> bool {
        let lines = self.lines.next_multiple_of(NR);
        let at = |c, t| at_b(t, c, self.terms, slices, NR);
        self.pack(slices, lines, out, STEP * NR, at)
    }
}

unsafe fn pack_rows<const MR: usize>(
    slices: usize,
    rows: FloatRows,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    Source::rows(rows, n, d).pack_a::<MR>(slices, row_len(d, slices), out)
}

unsafe fn pack_transposed<const MR: usize>(
    slices: usize,
    rows: FloatRows,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    Source::columns(rows, n, d).pack_a::<MR>(slices, long_row_len(n, slices), out)
}

unsafe fn pack_columns<const NR: usize>(
    slices: usize,
    rows: FloatRows,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    Source::rows(rows, n, d).pack_b::<NR>(slices, out)
}

unsafe fn pack_panels<const NR: usize>(
    slices: usize,
    rows: FloatRows,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    Source::columns(rows, n, d).pack_b::<NR>(slices, out)
}

unsafe fn product<const MR: usize, const NR: usize>(
    terms: Bf16Products,
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
    let (of_a, of_b) = (terms.slices_of_a(), terms.slices_of_b());
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
                    // As the matrix unit adds: the two sums of a step's halves, then their sum.
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

unsafe fn softmax_bf16(
    slices: usize,
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
    debug_assert!(n <= BLOCK_N);
    for i in 0..rows {
        for t in 0..n.next_multiple_of(STEP) {
            let x = if t < n {
                weights[i * SCORE_LD + t]
            } else {
                0.0
            };
            put(x, slices, p.add(i * ldp + at_a(t, slices)), STEP);
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

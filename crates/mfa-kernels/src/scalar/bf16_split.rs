//! Products of parts: see [`crate::bf16_split`].

use super::softmax;
use crate::Precision;
use crate::bf16_split::{
    FloatRows, MAX_PARTS, PartKernels, STEP, Terms, Unit, at_a, at_b, bf16, long_row_len, row_len,
};
use crate::{KB, MAX_MR, RowState, SCORE_LD};

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
        unit: Unit {
            keep: nothing,
            release: nothing,
        },
    }
}

unsafe fn nothing() {}

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

/// Writes the parts of a float, `distance` elements apart.
unsafe fn put(x: f32, parts: usize, first: *mut u16, distance: usize) {
    for (p, part) in split(x, parts).iter().enumerate().take(parts) {
        *first.add(p * distance) = *part;
    }
}

/// An element of rows as they lie.
pub(crate) unsafe fn float(rows: &FloatRows, row: usize, column: usize) -> f32 {
    let at = rows.from(row, column).ptr;
    match rows.precision {
        Precision::F16 => at.cast::<half::f16>().read_unaligned().to_f32(),
        Precision::Bf16 => at.cast::<half::bf16>().read_unaligned().to_f32(),
        _ => at.cast::<f32>().read_unaligned(),
    }
}

/// What is packed: lines of terms, which are rows or columns; lines and terms past the end are 0.
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

    /// Packs `lines` lines; `at` says where the parts of a term begin, the others follow `distance` elements apart.
    unsafe fn pack(
        &self,
        parts: usize,
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
                put(x, parts, out.add(at(i, t)), distance);
            }
        }
        finite
    }

    /// Rows `len` elements apart.
    unsafe fn pack_a<const MR: usize>(&self, parts: usize, len: usize, out: *mut u16) -> bool {
        self.pack(parts, MR, out, STEP, |i, t| i * len + at_a(t, parts))
    }

    unsafe fn pack_b<const NR: usize>(&self, parts: usize, out: *mut u16) -> bool {
        let lines = self.lines.next_multiple_of(NR);
        let at = |c, t| at_b(t, c, self.terms, parts, NR);
        self.pack(parts, lines, out, STEP * NR, at)
    }
}

unsafe fn pack_rows<const MR: usize>(
    parts: usize,
    rows: FloatRows,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    Source::rows(rows, n, d).pack_a::<MR>(parts, row_len(d, parts), out)
}

unsafe fn pack_transposed<const MR: usize>(
    parts: usize,
    rows: FloatRows,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    Source::columns(rows, n, d).pack_a::<MR>(parts, long_row_len(n, parts), out)
}

unsafe fn pack_columns<const NR: usize>(
    parts: usize,
    rows: FloatRows,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    Source::rows(rows, n, d).pack_b::<NR>(parts, out)
}

unsafe fn pack_panels<const NR: usize>(
    parts: usize,
    rows: FloatRows,
    n: usize,
    d: usize,
    out: *mut u16,
) -> bool {
    Source::columns(rows, n, d).pack_b::<NR>(parts, out)
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
            put(x, parts, p.add(i * ldp + at_a(t, parts)), STEP);
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

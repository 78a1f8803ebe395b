//! A strip on products of parts: see [`mfa_kernels::bf16_split`].

use crate::forward::pack::Block;
use crate::forward::prefill::Tile;
use crate::operands::arithmetic::Values;
use mfa_kernels::bf16_split::{
    Bf16Kernels, Bf16Products, FloatRows, STEP, exact_dot, long_row_len, panel_len, restore,
    row_len,
};
use mfa_kernels::{BLOCK_N, RowState, SCORE_LD};

/// How scores come to be in base 2.
pub(super) struct ScaleSplit {
    /// What Q is multiplied by while it is packed.
    pub in_q: f32,
    /// What the scores are multiplied by in softmax: positive.
    pub on_s: f32,
}

impl Tile<'_> {
    fn bf16(&self) -> &Bf16Kernels {
        // The plan chooses products of parts only where there are kernels for them.
        match &self.kernels.bf16 {
            Some(parts) => parts,
            None => unreachable!("a plan of parts without kernels of parts"),
        }
    }

    /// Q in few parts keeps its bits only if it is not multiplied; no step of softmax but that of parts multiplies.
    pub(super) fn factor(&self) -> ScaleSplit {
        let factor = self.problem.options.factor();
        let (in_q, on_s) = match self.plan.values {
            Values::Bf16(_) if factor == 0.0 => (factor, 1.0),
            Values::Bf16(_) => (factor.signum(), factor.abs()),
            _ => (factor, 1.0),
        };
        ScaleSplit { in_q, on_s }
    }

    /// Packs `n` rows of Q; returns whether they are finite.
    pub(super) unsafe fn pack_q_bf16(
        &self,
        terms: Bf16Products,
        rows: FloatRows,
        strip: usize,
        n: usize,
    ) -> bool {
        let (d, count) = (self.problem.d, terms.slices_of_a());
        // SAFETY: `n` rows; the strip is inside Q.
        unsafe {
            let out = self.scratch.q.cast::<u16>().add(strip * row_len(d, count));
            (self.bf16().pack_rows)(count, rows, n, d, out)
        }
    }

    /// Scores of a strip and `panels` panels of keys from `skipped` on.
    pub(super) unsafe fn scores_bf16(
        &self,
        terms: Bf16Products,
        strip: usize,
        skipped: usize,
        rows: usize,
        panels: usize,
        block: &Block,
    ) {
        let (scratch, d, nr) = (self.scratch, self.problem.d, self.kernels.nr);
        let lda = row_len(d, terms.slices_of_a());
        let panel = panel_len(d, terms.slices_of_b(), nr);
        // SAFETY: the strip's rows and the block's keys are inside the scratch.
        unsafe {
            let q = scratch.q.cast::<u16>().add(strip * lda).cast_const();
            let k = scratch
                .k
                .cast::<u16>()
                .add(skipped / nr * panel)
                .cast_const();
            let (steps, s) = (d.div_ceil(STEP), scratch.s);
            (self.bf16().product)(
                terms, q, lda, k, panel, steps, rows, panels, false, s, SCORE_LD,
            );
            if block.finite_scores {
                return;
            }
            // Infinity times the parts of a float may be NaN where infinity times the float is not.
            for r in 0..rows {
                for j in 0..panels * nr {
                    let s = s.add(r * SCORE_LD + j);
                    if (*s).is_nan() {
                        *s = exact_dot(q.add(r * lda), k, j, d, terms, nr);
                    }
                }
            }
        }
    }

    /// Multiplies a strip of scores.
    pub(super) unsafe fn multiply(&self, scale: f32, rows: usize, panels: usize) {
        let (scratch, columns) = (self.scratch, panels * self.kernels.nr);
        // SAFETY: a strip of scores, and as many factors.
        unsafe {
            std::slice::from_raw_parts_mut(scratch.alpha, rows).fill(scale);
            (self.bf16().rescale)(scratch.alpha, rows, columns, scratch.s, SCORE_LD);
        }
    }

    /// Softmax of the strip's scores, and their product with V.
    pub(super) unsafe fn values_bf16(
        &self,
        terms: Bf16Products,
        skipped: usize,
        block: &Block,
        rows: usize,
        n: usize,
        state: RowState,
        scale: f32,
        o: *mut f32,
        ldo: usize,
    ) {
        let (bf16, scratch, nr) = (self.bf16(), self.scratch, self.kernels.nr);
        let (of_p, of_v) = (terms.slices_of_a(), terms.slices_of_b());
        let (ldp, panel) = (long_row_len(n, of_p), panel_len(block.n, of_v, nr));
        let p: *mut u16 = scratch.p.cast();
        // SAFETY: `n` keys of the block from `skipped` on, a strip of O.
        unsafe {
            (bf16.softmax)(of_p, scratch.s, rows, n, state, scale, p, ldp);
            (bf16.rescale)(state.alpha, rows, ldo, o, ldo);
            let v = scratch.v.cast::<u16>().add(row_len(skipped, of_v) * nr);
            let (steps, panels) = (n.div_ceil(STEP), ldo / nr);
            (bf16.product)(terms, p, ldp, v, panel, steps, rows, panels, true, o, ldo);
        }
    }

    /// The product with a V that holds NaN or infinities: parts would make NaN of infinities, and 0 times NaN must not
    /// reach the rows that do not see that key. Slow, and rare.
    pub(super) unsafe fn values_non_finite(
        &self,
        terms: Bf16Products,
        skipped: usize,
        block: &Block,
        rows: usize,
        n: usize,
        o: *mut f32,
        ldo: usize,
    ) {
        let (scratch, nr, count) = (self.scratch, self.kernels.nr, terms.slices_of_b());
        // SAFETY: as for `values_bf16`.
        unsafe {
            let v = scratch.v.cast::<u16>().add(row_len(skipped, count) * nr);
            for c in 0..self.problem.dv {
                let mut column = [0f32; BLOCK_N];
                for (j, x) in column.iter_mut().enumerate().take(n) {
                    *x = restore(v, j, c, block.n, count, nr);
                }
                for r in 0..rows {
                    let (s, masked) =
                        (scratch.s.add(r * SCORE_LD), scratch.masked.add(r * BLOCK_N));
                    let at = o.add(r * ldo + c);
                    let mut sum = *scratch.alpha.add(r) * *at;
                    for (j, x) in column.iter().enumerate().take(n) {
                        if *masked.add(j) == 0 {
                            sum += *s.add(j) * x;
                        }
                    }
                    *at = sum;
                }
            }
        }
    }
}

//! A strip on products of BF16 slices: see [`mfa_kernels::bf16_split`].

use crate::forward::masked_keys::MaskedKeys;
use crate::forward::scratch::Prefill;
use crate::forward::strip::StripBlock;
use crate::operands::arithmetic::ValueArithmetic;
use mfa_kernels::bf16_split::{
    Bf16Kernels, Bf16Products, STEP, exact_dot, long_row_len, panel_len, restore, row_len,
};
use mfa_kernels::{BLOCK_N, SCORE_LD};

impl Prefill<'_> {
    /// Computes the strip's scores; returns the factor that they still lack to be in base 2.
    #[inline(always)]
    pub(super) unsafe fn scores_bf16(
        &self,
        products: Bf16Products,
        bf16: &Bf16Kernels,
        at: &StripBlock<'_>,
    ) -> f32 {
        let (scratch, d, nr) = (self.scratch, self.problem.d, self.kernels.nr);
        let (rows, panels) = (at.n_rows, self.key_panels(at));
        let lda = row_len(d, products.slices_of_a());
        let panel = panel_len(d, products.slices_of_b(), nr);
        let scale = self.plan.scale.on_s;
        // SAFETY: the strip's rows and the block's keys are inside the scratch.
        unsafe {
            let q = scratch.q.cast::<u16>().add(at.strip * lda).cast_const();
            let k = scratch.k.cast::<u16>().add(at.skipped / nr * panel);
            let (steps, s) = (d.div_ceil(STEP), scratch.s);
            (bf16.product)(
                products, q, lda, k, panel, steps, rows, panels, false, s, SCORE_LD,
            );
            if !at.block.finite_scores {
                // Infinity times the slices of a float may be NaN where infinity times the float is not.
                for r in 0..rows {
                    for j in 0..panels * nr {
                        let s = s.add(r * SCORE_LD + j);
                        if (*s).is_nan() {
                            *s = exact_dot(q.add(r * lda), k, j, d, products, nr);
                        }
                    }
                }
            }
            let needs_base2 = self.score_mod.needs_score_pass || self.is_non_finite(at);
            if scale == 1.0 || !needs_base2 {
                return scale;
            }
            std::slice::from_raw_parts_mut(scratch.alpha, rows).fill(scale);
            (bf16.rescale)(scratch.alpha, rows, panels * nr, s, SCORE_LD);
        }
        1.0
    }

    /// Whether P V must go without slices, because V holds NaN or infinities.
    fn is_non_finite(&self, at: &StripBlock<'_>) -> bool {
        !at.block.finite && matches!(self.plan.values, ValueArithmetic::Bf16(..))
    }

    /// Takes the softmax of `scale` times the strip's scores, and adds its product with V to O.
    #[inline(always)]
    pub(super) unsafe fn values_bf16(
        &self,
        products: Bf16Products,
        bf16: &Bf16Kernels,
        at: &StripBlock<'_>,
        scale: f32,
        masked: Option<MaskedKeys<1>>,
    ) {
        if !at.block.finite {
            // SAFETY: as for this function.
            return unsafe { self.values_non_finite(products, at, masked) };
        }
        let (scratch, nr, rows, n) = (self.scratch, self.kernels.nr, at.n_rows, at.n);
        let (of_p, of_v) = (products.slices_of_a(), products.slices_of_b());
        let (ldp, panel) = (long_row_len(n, of_p), panel_len(at.block.n, of_v, nr));
        let (o, ldo, p): (_, _, *mut u16) = (at.o, at.ldo, scratch.p.cast());
        // SAFETY: `n` keys of the block from `skipped` on, a strip of O.
        unsafe {
            (bf16.softmax)(of_p, scratch.s, rows, n, at.state, scale, p, ldp);
            (bf16.rescale)(scratch.alpha, rows, ldo, o, ldo);
            let v = scratch.v.cast::<u16>().add(row_len(at.skipped, of_v) * nr);
            let (steps, panels) = (n.div_ceil(STEP), ldo / nr);
            (bf16.product)(
                products, p, ldp, v, panel, steps, rows, panels, true, o, ldo,
            );
        }
    }

    /// The same with a V that holds NaN or infinities, on scores in base 2: slices would make NaN of infinities, and 0 times
    /// NaN must not reach the rows that do not attend to that key. Slow, and rare.
    #[cold]
    unsafe fn values_non_finite(
        &self,
        products: Bf16Products,
        at: &StripBlock<'_>,
        masked: Option<MaskedKeys<1>>,
    ) {
        let (scratch, nr, count) = (self.scratch, self.kernels.nr, products.slices_of_b());
        let (rows, n) = (at.n_rows, at.n);
        // SAFETY: as for `values_bf16`.
        unsafe {
            let masked = masked.unwrap_or_else(|| {
                let masked = self.masked_keys();
                masked.clear(self.kernels.mr);
                masked
            });
            (self.kernels.softmax_f32)(scratch.s, rows, n, at.state);
            let v = scratch.v.cast::<u16>().add(row_len(at.skipped, count) * nr);
            for c in 0..self.problem.dv {
                let mut column = [0f32; BLOCK_N];
                for (j, x) in column.iter_mut().enumerate().take(n) {
                    *x = restore(v, j, c, at.block.n, count, nr);
                }
                for r in 0..rows {
                    let s = scratch.s.add(r * SCORE_LD);
                    let o = at.o.add(r * at.ldo + c);
                    let mut sum = *scratch.alpha.add(r) * *o;
                    for (j, x) in column.iter().enumerate().take(n) {
                        if masked.attends(r, j) {
                            sum += *s.add(j) * x;
                        }
                    }
                    *o = sum;
                }
            }
        }
    }
}

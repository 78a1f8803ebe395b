//! Output tiles of 8-bit P.

use std::arch::asm;
use std::arch::x86_64::*;

use super::config::Tiles;
use super::{GROUPS, NR, ROWS, TILE};
use crate::kernels::P8_LD;

/// Sums of a panel, in rows of `NR`.
#[repr(align(64))]
pub(super) struct Sums(pub(super) [i32; ROWS * NR]);

/// Sums of one or two panels, stored one after the other: all steps of 64 keys, then the rest.
macro_rules! sums {
    ($name:ident, $(($sum:literal, $panel:literal, $at:literal, $to:literal)),+) => {
        #[inline(always)]
        unsafe fn $name(p: *const u8, v: *const i8, panel: usize, groups: usize, out: &mut [Sums; 2]) {
            asm!(
                $(concat!("tilezero tmm", $sum),)+
                "test {steps}, {steps}",
                "jz 3f",
                "2:",
                "tileloadd tmm4, [{p} + {ldp}]",
                $(
                    concat!("tileloadd tmm5, [{", $panel, "} + {ldv} + ", $at, "]"),
                    concat!("tdpbusd tmm", $sum, ", tmm4, tmm5"),
                )+
                "add {p}, {tile}",
                "add {v0}, {block}",
                "add {v1}, {block}",
                "dec {steps}",
                "jnz 2b",
                "3:",
                "test {rest}, {rest}",
                "jz 4f",
                "tileloadd tmm6, [{p} + {ldp}]",
                $(
                    concat!("tileloadd tmm7, [{", $panel, "} + {ldv} + ", $at, "]"),
                    concat!("tdpbusd tmm", $sum, ", tmm6, tmm7"),
                )+
                "4:",
                $(concat!("tilestored [{out} + {ldv} + ", $to, "], tmm", $sum),)+
                "/* {half} */",
                p = inout(reg) p => _,
                v0 = inout(reg) v => _,
                v1 = inout(reg) v.wrapping_add(panel) => _,
                out = in(reg) out,
                ldp = in(reg) P8_LD,
                ldv = in(reg) 4 * NR,
                steps = inout(reg) groups / GROUPS => _,
                rest = in(reg) groups % GROUPS,
                tile = const TILE,
                block = const GROUPS * 4 * NR,
                half = const size_of::<Sums>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    };
}

sums!(
    two_panels,
    (0, "v0", 0, "0"),
    (1, "v0", 64, "64"),
    (2, "v1", 0, "{half}"),
    (3, "v1", 64, "{half} + 64")
);
sums!(one_panel, (0, "v0", 0, "0"), (1, "v0", 64, "64"));

/// See [`crate::kernels::PvU8`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pv_u8(
    p: *const u8,
    v: *const i8,
    packed: usize,
    n: usize,
    rows: usize,
    panels: usize,
    alpha: *const f32,
    p_scale: *const f32,
    p_sum: *const i32,
    v_zero: i32,
    o: *mut f32,
    ldo: usize,
) {
    let groups = n.div_ceil(4);
    let bytes = NR * packed.next_multiple_of(4);
    let tiles = Tiles::new(groups);
    let mut out = [const { Sums([0; ROWS * NR]) }; 2];
    let mut done = 0;
    while done < panels {
        let (v, at) = (v.add(done * bytes), o.add(done * NR));
        let count = 2.min(panels - done);
        for i in 0..rows {
            let tile = i % ROWS;
            if tile == 0 {
                let p = p.add(i * P8_LD);
                if count == 2 {
                    two_panels(p, v, bytes, groups, &mut out);
                } else {
                    one_panel(p, v, bytes, groups, &mut out);
                }
            }
            let less = _mm512_set1_epi32(v_zero * *p_sum.add(i));
            let alpha = _mm512_set1_ps(*alpha.add(i));
            let scale = _mm512_set1_ps(*p_scale.add(i));
            for (panel, sums) in out.iter().enumerate().take(count) {
                for c in (0..NR).step_by(16) {
                    let sum = _mm512_load_si512(sums.0.as_ptr().add(tile * NR + c).cast());
                    let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, less));
                    let o = at.add(i * ldo + panel * NR + c);
                    let old = _mm512_mul_ps(alpha, _mm512_loadu_ps(o));
                    _mm512_storeu_ps(o, _mm512_fmadd_ps(sum, scale, old));
                }
            }
        }
        done += count;
    }
    drop(tiles);
}

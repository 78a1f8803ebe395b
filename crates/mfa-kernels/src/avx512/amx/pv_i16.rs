//! Output tiles of 15-bit P.

use std::arch::asm;
use std::arch::x86_64::*;

use super::pv_u8::Sums;
use super::shape::{EXACT_GROUP, GROUPS, HIGH, MR, NR, ROWS, TILE};
use super::tile_state::Tiles;
use crate::{BLOCK_N, P16_LD};

/// The offsets, in bytes, of a group's zero points, and of the flag of the block.
const ZEROS: usize = 4 * NR;
const FLAG: usize = ZEROS + 8;

/// See [`crate::PackVI16`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn pack_v_i16(
    rows: *const i8,
    ld: usize,
    n: usize,
    d: usize,
    zero: *const i32,
    out: *mut i16,
) {
    let out = out.cast::<u8>();
    let groups = n.div_ceil(4);
    let zero_of = |j: usize| {
        if zero.is_null() || j >= n {
            0
        } else {
            *zero.add(j)
        }
    };
    let any = (0..n).any(|j| zero_of(j) != 0);
    for g in 0..groups {
        let keys = 4.min(n - 4 * g);
        let zeros = [0, 1, 2, 3].map(|e| zero_of(4 * g + e) as i16);
        for c in (0..d).step_by(NR) {
            let mask = (u64::MAX >> (64 - (d - c).min(NR))) as u32;
            let mut x = [_mm256_setzero_si256(); 4];
            for (e, x) in x.iter_mut().enumerate().take(keys) {
                *x = _mm256_maskz_loadu_epi8(mask, rows.add((4 * g + e) * ld + c));
            }
            // The bytes of a column's four keys side by side. Unpacking works within lanes of 16 columns.
            let low = (
                _mm256_unpacklo_epi8(x[0], x[1]),
                _mm256_unpacklo_epi8(x[2], x[3]),
            );
            let high = (
                _mm256_unpackhi_epi8(x[0], x[1]),
                _mm256_unpackhi_epi8(x[2], x[3]),
            );
            let quads = [
                _mm256_unpacklo_epi16(low.0, low.1),
                _mm256_unpackhi_epi16(low.0, low.1),
                _mm256_unpacklo_epi16(high.0, high.1),
                _mm256_unpackhi_epi16(high.0, high.1),
            ];
            let to = out.add((c / NR * groups + g) * EXACT_GROUP);
            let store = |at: usize, x: __m256i| _mm256_storeu_si256(to.add(at).cast(), x);
            store(0, _mm256_permute2x128_si256::<0x20>(quads[0], quads[1]));
            store(32, _mm256_permute2x128_si256::<0x20>(quads[2], quads[3]));
            store(64, _mm256_permute2x128_si256::<0x31>(quads[0], quads[1]));
            store(96, _mm256_permute2x128_si256::<0x31>(quads[2], quads[3]));
            to.add(ZEROS).cast::<[i16; 4]>().write_unaligned(zeros);
            *to.add(FLAG) = u8::from(any);
        }
    }
}

/// One step: both halves of P times both tiles of columns; the high bytes have P's sign. Four sums in flight hide the
/// latency of each.
macro_rules! step {
    ($a:literal, $b:literal) => {
        concat!(
            "tileloadd ",
            $a,
            ", [{p} + {ldp}]\n",
            "tileloadd ",
            $b,
            ", [{v} + {ldv}]\n",
            "tdpbusd tmm0, ",
            $a,
            ", ",
            $b,
            "\n",
            "tileloadd ",
            $b,
            ", [{v} + {ldv} + 64]\n",
            "tdpbusd tmm1, ",
            $a,
            ", ",
            $b,
            "\n",
            "tileloadd ",
            $a,
            ", [{p} + {ldp} + {high}]\n",
            "tdpbssd tmm3, ",
            $a,
            ", ",
            $b,
            "\n",
            "tileloadd ",
            $b,
            ", [{v} + {ldv}]\n",
            "tdpbssd tmm2, ",
            $a,
            ", ",
            $b,
        )
    };
}

/// The sums of a panel with P's low and high bytes: all steps of 64 keys, then the rest.
#[inline(always)]
unsafe fn sums(p: *const u8, v: *const u8, groups: usize, out: &mut [Sums; 2]) {
    asm!(
        "tilezero tmm0",
        "tilezero tmm1",
        "tilezero tmm2",
        "tilezero tmm3",
        "test {steps}, {steps}",
        "jz 3f",
        "2:",
        step!("tmm4", "tmm5"),
        "add {p}, {tile}",
        "add {v}, {block}",
        "dec {steps}",
        "jnz 2b",
        "3:",
        "test {rest}, {rest}",
        "jz 4f",
        step!("tmm6", "tmm7"),
        "4:",
        "tilestored [{out} + {ldo}], tmm0",
        "tilestored [{out} + {ldo} + 64], tmm1",
        "tilestored [{out} + {ldo} + {half}], tmm2",
        "tilestored [{out} + {ldo} + {half} + 64], tmm3",
        p = inout(reg) p => _,
        v = inout(reg) v => _,
        out = in(reg) out,
        ldp = in(reg) 2 * P16_LD,
        ldv = in(reg) EXACT_GROUP,
        ldo = in(reg) 4 * NR,
        steps = inout(reg) groups / GROUPS => _,
        rest = in(reg) groups % GROUPS,
        high = const HIGH,
        tile = const TILE,
        block = const GROUPS * EXACT_GROUP,
        half = const size_of::<Sums>(),
        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        options(nostack),
    );
}

/// See [`crate::PvI16`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn pv_i16(
    p: *const i16,
    v: *const i16,
    packed: usize,
    n: usize,
    rows: usize,
    panels: usize,
    alpha: *const f32,
    p_scale: *const f32,
    col_scale: *const f32,
    o: *mut f32,
    ldo: usize,
) {
    let (p, v) = (p.cast::<u8>(), v.cast::<u8>());
    let groups = n.div_ceil(4);
    let less = if *v.add(FLAG) == 0 {
        [0; MR]
    } else {
        zero_sums(p, v, n, rows)
    };
    let tiles = Tiles::new(groups);
    let mut out = [const { Sums([0; ROWS * NR]) }; 2];
    for panel in 0..panels {
        let v = v.add(panel * packed.div_ceil(4) * EXACT_GROUP);
        for i in 0..rows {
            let tile = i % ROWS;
            if tile == 0 {
                sums(p.add(i * 2 * P16_LD), v, groups, &mut out);
            }
            let less = _mm512_set1_epi32(less[i]);
            let alpha = _mm512_set1_ps(*alpha.add(i));
            let row_scale = _mm512_set1_ps(*p_scale.add(i));
            for c in (0..NR).step_by(16) {
                let sum =
                    |half: usize| _mm512_load_si512(out[half].0.as_ptr().add(tile * NR + c).cast());
                let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(sum(1)), sum(0));
                let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, less));
                let mut scale = row_scale;
                if !col_scale.is_null() {
                    let columns = _mm512_loadu_ps(col_scale.add(panel * NR + c));
                    scale = _mm512_mul_ps(scale, columns);
                }
                let o = o.add(i * ldo + panel * NR + c);
                let old = _mm512_mul_ps(alpha, _mm512_loadu_ps(o));
                _mm512_storeu_ps(o, _mm512_fmadd_ps(sum, scale, old));
            }
        }
    }
    drop(tiles);
}

/// P times the zero points of the keys, per row.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn zero_sums(p: *const u8, v: *const u8, n: usize, rows: usize) -> [i32; MR] {
    // Past the end P is zero, up to a whole vector.
    let mut zeros = [[0i16; 4]; BLOCK_N / 4];
    for (g, zeros) in zeros.iter_mut().enumerate().take(n.div_ceil(4)) {
        let group = v.add(g * EXACT_GROUP + ZEROS);
        *zeros = group.cast::<[i16; 4]>().read_unaligned();
    }
    let mut sums = [0; MR];
    for (i, sum) in sums.iter_mut().enumerate().take(rows) {
        let row = p.add(i * 2 * P16_LD);
        let mut total = _mm512_setzero_si512();
        for j in (0..n).step_by(32) {
            let low = _mm512_cvtepu8_epi16(_mm256_loadu_si256(row.add(j).cast()));
            let high = _mm512_cvtepi8_epi16(_mm256_loadu_si256(row.add(HIGH + j).cast()));
            let p = _mm512_or_si512(_mm512_slli_epi16::<8>(high), low);
            let zeros = _mm512_loadu_si512(zeros.as_ptr().cast::<i16>().add(j).cast());
            total = _mm512_dpwssd_epi32(total, p, zeros);
        }
        *sum = _mm512_reduce_add_epi32(total);
    }
    sums
}

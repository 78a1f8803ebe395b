//! Integer tiles, with exact sums (eq. 49, 51 of docs/math.md).

use std::mem::MaybeUninit;

use crate::simd::{Dot4, Simd};
use crate::{BLOCK_N, MAX_MR, P8_LD, P16_LD, SCORE_LD, ScoreScales};

/// Groups of four terms in a product of bytes, at most: the head dimension, or the keys of a block.
const MAX_GROUPS: usize = if BLOCK_N > 512 { BLOCK_N / 4 } else { 512 / 4 };

/// The rows of a product of bytes, and how far apart they and their groups of four are.
#[derive(Clone, Copy)]
struct Rows {
    a: *const u8,
    row: usize,
    group: usize,
}

/// Rows of bytes, each group of four widened to the pairs of i16 that [`Simd::split_i8`] leaves of the other operand.
/// A half of the buffer for each of the two; elements past the rows and groups in use are not written.
struct Widened([MaybeUninit<i32>; 2 * WIDENED]);

/// Pairs of a half.
const WIDENED: usize = MAX_GROUPS * MAX_MR;

impl Widened {
    #[inline(always)]
    fn new() -> Self {
        Widened([MaybeUninit::uninit(); 2 * WIDENED])
    }

    /// The rows of a strip of Q, all `MR` of them: `[2][groups][MR]`, the halves of [`crate::Kernels::k_i8_bytes`] one after
    /// the other.
    #[inline(always)]
    unsafe fn fill_q<const MR: usize>(&mut self, q: *const u8, groups: usize) -> *const i32 {
        let out = self.0.as_mut_ptr().cast::<i32>();
        widen(q, groups * MR, out, out.add(groups * MR));
        out
    }

    /// Rows of P. In the order of the source, so that compilers see vectors in the loops.
    #[inline(always)]
    unsafe fn fill_p<const R: usize>(&mut self, strip: Rows, groups: usize) -> *const i32 {
        let a = self.0.as_mut_ptr().cast::<i32>();
        for i in 0..R {
            let out = a.add(i * MAX_GROUPS);
            widen(strip.a.add(i * strip.row), groups, out, out.add(WIDENED));
        }
        a
    }
}

/// Widens `n` groups.
#[inline(always)]
unsafe fn widen(source: *const u8, n: usize, even: *mut i32, odd: *mut i32) {
    for g in 0..n {
        let x = source.add(4 * g).cast::<u32>().read_unaligned();
        *even.add(g) = (x & 0x00ff_00ff) as i32;
        *odd.add(g) = ((x >> 8) & 0x00ff_00ff) as i32;
    }
}

/// Adds `R` rows of u8 times `P` panels of i8 to `acc`.
#[inline(always)]
unsafe fn product4<S: Simd, const R: usize, const NV: usize, const P: usize>(
    mut acc: [[[S::I; NV]; P]; R],
    strip: Rows,
    b: *const i8,
    panel: usize,
    groups: usize,
) -> [[[S::I; NV]; P]; R] {
    let mut t = 0;
    while t + UNROLL <= groups {
        for u in 0..UNROLL {
            group4::<S, R, NV, P>(&mut acc, strip, b, panel, t + u);
        }
        t += UNROLL;
    }
    while t < groups {
        group4::<S, R, NV, P>(&mut acc, strip, b, panel, t);
        t += 1;
    }
    acc
}

const UNROLL: usize = 4;

#[inline(always)]
unsafe fn group4<S: Simd, const R: usize, const NV: usize, const P: usize>(
    acc: &mut [[[S::I; NV]; P]; R],
    strip: Rows,
    b: *const i8,
    panel: usize,
    t: usize,
) {
    let mut vectors = [[S::splat_i(0); NV]; P];
    for (p, vectors) in vectors.iter_mut().enumerate() {
        for (v, vector) in vectors.iter_mut().enumerate() {
            *vector = S::load_i(b.add(p * panel).cast::<i32>().add((t * NV + v) * S::LANES));
        }
    }
    for (i, acc) in acc.iter_mut().enumerate() {
        let a = strip.a.add(i * strip.row + t * strip.group);
        let a = S::splat_i(a.cast::<i32>().read_unaligned());
        for p in 0..P {
            for v in 0..NV {
                acc[p][v] = S::dot4(acc[p][v], a, vectors[p][v]);
            }
        }
    }
}

/// Adds `R` of `MR` rows of u8 times `P` panels of i8 to `acc`, both widened to pairs of i16.
#[inline(always)]
unsafe fn product_wide<
    S: Simd,
    const MR: usize,
    const R: usize,
    const NV: usize,
    const P: usize,
>(
    mut acc: [[[S::I; NV]; P]; R],
    a: *const i32,
    b: *const i32,
    panel: usize,
    pairs: usize,
) -> [[[S::I; NV]; P]; R] {
    for t in 0..pairs {
        let mut vectors = [[S::splat_i(0); NV]; P];
        for (p, vectors) in vectors.iter_mut().enumerate() {
            for (v, vector) in vectors.iter_mut().enumerate() {
                *vector = S::load_i(b.add(p * panel + (t * NV + v) * S::LANES));
            }
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            let a = S::splat_i(*a.add(t * MR + i));
            for p in 0..P {
                for v in 0..NV {
                    acc[p][v] = S::dot2(acc[p][v], a, vectors[p][v]);
                }
            }
        }
    }
    acc
}

/// As [`product4`] where there is no instruction for four products: rows come widened, bytes of the panel are split. The halves
/// have a loop each, for compilers add up their products first, where both are at hand, and then lack registers.
#[inline(always)]
unsafe fn product_split<S: Simd, const R: usize, const NV: usize, const P: usize>(
    mut acc: [[[S::I; NV]; P]; R],
    rows: *const i32,
    b: *const i8,
    panel: usize,
    groups: usize,
) -> [[[S::I; NV]; P]; R] {
    for half in 0..2 {
        let a = rows.add(half * WIDENED);
        for t in 0..groups {
            let mut vectors = [[S::splat_i(0); NV]; P];
            for (p, vectors) in vectors.iter_mut().enumerate() {
                for (v, vector) in vectors.iter_mut().enumerate() {
                    let b = b.add(p * panel).cast::<i32>().add((t * NV + v) * S::LANES);
                    *vector = S::split_i8(S::load_i(b))[half];
                }
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let a = S::splat_i(*a.add(i * MAX_GROUPS + t));
                for p in 0..P {
                    for v in 0..NV {
                        acc[p][v] = S::dot2(acc[p][v], a, vectors[p][v]);
                    }
                }
            }
        }
    }
    acc
}

/// The corrections of the keys of a block: the bias alone, also scales, or also zero points.
const BARE: usize = 0;
const SCALED: usize = 1;
const ZEROED: usize = 2;

/// Scales and zero points of keys that have none, where no tile leaves them out.
static ONES: [f32; BLOCK_N] = [1.0; BLOCK_N];
static ZEROS: [f32; BLOCK_N] = [0.0; BLOCK_N];

/// See [`crate::QkI8`], for `rows <= R` rows.
#[inline(always)]
pub(crate) unsafe fn qk_i8<
    S: Simd,
    const MR: usize,
    const R: usize,
    const NV: usize,
    const P: usize,
>(
    q: *const u8,
    k: *const i8,
    d4: usize,
    rows: usize,
    panels: usize,
    scales: &ScoreScales,
    s: *mut f32,
) {
    let strip = Rows {
        a: q,
        row: 4,
        group: MR * 4,
    };
    let mut buffer = Widened::new();
    let widened = if S::DOT4 != Dot4::None {
        std::ptr::null()
    } else {
        buffer.fill_q::<MR>(q, d4)
    };
    let mut scales = *scales;
    let (scaled, zeroed) = (!scales.col_scale.is_null(), !scales.col_zero.is_null());
    if R == MR && !scaled && !zeroed {
        return panels_of::<S, MR, R, NV, P, BARE>(strip, widened, k, d4, rows, panels, &scales, s);
    }
    if R == MR && !zeroed {
        return panels_of::<S, MR, R, NV, P, SCALED>(
            strip, widened, k, d4, rows, panels, &scales, s,
        );
    }
    if !scaled {
        scales.col_scale = ONES.as_ptr();
    }
    if !zeroed {
        scales.col_zero = ZEROS.as_ptr();
        scales.row_sum = ZEROS.as_ptr();
    }
    panels_of::<S, MR, R, NV, P, ZEROED>(strip, widened, k, d4, rows, panels, &scales, s);
}

#[inline(always)]
unsafe fn panels_of<
    S: Simd,
    const MR: usize,
    const R: usize,
    const NV: usize,
    const P: usize,
    const KEYS: usize,
>(
    strip: Rows,
    widened: *const i32,
    k: *const i8,
    d4: usize,
    rows: usize,
    panels: usize,
    scales: &ScoreScales,
    s: *mut f32,
) {
    let nr = NV * S::LANES;
    let mut done = 0;
    while done + P <= panels {
        scores::<S, MR, R, NV, P, KEYS>(strip, widened, k, d4, rows, scales, done * nr, s);
        done += P;
    }
    while done < panels {
        scores::<S, MR, R, NV, 1, KEYS>(strip, widened, k, d4, rows, scales, done * nr, s);
        done += 1;
    }
}

#[inline(always)]
unsafe fn scores<
    S: Simd,
    const MR: usize,
    const R: usize,
    const NV: usize,
    const P: usize,
    const KEYS: usize,
>(
    strip: Rows,
    widened: *const i32,
    k: *const i8,
    d4: usize,
    rows: usize,
    scales: &ScoreScales,
    key: usize,
    s: *mut f32,
) {
    let bytes = if S::DOT4 == Dot4::None { 2 } else { 1 };
    let k = k.add(key * d4 * 4 * bytes);
    let panel = NV * S::LANES * d4 * 4;
    let mut bias = [[S::splat_i(0); NV]; P];
    for (v, bias) in bias.as_flattened_mut().iter_mut().enumerate() {
        *bias = S::load_i(scales.col_bias.add(key + v * S::LANES));
    }
    let acc = if S::DOT4 != Dot4::None {
        product4::<S, R, NV, P>([bias; R], strip, k, panel, d4)
    } else {
        product_wide::<S, MR, R, NV, P>([bias; R], widened, k.cast(), panel / 2, 2 * d4)
    };
    for (i, acc) in acc.iter().enumerate() {
        if i >= rows {
            break;
        }
        let scale = S::splat(*scales.row_scale.add(i));
        let add = S::splat(*scales.row_add.add(i));
        for (v, raw) in acc.as_flattened().iter().enumerate() {
            let key = key + v * S::LANES;
            let mut x = S::to_f(*raw);
            if KEYS == ZEROED {
                let sum = S::splat(-*scales.row_sum.add(i));
                x = S::fma(S::load(scales.col_zero.add(key)), sum, x);
            }
            if KEYS != BARE {
                x = S::mul(x, S::load(scales.col_scale.add(key)));
            }
            S::store(s.add(i * SCORE_LD + key), S::fma(x, scale, add));
        }
    }
}

/// See [`crate::PvU8`], for `rows <= R` rows.
#[inline(always)]
pub(crate) unsafe fn pv_u8<S: Simd, const R: usize, const NV: usize, const P: usize>(
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
    let strip = Rows {
        a: p,
        row: P8_LD,
        group: 4,
    };
    let groups = n.div_ceil(4);
    let mut buffer = Widened::new();
    let widened = if S::DOT4 == Dot4::Unsigned {
        std::ptr::null()
    } else {
        buffer.fill_p::<R>(strip, groups)
    };
    let nr = NV * S::LANES;
    let panel = nr * packed.next_multiple_of(4);
    let mut done = 0;
    while done + P <= panels {
        let v = v.add(done * panel);
        let acc = start::<S, R, NV, P>(rows, p_sum, v_zero);
        let acc = if S::DOT4 == Dot4::Unsigned {
            product4::<S, R, NV, P>(acc, strip, v, panel, groups)
        } else {
            product_split::<S, R, NV, P>(acc, widened, v, panel, groups)
        };
        outputs::<S, R, NV, P>(
            acc,
            rows,
            alpha,
            p_scale,
            std::ptr::null(),
            o.add(done * nr),
            ldo,
        );
        done += P;
    }
    while done < panels {
        let v = v.add(done * panel);
        let acc = start::<S, R, NV, 1>(rows, p_sum, v_zero);
        let acc = if S::DOT4 == Dot4::Unsigned {
            product4::<S, R, NV, 1>(acc, strip, v, panel, groups)
        } else {
            product_split::<S, R, NV, 1>(acc, widened, v, panel, groups)
        };
        outputs::<S, R, NV, 1>(
            acc,
            rows,
            alpha,
            p_scale,
            std::ptr::null(),
            o.add(done * nr),
            ldo,
        );
        done += 1;
    }
}

#[inline(always)]
unsafe fn start<S: Simd, const R: usize, const NV: usize, const P: usize>(
    rows: usize,
    p_sum: *const i32,
    v_zero: i32,
) -> [[[S::I; NV]; P]; R] {
    let mut acc = [[[S::splat_i(0); NV]; P]; R];
    if v_zero != 0 {
        for (i, acc) in acc.iter_mut().enumerate() {
            if i >= rows {
                break;
            }
            // The sum of a row with NaN is any integer; its `l` is NaN.
            let zeros = v_zero.wrapping_mul(*p_sum.add(i)).wrapping_neg();
            *acc = [[S::splat_i(zeros); NV]; P];
        }
    }
    acc
}

/// See [`crate::PvI16`], for `rows <= R` rows.
#[inline(always)]
pub(crate) unsafe fn pv_i16<S: Simd, const R: usize, const NV: usize, const P: usize>(
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
    let nr = NV * S::LANES;
    let panel = nr * packed.next_multiple_of(2);
    let column = |done: usize| {
        if col_scale.is_null() {
            col_scale
        } else {
            col_scale.wrapping_add(done * nr)
        }
    };
    let mut done = 0;
    while done + P <= panels {
        let acc = product2::<S, R, NV, P>(p, v.add(done * panel), panel, n.div_ceil(2));
        outputs::<S, R, NV, P>(
            acc,
            rows,
            alpha,
            p_scale,
            column(done),
            o.add(done * nr),
            ldo,
        );
        done += P;
    }
    while done < panels {
        let acc = product2::<S, R, NV, 1>(p, v.add(done * panel), panel, n.div_ceil(2));
        outputs::<S, R, NV, 1>(
            acc,
            rows,
            alpha,
            p_scale,
            column(done),
            o.add(done * nr),
            ldo,
        );
        done += 1;
    }
}

#[inline(always)]
unsafe fn product2<S: Simd, const R: usize, const NV: usize, const P: usize>(
    a: *const i16,
    b: *const i16,
    panel: usize,
    pairs: usize,
) -> [[[S::I; NV]; P]; R] {
    let mut acc = [[[S::splat_i(0); NV]; P]; R];
    for t in 0..pairs {
        let mut vectors = [[S::splat_i(0); NV]; P];
        for (p, vectors) in vectors.iter_mut().enumerate() {
            for (v, vector) in vectors.iter_mut().enumerate() {
                *vector = S::load_i(b.add(p * panel).cast::<i32>().add((t * NV + v) * S::LANES));
            }
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            let a = S::splat_i(*a.add(i * P16_LD).cast::<i32>().add(t));
            for p in 0..P {
                for v in 0..NV {
                    acc[p][v] = S::dot2(acc[p][v], a, vectors[p][v]);
                }
            }
        }
    }
    acc
}

#[inline(always)]
unsafe fn outputs<S: Simd, const R: usize, const NV: usize, const P: usize>(
    acc: [[[S::I; NV]; P]; R],
    rows: usize,
    alpha: *const f32,
    p_scale: *const f32,
    col_scale: *const f32,
    o: *mut f32,
    ldo: usize,
) {
    for (i, acc) in acc.iter().enumerate() {
        if i >= rows {
            break;
        }
        let alpha = S::splat(*alpha.add(i));
        let row_scale = S::splat(*p_scale.add(i));
        for (v, sum) in acc.as_flattened().iter().enumerate() {
            let mut scale = row_scale;
            if !col_scale.is_null() {
                scale = S::mul(scale, S::load(col_scale.add(v * S::LANES)));
            }
            let o = o.add(i * ldo + v * S::LANES);
            let old = S::mul(alpha, S::load(o));
            S::store(o, S::fma(S::to_f(*sum), scale, old));
        }
    }
}

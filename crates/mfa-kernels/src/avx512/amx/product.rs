//! Products of slices.
//!
//! A tile of 32 x 32 takes two tiles of A and two of B for four products, and keeps both while the next product of slices
//! needs one of them: 14 loads for the 24 products of an FP32 step. Tiles of 16 rows and 64 columns, for few rows, load each B anew.

use std::arch::asm;

use super::shape::{MR, NR};
use super::tile_state::Tiles;
use crate::bf16_split::{Bf16Products, STEP};

/// The instructions of a step, in the words of [`tall`] and [`flat`].
macro_rules! steps {
    ($shape:ident, X1) => { concat!($shape!(a "0"), $shape!(b "0"), $shape!(x "0")) };
    ($shape:ident, X2x1) => {
        concat!(
            $shape!(a "64"), $shape!(b "0"), $shape!(x "0"), $shape!(a "0"), $shape!(x "0"),
        )
    };
    ($shape:ident, X3x1) => {
        concat!(
            $shape!(a "128"), $shape!(b "0"), $shape!(x "0"), $shape!(a "64"), $shape!(x "0"),
            $shape!(a "0"), $shape!(x "0"),
        )
    };
    ($shape:ident, X3) => {
        concat!(
            $shape!(a "0"), $shape!(b "2048"), $shape!(x "2048"), $shape!(b "0"), $shape!(x "0"),
            $shape!(a "64"), $shape!(x "0"),
        )
    };
    ($shape:ident, X4) => {
        concat!(
            $shape!(a "64"), $shape!(b "2048"), $shape!(x "2048"), $shape!(a "0"), $shape!(x "2048"),
            $shape!(b "0"), $shape!(x "0"), $shape!(a "64"), $shape!(x "0"),
        )
    };
    ($shape:ident, X6) => {
        concat!(
            $shape!(a "0"), $shape!(b "4096"), $shape!(x "4096"), $shape!(b "2048"), $shape!(x "2048"),
            $shape!(a "64"), $shape!(x "2048"), $shape!(b "0"), $shape!(x "0"),
            $shape!(a "0"), $shape!(x "0"), $shape!(a "128"), $shape!(x "0"),
        )
    };
}

/// 32 rows, 32 columns.
macro_rules! tall {
    (a $slice:literal) => {
        concat!(
            "tileloadd tmm4, [{a} + {lda} + ",
            $slice,
            "]\n",
            "tileloadd tmm5, [{more} + {lda} + ",
            $slice,
            "]\n",
        )
    };
    (b $slice:literal) => {
        concat!(
            "tileloadd tmm6, [{b} + {ldb} + ",
            $slice,
            "]\n",
            "tileloadd tmm7, [{b} + {ldb} + ",
            $slice,
            " + 64]\n",
        )
    };
    (x $slice:literal) => {
        concat!(
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            "tdpbf16ps tmm3, tmm5, tmm7\n",
        )
    };
}

/// 16 rows, 64 columns.
macro_rules! flat {
    (a $slice:literal) => {
        concat!("tileloadd tmm4, [{a} + {lda} + ", $slice, "]\n")
    };
    (b $slice:literal) => {
        ""
    };
    (x $slice:literal) => {
        concat!(
            "tileloadd tmm5, [{b} + {ldb} + ",
            $slice,
            "]\n",
            "tdpbf16ps tmm0, tmm4, tmm5\n",
            "tileloadd tmm6, [{b} + {ldb} + ",
            $slice,
            " + 64]\n",
            "tdpbf16ps tmm1, tmm4, tmm6\n",
            "tileloadd tmm7, [{more} + {ldb} + ",
            $slice,
            "]\n",
            "tdpbf16ps tmm2, tmm4, tmm7\n",
            "tileloadd tmm5, [{more} + {ldb} + ",
            $slice,
            " + 64]\n",
            "tdpbf16ps tmm3, tmm4, tmm5\n",
        )
    };
}

/// A tile of sums. `more` is the lower half of A for [`tall`], the second panel of B for [`flat`]; `o` and `second` are
/// the two halves of the sums.
macro_rules! sums {
    ($name:ident, $shape:ident, $terms:ident, $more_step:ident) => {
        #[inline(always)]
        unsafe fn $name(
            a: *const u16,
            b: *const u16,
            more: *const u16,
            lda: usize,
            steps: usize,
            add: bool,
            o: *mut f32,
            second: *mut f32,
            ldo: usize,
        ) {
            asm!(
                "test {add}, {add}",
                "jnz 3f",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "jmp 2f",
                "3:",
                "tileloadd tmm0, [{o} + {ldo}]",
                "tileloadd tmm1, [{o} + {ldo} + 64]",
                "tileloadd tmm2, [{second} + {ldo}]",
                "tileloadd tmm3, [{second} + {ldo} + 64]",
                "2:",
                steps!($shape, $terms),
                "add {a}, {a_step}",
                "add {b}, {b_step}",
                concat!("add {more}, {", stringify!($more_step), "}"),
                "dec {steps}",
                "jnz 2b",
                "tilestored [{o} + {ldo}], tmm0",
                "tilestored [{o} + {ldo} + 64], tmm1",
                "tilestored [{second} + {ldo}], tmm2",
                "tilestored [{second} + {ldo} + 64], tmm3",
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                more = inout(reg) more => _,
                steps = inout(reg) steps => _,
                add = in(reg) usize::from(add),
                o = in(reg) o,
                second = in(reg) second,
                lda = in(reg) 2 * lda,
                ldb = in(reg) 4 * NR,
                ldo = in(reg) 4 * ldo,
                a_step = const Bf16Products::$terms.slices_of_a() * STEP * 2,
                b_step = const Bf16Products::$terms.slices_of_b() * STEP * NR * 2,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    };
}

sums!(tall_x1, tall, X1, a_step);
sums!(tall_x2x1, tall, X2x1, a_step);
sums!(tall_x3x1, tall, X3x1, a_step);
sums!(tall_x3, tall, X3, a_step);
sums!(tall_x4, tall, X4, a_step);
sums!(tall_x6, tall, X6, a_step);
sums!(flat_x1, flat, X1, b_step);
sums!(flat_x2x1, flat, X2x1, b_step);
sums!(flat_x3x1, flat, X3x1, b_step);
sums!(flat_x3, flat, X3, b_step);
sums!(flat_x4, flat, X4, b_step);
sums!(flat_x6, flat, X6, b_step);

/// See [`crate::bf16_split::Product`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn product(
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
    let tiles = Tiles::new(0);
    with_tiles(
        &tiles, terms, a, lda, b, panel, steps, rows, panels, add, o, ldo,
    );
    drop(tiles);
}

/// [`product`] where tiles are in use, those of whole steps.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn with_tiles(
    _: &Tiles,
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
    debug_assert!(steps > 0);
    macro_rules! by_terms {
        ($b:ident, $more:ident, $o:ident, $second:ident: $($terms:ident => $sums:ident),+ $(,)?) => {
            match terms {
                $(Bf16Products::$terms => $sums(a, $b, $more, lda, steps, add, $o, $second, ldo),)+
            }
        };
    }
    if rows > 16 {
        let (more, second) = (a.add(16 * lda), o.add(16 * ldo));
        for i in 0..panels {
            let (b, o, second) = (b.add(i * panel), o.add(i * NR), second.add(i * NR));
            by_terms!(b, more, o, second:
                X1 => tall_x1,
                X2x1 => tall_x2x1,
                X3x1 => tall_x3x1,
                X3 => tall_x3,
                X4 => tall_x4,
                X6 => tall_x6,
            );
        }
    } else {
        for i in (0..panels).step_by(2) {
            // Of an odd last panel, both halves are the same sums.
            let pair = usize::from(i + 1 < panels);
            let (b, o) = (b.add(i * panel), o.add(i * NR));
            let (more, second) = (b.add(pair * panel), o.add(pair * NR));
            by_terms!(b, more, o, second:
                X1 => flat_x1,
                X2x1 => flat_x2x1,
                X3x1 => flat_x3x1,
                X3 => flat_x3,
                X4 => flat_x4,
                X6 => flat_x6,
            );
        }
    }
}

const _: () = assert!(MR == 32 && 4 * NR == 128 && STEP == 32);

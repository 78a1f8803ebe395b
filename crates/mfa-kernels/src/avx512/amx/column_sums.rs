//! Sums of products of integers.

/// Sums of one or two panels of B, as tiles of 16 rows: all steps of 64 bytes, then the rest. The tiles of the first panel
/// are stored from `o` on, those of the second from `second` on; `groups` of four bytes are added up, panels are `panel`
/// bytes apart.
macro_rules! integer_sums {
    ($name:ident, $product:literal, $(($sum:literal, $b:literal, $o:literal, $at:literal)),+) => {
        #[inline(always)]
        unsafe fn $name(
            a: *const u8,
            lda: usize,
            b: *const i8,
            panel: usize,
            groups: usize,
            [o, second]: [*mut i32; 2],
            ldo: usize,
        ) {
            std::arch::asm!(
                $(concat!("tilezero tmm", $sum),)+
                "test {steps}, {steps}",
                "jz 3f",
                "2:",
                "tileloadd tmm4, [{a} + {lda}]",
                $(
                    concat!("tileloadd tmm5, [{", $b, "} + {ldb} + ", $at, "]"),
                    concat!($product, " tmm", $sum, ", tmm4, tmm5"),
                )+
                "add {a}, {tile}",
                "add {b0}, {block}",
                "add {b1}, {block}",
                "dec {steps}",
                "jnz 2b",
                "3:",
                "test {rest}, {rest}",
                "jz 4f",
                "tileloadd tmm6, [{a} + {lda}]",
                $(
                    concat!("tileloadd tmm7, [{", $b, "} + {ldb} + ", $at, "]"),
                    concat!($product, " tmm", $sum, ", tmm6, tmm7"),
                )+
                "4:",
                $(concat!("tilestored [{", $o, "} + {ldo} + ", $at, "], tmm", $sum),)+
                "/* {second} */",
                a = inout(reg) a => _,
                b0 = inout(reg) b => _,
                b1 = inout(reg) b.wrapping_add(panel) => _,
                o = in(reg) o,
                second = in(reg) second,
                lda = in(reg) lda,
                ldb = in(reg) 4 * super::shape::NR,
                ldo = in(reg) ldo,
                steps = inout(reg) groups / super::shape::GROUPS => _,
                rest = in(reg) groups % super::shape::GROUPS,
                tile = const super::shape::TILE,
                block = const super::shape::GROUPS * 4 * super::shape::NR,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    };
    ($product:literal) => {
        integer_sums!(
            two_panels, $product,
            (0, "b0", "o", 0), (1, "b0", "o", 64), (2, "b1", "second", 0), (3, "b1", "second", 64)
        );
        integer_sums!(one_panel, $product, (0, "b0", "o", 0), (1, "b0", "o", 64));
    };
}

pub(super) use integer_sums;

//! Loops of AArch64.

use std::arch::asm;

use super::{Peaks, peak};
use mfa_kernels::Isa;

pub(super) fn peaks(isa: Isa) -> Option<Peaks> {
    let peaks = |dot4| Peaks {
        read,
        f32: peak("fmla", "GFLOP/s", 8.0, fmla),
        dot4,
        dot2: peak("smlal", "GOP/s", 8.0, smlal),
        bf16: None,
    };
    match isa {
        Isa::NeonI8mm => Some(peaks(peak("usdot", "GOP/s", 32.0, usdot))),
        Isa::NeonDotProd => Some(peaks(peak("sdot", "GOP/s", 32.0, sdot))),
        Isa::Neon => Some(peaks(peak("smlal", "GOP/s", 8.0, smlal))),
        _ => None,
    }
}

macro_rules! rounds {
    ($name:ident, $feature:literal, $op:literal, $sum:literal, $operand:literal) => {
        fn $name(rounds: u64) {
            // SAFETY: all registers used are declared; callers check the instruction set.
            unsafe {
                asm!(
                    concat!(".arch_extension ", $feature),
                    "movi v16.16b, #0",
                    "movi v17.16b, #0",
                    "2:",
                    concat!($op, " v0", $sum, ", v16", $operand, ", v17", $operand),
                    concat!($op, " v1", $sum, ", v16", $operand, ", v17", $operand),
                    concat!($op, " v2", $sum, ", v16", $operand, ", v17", $operand),
                    concat!($op, " v3", $sum, ", v16", $operand, ", v17", $operand),
                    concat!($op, " v4", $sum, ", v16", $operand, ", v17", $operand),
                    concat!($op, " v5", $sum, ", v16", $operand, ", v17", $operand),
                    concat!($op, " v6", $sum, ", v16", $operand, ", v17", $operand),
                    concat!($op, " v7", $sum, ", v16", $operand, ", v17", $operand),
                    concat!($op, " v18", $sum, ", v16", $operand, ", v17", $operand),
                    concat!($op, " v19", $sum, ", v16", $operand, ", v17", $operand),
                    concat!($op, " v20", $sum, ", v16", $operand, ", v17", $operand),
                    concat!($op, " v21", $sum, ", v16", $operand, ", v17", $operand),
                    "subs {n}, {n}, #1",
                    "b.ne 2b",
                    n = inout(reg) rounds => _,
                    out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _,
                    out("v6") _, out("v7") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _,
                    out("v20") _, out("v21") _,
                    options(nomem, nostack),
                );
            }
        }
    };
}

rounds!(fmla, "simd", "fmla", ".4s", ".4s");
rounds!(smlal, "simd", "smlal", ".4s", ".4h");
rounds!(sdot, "dotprod", "sdot", ".4s", ".16b");
rounds!(usdot, "i8mm", "usdot", ".4s", ".16b");

unsafe fn read(p: *const u8, bytes: usize) {
    // SAFETY: the caller's memory; the loaded values are not used.
    unsafe {
        asm!(
            "2:",
            "ldp q0, q1, [{p}], #32",
            "ldp q2, q3, [{p}], #32",
            "cmp {p}, {end}",
            "b.lo 2b",
            p = inout(reg) p => _,
            end = in(reg) p.add(bytes),
            out("v0") _, out("v1") _, out("v2") _, out("v3") _,
            options(readonly, nostack),
        );
    }
}

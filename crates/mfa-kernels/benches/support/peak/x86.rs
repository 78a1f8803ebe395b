//! Loops of x86-64.

use std::arch::asm;

use super::{Peaks, peak};
use mfa_kernels::Isa;

pub(super) fn peaks(isa: Isa) -> Option<Peaks> {
    match isa {
        Isa::Avx512Vnni => Some(Peaks {
            read: read_512,
            f32: peak("vfmadd231ps zmm", "GFLOP/s", 32.0, fma_512),
            dot4: peak("vpdpbusd zmm", "GOP/s", 128.0, dot4_512),
            dot2: peak("vpdpwssd zmm", "GOP/s", 64.0, dot2_512),
            bf16: None,
        }),
        Isa::Avx512Amx => Some(Peaks {
            read: read_512,
            f32: peak("vfmadd231ps zmm", "GFLOP/s", 32.0, fma_512),
            dot4: peak("tdpbusd", "GOP/s", 32768.0, tiles),
            // Products of 15 bits and 8 are two of 8 and 8.
            dot2: peak("tdpbusd, two for one", "GOP/s", 16384.0, tiles),
            bf16: Some(peak("tdpbf16ps", "GFLOP/s", 16384.0, tiles_bf16)),
        }),
        Isa::Avx512 => Some(Peaks {
            read: read_512,
            f32: peak("vfmadd231ps zmm", "GFLOP/s", 32.0, fma_512),
            dot4: peak("vpmaddwd + vpaddd zmm", "GOP/s", 64.0, dot2_512_plain),
            dot2: peak("vpmaddwd + vpaddd zmm", "GOP/s", 64.0, dot2_512_plain),
            bf16: None,
        }),
        Isa::Avx2Vnni => Some(Peaks {
            read: read_256,
            f32: peak("vfmadd231ps ymm", "GFLOP/s", 16.0, fma_256),
            dot4: peak("vpdpbusd ymm", "GOP/s", 64.0, dot4_vex),
            dot2: peak("vpdpwssd ymm", "GOP/s", 32.0, dot2_vex),
            bf16: None,
        }),
        Isa::Avx2 => Some(Peaks {
            read: read_256,
            f32: peak("vfmadd231ps ymm", "GFLOP/s", 16.0, fma_256),
            dot4: peak("vpmaddwd + vpaddd ymm", "GOP/s", 32.0, dot2_256),
            dot2: peak("vpmaddwd + vpaddd ymm", "GOP/s", 32.0, dot2_256),
            bf16: None,
        }),
        _ => None,
    }
}

macro_rules! zmm {
    ($name:ident, $($op:literal),+) => {
        fn $name(rounds: u64) {
            // SAFETY: all registers used are declared; callers check the instruction set.
            unsafe {
                asm!(
                    "vpxorq zmm30, zmm30, zmm30", "vpxorq zmm31, zmm31, zmm31",
                    "2:",
                    $(
                        concat!($op, " zmm0, zmm30, zmm31"), concat!($op, " zmm1, zmm30, zmm31"),
                        concat!($op, " zmm2, zmm30, zmm31"), concat!($op, " zmm3, zmm30, zmm31"),
                        concat!($op, " zmm4, zmm30, zmm31"), concat!($op, " zmm5, zmm30, zmm31"),
                        concat!($op, " zmm6, zmm30, zmm31"), concat!($op, " zmm7, zmm30, zmm31"),
                        concat!($op, " zmm8, zmm30, zmm31"), concat!($op, " zmm9, zmm30, zmm31"),
                        concat!($op, " zmm10, zmm30, zmm31"), concat!($op, " zmm11, zmm30, zmm31"),
                    )+
                    "dec {n}",
                    "jnz 2b",
                    n = inout(reg) rounds => _,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                    out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                    out("zmm30") _, out("zmm31") _,
                    options(nomem, nostack),
                );
            }
        }
    };
}

macro_rules! ymm {
    ($name:ident, $($op:literal),+) => {
        fn $name(rounds: u64) {
            // SAFETY: all registers used are declared; callers check the instruction set.
            unsafe {
                asm!(
                    "vpxor xmm14, xmm14, xmm14", "vpxor xmm15, xmm15, xmm15",
                    "2:",
                    $(
                        concat!($op, " ymm0, ymm14, ymm15"), concat!($op, " ymm1, ymm14, ymm15"),
                        concat!($op, " ymm2, ymm14, ymm15"), concat!($op, " ymm3, ymm14, ymm15"),
                        concat!($op, " ymm4, ymm14, ymm15"), concat!($op, " ymm5, ymm14, ymm15"),
                        concat!($op, " ymm6, ymm14, ymm15"), concat!($op, " ymm7, ymm14, ymm15"),
                        concat!($op, " ymm8, ymm14, ymm15"), concat!($op, " ymm9, ymm14, ymm15"),
                        concat!($op, " ymm10, ymm14, ymm15"), concat!($op, " ymm11, ymm14, ymm15"),
                    )+
                    "dec {n}",
                    "jnz 2b",
                    n = inout(reg) rounds => _,
                    out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                    out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                    out("ymm14") _, out("ymm15") _,
                    options(nomem, nostack),
                );
            }
        }
    };
}

zmm!(fma_512, "vfmadd231ps");
zmm!(dot4_512, "vpdpbusd");
zmm!(dot2_512, "vpdpwssd");
ymm!(fma_256, "vfmadd231ps");
zmm!(dot2_512_plain, "vpmaddwd", "vpaddd");
// AVX2 has no dot product: multiply pairs, and add.
ymm!(dot2_256, "vpmaddwd", "vpaddd");
ymm!(dot4_vex, "{{vex}} vpdpbusd");
ymm!(dot2_vex, "{{vex}} vpdpwssd");

macro_rules! read {
    ($name:ident, $register:literal, $bytes:literal) => {
        unsafe fn $name(p: *const u8, bytes: usize) {
            // SAFETY: the caller's memory; the loaded values are not used.
            unsafe {
                asm!(
                    "2:",
                    concat!("vmovups ", $register, "0, [{p}]"),
                    concat!("vmovups ", $register, "1, [{p} + ", $bytes, "]"),
                    concat!("vmovups ", $register, "2, [{p} + 2*", $bytes, "]"),
                    concat!("vmovups ", $register, "3, [{p} + 3*", $bytes, "]"),
                    concat!("add {p}, 4*", $bytes),
                    "cmp {p}, {end}",
                    "jb 2b",
                    p = inout(reg) p => _,
                    end = in(reg) p.add(bytes),
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    options(readonly, nostack),
                );
            }
        }
    };
}

read!(read_512, "zmm", "64");
read!(read_256, "ymm", "32");

/// Twelve products of whole tiles. Callers check that there are tiles, and that this process may use them.
macro_rules! tiles {
    ($name:ident, $op:literal) => {
        fn $name(rounds: u64) {
            let config = TileShapes::new();
            // SAFETY: all tiles used are declared, and given back.
            unsafe {
                asm!(
                    "ldtilecfg [{config}]",
                    "2:",
                    ".rept 3",
                    concat!($op, " tmm0, tmm6, tmm7"),
                    concat!($op, " tmm1, tmm6, tmm7"),
                    concat!($op, " tmm2, tmm6, tmm7"),
                    concat!($op, " tmm3, tmm6, tmm7"),
                    ".endr",
                    "dec {n}",
                    "jnz 2b",
                    "tilerelease",
                    config = in(reg) &config,
                    n = inout(reg) rounds => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm6") _, out("tmm7") _,
                    options(readonly, nostack),
                );
            }
        }
    };
}

tiles!(tiles, "tdpbusd");
tiles!(tiles_bf16, "tdpbf16ps");

/// The operand of `ldtilecfg`: eight whole tiles.
#[repr(C, align(64))]
struct TileShapes {
    palette: [u8; 16],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileShapes {
    fn new() -> Self {
        let mut shapes = TileShapes {
            palette: [0; 16],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        shapes.palette[0] = 1;
        shapes.row_bytes[..8].fill(64);
        shapes.rows[..8].fill(16);
        shapes
    }
}

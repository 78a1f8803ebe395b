//! The instruction sets that have a table of kernels.

use std::fmt;

/// An instruction set that has a table of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust; runs anywhere.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI.
    Avx2Vnni,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// The same with VNNI.
    Avx512Vnni,
    /// The same with AMX: INT8 and BF16.
    Avx512Amx,
    /// Advanced SIMD of AArch64.
    Neon,
    /// The same with DotProd.
    NeonDotProd,
    /// The same with DotProd and I8MM.
    NeonI8mm,
}

impl Isa {
    /// From the slowest to the fastest of each architecture.
    pub const ALL: [Isa; 9] = [
        Isa::Scalar,
        Isa::Neon,
        Isa::NeonDotProd,
        Isa::NeonI8mm,
        Isa::Avx2,
        Isa::Avx2Vnni,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Avx512Amx,
    ];

    /// The name that `MFA_CPU_ISA` and reports use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx2Vnni => "avx2vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Avx512Amx => "avx512amx",
            Isa::Neon => "neon",
            Isa::NeonDotProd => "neondotprod",
            Isa::NeonI8mm => "neoni8mm",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

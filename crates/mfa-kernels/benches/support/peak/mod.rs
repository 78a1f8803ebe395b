//! Loops that do nothing but one instruction on independent registers, as fast as the processor starts them; and reads.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86;

use mfa_kernels::Isa;

/// A loop and the operations of one of its rounds.
pub(crate) struct Peak {
    pub name: &'static str,
    pub unit: &'static str,
    /// Operations of a round; a multiplication and an addition are two.
    pub operations: f64,
    pub rounds: fn(u64),
}

/// The peak of f32, of products of bytes and of products of 16-bit integers with the instructions of one table.
pub(crate) struct Peaks {
    /// Reads memory, a multiple of 256 bytes, a vector at a time.
    pub read: unsafe fn(*const u8, usize),
    pub f32: Peak,
    pub dot4: Peak,
    pub dot2: Peak,
    /// Products of bf16 in a matrix unit.
    pub bf16: Option<Peak>,
}

fn peak(name: &'static str, unit: &'static str, operations: f64, rounds: fn(u64)) -> Peak {
    Peak {
        name,
        unit,
        operations: 12.0 * operations,
        rounds,
    }
}

/// The peaks of an instruction set that this machine runs; none for plain code.
pub(crate) fn peaks(isa: Isa) -> Option<Peaks> {
    isa.table()?;
    #[cfg(target_arch = "x86_64")]
    return x86::peaks(isa);
    #[cfg(target_arch = "aarch64")]
    return aarch64::peaks(isa);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    None
}

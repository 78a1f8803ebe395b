//! Numbers that are likely to break a call.

use mfa_testing::Random;

/// The random numbers of a seed.
pub(crate) fn seeded(seed: u64) -> Random {
    let mut random = Random(seed.wrapping_mul(0xA076_1D64_78BD_642F));
    random.next();
    random
}

/// Draws numbers for the arguments of calls.
pub(crate) trait Awkward {
    /// A number at an end of some range, or a small one.
    fn awkward(&mut self) -> i64;
    /// Finite, with a magnitude from 0.5 to 1.
    fn scale(&mut self) -> f32;
}

impl Awkward for Random {
    fn awkward(&mut self) -> i64 {
        match self.below(4) {
            0 => self.below(9) as i64,
            1 => 1 << self.below(63),
            2 => (1 << self.below(63)) - 1,
            _ => self.pick(&[
                -1,
                -2,
                i64::MAX,
                i64::MIN,
                u32::MAX as i64,
                1 << 32,
                513,
                1025,
                (1 << 48) + 1,
                i32::MIN as i64,
                i32::MAX as i64,
            ]),
        }
    }

    fn scale(&mut self) -> f32 {
        f32::from_bits((self.next() as u32 & 0x807F_FFFF) | 0x3F00_0000)
    }
}

//! Random numbers that a seed names.

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0xA076_1D64_78BD_642F));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// One in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number that breaks things, or a small one.
    pub(crate) fn awkward(&mut self) -> i64 {
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

    /// Finite, of size about 1.
    pub(crate) fn float(&mut self) -> f32 {
        f32::from_bits((self.next() as u32 & 0x807F_FFFF) | 0x3F00_0000)
    }
}

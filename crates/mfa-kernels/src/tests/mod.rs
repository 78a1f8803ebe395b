//! Every kernel of every table that this machine runs, against its scalar twin.
//!
//! Inputs end at a page that cannot be read; outputs are between canaries (see [`memory`]).

mod bf16_gradient;
mod bf16_split;
mod decode;
mod gradient;
mod memory;
mod pack;
mod row;
mod softmax;
mod tiles;

use memory::Guarded;

use super::{BLOCK_N, Isa, Kernels, P16_LD, scalar};

/// Each table with its twin, the scalar one too: its tile is not that of its twin's defaults.
fn tables() -> Vec<(&'static Kernels, Kernels)> {
    Isa::ALL
        .into_iter()
        .filter_map(Isa::table)
        .map(|table| (table, twin(table)))
        .collect()
}

#[allow(clippy::panic)] // A helper of tests, which clippy does not see as one.
fn twin(table: &Kernels) -> Kernels {
    match (table.mr, table.nr, table.q_offset) {
        (4, 8, 128) => scalar::table::<4, 8, 128>(Isa::Scalar),
        (6, 16, 0) => scalar::table::<6, 16, 0>(Isa::Scalar),
        (6, 16, 128) => scalar::table::<6, 16, 128>(Isa::Scalar),
        (12, 32, 0) => scalar::table::<12, 32, 0>(Isa::Scalar),
        (32, 32, 0) => scalar::table::<32, 32, 0>(Isa::Scalar),
        (12, 32, 128) => scalar::table::<12, 32, 128>(Isa::Scalar),
        other => panic!("no twin for tiles of {other:?}"),
    }
}

/// Random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform on -1..1.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Guarded<f32> {
        Guarded::from_fn(n, |_| self.float())
    }

    fn bytes(&mut self, n: usize) -> Guarded<i8> {
        Guarded::from_fn(n, |_| self.next() as i8)
    }
}

/// The tables, each without and with a [`crate::TileConfigGuard`] around its kernels.
fn tables_with_and_without_guard() -> impl Iterator<Item = (&'static Kernels, bool)> {
    tables()
        .into_iter()
        .flat_map(|(table, _)| [(table, false), (table, true)])
}

fn round_up(n: usize, to: usize) -> usize {
    n.div_ceil(to) * to
}

/// Whether 16-bit P, its V, and Q are laid out as the contract says, and not as AMX wants them.
fn plain_layouts(table: &Kernels) -> bool {
    table.isa != Isa::Avx512Amx
}

/// Where the halves of a 16-bit P are.
fn halves(row: usize, key: usize) -> (usize, usize) {
    let low = row * 2 * P16_LD + key;
    (low, low + BLOCK_N)
}

fn put_p16(table: &Kernels, p: &mut [i16], row: usize, key: usize, x: i16) {
    if plain_layouts(table) {
        p[row * P16_LD + key] = x;
        return;
    }
    let (low, high) = halves(row, key);
    for (at, byte) in [(low, x as u8), (high, (x >> 8) as u8)] {
        let shift = 8 * (at % 2);
        p[at / 2] = (p[at / 2] as u16 & !(0xff << shift) | u16::from(byte) << shift) as i16;
    }
}

fn get_p16(table: &Kernels, p: &[i16], row: usize, key: usize) -> i16 {
    if plain_layouts(table) {
        return p[row * P16_LD + key];
    }
    let (low, high) = halves(row, key);
    let byte = |at: usize| (p[at / 2] as u16) >> (8 * (at % 2)) & 0xff;
    (byte(low) | byte(high) << 8) as i16
}

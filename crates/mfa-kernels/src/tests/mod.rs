//! Every kernel of every table that this machine runs, against its scalar twin.
//!
//! Inputs end at a page that cannot be read; outputs are between canaries (see [`memory`]).

mod bf16_gradient;
mod bf16_split;
mod decode;
mod gradient;
mod memory;
mod pack;
mod quantize;
mod quantized;
mod row;
mod softmax;
mod tiles;

use memory::Guarded;

use crate::{BLOCK_N, IntegerLayout, Isa, Kernels, P16_LD};

/// Each table with its twin, the scalar one too.
fn tables() -> Vec<(&'static Kernels, Kernels)> {
    Isa::ALL
        .into_iter()
        .filter_map(Isa::table)
        .map(|table| (table, (table.twin)()))
        .collect()
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

/// The indices of the low and the high byte of an element of 16-bit P in [`IntegerLayout::Bytes`].
fn byte_indices(row: usize, key: usize) -> (usize, usize) {
    let low = row * 2 * P16_LD + key;
    (low, low + BLOCK_N)
}

fn put_p16(table: &Kernels, p: &mut [i16], row: usize, key: usize, x: i16) {
    if table.integer_layout == IntegerLayout::Pairs {
        p[row * P16_LD + key] = x;
        return;
    }
    let (low, high) = byte_indices(row, key);
    for (at, byte) in [(low, x as u8), (high, (x >> 8) as u8)] {
        let shift = 8 * (at % 2);
        p[at / 2] = (p[at / 2] as u16 & !(0xff << shift) | u16::from(byte) << shift) as i16;
    }
}

fn get_p16(table: &Kernels, p: &[i16], row: usize, key: usize) -> i16 {
    if table.integer_layout == IntegerLayout::Pairs {
        return p[row * P16_LD + key];
    }
    let (low, high) = byte_indices(row, key);
    let byte = |at: usize| (p[at / 2] as u16) >> (8 * (at % 2)) & 0xff;
    (byte(low) | byte(high) << 8) as i16
}

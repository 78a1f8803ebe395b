//! Products of floats by units that multiply bf16 alone.
//!
//! A float is the sum of its *slices*, each a bf16: the float rounded to 8 bits, what is left of it rounded to 8 bits, and
//! what is left then. One part holds a BF16, two hold an FP16, three hold an FP32, all exactly (down to 2^-126: smaller
//! slices are 0). A product is a sum of products of slices, in FP32:
//!
//! | [`Bf16Products`] | slices of A, of B | products (of A's part by B's) | relative error of a product, below |
//! |---|---|---|---|
//! | `X1` | 1, 1 | 00 | 0 |
//! | `X2x1` | 2, 1 | 10 00 | 0 |
//! | `X3x1` | 3, 1 | 20 10 00 | 0 |
//! | `X3` | 2, 2 | 01 00 10 | 2^-16 |
//! | `X4` | 2, 2 | 11 01 00 10 | 0 |
//! | `X6` | 3, 3 | 02 01 11 10 00 20 | 2^-23 (2^-25 on average) |
//!
//! # Layouts
//!
//! A *step* is 32 terms of the sum. It holds them as pairs: pair `t` is terms `t` and `t + 16`. Bf16Products past the end are 0.
//!
//! | operand | layout | made by |
//! |---|---|---|
//! | A: a strip of `mr` rows | per row `[steps][slices][16][2]` | `pack_rows`, `pack_transposed`, `softmax` |
//! | B: panels of `nr` columns | per panel `[steps][slices][16][nr][2]` | `pack_columns`, `pack_panels` |
//! | the product | FP32 rows, `ldo` apart | `product` |
//!
//! So a run of terms that starts at a multiple of 32 is a pointer into its operand. All are 64-byte aligned.
//!
//! NaN and infinities have one part, themselves; a product of slices turns infinity times a float into infinity or NaN.
//! Packing tells whether there were any; where that matters, [`restore`] and [`exact_dot`] give what the floats would.

use crate::Precision;
use std::marker::PhantomData;

use super::Kernels;

/// Bf16Products of a step.
pub const STEP: usize = 32;
/// Parts of an operand, at most.
pub const MAX_SLICES: usize = 3;

/// Which products of slices make a product of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Products {
    X1,
    X2x1,
    X3x1,
    X3,
    X4,
    X6,
}

impl Bf16Products {
    #[allow(dead_code)] // For tests and benches.
    pub const ALL: [Bf16Products; 6] = [
        Bf16Products::X1,
        Bf16Products::X2x1,
        Bf16Products::X3x1,
        Bf16Products::X3,
        Bf16Products::X4,
        Bf16Products::X6,
    ];

    pub fn describe(self) -> String {
        let (a, b, products) = (self.slices_of_a(), self.slices_of_b(), self.pairs().len());
        match self {
            Bf16Products::X1 => "BF16 products, FP32 sums".into(),
            _ => format!("{products} BF16 products of {a} by {b} slices, FP32 sums"),
        }
    }

    pub const fn slices_of_a(self) -> usize {
        match self {
            Bf16Products::X1 => 1,
            Bf16Products::X2x1 | Bf16Products::X3 | Bf16Products::X4 => 2,
            Bf16Products::X3x1 | Bf16Products::X6 => 3,
        }
    }

    pub const fn slices_of_b(self) -> usize {
        match self {
            Bf16Products::X1 | Bf16Products::X2x1 | Bf16Products::X3x1 => 1,
            Bf16Products::X3 | Bf16Products::X4 => 2,
            Bf16Products::X6 => 3,
        }
    }

    /// The products, in the order in which each step adds them: one operand's part stays from each to the next.
    pub const fn pairs(self) -> &'static [(usize, usize)] {
        match self {
            Bf16Products::X1 => &[(0, 0)],
            Bf16Products::X2x1 => &[(1, 0), (0, 0)],
            Bf16Products::X3x1 => &[(2, 0), (1, 0), (0, 0)],
            Bf16Products::X3 => &[(0, 1), (0, 0), (1, 0)],
            Bf16Products::X4 => &[(1, 1), (0, 1), (0, 0), (1, 0)],
            Bf16Products::X6 => &[(0, 2), (0, 1), (1, 1), (1, 0), (0, 0), (2, 0)],
        }
    }
}

/// Elements of an operand of `terms` terms: from a row of A to the next.
pub const fn row_len(terms: usize, slices: usize) -> usize {
    terms.div_ceil(STEP) * slices * STEP
}

/// The same where there are many terms: of a row with a multiple of 512 bytes, sixteen, which are a tile, would lie in few
/// sets of the first-level cache.
pub const fn long_row_len(terms: usize, slices: usize) -> usize {
    row_len(terms, slices) + STEP
}

/// Elements of a panel of B with `nr` columns.
pub const fn panel_len(terms: usize, slices: usize, nr: usize) -> usize {
    row_len(terms, slices) * nr
}

/// Rows of floats as they are stored.
#[derive(Clone, Copy)]
pub struct FloatRows {
    /// The first element.
    pub ptr: *const u8,
    /// Elements from a row to the next.
    pub ld: usize,
    /// FP32, FP16 or BF16.
    pub precision: Precision,
}

impl FloatRows {
    pub fn f32(ptr: *const f32, ld: usize) -> Self {
        FloatRows {
            ptr: ptr.cast(),
            ld,
            precision: Precision::F32,
        }
    }

    /// The rows from `row` on, from `column` on.
    pub fn from(&self, row: usize, column: usize) -> Self {
        let elements = row * self.ld + column;
        FloatRows {
            ptr: self.ptr.wrapping_add(elements * self.precision.bytes()),
            ..*self
        }
    }
}

/// Splits `n` rows of `d` floats into `slices` slices, and returns whether all floats are finite.
pub type PackBf16 =
    unsafe fn(slices: usize, rows: FloatRows, n: usize, d: usize, out: *mut u16) -> bool;

/// `o[i][c] = (add ? o[i][c] : 0) + sum_t a[i][t] * b[t][c]` over `steps` steps, for `panels` panels of B, `panel` elements
/// apart, and strips of A whose rows are `lda` elements apart. Writes the first 16 rows if `rows` is at most 16, else
/// all of a strip.
pub type Product = unsafe fn(
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
);

/// As [`super::SoftmaxF32`] on `scale * s`, for `scale > 0`, but P leaves as `slices` slices, an A whose rows are `ldp` elements
/// apart, and `s` stays.
pub type SoftmaxBf16 = unsafe fn(
    slices: usize,
    s: *const f32,
    rows: usize,
    n: usize,
    state: super::RowState,
    scale: f32,
    p: *mut u16,
    ldp: usize,
);

/// `o[i][c] *= alpha[i]`, for `rows` rows of `columns` (a multiple of `nr`).
pub type Rescale =
    unsafe fn(alpha: *const f32, rows: usize, columns: usize, o: *mut f32, ldo: usize);

/// The kernels of an instruction set whose unit for bf16 is faster than its FP32 products.
#[derive(Clone, Copy)]
pub struct Bf16Kernels {
    /// A, whose row `i` is row `i`, for `n <= mr`; the other rows become 0.
    pub pack_rows: PackBf16,
    /// A, whose row `i` is column `i`, for `d <= mr`, and whose terms are the rows; the other rows become 0. Its rows are
    /// [`long_row_len`] apart.
    pub pack_transposed: PackBf16,
    /// B, whose column `c` is row `c`.
    pub pack_columns: PackBf16,
    /// B, whose column `c` is column `c`, and whose terms are the rows.
    pub pack_panels: PackBf16,
    pub product: Product,
    pub softmax: SoftmaxBf16,
    pub rescale: Rescale,
    pub tile_config: TileConfig,
}

/// The tile configuration of a matrix unit, which kernels load and release. While a thread holds it, they find it loaded: see
/// [`TileConfigGuard`].
#[derive(Clone, Copy)]
pub struct TileConfig {
    pub load: unsafe fn(),
    pub release: unsafe fn(),
}

/// Holds the tile configuration of the calling thread while it lives, if the instruction set has one.
pub struct TileConfigGuard<'a> {
    config: Option<&'a TileConfig>,
    /// It belongs to a thread.
    not_send: PhantomData<*const ()>,
}

impl<'a> TileConfigGuard<'a> {
    pub fn new(kernels: &'a Kernels) -> Self {
        let config = kernels.bf16.as_ref().map(|bf16| &bf16.tile_config);
        if let Some(config) = config {
            // SAFETY: kernels are in use only where their instruction set is there.
            unsafe { (config.load)() };
        }
        TileConfigGuard {
            config,
            not_send: PhantomData,
        }
    }
}

impl Drop for TileConfigGuard<'_> {
    fn drop(&mut self) {
        if let Some(config) = self.config {
            // SAFETY: as above; this thread loaded it.
            unsafe { (config.release)() };
        }
    }
}

/// Where the first part of term `t` of a row of A is; the others follow [`STEP`] elements apart.
pub const fn at_a(t: usize, slices: usize) -> usize {
    t / STEP * slices * STEP + t % 16 * 2 + t % STEP / 16
}

/// The same for term `t` of column `c` of B; the others follow `STEP * nr` elements apart.
pub const fn at_b(t: usize, c: usize, terms: usize, slices: usize, nr: usize) -> usize {
    c / nr * panel_len(terms, slices, nr)
        + t / STEP * slices * STEP * nr
        + (t % 16 * nr + c % nr) * 2
        + t % STEP / 16
}

pub fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

unsafe fn sum(first: *const u16, slices: usize, distance: usize) -> f32 {
    let mut x = 0.0;
    for p in (0..slices).rev() {
        x += bf16(*first.add(p * distance));
    }
    x
}

/// Term `t` of column `c` of a B that was packed with `terms` terms, as the float that it was.
pub unsafe fn restore(
    b: *const u16,
    t: usize,
    c: usize,
    terms: usize,
    slices: usize,
    nr: usize,
) -> f32 {
    sum(b.add(at_b(t, c, terms, slices, nr)), slices, STEP * nr)
}

/// The product of a row of A and column `c` of B, in FP32 from the floats that they were.
pub unsafe fn exact_dot(
    a: *const u16,
    b: *const u16,
    c: usize,
    terms: usize,
    slices: Bf16Products,
    nr: usize,
) -> f32 {
    let (of_a, of_b) = (slices.slices_of_a(), slices.slices_of_b());
    let mut total = 0.0;
    for t in 0..terms {
        total += sum(a.add(at_a(t, of_a)), of_a, STEP) * restore(b, t, c, terms, of_b, nr);
    }
    total
}

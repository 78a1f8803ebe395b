//! Products of floats by matrix units that multiply bf16.
//!
//! A float is the sum of its *slices*, each a bf16: the float rounded to 8 bits, the remainder rounded to 8 bits, and the
//! remainder of that. One slice holds a BF16, two hold an FP16, three hold an FP32, all exactly (down to 2^-126: smaller
//! slices are 0). A product is a sum of products of slices, in FP32:
//!
//! | [`Bf16Products`] | slices of A, of B | products (slice of A, slice of B) | relative error of a product, below |
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
//! The *terms* of a product are the elements that it sums over: the dimension K of a GEMM. A *step* is [`STEP`] = 32 terms,
//! stored as pairs: pair `t` is terms `t` and `t + 16`. Those past the end are 0.
//!
//! | operand | layout | made by |
//! |---|---|---|
//! | A: a strip of `mr` rows | per row `[steps][slices][16][2]` | `pack_rows`, `pack_transposed`, `softmax` |
//! | B: panels of `nr` columns | per panel `[steps][slices][16][nr][2]` | `pack_columns`, `pack_panels` |
//! | the product | FP32 rows, `ldo` apart | `product` |
//!
//! A run of terms that starts at a multiple of 32 is a pointer into its operand. All operands are 64-byte aligned.
//!
//! NaN and infinities have one slice, themselves. A product of slices turns infinity times a float into infinity or NaN.
//! Packing returns whether all floats are finite. Where they are not, [`restore`] and [`exact_dot`] compute the product of
//! the floats.
//!
//! See eq. 52, 53 of docs/math.md.

use crate::precision::Precision;
use crate::signatures::RowState;

/// The terms of a step.
pub const STEP: usize = 32;
/// Slices of an operand, at most.
pub const MAX_SLICES: usize = 3;

/// The products of slices that make up a product of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Products {
    /// One product: 1 slice by 1, exact on BF16.
    X1,
    /// Two products: 2 slices by 1, exact.
    X2x1,
    /// Three products: 3 slices by 1, exact.
    X3x1,
    /// Three products of 2 slices by 2, without that of the low slices.
    X3,
    /// Four products: 2 slices by 2, exact.
    X4,
    /// Six products of 3 slices by 3, without the three smallest.
    X6,
}

impl Bf16Products {
    /// Every set of products, by the number of slices of B.
    pub const ALL: [Bf16Products; 6] = [
        Bf16Products::X1,
        Bf16Products::X2x1,
        Bf16Products::X3x1,
        Bf16Products::X3,
        Bf16Products::X4,
        Bf16Products::X6,
    ];

    /// The text of `explain`, such as "3 BF16 products of 2 by 2 slices, FP32 sums".
    #[must_use]
    pub fn describe(self) -> String {
        let (a, b, products) = (self.slices_of_a(), self.slices_of_b(), self.pairs().len());
        match self {
            Bf16Products::X1 => "BF16 products, FP32 sums".into(),
            _ => format!("{products} BF16 products of {a} by {b} slices, FP32 sums"),
        }
    }

    /// Slices of operand A.
    #[must_use]
    pub const fn slices_of_a(self) -> usize {
        match self {
            Bf16Products::X1 => 1,
            Bf16Products::X2x1 | Bf16Products::X3 | Bf16Products::X4 => 2,
            Bf16Products::X3x1 | Bf16Products::X6 => 3,
        }
    }

    /// Slices of operand B.
    #[must_use]
    pub const fn slices_of_b(self) -> usize {
        match self {
            Bf16Products::X1 | Bf16Products::X2x1 | Bf16Products::X3x1 => 1,
            Bf16Products::X3 | Bf16Products::X4 => 2,
            Bf16Products::X6 => 3,
        }
    }

    /// The products as (slice of A, slice of B), in the order in which each step adds them: consecutive products share a slice.
    #[must_use]
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

/// Elements of a row of A of `terms` terms.
#[must_use]
pub const fn row_len(terms: usize, slices: usize) -> usize {
    terms.div_ceil(STEP) * slices * STEP
}

/// As [`row_len`] for many terms. It adds a step, because the sixteen rows of a tile would share few sets of the first-level
/// cache if the distance of rows were a multiple of 512 bytes.
#[must_use]
pub const fn long_row_len(terms: usize, slices: usize) -> usize {
    row_len(terms, slices) + STEP
}

/// Elements of a panel of B of `terms` terms and `nr` columns.
#[must_use]
pub const fn panel_len(terms: usize, slices: usize, nr: usize) -> usize {
    row_len(terms, slices) * nr
}

/// Rows of floats in the caller's storage.
#[derive(Clone, Copy)]
pub struct FloatRows {
    /// The first element.
    pub ptr: *const u8,
    /// The distance of rows, in elements.
    pub ld: usize,
    /// FP32, FP16 or BF16.
    pub precision: Precision,
}

impl FloatRows {
    /// FP32 rows, `ld` elements apart.
    #[must_use]
    pub fn f32(ptr: *const f32, ld: usize) -> Self {
        FloatRows {
            ptr: ptr.cast(),
            ld,
            precision: Precision::F32,
        }
    }

    /// The rows from `row` on, from `column` on.
    #[must_use]
    pub fn from(&self, row: usize, column: usize) -> Self {
        let elements = row * self.ld + column;
        FloatRows {
            ptr: self.ptr.wrapping_add(elements * self.precision.bytes()),
            ..*self
        }
    }
}

/// Splits `n` rows of `d` floats into `slices` slices each. Returns whether all floats are finite.
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

/// As [`crate::SoftmaxF32`] on `scale * s`, for `scale > 0`. P is an A of `slices` slices, whose rows are `ldp` elements apart.
/// `s` is not changed.
pub type SoftmaxBf16 = unsafe fn(
    slices: usize,
    s: *const f32,
    rows: usize,
    n: usize,
    state: RowState,
    scale: f32,
    p: *mut u16,
    ldp: usize,
);

/// `o[i][c] *= alpha[i]`, for `rows` rows of `columns` (a multiple of `nr`).
pub type Rescale =
    unsafe fn(alpha: *const f32, rows: usize, columns: usize, o: *mut f32, ldo: usize);

/// The kernels of an instruction set whose matrix unit for bf16 is faster than its FP32 products.
#[derive(Clone, Copy)]
pub struct Bf16Kernels {
    /// Packs A, whose row `i` is row `i` of the source, for `n <= mr`; the other rows become 0.
    pub pack_rows: PackBf16,
    /// Packs A, whose row `i` is column `i` of the source, for `d <= mr`, and whose terms are the rows; the other rows become
    /// 0. Rows of A are [`long_row_len`] apart.
    pub pack_transposed: PackBf16,
    /// Packs B, whose column `c` is row `c` of the source.
    pub pack_columns: PackBf16,
    /// Packs B, whose column `c` is column `c` of the source, and whose terms are the rows.
    pub pack_panels: PackBf16,
    /// Product of a strip of A and panels of B.
    pub product: Product,
    /// Softmax step to P in slices.
    pub softmax: SoftmaxBf16,
    /// Multiplies the rows of O.
    pub rescale: Rescale,
    /// Loads and releases the tile configuration.
    pub tile_config: TileConfig,
}

/// The functions that load and release the tile configuration of a matrix unit in the calling thread. Kernels load and release
/// it themselves, unless the thread holds a [`crate::TileConfigGuard`].
#[derive(Clone, Copy)]
pub struct TileConfig {
    /// Loads the tile configuration until `release`.
    pub load: unsafe fn(),
    /// Releases the tile configuration.
    pub release: unsafe fn(),
}

/// The index of the first slice of term `t` in a row of A; the other slices follow [`STEP`] elements apart.
#[must_use]
pub const fn at_a(t: usize, slices: usize) -> usize {
    t / STEP * slices * STEP + t % 16 * 2 + t % STEP / 16
}

/// The index of the first slice of term `t` of column `c` in B; the other slices follow `STEP * nr` elements apart.
#[must_use]
pub const fn at_b(t: usize, c: usize, terms: usize, slices: usize, nr: usize) -> usize {
    c / nr * panel_len(terms, slices, nr)
        + t / STEP * slices * STEP * nr
        + (t % 16 * nr + c % nr) * 2
        + t % STEP / 16
}

/// The value of a BF16.
#[must_use]
pub fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Adds slices, `distance` elements apart, from the last to the first.
unsafe fn sum(first: *const u16, slices: usize, distance: usize) -> f32 {
    let mut x = 0.0;
    for p in (0..slices).rev() {
        x += bf16(*first.add(p * distance));
    }
    x
}

/// Term `t` of column `c` of a B that was packed with `terms` terms: the float before it was split.
///
/// # Safety
/// `b` points to a B of more than `c` columns, in panels of `nr`, with `terms > t` terms and `slices` slices.
#[must_use]
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

/// The product of a row of A and column `c` of B, in FP32 from the floats before they were split.
///
/// # Safety
/// `a` points to a row of A, `b` to a B of more than `c` columns in panels of `nr`. Both have `terms` terms and the slices of
/// `slices`.
#[must_use]
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

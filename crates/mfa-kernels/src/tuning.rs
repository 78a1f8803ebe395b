//! Block sizes, cache budgets and thresholds of the loops around the kernels.
//!
//! They depend on the speed of the kernels and on the caches of the processors that have them: each table has its own.

use crate::layout::BLOCK_N;

/// The tuning of a table.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// The forward pass.
    pub forward: ForwardTuning,
    /// The backward pass.
    pub backward: BackwardTuning,
}

/// The tuning of the forward pass.
#[derive(Clone, Copy, Debug)]
pub struct ForwardTuning {
    /// The budget of packed K and V of a block, in bytes: each strip reads them all.
    pub block_bytes: usize,
    /// The budget of Q and O of a tile, in bytes: each block reads and writes them once.
    pub tile_bytes: usize,
    /// Rows of a tile, at most: more gain nothing, and leave less to share among workers.
    pub most_rows: usize,
    /// Multiply-adds below which a second thread costs more than it saves.
    pub inline_work: f64,
    /// Tiles per worker, so that other workers can relieve a slow one.
    pub tiles_per_worker: usize,
    /// Tiles per worker where a causal mask or a window makes tiles unequal.
    pub tiles_per_worker_diagonal: usize,
    /// Keys of a split of decode, at least.
    pub split_keys: usize,
}

/// The tuning of the backward pass.
#[derive(Clone, Copy, Debug)]
pub struct BackwardTuning {
    /// Block sizes of FP32 products, by increasing `columns`; the last row has `usize::MAX`.
    pub blocks: &'static [BlockSizes],
    /// Block sizes of bf16 products, by increasing `columns`; the last row has `usize::MAX`. Empty without bf16 kernels.
    pub bf16_blocks: &'static [Bf16BlockSizes],
    /// Multiply-adds below which a second thread costs more than it saves.
    pub inline_work: f64,
    /// The cost of the two passes of a split call, in products.
    pub split_cost: f64,
    /// The cost of the fused pass, in products.
    pub fused_cost: f64,
    /// Blocks per worker in a pass over blocks, so that other workers can relieve a slow one.
    pub blocks_per_worker: usize,
}

/// The block sizes of a head dimension.
#[derive(Clone, Copy, Debug)]
pub struct BlockSizes {
    /// Columns of Q and V together, at most.
    pub columns: usize,
    /// Queries of a block.
    pub queries: usize,
    /// Keys of a block.
    pub keys: usize,
}

/// The block sizes of a head dimension with bf16 products.
#[derive(Clone, Copy, Debug)]
pub struct Bf16BlockSizes {
    /// Columns of Q and V together, at most.
    pub columns: usize,
    /// Queries and keys of a block, by the number of slices: one, two, three.
    pub by_slices: [(usize, usize); 3],
}

impl Tuning {
    /// Kernels of vectors.
    ///
    /// The budgets of the forward pass fit into a second-level cache of 1.25 MB. Smaller caches lose little, because a tile is
    /// read in order. The blocks of the backward pass, with their accumulators, take three quarters of a second-level cache of
    /// 2 MB, except the widest. Chosen by this model, not measured.
    pub const VECTORS: Self = Tuning {
        forward: ForwardTuning {
            block_bytes: 384 << 10,
            tile_bytes: 640 << 10,
            most_rows: 1024,
            inline_work: 4e5,
            tiles_per_worker: 2,
            tiles_per_worker_diagonal: 4,
            split_keys: 1024,
        },
        backward: BackwardTuning {
            blocks: &[
                blocks(160, BLOCK_N, 288),
                blocks(288, BLOCK_N, 192),
                blocks(544, BLOCK_N / 2, 144),
                blocks(usize::MAX, BLOCK_N / 4, 144),
            ],
            bf16_blocks: &[],
            inline_work: 1e5,
            split_cost: 7.0,
            fused_cost: 5.0,
            blocks_per_worker: 4,
        },
    };

    /// Kernels of a matrix unit (AMX).
    ///
    /// The budgets of the forward pass fit into the second-level cache of 2 MB that all processors with AMX have. In the backward
    /// pass with bf16 products, packing queries costs more, so that blocks of keys are long and those of queries short. The
    /// sums of keys may leave the cache, because they are read and written in order. Twice these keys bring the widest rows up
    /// to a tenth more, for twice the memory. Blocks of bf16 products were
    /// measured on AMX, 2026-11-22; the record does not name the machine.
    pub const MATRIX_UNIT: Self = Tuning {
        forward: ForwardTuning {
            block_bytes: 768 << 10,
            tile_bytes: 1280 << 10,
            ..Self::VECTORS.forward
        },
        backward: BackwardTuning {
            bf16_blocks: &[
                Bf16BlockSizes {
                    columns: 160,
                    by_slices: [(BLOCK_N, 512), (BLOCK_N / 2, 512), (BLOCK_N / 2, 512)],
                },
                Bf16BlockSizes {
                    columns: 288,
                    by_slices: [(BLOCK_N, 512), (BLOCK_N, 512), (BLOCK_N / 2, 256)],
                },
                Bf16BlockSizes {
                    columns: 544,
                    by_slices: [(BLOCK_N, 512), (BLOCK_N, 256), (BLOCK_N / 2, 256)],
                },
                Bf16BlockSizes {
                    columns: usize::MAX,
                    by_slices: [(BLOCK_N, 256), (BLOCK_N / 2, 256), (BLOCK_N / 4, 256)],
                },
            ],
            ..Self::VECTORS.backward
        },
    };
}

const fn blocks(columns: usize, queries: usize, keys: usize) -> BlockSizes {
    BlockSizes {
        columns,
        queries,
        keys,
    }
}

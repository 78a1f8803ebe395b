//! Sizes of the forward pass's tiles and blocks, from the bytes that their packed operands take of the second-level cache.

#![forbid(unsafe_code)]

use crate::contract::problem::Problem;
use crate::contract::sequences::Sequence;
use crate::operands::arithmetic::{ScoreArithmetic, ValueArithmetic};
use crate::operands::padding::padded;
use mfa_kernels::bf16_split::row_len;
use mfa_kernels::{BLOCK_N, Kernels};

/// Bytes of a row of packed Q.
pub(crate) fn q_row_bytes(scores: ScoreArithmetic<'_>, d: usize) -> usize {
    match scores {
        ScoreArithmetic::F32 => 4 * d,
        ScoreArithmetic::I8(_) => d.next_multiple_of(4),
        ScoreArithmetic::Bf16(products, _) => 2 * row_len(d, products.slices_of_a()),
    }
}

/// Bytes of a key of packed K.
pub(crate) fn k_row_bytes(kernels: &Kernels, scores: ScoreArithmetic<'_>, d: usize) -> usize {
    match scores {
        ScoreArithmetic::I8(_) => kernels.k_i8_bytes * q_row_bytes(scores, d),
        ScoreArithmetic::Bf16(products, _) => 2 * row_len(d, products.slices_of_b()),
        ScoreArithmetic::F32 => q_row_bytes(scores, d),
    }
}

/// Bytes of a key of packed V with `columns` columns, those of padding included.
pub(crate) fn v_row_bytes(values: ValueArithmetic<'_>, columns: usize) -> usize {
    let column = match values {
        ValueArithmetic::F32 => 4,
        ValueArithmetic::I16(_) => 2,
        ValueArithmetic::U8(_) => 1,
        ValueArithmetic::Bf16(products, _) => 2 * products.slices_of_b(),
    };
    column * columns
}

/// Keys of a block, and rows of a tile at most.
pub(crate) fn block_and_tile(
    kernels: &Kernels,
    (scores, values): (ScoreArithmetic<'_>, ValueArithmetic<'_>),
    (d, dv): (usize, usize),
) -> (usize, usize) {
    let tuning = &kernels.tuning.forward;
    let columns = padded(dv, kernels);
    let key_bytes = k_row_bytes(kernels, scores, d) + v_row_bytes(values, columns);
    let keys = [BLOCK_N, BLOCK_N / 2]
        .into_iter()
        .find(|keys| keys * key_bytes <= tuning.block_bytes)
        .unwrap_or(BLOCK_N / 4);
    let row_bytes = q_row_bytes(scores, d) + 4 * columns;
    let rows = (tuning.tile_bytes / row_bytes).min(tuning.most_rows) / kernels.mr * kernels.mr;
    (keys, rows.max(kernels.mr))
}

/// Rows of the tiles that `nq` rows of each query head are cut into: at most `most`, and a multiple of `mr`.
///
/// Tiles are as equal as strips allow, because a short tile packs the same keys as a tall one.
pub(crate) fn equal_tiles(most: usize, nq: usize, group: usize, mr: usize) -> usize {
    let rows = if nq >= most {
        nq
    } else {
        nq.saturating_mul(group)
    }
    .max(1);
    rows.div_ceil(rows.div_ceil(most)).next_multiple_of(mr)
}

/// Tiles of a key/value head's rows. A tile holds rows of one query head, or of several where a head has fewer rows.
pub(crate) fn tiles_of_head(nq: usize, group: usize, tile_rows: usize) -> usize {
    if nq >= tile_rows {
        nq.div_ceil(tile_rows).saturating_mul(group)
    } else {
        nq.saturating_mul(group).div_ceil(tile_rows)
    }
}

/// Tiles of a sequence, over all its heads.
pub(crate) fn tiles_of_sequence(problem: &Problem, tile_rows: usize, sequence: &Sequence) -> usize {
    let of_head = tiles_of_head(sequence.nq, problem.group, tile_rows);
    problem.kv_heads.saturating_mul(of_head)
}

/// Tiles of all sequences.
pub(crate) fn tile_count(problem: &Problem, tile_rows: usize) -> usize {
    (problem.sequences).sum(|sequence| tiles_of_sequence(problem, tile_rows, sequence))
}

#[cfg(test)]
mod tests {
    use mfa_kernels::bf16_split::Bf16Products;
    use mfa_kernels::{Isa, Precision};
    use mfa_sys as sys;

    use super::*;
    use crate::contract::array::Access;
    use crate::contract::quant_scheme::Quant;
    use crate::operands::arithmetic::Int8Scores;

    #[test]
    fn no_tile_is_short() {
        for mr in [1, 6, 14, 32] {
            for most in (1..20).map(|strips| strips * mr) {
                for (nq, group) in (1..400).flat_map(|nq| [(nq, 1), (nq, 3), (nq, 8)]) {
                    let rows = equal_tiles(most, nq, group, mr);
                    assert!(rows.is_multiple_of(mr) && rows <= most, "{mr} {most} {nq}");
                    // The same rows share a tile as with the tallest ones, and no more tiles are needed.
                    let all = if nq >= most { nq } else { nq * group };
                    assert!(rows >= nq || nq >= most, "{mr} {most} {nq} {group}");
                    assert!(all.div_ceil(rows) <= all.div_ceil(most), "{mr} {most} {nq}");
                    let last = all - (all.div_ceil(rows) - 1) * rows;
                    let short = all.div_ceil(rows) * mr;
                    assert!(
                        rows - last < short,
                        "{rows} rows, {last} in the last: {mr} {most} {nq}"
                    );
                }
            }
        }
    }

    fn quant() -> Quant {
        let raw = sys::mfa_quantization {
            scale: 1.0,
            ..sys::mfa_quantization::new()
        };
        Quant::check(&raw, "test", Precision::I8, ([1; 4], [1; 4]), Access::Plan).unwrap()
    }

    #[test]
    fn wide_operands_have_fewer_keys_and_rows() {
        let kernels = Isa::Scalar.table().unwrap();
        let size = |scores, values, d| block_and_tile(kernels, (scores, values), (d, d));
        let floats = |d| size(ScoreArithmetic::F32, ValueArithmetic::F32, d);
        assert_eq!(floats(64).0, BLOCK_N);
        assert_eq!(floats(256).0, BLOCK_N / 2);
        assert_eq!(floats(4096).0, BLOCK_N / 4);
        assert_eq!(floats(4096).1 % kernels.mr, 0);
        assert!(floats(64).1 > floats(512).1 && floats(1 << 20).1 == kernels.mr);
        let quant = &quant();
        let int8 = ScoreArithmetic::I8(Int8Scores { q: quant, k: quant });
        assert_eq!(size(int8, ValueArithmetic::I16(quant), 512).0, BLOCK_N);
        assert_eq!(2 * row_len(64, Bf16Products::X6.slices_of_b()), 3 * 2 * 64);
    }
}

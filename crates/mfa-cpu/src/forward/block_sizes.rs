//! Sizes of the forward pass's tiles and blocks, from what their packed operands take of the second-level cache.

use crate::operands::arithmetic::{Scores, Values};
use crate::operands::padding::padded;
use mfa_kernels::bf16_split::row_len;
use mfa_kernels::{BLOCK_N, Kernels};

/// Bytes of a row of packed Q.
pub(crate) fn bytes_of_q(scores: Scores, d: usize) -> usize {
    match scores {
        Scores::F32 => 4 * d,
        Scores::I8 => d.next_multiple_of(4),
        Scores::Bf16(terms) => 2 * row_len(d, terms.slices_of_a()),
    }
}

/// Bytes of a key of packed K.
pub(crate) fn bytes_of_k(scores: Scores, d: usize) -> usize {
    match scores {
        Scores::Bf16(terms) => 2 * row_len(d, terms.slices_of_b()),
        _ => bytes_of_q(scores, d),
    }
}

/// Bytes of a key of packed V with `columns` columns, those of padding included.
pub(crate) fn bytes_of_v(values: Values, columns: usize) -> usize {
    let of_a_column = match values {
        Values::F32 => 4,
        Values::I16 => 2,
        Values::U8 => 1,
        Values::Bf16(terms) => 2 * terms.slices_of_b(),
    };
    of_a_column * columns
}

/// Keys of a block, and most rows of a tile.
pub(crate) fn block_and_tile(
    kernels: &Kernels,
    (scores, values): (Scores, Values),
    (d, dv): (usize, usize),
) -> (usize, usize) {
    let tuning = &kernels.tuning.forward;
    let columns = padded(dv, kernels);
    let of_a_key = bytes_of_k(scores, d) + bytes_of_v(values, columns);
    let keys = [BLOCK_N, BLOCK_N / 2]
        .into_iter()
        .find(|keys| keys * of_a_key <= tuning.block_bytes)
        .unwrap_or(BLOCK_N / 4);
    let of_a_row = bytes_of_q(scores, d) + 4 * columns;
    let rows = (tuning.tile_bytes / of_a_row).min(tuning.most_rows) / kernels.mr * kernels.mr;
    (keys, rows.max(kernels.mr))
}

/// TileRows of the tiles that `nq` rows of each query head are cut into: at most `most`, a multiple of `mr`, and as equal as
/// strips allow, because a short tile packs the same keys as a tall one. Tiles are those of [`crate::forward::Schedule`].
pub(crate) fn equal_tiles(most: usize, nq: usize, group: usize, mr: usize) -> usize {
    let rows = if nq >= most {
        nq
    } else {
        nq.saturating_mul(group)
    }
    .max(1);
    rows.div_ceil(rows.div_ceil(most)).next_multiple_of(mr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mfa_kernels::Isa;
    use mfa_kernels::bf16_split::Bf16Products;

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

    #[test]
    fn wide_operands_have_fewer_keys_and_rows() {
        let kernels = Isa::Scalar.table().unwrap();
        let size = |scores, values, d| block_and_tile(kernels, (scores, values), (d, d));
        let floats = |d| size(Scores::F32, Values::F32, d);
        assert_eq!(floats(64).0, BLOCK_N);
        assert_eq!(floats(256).0, BLOCK_N / 2);
        assert_eq!(floats(4096).0, BLOCK_N / 4);
        assert_eq!(floats(4096).1 % kernels.mr, 0);
        assert!(floats(64).1 > floats(512).1 && floats(1 << 20).1 == kernels.mr);
        assert_eq!(size(Scores::I8, Values::I16, 512).0, BLOCK_N);
        assert!(bytes_of_k(Scores::Bf16(Bf16Products::X6), 64) == 3 * 2 * 64);
    }
}

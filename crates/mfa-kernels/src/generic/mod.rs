//! The kernels in terms of [`super::simd::Simd`], and what makes tables of them for one instruction set.

pub(super) mod decode;
pub(super) mod gradient;
pub(super) mod int8;
pub(super) mod pack;
pub(super) mod row;
pub(super) mod softmax;
pub(super) mod tile;

use super::{PackQI8, PvI16, PvU8, QkI8};

/// The integer tiles of an instruction set.
pub(super) struct Integers {
    /// Whether those of scores, and those of values, are faster than FP32 tiles.
    pub scores: bool,
    pub values: bool,
    pub q_offset: i32,
    pub pack_q_i8: PackQI8,
    pub qk_i8: QkI8,
    pub pv_i16: PvI16,
    pub pv_u8: PvU8,
}

/// Defines, in the module where it stands, every kernel but the integer tiles for the vectors `$simd` with the target
/// features `$features`, and `table`.
///
/// `tile` is a strip's rows by a panel's vectors. `rows` says, for each number of rows that are left, how many are taken (the others
/// are not stored) and how many panels at once. `decode` says, for each number of query rows that are left,
/// how many are taken, with how many keys of K, and with how many chunks of columns of V.
macro_rules! floats {
    (
        $simd:ty, $features:literal, tile: $mr:literal x $nv:literal,
        rows: [$($rows:pat => $r:literal x $p:literal),+ $(,)?],
        decode: [$($d:pat => $dr:literal x $dj:literal, $dc:literal);+ $(;)?]
    ) => {
        use $crate::generic::{Integers, decode, gradient, pack, row, softmax, tile};
        use $crate::simd::Simd;
        use $crate::{GradientKernels, Isa, Kernels, PerPrecision, RowState, SCORE_LD};

        /// The table, with the integer tiles of `tiles`.
        pub(super) const fn table(isa: Isa, tiles: Integers) -> Kernels {
            Kernels {
                isa,
                mr: $mr,
                nr: $nv * <$simd>::LANES,
                int8: tiles.scores,
                int8_values: tiles.values,
                q_offset: tiles.q_offset,
                qk_f32,
                qk_i8: tiles.qk_i8,
                softmax_f32,
                softmax_i16,
                softmax_u8,
                pv_f32,
                pv_i16: tiles.pv_i16,
                pv_u8: tiles.pv_u8,
                pack_q_f32,
                pack_q_i8: tiles.pack_q_i8,
                pack_k_f32,
                pack_k_i8,
                pack_v_f32,
                pack_v_i16,
                pack_v_i8,
                to_f32: PerPrecision {
                    f32: widen::<decode::F32>,
                    f16: widen::<decode::F16>,
                    bf16: widen::<decode::BF16>,
                    i8: widen::<decode::I8>,
                    i4: widen::<decode::I4>,
                },
                unpack_i4,
                dot_rows: PerPrecision {
                    f32: dot_rows::<decode::F32>,
                    f16: dot_rows::<decode::F16>,
                    bf16: dot_rows::<decode::BF16>,
                    i8: dot_rows::<decode::I8>,
                    i4: dot_rows::<decode::I4>,
                },
                bf16: None,
                axpy_rows: PerPrecision {
                    f32: axpy_rows::<decode::F32>,
                    f16: axpy_rows::<decode::F16>,
                    bf16: axpy_rows::<decode::BF16>,
                    i8: axpy_rows::<decode::I8>,
                    i4: axpy_rows::<decode::I4>,
                },
                mask_bool,
                mask_add,
                softcap,
                alibi,
                scale,
                to_bf16,
                gradient: GradientKernels {
                    ptv_f32,
                    softmax_gradient,
                    weighted_sums,
                    transpose,
                    row_dots,
                    bf16: None,
                },
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn qk_f32(
            q: *const f32,
            k: *const f32,
            d: usize,
            rows: usize,
            panels: usize,
            s: *mut f32,
        ) {
            let mut first = 0;
            while first < rows {
                let (q, s, left) = (q.add(first), s.add(first * SCORE_LD), rows - first);
                first += match left {
                    $($rows => {
                        tile::qk_f32::<$simd, $mr, $r, $nv, $p>(q, k, d, left, panels, s);
                        $r
                    })+
                };
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn softmax_f32(s: *mut f32, rows: usize, n: usize, state: RowState) {
            softmax::softmax_f32::<$simd>(s, rows, n, state);
        }

        #[target_feature(enable = $features)]
        unsafe fn softmax_i16(
            s: *mut f32,
            rows: usize,
            n: usize,
            state: RowState,
            v_scale: *const f32,
            p: *mut i16,
            p_scale: *mut f32,
        ) {
            softmax::softmax_i16::<$simd, softmax::InOrder, 2>(s, rows, n, state, v_scale, p, p_scale);
        }

        #[target_feature(enable = $features)]
        unsafe fn softmax_u8(
            s: *mut f32,
            rows: usize,
            n: usize,
            state: RowState,
            v_scale: *const f32,
            p: *mut u8,
            p_scale: *mut f32,
            p_sum: *mut i32,
        ) {
            softmax::softmax_u8::<$simd>(s, rows, n, state, v_scale, p, p_scale, p_sum);
        }

        #[target_feature(enable = $features)]
        unsafe fn pv_f32(
            p: *const f32,
            v: *const f32,
            packed: usize,
            n: usize,
            rows: usize,
            panels: usize,
            alpha: *const f32,
            o: *mut f32,
            ldo: usize,
        ) {
            let mut first = 0;
            while first < rows {
                let (p, alpha) = (p.add(first * SCORE_LD), alpha.add(first));
                let (o, left) = (o.add(first * ldo), rows - first);
                first += match left {
                    $($rows => {
                        tile::pv_f32::<$simd, $r, $nv, $p>(p, v, packed, n, left, panels, alpha, o, ldo);
                        $r
                    })+
                };
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn pack_q_f32(
            rows: *const f32,
            ld: usize,
            n: usize,
            d: usize,
            scale: f32,
            out: *mut f32,
        ) {
            pack::pack_q_f32::<$simd, $mr>(rows, ld, n, d, scale, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn pack_k_f32(rows: *const f32, ld: usize, n: usize, d: usize, out: *mut f32) {
            pack::pack_k_f32::<$simd, $nv>(rows, ld, n, d, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn pack_k_i8(
            rows: *const i8,
            ld: usize,
            n: usize,
            d: usize,
            out: *mut i8,
            sums: *mut i32,
        ) {
            pack::pack_k_i8::<$simd, $nv>(rows, ld, n, d, out, sums);
        }

        #[target_feature(enable = $features)]
        unsafe fn pack_v_f32(
            rows: *const f32,
            ld: usize,
            n: usize,
            d: usize,
            out: *mut f32,
        ) -> bool {
            pack::pack_v_f32::<$simd, $nv>(rows, ld, n, d, out)
        }

        #[target_feature(enable = $features)]
        unsafe fn pack_v_i16(
            rows: *const i8,
            ld: usize,
            n: usize,
            d: usize,
            zero: *const i32,
            out: *mut i16,
        ) {
            pack::pack_v_i16::<$simd, $nv>(rows, ld, n, d, zero, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn pack_v_i8(rows: *const i8, ld: usize, n: usize, d: usize, out: *mut i8) {
            pack::pack_v_i8::<$simd, $nv>(rows, ld, n, d, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn widen<E: decode::Element<$simd>>(src: *const u8, n: usize, out: *mut f32) {
            decode::widen::<$simd, E>(src, n, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn unpack_i4(src: *const u8, n: usize, out: *mut i8) {
            pack::unpack_i4(src, n, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn dot_rows<E: decode::Element<$simd>>(
            q: *const f32,
            ldq: usize,
            rows: usize,
            k: *const u8,
            stride: usize,
            n: usize,
            d: usize,
            s: *mut f32,
        ) {
            let mut first = 0;
            while first < rows {
                let (q, s) = (q.add(first * ldq), s.add(first * SCORE_LD));
                first += match rows - first {
                    $($d => {
                        decode::dot_rows::<$simd, E, $dr, $dj>(q, ldq, k, stride, n, d, s);
                        $dr
                    })+
                };
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn axpy_rows<E: decode::Element<$simd>>(
            p: *const f32,
            rows: usize,
            v: *const u8,
            stride: usize,
            n: usize,
            d: usize,
            alpha: *const f32,
            o: *mut f32,
            ldo: usize,
        ) {
            let mut first = 0;
            while first < rows {
                let (p, alpha, o) = (p.add(first * SCORE_LD), alpha.add(first), o.add(first * ldo));
                first += match rows - first {
                    $($d => {
                        decode::axpy_rows::<$simd, E, $dr, $dc>(p, v, stride, n, d, alpha, o, ldo);
                        $dr
                    })+
                };
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn mask_bool(s: *mut f32, mask: *const u8, n: usize) {
            row::mask_bool::<$simd>(s, mask, n);
        }

        #[target_feature(enable = $features)]
        unsafe fn mask_add(s: *mut f32, mask: *const f32, n: usize) {
            row::mask_add::<$simd>(s, mask, n);
        }

        #[target_feature(enable = $features)]
        unsafe fn softcap(s: *mut f32, n: usize, cap2: f32) {
            row::softcap::<$simd>(s, n, cap2);
        }

        #[target_feature(enable = $features)]
        unsafe fn alibi(s: *mut f32, n: usize, slope2: f32, first: f32) {
            row::alibi::<$simd>(s, n, slope2, first);
        }

        #[target_feature(enable = $features)]
        unsafe fn scale(x: *const f32, n: usize, factor: f32, out: *mut f32) {
            row::scale::<$simd>(x, n, factor, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn to_bf16(x: *const f32, n: usize, out: *mut u16) {
            row::to_bf16(x, n, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn ptv_f32(
            p: *const f32,
            v: *const f32,
            packed: usize,
            n: usize,
            rows: usize,
            panels: usize,
            alpha: *const f32,
            o: *mut f32,
            ldo: usize,
        ) {
            let mut first = 0;
            while first < rows {
                let (p, alpha) = (p.add(first), alpha.add(first));
                let (o, left) = (o.add(first * ldo), rows - first);
                first += match left {
                    $($rows => {
                        gradient::ptv_f32::<$simd, $r, $nv, $p>(p, v, packed, n, left, panels, alpha, o, ldo);
                        $r
                    })+
                };
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn softmax_gradient(
            s: *mut f32,
            dp: *mut f32,
            rows: usize,
            n: usize,
            l: *const f32,
            d: *const f32,
        ) {
            gradient::softmax_gradient::<$simd>(s, dp, rows, n, l, d);
        }

        #[target_feature(enable = $features)]
        unsafe fn weighted_sums(
            s: *const f32,
            dp: *const f32,
            rows: usize,
            n: usize,
            l: *const f32,
            d: *mut f32,
        ) {
            gradient::weighted_sums::<$simd>(s, dp, rows, n, l, d);
        }

        #[target_feature(enable = $features)]
        unsafe fn transpose(
            rows: *const f32,
            ld: usize,
            n: usize,
            d: usize,
            out: *mut f32,
            out_ld: usize,
        ) {
            gradient::transpose::<$simd>(rows, ld, n, d, out, out_ld);
        }

        #[target_feature(enable = $features)]
        unsafe fn row_dots(
            a: *const f32,
            lda: usize,
            b: *const f32,
            ldb: usize,
            n: usize,
            d: usize,
            out: *mut f32,
        ) {
            gradient::row_dots(a, lda, b, ldb, n, d, out);
        }
    };
}

/// Defines the integer tiles, as `INTEGERS`; arguments as those of [`floats`].
macro_rules! integers {
    (
        $simd:ty, $features:literal, scores: $scores:literal, values: $values:literal, tile: $mr:literal x $nv:literal,
        rows: [$($rows:pat => $r:literal x $p:literal),+ $(,)?]
    ) => {
        use $crate::ScoreScales;
        use $crate::generic::{Integers, int8, pack};
        use $crate::simd::{Dot4, Simd};

        pub(super) const INTEGERS: Integers = Integers {
            scores: $scores,
            values: $values,
            q_offset: match <$simd>::DOT4 {
                Dot4::Signed => 0,
                Dot4::Unsigned | Dot4::None => 128,
            },
            pack_q_i8,
            qk_i8,
            pv_i16,
            pv_u8,
        };

        #[target_feature(enable = $features)]
        unsafe fn pack_q_i8(
            rows: *const i8,
            ld: usize,
            n: usize,
            d: usize,
            out: *mut u8,
            sums: *mut i32,
        ) {
            pack::pack_q_i8::<$simd, $mr>(rows, ld, n, d, out, sums);
        }

        #[target_feature(enable = $features)]
        unsafe fn qk_i8(
            q: *const u8,
            k: *const i8,
            d4: usize,
            rows: usize,
            panels: usize,
            scales: &ScoreScales,
            s: *mut f32,
        ) {
            match rows {
                $($rows => int8::qk_i8::<$simd, $mr, $r, $nv, $p>(q, k, d4, rows, panels, scales, s),)+
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn pv_i16(
            p: *const i16,
            v: *const i16,
            packed: usize,
            n: usize,
            rows: usize,
            panels: usize,
            alpha: *const f32,
            p_scale: *const f32,
            col_scale: *const f32,
            o: *mut f32,
            ldo: usize,
        ) {
            match rows {
                $($rows => int8::pv_i16::<$simd, $r, $nv, $p>(
                    p, v, packed, n, rows, panels, alpha, p_scale, col_scale, o, ldo,
                ),)+
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn pv_u8(
            p: *const u8,
            v: *const i8,
            packed: usize,
            n: usize,
            rows: usize,
            panels: usize,
            alpha: *const f32,
            p_scale: *const f32,
            p_sum: *const i32,
            v_zero: i32,
            o: *mut f32,
            ldo: usize,
        ) {
            match rows {
                $($rows => int8::pv_u8::<$simd, $r, $nv, $p>(
                    p, v, packed, n, rows, panels, alpha, p_scale, p_sum, v_zero, o, ldo,
                ),)+
            }
        }
    };
}

pub(super) use floats;
pub(super) use integers;

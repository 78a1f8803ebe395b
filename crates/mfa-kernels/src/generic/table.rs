//! The macros that make the tables of an instruction set from the kernels of this folder.

use crate::signatures::{PackKI8, PackQI8, PvI16, PvU8, QkI8};

/// The integer kernels of a table; fields as those of [`crate::Kernels`].
pub(crate) struct Integers {
    pub(crate) int8: bool,
    pub(crate) int8_values: bool,
    pub(crate) q_offset: i32,
    pub(crate) k_i8_bytes: usize,
    pub(crate) pack_q_i8: PackQI8,
    pub(crate) pack_k_i8: PackKI8,
    pub(crate) qk_i8: QkI8,
    pub(crate) pv_i16: PvI16,
    pub(crate) pv_u8: PvU8,
    #[cfg(all(test, unix))]
    pub(crate) twin: fn() -> crate::table::Kernels,
}

/// Defines the tables of an instruction set: the module `vectors` with the kernels that do not multiply integers, and per table
/// a module of integer kernels and a static.
///
/// - `tile`: rows of a strip (MR) x vectors of a panel (NR = vectors * lanes).
/// - `rows`: for each number of rows that are left, the rows that a tile takes x the panels at once. Rows past the
///   end are computed and not stored.
/// - `decode`: for each number of query rows that are left, the rows taken x keys of K at once, chunks of columns of V at once.
/// - `tables`: name = instruction set, module of the integer kernels: vectors, target features, `int8`, `int8_values`.
macro_rules! tables {
    (
        vectors: $simd:ty, $features:tt,
        tile: $mr:tt x $nv:tt,
        rows: $rows:tt,
        decode: $decode:tt,
        tuning: $tuning:expr,
        tables: [$(
            $table:ident = $isa:expr, $module:ident: $isimd:ty, $ifeatures:tt,
            int8: $int8:tt, int8_values: $values:tt
        );+ $(;)?]
    ) => {
        /// The kernels that do not multiply integers.
        mod vectors {
            use super::*;
            $crate::generic::floats! {
                $simd, $features, tile: $mr x $nv, rows: $rows, decode: $decode
            }
            $crate::generic::quantized! { $simd, $features, decode: $decode }
        }
        $(
            /// The kernels that multiply integers.
            mod $module {
                use super::*;
                $crate::generic::integers! {
                    $isimd, $ifeatures, int8: $int8, int8_values: $values, tile: $mr x $nv, rows: $rows
                }
            }
            pub(crate) static $table: $crate::Kernels =
                vectors::table($isa, $module::INTEGERS, $tuning);
        )+
    };
}

/// Defines, in the module that calls it, every kernel except the integer kernels for the vectors `$simd` with the target
/// features `$features`, and `table`. Arguments are those of [`tables`].
macro_rules! floats {
    (
        $simd:ty, $features:literal, tile: $mr:literal x $nv:literal,
        rows: [$($rows:pat => $r:literal x $p:literal),+ $(,)?],
        decode: [$($d:pat => $dr:literal x $dj:literal, $dc:literal);+ $(;)?]
    ) => {
        use $crate::generic::{Integers, decode, gradient, pack, row, softmax, softmax_integers, tile};
        use $crate::simd::Simd;
        use $crate::{
            GradientKernels, IntegerLayout, Isa, Kernels, PerPrecision, RowState, SCORE_LD, Tuning,
        };

        $crate::generic::quantize_table::quantize! { $simd, $features }

        /// The table with the integer kernels `integers`.
        pub(super) const fn table(isa: Isa, integers: Integers, tuning: Tuning) -> Kernels {
            Kernels {
                isa,
                mr: $mr,
                nr: $nv * <$simd>::LANES,
                tuning,
                #[cfg(all(test, unix))]
                twin: integers.twin,
                int8: integers.int8,
                int8_values: integers.int8_values,
                q_offset: integers.q_offset,
                k_i8_bytes: integers.k_i8_bytes,
                integer_layout: IntegerLayout::Pairs,
                qk_f32,
                qk_i8: integers.qk_i8,
                softmax_f32,
                softmax_i16,
                softmax_u8,
                pv_f32,
                pv_i16: integers.pv_i16,
                pv_u8: integers.pv_u8,
                pack_q_f32,
                pack_q_i8: integers.pack_q_i8,
                pack_k_f32,
                pack_k_i8: integers.pack_k_i8,
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
                quantized: QUANTIZED,
                mask_bool,
                mask_add,
                softcap,
                alibi,
                prefetch,
                scale,
                to_bf16,
                to_f16,
                quantize: QUANTIZE,
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
            const C: usize = softmax_integers::chains(<$simd>::LANES);
            softmax_integers::softmax_integers::<$simd, softmax_integers::Words, C, C>(
                s, rows, n, state, v_scale, p, p_scale, std::ptr::null_mut(),
            );
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
            const C: usize = softmax_integers::chains(<$simd>::LANES);
            softmax_integers::softmax_integers::<$simd, softmax_integers::Bytes, 4, C>(
                s, rows, n, state, v_scale, p, p_scale, p_sum,
            );
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
                        decode::dot_rows::<$simd, E, _, $dr, $dj>(q, ldq, k, stride, n, d, decode::Unscaled, s);
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
                        let scales = decode::Unscaled;
                        decode::axpy_rows::<$simd, E, _, $dr, $dc>(p, v, stride, n, d, scales, alpha, o, ldo);
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
        unsafe fn prefetch(p: *const u8, bytes: usize) {
            row::prefetch::<$simd>(p, bytes);
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
        unsafe fn to_f16(x: *const f32, n: usize, out: *mut u16) {
            row::to_f16::<$simd>(x, n, out);
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

/// Defines, in the module that calls it, the integer kernels, as `INTEGERS`. Arguments are those of [`tables`].
macro_rules! integers {
    (
        $simd:ty, $features:literal, int8: $int8:literal, int8_values: $values:literal, tile: $mr:literal x $nv:literal,
        rows: [$($rows:pat => $r:literal x $p:literal),+ $(,)?]
    ) => {
        use $crate::ScoreScales;
        use $crate::generic::{Integers, int8, pack};
        use $crate::simd::{Dot4, Simd};

        const OFFSET: i32 = match <$simd>::DOT4 {
            Dot4::Signed => 0,
            Dot4::Unsigned | Dot4::None => 128,
        };

        const WIDE_K: bool = matches!(<$simd>::DOT4, Dot4::None);

        pub(super) const INTEGERS: Integers = Integers {
            int8: $int8,
            int8_values: $values,
            q_offset: OFFSET,
            k_i8_bytes: if WIDE_K { 2 } else { 1 },
            pack_q_i8,
            pack_k_i8,
            qk_i8,
            pv_i16,
            pv_u8,
            #[cfg(all(test, unix))]
            twin: $crate::scalar::twin::<$mr, { $nv * <$simd>::LANES }, OFFSET>,
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
        unsafe fn pack_k_i8(
            rows: *const i8,
            ld: usize,
            n: usize,
            d: usize,
            out: *mut i8,
            sums: *mut i32,
        ) {
            pack::pack_k_i8::<$simd, $nv, WIDE_K>(rows, ld, n, d, out, sums);
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

pub(crate) use floats;
pub(crate) use integers;
pub(crate) use tables;

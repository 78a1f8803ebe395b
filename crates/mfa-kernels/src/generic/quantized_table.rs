//! The macro that makes the kernels of [`crate::quantized`] of an instruction set.

/// Defines, in the module that calls it, the kernels of scales within a row for the vectors `$simd` with the target features
/// `$features`, as `QUANTIZED`. `decode` as for [`super::tables`].
macro_rules! quantized {
    (
        $simd:ty, $features:literal,
        decode: [$($d:pat => $dr:literal x $dj:literal, $dc:literal);+ $(;)?]
    ) => {
        use $crate::generic::quantized::Groups;
        use $crate::quantized::{ChannelScales, GroupScales, QuantizedKernels};
        use $crate::PerInteger;

        const QUANTIZED: QuantizedKernels = QuantizedKernels {
            dot_groups: PerInteger {
                i8: dot_groups::<decode::I8>,
                i4: dot_groups::<decode::I4>,
            },
            axpy_groups: PerInteger {
                i8: axpy_groups::<decode::I8>,
                i4: axpy_groups::<decode::I4>,
            },
            dequantize_groups: PerInteger {
                i8: dequantize_groups::<decode::I8>,
                i4: dequantize_groups::<decode::I4>,
            },
            dequantize_channels: PerInteger {
                i8: dequantize_channels::<decode::I8>,
                i4: dequantize_channels::<decode::I4>,
            },
            scale_columns,
            add_channels,
        };

        #[target_feature(enable = $features)]
        unsafe fn dot_groups<E: decode::Element<$simd>>(
            q: *const f32,
            ldq: usize,
            rows: usize,
            k: *const u8,
            stride: usize,
            n: usize,
            d: usize,
            scales: GroupScales,
            s: *mut f32,
        ) {
            let mut first = 0;
            while first < rows {
                let (q, s) = (q.add(first * ldq), s.add(first * SCORE_LD));
                first += match rows - first {
                    $($d => {
                        if scales.zero.is_null() {
                            let scales = Groups::<false>(scales);
                            decode::dot_rows::<$simd, E, _, $dr, $dj>(q, ldq, k, stride, n, d, scales, s);
                        } else {
                            let scales = Groups::<true>(scales);
                            decode::dot_rows::<$simd, E, _, $dr, $dj>(q, ldq, k, stride, n, d, scales, s);
                        }
                        $dr
                    })+
                };
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn axpy_groups<E: decode::Element<$simd>>(
            p: *const f32,
            rows: usize,
            v: *const u8,
            stride: usize,
            n: usize,
            d: usize,
            scales: GroupScales,
            alpha: *const f32,
            o: *mut f32,
            ldo: usize,
        ) {
            let mut first = 0;
            while first < rows {
                let (p, alpha, o) = (p.add(first * SCORE_LD), alpha.add(first), o.add(first * ldo));
                first += match rows - first {
                    $($d => {
                        if scales.zero.is_null() {
                            let scales = Groups::<false>(scales);
                            decode::axpy_rows::<$simd, E, _, $dr, $dc>(
                                p, v, stride, n, d, scales, alpha, o, ldo,
                            );
                        } else {
                            let scales = Groups::<true>(scales);
                            decode::axpy_rows::<$simd, E, _, $dr, $dc>(
                                p, v, stride, n, d, scales, alpha, o, ldo,
                            );
                        }
                        $dr
                    })+
                };
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn dequantize_groups<E: decode::Element<$simd>>(
            x: *const u8,
            stride: usize,
            n: usize,
            d: usize,
            scales: GroupScales,
            mean: *const f32,
            out: *mut f32,
            ld: usize,
        ) {
            if scales.zero.is_null() {
                let scales = Groups::<false>(scales);
                $crate::generic::quantized::dequantize_groups::<$simd, E, _>(x, stride, n, d, scales, mean, out, ld);
            } else {
                let scales = Groups::<true>(scales);
                $crate::generic::quantized::dequantize_groups::<$simd, E, _>(x, stride, n, d, scales, mean, out, ld);
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn dequantize_channels<E: decode::Element<$simd>>(
            x: *const u8,
            stride: usize,
            n: usize,
            d: usize,
            scales: ChannelScales,
            mean: *const f32,
            out: *mut f32,
            ld: usize,
        ) {
            if scales.zero.is_null() {
                $crate::generic::quantized::dequantize_channels::<$simd, E, false>(x, stride, n, d, scales, mean, out, ld);
            } else {
                $crate::generic::quantized::dequantize_channels::<$simd, E, true>(x, stride, n, d, scales, mean, out, ld);
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn scale_columns(
            q: *const f32,
            ld: usize,
            rows: usize,
            d: usize,
            scales: ChannelScales,
            out: *mut f32,
            sums: *mut f32,
        ) {
            $crate::generic::quantized::scale_columns::<$simd>(q, ld, rows, d, scales, out, sums);
        }

        #[target_feature(enable = $features)]
        unsafe fn add_channels(
            x: *const f32,
            p: *const f32,
            n: usize,
            rows: usize,
            d: usize,
            scales: ChannelScales,
            alpha: *const f32,
            o: *mut f32,
            ldo: usize,
        ) {
            $crate::generic::quantized::add_channels::<$simd>(x, p, n, rows, d, scales, alpha, o, ldo);
        }
    };
}

pub(crate) use quantized;

//! The macro that makes the kernels of [`crate::QuantizeKernels`] for an instruction set.

/// Defines, in the module that calls it, the kernels that quantize, as `QUANTIZE`. Arguments are those of
/// [`super::tables`].
macro_rules! quantize {
    ($simd:ty, $features:literal) => {
        use $crate::generic::quantize;
        use $crate::quantize::{QuantizeKernels, RowError, RowScales, ScaleRule};

        const QUANTIZE: QuantizeKernels = QuantizeKernels {
            extremes,
            is_finite,
            column_extremes,
            column_sums,
            add_row,
            rotate,
            round,
            pack_i4,
            measure,
            parameters,
        };

        #[target_feature(enable = $features)]
        unsafe fn extremes(
            x: *const f32,
            n: usize,
            group: usize,
            min: *mut f32,
            max: *mut f32,
        ) -> bool {
            quantize::extremes::<$simd>(x, n, group, min, max)
        }

        #[target_feature(enable = $features)]
        unsafe fn is_finite(x: *const f32, n: usize) -> bool {
            quantize::is_finite::<$simd>(x, n)
        }

        #[target_feature(enable = $features)]
        unsafe fn column_extremes(
            x: *const f32,
            ld: usize,
            rows: usize,
            n: usize,
            min: *mut f32,
            max: *mut f32,
        ) {
            quantize::column_extremes::<$simd>(x, ld, rows, n, min, max);
        }

        #[target_feature(enable = $features)]
        unsafe fn column_sums(x: *const f32, ld: usize, rows: usize, n: usize, sums: *mut f64) {
            quantize::column_sums(x, ld, rows, n, sums);
        }

        #[target_feature(enable = $features)]
        unsafe fn add_row(x: *const f32, y: *const f32, sign: f32, n: usize, out: *mut f32) {
            quantize::add_row::<$simd>(x, y, sign, n, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn rotate(x: *const f32, n: usize, out: *mut f32) {
            quantize::rotate::<$simd>(x, n, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn round(
            x: *const f32,
            n: usize,
            scales: &RowScales,
            low: f32,
            high: f32,
            out: *mut i8,
        ) {
            quantize::round::<$simd>(x, n, scales, low, high, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn pack_i4(codes: *const i8, n: usize, out: *mut u8) {
            quantize::pack_i4(codes, n, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn measure(dequantized: *const f32, source: *const f32, n: usize) -> RowError {
            quantize::measure(dequantized, source, n)
        }

        #[target_feature(enable = $features)]
        unsafe fn parameters(
            min: *const f32,
            max: *const f32,
            n: usize,
            rule: &ScaleRule,
            scale: *mut f32,
            zero: *mut f32,
        ) {
            quantize::parameters(min, max, n, rule, scale, zero);
        }
    };
}

pub(crate) use quantize;

import Metal

/// The options by which every text is compiled, in the product and in its tests: language 3.1 (bfloat), and the same
/// mathematics on every system. Kernels distinguish NaN and infinities from numbers, and rely on correctly rounded
/// division.
///
/// `fastMathEnabled = false` of macOS 14 means safe mathematics and precise functions; `mathMode` of macOS 15 leaves
/// functions fast, which are said apart. Texts that want fast functions name them: `fast::exp2`.
package func compileOptions() -> MTLCompileOptions {
  let options = MTLCompileOptions()
  options.languageVersion = .version3_1
  if #available(macOS 15, iOS 18, *) {
    options.mathMode = .safe
    options.mathFloatingPointFunctions = .precise
  } else {
    options.fastMathEnabled = false
  }
  return options
}

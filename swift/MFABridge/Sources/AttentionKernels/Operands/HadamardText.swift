/// The Hadamard rotation of rows that are held in registers: H_b = H_(b/8) ⊗ H_8, so a row of 8×8 matrices is
/// multiplied by H_8 and then passes butterflies between whole matrices. No memory is touched, unless SIMD groups share
/// a row.
///
/// See eq. 43, 44 of docs/math.md.
struct HadamardText {
  /// b, the largest power of two that divides the columns.
  let size: Int
  /// 8×8 matrices of a strip that a SIMD group holds.
  let fragments: Int
  /// SIMD groups that share a strip.
  let splits: Int

  /// Matrices within a butterfly stage of this SIMD group.
  private var local: Int { min(size / 8, fragments) }
  private var crosses: Bool { size > 8 * fragments && splits > 1 }

  /// Declares `hadamard`, the 8×8 part, with the whole factor 1 / √b.
  static func setup(size: Int) -> String {
    let block = min(size, 8)
    let sign = block == 8 ? "sign" : "origin.y / \(block) == (origin.x + e) / \(block) ? sign : 0.0f"
    let scale = "\(1 / Double(size).squareRoot())f"
    return """
      float2 signs;
      for (ushort e = 0; e < 2; ++e) {
        const float sign = popcount(origin.y & (origin.x + e)\(block == 8 ? "" : " & \(block - 1)")) & 1 ? -\(scale) \
      : \(scale);
        signs[e] = \(sign);
      }
      simdgroup_matrix_storage<float> hadamard;
      hadamard.set(signs);
      """
  }

  /// Rotates the float matrices `x[0 ..< fragments]`. `exchange`: threadgroup floats, 64 for each SIMD group, if SIMD
  /// groups share a row; all SIMD groups of the threadgroup must then arrive. `isFree`: a barrier, or nothing, lies
  /// between its last use and this one.
  func rotate(_ x: String, exchange: String, isFree: Bool) -> String {
    guard size > 1 else { return "" }
    return Text.lines(
      """
      \(Text.unrolled)
      for (ushort i = 0; i < \(fragments); ++i) {
        simdgroup_matrix_storage<float> rotated;
        rotated.clear();
        rotated.multiply(\(x)[i], hadamard);
        \(x)[i].matrix = rotated.matrix;
      }
      """,
      when(
        local > 1,
        """
        \(Text.unrolled)
        for (ushort stage = 1; stage < \(local); stage *= 2) {
          \(Text.unrolled)
          for (ushort i = 0; i < \(fragments); ++i) {
            if ((i & stage) == 0) {
              const float2 a = \(x)[i].get(), b = \(x)[i + stage].get();
              \(x)[i].set(a + b);
              \(x)[i + stage].set(a - b);
            }
          }
        }
        """),
      when(
        crosses,
        """
        // The last stages pair matrices of different SIMD groups.
        \(when(!isFree, "threadgroup_barrier(mem_flags::mem_threadgroup);"))
        for (ushort stage = 1; stage < \(splits); stage *= 2) {
          \(Text.unrolled)
          for (ushort i = 0; i < \(fragments); ++i) {
            \(x)[i].store(\(exchange) + 64 * simd_index, 8);
            threadgroup_barrier(mem_flags::mem_threadgroup);
            simdgroup_matrix_storage<float> other;
            other.load(\(exchange) + 64 * (simd_index ^ stage), 8);
            const float2 a = \(x)[i].get(), b = other.get();
            \(x)[i].set(part & stage ? b - a : a + b);
            threadgroup_barrier(mem_flags::mem_threadgroup);
          }
        }
        """))
  }
}

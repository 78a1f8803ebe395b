/// The pieces of text that skip masked blocks: a block of keys costs a read of its mask, and no more where it is masked
/// for all rows.
struct MaskText {
  let descriptor: AttentionKernelDescriptor
  /// Matrices of a block, and SIMD groups of the threadgroup.
  let blocks: Int, simdgroups: Int
  /// The stride of `mask_row`, in elements.
  var stride = "args.mask.column"

  private var isPresent: Bool { descriptor.mask != .none }

  /// Tests that key `at` is not masked for the row of `mask_row`.
  static func isUnmasked(
    _ mask: AttentionKernelDescriptor.Mask, _ maskRow: String, _ at: String, _ stride: String
  ) -> String {
    let element = "\(maskRow)[\(at) * \(stride)]"
    return mask == .BOOL ? "\(element) != 0" : "float(\(element)) != -INFINITY"
  }

  /// Declares `shown`: some key of the block from `first` is unmasked for some row of the SIMD group. Needs lowest,
  /// highest, mask_row.
  var anyUnmasked: String {
    when(
      isPresent,
      """
      bool shown = false;
      \(Text.unrolled)
      for (ushort i = 0; i < \(2 * blocks); ++i) {
        const int at = first + 8 * (i / 2) + origin.x + i % 2;
        if (at >= lowest && at < highest) shown = shown \
      || \(Self.isUnmasked(descriptor.mask, "mask_row", "at", stride));
      }
      shown = simd_any(shown);
      """)
  }

  // MARK: For threadgroups that dequantize tiles together

  func addMemory(_ memory: inout ThreadgroupMemory) {
    if isPresent { memory.add("uint", "mask_shows", 2 * simdgroups) }
  }

  /// Declared once, before all loops over tiles: SIMD groups publish to two places in turn, so that one barrier
  /// suffices.
  var setup: String { when(isPresent, "ushort mask_turn = 0;") }

  /// Publishes `shown` to the other SIMD groups, before the barrier at the start of a tile.
  var publish: String {
    when(
      isPresent,
      """
      mask_turn ^= 1;
      if (lane == 0) mask_shows[\(simdgroups) * mask_turn + simd_index] = shown;
      """)
  }

  /// Skips the tile, after the barrier, if it is masked for all.
  var skipMasked: String {
    when(
      isPresent,
      """
      bool shown_to_any = false;
      for (ushort i = 0; i < \(simdgroups); ++i) shown_to_any = shown_to_any || mask_shows[\(simdgroups) * mask_turn \
      + i] != 0;
      if (!shown_to_any) continue;
      """)
  }
}

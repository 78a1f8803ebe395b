/// The pieces of text that skip what a mask hides: a block of keys costs a read of its mask, and no more where no row sees any of it.
struct MaskText {
  let descriptor: AttentionKernelDescriptor
  /// Matrices of a block, and SIMD groups of the threadgroup.
  let blocks: Int, simdgroups: Int
  /// From one element of `mask_row` to the next.
  var stride = "args.mask.column"

  private var isPresent: Bool { descriptor.mask != .none }

  /// Whether the mask shows key `at` to the row of which `mask_row` is the mask.
  static func shows(_ mask: AttentionKernelDescriptor.Mask, _ maskRow: String, _ at: String, _ stride: String) -> String {
    let element = "\(maskRow)[\(at) * \(stride)]"
    return mask == .BOOL ? "\(element) != 0" : "float(\(element)) != -INFINITY"
  }

  /// Declares `shown`: whether a row of the SIMD group sees any of the block from `first`. Needs lowest, highest, mask_row.
  var shown: String {
    when(
      isPresent,
      """
      bool shown = false;
      \(Text.unrolled)
      for (ushort i = 0; i < \(2 * blocks); ++i) {
        const int at = first + 8 * (i / 2) + origin.x + i % 2;
        if (at >= lowest && at < highest) shown = shown || \(Self.shows(descriptor.mask, "mask_row", "at", stride));
      }
      shown = simd_any(shown);
      """)
  }

  // MARK: For threadgroups that expand tiles together

  func addMemory(_ memory: inout ThreadgroupMemory) {
    if isPresent { memory.add("uint", "mask_shows", 2 * simdgroups) }
  }

  /// Declared once, before all loops over tiles: SIMD groups tell one another by turns in two places, so that one barrier will do.
  var setup: String { when(isPresent, "ushort mask_turn = 0;") }

  /// Before the barrier at the start of a tile: tells the others what `shown` says.
  var tell: String {
    when(
      isPresent,
      """
      mask_turn ^= 1;
      if (lane == 0) mask_shows[\(simdgroups) * mask_turn + simd_index] = shown;
      """)
  }

  /// After it: leaves the tile if it is hidden from all.
  var skip: String {
    when(
      isPresent,
      """
      bool shown_to_any = false;
      for (ushort i = 0; i < \(simdgroups); ++i) shown_to_any = shown_to_any || mask_shows[\(simdgroups) * mask_turn + i] != 0;
      if (!shown_to_any) continue;
      """)
  }
}

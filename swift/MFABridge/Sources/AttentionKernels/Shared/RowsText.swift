/// The pieces of text that declare a lane's row and its key range (eq. 4, 5 of docs/math.md).
enum RowsText {
  /// Declares batch, sequence, query_rows (and with varlen query_start). `z` counts batches or sequences.
  static func batch(_ descriptor: AttentionKernelDescriptor, z: String) -> String {
    descriptor.isVariableLength
      ? """
      const uint batch = 0, sequence = \(z);
      const int query_start = cumulative_q[args.cumulative_q_offset + sequence];
      const int query_rows = cumulative_q[args.cumulative_q_offset + sequence + 1] - query_start;
      """
      : """
      const uint batch = \(z), sequence = batch;
      const int query_rows = args.query_rows;
      """
  }

  /// Declares the variables of `batch`, key_rows (with varlen key_start) and shift.
  static func sequence(_ descriptor: AttentionKernelDescriptor, z: String) -> String {
    let stored =
      descriptor.isVariableLength
      ? "cumulative_k[args.cumulative_k_offset + sequence + 1] - key_start" : "args.key_rows"
    let (lengths, isKeySide) = (descriptor.hasKeyLengths, descriptor.kind == .backwardKeyValue)
    let keys = Text.lines(
      when(descriptor.isVariableLength, "const int key_start = cumulative_k[args.cumulative_k_offset + sequence];"),
      when(lengths && isKeySide, "const int stored_keys = \(stored);"),
      "const int key_rows = \(lengths ? "cumulative_k[args.key_lengths_offset + sequence]" : stored);")
    return """
      \(batch(descriptor, z: z))
      \(keys)
      const int shift = args.bottom_right ? key_rows - query_rows : 0;  // row i stands at key position i + shift
      """
  }

  /// The key range of a row: `[keyRangeBegin, keyRangeEnd)`.
  static func keyRangeBegin(_ row: String) -> String { "max(0, \(row) + shift - args.window_left)" }
  static func keyRangeEnd(_ row: String) -> String { "min(key_rows, \(row) + shift + args.window_right + 1)" }

  /// The slope of a head. A sequence without keys may have no slope: rows after the last one.
  static func slope(_ descriptor: AttentionKernelDescriptor) -> String {
    let slope = "float(slopes[args.slopes.offset + sequence * args.slopes.batch + head * args.slopes.head])"
    return descriptor.isVariableLength && descriptor.hasKeyLengths ? "key_rows > 0 ? \(slope) : 0.0f" : slope
  }

  /// Declares a lane's inputs of the score modification: position, mask_row, slope. Needs batch, sequence, head, row.
  static func scoreMod(_ descriptor: AttentionKernelDescriptor) -> String {
    let mask = descriptor.mask.storageType
    return Text.lines(
      when(descriptor.hasALiBi, "const int position = row + shift;"),
      when(descriptor.hasALiBi, "const float slope = \(slope(descriptor));"),
      when(
        !mask.isEmpty,
        "const device \(mask) *mask_row = mask + args.mask.offset + sequence * args.mask.batch "
          + "+ head * args.mask.head + row * args.mask.row;"
      ))
  }

  /// Sums over the four lanes that have a row.
  static func sumOfRow(_ variable: String) -> String {
    """
    \(variable) += simd_shuffle_xor(\(variable), 1);
    \(variable) += simd_shuffle_xor(\(variable), 8);
    """
  }
}

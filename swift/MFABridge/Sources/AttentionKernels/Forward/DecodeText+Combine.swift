/// See eq. 20 of docs/math.md.
extension DecodeText {
  /// The sums of the SIMD groups that had different keys, in order; then O and L, or the threadgroup's part of them.
  var combine: String {
    """
    \(result.originalValues(exchange: "scratch", isFree: false))

    \(combineStatistics)
    \(storeStatistics)

    \(combineOutput)
    """
  }

  /// The number of SIMD group `g` of those that have the lane's columns.
  private var group: String { splits > 1 ? "(\(splits) * g + part)" : "g" }
  private var isFirst: String { "origin.x == 0 && simd_index == 0" }

  /// Finds the maximum and the sum of all keys, and `own_weight`, the factor of this SIMD group's output.
  private var combineStatistics: String {
    """
    // Every SIMD group had some of the keys: bring the sums to the largest maximum.
    threadgroup float *own_statistics = statistics + 24 * simd_index + 3 * origin.y;
    if (origin.x == 0) {
      own_statistics[0] = maximum;
      own_statistics[1] = sum;
      own_statistics[2] = seen ? 1.0f : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const float own_maximum = maximum;
    sum = 0;
    for (ushort g = 0; g < \(splitK); ++g) {
      const threadgroup float *of_group = statistics + 24 * \(group) + 3 * origin.y;
      maximum = max(maximum, of_group[0]);
      seen = seen || of_group[2] != 0;
    }
    for (ushort g = 0; g < \(splitK); ++g) {
      const threadgroup float *of_group = statistics + 24 * \(group) + 3 * origin.y;
      sum += (of_group[0] == -INFINITY ? 0.0f : \(softmax.score.exp("of_group[0] - maximum"))) * of_group[1];
    }
    const float own_weight = own_maximum == -INFINITY ? 0.0f : \(softmax.score.exp("own_maximum - maximum"));
    """
  }

  /// Writes the threadgroup's maximum and sum, or logsumexp, and declares the address of its output.
  private var storeStatistics: String {
    isSplit
      ? """
      const ulong part_index = ((ulong(group.z) * args.heads + head) * args.query_rows + row) * args.splits + split;
      if (exists && \(isFirst)) {
        partial_statistics[2 * part_index] = maximum;
        partial_statistics[2 * part_index + 1] = sum == 0 && seen ? -1.0f : sum;  // -1: keys, but all scores -INFINITY
      }
      """
      : """
      \(softmax.normalise)
      \(EpilogueText.outputRow(descriptor))
      \(when(descriptor.writesLogsumexp, "if (exists && \(isFirst)) \(EpilogueText.logsumexp(descriptor))"))
      """
  }

  /// Adds up the outputs of the SIMD groups, [8, 8 · chunk] at a time, and stores them.
  private var combineOutput: String {
    let chunk = scratch / 64, fragments = tiling.outputFragments, count = value.interleaved
    // Interleaved columns return to their order: column c of the j-th of `count` matrices is count · c + j.
    let storePart =
      count > 1
      ? "output[base + i].store(own + \(64 * count) * (i / \(count)) + 8 * (i % \(count)), \(8 * count), true);  "
        + "// column c of the j-th matrix of \(count) is \(count) * c + j"
      : "output[base + i].store(own + 64 * i, 8);"
    let padded = 8 * fragments * splits > descriptor.valueDimension
    let column = splits > 1 ? "\(8 * fragments) * part + 8 * (base + i) + origin.x" : "8 * (base + i) + origin.x"
    let partial = (0..<2).map { e in
      let store = "partial_output[part_index * \(descriptor.valueDimension) + column\(e == 0 ? "" : " + 1")] = x[\(e)];"
      return padded ? "if (column\(e == 0 ? "" : " + 1") < \(descriptor.valueDimension)) \(store)" : store
    }.joined(separator: "\n")
    return """
      \(Text.unrolled)
      for (ushort base = 0; base < \(fragments); base += \(chunk)) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        \(Text.unrolled)
        for (ushort i = 0; i < \(chunk); ++i) {
          if (base + i < \(fragments)) {
            output[base + i].set(output[base + i].get() * own_weight);
            \(storePart)
          }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (ushort i = strip; i < \(chunk) && base + i < \(fragments); i += \(splitK)) {
          float2 x = 0;
          for (ushort g = 0; g < \(splitK); ++g) {
            simdgroup_matrix_storage<float> addend;
            addend.load(scratch + \(group) * \(scratch) + 64 * i, 8\(count > 1 ? ", true" : ""));
            x += addend.get();
          }
          if (exists) {
            const uint column = \(column);
            \(isSplit ? partial : "x *= normaliser;\n" + EpilogueText.storePair(descriptor, isPadded: padded))
          }
        }
      }
      """
  }
}

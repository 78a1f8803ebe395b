/// The forward kernel for few query rows: the query heads that share a key head are folded into strips of 8 rows. SIMD
/// groups take blocks of keys in turn, dequantize in registers, and combine their sums in order at the end. With
/// split-K, so do threadgroups, in a separate kernel (`ForwardMergeText`).
struct DecodeText {
  let descriptor: AttentionKernelDescriptor
  let tiling: ForwardTiling
  let key, value: OperandText
  let query: QueryText
  let softmax: SoftmaxText
  let result: EpilogueText

  var splits: Int { tiling.tiles.splitD }
  var splitK: Int { tiling.tiles.splitK }
  var block: Int { tiling.tiles.block }
  var isSplit: Bool { descriptor.schedule == .decodeSplit }

  init(_ descriptor: AttentionKernelDescriptor, _ profile: DeviceProfile) throws(AttentionKernelError) {
    self.descriptor = descriptor
    tiling = try ForwardTiling(descriptor, profile)
    var (key, value) = (OperandText(.K, descriptor), OperandText(.V, descriptor))
    key.interleaveMatrices(of: tiling.queryFragments)
    value.interleaveMatrices(of: tiling.outputFragments)
    (self.key, self.value) = (key, value)
    let (splits, blocks) = (tiling.tiles.splitD, tiling.tiles.block / 8)
    query = QueryText(descriptor, key: key, fragments: tiling.queryFragments, splits: splits)
    softmax = SoftmaxText(score: ScoreText(descriptor), value: value, blocks: blocks, fragments: tiling.outputFragments)
    result = EpilogueText(descriptor: descriptor, value: value, fragments: tiling.outputFragments, splits: splits)
  }

  /// Floats of a SIMD group's part of `scratch`, [8, max(block, 8 · interleaved)].
  var scratch: Int { 8 * max(block, 8 * key.interleaved, 8 * value.interleaved) }

  var kernel: KernelBody {
    var memory = ThreadgroupMemory()
    memory.add("float", "scratch", tiling.tiles.simdgroups * scratch)
    memory.add("float", "statistics", 8 * 3 * tiling.tiles.simdgroups)
    if value.mayBeNonFinite { memory.add("float", "weights", tiling.tiles.simdgroups * 8 * block) }
    return KernelBody(
      tiles: tiling.tiles, memory: memory,
      summary: "8 rows a threadgroup, \(splitK) x \(block) keys at a time"
        + (splits > 1 ? ", \(splits) SIMD groups a strip" : ""), body: body)
  }

  var body: String {
    """
    const uint2 origin = lane_origin(lane);
    \(tiling.tiles.declareStrip)
    \(foldedStrip)
    const uint key_head = group.y;
    \(RowsText.sequence(descriptor, z: "group.z"))

    // Rows of the tile: query rows of the first query head, then of the next. \
    Rows past the end stand in for the last one.
    const int folded_rows = query_rows * int(args.heads_per_key_head), folded_row = 8 * folded_strip + origin.y;
    if (int(8 * folded_strip) >= folded_rows) return;
    const bool exists = folded_row < folded_rows;
    const int present_row = min(folded_row, folded_rows - 1);
    const uint head = key_head * args.heads_per_key_head + present_row / query_rows;
    const int row = present_row % query_rows;
    const int lowest = \(RowsText.keyRangeBegin("row")), highest = \(RowsText.keyRangeEnd("row"));
    // Keys that all rows see, and keys that any row sees: in a strip of several heads, any row may be there.
    const int whole_begin = \(RowsText.keyRangeBegin("(query_rows - 1)")), whole_end = \(RowsText.keyRangeEnd("0"));
    \(range)
    \(RowsText.scoreMod(descriptor))

    threadgroup float *own = scratch + simd_index * \(scratch);
    \(key.setup)
    \(query.load(exchange: "scratch"))
    \(transposeQuery)
    \(value.setup)

    \(softmax.state)
    \(loop)

    \(softmax.reduce)
    \(combine)
    """
  }

  /// Declares `folded_strip`, that of the threadgroup, and with split-K `split`, its part of the keys.
  private var foldedStrip: String {
    isSplit
      ? "const uint split = group.x % args.splits, folded_strip = group.x / args.splits;"
      : "const uint folded_strip = group.x;"
  }

  /// Declares begin and end: the threadgroup's keys.
  var range: String {
    let (all, upTo) = (RowsText.keyRangeBegin("0"), RowsText.keyRangeEnd("(query_rows - 1)"))
    guard isSplit else { return "const int begin = \(all), end = \(upTo);" }
    return """
      const int all_begin = \(all), all_end = max(\(upTo), all_begin);
      const int share = ((all_end - all_begin + int(args.splits) - 1) / int(args.splits) + \(block - 1)) / \(block) \
      * \(block);
      const int begin = all_begin + int(split) * share, end = min(begin + share, all_end);
      """
  }

  /// K is the left factor, so that a lane loads neighbouring columns; Q^T the right one.
  var transposeQuery: String {
    let (type, count) = (query.element, key.interleaved)
    if count > 1 {
      return Text.lines(
        """
        // Scores are computed as K Q^T: a lane then loads neighbouring columns of K, those of \(count) matrices \
        at once:
        // column c of the j-th is \(count) * c + j. So are rows of Q^T.
        threadgroup \(type) *turn = (threadgroup \(type) *)own;
        \(Text.unrolled)
        for (ushort i = 0; i < \(tiling.queryFragments); i += \(count)) {
          simdgroup_barrier(mem_flags::mem_threadgroup);
          \(Text.unrolled)
          for (ushort j = 0; j < \(count); ++j) q[i + j].store(turn + 64 * j, 8, true);
          simdgroup_barrier(mem_flags::mem_threadgroup);
          \(Text.unrolled)
          for (ushort j = 0; j < \(count); ++j) q[i + j].load(turn + 8 * j, \(8 * count));
        }
        """, beforeScores)
    }
    return Text.lines(
      """
      // Scores are computed as K Q^T: a lane then loads neighbouring columns of K.
      threadgroup \(type) *turn = (threadgroup \(type) *)own;
      \(Text.unrolled)
      for (ushort i = 0; i < \(tiling.queryFragments); ++i) {
        simdgroup_barrier(mem_flags::mem_threadgroup);
        q[i].store(turn, 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        q[i].load(turn, 8, true);
      }
      """, beforeScores)
  }

  /// The first scores are stored where other lanes have loaded Q^T. The loop of SIMD groups that share a strip begins
  /// with a barrier.
  private var beforeScores: String { when(splits == 1, "simdgroup_barrier(mem_flags::mem_threadgroup);") }

  var mask: MaskText { MaskText(descriptor: descriptor, blocks: block / 8, simdgroups: tiling.tiles.simdgroups) }

  var loop: String {
    let step = block * splitK, shared = splits > 1
    let group = shared ? "strip" : "simd_index"
    let advance =
      shared
      ? """
      for (int base = begin; base < end; base += \(step)) {
        const int first = base + \(block) * \(group);
        \(mask.anyUnmasked)
        const bool sees = first < end\(when(descriptor.mask != .none, " && shown"));
      """
      : Text.lines(
        "for (int first = begin + \(block) * \(group); first < end; first += \(step)) {", mask.anyUnmasked,
        when(descriptor.mask != .none, "if (!shown) continue;"))
    return """
      \(advance)
        const bool whole = first >= whole_begin && first + \(block) <= whole_end;
        simdgroup_matrix_storage<float> scores[\(block / 8)];
        \(when(softmax.recordsMasked, "uint hidden = 0;"))
        \(when(shared, "threadgroup_barrier(mem_flags::mem_threadgroup);\nif (sees) {"))
        \(multiplyKeys)
        \(when(shared, "}\nthreadgroup_barrier(mem_flags::mem_threadgroup);\nif (sees) {"))
        \(transposeScores)
        \(softmax.weights(keyScale: scales(key), valueScale: scales(value)))
        \(multiplyValues)
        \(when(shared, "}"))
      }
      """
  }

  /// The scales of keys `column`, `column + 1`; those past the end belong to masked keys.
  func scales(_ operand: OperandText) -> String {
    "float2(\(operand.scale(row: "min(column, key_rows - 1)")), "
      + "\(operand.scale(row: "min(column + 1, key_rows - 1)")))\(operand.inversePrescale)"
  }
}

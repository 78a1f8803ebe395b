/// The forward kernel for many query rows (FlashAttention-2): a threadgroup computes a block of rows; tiles of K and V
/// are dequantized into threadgroup memory once for all of them.
///
///     for each tile that meets some row's key range:
///       S = Q Kᵀ;  P = online softmax of S;  O += P V
///     O = O / Σ P
///
/// See eq. 1, 8 of docs/math.md.
struct PrefillText {
  let descriptor: AttentionKernelDescriptor
  let tiling: ForwardTiling
  let key, value: OperandText
  let query: QueryText
  let softmax: SoftmaxText
  let result: EpilogueText

  private var splits: Int { tiling.tiles.splitD }
  private var block: Int { tiling.tiles.block }
  private var threads: Int { 32 * tiling.tiles.simdgroups }

  init(_ descriptor: AttentionKernelDescriptor, _ profile: DeviceProfile) throws(AttentionKernelError) {
    self.descriptor = descriptor
    tiling = try ForwardTiling(descriptor, profile)
    var (key, value) = (OperandText(.K, descriptor), OperandText(.V, descriptor))
    key.choosePrescale()
    value.choosePrescale()
    (self.key, self.value) = (key, value)
    let (splits, blocks) = (tiling.tiles.splitD, tiling.tiles.block / 8)
    query = QueryText(descriptor, key: key, fragments: tiling.queryFragments, splits: splits)
    softmax = SoftmaxText(score: ScoreText(descriptor), value: value, blocks: blocks, fragments: tiling.outputFragments)
    result = EpilogueText(descriptor: descriptor, value: value, fragments: tiling.outputFragments, splits: splits)
  }

  var kernel: KernelBody {
    var memory = ThreadgroupMemory()
    let bytes = { (operand: OperandText) in operand.element == "float" ? 4 : 2 }
    let tile = max(tiling.keyLeading * bytes(key), tiling.valueLeading * bytes(value)) * block
    // K and V use one tile in turn, so that it can be twice as long.
    memory.add("float4", "tile_memory", (tile + 15) / 16)
    if key.factor == .row { memory.add("float", "k_scale_tile", block) }
    if value.factor == .row { memory.add("float", "v_scale_tile", block) }
    if softmax.recordsMasked { memory.add("uint", "non_finite", tiling.tiles.simdgroups) }
    mask.addMemory(&memory)
    if usesExchange { memory.add("float", "exchange", tiling.tiles.simdgroups * 8 * max(block, 8)) }
    return KernelBody(
      tiles: tiling.tiles, memory: memory,
      summary: "\(tiling.tiles.rows) rows a threadgroup, \(block) keys a tile"
        + (splits > 1 ? ", \(splits) SIMD groups a strip" : ""), body: body)
  }

  private var mask: MaskText {
    MaskText(descriptor: descriptor, blocks: block / 8, simdgroups: tiling.tiles.simdgroups)
  }
  private var usesExchange: Bool { softmax.recordsMasked || splits > 1 }
  private func pair(_ array: String) -> String { "float2(\(array)[8 * n + origin.x], \(array)[8 * n + origin.x + 1])" }

  private var body: String {
    """
    threadgroup \(key.element) *k_tile = (threadgroup \(key.element) *)tile_memory;
    threadgroup \(value.element) *v_tile = (threadgroup \(value.element) *)tile_memory;
    const uint2 origin = lane_origin(lane);
    \(tiling.tiles.declareStrip)
    const uint head = group.y, key_head = head / args.heads_per_key_head;
    \(RowsText.sequence(descriptor, z: "group.z"))

    // Rows past the end stand in for the last one, and are not stored.
    const int first_row = group.x * \(tiling.tiles.rows), strip_row = first_row + 8 * strip;
    if (first_row >= query_rows) return;
    const bool exists = strip_row + int(origin.y) < query_rows;
    const int last_row = query_rows - 1;
    const int row = min(strip_row + int(origin.y), last_row);
    const int lowest = \(RowsText.keyRangeBegin("row")), highest = \(RowsText.keyRangeEnd("row"));
    // Keys that all rows of the strip see, keys that any sees, and keys that any row of the threadgroup sees.
    const int whole_begin = \(RowsText.keyRangeBegin("min(strip_row + 7, last_row)")), \
    whole_end = \(RowsText.keyRangeEnd("min(strip_row, last_row)"));
    const int strip_begin = \(RowsText.keyRangeBegin("min(strip_row, last_row)")), \
    strip_end = \(RowsText.keyRangeEnd("min(strip_row + 7, last_row)"));
    const int begin = \(RowsText.keyRangeBegin("first_row")), \
    end = \(RowsText.keyRangeEnd("min(first_row + \(tiling.tiles.rows - 1), last_row)"));
    \(RowsText.scoreMod(descriptor))

    \(key.setup)
    \(query.load(exchange: "exchange"))
    \(value.setup)

    \(softmax.state)
    \(mask.setup)
    for (int first = begin; first < end; first += \(block)) {
      \(mask.anyUnmasked)
      const bool sees = \(descriptor.mask == .none ? "first < strip_end && first + \(block) > strip_begin" : "shown");
      const bool whole = first >= whole_begin && first + \(block) <= whole_end;
      \(mask.publish)
      threadgroup_barrier(mem_flags::mem_threadgroup);
      \(mask.skipMasked)
      \(dequantizeKeys)
      \(key.loadScales(first: "first", rows: block, count: "key_rows"))
      \(value.loadScales(first: "first", rows: block, count: "key_rows"))
      threadgroup_barrier(mem_flags::mem_threadgroup);

      simdgroup_matrix_storage<float> scores[\(block / 8)];
      \(when(softmax.recordsMasked, "uint hidden = 0;"))
      if (sees) {
        \(multiplyKeys)
        \(when(splits > 1, storePartialScores))
      \(when(splits > 1, "}\nthreadgroup_barrier(mem_flags::mem_threadgroup);\nif (sees) {"))
        \(when(splits > 1, sumPartialScores))
        \(softmax.weights(keyScale: pair("k_scale_tile"), valueScale: pair("v_scale_tile")))
      }
      \(when(splits == 1, "threadgroup_barrier(mem_flags::mem_threadgroup);  // K is read, V takes its place"))

      \(dequantizeValues)
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (sees) {
        \(multiplyValues)
      }
    }

    \(softmax.reduce)
    \(result.originalValues(exchange: "exchange", isFree: !value.mayBeNonFinite))
    \(softmax.normalise)
    \(result.store)
    """
  }

  /// The first of a SIMD group's columns in a tile, as a term of an index.
  private func columns(_ fragments: Int) -> String { splits > 1 ? "\(8 * fragments) * part + " : "" }

  private var multiplyKeys: String {
    """
    \(Text.unrolled)
    for (ushort n = 0; n < \(block / 8); ++n) scores[n].clear();
    \(Text.unrolled)
    for (ushort i = 0; i < \(tiling.queryFragments); ++i) {
      \(Text.unrolled)
      for (ushort n = 0; n < \(block / 8); ++n) {
        simdgroup_matrix_storage<\(key.element)> k;
        k.load(k_tile + 8 * n * \(tiling.keyLeading) + \(columns(tiling.queryFragments))8 * i, \(tiling.keyLeading), \
    true);
        scores[n].multiply(q[i], k);
      }
    }
    """
  }

  private var storePartialScores: String {
    """
    \(Text.unrolled)
    for (ushort n = 0; n < \(block / 8); ++n) scores[n].store(exchange + simd_index * \(8 * block) + 8 * n, \(block));
    """
  }

  private var sumPartialScores: String {
    """
    \(Text.unrolled)
    for (ushort n = 0; n < \(block / 8); ++n) {
      float2 total = 0;
      for (ushort i = 0; i < \(splits); ++i) {
        simdgroup_matrix_storage<float> addend;
        addend.load(exchange + (\(splits) * strip + i) * \(8 * block) + 8 * n, \(block));
        total += addend.get();
      }
      scores[n].set(total);
    }
    """
  }

  private var dequantizeKeys: String {
    key.dequantize(
      into: "k_tile", leading: tiling.keyLeading, width: tiling.keyWidth, first: "first", rows: block,
      count: "key_rows", threads: threads)
  }

  private var dequantizeValues: String {
    func dequantize(_ nonFinite: String?) -> String {
      value.dequantize(
        into: "v_tile", leading: tiling.valueLeading, width: tiling.valueWidth, first: "first", rows: block,
        count: "key_rows", threads: threads, nonFinite: nonFinite)
    }
    guard softmax.recordsMasked else { return dequantize(nil) }
    let partial =
      softmax.score.hasMask
      ? "true"
      : "first < \(RowsText.keyRangeBegin("min(first_row + \(tiling.tiles.rows - 1), last_row)")) || first "
        + "+ \(block) > \(RowsText.keyRangeEnd("first_row"))"
    return """
      // Whether V holds NaN or infinities matters where some row does not see some key.
      const bool partial = \(partial);
      bool found = false;
      \(dequantize("found"))
      if (partial) {
        found = simd_any(found);
        if (lane == 0) non_finite[simd_index] = found;
      }
      """
  }

  private var multiplyValues: String {
    let leading = tiling.valueLeading
    let multiply = """
      \(Text.unrolled)
      for (ushort i = 0; i < \(tiling.outputFragments); ++i) {
        \(softmax.accumulate(
          count: 1,
          """
          simdgroup_matrix_storage<\(value.element)> v;
          v.load(v_tile + 8 * n * \(leading) + \(columns(tiling.outputFragments))8 * i, \(leading));
          piece[0].multiply(scores[n], v);
          """))
      }
      """
    guard softmax.recordsMasked else { return multiply }
    return """
      bool careful = false;
      \(when(!softmax.score.hasMask, "if (!whole) {"))
      for (ushort i = 0; i < \(tiling.tiles.simdgroups); ++i) careful = careful || non_finite[i];
      \(when(!softmax.score.hasMask, "}"))
      if (!careful) {
        \(multiply)
      } else {
        // 0 * NaN must not reach a row that does not see the key: hidden keys weigh -1, and are left out.
        threadgroup float *weights = exchange + simd_index * \(8 * block);
        \(Text.unrolled)
        for (ushort n = 0; n < \(block / 8); ++n) {
          float2 p = scores[n].get();
          if (hidden >> (2 * n) & 1) p.x = -1;
          if (hidden >> (2 * n) & 2) p.y = -1;
          weights[origin.y * \(block) + 8 * n + origin.x] = p.x;
          weights[origin.y * \(block) + 8 * n + origin.x + 1] = p.y;
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        \(Text.unrolled)
        for (ushort i = 0; i < \(tiling.outputFragments); ++i) {
          float2 of_tile = 0;
          for (ushort j = 0; j < \(block); ++j) {
            const float p = weights[origin.y * \(block) + j];
            const threadgroup \(value.element) *v = v_tile + j * \(tiling.valueLeading) \
      + \(columns(tiling.outputFragments))8 * i + origin.x;
            if (!(p < 0)) of_tile += p * float2(float(v[0]), float(v[1]));
          }
          \(softmax.add("of_tile", to: "i"))
        }
      }
      """
  }
}

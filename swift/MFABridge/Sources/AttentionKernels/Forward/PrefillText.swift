/// The forward kernel for many query rows (FlashAttention-2): a threadgroup owns a block of rows; tiles of K and V are expanded
/// into threadgroup memory once for all of them.
///
///     for each tile of keys that some row sees:
///       S = Q Kᵀ;  P = online softmax of S;  O += P V
///     O = O / Σ P
struct PrefillText {
  let descriptor: AttentionKernelDescriptor
  let plan: ForwardPlan
  let key, value: OperandText
  let query: QueryText
  let softmax: SoftmaxText
  let result: ResultText

  private var splits: Int { plan.tiles.columnSplits }
  private var block: Int { plan.tiles.block }
  private var threads: Int { 32 * plan.tiles.simdgroups }

  init(_ descriptor: AttentionKernelDescriptor, _ profile: DeviceProfile) throws(AttentionKernelError) {
    self.descriptor = descriptor
    plan = try ForwardPlan(descriptor, profile)
    var (key, value) = (OperandText(.K, descriptor), OperandText(.V, descriptor))
    key.chooseUnit()
    value.chooseUnit()
    (self.key, self.value) = (key, value)
    let (splits, blocks) = (plan.tiles.columnSplits, plan.tiles.block / 8)
    query = QueryText(descriptor, key: key, fragments: plan.queryFragments, splits: splits)
    softmax = SoftmaxText(score: ScoreText(descriptor), value: value, blocks: blocks, fragments: plan.outputFragments)
    result = ResultText(descriptor: descriptor, value: value, fragments: plan.outputFragments, splits: splits)
  }

  var kernel: KernelBody {
    var memory = ThreadgroupMemory()
    let bytes = { (operand: OperandText) in operand.element == "float" ? 4 : 2 }
    let tile = max(plan.keyLeading * bytes(key), plan.valueLeading * bytes(value)) * block
    // K and V take turns in one tile, so that it can be twice as long.
    memory.add("float4", "tile_memory", (tile + 15) / 16)
    if key.factor == .row { memory.add("float", "k_scale_tile", block) }
    if value.factor == .row { memory.add("float", "v_scale_tile", block) }
    if softmax.remembersHidden { memory.add("uint", "non_finite", plan.tiles.simdgroups) }
    mask.addMemory(&memory)
    if usesExchange { memory.add("float", "exchange", plan.tiles.simdgroups * 8 * max(block, 8)) }
    return KernelBody(
      tiles: plan.tiles, memory: memory,
      summary: "\(plan.tiles.rows) rows a threadgroup, \(block) keys a tile" + (splits > 1 ? ", \(splits) SIMD groups a strip" : ""), body: body)
  }

  private var mask: MaskText { MaskText(descriptor: descriptor, blocks: block / 8, simdgroups: plan.tiles.simdgroups) }
  private var usesExchange: Bool { softmax.remembersHidden || splits > 1 }
  private func pair(_ array: String) -> String { "float2(\(array)[8 * n + origin.x], \(array)[8 * n + origin.x + 1])" }

  private var body: String {
    """
    threadgroup \(key.element) *k_tile = (threadgroup \(key.element) *)tile_memory;
    threadgroup \(value.element) *v_tile = (threadgroup \(value.element) *)tile_memory;
    const uint2 origin = lane_origin(lane);
    \(splits > 1 ? "const ushort strip = simd_index / \(splits), part = simd_index % \(splits);" : "const ushort strip = simd_index;")
    const uint head = group.y, key_head = head / args.heads_per_key_head;
    \(RowsText.sequence(descriptor, z: "group.z"))

    // Rows past the end stand in for the last one, and are not stored.
    const int first_row = group.x * \(plan.tiles.rows), strip_row = first_row + 8 * strip;
    if (first_row >= query_rows) return;
    const bool exists = strip_row + int(origin.y) < query_rows;
    const int last_row = query_rows - 1;
    const int row = min(strip_row + int(origin.y), last_row);
    const int lowest = \(RowsText.lowest("row")), highest = \(RowsText.highest("row"));
    // Keys that all rows of the strip see, keys that any sees, and keys that any row of the threadgroup sees.
    const int whole_begin = \(RowsText.lowest("min(strip_row + 7, last_row)")), whole_end = \(RowsText.highest("min(strip_row, last_row)"));
    const int strip_begin = \(RowsText.lowest("min(strip_row, last_row)")), strip_end = \(RowsText.highest("min(strip_row + 7, last_row)"));
    const int begin = \(RowsText.lowest("first_row")), end = \(RowsText.highest("min(first_row + \(plan.tiles.rows - 1), last_row)"));
    \(RowsText.bias(descriptor))

    \(key.setup)
    \(query.load(exchange: "exchange"))
    \(value.setup)

    \(softmax.state)
    \(mask.setup)
    for (int first = begin; first < end; first += \(block)) {
      \(mask.shown)
      const bool sees = \(descriptor.mask == .none ? "first < strip_end && first + \(block) > strip_begin" : "shown");
      const bool whole = first >= whole_begin && first + \(block) <= whole_end;
      \(mask.tell)
      threadgroup_barrier(mem_flags::mem_threadgroup);
      \(mask.skip)
      \(key.expand(into: "k_tile", leading: plan.keyLeading, width: plan.keyWidth, first: "first", rows: block, count: "key_rows", threads: threads))
      \(key.expandScales(first: "first", rows: block, count: "key_rows"))
      \(value.expandScales(first: "first", rows: block, count: "key_rows"))
      threadgroup_barrier(mem_flags::mem_threadgroup);

      simdgroup_matrix_storage<float> scores[\(block / 8)];
      \(when(softmax.remembersHidden, "uint hidden = 0;"))
      if (sees) {
        \(multiplyKeys)
        \(when(splits > 1, storePartialScores))
      \(when(splits > 1, "}\nthreadgroup_barrier(mem_flags::mem_threadgroup);\nif (sees) {"))
        \(when(splits > 1, sumPartialScores))
        \(softmax.weights(keyScale: pair("k_scale_tile"), valueScale: pair("v_scale_tile")))
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);

      \(expandValues)
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (sees) {
        \(multiplyValues)
      }
    }

    \(softmax.reduce)
    \(result.realValues(exchange: "exchange"))
    \(softmax.normalise)
    \(result.store)
    """
  }

  /// Where a SIMD group's columns begin in a tile.
  private func columns(_ fragments: Int) -> String { splits > 1 ? "\(8 * fragments) * part + " : "" }

  private var multiplyKeys: String {
    """
    \(Text.unrolled)
    for (ushort n = 0; n < \(block / 8); ++n) scores[n].clear();
    \(Text.unrolled)
    for (ushort i = 0; i < \(plan.queryFragments); ++i) {
      \(Text.unrolled)
      for (ushort n = 0; n < \(block / 8); ++n) {
        simdgroup_matrix_storage<\(key.element)> k;
        k.load(k_tile + 8 * n * \(plan.keyLeading) + \(columns(plan.queryFragments))8 * i, \(plan.keyLeading), true);
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

  private var expandValues: String {
    func expand(_ nonFinite: String?) -> String {
      value.expand(
        into: "v_tile", leading: plan.valueLeading, width: plan.valueWidth, first: "first", rows: block, count: "key_rows", threads: threads, nonFinite: nonFinite)
    }
    guard softmax.remembersHidden else { return expand(nil) }
    let partial = softmax.score.hasMask ? "true" : "first < \(RowsText.lowest("min(first_row + \(plan.tiles.rows - 1), last_row)")) || first + \(block) > \(RowsText.highest("first_row"))"
    return """
      // Whether V holds NaN or infinities matters where some row does not see some key.
      const bool partial = \(partial);
      bool found = false;
      \(expand("found"))
      if (partial) {
        found = simd_any(found);
        if (lane == 0) non_finite[simd_index] = found;
      }
      """
  }

  private var multiplyValues: String {
    let multiply = """
      \(Text.unrolled)
      for (ushort i = 0; i < \(plan.outputFragments); ++i) {
        \(softmax.accumulate(
          count: 1,
          """
          simdgroup_matrix_storage<\(value.element)> v;
          v.load(v_tile + 8 * n * \(plan.valueLeading) + \(columns(plan.outputFragments))8 * i, \(plan.valueLeading));
          piece[0].multiply(scores[n], v);
          """))
      }
      """
    guard softmax.remembersHidden else { return multiply }
    return """
      bool careful = false;
      \(when(!softmax.score.hasMask, "if (!whole) {"))
      for (ushort i = 0; i < \(plan.tiles.simdgroups); ++i) careful = careful || non_finite[i];
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
        for (ushort i = 0; i < \(plan.outputFragments); ++i) {
          float2 of_tile = 0;
          for (ushort j = 0; j < \(block); ++j) {
            const float p = weights[origin.y * \(block) + j];
            const threadgroup \(value.element) *v = v_tile + j * \(plan.valueLeading) + \(columns(plan.outputFragments))8 * i + origin.x;
            if (!(p < 0)) of_tile += p * float2(float(v[0]), float(v[1]));
          }
          \(softmax.add("of_tile", to: "i"))
        }
      }
      """
  }
}

/// The forward kernel for few query rows: the query heads that share a key head are folded into strips of 8 rows. SIMD groups
/// take blocks of keys in turn, dequantize in registers, and combine their sums in order at the end. With the split schedule, so do
/// threadgroups, in a kernel of its own (`MergeText`).
struct DecodeText {
  let descriptor: AttentionKernelDescriptor
  let plan: ForwardPlan
  let key, value: OperandText
  let query: QueryText
  let softmax: SoftmaxText
  let result: ResultText

  private var splits: Int { plan.tiles.columnSplits }
  private var keyGroups: Int { plan.tiles.keyGroups }
  private var block: Int { plan.tiles.block }
  private var isSplit: Bool { descriptor.schedule == .decodeSplit }

  init(_ descriptor: AttentionKernelDescriptor, _ profile: DeviceProfile) throws(AttentionKernelError) {
    self.descriptor = descriptor
    plan = try ForwardPlan(descriptor, profile)
    var (key, value) = (OperandText(.K, descriptor), OperandText(.V, descriptor))
    key.interleaveMatrices(of: plan.queryFragments)
    value.interleaveMatrices(of: plan.outputFragments)
    (self.key, self.value) = (key, value)
    let (splits, blocks) = (plan.tiles.columnSplits, plan.tiles.block / 8)
    query = QueryText(descriptor, key: key, fragments: plan.queryFragments, splits: splits)
    softmax = SoftmaxText(score: ScoreText(descriptor), value: value, blocks: blocks, fragments: plan.outputFragments)
    result = ResultText(descriptor: descriptor, value: value, fragments: plan.outputFragments, splits: splits)
  }

  /// Floats of a SIMD group's part of `scratch`.
  private var scratch: Int { 8 * max(block, 8 * key.interleaved, 8 * value.interleaved) }

  var kernel: KernelBody {
    var memory = ThreadgroupMemory()
    memory.add("float", "scratch", plan.tiles.simdgroups * scratch)
    memory.add("float", "statistics", 8 * 3 * plan.tiles.simdgroups)
    if value.mayBeNonFinite { memory.add("float", "weights", plan.tiles.simdgroups * 8 * block) }
    return KernelBody(
      tiles: plan.tiles, memory: memory,
      summary: "8 rows a threadgroup, \(keyGroups) x \(block) keys at a time" + (splits > 1 ? ", \(splits) SIMD groups a strip" : ""), body: body)
  }

  private var body: String {
    """
    const uint2 origin = lane_origin(lane);
    \(splits > 1 ? "const ushort strip = simd_index / \(splits), part = simd_index % \(splits);" : "const ushort strip = simd_index;")
    \(isSplit ? "const uint split = group.x % args.splits, folded_strip = group.x / args.splits;" : "const uint folded_strip = group.x;")
    const uint key_head = group.y;
    \(RowsText.sequence(descriptor, z: "group.z"))

    // Rows of the tile: query rows of the first query head, then of the next. Rows past the end stand in for the last one.
    const int folded_rows = query_rows * int(args.heads_per_key_head), folded_row = 8 * folded_strip + origin.y;
    if (int(8 * folded_strip) >= folded_rows) return;
    const bool exists = folded_row < folded_rows;
    const int present_row = min(folded_row, folded_rows - 1);
    const uint head = key_head * args.heads_per_key_head + present_row / query_rows;
    const int row = present_row % query_rows;
    const int lowest = \(RowsText.lowest("row")), highest = \(RowsText.highest("row"));
    // Keys that all rows see, and keys that any row sees: in a strip of several heads, any row may be there.
    const int whole_begin = \(RowsText.lowest("(query_rows - 1)")), whole_end = \(RowsText.highest("0"));
    \(range)
    \(RowsText.bias(descriptor))

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

  /// Declares begin and end: the threadgroup's keys.
  private var range: String {
    let (all, upTo) = (RowsText.lowest("0"), RowsText.highest("(query_rows - 1)"))
    guard isSplit else { return "const int begin = \(all), end = \(upTo);" }
    return """
      const int all_begin = \(all), all_end = max(\(upTo), all_begin);
      const int share = ((all_end - all_begin + int(args.splits) - 1) / int(args.splits) + \(block - 1)) / \(block) * \(block);
      const int begin = all_begin + int(split) * share, end = min(begin + share, all_end);
      """
  }

  /// K is the left factor, so that a lane loads neighbouring columns; Q^T the right one.
  private var transposeQuery: String {
    let (type, count) = (query.element, key.interleaved)
    if count > 1 {
      return """
        // Scores are computed as K Q^T: a lane then loads neighbouring columns of K, those of \(count) matrices at once:
        // column c of the j-th is \(count) * c + j. So are rows of Q^T.
        threadgroup \(type) *turn = (threadgroup \(type) *)own;
        \(Text.unrolled)
        for (ushort i = 0; i < \(plan.queryFragments); i += \(count)) {
          simdgroup_barrier(mem_flags::mem_threadgroup);
          \(Text.unrolled)
          for (ushort j = 0; j < \(count); ++j) q[i + j].store(turn + 64 * j, 8, true);
          simdgroup_barrier(mem_flags::mem_threadgroup);
          \(Text.unrolled)
          for (ushort j = 0; j < \(count); ++j) q[i + j].load(turn + 8 * j, \(8 * count));
        }
        """
    }
    return """
      // Scores are computed as K Q^T: a lane then loads neighbouring columns of K.
      threadgroup \(type) *turn = (threadgroup \(type) *)own;
      \(Text.unrolled)
      for (ushort i = 0; i < \(plan.queryFragments); ++i) {
        simdgroup_barrier(mem_flags::mem_threadgroup);
        q[i].store(turn, 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        q[i].load(turn, 8, true);
      }
      """
  }

  private func column(_ fragments: Int) -> String { splits > 1 ? "\(8 * fragments) * part + 8 * i + origin.x" : "8 * i + origin.x" }

  /// Declares `at`, the lane's key in the n-th 8×8 matrix. A key past the end is hidden; the last one is read in its stead.
  private let laneKey = "const int at = min(first + 8 * n + int(origin.y), end - 1);"

  /// A loop over a SIMD group's columns of keys; `use` is told the name of an 8×8 matrix, its index, and which of those it is that are
  /// loaded together. `around` is told how many these are, and puts text around what loads and uses them.
  private func eachMatrix(
    _ operand: OperandText, fragments: Int, around: (_ body: String, _ count: Int) -> String = { body, _ in body },
    use: (_ matrix: String, _ index: String, _ member: Int) -> String
  ) -> String {
    let (name, count) = (operand.name, operand.interleaved)
    let mayEnd = splits > 1 && 8 * fragments * splits > (operand.columns + 7) / 8 * 8
    if count > 1 {
      let load = operand.loadInterleaved(row: "at", matrix: "i")
      let uses = load.pairs.enumerated().map { "\(name).set(\($1));\n\(use(name, $0 == 0 ? "i" : "i + \($0)", $0))" }.joined(separator: "\n")
      let body = """
        \(operand.interleavedRow(row: "at", column: splits > 1 ? "\(8 * fragments) * part" : nil))
        \(load.statement)
        simdgroup_matrix_storage<\(operand.element)> \(name);
        \(uses)
        """
      return """
        \(Text.unrolled)
        for (ushort i = 0; i < \(fragments); i += \(count)) {
          \(when(mayEnd, "if (8 * (\(fragments) * part + i) >= \(operand.columns)) break;"))
          \(around(body, count))
        }
        """
    }
    let pair = operand.loadPair(into: name, type: operand.element, row: "at", column: "column")
    // A pair of columns that do not exist is 0.
    let load = mayEnd ? "if (column < \(operand.columns)) {\n\(pair)\n} else {\n\(name).set(vec<\(operand.element), 2>(0));\n}" : pair
    let body = """
      simdgroup_matrix_storage<\(operand.element)> \(name);
      \(load)
      \(use(name, "i", 0))
      """
    return """
      \(Text.unrolled)
      for (ushort i = 0; i < \(fragments); ++i) {
        const uint column = \(column(fragments));
        \(around(body, 1))
      }
      """
  }

  private var mask: MaskText { MaskText(descriptor: descriptor, blocks: block / 8, simdgroups: plan.tiles.simdgroups) }

  private var loop: String {
    let step = block * keyGroups, shared = splits > 1
    let group = shared ? "strip" : "simd_index"
    let advance = shared
      ? """
        for (int base = begin; base < end; base += \(step)) {
          const int first = base + \(block) * \(group);
          \(mask.shown)
          const bool sees = first < end\(when(descriptor.mask != .none, " && shown"));
        """
      : Text.lines(
        "for (int first = begin + \(block) * \(group); first < end; first += \(step)) {", mask.shown,
        when(descriptor.mask != .none, "if (!shown) continue;"))
    return """
      \(advance)
        const bool whole = first >= whole_begin && first + \(block) <= whole_end;
        simdgroup_matrix_storage<float> scores[\(block / 8)];
        \(when(softmax.remembersHidden, "uint hidden = 0;"))
        \(when(shared, "threadgroup_barrier(mem_flags::mem_threadgroup);\nif (sees) {"))
        \(multiplyKeys)
        \(when(shared, "}\nthreadgroup_barrier(mem_flags::mem_threadgroup);\nif (sees) {"))
        \(turnScores)
        \(softmax.weights(keyScale: scales(key), valueScale: scales(value)))
        \(multiplyValues)
        \(when(shared, "}"))
      }
      """
  }

  /// The scales of keys `column`, `column + 1`; those past the end belong to hidden keys.
  private func scales(_ operand: OperandText) -> String {
    "float2(\(operand.scale(row: "min(column, key_rows - 1)")), \(operand.scale(row: "min(column + 1, key_rows - 1)")))\(operand.perUnit)"
  }

  private var multiplyKeys: String {
    """
    \(Text.unrolled)
    for (ushort n = 0; n < \(block / 8); ++n) {
      \(laneKey)
      scores[n].clear();
      \(eachMatrix(key, fragments: plan.queryFragments) { matrix, index, _ in "scores[n].multiply(\(matrix), q[\(index)]);" })
      scores[n].store(own + 8 * n * 8, 8);
    }
    """
  }

  /// From K Qᵀ, in `own`, to rows of queries, summed over the SIMD groups that share the strip.
  private var turnScores: String {
    guard splits > 1 else {
      return """
        simdgroup_barrier(mem_flags::mem_threadgroup);
        \(Text.unrolled)
        for (ushort n = 0; n < \(block / 8); ++n) scores[n].load(own + 64 * n, 8, true);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        """
    }
    return """
      \(Text.unrolled)
      for (ushort n = 0; n < \(block / 8); ++n) {
        float2 total = 0;
        for (ushort i = 0; i < \(splits); ++i) {
          simdgroup_matrix_storage<float> addend;
          addend.load(scratch + (\(splits) * strip + i) * \(scratch) + 64 * n, 8, true);
          total += addend.get();
        }
        scores[n].set(total);
      }
      """
  }

  private var multiplyValues: String {
    """
    \(when(value.mayBeNonFinite, "bool found = false;"))
    \(eachMatrix(value, fragments: plan.outputFragments, around: { body, count in softmax.accumulate(count: count, laneKey + "\n" + body) }) { matrix, _, member in
      Text.lines(when(value.mayBeNonFinite, leaveOut), "piece[\(member)].multiply(scores[n], \(matrix));")
    })
    \(when(value.mayBeNonFinite, addLeftOut))
    """
  }

  private var mayHide: String { softmax.score.hasMask ? "true" : "!whole" }

  /// 0 * NaN must not reach a row that does not see the key.
  private var leaveOut: String {
    """
    if (\(mayHide)) {
      const bool2 bad = \(OperandText.nonFiniteTest("v.get()", value.element, 2));
      found = found || any(bad);
      v.set(select(v.get(), vec<\(value.element), 2>(0), bad));
    }
    """
  }

  private var addLeftOut: String {
    let padded = 8 * plan.outputFragments * splits > value.columns
    let one = { (e: Int) in
      let column = e == 0 ? "column" : "column + 1"
      return """
        \(padded ? "if (\(column) < \(value.columns)) {" : "{")
          const \(value.element) x = \(value.value(row: "first + j", column: column));
          if (\(OperandText.nonFiniteTest("x", value.element, 1))) total[\(e)] += p * float(x);
        }
        """
    }
    return """
      if (\(mayHide) && simd_any(found)) {
        // NaN and infinities reach the rows that see them. Hidden keys weigh -1.
        threadgroup float *seen_weights = weights + simd_index * \(8 * block);
        \(Text.unrolled)
        for (ushort n = 0; n < \(block / 8); ++n) {
          const float2 p = scores[n].get();
          seen_weights[origin.y * \(block) + 8 * n + origin.x] = hidden >> (2 * n) & 1 ? -1.0f : p.x;
          seen_weights[origin.y * \(block) + 8 * n + origin.x + 1] = hidden >> (2 * n) & 2 ? -1.0f : p.y;
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        \(Text.unrolled)
        for (ushort i = 0; i < \(plan.outputFragments); ++i) {
          const uint column = \(column(plan.outputFragments));
          float2 total = output[i].get();
          for (ushort j = 0; j < \(block) && first + j < end; ++j) {
            const float p = seen_weights[origin.y * \(block) + j];
            if (p < 0) continue;
            \(one(0))
            \(one(1))
          }
          output[i].set(total);
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
      }
      """
  }

  /// The sums of the SIMD groups that had different keys, in order; then O and L, or the threadgroup's part of them.
  private var combine: String {
    let chunk = scratch / 64, fragments = plan.outputFragments, count = value.interleaved
    // Columns c of the j-th of `count` matrices go to \(count) * c + j, where they belong.
    let storePart = count > 1
      ? "output[base + i].store(own + \(64 * count) * (i / \(count)) + 8 * (i % \(count)), \(8 * count), true);  // column c of the j-th matrix of \(count) is \(count) * c + j"
      : "output[base + i].store(own + 64 * i, 8);"
    let padded = 8 * fragments * splits > descriptor.valueDimension
    let isFirst = "origin.x == 0 && simd_index == 0"
    let column = splits > 1 ? "\(8 * fragments) * part + 8 * (base + i) + origin.x" : "8 * (base + i) + origin.x"
    let partial = (0..<2).map { e in
      let store = "partial_output[part_index * \(descriptor.valueDimension) + column\(e == 0 ? "" : " + 1")] = x[\(e)];"
      return padded ? "if (column\(e == 0 ? "" : " + 1") < \(descriptor.valueDimension)) \(store)" : store
    }.joined(separator: "\n")
    let target = isSplit
      ? """
        const ulong part_index = ((ulong(group.z) * args.heads + head) * args.query_rows + row) * args.splits + split;
        if (exists && \(isFirst)) {
          partial_statistics[2 * part_index] = maximum;
          partial_statistics[2 * part_index + 1] = sum == 0 && seen ? -1.0f : sum;  // -1: keys, but all scores -INFINITY
        }
        """
      : """
        \(softmax.normalise)
        \(ResultText.outputRow(descriptor))
        \(when(descriptor.writesLogsumexp, "if (exists && \(isFirst)) \(ResultText.logsumexp(descriptor))"))
        """
    return """
      \(result.realValues(exchange: "scratch"))

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
      for (ushort g = 0; g < \(keyGroups); ++g) {
        const threadgroup float *of_group = statistics + 24 * \(splits > 1 ? "(\(splits) * g + part)" : "g") + 3 * origin.y;
        maximum = max(maximum, of_group[0]);
        seen = seen || of_group[2] != 0;
      }
      for (ushort g = 0; g < \(keyGroups); ++g) {
        const threadgroup float *of_group = statistics + 24 * \(splits > 1 ? "(\(splits) * g + part)" : "g") + 3 * origin.y;
        sum += (of_group[0] == -INFINITY ? 0.0f : \(softmax.score.exp("of_group[0] - maximum"))) * of_group[1];
      }
      const float own_weight = own_maximum == -INFINITY ? 0.0f : \(softmax.score.exp("own_maximum - maximum"));
      \(target)

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
        for (ushort i = strip; i < \(chunk) && base + i < \(fragments); i += \(keyGroups)) {
          float2 x = 0;
          for (ushort g = 0; g < \(keyGroups); ++g) {
            simdgroup_matrix_storage<float> addend;
            addend.load(scratch + \(splits > 1 ? "(\(splits) * g + part)" : "g") * \(scratch) + 64 * i, 8\(count > 1 ? ", true" : ""));
            x += addend.get();
          }
          if (exists) {
            const uint column = \(column);
            \(isSplit ? partial : "x *= normaliser;\n" + ResultText.storePair(descriptor, isPadded: padded))
          }
        }
      }
      """
  }
}

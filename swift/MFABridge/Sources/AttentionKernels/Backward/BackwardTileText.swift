/// The text of the inner loop of backward kernels: expands tiles, multiplies them with the owned strips, and turns the products into
/// P and dS. Names: `scores` becomes dS, `weights` becomes P.
struct BackwardTileText {
  let descriptor: AttentionKernelDescriptor
  let plan: BackwardPlan
  let scoreStrip, weightStrip: BackwardStripText
  let score: ScoreText
  /// What the products are needed for.
  struct Wants {
    /// dP, and with it D and dS.
    var weightGradient = false
    /// The derivative of the softcap enters dS.
    var slope = true
    /// The sum of P dP, in `d_sum`.
    var dSum = false
  }
  let wants: Wants
  /// The kernel has memory for what SIMD groups tell of the mask.
  var borrowsMask = false
  /// The sums that the loop accumulates: of dS and of P.
  let scoreSum, weightSum: BackwardSumText?

  init(_ descriptor: AttentionKernelDescriptor, _ plan: BackwardPlan, _ wants: Wants, scoreGradient: AttentionOperand?, weightGradient: AttentionOperand?) {
    self.descriptor = descriptor
    self.plan = plan
    self.wants = wants
    scoreStrip = BackwardStripText(own: plan.scoreOwn, tile: plan.scoreTile, fragments: plan.scoreFragments, splits: plan.splits)
    weightStrip = BackwardStripText(own: plan.weightOwn, tile: plan.weightTile, fragments: plan.weightFragments, splits: plan.splits)
    score = ScoreText(descriptor)
    scoreSum = scoreGradient.map { [scoreStrip] in
      BackwardSumText(descriptor: descriptor, gradient: $0, strip: scoreStrip, leading: plan.scoreLeading, block: plan.tiles.block, weights: "scores", isScaled: true)
    }
    weightSum = weightGradient.map { [weightStrip] in
      BackwardSumText(descriptor: descriptor, gradient: $0, strip: weightStrip, leading: plan.weightLeading, block: plan.tiles.block, weights: "weights", isScaled: false)
    }
  }

  private var block: Int { plan.tiles.block }
  private var splits: Int { plan.splits }
  private var isKeySide: Bool { plan.side == .key }
  private var scoreTile: OperandText { plan.scoreTile }
  private var weightTile: OperandText { plan.weightTile }
  /// A blank line.
  static let gap = " "
  static let barrier = "threadgroup_barrier(mem_flags::mem_threadgroup);"
  static func pair(_ array: String) -> String { "float2(\(array)[8 * n + origin.x], \(array)[8 * n + origin.x + 1])" }

  /// The tile of dO or V is used: for dP or for dV.
  private var usesWeightTile: Bool { wants.weightGradient || weightSum != nil }
  var mask: MaskText { MaskText(descriptor: descriptor, blocks: block / 8, simdgroups: plan.tiles.simdgroups, stride: "mask_stride") }
  private var usesExchange: Bool { splits > 1 }
  /// Floats of a SIMD group's part of `exchange`: S and the pieces of dP.
  private var exchangeShare: Int { 8 * block * (1 + plan.pieces) }

  // MARK: Memory

  func addMemory(_ memory: inout ThreadgroupMemory) {
    let scores = plan.scoreLeading * scoreTile.elementBytes * block
    let weights = plan.weightLeading * weightTile.elementBytes * block
    if plan.sharesTile {
      memory.add("float4", "tile_memory", (max(scores, weights) + 15) / 16)
    } else {
      memory.add(scoreTile.element, "\(scoreTile.name)_tile", plan.scoreLeading * block)
      if usesWeightTile { memory.add(weightTile.element, "\(weightTile.name)_tile", plan.weightLeading * block) }
    }
    if scoreTile.factor == .row { memory.add("float", "\(scoreTile.name)_scale_tile", block) }
    if wants.weightGradient, weightTile.factor == .row { memory.add("float", "\(weightTile.name)_scale_tile", block) }
    if isKeySide {
      memory.add("float", "l_tile", block)
      if wants.weightGradient { memory.add("float", "d_tile", block) }
    }
    for sum in [scoreSum, weightSum] where sum?.needsCare == true {
      memory.add("uint", "\(sum?.strip.tile.name ?? "")_non_finite", plan.tiles.simdgroups)
    }
    if !borrowsMask { mask.addMemory(&memory) }
    if usesExchange { memory.add("float", "exchange", plan.tiles.simdgroups * exchangeShare) }
  }

  var tilePointers: String {
    guard plan.sharesTile else { return "" }
    func pointer(_ tile: OperandText) -> String { "threadgroup \(tile.element) *\(tile.name)_tile = (threadgroup \(tile.element) *)tile_memory;" }
    return Text.lines(pointer(scoreTile), when(usesWeightTile, pointer(weightTile)))
  }

  // MARK: Rows

  /// Declares the owned rows of a threadgroup from `index`, a block's number: first_row, last_row, exists, row.
  /// Rows past the end stand in for the last one, see nothing and are not stored.
  func rows(index: String) -> String {
    """
    const int first_row = \(index) * \(plan.tiles.rows), last_row = min(first_row + \(plan.tiles.rows), \(ownRows)) - 1;
    const int lane_row = first_row + 8 * strip + int(origin.y);
    const bool exists = lane_row <= last_row;
    const int row = min(lane_row, last_row);
    """
  }
  var ownRows: String { !isKeySide ? "query_rows" : descriptor.hasKeyLengths ? "stored_keys" : "key_rows" }
  /// The condition for an owned row to see, or be seen by, any other.
  var isPresent: String { isKeySide && descriptor.hasKeyLengths ? "exists && row < key_rows" : "exists" }
  /// What is taken from a row's D: the gradient of its logsumexp. Needs batch, head, query_row.
  var lessLogsumexpGradient: String {
    descriptor.gradients.ofLogsumexp ? " - dL[args.dL.offset + batch * args.dL.batch + head * args.dL.head + query_row * args.dL.row]" : ""
  }
  private var tileRows: String { isKeySide ? "query_rows" : "key_rows" }

  /// The interval of rows on the other side that an owned row sees, or is seen by.
  func lowest(_ row: String) -> String { isKeySide ? "max(0, \(row) - shift - args.window_right)" : RowsText.lowest(row) }
  func highest(_ row: String) -> String { isKeySide ? "min(query_rows, \(row) - shift + args.window_left + 1)" : RowsText.highest(row) }

  /// Declares the interval of the lane's row. `sees`: a condition on top.
  func interval(sees: String) -> String {
    "const int lowest = \(lowest("row")), highest = \(sees) ? \(highest("row")) : lowest;"
  }

  /// Declares what the bias needs of a head: position, slope, mask_row.
  var bias: String {
    let (own, other) = isKeySide ? ("column", "row") : ("row", "column")
    return Text.lines(
      when(descriptor.hasALiBi, "const float alibi_slope = \(RowsText.slope(descriptor));"),
      when(descriptor.hasALiBi, "const int position = row \(isKeySide ? "-" : "+") shift;"),
      when(
        descriptor.mask != .none,
        """
        const device \(descriptor.mask.storageType) *mask_row = mask + args.mask.offset + sequence * args.mask.batch + head * args.mask.head + row * args.mask.\(own);
        const long mask_stride = args.mask.\(other);
        """))
  }

  /// Declares the scales of both products and what means add to them.
  var scales: String {
    func product(_ strip: BackwardStripText, _ first: String?) -> String {
      let factors = [first, strip.factor, strip.tile.factor == .tensor ? "\(strip.tile.name)_scale" : nil].compactMap { $0 }
      return factors.isEmpty ? "1.0f" : factors.joined(separator: " * ")
    }
    func mean(_ strip: BackwardStripText, _ first: String?) -> String {
      ["product", first, strip.factor].compactMap { $0 }.joined(separator: " * ")
    }
    func meanScale(_ strip: BackwardStripText, _ name: String, _ first: String?) -> String {
      guard strip.tile.hasMean else { return "" }
      return Text.lines(strip.meanProduct("\(name)_mean"), when(first != nil || strip.factor != nil, "\(name)_mean *= \([first, strip.factor].compactMap { $0 }.joined(separator: " * "));"))
    }
    return Text.lines(
      "const float score_scale = \(product(scoreStrip, "args.softmax_scale"));",
      meanScale(scoreStrip, "score", "args.softmax_scale"),
      when(wants.weightGradient, Text.lines("const float gradient_scale = \(product(weightStrip, nil));", meanScale(weightStrip, "gradient", nil))))
  }

  // MARK: Tiles

  private func expand(_ tile: OperandText, leading: Int, width: Int, looks: Bool) -> String {
    let text = tile.expand(
      into: "\(tile.name)_tile", leading: leading, width: width, first: "first", rows: block, count: tileRows, threads: plan.threads,
      nonFinite: looks ? "\(tile.name)_found" : nil)
    guard looks else { return text }
    return """
      bool \(tile.name)_found = false;
      \(text)
      \(tile.name)_found = simd_any(\(tile.name)_found);
      if (lane == 0) \(tile.name)_non_finite[simd_index] = \(tile.name)_found;
      """
  }
  private var expandScores: String {
    expand(scoreTile, leading: plan.scoreLeading, width: plan.scoreWidth, looks: scoreSum?.needsCare == true)
  }
  private func expandWeights(looks: Bool) -> String {
    guard let value = plan.turnedValue else {
      return expand(weightTile, leading: plan.weightLeading, width: plan.weightWidth, looks: looks && weightSum?.needsCare == true)
    }
    let strip = BackwardStripText(own: value, tile: plan.weightOwn, fragments: plan.weightFragments, splits: splits)
    let (strips, pieces) = (plan.tiles.strips, block / 8)
    let store = strip.each("\(strip.name)[i].store(v_tile + 8 * n * \(plan.weightLeading) + \(splits > 1 ? "\(8 * strip.fragments) * part + " : "")8 * i, \(plan.weightLeading));")
    return """
      // V in the caller's basis, by the steps of the kernel that finds dK: dP is the same number there. A row past the end is hidden.
      for (ushort n = strip; n < \(max(strips, pieces)); n += \(strips)) {
        const int value_row = min(first + 8 * n + int(origin.y), key_rows - 1);
        \(strip.matrices(row: "value_row"))
        \(strips > pieces ? "if (n < \(pieces)) {\n\(store)\n}" : store)
      }
      """
  }

  /// What is one number for each row of a tile.
  private var expandRows: String {
    let start = scoreTile.start.map { "\($0) + " } ?? ""
    return Text.lines(
      scoreTile.expandScales(first: "first", rows: block, count: tileRows),
      when(wants.weightGradient, weightTile.expandScales(first: "first", rows: block, count: tileRows)),
      when(
        isKeySide,
        """
        if (thread_index < \(block)) {
          const bool inside = first + thread_index < query_rows;
          const long query_row = \(start)first + thread_index;
          l_tile[thread_index] = inside ? l_head[query_row * args.L.row] : -INFINITY;
          \(when(wants.weightGradient, "d_tile[thread_index] = inside ? d_head[query_row * args.D.row]\(lessLogsumexpGradient) : 0;"))
        }
        """))
  }

  /// `result` = own · tileᵀ. `matrices`: those of the strip.
  private func product(_ strip: BackwardStripText, into result: String, leading: Int, matrices: String) -> String {
    let tile = strip.tile
    let columns = splits > 1 ? "\(8 * strip.fragments) * part + " : ""
    return """
      \(Text.unrolled)
      for (ushort n = 0; n < \(block / 8); ++n) \(result)[n].clear();
      \(Text.unrolled)
      for (\(matrices); ++i) {
        \(Text.unrolled)
        for (ushort n = 0; n < \(block / 8); ++n) {
          simdgroup_matrix_storage<\(tile.element)> x;
          x.load(\(tile.name)_tile + 8 * n * \(leading) + \(columns)8 * i, \(leading), true);
          \(result)[n].multiply(\(strip.name)[i], x);
        }
      }
      """
  }

  private var transposed: String { isKeySide ? "^T" : "" }

  private var multiplyScores: String {
    """

    // S\(transposed) = \(scoreStrip.own.operand) \(scoreTile.operand)^T
    \(product(scoreStrip, into: "scores", leading: plan.scoreLeading, matrices: "ushort i = 0; i < \(scoreStrip.fragments)"))
    """
  }

  private var multiplyWeights: String {
    let (strip, pieces, count) = (weightStrip, plan.pieces, plan.pieceFragments)
    let title = "// dP\(transposed) = \(strip.own.operand) \(weightTile.operand)^T"
    if pieces == 1 {
      return "\n" + Text.lines(title, product(strip, into: "weights", leading: plan.weightLeading, matrices: "ushort i = 0; i < \(strip.fragments)"))
    }
    let isWhole = pieces * count == strip.fragments
    let matrices = "ushort i = \(count) * p; i < \(count) * (p + 1)\(isWhole ? "" : " && i < \(strip.fragments)")"
    let keep = splits > 1
      ? "piece[n].store(exchange + simd_index * \(exchangeShare) + \(8 * block) * (1 + p) + 8 * n, \(block));"
      : "weights[n].set(weights[n].get() + piece[n].get());"
    return Text.lines(
      "\n\(title), piece by piece as in the kernel that cuts rows most: the same number, against which D cancels",
      when(splits == 1, "\(Text.unrolled)\nfor (ushort n = 0; n < \(block / 8); ++n) weights[n].clear();"),
      """
      \(Text.unrolled)
      for (ushort p = 0; p < \(pieces); ++p) {
        simdgroup_matrix_storage<float> piece[\(block / 8)];
        \(product(strip, into: "piece", leading: plan.weightLeading, matrices: matrices))
        \(Text.unrolled)
        for (ushort n = 0; n < \(block / 8); ++n) \(keep)
      }
      """)
  }

  /// SIMD groups that share a strip each have a part of the products.
  private var exchangeParts: String {
    guard splits > 1 else { return "" }
    var products = [(name: "scores", pieces: 1, offset: "")]
    if wants.weightGradient { products.append(("weights", plan.pieces, "\(8 * block)\(plan.pieces > 1 ? " * (1 + i % \(plan.pieces))" : "") + ")) }
    return Text.lines(
      Self.gap,
      "// The SIMD groups of a strip have a part of the columns each.",
      Text.unrolled,
      "for (ushort n = 0; n < \(block / 8); ++n) {",
      // Pieces are there already.
      products.filter { $0.pieces == 1 }.map { "\($0.name)[n].store(exchange + simd_index * \(exchangeShare) + \($0.offset)8 * n, \(block));" }.joined(separator: "\n"),
      "}",
      Self.barrier,
      Text.unrolled,
      "for (ushort n = 0; n < \(block / 8); ++n) {",
      products.map { name, pieces, offset in
        """
        float2 \(name)_total = 0;
        for (ushort i = 0; i < \(splits * pieces); ++i) {
          simdgroup_matrix_storage<float> addend;
          addend.load(exchange + (\(splits) * strip + i\(pieces > 1 ? " / \(pieces)" : "")) * \(exchangeShare) + \(offset)8 * n, \(block));
          \(name)_total += addend.get();
        }
        \(name)[n].set(\(name)_total);
        """
      }.joined(separator: "\n"),
      "}")
  }

  // MARK: P and dS

  /// In place: `scores` become dS (of `wants.weightGradient`), `weights` become P.
  private var gradients: String {
    let l = isKeySide ? "l[e]" : "l", d = isKeySide ? "d[e]" : "d"
    let scoreScale = scoreTile.factor == .row ? "(score_scale * \(Self.pair("\(scoreTile.name)_scale_tile")))" : "score_scale"
    let gradientScale = weightTile.factor == .row ? "(gradient_scale * \(Self.pair("\(weightTile.name)_scale_tile")))" : "gradient_scale"
    let usesSlope = descriptor.hasSoftcap && wants.slope && wants.weightGradient
    let needsDS = wants.weightGradient
    let perElement = Text.lines(
      "const int at = column + e;",
      "bool visible = whole || (at >= lowest && at < highest);",
      when(isKeySide, "visible = visible && l[e] != -INFINITY;"),
      maskText,
      "p[e] = visible ? exp2((s[e] - \(l)) * \(ScoreText.log2e)) : 0.0f;",
      when(wants.dSum, "d_sum += visible ? p[e] * dp[e] : 0.0f;"),
      when(needsDS, "ds[e] = visible ? p[e] * (dp[e] - \(d))\(usesSlope ? " * (1.0f - capped[e] * capped[e])" : "") : 0.0f;"),
      when(needsCare, "hidden |= (visible ? 0u : 1u) << (2 * n + e);"))
    return Text.lines(
      Self.gap,
      "// P = exp(S - L)\(when(needsDS, "; dS = P (dP - D)"))",
      when(needsCare, "uint hidden = 0;"),
      Text.unrolled,
      "for (ushort n = 0; n < \(block / 8); ++n) {",
      "const int column = first + 8 * n + origin.x;",
      when(isKeySide, "const float2 l = \(Self.pair("l_tile"));"),
      when(isKeySide && needsDS, "const float2 d = \(Self.pair("d_tile"));"),
      "float2 s = scores[n].get() * \(scoreScale)\(when(scoreTile.hasMean, " + score_mean"));",
      when(descriptor.hasSoftcap, "const float2 capped = precise::tanh(s / args.softcap);\ns = args.softcap * capped;"),
      when(descriptor.hasALiBi, "s -= alibi_slope * float2(abs(position - column), abs(position - column - 1));"),
      when(needsDS, "const float2 dp = weights[n].get() * \(gradientScale)\(when(weightTile.hasMean, " + gradient_mean"));"),
      "float2 p\(when(needsDS, ", ds"));",
      Text.unrolled,
      "for (ushort e = 0; e < 2; ++e) {\n\(perElement)\n}",
      scoreSum?.addWeights("ds"),
      when(needsDS, scoreSum?.foldedFactor.map { "ds = select(ds * \($0), float2(0), ds == 0.0f);  // not 0 * NaN, of a row that is hidden" } ?? ""),
      when(needsDS, "scores[n].set(ds);"),
      when(weightSum != nil, "weights[n].set(p);"),
      "}")
  }

  private var maskText: String {
    switch descriptor.mask {
    case .none: ""
    case .BOOL: "visible = visible && mask_row[at * mask_stride] != 0;"
    case .FP32, .FP16, .BF16:
      """
      if (visible) {
        const float bias = float(mask_row[at * mask_stride]);
        s[e] += bias;
        visible = bias != -INFINITY;
      }
      """
    }
  }

  // MARK: The loop

  /// The body of the loop over tiles, from `first`. `accumulate`: what is done with dS, in a scope that has it, in a SIMD group of which
  /// some row sees the tile. Needs lowest, highest, and those rows' l and d.
  func body(_ accumulate: (_ of: BackwardSumText) -> String, atEnd: String = "") -> String {
    let seen = descriptor.mask == .none ? "simd_any(first < highest && first + \(block) > lowest)" : "shown"
    let sees = splits > 1 ? "" : "const bool sees = \(seen);"
    func ifSeen(_ text: String) -> String { splits > 1 ? text : "if (sees) {\n\(text)\n}" }
    let products = Text.lines(
      when(wants.weightGradient, multiplyWeights),
      multiplyScores)
    let declare = """
      \(mask.shown)
      \(sees)
      const bool whole = simd_all(first >= lowest && first + \(block) <= highest);
      \(when(needsCare, "const bool partial = true;  // whether some row does not see some other: where L is -INFINITY, none"))
      simdgroup_matrix_storage<float> scores[\(block / 8)]\(when(usesWeightTile, ", weights[\(block / 8)]"));
      """
    let begin = Text.lines(declare, mask.tell, Self.barrier, mask.skip)
    let first = scoreSum.map(accumulate) ?? "", second = weightSum.map(accumulate) ?? ""
    if !plan.sharesTile {
      return Text.lines(
        begin, expandScores, when(usesWeightTile, expandWeights(looks: true)), expandRows, Self.barrier,
        ifSeen(Text.lines(products, exchangeParts, gradients, careful(scoreSum), first, careful(weightSum), second, atEnd)))
    }
    return Text.lines(
      begin,
      when(wants.weightGradient, Text.lines(expandWeights(looks: false), Self.barrier, multiplyWeights, Self.barrier)),
      expandScores, expandRows, Self.barrier,
      multiplyScores, exchangeParts, gradients, careful(scoreSum), first, atEnd,
      when(weightSum != nil, Text.lines(Self.barrier, expandWeights(looks: true), Self.barrier, careful(weightSum), second)))
  }

  private var needsCare: Bool { scoreSum?.needsCare == true || weightSum?.needsCare == true }

  /// Declares whether a tile holds NaN or infinities.
  private func careful(_ sum: BackwardSumText?) -> String {
    guard let sum, sum.needsCare else { return "" }
    let name = sum.strip.tile.name
    return """
      bool \(name)_careful = false;
      for (ushort i = 0; i < \(plan.tiles.simdgroups); ++i) \(name)_careful = \(name)_careful || \(name)_non_finite[i];
      """
  }
}

extension AttentionKernelDescriptor.Mask {
  /// The MSL type of an element.
  var storageType: String {
    switch self {
    case .none: ""
    case .BOOL: "uchar"
    case .FP32: "float"
    case .FP16: "half"
    case .BF16: "bfloat"
    }
  }
}

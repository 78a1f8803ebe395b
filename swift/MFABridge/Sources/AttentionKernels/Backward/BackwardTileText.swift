/// The text of the inner loop of backward kernels: dequantizes tiles, multiplies the strips with them, and computes
/// from the products P and dS. Names: `scores` becomes dS, `weights` becomes P.
///
/// See eq. 6 of docs/math.md.
struct BackwardTileText {
  let descriptor: AttentionKernelDescriptor
  let tiling: BackwardTiling
  let scoreStrip, weightStrip: BackwardStripText
  let score: ScoreText
  /// The values that a pass computes.
  struct Outputs {
    /// dP, and with it D and dS.
    var weightGradient = false
    /// dS contains the derivative of the softcap.
    var softcapDerivative = true
    /// The sum of P dP, in `d_sum`.
    var dSum = false
  }
  let outputs: Outputs
  /// The kernel provides the memory in which SIMD groups publish what they read of the mask.
  var sharesMaskMemory = false
  /// The sums that the loop accumulates: with dS and with P.
  let scoreSum, weightSum: BackwardSumText?

  init(
    _ descriptor: AttentionKernelDescriptor, _ tiling: BackwardTiling, _ outputs: Outputs,
    scoreGradient: AttentionOperand?, weightGradient: AttentionOperand?
  ) {
    self.descriptor = descriptor
    self.tiling = tiling
    self.outputs = outputs
    scoreStrip = BackwardStripText(
      stationary: tiling.scoreStationary, streamed: tiling.scoreStreamed, fragments: tiling.scoreFragments,
      splits: tiling.splits)
    weightStrip = BackwardStripText(
      stationary: tiling.weightStationary, streamed: tiling.weightStreamed, fragments: tiling.weightFragments,
      splits: tiling.splits)
    score = ScoreText(descriptor)
    scoreSum = scoreGradient.map { [scoreStrip] in
      BackwardSumText(
        descriptor: descriptor, gradient: $0, strip: scoreStrip, leading: tiling.scoreLeading,
        block: tiling.tiles.block, weights: "scores", isScaled: true)
    }
    weightSum = weightGradient.map { [weightStrip] in
      BackwardSumText(
        descriptor: descriptor, gradient: $0, strip: weightStrip, leading: tiling.weightLeading,
        block: tiling.tiles.block, weights: "weights", isScaled: false)
    }
  }

  var block: Int { tiling.tiles.block }
  var splits: Int { tiling.splits }
  var isKeySide: Bool { tiling.side == .key }
  var scoreStreamed: OperandText { tiling.scoreStreamed }
  var weightStreamed: OperandText { tiling.weightStreamed }
  /// A blank line.
  static let gap = " "
  static let barrier = "threadgroup_barrier(mem_flags::mem_threadgroup);"
  static func pair(_ array: String) -> String { "float2(\(array)[8 * n + origin.x], \(array)[8 * n + origin.x + 1])" }

  /// The kernel reads the tile of dO or V: for dP or for dV.
  var usesWeightTile: Bool { outputs.weightGradient || weightSum != nil }
  var mask: MaskText {
    MaskText(descriptor: descriptor, blocks: block / 8, simdgroups: tiling.tiles.simdgroups, stride: "mask_stride")
  }
  var usesExchange: Bool { splits > 1 }
  /// Floats of a SIMD group's part of `exchange`: S and the pieces of dP, [1 + pieces, 8, block].
  var exchangeShare: Int { 8 * block * (1 + tiling.pieces) }

  // MARK: Memory

  func addMemory(_ memory: inout ThreadgroupMemory) {
    let scores = tiling.scoreLeading * scoreStreamed.elementBytes * block
    let weights = tiling.weightLeading * weightStreamed.elementBytes * block
    if tiling.sharesTile {
      memory.add("float4", "tile_memory", (max(scores, weights) + 15) / 16)
    } else {
      memory.add(scoreStreamed.element, "\(scoreStreamed.name)_tile", tiling.scoreLeading * block)
      if usesWeightTile {
        memory.add(weightStreamed.element, "\(weightStreamed.name)_tile", tiling.weightLeading * block)
      }
    }
    if scoreStreamed.factor == .row { memory.add("float", "\(scoreStreamed.name)_scale_tile", block) }
    if outputs.weightGradient, weightStreamed.factor == .row {
      memory.add("float", "\(weightStreamed.name)_scale_tile", block)
    }
    if isKeySide {
      memory.add("float", "l_tile", block)
      if outputs.weightGradient { memory.add("float", "d_tile", block) }
    }
    for sum in [scoreSum, weightSum] where sum?.skipsMasked == true {
      memory.add("uint", "\(sum?.strip.streamed.name ?? "")_non_finite", tiling.tiles.simdgroups)
    }
    if !sharesMaskMemory { mask.addMemory(&memory) }
    if usesExchange { memory.add("float", "exchange", tiling.tiles.simdgroups * exchangeShare) }
  }

  var tilePointers: String {
    guard tiling.sharesTile else { return "" }
    func pointer(_ tile: OperandText) -> String {
      "threadgroup \(tile.element) *\(tile.name)_tile = (threadgroup \(tile.element) *)tile_memory;"
    }
    return Text.lines(pointer(scoreStreamed), when(usesWeightTile, pointer(weightStreamed)))
  }

  // MARK: Rows

  /// Declares the stationary rows of a threadgroup, of which `index` is the block's number: first_row, last_row,
  /// exists, row. Rows past the end repeat the last one, have an empty range and are not stored.
  func rows(index: String) -> String {
    """
    const int first_row = \(index) * \(tiling.tiles.rows), last_row = min(first_row + \(tiling.tiles.rows), \
    \(stationaryRows)) - 1;
    const int lane_row = first_row + 8 * strip + int(origin.y);
    const bool exists = lane_row <= last_row;
    const int row = min(lane_row, last_row);
    """
  }
  var stationaryRows: String { !isKeySide ? "query_rows" : descriptor.hasKeyLengths ? "stored_keys" : "key_rows" }
  /// The condition under which a stationary row's range can be non-empty.
  var isPresent: String { isKeySide && descriptor.hasKeyLengths ? "exists && row < key_rows" : "exists" }
  /// Subtracts the gradient of logsumexp from a row's D. Needs batch, head, query_row.
  var lessLogsumexpGradient: String {
    descriptor.gradients.ofLogsumexp
      ? " - dL[args.dL.offset + batch * args.dL.batch + head * args.dL.head + query_row * args.dL.row]" : ""
  }
  var streamedRows: String { isKeySide ? "query_rows" : "key_rows" }

  /// The key range of a query row or, on the key side, the query range of a key.
  func rangeBegin(_ row: String) -> String {
    isKeySide ? "max(0, \(row) - shift - args.window_right)" : RowsText.keyRangeBegin(row)
  }
  func rangeEnd(_ row: String) -> String {
    isKeySide ? "min(query_rows, \(row) - shift + args.window_left + 1)" : RowsText.keyRangeEnd(row)
  }

  /// Declares lowest and highest, the range of the lane's row; empty unless `condition`.
  func range(where condition: String) -> String {
    "const int lowest = \(rangeBegin("row")), highest = \(condition) ? \(rangeEnd("row")) : lowest;"
  }

  /// Declares the per-head inputs of the score modification: position, slope, mask_row.
  var scoreMod: String {
    let (stationary, streamed) = isKeySide ? ("column", "row") : ("row", "column")
    return Text.lines(
      when(descriptor.hasALiBi, "const float alibi_slope = \(RowsText.slope(descriptor));"),
      when(descriptor.hasALiBi, "const int position = row \(isKeySide ? "-" : "+") shift;"),
      when(
        descriptor.mask != .none,
        """
        const device \(descriptor.mask.storageType) *mask_row = mask + args.mask.offset + sequence * args.mask.batch \
        + head * args.mask.head + row * args.mask.\(stationary);
        const long mask_stride = args.mask.\(streamed);
        """))
  }

  /// Declares the scales of both products and the terms of the means.
  var scales: String {
    func product(_ strip: BackwardStripText, _ first: String?) -> String {
      let factors = [first, strip.factor, strip.streamed.factor == .tensor ? "\(strip.streamed.name)_scale" : nil]
        .compactMap { $0 }
      return factors.isEmpty ? "1.0f" : factors.joined(separator: " * ")
    }
    func mean(_ strip: BackwardStripText, _ first: String?) -> String {
      ["product", first, strip.factor].compactMap { $0 }.joined(separator: " * ")
    }
    func meanScale(_ strip: BackwardStripText, _ name: String, _ first: String?) -> String {
      guard strip.streamed.hasMean else { return "" }
      return Text.lines(
        strip.meanProduct("\(name)_mean"),
        when(
          first != nil || strip.factor != nil,
          "\(name)_mean *= \([first, strip.factor].compactMap { $0 }.joined(separator: " * "));"))
    }
    return Text.lines(
      "const float score_scale = \(product(scoreStrip, "args.softmax_scale"));",
      meanScale(scoreStrip, "score", "args.softmax_scale"),
      when(
        outputs.weightGradient,
        Text.lines(
          "const float gradient_scale = \(product(weightStrip, nil));", meanScale(weightStrip, "gradient", nil))))
  }

  // MARK: The loop

  /// The body of the loop over tiles, from `first`. `accumulate`: uses dS, in a scope that has it, in a SIMD group of
  /// which some row's range meets the tile. Needs lowest, highest, and those rows' l and d.
  func body(_ accumulate: (_ of: BackwardSumText) -> String, atEnd: String = "") -> String {
    let condition = descriptor.mask == .none ? "simd_any(first < highest && first + \(block) > lowest)" : "shown"
    let declaration = splits > 1 ? "" : "const bool sees = \(condition);"
    func ifInRange(_ text: String) -> String { splits > 1 ? text : "if (sees) {\n\(text)\n}" }
    let products = Text.lines(
      when(outputs.weightGradient, multiplyWeights),
      multiplyScores)
    let partial =
      "const bool partial = true;  // whether some row does not see some other: where L is -INFINITY, none"
    let declare = """
      \(mask.anyUnmasked)
      \(declaration)
      const bool whole = simd_all(first >= lowest && first + \(block) <= highest);
      \(when(skipsMasked, partial))
      simdgroup_matrix_storage<float> scores[\(block / 8)]\(when(usesWeightTile, ", weights[\(block / 8)]"));
      """
    let begin = Text.lines(declare, mask.publish, Self.barrier, mask.skipMasked)
    let first = scoreSum.map(accumulate) ?? "", second = weightSum.map(accumulate) ?? ""
    if !tiling.sharesTile {
      return Text.lines(
        begin, dequantizeScores, when(usesWeightTile, dequantizeWeights(checksNonFinite: true)), loadRowStatistics,
        Self.barrier,
        ifInRange(
          Text.lines(
            products, exchangeParts, gradients, declareNonFinite(scoreSum), first, declareNonFinite(weightSum), second,
            atEnd)))
    }
    return Text.lines(
      begin,
      when(
        outputs.weightGradient,
        Text.lines(dequantizeWeights(checksNonFinite: false), Self.barrier, multiplyWeights, Self.barrier)),
      dequantizeScores, loadRowStatistics, Self.barrier,
      multiplyScores, exchangeParts, gradients, declareNonFinite(scoreSum), first, atEnd,
      when(
        weightSum != nil,
        Text.lines(
          Self.barrier, dequantizeWeights(checksNonFinite: true), Self.barrier, declareNonFinite(weightSum), second)))
  }

  var skipsMasked: Bool { scoreSum?.skipsMasked == true || weightSum?.skipsMasked == true }

  /// Declares whether a tile holds NaN or infinities.
  func declareNonFinite(_ sum: BackwardSumText?) -> String {
    guard let sum, sum.skipsMasked else { return "" }
    let name = sum.strip.streamed.name
    return """
      bool \(name)_careful = false;
      for (ushort i = 0; i < \(tiling.tiles.simdgroups); ++i) \(name)_careful = \(name)_careful \
      || \(name)_non_finite[i];
      """
  }
}

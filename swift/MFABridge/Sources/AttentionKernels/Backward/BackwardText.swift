/// The two backward kernels (FlashAttention-2, without atomics: no two threadgroups write the same gradient).
///
///     query:  for each tile of keys:        S = Q Kᵀ;  P = exp(S − L);  dP = dO Vᵀ;  dS = P ∘ (dP − D);  dQ += dS K
///     key:    for each query head of the group,
///               for each tile of queries:   Sᵀ = K Qᵀ; …;  dV += Pᵀ dO;  dK += dSᵀ Q
///
/// D = rowsum(dO ∘ O) where O is given; otherwise Σ P dP, in a separate pass over the keys.
///
/// See eq. 25 of docs/math.md.
struct BackwardText {
  let descriptor: AttentionKernelDescriptor
  let tiling: BackwardTiling
  let tile: BackwardTileText

  private var gradients: AttentionKernelDescriptor.Gradients { descriptor.gradients }
  private var isKeySide: Bool { tiling.side == .key }
  private var sweepsForD: Bool { !isKeySide && gradients.dSource == .probabilities }
  /// Whether there is a loop over tiles.
  private var loops: Bool { isKeySide ? gradients.key || gradients.value : gradients.query || sweepsForD }

  init(_ descriptor: AttentionKernelDescriptor, _ profile: DeviceProfile) {
    self.descriptor = descriptor
    tiling = BackwardTiling(descriptor, profile)
    let wanted = descriptor.gradients
    var outputs = BackwardTileText.Outputs()
    if tiling.side == .key {
      outputs.weightGradient = wanted.key
      tile = BackwardTileText(
        descriptor, tiling, outputs, scoreGradient: wanted.key ? .dK : nil, weightGradient: wanted.value ? .dV : nil)
    } else {
      outputs.weightGradient = true
      outputs.dSum = wanted.dSource == .probabilities
      tile = BackwardTileText(descriptor, tiling, outputs, scoreGradient: wanted.query ? .dQ : nil, weightGradient: nil)
    }
  }

  var kernel: KernelBody {
    var memory = ThreadgroupMemory()
    tile.addMemory(&memory)
    let (stationary, streamed) = isKeySide ? ("keys", "queries") : ("queries", "keys")
    return KernelBody(
      tiles: tiling.tiles, memory: memory,
      summary: "\(tiling.tiles.rows) \(stationary) a threadgroup, \(tiling.tiles.block) \(streamed) a tile"
        + (tiling.splits > 1 ? ", \(tiling.splits) SIMD groups a strip" : ""),
      body: Text.lines(setup, isKeySide ? keyBody : queryBody))
  }

  private var setup: String {
    """
    \(tile.tilePointers)
    const uint2 origin = lane_origin(lane);
    \(tiling.tiles.declareStrip)
    \(heads)
    \(RowsText.sequence(descriptor, z: "group.z"))
    \(tile.mask.setup)

    // Rows past the end stand in for the last one, see nothing and are not stored.
    \(tile.rows(index: "group.x"))
    if (first_row >= \(tile.stationaryRows)) return;

    """
  }

  private var heads: String {
    isKeySide
      ? "const uint key_head = group.y;"
      : "const uint head = group.y, key_head = head / args.heads_per_key_head;"
  }

  /// Declares begin and end: the union of the stationary rows' ranges.
  private var bounds: String {
    "const int begin = \(tile.rangeBegin("first_row")), end = \(tile.rangeEnd("last_row"));"
  }
  private func overTiles(_ body: String) -> String {
    """
    for (int first = begin; first < end; first += \(tiling.tiles.block)) {
      \(body)
    }
    """
  }

  // MARK: Queries

  private var queryBody: String {
    let start = tiling.scoreStationary.start.map { "(\($0) + row)" } ?? "row"
    let sweeps = sweepsForD && gradients.query
    let loop = overTiles(tile.body { sweeps ? "if (sweep == 1) {\n\($0.accumulate)\n}" : $0.accumulate })
    return Text.lines(
      when(loops, Text.lines(tile.scoreStrip.setup, tile.scoreStrip.load)),
      tile.weightStrip.setup,
      when(gradients.dSource == .output, sumOfOutput),
      when(loops, tile.weightStrip.load),
      """
      const long query_row = \(start);
      const float l = L[args.L.offset + batch * args.L.batch + head * args.L.head + query_row * args.L.row];
      """,
      when(
        gradients.dSource == .given,
        "const float d = D[args.D.offset + batch * args.D.batch + head * args.D.head "
          + "+ query_row * args.D.row]\(tile.lessLogsumexpGradient);"
      ),
      when(gradients.dSource == .probabilities, "float d = 0, d_sum = 0;"),
      when(gradients.dSource == .output, keysOfOutput),
      when(gradients.dSource == .output, writeD),
      when(
        loops,
        Text.lines(
          BackwardTileText.gap,
          "// A row of which L is -INFINITY adds nothing.",
          tile.range(where: "exists && l != -INFINITY"),
          bounds, tile.scoreMod,
          tiling.scoreStreamed.setup, tiling.weightStreamed.setup, tile.scales,
          tile.scoreSum?.clear, tile.scoreSum?.clearWeightSum,
          BackwardTileText.gap,
          when(sweeps, "// Sweep 0 finds D, sweep 1 the gradient.\nfor (ushort sweep = 0; sweep < 2; ++sweep) {"),
          loop,
          when(
            sweepsForD,
            Text.lines(
              when(sweeps, "if (sweep == 0) {"), "d = d_sum;", RowsText.sumOfRow("d"), writeD,
              when(sweeps, tile.scoreSum?.resetWeightSum ?? ""), when(sweeps, "}"))),
          when(sweeps, "}"),
          tile.scoreSum?.addMean, tile.scoreSum?.store)))
  }

  private var writeD: String {
    Text.lines(
      when(
        gradients.writesD,
        "if (exists && origin.x == 0\(tiling.splits > 1 ? " && part == 0" : "")) D[args.D.offset "
          + "+ batch * args.D.batch + head * args.D.head + query_row * args.D.row] = d;"
      ),
      when(gradients.ofLogsumexp, "d = d\(tile.lessLogsumexpGradient);"))
  }

  /// Declares d = rowsum(dO ∘ O).
  private var sumOfOutput: String {
    let (strip, columns) = (tile.weightStrip, descriptor.valueDimension)
    let (gradient, output) = (tiling.weightStationary, OperandText(.O, descriptor))
    let term = { (column: String) in
      "float(\(gradient.value(row: "row", column: column))) * float(\(output.value(row: "row", column: column)))"
    }
    // The next user of the exchange begins with a barrier.
    let parts =
      tiling.splits == 1
      ? ""
      : """
      if (origin.x == 0) exchange[8 * simd_index + origin.y] = d;
      \(BackwardTileText.barrier)
      d = 0;
      for (ushort i = 0; i < \(tiling.splits); ++i) d += exchange[8 * (\(tiling.splits) * strip + i) + origin.y];
      """
    return Text.lines(
      output.setup,
      "float d = 0;",
      strip.each(
        """
        \(strip.column)
        if (column < \(columns)) d += \(term("column"));
        if (column + 1 < \(columns)) d += \(term("column + 1"));
        """),
      RowsText.sumOfRow("d"),
      parts)
  }

  /// A row without keys has O = 0 and D = 0, whatever dO holds.
  private var keysOfOutput: String {
    let mask =
      descriptor.mask == .none ? "true" : MaskText.isUnmasked(descriptor.mask, "keys_mask", "key", "args.mask.column")
    return Text.lines(
      "if (\(OperandText.nonFiniteTest("d", "float", 1))) {",
      when(
        descriptor.mask != .none,
        "const device \(descriptor.mask.storageType) *keys_mask = mask + args.mask.offset "
          + "+ sequence * args.mask.batch + head * args.mask.head + row * args.mask.row;"
      ),
      """
      bool any = false;
      for (int key = \(RowsText.keyRangeBegin("row")); key < \(RowsText.keyRangeEnd("row")) && !any; \
      ++key) any = \(mask);
      if (!any) d = 0;
      }
      """)
  }

  // MARK: Keys

  private var keyBody: String {
    let (scoreSum, weightSum) = (tile.scoreSum, tile.weightSum)
    func head(_ operand: String, _ name: String) -> String {
      "const device float *\(name)_head = \(operand) + args.\(operand).offset + batch * args.\(operand).batch "
        + "+ head * args.\(operand).head;"
    }
    return Text.lines(
      tile.scoreStrip.setup, tile.scoreStrip.load,
      tile.weightStrip.setup, when(gradients.key, tile.weightStrip.load),
      BackwardTileText.gap,
      tile.range(where: tile.isPresent),
      bounds,
      scoreSum?.clear, weightSum?.clear,
      """
      for (uint head = key_head * args.heads_per_key_head; head < (key_head + 1) * args.heads_per_key_head; ++head) {
        \(tiling.scoreStreamed.setup)
        \(tiling.weightStreamed.setup)
        \(head("L", "l"))
        \(when(gradients.key, head("D", "d")))
        \(tile.scoreMod)
        \(tile.scales)
        \(scoreSum?.clearWeightSum ?? "")
        \(overTiles(tile.body { $0.accumulate }))
        \(scoreSum?.addMean ?? "")
      }
      """,
      scoreSum?.store, weightSum?.store)
  }
}

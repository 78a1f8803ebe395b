/// The tiling of a backward kernel. Rows of one side, the queries or the keys, are stationary in a threadgroup; tiles
/// of the other side are streamed: both kernels are the same text with the sides exchanged.
///
///     stationary  streamed   scores        gradients of weights    sums
///     Q, dO       K, V       S  = Q Kᵀ     dP  = dO Vᵀ             dQ += dS K
///     K, V        Q, dO      Sᵀ = K Qᵀ     dPᵀ = V dOᵀ             dK += dSᵀ Q,  dV += Pᵀ dO
struct BackwardTiling {
  enum Side { case query, key }
  let side: Side
  let tiles: Tiles
  /// The operands of the product S, and of the product dP.
  let scoreStationary, scoreStreamed, weightStationary, weightStreamed: OperandText
  /// V in its stored domain, where tiles hold it in the original one; nil where tiles keep the stored domain.
  let rotatedValue: OperandText?
  /// 8×8 matrices of a strip that a SIMD group holds, of the head dimension and of the value dimension.
  let scoreFragments: Int, weightFragments: Int
  /// Pieces in which a SIMD group sums its columns of dP, and matrices of a piece: those of the kernel of which most
  /// SIMD groups share a strip, so that `agrees` holds.
  let pieces: Int, pieceFragments: Int
  /// Both operands use one tile in turn: they do not fit at once.
  let sharesTile: Bool

  init(_ descriptor: AttentionKernelDescriptor, _ profile: DeviceProfile) {
    let tuning = BackwardTuning.row(profile)
    func text(_ operand: AttentionOperand) -> OperandText { OperandText(operand, descriptor) }
    side = descriptor.kind == .backwardKeyValue ? .key : .query
    (scoreStationary, weightStationary) = side == .query ? (text(.Q), text(.dO)) : (text(.K), text(.V))
    let value = text(.V)
    var weights = side == .query ? value : text(.dO)
    if side == .query && Self.agrees(descriptor) && (value.rotation > 1 || value.hasMean) {
      weights.convertToOriginal()
      rotatedValue = value
    } else {
      rotatedValue = nil
    }
    (scoreStreamed, weightStreamed) = (text(side == .query ? .K : .Q), weights)

    let (d, dv) = (descriptor.headDimension, descriptor.valueDimension)
    let sums =
      switch descriptor.kind {
      case .backwardQuery: descriptor.gradients.query ? d : 0
      case .backwardKeyValue: (descriptor.gradients.key ? d : 0) + (descriptor.gradients.value ? dv : 0)
      default: 0
      }
    let splits = Self.splits(side, descriptor, tuning, sums: sums)
    scoreFragments = Tiles.fragments(d, splits, max(scoreStationary.rotation, scoreStreamed.rotation))
    let most = max(
      Self.splits(.query, descriptor, tuning, sums: d), Self.splits(.key, descriptor, tuning, sums: d + dv))
    pieces = Self.agrees(descriptor) ? most / splits : 1
    pieceFragments = Tiles.fragments(dv, splits * pieces, value.rotation)
    weightFragments = splits == 1 ? Tiles.fragments(dv, 1, value.rotation) : pieces * pieceFragments

    let rows = (
      Self.leading(scoreStreamed, scoreFragments * splits) * scoreStreamed.elementBytes,
      Self.leading(weightStreamed, weightFragments * splits) * weightStreamed.elementBytes
    )
    // Past this, 8 rows of both leave no room for `exchange`.
    sharesTile = 8 * (rows.0 + rows.1) > 24576
    let row = sharesTile ? max(rows.0, rows.1) : rows.0 + rows.1
    var block = 8
    while 2 * block <= (splits > 1 ? tuning.sharedRows : tuning.rows), 2 * block * row <= tuning.tileBytes {
      block *= 2
    }
    let simdgroups = splits == 1 ? tuning.simdgroups : tuning.sharing
    tiles = Tiles(strips: simdgroups / splits, splitD: splits, splitK: 1, block: block)
  }

  /// dP is the same number as in other kernels: the same products, added in the same order. D that is Σ P dP must
  /// cancel against the dP of the kernel that reads D; where one key has all of P, only the difference of their
  /// roundings is left. Not so where D comes from O, which is rounded anyway.
  private static func agrees(_ descriptor: AttentionKernelDescriptor) -> Bool {
    switch descriptor.kind {
    case .backwardQuery: descriptor.gradients.dSource != .output
    case .backwardKeyValue: descriptor.gradients.key
    default: true
    }
  }

  /// SIMD groups that must share a strip, so that the operands and sums of a kernel fit its registers.
  private static func splits(
    _ side: Side, _ descriptor: AttentionKernelDescriptor, _ tuning: BackwardTuning.Row, sums: Int
  ) -> Int {
    func held(_ stationary: AttentionOperand, _ streamed: AttentionOperand) -> Int {
      let strip = BackwardStripText(
        stationary: OperandText(stationary, descriptor), streamed: OperandText(streamed, descriptor), fragments: 1,
        splits: 1)
      return descriptor.columns(stationary) * (strip.element == "float" ? 4 : 2) / 4
    }
    let registers = (side == .key ? held(.K, .Q) + held(.V, .dO) : held(.Q, .K) + held(.dO, .V)) + sums
    var splits = 1
    while registers / 4 > tuning.registers * splits, splits < tuning.sharing { splits *= 2 }
    return splits
  }

  var splits: Int { tiles.splitD }
  var threads: Int { 32 * tiles.simdgroups }
  var scoreWidth: Int { 8 * scoreFragments * splits }
  var weightWidth: Int { 8 * weightFragments * splits }
  var scoreLeading: Int { Self.leading(scoreStreamed, scoreFragments * splits) }
  var weightLeading: Int { Self.leading(weightStreamed, weightFragments * splits) }

  /// The leading dimension of a tile: 16 bytes of padding keep the rows of a matrix in different banks.
  private static func leading(_ streamed: OperandText, _ fragments: Int) -> Int {
    8 * fragments + 16 / streamed.elementBytes
  }
}

extension OperandText {
  var elementBytes: Int { element == "float" ? 4 : 2 }
}

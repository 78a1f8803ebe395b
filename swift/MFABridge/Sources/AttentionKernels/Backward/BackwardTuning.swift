/// Tuning of the backward kernels, as data.
enum BackwardTuning {
  struct Row: Sendable {
    let families: ClosedRange<DeviceProfile.Family>
    /// Registers of 32 bits that a lane may spend on its strip's operands and sums; beyond it, SIMD groups share a strip.
    let registers: Int
    /// SIMD groups of a threadgroup, without and with sharing.
    let simdgroups: Int, sharing: Int
    /// Bytes of the two tiles.
    let tileBytes: Int
    /// Most rows of a tile, without and with sharing.
    let rows: Int, sharedRows: Int
    /// Where the row comes from.
    let source: String
  }

  static let rows: [Row] = [
    Row(
      families: .apple7 ... .apple9, registers: 96, simdgroups: 4, sharing: 8, tileBytes: 20480, rows: 32, sharedRows: 16,
      source: "chosen by model, not measured: a lane has 128 registers, of which two strips of scores and addresses need some 30"),
  ]

  static func row(_ profile: DeviceProfile) -> Row { rows.first { $0.families.contains(profile.family) } ?? rows[0] }
}

/// How a backward kernel is cut. A threadgroup owns rows of one side, the queries or the keys, and passes over tiles of the other:
/// both kernels are the same text with the sides exchanged.
///
///     own      tiles      scores        gradients of weights    sums
///     Q, dO    K, V       S  = Q Kᵀ     dP  = dO Vᵀ             dQ += dS K
///     K, V     Q, dO      Sᵀ = K Qᵀ     dPᵀ = V dOᵀ             dK += dSᵀ Q,  dV += Pᵀ dO
struct BackwardPlan {
  enum Side { case query, key }
  let side: Side
  let tiles: Tiles
  /// Of the product S, and of the product dP: the owned rows and those in tiles.
  let scoreOwn, scoreTile, weightOwn, weightTile: OperandText
  /// V as it is stored, of which tiles hold rows in the caller's basis; nil where they hold what is stored.
  let turnedValue: OperandText?
  /// 8×8 matrices of a strip that a SIMD group holds, of the head dimension and of the value dimension.
  let scoreFragments: Int, weightFragments: Int
  /// A SIMD group adds up its columns of dP in so many pieces, of so many matrices: as the kernel does of which most SIMD groups share
  /// a strip, so that `agrees` holds.
  let pieces: Int, pieceFragments: Int
  /// Both operands take turns in one tile: they don't fit at once.
  let sharesTile: Bool

  init(_ descriptor: AttentionKernelDescriptor, _ profile: DeviceProfile) {
    let tuning = BackwardTuning.row(profile)
    func text(_ operand: AttentionOperand) -> OperandText { OperandText(operand, descriptor) }
    side = descriptor.kind == .backwardKeyValue ? .key : .query
    (scoreOwn, weightOwn) = side == .query ? (text(.Q), text(.dO)) : (text(.K), text(.V))
    let value = text(.V)
    var weights = side == .query ? value : text(.dO)
    if side == .query && Self.agrees(descriptor) && (value.rotation > 1 || value.hasMean) {
      weights.becomeReal()
      turnedValue = value
    } else {
      turnedValue = nil
    }
    (scoreTile, weightTile) = (text(side == .query ? .K : .Q), weights)

    let (d, dv) = (descriptor.headDimension, descriptor.valueDimension)
    let sums = switch descriptor.kind {
    case .backwardQuery: descriptor.gradients.query ? d : 0
    case .backwardKeyValue: (descriptor.gradients.key ? d : 0) + (descriptor.gradients.value ? dv : 0)
    default: 0
    }
    let splits = Self.splits(side, descriptor, tuning, sums: sums)
    scoreFragments = Self.fragments(d, splits, max(scoreOwn.rotation, scoreTile.rotation))
    let most = max(Self.splits(.query, descriptor, tuning, sums: d), Self.splits(.key, descriptor, tuning, sums: d + dv))
    pieces = Self.agrees(descriptor) ? most / splits : 1
    pieceFragments = Self.fragments(dv, splits * pieces, value.rotation)
    weightFragments = splits == 1 ? Self.fragments(dv, 1, value.rotation) : pieces * pieceFragments

    let rows = (Self.leading(scoreTile, scoreFragments * splits) * scoreTile.elementBytes, Self.leading(weightTile, weightFragments * splits) * weightTile.elementBytes)
    // Past this, 8 rows of both leave no room for what SIMD groups exchange.
    sharesTile = 8 * (rows.0 + rows.1) > 24576
    let row = sharesTile ? max(rows.0, rows.1) : rows.0 + rows.1
    var block = 8
    while 2 * block <= (splits > 1 ? tuning.sharedRows : tuning.rows), 2 * block * row <= tuning.tileBytes { block *= 2 }
    let simdgroups = splits == 1 ? tuning.simdgroups : tuning.sharing
    tiles = Tiles(strips: simdgroups / splits, columnSplits: splits, keyGroups: 1, block: block)
  }

  /// dP is the same number as in other kernels: the same products, added in the same order. D that is Σ P dP must cancel against
  /// the dP of whoever reads D; where one key takes all of P, what is left is the difference of their roundings. Not so where
  /// D comes from O, which is rounded anyway.
  private static func agrees(_ descriptor: AttentionKernelDescriptor) -> Bool {
    switch descriptor.kind {
    case .backwardQuery: descriptor.gradients.dSource != .output
    case .backwardKeyValue: descriptor.gradients.key
    default: true
    }
  }

  /// SIMD groups that must share a strip, so that what a kernel holds in registers fits.
  private static func splits(_ side: Side, _ descriptor: AttentionKernelDescriptor, _ tuning: BackwardTuning.Row, sums: Int) -> Int {
    func held(_ own: AttentionOperand, _ tile: AttentionOperand) -> Int {
      let strip = BackwardStripText(own: OperandText(own, descriptor), tile: OperandText(tile, descriptor), fragments: 1, splits: 1)
      return descriptor.columns(own) * (strip.element == "float" ? 4 : 2) / 4
    }
    let registers = (side == .key ? held(.K, .Q) + held(.V, .dO) : held(.Q, .K) + held(.dO, .V)) + sums
    var splits = 1
    while registers / 4 > tuning.registers * splits, splits < tuning.sharing { splits *= 2 }
    return splits
  }

  var splits: Int { tiles.columnSplits }
  var threads: Int { 32 * tiles.simdgroups }
  var scoreWidth: Int { 8 * scoreFragments * splits }
  var weightWidth: Int { 8 * weightFragments * splits }
  var scoreLeading: Int { Self.leading(scoreTile, scoreFragments * splits) }
  var weightLeading: Int { Self.leading(weightTile, weightFragments * splits) }

  /// 16 bytes more from row to row keep the rows of a matrix in different banks.
  private static func leading(_ tile: OperandText, _ fragments: Int) -> Int { 8 * fragments + 16 / tile.elementBytes }

  /// Matrices of a SIMD group's columns. A rotation either lies within them, or spans all SIMD groups of the strip.
  private static func fragments(_ columns: Int, _ splits: Int, _ rotation: Int) -> Int {
    let all = (columns + 7) / 8, share = (all + splits - 1) / splits
    let unit = max(rotation / 8, 1)
    if unit > share { return unit == all && all % splits == 0 ? share : unit }
    return (share + unit - 1) / unit * unit
  }
}

extension OperandText {
  var elementBytes: Int { element == "float" ? 4 : 2 }
}

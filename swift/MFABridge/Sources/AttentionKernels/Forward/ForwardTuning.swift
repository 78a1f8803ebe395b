/// Tuning of the forward kernels, as data.
enum ForwardTuning {
  /// Rows (query rows times the query heads of a key head) up to which the decode schedule is taken.
  /// Chosen by model, not measured: above it, expanding K and V once for 32 rows costs less than once for each strip of 8.
  static let decodeRows = 16
  /// Threadgroups that keep a core busy. Chosen by model, not measured.
  static let threadgroupsPerCore = 4
  /// Keys below which another split costs more than it saves. Chosen by model, not measured.
  static let keysPerSplit = 256

  struct Row: Sendable {
    let families: ClosedRange<DeviceProfile.Family>
    /// Registers of 32 bits that a lane may spend on its strip of Q and O (with its excess); beyond it, SIMD groups share a strip.
    let registers: Int
    /// SIMD groups of a threadgroup, without and with sharing.
    let simdgroups: Int, sharing: Int
    /// Bytes of a tile of K or V.
    let tileBytes: Int
    /// Most keys of a tile.
    let keys: Int
    /// Where the row comes from.
    let source: String
  }

  /// A lane has 128 registers; scores, addresses and the tile on its way need some 30.
  static let rows: [Row] = [
    Row(
      families: .apple7 ... .apple8, registers: 96, simdgroups: 4, sharing: 8, tileBytes: 10240, keys: 32,
      source: "chosen by model, not measured: three threadgroups fit in a core's threadgroup memory"),
    Row(
      families: .apple9 ... .apple9, registers: 96, simdgroups: 4, sharing: 8, tileBytes: 20480, keys: 64,
      source: "chosen by model, not measured: registers and threadgroup memory share a cache, so larger tiles cost less occupancy"),
  ]

  static func row(_ profile: DeviceProfile) -> Row { rows.first { $0.families.contains(profile.family) } ?? rows[0] }
}

/// How a forward kernel is cut, from the descriptor and the tuning table.
struct ForwardPlan {
  let tiles: Tiles
  /// 8×8 matrices of a strip of Q and of O in a SIMD group.
  let queryFragments: Int, outputFragments: Int
  /// Columns of the tiles of K and V, and elements from one row to the next.
  let keyWidth: Int, valueWidth: Int, keyLeading: Int, valueLeading: Int

  init(_ descriptor: AttentionKernelDescriptor, _ profile: DeviceProfile) throws(AttentionKernelError) {
    let tuning = ForwardTuning.row(profile)
    let (key, value) = (OperandText(.K, descriptor), OperandText(.V, descriptor))
    let queryBytes = QueryText(descriptor, key: key, fragments: 1, splits: 1).element == "float" ? 4 : 2
    // Of V's columns: the sums, and what rounding added to them.
    let registers = (descriptor.headDimension * queryBytes / 4 + 2 * descriptor.valueDimension) / 4
    var splits = 1
    while registers > tuning.registers * splits { splits *= 2 }
    queryFragments = Self.fragments(descriptor.headDimension, splits, max(key.rotation, OperandText(.Q, descriptor).rotation))
    outputFragments = Self.fragments(descriptor.valueDimension, splits, value.rotation)
    (keyWidth, valueWidth) = (8 * queryFragments * splits, 8 * outputFragments * splits)
    func bytes(_ operand: OperandText) -> Int { operand.element == "float" ? 4 : 2 }
    // 16 bytes more from row to row keep the rows of a matrix in different banks.
    keyLeading = keyWidth + 16 / bytes(key)
    valueLeading = valueWidth + 16 / bytes(value)
    let row = max(keyLeading * bytes(key), valueLeading * bytes(value))
    let fitting = max(tuning.tileBytes, 8 * row) / row
    var block = 8
    while 2 * block <= min(fitting, tuning.keys) { block *= 2 }
    let simdgroups = splits == 1 ? tuning.simdgroups : max(tuning.sharing, splits)
    switch descriptor.schedule {
    case .prefill: tiles = Tiles(strips: simdgroups / splits, columnSplits: splits, keyGroups: 1, block: block)
    case .decode, .decodeSplit: tiles = Tiles(strips: 1, columnSplits: splits, keyGroups: simdgroups / splits, block: min(2 * block, 32))
    }
  }

  /// Matrices of a SIMD group's columns. A rotation either lies within them, or spans all SIMD groups of the strip.
  private static func fragments(_ columns: Int, _ splits: Int, _ rotation: Int) -> Int {
    let all = (columns + 7) / 8, share = (all + splits - 1) / splits
    let unit = max(rotation / 8, 1)
    if unit > share { return unit == all && all % splits == 0 ? share : unit }
    return (share + unit - 1) / unit * unit
  }
}

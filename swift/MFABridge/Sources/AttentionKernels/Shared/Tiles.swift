/// The tiling of the scores by a threadgroup. A strip is 8 query rows (of a key kernel: 8 key rows), the height of
/// a SIMD-group matrix.
struct Tiles: Hashable, Sendable {
  /// Strips of a threadgroup: blockM / 8.
  var strips: Int
  /// Parts of the head dimension, each in a SIMD group: for head dimensions that do not fit in the registers of one.
  var splitD: Int
  /// Parts of the keys, each in a SIMD group (or in `splitD` of them): split-K within a threadgroup.
  var splitK = 1
  /// blockN: rows of the other side (prefill: keys) that are dequantized at a time; a multiple of 8.
  var block: Int

  var simdgroups: Int { strips * splitD * splitK }
  /// blockM: rows of a threadgroup, all strips together.
  var rows: Int { 8 * strips }

  /// Declares `strip`, that of a SIMD group, and `part`, its part of the columns.
  var declareStrip: String {
    splitD > 1
      ? "const ushort strip = simd_index / \(splitD), part = simd_index % \(splitD);"
      : "const ushort strip = simd_index;"
  }

  /// Threadgroups for a problem.
  func grid(_ arguments: AttentionArguments, _ descriptor: AttentionKernelDescriptor) -> AttentionKernel.Size {
    func blocks(_ n: Int) -> Int { (n + rows - 1) / rows }
    let (batches, heads, group) = (Int(arguments.batches), Int(arguments.heads), max(Int(arguments.headsPerKeyHead), 1))
    let (queryRows, keyRows) = (Int(arguments.queryRows), Int(arguments.keyRows))
    switch descriptor.kind {
    case .forward:
      switch descriptor.schedule {
      case .prefill: return .init(blocks(queryRows), heads, batches)
      case .decode: return .init(blocks(group * queryRows), heads / group, batches)
      case .decodeSplit: return .init(blocks(group * queryRows) * Int(arguments.splits), heads / group, batches)
      }
    case .forwardMerge: return .init(queryRows, heads, batches)
    case .backwardQuery: return .init(blocks(queryRows), heads, batches)
    case .backwardKeyValue: return .init(blocks(keyRows), arguments.keyHeads.map { Int($0) } ?? heads / group, batches)
    case .backwardMask:
      // One threadgroup sums over whole dimensions.
      let view = arguments.maskGradient
      let columns = view.column == 0 ? 1 : (keyRows + block - 1) / block
      return .init(
        (view.row == 0 ? 1 : blocks(queryRows)) * columns, view.head == 0 ? 1 : heads, view.batch == 0 ? 1 : batches)
    case .backwardSinks: return .init(1, heads, 1)
    }
  }

  /// Matrices of a SIMD group's columns. A rotation either stays within them, or spans all SIMD groups of the strip.
  static func fragments(_ columns: Int, _ splits: Int, _ rotation: Int) -> Int {
    let all = (columns + 7) / 8, share = (all + splits - 1) / splits
    let multiple = max(rotation / 8, 1)
    if multiple > share { return multiple == all && all % splits == 0 ? share : multiple }
    return (share + multiple - 1) / multiple * multiple
  }
}

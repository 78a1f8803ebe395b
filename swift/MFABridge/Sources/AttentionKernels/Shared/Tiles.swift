/// How a threadgroup covers its share of the scores. A strip is 8 query rows (of a key kernel: 8 key rows), the height of
/// a SIMD-group matrix.
struct Tiles: Hashable, Sendable {
  /// Strips of a threadgroup.
  var strips: Int
  /// SIMD groups that share a strip, each with some of the columns: for head dimensions that do not fit in one's registers.
  var columnSplits: Int
  /// SIMD groups (times `columnSplits`) that share a strip, each with some of the keys.
  var keyGroups = 1
  /// Rows of the other side (prefill: keys) that are expanded at a time; a multiple of 8.
  var block: Int

  var simdgroups: Int { strips * columnSplits * keyGroups }
  var rows: Int { 8 * strips }

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
      // Dimensions over which the gradient is summed are one threadgroup's.
      let view = arguments.maskGradient
      let columns = view.column == 0 ? 1 : (keyRows + block - 1) / block
      return .init((view.row == 0 ? 1 : blocks(queryRows)) * columns, view.head == 0 ? 1 : heads, view.batch == 0 ? 1 : batches)
    case .backwardSinks: return .init(1, heads, 1)
    }
  }
}

extension AttentionArguments {
  /// The schedule of a forward call, and its number of splits. Pure: depends on the sizes and the profile alone.
  ///
  /// Decoding pays when the query heads of a key head fit in few strips of rows; splitting, when there are fewer threadgroups
  /// than the device can run at once and each would still have some hundred keys.
  public func schedule(on profile: DeviceProfile) -> (schedule: AttentionKernelDescriptor.Schedule, splits: Int) {
    let group = max(Int(headsPerKeyHead), 1), folded = group * Int(queryRows)
    guard folded <= ForwardTuning.decodeRows else { return (.prefill, 1) }
    let threadgroups = Int(batches) * (Int(heads) / group) * ((folded + 7) / 8)
    let wanted = ForwardTuning.threadgroupsPerCore * profile.cores / max(threadgroups, 1)
    let splits = min(wanted, Int(keyRows) / ForwardTuning.keysPerSplit)
    return splits > 1 ? (.decodeSplit, splits) : (.decode, 1)
  }
}

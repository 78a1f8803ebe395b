/// The tiling of a forward kernel, from the descriptor and the tuning table.
struct ForwardTiling {
  let tiles: Tiles
  /// 8×8 matrices of a strip of Q and of O in a SIMD group.
  let queryFragments: Int, outputFragments: Int
  /// Columns of the tiles of K and V, and their leading dimensions, in elements.
  let keyWidth: Int, valueWidth: Int, keyLeading: Int, valueLeading: Int

  init(_ descriptor: AttentionKernelDescriptor, _ profile: DeviceProfile) throws(AttentionKernelError) {
    let tuning = ForwardTuning.row(profile)
    let (key, value) = (OperandText(.K, descriptor), OperandText(.V, descriptor))
    let queryBytes = QueryText(descriptor, key: key, fragments: 1, splits: 1).element == "float" ? 4 : 2
    // Of V's columns: the sums, and their rounding errors.
    let registers = (descriptor.headDimension * queryBytes / 4 + 2 * descriptor.valueDimension) / 4
    var splits = 1
    while registers > tuning.registers * splits { splits *= 2 }
    queryFragments = Tiles.fragments(
      descriptor.headDimension, splits, max(key.rotation, OperandText(.Q, descriptor).rotation))
    outputFragments = Tiles.fragments(descriptor.valueDimension, splits, value.rotation)
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
    case .prefill: tiles = Tiles(strips: simdgroups / splits, splitD: splits, splitK: 1, block: block)
    case .decode, .decodeSplit:
      tiles = Tiles(strips: 1, splitD: splits, splitK: simdgroups / splits, block: min(2 * block, 32))
    }
  }
}

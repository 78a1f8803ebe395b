/// Which elements share a scale; the raw values are the contract's.
public enum QuantizationGranularity: Int32, Sendable, CustomStringConvertible {
  /// All of them.
  case tensor = 0
  /// A row, or a group of its columns.
  case row = 1
  /// A block of rows.
  case block = 2
  /// One column of a block of rows.
  case channel = 3

  public var description: String {
    switch self {
    case .tensor: return "tensor"
    case .row: return "row"
    case .block: return "block"
    case .channel: return "channel"
    }
  }
}

/// The mapping from the integers of a tensor to real numbers, checked.
package struct Quantization: Sendable {
  /// Scales and zero points.
  package enum Parameters: Sendable {
    case one(scale: Float, zeroPoint: Int32)
    case many(Arrays)
  }

  package struct Arrays: Sendable {
    package let scales: ArrayView
    package let half: Bool
    package let zeroPoints: ArrayView?
    /// 1 or 4; 0 without zero points.
    package let zeroPointBytes: Int
    package let shape: SIMD4<Int>
    /// Elements, of the array of scales; 0 along dimensions of one scale.
    package let strides: SIMD4<Int>
  }

  package let granularity: QuantizationGranularity
  /// Rows that share a scale.
  package let blockRows: Int
  /// Columns that share a scale.
  package let group: Int
  package var parameters: Parameters
  package let rotated: Bool
  /// FP32 `[batch, heads, columns]`.
  package let mean: ArrayView?
  /// The device has yet to write the arrays.
  let isPending: Bool

  /// Whether any zero point can differ from 0.
  package var hasZeroPoints: Bool {
    switch parameters {
    case .one(_, let zeroPoint): return zeroPoint != 0
    case .many(let arrays): return arrays.zeroPoints != nil
    }
  }

  /// The shape of the array of scales of a tensor of shape `shape`.
  func scaleShape(_ shape: SIMD4<Int>) -> SIMD4<Int> {
    if granularity == .tensor { return SIMD4(repeating: 1) }
    return SIMD4(shape.x, shape.y, ceilingQuotient(shape.z, blockRows), ceilingQuotient(shape.w, group))
  }

  /// Checks a quantization of a tensor of the given shape and strides.
  static func check(
    _ view: QuantizationDescription, _ what: String, _ precision: ElementPrecision, _ shape: SIMD4<Int>,
    _ strides: SIMD4<Int>
  ) throws(AttentionError) -> Quantization {
    guard let granularity = QuantizationGranularity(rawValue: view.granularity) else {
      throw AttentionError(
        .invalidArgument,
        "\(what): granularity \(view.granularity) is unknown; expected 0 (tensor), 1 (row), 2 (block) or 3 (channel)")
    }
    let blocked = granularity == .block || granularity == .channel
    try ensure(
      blocked == (view.blockRows > 0), .invalidArgument,
      "\(what): block_rows is \(view.blockRows) with granularity \(granularity); "
        + "expected \(blocked ? "at least 1" : "0")"
    )
    try ensure(
      view.groupSize == 0 || (granularity == .row && (view.groupSize == 32 || view.groupSize == 64)), .invalidArgument,
      "\(what): group_size is \(view.groupSize) with granularity \(granularity); "
        + "expected 0, or 32 or 64 with granularity row")
    try ensure(view.rotated <= 1, .invalidArgument, "\(what): rotated is \(view.rotated); expected 0 or 1")
    try ensure(
      view.reserved == 0, .invalidArgument, "\(what): quantization.reserved is \(view.reserved); expected 0")
    let wholeRow = max(shape.w, 1)
    let (blockRows, group): (Int, Int)
    switch granularity {
    case .tensor: (blockRows, group) = (.max, wholeRow)
    case .row: (blockRows, group) = (1, view.groupSize == 0 ? wholeRow : Int(view.groupSize))
    case .block: (blockRows, group) = (Int(view.blockRows), wholeRow)
    case .channel: (blockRows, group) = (Int(view.blockRows), 1)
    }
    var result = Quantization(
      granularity: granularity, blockRows: blockRows, group: group, parameters: .one(scale: 1, zeroPoint: 0),
      rotated: view.rotated == 1, mean: nil, isPending: view.isPending)
    let scaleShape = result.scaleShape(shape)
    if view.scaleBuffer.isAbsent {
      try ensure(
        granularity == .tensor, .invalidArgument,
        "\(what): no scale_buffer with granularity \(granularity); expected scales of shape \(scaleShape.list)")
      try expectScale(view.scale, what)
      try expectZeroPoint(view.zeroPoint, what, precision)
      result.parameters = .one(scale: view.scale, zeroPoint: view.zeroPoint)
    } else {
      try ensure(
        view.scaleStrides != SIMD4(repeating: 0) || saturatedProduct(scaleShape.list) <= 1
          || isContiguous(shape, strides),
        .invalidArgument,
        "\(what): strides \(strides.list) of shape \(shape.list) are those of a view, without scale_strides; expected "
          + "the strides of its scales \(scaleShape.list)")
      result.parameters = .many(try Arrays.check(view, what, scaleShape))
    }
    if view.meanBuffer.isAbsent { return result }
    let means = saturatedProduct(saturatedProduct(UInt64(shape.x), UInt64(shape.y)), UInt64(shape.w))
    let mean = try ArrayView.check(
      view.meanBuffer, offset: view.meanOffset, bytes: saturatedProduct(4, means), alignment: 4, "\(what): mean_buffer")
    return Quantization(
      granularity: granularity, blockRows: blockRows, group: group, parameters: result.parameters,
      rotated: result.rotated,
      mean: mean, isPending: view.isPending)
  }

  /// Checks what the arrays hold, as far as a wrong value would give a wrong result rather than NaN: reads each zero
  /// point. For a tensor-wise scale, takes the two numbers out of their arrays.
  mutating func checkValues(_ what: String, _ precision: ElementPrecision, _ shape: SIMD4<Int>) throws(AttentionError) {
    guard case .many(let arrays) = parameters, !isPending, !arrays.areImagined else { return }
    try arrays.scales.expectVisible("\(what): scale_buffer")
    try arrays.zeroPoints?.expectVisible("\(what): zero_point_buffer")
    if granularity == .tensor {
      let (scale, zeroPoint) = (arrays.scale(at: 0), arrays.zeroPoint(at: 0))
      try expectScale(scale, what)
      try expectZeroPoint(zeroPoint, what, precision)
      parameters = .one(scale: scale, zeroPoint: zeroPoint)
    } else if arrays.zeroPoints != nil && (precision == .int4 || arrays.zeroPointBytes == 4) {
      try arrays.forEach { (index) throws(AttentionError) in
        try expectZeroPoint(arrays.zeroPoint(at: index), what, precision)
      }
    }
  }

  /// Demands scales and zero points that can be rounded with.
  func expectGiven(_ what: String, _ precision: ElementPrecision) throws(AttentionError) {
    guard case .many(let arrays) = parameters, !isPending else { return }
    try arrays.forEach { (index) throws(AttentionError) in
      try expectScale(arrays.scale(at: index), what)
      try expectZeroPoint(arrays.zeroPoint(at: index), what, precision)
    }
  }

  /// The arrays of scales, zero points and means as views, with their names: for those who write them.
  var arrays: (scales: NamedTensor, zeroPoints: NamedTensor, mean: NamedTensor) {
    var (scales, zeroPoints): (Tensor?, Tensor?)
    if case .many(let arrays) = parameters {
      scales = Tensor(over: arrays.scales, arrays.half ? .fp16 : .fp32, shape: arrays.shape, strides: arrays.strides)
      zeroPoints = arrays.zeroPoints.map {
        Tensor(over: $0, arrays.zeroPointBytes == 1 ? .int8 : .fp32, shape: arrays.shape, strides: arrays.strides)
      }
    }
    let mean = mean.map { array in
      let count = array.bytes / 4
      return Tensor(over: array, .fp32, shape: SIMD4(1, 1, 1, count), strides: SIMD4(0, 0, 0, count > 1 ? 1 : 0))
    }
    return ((scales, "scale_buffer"), (zeroPoints, "zero_point_buffer"), (mean, "mean_buffer"))
  }
}

/// Whether elements follow one another in the order of the axes.
private func isContiguous(_ shape: SIMD4<Int>, _ strides: SIMD4<Int>) -> Bool {
  var step = 1
  for axis in (0..<4).reversed() {
    if shape[axis] > 1 && strides[axis] != step { return false }
    step = step &* max(shape[axis], 1)
  }
  return true
}

extension Quantization.Arrays {
  fileprivate static func check(
    _ view: QuantizationDescription, _ what: String, _ shape: SIMD4<Int>
  ) throws(AttentionError) -> Quantization.Arrays {
    let half: Bool
    switch ElementPrecision(rawValue: view.scalePrecision) {
    case .fp32: half = false
    case .fp16: half = true
    default:
      throw AttentionError(
        .invalidArgument, "\(what): scale_precision is \(view.scalePrecision); expected 0 (FP32) or 1 (FP16)")
    }
    var strides = SIMD4<Int>()
    if view.scaleStrides == SIMD4(repeating: 0) {
      var step = 1
      for axis in (0..<4).reversed() {
        // 0 where there is one element: tensors of any shape index a tensor-wise scale.
        strides[axis] = shape[axis] > 1 ? step : 0
        step = saturatedProduct([step, max(shape[axis], 1)])
      }
    } else {
      for axis in 0..<4 {
        let stride = view.scaleStrides[axis]
        try ensure(
          stride >= 0, .invalidDimensions,
          "\(what): scale_strides is \(view.scaleStrides.list); expected none below 0")
        strides[axis] = shape[axis] > 1 ? Int(stride) : 0
      }
    }
    var count: UInt64 = 0
    if !shape.list.contains(0) {
      for axis in 0..<4 {
        count = saturatedSum(count, saturatedProduct(UInt64(shape[axis] - 1), UInt64(strides[axis])))
      }
      count = saturatedSum(count, 1)
    }
    let size = half ? 2 : 4
    let scales = try ArrayView.check(
      view.scaleBuffer, offset: view.scaleOffset, bytes: saturatedProduct(count, UInt64(size)), alignment: size,
      "\(what): scale_buffer")
    var zeroPoints: ArrayView?
    if !view.zeroPointBuffer.isAbsent {
      let bytes = view.zeroPointBytes
      try ensure(
        bytes == 1 || bytes == 4, .invalidArgument, "\(what): zero_point_bytes is \(bytes); expected 1 or 4")
      zeroPoints = try ArrayView.check(
        view.zeroPointBuffer, offset: view.zeroPointOffset, bytes: saturatedProduct(count, UInt64(bytes)),
        alignment: Int(bytes), "\(what): zero_point_buffer")
    }
    return Quantization.Arrays(
      scales: scales, half: half, zeroPoints: zeroPoints,
      zeroPointBytes: zeroPoints == nil ? 0 : Int(view.zeroPointBytes),
      shape: shape, strides: strides)
  }

  /// Calls `check` with the index of each scale: what a stride of 0 repeats once, and in time that depends on the
  /// memory that the array spans. Where strides let scales overlap, that is with each index from the first scale's to
  /// the last's.
  func forEach(_ check: (_ index: Int) throws(AttentionError) -> Void) throws(AttentionError) {
    if shape.list.contains(0) { return }
    guard areApart(shape, strides) else {
      for index in 0...((shape &- 1) &* strides).wrappedSum() { try check(index) }
      return
    }
    let sizes = shape.replacing(with: 1, where: strides .== 0)
    for b in 0..<sizes.x {
      for h in 0..<sizes.y {
        for n in 0..<sizes.z {
          for g in 0..<sizes.w { try check((SIMD4(b, h, n, g) &* strides).wrappedSum()) }
        }
      }
    }
  }

  /// A plan reads none.
  var areImagined: Bool { scales.buffer.isImagined || zeroPoints?.buffer.isImagined == true }

  /// NaN outside of the array.
  func scale(at index: Int) -> Float {
    if half { return scales.load(index, as: UInt16.self).map(float(half:)) ?? .nan }
    return scales.load(index, as: Float.self) ?? .nan
  }

  func zeroPoint(at index: Int) -> Int32 {
    guard let zeroPoints else { return 0 }
    if zeroPointBytes == 1 { return Int32(zeroPoints.load(index, as: Int8.self) ?? 0) }
    return zeroPoints.load(index, as: Int32.self) ?? 0
  }
}

private func expectScale(_ scale: Float, _ what: String) throws(AttentionError) {
  try ensure(
    scale.isFinite && scale != 0, .invalidArgument,
    "\(what): scale is \(text(scale)); expected a finite number other than 0")
}

private func expectZeroPoint(_ zeroPoint: Int32, _ what: String, _ precision: ElementPrecision) throws(AttentionError) {
  let range = precision.range
  try ensure(
    range.contains(zeroPoint), .invalidArgument,
    "\(what): zero point is \(zeroPoint); expected \(range.lowerBound) to \(range.upperBound) for \(precision)")
}

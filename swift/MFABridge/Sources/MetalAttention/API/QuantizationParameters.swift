import AttentionKernels
import Metal

/// The mapping from the stored integers of a tensor to real numbers.
///
/// With the stored integer n, real = scale · (n − zero point); then each row is multiplied by the Hadamard matrix if
/// ``isRotated``; then the column's mean is added if there is a ``mean``.
public struct QuantizationParameters {
  /// Numbers in a Metal buffer.
  public struct Array {
    public var buffer: any MTLBuffer
    /// Of the first number.
    public var byteOffset: Int
    /// Scales: 4 (FP32) or 2 (FP16). Zero points: 1 (`Int8`) or 4 (`Int32`). Means: 4 (FP32).
    public var bytesPerElement: Int

    public init(_ buffer: any MTLBuffer, byteOffset: Int = 0, bytesPerElement: Int = 4) {
      self.buffer = buffer
      self.byteOffset = byteOffset
      self.bytesPerElement = bytesPerElement
    }
  }

  /// `.INT8` or `.INT4`.
  public var precision: GEMMOperandPrecision
  /// The one scale of all elements, where there is no array of ``scales``. Finite, not 0.
  public var scale: Float
  /// The one zero point, likewise: −128 ... 127 (INT4: −8 ... 7).
  public var zeroPoint: Int32
  /// `[batch, heads, rows, columns]`; leading dimensions of 1 may be left out.
  public var shape: [Int]
  /// Which elements share a scale.
  public var granularity: QuantizationGranularity
  /// Rows that share a scale: granularities block and channel, at least 1; otherwise 0.
  public var blockRows: Int
  /// Columns that share a scale, granularity row: 32 or 64, or 0 for the whole row.
  public var groupSize: Int
  /// Rows were rotated before they were rounded.
  public var isRotated: Bool
  /// The array of scales: `[1]` (tensor), `[batch, heads, rows, groups]` (row), `[batch, heads, blocks, 1]` (block) or
  /// `[batch, heads, blocks, columns]` (channel). Required but for granularity tensor.
  public var scales: Array?
  /// Strides of the array of scales in elements; nil: contiguous.
  public var scaleStrides: [Int]?
  /// In the shape and strides of the scales; nil: all 0.
  public var zeroPoints: Array?
  /// FP32 `[batch, heads, columns]`.
  public var mean: Array?

  public init(
    precision: GEMMOperandPrecision, scale: Float = 1, zeroPoint: Int32 = 0, shape: [Int],
    granularity: QuantizationGranularity = .tensor, blockRows: Int = 0, groupSize: Int = 0, isRotated: Bool = false,
    scales: Array? = nil, scaleStrides: [Int]? = nil, zeroPoints: Array? = nil, mean: Array? = nil
  ) {
    self.precision = precision
    self.scale = scale
    self.zeroPoint = zeroPoint
    self.shape = shape
    self.granularity = granularity
    self.blockRows = blockRows
    self.groupSize = groupSize
    self.isRotated = isRotated
    self.scales = scales
    self.scaleStrides = scaleStrides
    self.zeroPoints = zeroPoints
    self.mean = mean
  }

  func description(isPending: Bool) throws(AttentionError) -> QuantizationDescription {
    var result = QuantizationDescription()
    result.granularity = granularity.rawValue
    result.blockRows = try exactly(blockRows, "blockRows")
    result.groupSize = try exactly(groupSize, "groupSize")
    result.scale = scale
    result.zeroPoint = zeroPoint
    result.rotated = isRotated ? 1 : 0
    result.isPending = isPending
    if let scales {
      result.scaleBuffer = .present(AttentionBuffer(scales.buffer))
      result.scaleOffset = try exactly(scales.byteOffset, "scales.byteOffset")
      try ensure(
        scales.bytesPerElement == 4 || scales.bytesPerElement == 2, .invalidArgument,
        "scales.bytesPerElement is \(scales.bytesPerElement); expected 4 (FP32) or 2 (FP16)")
      result.scalePrecision = (scales.bytesPerElement == 2 ? ElementPrecision.fp16 : .fp32).rawValue
    }
    if let scaleStrides { result.scaleStrides = try four(scaleStrides, "scaleStrides") }
    if let zeroPoints {
      result.zeroPointBuffer = .present(AttentionBuffer(zeroPoints.buffer))
      result.zeroPointOffset = try exactly(zeroPoints.byteOffset, "zeroPoints.byteOffset")
      result.zeroPointBytes = try exactly(zeroPoints.bytesPerElement, "zeroPoints.bytesPerElement")
    }
    if let mean {
      result.meanBuffer = .present(AttentionBuffer(mean.buffer))
      result.meanOffset = try exactly(mean.byteOffset, "mean.byteOffset")
    }
    return result
  }
}

/// An unsigned number of the contract.
func exactly<Number: FixedWidthInteger>(_ value: Int, _ what: String) throws(AttentionError) -> Number {
  guard let number = Number(exactly: value) else {
    throw AttentionError(.invalidArgument, "\(what) is \(value); expected \(Number.min) to \(Number.max)")
  }
  return number
}

/// Four numbers in the order batch, heads, rows, columns.
func four(_ values: [Int], _ what: String) throws(AttentionError) -> SIMD4<Int64> {
  try ensure(values.count == 4, .invalidDimensions, "\(what) has \(values.count) numbers; expected 4")
  return SIMD4(values.map(Int64.init))
}

/// A shape with the leading dimensions that were left out.
func fullShape(_ shape: [Int], _ what: String) throws(AttentionError) -> SIMD4<UInt64> {
  try ensure(
    1...4 ~= shape.count, .invalidDimensions, "\(what): shape has \(shape.count) dimensions; expected 1 to 4")
  var result = SIMD4<UInt64>(repeating: 1)
  for (axis, size) in zip((4 - shape.count)..<4, shape) {
    guard let size = UInt64(exactly: size) else {
      throw AttentionError(.invalidDimensions, "\(what): shape is \(shape); expected no number below 0")
    }
    result[axis] = size
  }
  return result
}

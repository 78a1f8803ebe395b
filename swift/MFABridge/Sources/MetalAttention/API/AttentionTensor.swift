import AttentionKernels
import Metal

/// An operand or result of attention: a view of a Metal buffer as `[batch, heads, rows, columns]`.
public struct AttentionTensor {
  public enum Element: Sendable {
    case number(GEMMOperandPrecision)
    /// One byte, 0 = false: masks only.
    case bool
  }

  public var buffer: any MTLBuffer
  /// Of element [0, 0, 0, 0]; a multiple of the element's size.
  public var byteOffset: Int
  public var element: Element
  public var shape: [Int]
  /// Elements, none negative; 0 broadcasts an input. nil: contiguous.
  public var strides: [Int]?
  /// For INT8 and INT4.
  public var quantization: QuantizationParameters?
  /// The device has yet to write the scales.
  var isPending = false

  /// A tensor of floating-point numbers, or of integers with their `quantization`.
  ///
  /// - Parameters:
  ///   - shape: `[batch, heads, rows, columns]`; leading dimensions of 1 may be left out.
  ///   - strides: four, in elements; nil: contiguous.
  public init(
    _ buffer: any MTLBuffer, _ precision: GEMMOperandPrecision = .FP32, shape: [Int], strides: [Int]? = nil,
    byteOffset: Int = 0, quantization: QuantizationParameters? = nil
  ) {
    self.buffer = buffer
    self.byteOffset = byteOffset
    element = .number(precision)
    self.shape = shape
    self.strides = strides
    self.quantization = quantization
  }

  /// A mask of booleans of one byte: true = attend.
  public init(booleans buffer: any MTLBuffer, shape: [Int], strides: [Int]? = nil, byteOffset: Int = 0) {
    self.init(buffer, .INT8, shape: shape, strides: strides, byteOffset: byteOffset)
    element = .bool
  }

  /// Quantized data in the shape of its parameters, contiguous.
  public init(_ buffer: any MTLBuffer, quantization: QuantizationParameters, byteOffset: Int = 0) {
    self.init(
      buffer, quantization.precision, shape: quantization.shape, byteOffset: byteOffset, quantization: quantization)
  }

  func description(_ what: String) throws(AttentionError) -> TensorDescription {
    var result = TensorDescription()
    result.buffer = .present(AttentionBuffer(buffer))
    result.byteOffset = try exactly(byteOffset, "\(what): byteOffset")
    switch element {
    case .number(let precision): result.precision = precision.rawValue
    case .bool: result.precision = ElementPrecision.bool.rawValue
    }
    result.shape = try fullShape(shape, what)
    result.strides =
      try strides.map { (given) throws(AttentionError) in try four(given, "\(what): strides") }
      ?? contiguous(result.shape)
    if let quantization { result.quantization = .present(try quantization.description(isPending: isPending)) }
    return result
  }
}

/// Strides of a contiguous tensor; absurd shapes give absurd strides, which the check refuses.
func contiguous(_ shape: SIMD4<UInt64>) -> SIMD4<Int64> {
  var strides = SIMD4<Int64>(repeating: 1)
  var step: UInt64 = 1
  for axis in (0..<4).reversed() {
    strides[axis] = Int64(clamping: step)
    step = saturatedProduct(step, max(shape[axis], 1))
  }
  return strides
}

/// An operand of attention: an ``AttentionTensor`` or a ``QuantizedTensor``.
public protocol AttentionOperandConvertible {
  var attentionTensor: AttentionTensor { get }
}

extension AttentionTensor: AttentionOperandConvertible {
  public var attentionTensor: AttentionTensor { self }
}

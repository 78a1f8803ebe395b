/// A checked quantization.
package struct QuantizeCall: Sendable {
  package let source: Tensor
  package let destination: Tensor
  let quantization: Quantization
  let arrays: Quantization.Arrays
  let asymmetric: Bool
  let smooth: Bool
  let meanGiven: Bool
  let scaleGiven: Bool

  package static func check(_ view: QuantizeDescription) throws(AttentionError) -> QuantizeCall {
    let flags = view.flags
    try ensure(
      flags & ~QuantizeFlag.known == 0, .invalidArgument,
      "quantize: flags is \(hex(flags)); expected bits of \(hex(QuantizeFlag.known))")
    let source = try Tensor.required(view.source, "source", ElementPrecision.floats)
    if let named = try view.destination.quantization.get() {
      try ensure(
        !named.scaleBuffer.isAbsent, .invalidArgument,
        "destination: scale_buffer is NULL; expected a buffer that receives the scales")
    }
    let destination = try Tensor.required(view.destination, "destination", ElementPrecision.integers)
    try destination.expect("destination", shape: source.shape)
    try destination.expectWritable("destination")
    guard let quantization = destination.quantization, case .many(let arrays) = quantization.parameters else {
      throw AttentionError(
        .invalidArgument, "destination: no quantization; expected one that names the buffer for scales")
    }
    let smooth = flags & QuantizeFlag.smooth != 0
    let meanGiven = flags & QuantizeFlag.meanGiven != 0
    let asymmetric = flags & QuantizeFlag.asymmetric != 0
    try ensure(smooth || !meanGiven, .invalidArgument, "quantize: MEAN_GIVEN without SMOOTH; expected both")
    try ensure(
      smooth == (quantization.mean != nil), .invalidArgument,
      smooth
        ? "destination: a mean_buffer is missing; expected FP32 [batch, heads, columns]"
        : "destination: a mean_buffer was given without SMOOTH; expected NULL")
    try ensure(
      asymmetric == (arrays.zeroPoints != nil), .invalidArgument,
      asymmetric
        ? "destination: a zero_point_buffer is missing; expected integers in the shape of the scales"
        : "destination: a zero_point_buffer was given without ASYMMETRIC; expected NULL")
    let scaleGiven = flags & QuantizeFlag.scaleGiven != 0
    if scaleGiven { try quantization.expectGiven("destination", destination.precision) }
    let arrayViews = quantization.arrays
    var (results, operands): ([NamedTensor], [NamedTensor]) = ([(destination, "destination")], [(source, "source")])
    for (array, isGiven) in [
      (arrayViews.scales, scaleGiven), (arrayViews.zeroPoints, scaleGiven), (arrayViews.mean, meanGiven),
    ] {
      if isGiven {
        operands.append(array)
      } else {
        try array.tensor?.expectWritable("destination: \(array.name)")
        results.append(array)
      }
    }
    try expectApart(results, from: operands)
    return QuantizeCall(
      source: source, destination: destination, quantization: quantization, arrays: arrays, asymmetric: asymmetric,
      smooth: smooth, meanGiven: meanGiven, scaleGiven: scaleGiven)
  }

  /// The largest magnitude of the source whose scales surely fit FP16; nil where that is no question.
  var halfScaleLimit: Float? {
    if !arrays.half || scaleGiven { return nil }
    let spread = (smooth ? 2.0 : 1.0) * (asymmetric ? 2.0 : 1.0)
    let rotation = quantization.rotated ? Double(source.columns).squareRoot() : 1
    return Float(65504.0 * Double(destination.precision.symmetricMax) / (spread * rotation))
  }
}

/// A checked `mfa_dequantize`.
package struct DequantizeCall: Sendable {
  package let source: Tensor
  package let destination: Tensor

  package static func check(
    _ from: TensorDescription, _ to: TensorDescription
  ) throws(AttentionError) -> DequantizeCall {
    var source = try Tensor.required(from, "source", ElementPrecision.integers)
    try source.checkQuantizedValues("source")
    let destination = try Tensor.required(to, "destination", ElementPrecision.floats)
    try destination.expect("destination", shape: source.shape)
    try destination.expectWritable("destination")
    try expectApart([(destination, "destination")], from: [(source, "source")])
    return DequantizeCall(source: source, destination: destination)
  }
}

/// The error of rounding, over all elements of a tensor.
public struct QuantizationError: Sendable, Equatable {
  /// √ mean (dequantized − source)²
  public var rmse = 0.0
  /// `rmse` / √ mean source²; 0 for an all-zero source.
  public var relativeRMSE = 0.0
  /// max |dequantized − source|
  public var maxAbs = 0.0
  /// The largest RMSE of a row.
  public var worstRowRMSE = 0.0

  /// Of a tensor without elements.
  public init() {}
}

import Foundation
import Metal

/// Elements of a rotated row that fit threadgroup memory.
private let mostRotatedColumns = 7680

/// A quantization on its way through the device: encoded, then asked for its outcome.
final class QuantizeRun {
  private let call: QuantizeCall
  private let verdict: any MTLBuffer
  private let errors: (any MTLBuffer)?

  /// Encodes the steps. `residency` keeps what they use.
  init(
    _ call: QuantizeCall, on device: AttentionDevice, wantsError: Bool, residency: Residency,
    into encoder: any MTLComputeCommandEncoder
  ) throws(AttentionError) {
    var shape = call.source.shape
    // No elements are no rows: means are then 0, and a tensor-wise scale 1. But for missing rows there are no means
    // either.
    if shape.x == 0 || shape.y == 0 || shape.w == 0 { shape = SIMD4() }
    try expectGrid(shape)
    let rows = shape.x &* shape.y &* shape.z
    var arguments = try quantizationArguments(call.source, call.destination)
    arguments.shape = shape
    arguments.asymmetric = call.asymmetric
    arguments.largestAllowed = call.halfScaleLimit
    arguments.wantsError = wantsError
    let places = try QuantizePlaces(call, residency)
    places.setOffsets(of: &arguments, call)

    let magnitudes = try residency.allocate(8 &* rows)
    let verdict = try residency.allocate(32)
    let errors = wantsError ? try residency.allocate(16 &* rows) : nil
    (self.call, self.verdict, self.errors) = (call, verdict, errors)

    let nothing = try residency.nothing()
    encoder.setBuffer(places.source.buffer, offset: 0, index: 0)
    encoder.setBuffer(magnitudes, offset: 0, index: 1)
    encoder.setBuffer(verdict, offset: 0, index: 2)
    encoder.setBuffer(places.mean?.buffer ?? nothing, offset: 0, index: 3)
    encoder.setBuffer(places.scales.buffer, offset: 0, index: 5)
    encoder.setBuffer(places.zeroPoints?.buffer ?? nothing, offset: 0, index: 6)

    let steps = Steps(device: device, encoder: encoder, arguments: arguments)
    try Self.encodeParameters(call, steps, shape, residency)
    encoder.setBuffer(errors ?? nothing, offset: 0, index: 1)
    encoder.setBuffer(places.codes.buffer, offset: 0, index: 4)
    try steps.run(.round, MTLSize(width: shape.z, height: shape.y, depth: shape.x))
  }

  /// The steps before rounding: inspection of the source, then means and scales that are not given.
  private static func encodeParameters(
    _ call: QuantizeCall, _ steps: Steps, _ shape: SIMD4<Int>, _ residency: Residency
  ) throws(AttentionError) {
    let everyRow = MTLSize(width: shape.z, height: shape.y, depth: shape.x)
    let one = MTLSize(width: 1, height: 1, depth: 1)
    try steps.run(.inspect, everyRow)
    try steps.run(.judge, one, threads: 256)
    if call.smooth && !call.meanGiven {
      let tiles = MTLSize(width: ceilingQuotient(shape.w, 32), height: shape.y, depth: shape.x)
      try steps.run(.mean, tiles, threads: 256)
    }
    if call.scaleGiven { return }
    if call.quantization.granularity == .tensor {
      steps.encoder.setBuffer(try residency.allocate(8 &* shape.x &* shape.y &* shape.z), offset: 0, index: 4)
      try steps.run(.range, everyRow)
      try steps.run(.tensorParameters, one)
    } else {
      let blocks = ceilingQuotient(shape.z, call.quantization.blockRows)
      try steps.run(.groupParameters, MTLSize(width: blocks, height: shape.y, depth: shape.x))
    }
  }

  /// Throws if the source was refused; the device must be done. Outputs are then as they were.
  func expectAccepted() throws(AttentionError) {
    let found = verdict.contents()
    switch found.load(as: UInt32.self) {
    case 0: return
    case 1:
      let column = Int(found.load(fromByteOffset: 4, as: UInt32.self))
      let row = Int(clamping: found.load(fromByteOffset: 8, as: UInt64.self))
      let (heads, rows) = (max(call.source.heads, 1), max(call.source.rows, 1))
      let at = [row / rows / heads, row / rows % heads, row % rows, column]
      throw AttentionError(
        .invalidArgument, "source: the element at \(at) is not finite; expected finite numbers to quantize")
    default:
      let largest = found.load(fromByteOffset: 16, as: Float.self)
      throw AttentionError(
        .invalidArgument,
        "destination: FP16 scales may overflow for a source of magnitude \(text(largest)); expected FP32 scales")
    }
  }

  /// The error of rounding; the device must be done.
  func error() -> QuantizationError {
    guard let errors, !call.source.isEmpty else { return QuantizationError() }
    let (rows, columns) = (call.source.batch &* call.source.heads &* call.source.rows, Double(call.source.columns))
    var (squares, sourceSquares) = (0.0, 0.0)
    var result = QuantizationError()
    for row in 0..<rows {
      let found = errors.contents().load(fromByteOffset: 16 * row, as: SIMD4<Float>.self)
      let rowSquares = Double(found.x) * Double(found.x) * Double(found.y)
      squares += rowSquares
      sourceSquares += Double(found.z) * Double(found.z) * Double(found.w)
      result.maxAbs = max(result.maxAbs, Double(found.x))
      result.worstRowRMSE = max(result.worstRowRMSE, (rowSquares / columns).squareRoot())
    }
    result.rmse = (squares / (Double(rows) * columns)).squareRoot()
    result.relativeRMSE = sourceSquares == 0 ? 0 : (squares / sourceSquares).squareRoot()
    return result
  }
}

/// The memory of a quantization's tensors on the device.
private struct QuantizePlaces {
  let source, codes, scales: Residency.Place
  private(set) var zeroPoints: Residency.Place?
  private(set) var mean: Residency.Place?

  /// Parameters that are given are read; others are written.
  init(_ call: QuantizeCall, _ residency: Residency) throws(AttentionError) {
    let arrays = call.arrays
    source = try residency.read(call.source)
    codes = try residency.write(call.destination)
    scales = call.scaleGiven ? try residency.read(arrays.scales) : try residency.update(arrays.scales)
    if let array = arrays.zeroPoints {
      zeroPoints = call.scaleGiven ? try residency.read(array) : try residency.update(array)
    }
    if let array = call.quantization.mean {
      mean = call.meanGiven ? try residency.read(array) : try residency.update(array)
    }
  }

  /// Converts byte offsets to elements.
  func setOffsets(of arguments: inout QuantizationArguments, _ call: QuantizeCall) {
    arguments.source.offset = source.offset / call.source.precision.bytes
    arguments.codes.offset = codes.offset * 8 / call.destination.precision.bits
    arguments.scales.offset = scales.offset / arguments.scaleBytes
    if let zeroPoints { arguments.zeroPointOffset = zeroPoints.offset / max(arguments.zeroPointBytes, 1) }
    if let mean { arguments.meanOffset = mean.offset / 4 }
  }
}

/// Encodes a dequantization.
func encodeDequantize(
  _ call: DequantizeCall, on device: AttentionDevice, residency: Residency, into encoder: any MTLComputeCommandEncoder
) throws(AttentionError) {
  guard let quantization = call.source.quantization, !call.source.isEmpty else { return }
  try expectGrid(call.source.shape)
  var arguments = try quantizationArguments(call.destination, call.source)
  let codes = try residency.read(call.source)
  let real = try residency.write(call.destination)
  arguments.codes.offset = codes.offset * 8 / call.source.precision.bits
  arguments.source.offset = real.offset / call.destination.precision.bytes
  let scales: Residency.Place
  var zeroPoints: Residency.Place?
  switch quantization.parameters {
  case .one(let scale, let zeroPoint):
    // Both numbers in one small buffer.
    let both = try residency.allocate(8)
    both.contents().storeBytes(of: scale, as: Float.self)
    both.contents().storeBytes(of: zeroPoint, toByteOffset: 4, as: Int32.self)
    (scales, zeroPoints) = (.init(buffer: both, offset: 0), .init(buffer: both, offset: 4))
    arguments.zeroPointBytes = 4
  case .many(let arrays):
    scales = try residency.read(arrays.scales)
    if let array = arrays.zeroPoints { zeroPoints = try residency.read(array) }
  }
  arguments.scales.offset = scales.offset / arguments.scaleBytes
  if let zeroPoints { arguments.zeroPointOffset = zeroPoints.offset / max(arguments.zeroPointBytes, 1) }
  var mean: Residency.Place?
  if let array = quantization.mean {
    let place = try residency.read(array)
    arguments.meanOffset = place.offset / 4
    mean = place
  }
  let nothing = Residency.Place(buffer: try residency.nothing(), offset: 0)
  for (index, place) in [(0, real), (3, mean ?? nothing), (4, codes), (5, scales), (6, zeroPoints ?? nothing)] {
    encoder.setBuffer(place.buffer, offset: 0, index: index)
  }
  let shape = call.source.shape
  try Steps(device: device, encoder: encoder, arguments: arguments).run(
    .dequantize, MTLSize(width: shape.z, height: shape.y, depth: shape.x))
}

/// Dispatches of quantization kernels with the same arguments.
private struct Steps {
  let device: AttentionDevice
  let encoder: any MTLComputeCommandEncoder
  let arguments: QuantizationArguments

  func run(_ step: QuantizationText.Step, _ groups: MTLSize, threads: Int = 32) throws(AttentionError) {
    if groups.width == 0 || groups.height == 0 || groups.depth == 0 { return }
    let pipeline = try device.pipelines.pipeline(.quantization(step))
    encoder.setComputePipelineState(pipeline.state)
    let bytes = arguments.bytes
    encoder.setBytes(bytes, length: bytes.count, index: 8)
    if step.takesRow {
      // What is not rotated is read in place; an argument has some memory all the same.
      let row = arguments.rotation == 0 ? 16 : ceilingQuotient(4 &* arguments.shape.w, 16) &* 16
      encoder.setThreadgroupMemoryLength(row, index: 0)
    }
    encoder.dispatchThreadgroups(groups, threadsPerThreadgroup: MTLSize(width: threads, height: 1, depth: 1))
  }
}

private func expectGrid(_ shape: SIMD4<Int>) throws(AttentionError) {
  let most = 1 << 26
  try ensure(
    shape.x <= most && shape.y <= most && shape.z <= most && shape.w < 1 << 31, .unsupported,
    "the device quantizes tensors of up to 2^26 batches, heads and rows and 2^31 columns; found \(shape.list)")
}

private func quantizationArguments(
  _ real: Tensor, _ stored: Tensor
) throws(AttentionError) -> QuantizationArguments {
  guard let quantization = stored.quantization else {
    throw AttentionError(
      .invalidArgument, "destination: no quantization; expected one that names the buffer for scales")
  }
  var (steps, scaleBytes, zeroPointBytes) = (SIMD4<Int>(), 4, 0)
  if case .many(let arrays) = quantization.parameters {
    (steps, scaleBytes, zeroPointBytes) = (arrays.strides, arrays.half ? 2 : 4, arrays.zeroPointBytes)
  }
  let columns = real.columns
  if quantization.rotated {
    try ensure(
      columns <= mostRotatedColumns, .unsupported,
      "rotating rows of \(columns) columns is not possible on this device; expected at most \(mostRotatedColumns)")
  }
  return QuantizationArguments(
    shape: real.shape, source: .init(offset: 0, steps: real.strides), sourcePrecision: real.precision,
    codes: .init(offset: 0, steps: stored.strides), codePrecision: stored.precision,
    scales: .init(offset: 0, steps: steps), scaleBytes: scaleBytes, zeroPointBytes: zeroPointBytes,
    blockRows: quantization.blockRows, group: quantization.group,
    rotation: quantization.rotated ? columns & -columns : 0)
}

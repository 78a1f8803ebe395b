import AttentionKernels
import Metal

/// Options of quantization, beside the precision.
public struct QuantizationOptions: Sendable {
  public var granularity = QuantizationGranularity.tensor
  /// Rows that share a scale: granularities block and channel.
  public var blockRows = 0
  /// Columns that share a scale, granularity row: 32, 64, or 0 for the whole row.
  public var groupSize = 0
  /// Zero points from minimum and maximum of each group; otherwise they are 0.
  public var isAsymmetric = false
  /// Subtract the mean over rows of each column first.
  public var isSmoothed = false
  /// Rotate each row by the Hadamard matrix first.
  public var isRotated = false
  /// Keep scales in FP16.
  public var hasHalfScales = false

  public init(granularity: QuantizationGranularity = .tensor, blockRows: Int = 0, groupSize: Int = 0) {
    self.granularity = granularity
    self.blockRows = blockRows
    self.groupSize = groupSize
  }
}

/// A tensor that was rounded to INT8 or INT4 on the device, with what it takes to read it.
public final class QuantizedTensor: AttentionOperandConvertible {
  /// The integers, contiguous `[batch, heads, rows, columns]`; of INT4, two to a byte.
  public let data: any MTLBuffer
  /// With the arrays of scales, zero points and means. Of granularity tensor, `scale` and `zeroPoint` hold once the
  /// device has run and ``finish()`` was called (``from(device:floatData:shape:precision:options:)`` has done both).
  public private(set) var parameters: QuantizationParameters
  /// The error of rounding; nil until ``finish()``.
  public private(set) var error: QuantizationError?

  private let run: QuantizeRun
  private var isPending = true

  private init(_ data: any MTLBuffer, _ parameters: QuantizationParameters, _ run: QuantizeRun) {
    self.data = data
    self.parameters = parameters
    self.run = run
  }

  public var attentionTensor: AttentionTensor {
    var tensor = AttentionTensor(data, quantization: parameters)
    tensor.isPending = isPending
    return tensor
  }

  /// Quantizes numbers of the host, and waits for it.
  ///
  /// - Parameters:
  ///   - floatData: as many numbers as `shape` has elements, in row-major order. NaN and infinities are refused.
  ///   - shape: `[batch, heads, rows, columns]`; leading dimensions of 1 may be left out.
  ///   - precision: `.INT8` or `.INT4`.
  public static func from(
    device: any MTLDevice, floatData: [Float], shape: [Int], precision: GEMMOperandPrecision,
    options: QuantizationOptions = QuantizationOptions()
  ) throws(AttentionError) -> QuantizedTensor {
    let count = try fullShape(shape, "floatData").list.reduce(1, saturatedProduct)
    try ensure(
      UInt64(floatData.count) == count, .invalidDimensions,
      "floatData has \(floatData.count) numbers; expected \(count) for shape \(shape)")
    let source = try device.allocate(4 &* floatData.count)
    floatData.withUnsafeBytes { bytes in
      if let start = bytes.baseAddress { source.contents().copyMemory(from: start, byteCount: bytes.count) }
    }
    let tensor = try AttentionDevice.of(device).runAndWait { (commands) throws(AttentionError) in
      try encode(AttentionTensor(source, shape: shape), precision: precision, options: options, into: commands)
    }
    try tensor.finish()
    return tensor
  }

  /// Encodes the quantization of a tensor of the device's. The result may be used at once by attention that is encoded
  /// later into the same command buffer: one submission, and the host does not wait. If the source holds NaN or an
  /// infinity, nothing is written; ``finish()`` throws the reason.
  public static func encode(
    _ source: AttentionTensor, precision: GEMMOperandPrecision, options: QuantizationOptions = QuantizationOptions(),
    into commands: any MTLCommandBuffer
  ) throws(AttentionError) -> QuantizedTensor {
    let device = AttentionDevice.of(commands.device)
    let shape = try fullShape(source.shape, "source")
    let count = shape.list.reduce(1, saturatedProduct)
    guard let elements = Int(exactly: count) else {
      throw AttentionError(
        .invalidDimensions, "source: shape \(source.shape) has more elements than can be addressed")
    }
    var parameters = QuantizationParameters(
      precision: precision, shape: shape.list.map { Int(clamping: $0) }, granularity: options.granularity,
      blockRows: options.blockRows, groupSize: options.groupSize, isRotated: options.isRotated)
    // Room for the arrays: at most one scale an element, and one at least.
    let sizes = parameters.shape
    let blocks = options.blockRows > 0 ? ceilingQuotient(sizes[2], options.blockRows) : 1
    let perHead: Int
    switch options.granularity {
    case .tensor: perHead = 0
    case .row:
      perHead = sizes[2] &* ceilingQuotient(sizes[3], options.groupSize > 0 ? options.groupSize : max(sizes[3], 1))
    case .block: perHead = blocks
    case .channel: perHead = blocks &* sizes[3]
    }
    let scales = max(sizes[0] &* sizes[1] &* perHead, 1)
    let scaleBytes = options.hasHalfScales ? 2 : 4
    parameters.scales = .init(try device.metal.allocate(scales &* scaleBytes), bytesPerElement: scaleBytes)
    if options.isAsymmetric { parameters.zeroPoints = .init(try device.metal.allocate(scales &* 4)) }
    if options.isSmoothed {
      parameters.mean = .init(try device.metal.allocate(sizes[0] &* sizes[1] &* sizes[3] &* 4))
    }
    let data = try device.metal.allocate(precision == .INT4 ? elements / 2 &+ elements % 2 : elements)

    var call = QuantizeDescription()
    call.flags =
      (options.isAsymmetric ? QuantizeFlag.asymmetric : 0) | (options.isSmoothed ? QuantizeFlag.smooth : 0)
    call.source = try source.description("source")
    var destination = AttentionTensor(data, quantization: parameters)
    destination.isPending = true
    call.destination = try destination.description("destination")
    let checked = try QuantizeCall.check(call)
    let run = try device.encode(into: commands) { (residency, encoder) throws(AttentionError) in
      try QuantizeRun(checked, on: device, wantsError: true, residency: residency, into: encoder)
    }
    return QuantizedTensor(data, parameters, run)
  }

  /// Takes the outcome, once the command buffer has completed: throws if the source was refused; otherwise ``error``
  /// and, of granularity tensor, `scale` and `zeroPoint` of ``parameters`` are known.
  public func finish() throws(AttentionError) {
    try run.expectAccepted()
    error = run.error()
    if parameters.granularity == .tensor, let scales = parameters.scales {
      let found = scales.buffer.contents()
      parameters.scale =
        scales.bytesPerElement == 2 ? float(half: found.load(as: UInt16.self)) : found.load(as: Float.self)
      parameters.zeroPoint = parameters.zeroPoints?.buffer.contents().load(as: Int32.self) ?? 0
      (parameters.scales, parameters.zeroPoints) = (nil, nil)
    }
    isPending = false
  }

  /// The real numbers, in row-major order. Waits for the device.
  public func dequantized() throws(AttentionError) -> [Float] {
    let count = parameters.shape.reduce(1, &*)
    let result = try data.device.allocate(4 &* count)
    let target = AttentionTensor(result, shape: parameters.shape)
    let call = try DequantizeCall.check(attentionTensor.description("source"), target.description("destination"))
    let device = AttentionDevice.of(data.device)
    try device.runAndWait { (commands) throws(AttentionError) in
      try device.encode(into: commands) { (residency, encoder) throws(AttentionError) in
        try encodeDequantize(call, on: device, residency: residency, into: encoder)
      }
    }
    let numbers = UnsafeRawBufferPointer(start: result.contents(), count: 4 &* count)
    return numbers.bindMemory(to: Float.self).map { $0 }
  }
}

extension MTLDevice {
  /// Memory that host and device share, zero-filled.
  func allocate(_ bytes: Int) throws(AttentionError) -> any MTLBuffer {
    guard bytes >= 0, bytes <= maxBufferLength,
      let buffer = makeBuffer(length: max(bytes, 16), options: .storageModeShared)
    else { throw AttentionError(.bufferAllocation, "\(bytes) bytes could not be allocated on the device") }
    return buffer
  }
}

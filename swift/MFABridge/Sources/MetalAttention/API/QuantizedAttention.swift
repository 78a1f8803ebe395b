import AttentionKernels
import Metal

/// Attention on operands of any precision, each quantized or not, forward and backward.
///
/// ```swift
/// let attention = try QuantizedAttention(device: device)
/// let key = try QuantizedTensor.from(device: device, floatData: k, shape: [1, 8, 4096, 128], precision: .INT8)
/// let commands = try attention.forward(query: q, key: key, value: value, output: o, descriptor: AttentionDescriptor())
/// commands.commit()
/// ```
///
/// Methods that return a command buffer have encoded all of the work and not committed it, so that more can be added;
/// the `encode` methods add to a command buffer of the caller's. Everything is checked as it is encoded: what is
/// refused throws an ``AttentionError`` and encodes nothing with an effect. An error on the device is the command
/// buffer's error. May be used from any thread.
public final class QuantizedAttention: @unchecked Sendable {  // immutable; Metal's queues may be used from any thread
  let device: AttentionDevice
  private let queue: any MTLCommandQueue

  public init(device: any MTLDevice) throws(AttentionError) {
    try ensure(
      device.supportsFamily(.apple7), .unsupported,
      "\(device.name) has no SIMD-group matrices; expected a GPU of family Apple 7 or later")
    guard let queue = device.makeCommandQueue() else {
      throw AttentionError(.bufferAllocation, "the device \(device.name) made no command queue")
    }
    (self.device, self.queue) = (AttentionDevice.of(device), queue)
  }

  /// A command buffer of the queue that the other methods use.
  public func makeCommandBuffer() throws(AttentionError) -> any MTLCommandBuffer {
    guard let commands = queue.makeCommandBuffer() else {
      throw AttentionError(.bufferAllocation, "the device \(device.metal.name) made no command buffer")
    }
    return commands
  }

  // MARK: Forward

  /// O = softmax(scale · Q Kᵀ) V.
  ///
  /// - Parameters:
  ///   - query: `[batch, heads, rows of query, columns]`.
  ///   - key: `[batch, key heads, rows of key, columns]`; heads is a multiple of key heads.
  ///   - value: `[batch, key heads, rows of key, value columns]`.
  ///   - output: `[batch, heads, rows of query, value columns]`, FP32, FP16 or BF16; written.
  ///   - logsumexp: FP32 `[batch, heads, rows of query, 1]`, natural logarithm; written.
  public func forward(
    query: some AttentionOperandConvertible, key: some AttentionOperandConvertible,
    value: some AttentionOperandConvertible,
    output: AttentionTensor, logsumexp: AttentionTensor? = nil, descriptor: AttentionDescriptor = AttentionDescriptor()
  ) throws(AttentionError) -> any MTLCommandBuffer {
    let commands = try makeCommandBuffer()
    try encodeForward(
      query: query, key: key, value: value, output: output, logsumexp: logsumexp, descriptor: descriptor, into: commands
    )
    return commands
  }

  /// As ``forward(query:key:value:output:logsumexp:descriptor:)``, into a command buffer of the caller's.
  public func encodeForward(
    query: some AttentionOperandConvertible, key: some AttentionOperandConvertible,
    value: some AttentionOperandConvertible,
    output: AttentionTensor, logsumexp: AttentionTensor? = nil, descriptor: AttentionDescriptor = AttentionDescriptor(),
    into commands: any MTLCommandBuffer
  ) throws(AttentionError) {
    var call = ForwardDescription()
    call.query = try query.attentionTensor.description("query")
    call.key = try key.attentionTensor.description("key")
    call.value = try value.attentionTensor.description("value")
    call.output = try output.description("output")
    if let logsumexp { call.logsumexp = try logsumexp.description("logsumexp") }
    call.options = .present(try descriptor.description())
    let plan = try ForwardPlan(ForwardCall.check(call), profile: device.profile)
    try device.encode(into: commands) { (residency, encoder) throws(AttentionError) in
      try plan.encode(on: device, residency, encoder)
    }
  }

  // MARK: Backward

  /// The query pass: dQ and D.
  ///
  /// - Parameters:
  ///   - gradOutput: dO, FP32, FP16 or BF16, in the shape of the output.
  ///   - logsumexp: of forward, FP32.
  ///   - gradQuery: FP32, in the shape of the query; written.
  ///   - dValues: D = rowsum(dO ∘ O), FP32 `[batch, heads, rows of query, 1]`; written.
  ///   - output: O of forward; nil: D is computed from P and dP, at the cost of a pass over the keys.
  public func backwardQuery(
    query: some AttentionOperandConvertible, key: some AttentionOperandConvertible,
    value: some AttentionOperandConvertible,
    gradOutput: AttentionTensor, logsumexp: AttentionTensor, gradQuery: AttentionTensor, dValues: AttentionTensor,
    output: AttentionTensor? = nil, descriptor: AttentionDescriptor = AttentionDescriptor()
  ) throws(AttentionError) -> any MTLCommandBuffer {
    let commands = try makeCommandBuffer()
    try encodeBackward(
      query: query, key: key, value: value, output: output, gradOutput: gradOutput, logsumexp: logsumexp,
      gradients: AttentionGradients(query: gradQuery, dValues: dValues), descriptor: descriptor, into: commands)
    return commands
  }

  /// The key/value pass: dK and dV, from the D of
  /// ``backwardQuery(query:key:value:gradOutput:logsumexp:gradQuery:dValues:output:descriptor:)``.
  ///
  /// - Parameters:
  ///   - dValues: D, read.
  ///   - gradKey: FP32, in the shape of the key; written.
  ///   - gradValue: FP32, in the shape of the value; written.
  public func backwardKeyValue(
    query: some AttentionOperandConvertible, key: some AttentionOperandConvertible,
    value: some AttentionOperandConvertible,
    gradOutput: AttentionTensor, logsumexp: AttentionTensor, dValues: AttentionTensor, gradKey: AttentionTensor,
    gradValue: AttentionTensor, descriptor: AttentionDescriptor = AttentionDescriptor()
  ) throws(AttentionError) -> any MTLCommandBuffer {
    let commands = try makeCommandBuffer()
    try encodeBackward(
      query: query, key: key, value: value, gradOutput: gradOutput, logsumexp: logsumexp,
      gradients: AttentionGradients(key: gradKey, value: gradValue, dValues: dValues, dIsGiven: true),
      descriptor: descriptor, into: commands)
    return commands
  }

  /// Any of the gradients, into a command buffer of the caller's.
  public func encodeBackward(
    query: some AttentionOperandConvertible, key: some AttentionOperandConvertible,
    value: some AttentionOperandConvertible,
    output: AttentionTensor? = nil, gradOutput: AttentionTensor, logsumexp: AttentionTensor,
    gradients: AttentionGradients,
    descriptor: AttentionDescriptor = AttentionDescriptor(), into commands: any MTLCommandBuffer
  ) throws(AttentionError) {
    var call = BackwardDescription()
    call.query = try query.attentionTensor.description("query")
    call.key = try key.attentionTensor.description("key")
    call.value = try value.attentionTensor.description("value")
    if let output { call.output = try output.description("output") }
    call.gradOutput = try gradOutput.description("grad_output")
    call.logsumexp = try logsumexp.description("logsumexp")
    call.flags = (gradients.dIsGiven ? BackwardFlag.dGiven : 0) | (gradients.clips ? BackwardFlag.clip : 0)
    if let d = gradients.dValues { call.dValues = try d.description("d_values") }
    if let query = gradients.query { call.gradQuery = try query.description("grad_query") }
    if let key = gradients.key { call.gradKey = try key.description("grad_key") }
    if let value = gradients.value { call.gradValue = try value.description("grad_value") }
    if let mask = gradients.mask { call.gradMask = try mask.description("grad_mask") }
    if let sinks = gradients.sinks { call.gradSinks = try sinks.description("grad_sinks") }
    call.options = .present(try descriptor.description())
    let plan = try BackwardPlan(BackwardCall.check(call), profile: device.profile)
    try device.encode(into: commands) { (residency, encoder) throws(AttentionError) in
      try plan.encode(on: device, residency, encoder)
    }
  }
}

/// The outputs of backward. All are FP32, with respect to the real values of the operands, overwritten; those that are
/// nil are not computed. None may share an element with another or with an operand.
public struct AttentionGradients {
  public var query: AttentionTensor?
  public var key: AttentionTensor?
  public var value: AttentionTensor?
  /// Of an additive mask, in its shape: summed over the dimensions of 1.
  public var mask: AttentionTensor?
  /// `[1, heads, 1, 1]`
  public var sinks: AttentionTensor?
  /// D = rowsum(dO ∘ O), `[batch, heads, rows of query, 1]`: written, or read if ``dIsGiven``.
  public var dValues: AttentionTensor?
  public var dIsGiven: Bool
  /// Gradients of elements that are stored at an end of the quantized range are 0.
  public var clips: Bool

  public init(
    query: AttentionTensor? = nil, key: AttentionTensor? = nil, value: AttentionTensor? = nil,
    mask: AttentionTensor? = nil,
    sinks: AttentionTensor? = nil, dValues: AttentionTensor? = nil, dIsGiven: Bool = false, clips: Bool = false
  ) {
    self.query = query
    self.key = key
    self.value = value
    self.mask = mask
    self.sinks = sinks
    self.dValues = dValues
    self.dIsGiven = dIsGiven
    self.clips = clips
  }
}

extension AttentionDevice {
  /// Adds a compute encoder's work to a command buffer.
  func encode<Result>(
    into commands: any MTLCommandBuffer,
    _ work: (Residency, any MTLComputeCommandEncoder) throws(AttentionError) -> Result
  ) throws(AttentionError) -> Result {
    guard let encoder = commands.makeComputeCommandEncoder() else {
      throw AttentionError(.bufferAllocation, "the device \(metal.name) made no compute encoder")
    }
    defer { encoder.endEncoding() }
    return try work(Residency(metal), encoder)
  }
}

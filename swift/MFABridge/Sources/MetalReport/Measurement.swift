#if SOFTWARE_METAL
  import AttentionKernels
  import Metal
  import MetalAttention

  /// The counters of the software device for one call.
  struct Measurement {
    let shape: Shape
    let storage: Storage
    let counters: SoftwareMetal.Counters

    /// Per pair of a query and a key.
    func perScore(_ count: UInt64) -> Double { Double(count) / Double(shape.scores) }
  }

  struct ReportError: Error, CustomStringConvertible {
    let description: String
  }

  /// Numbers of N(0, 1), always the same ones.
  private func normal(_ count: Int, seed: UInt64) -> [Float] {
    var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
    return (0..<count).map { _ in
      (0..<12).reduce(Float(-6)) { sum, _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return sum + Float(state >> 40) / Float(1 << 24)
      }
    }
  }

  private func buffer(_ device: any MTLDevice, bytes: Int) throws -> any MTLBuffer {
    guard let made = device.makeBuffer(length: bytes, options: .storageModeShared) else {
      throw ReportError(description: "the device has no room for \(bytes) bytes")
    }
    return made
  }

  private func tensor(
    _ device: any MTLDevice, _ numbers: [Float], _ precision: GEMMOperandPrecision, shape: [Int]
  ) throws -> AttentionTensor {
    func stored<Element>(_ list: [Element]) throws -> any MTLBuffer {
      try list.withUnsafeBytes { bytes in
        let made = try buffer(device, bytes: bytes.count)
        if let start = bytes.baseAddress { made.contents().copyMemory(from: start, byteCount: bytes.count) }
        return made
      }
    }
    let made =
      switch precision {
      case .FP16: try stored(numbers.map { Float16($0) })
      case .BF16: try stored(numbers.map { UInt16(truncatingIfNeeded: $0.bitPattern >> 16) })
      default: try stored(numbers)
      }
    return AttentionTensor(made, precision, shape: shape)
  }

  private func run(_ commands: any MTLCommandBuffer) throws -> SoftwareMetal.Counters {
    commands.commit()
    commands.waitUntilCompleted()
    if let error = commands.error { throw error }
    return commands.softwareDispatches.reduce(into: SoftwareMetal.Counters()) { $0 += $1.counters }
  }

  /// Runs a call, and counts it without the quantization before it.
  func measure(_ shape: Shape, _ storage: Storage, on device: any MTLDevice) throws -> Measurement {
    let attention = try QuantizedAttention(device: device)
    let queryShape = [1, shape.heads, shape.queries, shape.columns]
    let keyShape = [1, shape.keyHeads, shape.keys, shape.columns]
    let (queryCount, keyCount) = (queryShape.reduce(1, *), keyShape.reduce(1, *))
    let query = try tensor(device, normal(queryCount, seed: 1), storage.query, shape: queryShape)
    func keyValue(_ seed: UInt64) throws -> AttentionTensor {
      let numbers = normal(keyCount, seed: seed)
      if !storage.keyValue.isInteger { return try tensor(device, numbers, storage.keyValue, shape: keyShape) }
      return try QuantizedTensor.from(
        device: device, floatData: numbers, shape: keyShape, precision: storage.keyValue, options: storage.options
      ).attentionTensor
    }
    let (key, value) = (try keyValue(2), try keyValue(3))
    func floats(_ shape: [Int]) throws -> AttentionTensor {
      AttentionTensor(try buffer(device, bytes: 4 * shape.reduce(1, *)), shape: shape)
    }
    let output = try floats(queryShape)
    let rows = [1, shape.heads, shape.queries, 1]
    let logsumexp = shape.isBackward ? try floats(rows) : nil
    var counters = try run(
      attention.forward(query: query, key: key, value: value, output: output, logsumexp: logsumexp))
    if let logsumexp {
      let commands = try attention.makeCommandBuffer()
      try attention.encodeBackward(
        query: query, key: key, value: value, output: output,
        gradOutput: tensor(device, normal(queryCount, seed: 4), .FP32, shape: queryShape), logsumexp: logsumexp,
        gradients: AttentionGradients(
          query: floats(queryShape), key: floats(keyShape), value: floats(keyShape), dValues: floats(rows)),
        into: commands)
      counters = try run(commands)
    }
    return Measurement(shape: shape, storage: storage, counters: counters)
  }
#endif

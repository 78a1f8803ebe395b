import AttentionKernels
import Foundation
import Metal
import MetalAttention
import XCTest

/// A case in buffers of exactly its sizes.
struct LiveCase {
  let c: VectorCase
  let buffers: [any MTLBuffer]

  init(_ c: VectorCase, on device: any MTLDevice) throws {
    self.c = c
    buffers = try c.buffers.map { buffer in
      let metal = try XCTUnwrap(device.makeBuffer(length: max(buffer.size, 1), options: .storageModeShared))
      if buffer.isRoom {
        memset(metal.contents(), 0xFF, buffer.size)
      } else {
        c.bytes[buffer.offset..<buffer.offset + buffer.size].withUnsafeBytes {
          if let start = $0.baseAddress { metal.contents().copyMemory(from: start, byteCount: $0.count) }
        }
      }
      return metal
    }
  }

  private func reference(_ buffer: Int) -> BufferReference {
    buffer < 0 ? .absent : .present(AttentionBuffer(buffers[buffer]))
  }

  // MARK: Descriptions: what the C edge makes of its structs

  func description(_ role: String) -> TensorDescription {
    var result = TensorDescription()
    guard let tensor = c.tensors[role] else { return result }
    result.buffer = reference(tensor.buffer)
    result.byteOffset = tensor.byteOffset
    result.precision = tensor.precision
    result.shape = SIMD4(tensor.shape)
    result.strides = SIMD4(tensor.strides)
    guard let q = tensor.quantization else { return result }
    var quantization = QuantizationDescription()
    quantization.granularity = q.granularity
    quantization.blockRows = UInt32(q.blockRows)
    quantization.groupSize = UInt32(q.groupSize)
    quantization.scale = q.scale
    quantization.zeroPoint = q.zeroPoint
    quantization.scaleBuffer = reference(q.scaleBuffer)
    quantization.scaleOffset = UInt64(q.scaleOffset)
    quantization.scalePrecision = q.scalePrecision
    quantization.rotated = q.rotated
    quantization.zeroPointBuffer = reference(q.zeroPointBuffer)
    quantization.zeroPointOffset = UInt64(q.zeroPointOffset)
    quantization.zeroPointBytes = UInt32(q.zeroPointBytes)
    quantization.scaleStrides = SIMD4(q.scaleStrides.map(Int64.init))
    quantization.meanBuffer = reference(q.meanBuffer)
    quantization.meanOffset = UInt64(q.meanOffset)
    result.quantization = .present(quantization)
    return result
  }

  private var options: OptionsDescription {
    var result = OptionsDescription()
    result.flags = c.options.flags
    result.softmaxScale = c.options.scale
    result.softcap = c.options.softcap
    result.alignment = c.options.alignment
    result.compute = c.options.compute
    result.windowLeft = c.options.windowLeft
    result.windowRight = c.options.windowRight
    result.mask = description("mask")
    result.alibiSlopes = description("alibi_slopes")
    result.sinks = description("sinks")
    if let varlen = c.varlen {
      result.sequenceCount = varlen.count
      result.cuSeqlensQ = reference(varlen.q)
      result.cuSeqlensQOffset = varlen.qOffset
      result.cuSeqlensK = reference(varlen.k)
      result.cuSeqlensKOffset = varlen.kOffset
    }
    return result
  }

  var forward: ForwardDescription {
    var call = ForwardDescription()
    call.query = description("query")
    call.key = description("key")
    call.value = description("value")
    call.output = description("output")
    call.logsumexp = description("logsumexp")
    call.options = .present(options)
    return call
  }

  var backward: BackwardDescription {
    var call = BackwardDescription()
    call.flags = c.flags
    call.query = description("query")
    call.key = description("key")
    call.value = description("value")
    call.output = description("given_output")
    call.gradOutput = description("grad_output")
    call.logsumexp = description("given_logsumexp")
    call.dValues = description("d_values")
    call.gradQuery = description("grad_query")
    call.gradKey = description("grad_key")
    call.gradValue = description("grad_value")
    call.gradMask = description("grad_mask")
    call.gradSinks = description("grad_sinks")
    call.options = .present(options)
    return call
  }

  var quantize: QuantizeDescription {
    var call = QuantizeDescription()
    call.flags = c.flags
    call.source = description("source")
    call.destination = description("destination")
    return call
  }

  // MARK: The Swift API

  func tensor(_ role: String) throws -> AttentionTensor? {
    guard let tensor = c.tensors[role] else { return nil }
    let buffer = buffers[tensor.buffer]
    let (shape, strides) = (tensor.shape.map(Int.init), tensor.strides.map(Int.init))
    guard let precision = GEMMOperandPrecision(rawValue: tensor.precision) else {
      return AttentionTensor(booleans: buffer, shape: shape, strides: strides, byteOffset: Int(tensor.byteOffset))
    }
    var parameters: QuantizationParameters?
    if let q = tensor.quantization {
      func array(_ id: Int, _ offset: Int, _ bytes: Int) -> QuantizationParameters.Array? {
        id < 0 ? nil : .init(buffers[id], byteOffset: offset, bytesPerElement: bytes)
      }
      parameters = QuantizationParameters(
        precision: precision, scale: q.scale, zeroPoint: q.zeroPoint, shape: shape,
        granularity: try XCTUnwrap(QuantizationGranularity(rawValue: q.granularity)), blockRows: q.blockRows,
        groupSize: q.groupSize, isRotated: q.rotated == 1,
        scales: array(q.scaleBuffer, q.scaleOffset, q.scalePrecision == 1 ? 2 : 4), scaleStrides: q.scaleStrides,
        zeroPoints: array(q.zeroPointBuffer, q.zeroPointOffset, q.zeroPointBytes),
        mean: array(q.meanBuffer, q.meanOffset, 4))
    }
    return AttentionTensor(
      buffer, precision, shape: shape, strides: strides, byteOffset: Int(tensor.byteOffset), quantization: parameters)
  }

  func descriptor() throws -> AttentionDescriptor {
    var result = AttentionDescriptor()
    let o = c.options
    if o.flags & 1 != 0 { result.softmaxScale = o.scale }
    result.softcap = o.softcap
    result.isCausal = o.flags & 2 != 0
    result.alignment = o.alignment == 1 ? .bottomRight : .topLeft
    if o.flags & 4 != 0 {
      result.windowLeft = o.windowLeft < 0 ? nil : Int(o.windowLeft)
      result.windowRight = o.windowRight < 0 ? nil : Int(o.windowRight)
    }
    result.mask = try tensor("mask")
    result.alibiSlopes = try tensor("alibi_slopes")
    result.sinks = try tensor("sinks")
    if let varlen = c.varlen {
      var packed = AttentionDescriptor.PackedSequences(
        count: Int(varlen.count), cumulativeQueryLengths: buffers[varlen.q], cumulativeKeyLengths: buffers[varlen.k])
      packed.queryByteOffset = Int(varlen.qOffset)
      packed.keyByteOffset = Int(varlen.kOffset)
      result.packedSequences = packed
    }
    return result
  }

  // MARK: Results

  /// The difference from the expected results, or nil. `roles`: the results that the call writes.
  func complaint(roles: (String) -> Bool, refused: Bool, report: QuantizationError? = nil) -> String? {
    if let complaint = touched(refused) { return complaint }
    if refused { return nil }
    for expectation in c.expectations {
      switch expectation {
      case .values(let role, let offset, let largest, let rms) where roles(role):
        if let complaint = valuesComplaint(role, offset, largest, rms) { return complaint }
      case .values: break
      case .bytes(let buffer, let offset):
        let size = c.buffers[buffer].size
        let found = Data(bytes: buffers[buffer].contents(), count: size)
        for i in 0..<size where found[i] != c.bytes[offset + i] {
          return "byte \(i) of buffer \(buffer) is \(found[i]), expected \(c.bytes[offset + i])"
        }
      case .report(let expected):
        guard let report else { return "no report" }
        let found = [report.rmse, report.relativeRMSE, report.maxAbs, report.worstRowRMSE]
        for (f, e) in zip(found, expected) where !(abs(f - e) <= 1e-4 * abs(e)) {
          return "reported \(found), expected \(expected)"
        }
      }
    }
    return nil
  }

  private func place(_ tensor: VectorCase.Tensor, _ i: [Int]) -> Int {
    let element = (0..<4).reduce(0) { $0 + i[$1] * Int(tensor.strides[$1]) }
    return Int(tensor.byteOffset) + element * bits(tensor.precision) / 8
  }

  private func bits(_ precision: Int32) -> Int { [0: 32, 1: 16, 2: 16, 4: 4][precision] ?? 8 }

  private func valuesComplaint(_ role: String, _ offset: Int, _ largest: Double, _ rms: Double) -> String? {
    guard let tensor = c.tensors[role] else { return "no tensor \(role)" }
    let contents = buffers[tensor.buffer].contents()
    let n = tensor.shape.map(Int.init)
    var next = offset
    for b in 0..<n[0] {
      for h in 0..<n[1] {
        var (squares, counted) = (0.0, 0)
        for r in 0..<n[2] {
          for column in 0..<n[3] {
            let expected = c.bytes.withUnsafeBytes { Double($0.loadUnaligned(fromByteOffset: next, as: Float.self)) }
            next += 4
            let at = contents + place(tensor, [b, h, r, column])
            let actual: Double
            switch tensor.precision {
            case 0: actual = Double(at.loadUnaligned(as: Float.self))
            case 1: actual = Double(at.loadUnaligned(as: Float16.self))
            default: actual = Double(Float(bitPattern: UInt32(at.loadUnaligned(as: UInt16.self)) << 16))
            }
            let error = abs(actual - expected)
            let right = expected.isNaN ? actual.isNaN : expected.isInfinite ? actual == expected : error <= largest
            if !right {
              return "\(role)[\(b), \(h), \(r), \(column)] is \(actual), expected \(expected), error allowed \(largest)"
            }
            if expected.isFinite { (squares, counted) = (squares + error * error, counted + 1) }
          }
        }
        let found = counted > 0 ? (squares / Double(counted)).squareRoot() : 0
        if !(found <= rms) { return "\(role) of head [\(b), \(h)] has an RMS error of \(found), allowed \(rms)" }
      }
    }
    return nil
  }

  /// A byte that belongs to no result and was changed.
  private func touched(_ refused: Bool) -> String? {
    for (index, buffer) in c.buffers.enumerated() {
      let isExact = c.expectations.contains {
        if case .bytes(let b, _) = $0 { return b == index } else { return false }
      }
      if buffer.isRoom && isExact && !refused { continue }
      var own = [Bool](repeating: false, count: buffer.size)
      if buffer.isRoom && !refused {
        for tensor in c.tensors.values where tensor.buffer == index { mark(tensor, &own) }
      }
      let found = buffers[index].contents().assumingMemoryBound(to: UInt8.self)
      for i in 0..<buffer.size where !own[i] {
        let before = buffer.isRoom ? 0xFF : c.bytes[buffer.offset + i]
        if found[i] != before {
          return "byte \(i) of \(buffer.isRoom ? "output" : "input") buffer \(index) was changed"
        }
      }
    }
    return nil
  }

  private func mark(_ tensor: VectorCase.Tensor, _ own: inout [Bool]) {
    let n = tensor.shape.map(Int.init)
    let width = max(bits(tensor.precision) / 8, 1)
    for b in 0..<n[0] {
      for h in 0..<n[1] {
        for r in 0..<n[2] {
          for column in 0..<n[3] {
            let at = place(tensor, [b, h, r, column])
            for i in at..<min(at + width, own.count) { own[i] = true }
          }
        }
      }
    }
  }
}

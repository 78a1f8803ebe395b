import CMFA
import XCTest

/// One attention call in memory of its own, forward and backward, described by what a test varies.
final class Attention {
  enum Format: CaseIterable {
    case fp32, fp16, bf16, int8Tensor, int8Row, int8RowHalf, int8Groups, int4Groups, int8Block, int4Channel,
      int8Asymmetric, int4Rotated, int8Smooth

    var isInteger: Bool { ![.fp32, .fp16, .bf16].contains(self) }
    var precision: Int32 {
      switch self {
      case .fp32: 0
      case .fp16: 1
      case .bf16: 2
      case .int4Groups, .int4Channel, .int4Rotated: 4
      default: 8
      }
    }
    var granularity: Int32 {
      switch self {
      case .int8Tensor: 0
      case .int8Block: 2
      case .int4Channel: 3
      default: 1
      }
    }
  }

  /// An operand and the memory behind it.
  struct Operand {
    var tensor: mfa_tensor
    let format: Format
    let shape: [Int]
    let data: UnsafeMutableRawPointer
    var scales: UnsafeMutableRawPointer?
    var zeroPoints: UnsafeMutableRawPointer?
  }

  static let blockRows = 4
  let session: Session
  private var kept: [UnsafeMutableRawPointer] = []
  var query: Operand, key: Operand, value: Operand
  var options = mfa_attention_options()
  /// Sizes: batch, heads of query, rows, keys, columns, value columns. Heads of key are 1.
  let batch: Int, heads: Int, rows: Int, keys: Int, columns: Int, valueColumns: Int
  let output: UnsafeMutableRawPointer, logsumexp: UnsafeMutableRawPointer
  var gradOutput: [Float]
  /// V before it was rounded.
  private(set) var values: [Float] = []

  deinit { kept.forEach { $0.deallocate() } }

  init(
    _ session: Session, batch: Int = 1, heads: Int = 4, rows: Int, keys: Int, columns: Int = 32, valueColumns: Int = 32,
    key: Format = .fp32,
    value: Format = .fp32, query: Format = .fp32, seed: UInt64 = 1,
    of: ((_ name: String, _ row: Int, _ column: Int) -> Float)? = nil
  ) throws {
    (self.session, self.batch, self.heads, self.rows, self.keys, self.columns, self.valueColumns) = (
      session, batch, heads, rows, keys, columns, valueColumns
    )
    var g = Generator(state: seed)
    func numbers(_ name: String, _ shape: [Int]) -> [Float] {
      (0..<shape.reduce(1, *)).map { i in
        let random = Float.random(in: -1...1, using: &g)
        return of.map { $0(name, i / max(shape[3], 1) % max(shape[2], 1), i % max(shape[3], 1)) } ?? random
      }
    }
    func operand(_ name: String, _ shape: [Int], _ format: Format) throws -> (Operand, [UnsafeMutableRawPointer]) {
      try Self.operand(session, numbers(name, shape), shape, format)
    }
    var memory: [UnsafeMutableRawPointer]
    (self.query, memory) = try operand("query", [batch, heads, rows, columns], query)
    kept += memory
    (self.key, memory) = try operand("key", [batch, 1, keys, columns], key)
    kept += memory
    values = numbers("value", [batch, 1, keys, valueColumns])
    (self.value, memory) = try Self.operand(session, values, [batch, 1, keys, valueColumns], value)
    kept += memory
    output = try session.buffer(4 * batch * heads * rows * valueColumns)
    logsumexp = try session.buffer(4 * batch * heads * rows)
    gradOutput = (0..<batch * heads * rows * valueColumns).map { _ in Float.random(in: -1...1, using: &g) }
    options.struct_size = UInt32(MemoryLayout<mfa_attention_options>.size)
  }

  private static func operand(
    _ session: Session, _ numbers: [Float], _ shape: [Int], _ format: Format
  ) throws -> (Operand, [UnsafeMutableRawPointer]) {
    let sizes = shape.map(UInt64.init)
    let bits = format.precision == 0 ? 32 : format.precision == 8 ? 8 : format.precision == 4 ? 4 : 16
    let data = try session.buffer(numbers.count * bits / 8)
    var operand = Operand(tensor: Session.tensor(data, sizes), format: format, shape: shape, data: data)
    operand.tensor.precision = format.precision
    let bytes = session.bytes(data)
    switch format {
    case .fp32: numbers.withUnsafeBytes { bytes.copyBytes(from: $0) }
    case .fp16:
      for (i, x) in numbers.enumerated() { bytes.storeBytes(of: Float16(x), toByteOffset: 2 * i, as: Float16.self) }
    case .bf16:
      for (i, x) in numbers.enumerated() {
        bytes.storeBytes(of: UInt16(x.bitPattern >> 16), toByteOffset: 2 * i, as: UInt16.self)
      }
    default: break
    }
    guard format.isInteger else { return (operand, []) }
    let quantization = UnsafeMutablePointer<mfa_quantization>.allocate(capacity: 1)
    quantization.initialize(to: mfa_quantization())
    quantization.pointee.struct_size = UInt32(MemoryLayout<mfa_quantization>.size)
    quantization.pointee.granularity = format.granularity
    if format.granularity >= 2 { quantization.pointee.block_rows = UInt32(blockRows) }
    if format == .int8Groups || format == .int4Groups { quantization.pointee.group_size = 32 }
    quantization.pointee.rotated = format == .int4Rotated ? 1 : 0
    operand.scales = try session.buffer(4 * shape[0] * shape[2] * max(shape[3], 1))
    quantization.pointee.scale_buffer = operand.scales
    quantization.pointee.scale_precision = format == .int8RowHalf ? 1 : 0
    var desc = mfa_quantize_desc()
    desc.struct_size = UInt32(MemoryLayout<mfa_quantize_desc>.size)
    if format == .int8Asymmetric {
      operand.zeroPoints = try session.buffer(4 * shape[0] * shape[2])
      (quantization.pointee.zero_point_buffer, quantization.pointee.zero_point_bytes) = (operand.zeroPoints, 1)
      desc.flags = UInt32(MFA_QUANTIZE_ASYMMETRIC.rawValue)
    }
    if format == .int8Smooth {
      quantization.pointee.mean_buffer = try session.buffer(4 * shape[0] * shape[1] * shape[3])
      desc.flags = UInt32(MFA_QUANTIZE_SMOOTH.rawValue)
    }
    operand.tensor.quantization = UnsafePointer(quantization)
    let source = try session.buffer(4 * numbers.count)
    numbers.withUnsafeBytes { session.bytes(source).copyBytes(from: $0) }
    (desc.source, desc.destination) = (Session.tensor(source, sizes), operand.tensor)
    XCTAssertEqual(withUnsafePointer(to: desc) { mfa_quantize(session.context, $0) }, 0, Session.message)
    return (operand, [UnsafeMutableRawPointer(quantization)])
  }

  // MARK: Masking

  func buffer<Element>(_ values: [Element]) throws -> UnsafeMutableRawPointer {
    let handle = try session.buffer(max(values.count, 1) * MemoryLayout<Element>.stride)
    values.withUnsafeBytes { bytes in session.bytes(handle).copyBytes(from: bytes) }
    return handle
  }

  /// A mask `[1, 1, rows, keys]`.
  func setMask(_ of: (_ row: Int, _ key: Int) -> Float) throws {
    let values = (0..<rows * keys).map { of($0 / keys, $0 % keys) }
    options.mask = Session.tensor(try buffer(values), [1, 1, UInt64(rows), UInt64(keys)])
  }

  func setMask(_ of: (_ row: Int, _ key: Int) -> Bool) throws {
    let values = (0..<rows * keys).map { of($0 / keys, $0 % keys) ? UInt8(7) : 0 }
    options.mask = Session.tensor(try buffer(values), [1, 1, UInt64(rows), UInt64(keys)])
    options.mask.precision = 16
  }

  /// A mask of booleans `[batch, 1, rows, keys]`.
  func setBatchMask(_ of: (_ batch: Int, _ row: Int, _ key: Int) -> Bool) throws {
    let values = (0..<batch * rows * keys).map { UInt8(of($0 / keys / rows, $0 / keys % rows, $0 % keys) ? 1 : 0) }
    options.mask = Session.tensor(try buffer(values), [UInt64(batch), 1, UInt64(rows), UInt64(keys)])
    options.mask.precision = 16
  }

  func setPacked(_ lengths: [(q: Int32, k: Int32)]) throws {
    var (q, k): ([Int32], [Int32]) = ([0], [0])
    for length in lengths {
      q.append(q[q.count - 1] + length.q)
      k.append(k[k.count - 1] + length.k)
    }
    options.sequence_count = UInt32(lengths.count)
    (options.cu_seqlens_q, options.cu_seqlens_k) = (try buffer(q), try buffer(k))
  }

  // MARK: Running

  func floats(_ buffer: UnsafeMutableRawPointer?) -> [Float] {
    guard let buffer else { return [] }
    return Array(session.bytes(buffer).bindMemory(to: Float.self))
  }

  private var outputShape: [UInt64] { [UInt64(batch), UInt64(heads), UInt64(rows), UInt64(valueColumns)] }
  private var rowShape: [UInt64] { [UInt64(batch), UInt64(heads), UInt64(rows), 1] }

  var forwardStatus: Int32 {
    var desc = mfa_forward_desc()
    desc.struct_size = UInt32(MemoryLayout<mfa_forward_desc>.size)
    (desc.query, desc.key, desc.value) = (query.tensor, key.tensor, value.tensor)
    desc.output = Session.tensor(output, outputShape)
    desc.logsumexp = Session.tensor(logsumexp, rowShape)
    return withUnsafePointer(to: options) { options in
      desc.options = options
      return session.forward(desc)
    }
  }

  /// O and L.
  func forward(file: StaticString = #filePath, line: UInt = #line) -> (o: [Float], l: [Float]) {
    XCTAssertEqual(forwardStatus, 0, Session.message, file: file, line: line)
    return (floats(output), floats(logsumexp))
  }

  struct Gradients: Equatable {
    var query: [Float], key: [Float], value: [Float], mask: [Float]
    var d: [Float] = [], sinks: [Float] = []
    var all: [[Float]] { [query, key, value, mask] }
  }

  /// Of `gradOutput`, with the logsumexp that is stored.
  func backward(
    gradLogsumexp: [Float]? = nil, dGiven: [Float]? = nil, withOutput: Bool = false, file: StaticString = #filePath,
    line: UInt = #line
  ) throws -> Gradients {
    var desc = mfa_backward_desc()
    desc.struct_size = UInt32(MemoryLayout<mfa_backward_desc>.size)
    (desc.query, desc.key, desc.value) = (query.tensor, key.tensor, value.tensor)
    desc.grad_output = Session.tensor(try buffer(gradOutput), outputShape)
    desc.logsumexp = Session.tensor(logsumexp, rowShape)
    func result(_ operand: Operand) throws -> mfa_tensor { try session.tensor(operand.shape.map(UInt64.init)) }
    (desc.grad_query, desc.grad_key, desc.grad_value) = (try result(query), try result(key), try result(value))
    if options.mask.buffer != nil && options.mask.precision != 16 {
      let shape = options.mask.shape
      desc.grad_mask = try session.tensor([shape.0, shape.1, shape.2, shape.3])
    }
    desc.d_values = try session.tensor(rowShape)
    if let dGiven {
      desc.flags = UInt32(MFA_BACKWARD_D_GIVEN.rawValue)
      desc.d_values.buffer = try buffer(dGiven)
    }
    if withOutput { desc.output = Session.tensor(output, outputShape) }
    if let gradLogsumexp { desc.grad_logsumexp = Session.tensor(try buffer(gradLogsumexp), rowShape) }
    if options.sinks.buffer != nil { desc.grad_sinks = try session.tensor([1, UInt64(heads), 1, 1]) }
    let status = withUnsafePointer(to: options) { options in
      desc.options = options
      return withUnsafePointer(to: desc) { mfa_backward(session.context, $0) }
    }
    XCTAssertEqual(status, 0, Session.message, file: file, line: line)
    return Gradients(
      query: floats(desc.grad_query.buffer), key: floats(desc.grad_key.buffer), value: floats(desc.grad_value.buffer),
      mask: floats(desc.grad_mask.buffer), d: floats(desc.d_values.buffer), sinks: floats(desc.grad_sinks.buffer))
  }
}

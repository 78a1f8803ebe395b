import Metal
import MetalAttention
import XCTest

@testable import AttentionKernels

/// Runs kernels. Pipelines are made once for each text.
final class TestDevice: @unchecked Sendable {  // `pipelines` is used under `lock`
  static let shared = TestDevice()
  let device: any MTLDevice
  let queue: any MTLCommandQueue
  static let profile = DeviceProfile(family: .apple9)
  private let lock = NSLock()
  private var pipelines: [String: any MTLComputePipelineState] = [:]

  private init() {
    device = MTLCreateSystemDefaultDevice()!
    queue = device.makeCommandQueue()!
  }

  func pipeline(_ kernel: AttentionKernel) throws -> any MTLComputePipelineState {
    if let found = lock.withLock({ pipelines[kernel.source] }) { return found }
    let library = try device.makeLibrary(source: kernel.source, options: compileOptions())
    let function = try XCTUnwrap(library.makeFunction(name: kernel.functionName))
    let pipeline = try device.makeComputePipelineState(function: function)
    lock.withLock { pipelines[kernel.source] = pipeline }
    return pipeline
  }

  /// The pipeline of a kernel whose text was changed.
  func edited(
    _ kernel: AttentionKernel, _ edit: (AttentionKernelDescriptor.Kind, String) -> String
  ) throws -> any MTLComputePipelineState {
    let library = try device.makeLibrary(
      source: edit(kernel.descriptor.kind, kernel.source), options: compileOptions())
    return try device.makeComputePipelineState(function: XCTUnwrap(library.makeFunction(name: kernel.functionName)))
  }

  /// Compiles kernels that are about to run, at once: one text keeps one core busy. A failure is reported where the
  /// kernel is used.
  func prepare(_ descriptors: [AttentionKernelDescriptor], profile: DeviceProfile = TestDevice.profile) {
    DispatchQueue.concurrentPerform(iterations: descriptors.count) { i in
      guard let kernel = try? AttentionKernel(descriptor: descriptors[i], profile: profile) else { return }
      _ = try? pipeline(kernel)
    }
  }

  func buffer(_ bytes: [UInt8]) throws -> any MTLBuffer {
    try XCTUnwrap(bytes.isEmpty ? device.makeBuffer(length: 4) : device.makeBuffer(bytes: bytes, length: bytes.count))
  }

  struct Result {
    var o: [Double], l: [Double]
    var counters: Counters
    /// O and L held what they held, beside their elements.
    var paddingIsWhole: Bool
  }

  /// The forward pass of a problem, by its descriptor's schedule.
  /// - Parameter edit: what is done to the text of each kernel, nil for nothing.
  func forward(
    _ problem: TestProblem, profile: DeviceProfile = TestDevice.profile,
    edit: ((AttentionKernelDescriptor.Kind, String) -> String)? = nil
  ) throws -> Result {
    let d = problem.descriptor
    let o = try buffer(problem.o.bytes), l = try buffer(problem.l.bytes)
    let partial = AttentionKernel.partialBytes(d, problem.arguments)
    let partialOutput = try buffer([UInt8](repeating: 0xff, count: partial.output)),
      partialStatistics = try buffer([UInt8](repeating: 0xff, count: partial.statistics))
    var cumulativeQ: [Int32] = [-9, 0], cumulativeK: [Int32] = [-9, -9, 0]
    var (lastQ, lastK) = (Int32(0), Int32(0))
    for length in problem.lengths {
      (lastQ, lastK) = (lastQ + Int32(length.q), lastK + Int32(length.k))
      cumulativeQ.append(lastQ)
      cumulativeK.append(lastK)
    }
    let commands = try XCTUnwrap(queue.makeCommandBuffer())
    var descriptors = [d]
    if d.schedule == .decodeSplit {
      var merge = d
      merge.kind = .forwardMerge
      descriptors.append(merge)
    }
    if edit == nil { prepare(descriptors, profile: profile) }
    for descriptor in descriptors {
      let kernel = try AttentionKernel(descriptor: descriptor, profile: profile)
      let encoder = try XCTUnwrap(commands.makeComputeCommandEncoder())
      encoder.setComputePipelineState(try edit.map { try edited(kernel, $0) } ?? pipeline(kernel))
      func tensor(_ x: AttentionOperand) -> TestTensor { x == .Q ? problem.q : x == .K ? problem.k : problem.v }
      for binding in kernel.bindings {
        switch binding.role {
        case .operand(.O): encoder.setBuffer(o, offset: 0, index: binding.index)
        case .operand(.L): encoder.setBuffer(l, offset: 0, index: binding.index)
        case .operand(let x): encoder.setBuffer(try buffer(tensor(x).bytes), offset: 0, index: binding.index)
        case .scale(let x):
          var scale = tensor(x).scale
          encoder.setBytes(&scale, length: 4, index: binding.index)
        case .zeroPoint(let x):
          var zeroPoint = tensor(x).zeroPoint
          encoder.setBytes(&zeroPoint, length: 4, index: binding.index)
        case .scales(let x): encoder.setBuffer(try buffer(tensor(x).scales), offset: 0, index: binding.index)
        case .zeroPoints(let x): encoder.setBuffer(try buffer(tensor(x).zeroPoints), offset: 0, index: binding.index)
        case .mean(let x): encoder.setBuffer(try buffer(raw(tensor(x).means)), offset: 0, index: binding.index)
        case .mask: encoder.setBuffer(try buffer(problem.maskBytes), offset: 0, index: binding.index)
        case .slopes: encoder.setBuffer(try buffer(raw(problem.slopes)), offset: 0, index: binding.index)
        case .sinks: encoder.setBuffer(try buffer(raw(problem.sinks)), offset: 0, index: binding.index)
        case .cumulativeQueryLengths: encoder.setBuffer(try buffer(raw(cumulativeQ)), offset: 0, index: binding.index)
        case .cumulativeKeyLengths: encoder.setBuffer(try buffer(raw(cumulativeK)), offset: 0, index: binding.index)
        case .partialOutput: encoder.setBuffer(partialOutput, offset: 0, index: binding.index)
        case .partialStatistics: encoder.setBuffer(partialStatistics, offset: 0, index: binding.index)
        case .arguments:
          encoder.setBytes(problem.arguments.bytes, length: problem.arguments.bytes.count, index: binding.index)
        case .maskGradient, .sinkGradients, .logsumexpGradient, .logsumexpGradientOfRows:
          XCTFail("a forward kernel binds \(binding.role)")
        }
      }
      encoder.finish(kernel, problem.arguments)
    }
    try commands.finish()
    var counters = Counters()
    for dispatch in commands.counters { counters += dispatch }
    let (ro, wholeO) = read(o, problem.o), (rl, wholeL) = read(l, problem.l)
    return Result(o: ro, l: rl, counters: counters, paddingIsWhole: wholeO && (wholeL || !d.writesLogsumexp))
  }

  private func read(_ buffer: any MTLBuffer, _ tensor: TestTensor) -> ([Double], Bool) {
    var now = Array(UnsafeRawBufferPointer(start: buffer.contents(), count: tensor.bytes.count))
    let size = tensor.operand.precision.bits / 8
    var values = [Double](repeating: 0, count: tensor.real.count)
    for b in 0..<tensor.shape[0] {
      for h in 0..<tensor.shape[1] {
        for n in 0..<tensor.shape[2] {
          for d in 0..<tensor.shape[3] {
            let at = tensor.place(b, h, n, d)
            values[tensor.index(b, h, n, d)] = now.withUnsafeBytes { bytes in
              switch tensor.operand.precision {
              case .FP32: Double(bytes.load(fromByteOffset: 4 * at, as: Float.self))
              case .FP16: Double(bytes.load(fromByteOffset: 2 * at, as: Float16.self))
              default: Double(bfloatValue(bytes.load(fromByteOffset: 2 * at, as: UInt16.self)))
              }
            }
            for i in size * at..<size * (at + 1) { now[i] = tensor.bytes[i] }
          }
        }
      }
    }
    return (values, now == tensor.bytes)
  }
}

/// Fails where the kernel is further from float64 than FP32 arithmetic on the stored operands explains.
func check(_ problem: TestProblem, _ label: String = "", file: StaticString = #filePath, line: UInt = #line) throws {
  let name = label.isEmpty ? KernelText.summary(problem.descriptor) : label
  let result: TestDevice.Result
  do { result = try TestDevice.shared.forward(problem) } catch {
    XCTFail("\(name): \(error)", file: file, line: line)
    return
  }
  let expected = problem.reference()
  let roundoff =
    switch problem.descriptor.output.precision {
    case .FP16: 0x1p-11
    case .BF16: 0x1p-8
    default: 0.0
    }
  let top = problem.v.real.lazy.filter(\.isFinite).map(abs).max() ?? 0
  func compare(_ actual: [Double], _ expected: [Double], _ bound: (Double) -> Double, _ what: String) {
    var worst = (0.0, 0)
    for (i, (a, e)) in zip(actual, expected).enumerated() {
      if e.isFinite && a.isFinite {
        if abs(a - e) / bound(e) > worst.0 { worst = (abs(a - e) / bound(e), i) }
      } else if !(a == e || (a.isNaN && e.isNaN)) {
        XCTFail("\(name): \(what)[\(i)] is \(a), expected \(e)", file: file, line: line)
        return
      }
    }
    if worst.0 > 1 {
      XCTFail(
        "\(name): \(what)[\(worst.1)] is \(actual[worst.1]), expected \(expected[worst.1]): \(worst.0) times the bound",
        file: file, line: line)
    }
  }
  compare(result.o, expected.o, { 1e-5 * top + 1.01 * roundoff * abs($0) + 1e-12 }, "O")
  if problem.descriptor.writesLogsumexp { compare(result.l, expected.l, { 3e-6 * (1 + abs($0)) }, "L") }
  XCTAssertTrue(result.paddingIsWhole, "\(name): something beside O and L was written", file: file, line: line)
}

extension MTLComputeCommandEncoder {
  /// Dispatches the kernel, if it has anything to do, and ends.
  func finish(_ kernel: AttentionKernel, _ arguments: AttentionArguments) {
    let grid = kernel.grid(arguments)
    if grid.x * grid.y * grid.z > 0 {
      dispatchThreadgroups(
        MTLSizeMake(grid.x, grid.y, grid.z), threadsPerThreadgroup: MTLSizeMake(kernel.threadsPerThreadgroup, 1, 1))
    }
    endEncoding()
  }
}

extension MTLCommandBuffer {
  /// Runs what was encoded; throws what the device found.
  func finish() throws {
    commit()
    waitUntilCompleted()
    if let error { throw error }
  }
}

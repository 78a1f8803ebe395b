import Metal
import XCTest

/// A library, a queue and one dispatch, for tests.
struct Harness {
  let device: any MTLDevice
  let queue: any MTLCommandQueue
  init() throws {
    device = try XCTUnwrap(MTLCreateSystemDefaultDevice())
    queue = try XCTUnwrap(device.makeCommandQueue())
  }
  func library(_ source: String, mode: SoftwareMetal.Mode = .checked) throws -> any MTLLibrary {
    SoftwareMetal.options.mode = mode
    defer { SoftwareMetal.options.mode = .checked }
    return try device.makeLibrary(source: source, options: nil)
  }
  func pipeline(
    _ source: String, _ name: String, constants: MTLFunctionConstantValues = MTLFunctionConstantValues(),
    mode: SoftwareMetal.Mode = .checked
  ) throws -> any MTLComputePipelineState {
    try device.makeComputePipelineState(
      function: library(source, mode: mode).makeFunction(name: name, constantValues: constants))
  }
  func buffer<T>(_ values: [T]) throws -> any MTLBuffer {
    try XCTUnwrap(values.withUnsafeBytes { device.makeBuffer(bytes: $0.baseAddress!, length: $0.count) })
  }
  func buffer<T>(of type: T.Type, count: Int) throws -> any MTLBuffer {
    try XCTUnwrap(device.makeBuffer(length: max(1, count * MemoryLayout<T>.stride)))
  }

  @discardableResult
  func run(
    _ pipeline: any MTLComputePipelineState, _ buffers: [(any MTLBuffer)?], groups: MTLSize, threads: MTLSize,
    memory: [Int] = []
  ) throws -> any MTLCommandBuffer {
    let commands = try XCTUnwrap(queue.makeCommandBuffer()),
      encoder = try XCTUnwrap(commands.makeComputeCommandEncoder())
    encoder.setComputePipelineState(pipeline)
    for (i, b) in buffers.enumerated() { encoder.setBuffer(b, offset: 0, index: i) }
    for (i, n) in memory.enumerated() { encoder.setThreadgroupMemoryLength(n, index: i) }
    encoder.dispatchThreadgroups(groups, threadsPerThreadgroup: threads)
    encoder.endEncoding()
    commands.commit()
    commands.waitUntilCompleted()
    if let e = commands.error { throw e }
    return commands
  }
  func run(
    _ pipeline: any MTLComputePipelineState, _ buffers: [(any MTLBuffer)?], groups: Int, threads: Int,
    memory: [Int] = []
  ) throws -> SoftwareMetal.Counters {
    let commands = try run(
      pipeline, buffers, groups: MTLSizeMake(groups, 1, 1), threads: MTLSizeMake(threads, 1, 1), memory: memory)
    return try XCTUnwrap(commands.softwareDispatches.first).counters
  }
  /// The finding of checked mode in a kernel, or nil.
  func finding(
    _ source: String, _ name: String, _ buffers: [(any MTLBuffer)?], groups: Int = 1, threads: Int = 32,
    memory: [Int] = []
  ) throws -> SoftwareMetal.Finding? {
    do { _ = try run(pipeline(source, name), buffers, groups: groups, threads: threads, memory: memory) } catch let e
      as MTLCommandBufferError
    {
      return try XCTUnwrap(e.finding, "\(e)")
    }
    return nil
  }
}

extension MTLBuffer {
  func array<T>(of type: T.Type) -> [T] {
    Array(UnsafeRawBufferPointer(start: contents(), count: length).bindMemory(to: T.self))
  }
}
/// A small generator with a fixed sequence.
struct Sequence64: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}
func floats(_ n: Int, seed: UInt64) -> [Float] {
  var g = Sequence64(state: seed)
  return (0..<n).map { _ in Float.random(in: -1...1, using: &g) }
}

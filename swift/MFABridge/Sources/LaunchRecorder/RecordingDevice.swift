#if os(Linux)
  import Metal

  /// A Metal device that runs nothing: it writes down what it is told to run.
  ///
  /// Its buffers are memory that is reserved and not used until somebody writes to it, so that calls far beyond this
  /// machine's memory can be recorded.
  final class RecordingDevice: MTLDevice, @unchecked Sendable {  // one thread uses it
    let family: MTLGPUFamily
    let registryID: UInt64
    /// Dispatches in order, and the buffers that were made since `begin`.
    private(set) var launches: [RecordedLaunch] = []
    private(set) var buffers: [RecordingBuffer] = []

    init(family: MTLGPUFamily) {
      self.family = family
      registryID = 0x7265_636f_0000 + UInt64(family.rawValue)
    }

    /// Forgets what was recorded.
    func begin() { (launches, buffers) = ([], []) }

    fileprivate func add(_ launch: RecordedLaunch) {
      for (buffer, _) in launch.buffers.values { buffer.keepWritten() }
      launches.append(launch)
    }

    var name: String { "Recording Metal device" }
    /// Programs cannot make one: that of the software device.
    var architecture: MTLArchitecture { MTLCreateSystemDefaultDevice()!.architecture }
    var location: MTLDeviceLocation { .builtIn }
    var locationNumber: Int { 0 }
    var maxTransferRate: UInt64 { 0 }
    var maxThreadgroupMemoryLength: Int { 32768 }
    var maxThreadsPerThreadgroup: MTLSize { MTLSize(width: 1024, height: 1024, depth: 1024) }
    var maxBufferLength: Int { 1 << 40 }
    var currentAllocatedSize: Int { 0 }
    var recommendedMaxWorkingSetSize: UInt64 { 1 << 40 }
    var hasUnifiedMemory: Bool { true }
    var isLowPower: Bool { false }
    var isHeadless: Bool { true }
    var isRemovable: Bool { false }
    var argumentBuffersSupport: MTLArgumentBuffersTier { .tier1 }
    func supportsFamily(_ f: MTLGPUFamily) -> Bool {
      f.rawValue <= family.rawValue || [.common1, .common2, .common3, .metal3].contains(f)
    }

    func makeCommandQueue() -> (any MTLCommandQueue)? { RecordingQueue(self) }
    func makeCommandQueue(maxCommandBufferCount: Int) -> (any MTLCommandQueue)? { RecordingQueue(self) }

    func makeBuffer(length: Int, options: MTLResourceOptions) -> (any MTLBuffer)? {
      guard length > 0, let buffer = RecordingBuffer(self, length, id: buffers.count) else { return nil }
      buffers.append(buffer)
      return buffer
    }
    func makeBuffer(bytes pointer: UnsafeRawPointer, length: Int, options: MTLResourceOptions) -> (any MTLBuffer)? {
      let buffer = makeBuffer(length: length, options: options)
      buffer?.contents().copyMemory(from: pointer, byteCount: length)
      return buffer
    }
    func makeBuffer(
      bytesNoCopy pointer: UnsafeMutableRawPointer, length: Int, options: MTLResourceOptions,
      deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?
    ) -> (any MTLBuffer)? { nil }

    func makeDefaultLibrary() -> (any MTLLibrary)? { nil }
    func makeLibrary(source: String, options: MTLCompileOptions?) throws -> any MTLLibrary {
      RecordingLibrary(self, source)
    }
    func makeLibrary(
      source: String, options: MTLCompileOptions?,
      completionHandler: @escaping @Sendable ((any MTLLibrary)?, (any Error)?) -> Void
    ) { completionHandler(RecordingLibrary(self, source), nil) }

    func makeComputePipelineState(function computeFunction: any MTLFunction) throws -> any MTLComputePipelineState {
      guard let function = computeFunction as? RecordingFunction else { throw RecorderError("a foreign function") }
      return RecordingPipeline(function)
    }
    func makeComputePipelineState(
      function computeFunction: any MTLFunction, options: MTLPipelineOption,
      reflection: UnsafeMutablePointer<MTLComputePipelineReflection?>?
    ) throws -> any MTLComputePipelineState { try makeComputePipelineState(function: computeFunction) }
    func makeComputePipelineState(
      descriptor: MTLComputePipelineDescriptor, options: MTLPipelineOption,
      reflection: UnsafeMutablePointer<MTLComputePipelineReflection?>?
    ) throws -> any MTLComputePipelineState {
      guard let function = descriptor.computeFunction else { throw RecorderError("a descriptor without function") }
      return try makeComputePipelineState(function: function)
    }
    func makeComputePipelineState(
      function computeFunction: any MTLFunction,
      completionHandler: @escaping @Sendable ((any MTLComputePipelineState)?, (any Error)?) -> Void
    ) {
      do { completionHandler(try makeComputePipelineState(function: computeFunction), nil) } catch {
        completionHandler(nil, error)
      }
    }
    func makeEvent() -> (any MTLEvent)? { nil }
    func makeSharedEvent() -> (any MTLSharedEvent)? { nil }
  }

  struct RecorderError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
  }

  /// A dispatch: all that a launch needs.
  struct RecordedLaunch {
    let source: String
    let entry: String
    let threadgroups: MTLSize
    let threads: MTLSize
    let buffers: [Int: (buffer: RecordingBuffer, offset: Int)]
    let bytes: [Int: [UInt8]]
    let threadgroupMemory: [Int: Int]
  }

  final class RecordingBuffer: MTLBuffer, @unchecked Sendable {  // one thread uses it
    /// In order of allocation, from 0.
    let id: Int
    let length: Int
    let device: any MTLDevice
    private let memory: UnsafeMutableRawPointer
    var label: String?

    fileprivate init?(_ device: RecordingDevice, _ length: Int, id: Int) {
      let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
      guard let memory = mmap(nil, length, PROT_READ | PROT_WRITE, flags, -1, 0), memory != MAP_FAILED else {
        return nil
      }
      (self.device, self.length, self.id, self.memory) = (device, length, id, memory)
    }
    deinit { munmap(memory, length) }

    /// What the host had written when a dispatch first used the buffer; nil where that was nothing.
    private(set) var written: [UInt8]?
    private var isUsed = false

    fileprivate func keepWritten() {
      if isUsed { return }
      isUsed = true
      let page = sysconf(Int32(_SC_PAGESIZE))
      var resident = [UInt8](repeating: 0, count: (length + page - 1) / page)
      guard mincore(memory, length, &resident) == 0, resident.contains(where: { $0 & 1 != 0 }) else { return }
      written = Array(UnsafeRawBufferPointer(start: memory, count: length))
    }

    func contents() -> UnsafeMutableRawPointer { memory }
    var gpuAddress: UInt64 { UInt64(UInt(bitPattern: memory)) }
    var storageMode: MTLStorageMode { .shared }
    var cpuCacheMode: MTLCPUCacheMode { .defaultCache }
    var hazardTrackingMode: MTLHazardTrackingMode { .default }
    var resourceOptions: MTLResourceOptions { [] }
    var allocatedSize: Int { length }
    func setPurgeableState(_ state: MTLPurgeableState) -> MTLPurgeableState { .nonVolatile }
    func didModifyRange(_ range: Range<Int>) {}
  }

  // MARK: Libraries

  private final class RecordingLibrary: MTLLibrary, @unchecked Sendable {  // one thread uses it
    let device: any MTLDevice
    let source: String
    var label: String?
    init(_ device: any MTLDevice, _ source: String) { (self.device, self.source) = (device, source) }
    var functionNames: [String] { [] }
    func makeFunction(name functionName: String) -> (any MTLFunction)? { RecordingFunction(self, functionName) }
    func makeFunction(name: String, constantValues: MTLFunctionConstantValues) throws -> any MTLFunction {
      throw RecorderError("function constants are not recorded")
    }
  }

  private final class RecordingFunction: MTLFunction, @unchecked Sendable {  // one thread uses it
    let library: RecordingLibrary
    let name: String
    var label: String?
    init(_ library: RecordingLibrary, _ name: String) { (self.library, self.name) = (library, name) }
    var device: any MTLDevice { library.device }
    var functionType: MTLFunctionType { .kernel }
    var functionConstantsDictionary: [String: MTLFunctionConstant] { [:] }
  }

  private final class RecordingPipeline: MTLComputePipelineState, @unchecked Sendable {  // one thread uses it
    let function: RecordingFunction
    var label: String?
    init(_ function: RecordingFunction) { self.function = function }
    var device: any MTLDevice { function.device }
    var maxTotalThreadsPerThreadgroup: Int { 1024 }
    var threadExecutionWidth: Int { 32 }
    var staticThreadgroupMemoryLength: Int { 0 }
  }

  // MARK: Commands

  private final class RecordingQueue: MTLCommandQueue, @unchecked Sendable {  // one thread uses it
    let recorder: RecordingDevice
    var label: String?
    init(_ recorder: RecordingDevice) { self.recorder = recorder }
    var device: any MTLDevice { recorder }
    func makeCommandBuffer() -> (any MTLCommandBuffer)? { RecordingCommands(self) }
    func makeCommandBufferWithUnretainedReferences() -> (any MTLCommandBuffer)? { RecordingCommands(self) }
  }

  private final class RecordingCommands: MTLCommandBuffer {
    private let queue: RecordingQueue
    private(set) var status = MTLCommandBufferStatus.notEnqueued
    var label: String?
    init(_ queue: RecordingQueue) { self.queue = queue }
    var device: any MTLDevice { queue.recorder }
    var commandQueue: any MTLCommandQueue { queue }
    var retainedReferences: Bool { true }
    var error: (any Error)? { nil }
    var kernelStartTime: CFTimeInterval { 0 }
    var kernelEndTime: CFTimeInterval { 0 }
    var gpuStartTime: CFTimeInterval { 0 }
    var gpuEndTime: CFTimeInterval { 0 }
    func enqueue() { status = .enqueued }
    func commit() { status = .completed }
    func addScheduledHandler(_ block: @escaping @Sendable (any MTLCommandBuffer) -> Void) { block(self) }
    func addCompletedHandler(_ block: @escaping @Sendable (any MTLCommandBuffer) -> Void) { block(self) }
    func waitUntilScheduled() {}
    func waitUntilCompleted() {}
    func makeComputeCommandEncoder() -> (any MTLComputeCommandEncoder)? { RecordingEncoder(queue.recorder) }
    func makeComputeCommandEncoder(dispatchType: MTLDispatchType) -> (any MTLComputeCommandEncoder)? {
      RecordingEncoder(queue.recorder)
    }
    func makeBlitCommandEncoder() -> (any MTLBlitCommandEncoder)? { nil }
    func encodeSignalEvent(_ event: any MTLEvent, value: UInt64) {}
    func encodeWaitForEvent(_ event: any MTLEvent, value: UInt64) {}
    func pushDebugGroup(_ string: String) {}
    func popDebugGroup() {}
  }

  private final class RecordingEncoder: MTLComputeCommandEncoder {
    private let recorder: RecordingDevice
    private var pipeline: RecordingPipeline?
    private var buffers: [Int: (buffer: RecordingBuffer, offset: Int)] = [:]
    private var bytes: [Int: [UInt8]] = [:]
    private var threadgroupMemory: [Int: Int] = [:]
    var label: String?
    init(_ recorder: RecordingDevice) { self.recorder = recorder }
    var device: any MTLDevice { recorder }
    var dispatchType: MTLDispatchType { .serial }

    func setComputePipelineState(_ state: any MTLComputePipelineState) { pipeline = state as? RecordingPipeline }
    func setBytes(_ pointer: UnsafeRawPointer, length: Int, index: Int) {
      bytes[index] = Array(UnsafeRawBufferPointer(start: pointer, count: length))
      buffers[index] = nil
    }
    func setBuffer(_ buffer: (any MTLBuffer)?, offset: Int, index: Int) {
      buffers[index] = (buffer as? RecordingBuffer).map { ($0, offset) }
      bytes[index] = nil
    }
    func setBufferOffset(_ offset: Int, index: Int) { buffers[index]?.offset = offset }
    func setBuffers(_ buffers: [(any MTLBuffer)?], offsets: [Int], range: Range<Int>) {
      for (i, index) in range.enumerated() { setBuffer(buffers[i], offset: offsets[i], index: index) }
    }
    func setThreadgroupMemoryLength(_ length: Int, index: Int) { threadgroupMemory[index] = length }

    func dispatchThreadgroups(_ threadgroupsPerGrid: MTLSize, threadsPerThreadgroup: MTLSize) {
      guard let function = pipeline?.function else { preconditionFailure("a dispatch without a pipeline") }
      recorder.add(
        RecordedLaunch(
          source: function.library.source, entry: function.name, threadgroups: threadgroupsPerGrid,
          threads: threadsPerThreadgroup, buffers: buffers, bytes: bytes, threadgroupMemory: threadgroupMemory))
    }
    func dispatchThreadgroups(
      indirectBuffer: any MTLBuffer, indirectBufferOffset: Int, threadsPerThreadgroup: MTLSize
    ) { preconditionFailure("indirect dispatches are not recorded") }
    func dispatchThreads(_ threadsPerGrid: MTLSize, threadsPerThreadgroup: MTLSize) {
      preconditionFailure("dispatches of parts of threadgroups are not recorded")
    }
    // One dispatch after another: there is nothing to wait for.
    func memoryBarrier(scope: MTLBarrierScope) {}
    func memoryBarrier(resources: [any MTLResource]) {}
    func useResource(_ resource: any MTLResource, usage: MTLResourceUsage) {}
    func useResources(_ resources: [any MTLResource], usage: MTLResourceUsage) {}
    func endEncoding() {}
    func insertDebugSignpost(_ string: String) {}
    func pushDebugGroup(_ string: String) {}
    func popDebugGroup() {}
  }
#endif

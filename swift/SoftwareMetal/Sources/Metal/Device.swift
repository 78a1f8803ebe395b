import CSoftwareMetal

/// The software device, the only one there is.
public func MTLCreateSystemDefaultDevice() -> (any MTLDevice)? { SoftwareDevice.shared }
public func MTLCopyAllDevices() -> [any MTLDevice] { [SoftwareDevice.shared] }

final class SoftwareDevice: MTLDevice {
  static let shared = SoftwareDevice()
  private let allocated = Locked(0)

  private var chip: Chip {
    SoftwareMetal.options.chip.flatMap(Chip.init(name:)) ?? Chip(family: SoftwareMetal.options.family)
  }
  /// Named as Apple names the GPU of a chip, for programs that read the name.
  var name: String { "Apple \(chip.name)" }
  var architecture: MTLArchitecture { MTLArchitecture(name: chip.architecture) }
  /// Of the size that I/O Registry gives.
  var registryID: UInt64 { 0x1_0000_0407 }
  var location: MTLDeviceLocation { .builtIn }
  var locationNumber: Int { 0 }
  var maxTransferRate: UInt64 { 0 }
  var maxThreadgroupMemoryLength: Int { 32768 }
  var maxThreadsPerThreadgroup: MTLSize { MTLSize(width: 1024, height: 1024, depth: 1024) }
  var maxBufferLength: Int { Int(ProcessInfo.processInfo.physicalMemory / 2) }
  var currentAllocatedSize: Int { allocated.value }
  var recommendedMaxWorkingSetSize: UInt64 { ProcessInfo.processInfo.physicalMemory / 4 * 3 }
  var hasUnifiedMemory: Bool { true }
  var isLowPower: Bool { false }
  var isHeadless: Bool { false }
  var isRemovable: Bool { false }
  var argumentBuffersSupport: MTLArgumentBuffersTier { .tier1 }

  func supportsFamily(_ f: MTLGPUFamily) -> Bool {
    let newest = SoftwareMetal.options.chip == nil ? SoftwareMetal.options.family : chip.family
    switch f {
    case .common1, .common2, .common3: return true
    case .metal3: return newest.rawValue >= MTLGPUFamily.apple7.rawValue
    case .mac1, .mac2: return newest.rawValue >= MTLGPUFamily.apple7.rawValue
    case .metal4: return false
    default: return f.rawValue <= newest.rawValue
    }
  }
  func account(_ bytes: Int) { allocated.update { $0 += bytes } }

  func makeCommandQueue() -> (any MTLCommandQueue)? { SoftwareCommandQueue(device: self) }
  func makeCommandQueue(maxCommandBufferCount: Int) -> (any MTLCommandQueue)? { SoftwareCommandQueue(device: self) }

  func makeBuffer(length: Int, options: MTLResourceOptions) -> (any MTLBuffer)? {
    guard length > 0, length <= maxBufferLength, let b = sm_buffer_create(UInt64(length)) else { return nil }
    return SoftwareBuffer(device: self, handle: b, length: length, options: options, deallocator: nil)
  }
  func makeBuffer(bytes pointer: UnsafeRawPointer, length: Int, options: MTLResourceOptions) -> (any MTLBuffer)? {
    guard let b = makeBuffer(length: length, options: options) as? SoftwareBuffer else { return nil }
    b.memory.copyMemory(from: pointer, byteCount: length)
    return b
  }
  func makeBuffer(
    bytesNoCopy pointer: UnsafeMutableRawPointer, length: Int, options: MTLResourceOptions,
    deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?
  ) -> (any MTLBuffer)? {
    // As in Metal: whole pages, or nothing.
    let page = UInt(sm_page_size())
    guard length > 0, UInt(bitPattern: pointer) % page == 0, UInt(length) % page == 0,
      let b = sm_buffer_wrap(pointer, UInt64(length))
    else { return nil }
    return SoftwareBuffer(
      device: self, handle: b, length: length, options: options, deallocator: deallocator ?? { _, _ in })
  }
  func makeDefaultLibrary() -> (any MTLLibrary)? { nil }

  func makeLibrary(source: String, options: MTLCompileOptions?) throws -> any MTLLibrary {
    try SoftwareLibrary(device: self, source: source, options: options ?? MTLCompileOptions())
  }
  func makeLibrary(
    source: String, options: MTLCompileOptions?,
    completionHandler: @escaping @Sendable ((any MTLLibrary)?, (any Error)?) -> Void
  ) {
    let settings = SoftwareLibrary.Settings(options ?? MTLCompileOptions())
    DispatchQueue.global().async {
      do {
        completionHandler(try SoftwareLibrary(device: self, source: source, settings: settings), nil)
      } catch { completionHandler(nil, error) }
    }
  }

  func makeComputePipelineState(function computeFunction: any MTLFunction) throws -> any MTLComputePipelineState {
    try pipeline(computeFunction, label: nil, maxThreads: 0, reflection: nil)
  }
  func makeComputePipelineState(
    function computeFunction: any MTLFunction, options: MTLPipelineOption,
    reflection: UnsafeMutablePointer<MTLComputePipelineReflection?>?
  ) throws -> any MTLComputePipelineState {
    try pipeline(computeFunction, label: nil, maxThreads: 0, reflection: reflection)
  }
  func makeComputePipelineState(
    descriptor: MTLComputePipelineDescriptor, options: MTLPipelineOption,
    reflection: UnsafeMutablePointer<MTLComputePipelineReflection?>?
  ) throws -> any MTLComputePipelineState {
    guard let f = descriptor.computeFunction else {
      throw MTLLibraryError(code: .functionNotFound, description: "computeFunction of the pipeline descriptor is nil")
    }
    return try pipeline(
      f, label: descriptor.label, maxThreads: descriptor.maxTotalThreadsPerThreadgroup, reflection: reflection)
  }
  func makeComputePipelineState(
    function computeFunction: any MTLFunction,
    completionHandler: @escaping @Sendable ((any MTLComputePipelineState)?, (any Error)?) -> Void
  ) {
    DispatchQueue.global().async {
      do {
        completionHandler(try self.pipeline(computeFunction, label: nil, maxThreads: 0, reflection: nil), nil)
      } catch { completionHandler(nil, error) }
    }
  }
  private func pipeline(
    _ f: any MTLFunction, label: String?, maxThreads: Int,
    reflection: UnsafeMutablePointer<MTLComputePipelineReflection?>?
  ) throws -> any MTLComputePipelineState {
    guard let f = f as? SoftwareFunction else {
      throw MTLLibraryError(code: .unsupported, description: "the function belongs to another device")
    }
    let p = try SoftwarePipeline(function: f, label: label, maxThreads: maxThreads)
    reflection?.pointee = MTLComputePipelineReflection(bindings: f.bindings)
    return p
  }
  func makeEvent() -> (any MTLEvent)? { SoftwareEvent() }
  func makeSharedEvent() -> (any MTLSharedEvent)? { SoftwareEvent() }
}

final class SoftwareBuffer: MTLBuffer {
  let handle: OpaquePointer, length: Int
  private let owner: SoftwareDevice, options: MTLResourceOptions
  private let deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?
  /// The bytes, of private storage too.
  let memory: UnsafeMutableRawPointer
  var label: String?

  /// A buffer without a deallocator owns its memory.
  init?(
    device: SoftwareDevice, handle: OpaquePointer, length: Int, options: MTLResourceOptions,
    deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?
  ) {
    guard let p = sm_buffer_contents(handle) else { sm_buffer_destroy(handle); return nil }
    (owner, self.handle, self.length, self.options, self.deallocator, memory) = (
      device, handle, length, options, deallocator, p
    )
    if deallocator == nil { device.account(length) }
  }
  deinit {
    sm_buffer_destroy(handle)
    if let deallocator { deallocator(memory, length) } else { owner.account(-length) }
  }
  var device: any MTLDevice { owner }
  var storageMode: MTLStorageMode { MTLStorageMode(rawValue: options.rawValue >> 4 & 15) ?? .shared }
  var cpuCacheMode: MTLCPUCacheMode { MTLCPUCacheMode(rawValue: options.rawValue & 15) ?? .defaultCache }
  var hazardTrackingMode: MTLHazardTrackingMode {
    MTLHazardTrackingMode(rawValue: options.rawValue >> 8 & 3) ?? .default
  }
  var resourceOptions: MTLResourceOptions { options }
  var allocatedSize: Int { length }
  var gpuAddress: UInt64 { UInt64(UInt(bitPattern: memory)) }
  func setPurgeableState(_ state: MTLPurgeableState) -> MTLPurgeableState { .nonVolatile }
  /// Of private storage Metal gives NULL: an address in the first page is as good as that.
  func contents() -> UnsafeMutableRawPointer {
    let isHidden = storageMode == .private || storageMode == .memoryless
    return isHidden ? UnsafeMutableRawPointer(bitPattern: 16) ?? memory : memory
  }
  func didModifyRange(_ range: Range<Int>) {}
}

final class SoftwareEvent: MTLSharedEvent, @unchecked Sendable {  // `condition` guards every stored property
  private let condition = NSCondition()
  private var value: UInt64 = 0, text: String?
  private var waiting: [(value: UInt64, run: @Sendable (UInt64) -> Void)] = []

  var device: (any MTLDevice)? { SoftwareDevice.shared }
  var label: String? {
    get { condition.lock(); defer { condition.unlock() }; return text }
    set { condition.lock(); defer { condition.unlock() }; text = newValue }
  }
  var signaledValue: UInt64 {
    get { condition.lock(); defer { condition.unlock() }; return value }
    set {
      condition.lock()
      value = newValue
      let due = waiting.filter { $0.value <= newValue }
      waiting.removeAll { $0.value <= newValue }
      condition.broadcast()
      condition.unlock()
      for w in due { w.run(newValue) }
    }
  }
  func notify(
    _ listener: MTLSharedEventListener, atValue wanted: UInt64,
    block: @escaping @Sendable (any MTLSharedEvent, UInt64) -> Void
  ) {
    let run: @Sendable (UInt64) -> Void = { v in listener.dispatchQueue.async { block(self, v) } }
    condition.lock()
    let now = value
    if now < wanted { waiting.append((wanted, run)) }
    condition.unlock()
    if now >= wanted { run(now) }
  }
  func wait(untilSignaledValue wanted: UInt64, timeoutMS milliseconds: UInt64) -> Bool {
    condition.lock()
    defer { condition.unlock() }
    let limit = Date(timeIntervalSinceNow: Double(min(milliseconds, 1 << 40)) / 1000)
    while value < wanted { if !condition.wait(until: limit) { return value >= wanted } }
    return true
  }
}

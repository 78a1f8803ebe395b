// The compute part of the Metal API. Members, labels and defaults follow Apple's Swift interface, so
// that source written for a Mac compiles unchanged; `Sendable` is claimed only where Apple's headers claim it.

public protocol MTLDevice: AnyObject, Sendable {
  var name: String { get }
  var architecture: MTLArchitecture { get }
  var registryID: UInt64 { get }
  var location: MTLDeviceLocation { get }
  var locationNumber: Int { get }
  var maxTransferRate: UInt64 { get }
  var maxThreadgroupMemoryLength: Int { get }
  var maxThreadsPerThreadgroup: MTLSize { get }
  var maxBufferLength: Int { get }
  var currentAllocatedSize: Int { get }
  var recommendedMaxWorkingSetSize: UInt64 { get }
  var hasUnifiedMemory: Bool { get }
  var isLowPower: Bool { get }
  var isHeadless: Bool { get }
  var isRemovable: Bool { get }
  var argumentBuffersSupport: MTLArgumentBuffersTier { get }
  func supportsFamily(_ gpuFamily: MTLGPUFamily) -> Bool
  func makeCommandQueue() -> (any MTLCommandQueue)?
  func makeCommandQueue(maxCommandBufferCount: Int) -> (any MTLCommandQueue)?
  func makeBuffer(length: Int, options: MTLResourceOptions) -> (any MTLBuffer)?
  func makeBuffer(bytes pointer: UnsafeRawPointer, length: Int, options: MTLResourceOptions) -> (any MTLBuffer)?
  func makeBuffer(
    bytesNoCopy pointer: UnsafeMutableRawPointer, length: Int, options: MTLResourceOptions,
    deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?
  ) -> (any MTLBuffer)?
  func makeDefaultLibrary() -> (any MTLLibrary)?
  func makeLibrary(source: String, options: MTLCompileOptions?) throws -> any MTLLibrary
  func makeLibrary(
    source: String, options: MTLCompileOptions?,
    completionHandler: @escaping @Sendable ((any MTLLibrary)?, (any Error)?) -> Void)
  func makeComputePipelineState(function computeFunction: any MTLFunction) throws -> any MTLComputePipelineState
  func makeComputePipelineState(
    function computeFunction: any MTLFunction, options: MTLPipelineOption,
    reflection: UnsafeMutablePointer<MTLComputePipelineReflection?>?
  ) throws -> any MTLComputePipelineState
  func makeComputePipelineState(
    descriptor: MTLComputePipelineDescriptor, options: MTLPipelineOption,
    reflection: UnsafeMutablePointer<MTLComputePipelineReflection?>?
  ) throws -> any MTLComputePipelineState
  func makeComputePipelineState(
    function computeFunction: any MTLFunction,
    completionHandler: @escaping @Sendable ((any MTLComputePipelineState)?, (any Error)?) -> Void)
  func makeEvent() -> (any MTLEvent)?
  func makeSharedEvent() -> (any MTLSharedEvent)?
}
extension MTLDevice {
  public func makeBuffer(length: Int) -> (any MTLBuffer)? { makeBuffer(length: length, options: []) }
  public func makeBuffer(bytes pointer: UnsafeRawPointer, length: Int) -> (any MTLBuffer)? {
    makeBuffer(bytes: pointer, length: length, options: [])
  }
  public func makeBuffer(
    bytesNoCopy pointer: UnsafeMutableRawPointer, length: Int, options: MTLResourceOptions = []
  ) -> (any MTLBuffer)? {
    makeBuffer(bytesNoCopy: pointer, length: length, options: options, deallocator: nil)
  }
}

public protocol MTLResource: AnyObject {
  var label: String? { get set }
  var device: any MTLDevice { get }
  var storageMode: MTLStorageMode { get }
  var cpuCacheMode: MTLCPUCacheMode { get }
  var hazardTrackingMode: MTLHazardTrackingMode { get }
  var resourceOptions: MTLResourceOptions { get }
  var allocatedSize: Int { get }
  @discardableResult func setPurgeableState(_ state: MTLPurgeableState) -> MTLPurgeableState
}
public protocol MTLBuffer: MTLResource {
  var length: Int { get }
  var gpuAddress: UInt64 { get }
  func contents() -> UnsafeMutableRawPointer
  func didModifyRange(_ range: Range<Int>)
}

public protocol MTLLibrary: AnyObject, Sendable {
  var label: String? { get set }
  var device: any MTLDevice { get }
  var functionNames: [String] { get }
  func makeFunction(name functionName: String) -> (any MTLFunction)?
  func makeFunction(name: String, constantValues: MTLFunctionConstantValues) throws -> any MTLFunction
}
public protocol MTLFunction: AnyObject, Sendable {
  var label: String? { get set }
  var device: any MTLDevice { get }
  var functionType: MTLFunctionType { get }
  var name: String { get }
  var functionConstantsDictionary: [String: MTLFunctionConstant] { get }
}
public protocol MTLComputePipelineState: AnyObject, Sendable {
  var label: String? { get }
  var device: any MTLDevice { get }
  var maxTotalThreadsPerThreadgroup: Int { get }
  var threadExecutionWidth: Int { get }
  var staticThreadgroupMemoryLength: Int { get }
}

public protocol MTLCommandQueue: AnyObject, Sendable {
  var label: String? { get set }
  var device: any MTLDevice { get }
  func makeCommandBuffer() -> (any MTLCommandBuffer)?
  func makeCommandBufferWithUnretainedReferences() -> (any MTLCommandBuffer)?
}
public protocol MTLCommandBuffer: AnyObject {
  var label: String? { get set }
  var device: any MTLDevice { get }
  var commandQueue: any MTLCommandQueue { get }
  var retainedReferences: Bool { get }
  var status: MTLCommandBufferStatus { get }
  var error: (any Error)? { get }
  var kernelStartTime: CFTimeInterval { get }
  var kernelEndTime: CFTimeInterval { get }
  var gpuStartTime: CFTimeInterval { get }
  var gpuEndTime: CFTimeInterval { get }
  func enqueue()
  func commit()
  func addScheduledHandler(_ block: @escaping @Sendable (any MTLCommandBuffer) -> Void)
  func addCompletedHandler(_ block: @escaping @Sendable (any MTLCommandBuffer) -> Void)
  func waitUntilScheduled()
  func waitUntilCompleted()
  func makeComputeCommandEncoder() -> (any MTLComputeCommandEncoder)?
  func makeComputeCommandEncoder(dispatchType: MTLDispatchType) -> (any MTLComputeCommandEncoder)?
  func makeBlitCommandEncoder() -> (any MTLBlitCommandEncoder)?
  func encodeSignalEvent(_ event: any MTLEvent, value: UInt64)
  func encodeWaitForEvent(_ event: any MTLEvent, value: UInt64)
  func pushDebugGroup(_ string: String)
  func popDebugGroup()
}
extension MTLCommandBuffer {
  public func completed() async {
    if status == .completed || status == .error { return }
    await withCheckedContinuation { c in addCompletedHandler { _ in c.resume() } }
  }
}
public protocol MTLCommandEncoder: AnyObject {
  var label: String? { get set }
  var device: any MTLDevice { get }
  func endEncoding()
  func insertDebugSignpost(_ string: String)
  func pushDebugGroup(_ string: String)
  func popDebugGroup()
}
public protocol MTLComputeCommandEncoder: MTLCommandEncoder {
  var dispatchType: MTLDispatchType { get }
  func setComputePipelineState(_ state: any MTLComputePipelineState)
  func setBytes(_ bytes: UnsafeRawPointer, length: Int, index: Int)
  func setBuffer(_ buffer: (any MTLBuffer)?, offset: Int, index: Int)
  func setBufferOffset(_ offset: Int, index: Int)
  func setBuffers(_ buffers: [(any MTLBuffer)?], offsets: [Int], range: Range<Int>)
  func setThreadgroupMemoryLength(_ length: Int, index: Int)
  func dispatchThreadgroups(_ threadgroupsPerGrid: MTLSize, threadsPerThreadgroup: MTLSize)
  func dispatchThreadgroups(indirectBuffer: any MTLBuffer, indirectBufferOffset: Int, threadsPerThreadgroup: MTLSize)
  func dispatchThreads(_ threadsPerGrid: MTLSize, threadsPerThreadgroup: MTLSize)
  func memoryBarrier(scope: MTLBarrierScope)
  func memoryBarrier(resources: [any MTLResource])
  func useResource(_ resource: any MTLResource, usage: MTLResourceUsage)
  func useResources(_ resources: [any MTLResource], usage: MTLResourceUsage)
}
public protocol MTLBlitCommandEncoder: MTLCommandEncoder {
  func copy(
    from sourceBuffer: any MTLBuffer, sourceOffset: Int, to destinationBuffer: any MTLBuffer, destinationOffset: Int,
    size: Int)
  func fill(buffer: any MTLBuffer, range: Range<Int>, value: UInt8)
  func synchronize(resource: any MTLResource)
}

public protocol MTLEvent: AnyObject, Sendable {
  var device: (any MTLDevice)? { get }
  var label: String? { get set }
}
public protocol MTLSharedEvent: MTLEvent {
  var signaledValue: UInt64 { get set }
  func notify(
    _ listener: MTLSharedEventListener, atValue value: UInt64,
    block: @escaping @Sendable (any MTLSharedEvent, UInt64) -> Void)
  func wait(untilSignaledValue value: UInt64, timeoutMS milliseconds: UInt64) -> Bool
}
public final class MTLSharedEventListener: Sendable {
  public let dispatchQueue: DispatchQueue
  public init() { dispatchQueue = DispatchQueue(label: "MTLSharedEventListener") }
  public init(dispatchQueue: DispatchQueue) { self.dispatchQueue = dispatchQueue }
}

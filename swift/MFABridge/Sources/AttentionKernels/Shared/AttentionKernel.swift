/// A compute kernel as text, with its launch parameters.
///
/// ```swift
/// let kernel = try AttentionKernel(descriptor: descriptor, profile: profile)
/// let library = try device.makeLibrary(source: kernel.source, options: options)  // MSL 3.1, safe and precise
/// // encode: pipeline of kernel.functionName; for each kernel.bindings a buffer (offset 0) or bytes at its index;
/// // dispatchThreadgroups(kernel.grid(arguments), threadsPerThreadgroup: kernel.threadsPerThreadgroup)
/// ```
///
/// Threadgroup memory is declared in the text: nothing to set. A grid with a zero must not be dispatched, nor does it
/// need to be.
public struct AttentionKernel: Sendable {
  public struct Size: Hashable, Sendable {
    public var x, y, z: Int
    public init(_ x: Int, _ y: Int, _ z: Int) { (self.x, self.y, self.z) = (x, y, z) }
  }

  public let descriptor: AttentionKernelDescriptor
  public let source: String
  public let functionName: String
  public let bindings: [Binding]
  public let threadsPerThreadgroup: Int
  /// Bytes that the text declares.
  public let threadgroupMemoryBytes: Int
  let tiles: Tiles

  public init(descriptor: AttentionKernelDescriptor, profile: DeviceProfile) throws(AttentionKernelError) {
    try descriptor.validate()
    self.descriptor = descriptor
    bindings = descriptor.bindings
    functionName = "attention_\(descriptor.kind.rawValue)"
    let text = try KernelText(descriptor: descriptor, profile: profile)
    source = text.source
    tiles = text.tiles
    threadsPerThreadgroup = 32 * text.tiles.simdgroups
    threadgroupMemoryBytes = text.threadgroupMemoryBytes
  }

  /// Threadgroups to dispatch.
  public func grid(_ arguments: AttentionArguments) -> Size { tiles.grid(arguments, descriptor) }

  /// Bytes of `.partialOutput` and `.partialStatistics` for a split forward kernel and its merge; 0 for others.
  /// FP32 [batch or sequence, head, query row, split, value column], and [..., split, 2].
  public static func partialBytes(
    _ descriptor: AttentionKernelDescriptor, _ arguments: AttentionArguments
  ) -> (output: Int, statistics: Int) {
    guard descriptor.schedule == .decodeSplit || descriptor.kind == .forwardMerge else { return (0, 0) }
    let parts = Int(arguments.batches) * Int(arguments.heads) * Int(arguments.queryRows) * Int(arguments.splits)
    return (4 * parts * descriptor.valueDimension, 8 * parts)
  }
}

import AttentionKernels
import Foundation
import Metal

/// A Metal device with what all its users share: its profile and its pipelines.
package final class AttentionDevice: @unchecked Sendable {  // immutable; Metal's devices may be used from any thread
  package let metal: any MTLDevice
  package let profile: DeviceProfile
  let pipelines: PipelineCache
  /// For work that nobody else waits for; nil if the device gives no queue.
  let queue: (any MTLCommandQueue)?

  #if os(Linux)
    /// Whether the processor does the devices' work: the module `Metal` of Linux is the software device.
    package static let isSoftware = true
    package static let vendor = "umfa"
  #else
    package static let isSoftware = false
    /// The vendor of every device that `all` returns: Apple's families of GPUs have no other.
    package static let vendor = "Apple"
  #endif

  private init(_ metal: any MTLDevice) {
    self.metal = metal
    profile = DeviceProfile(device: metal)
    pipelines = PipelineCache(device: metal, profile: profile)
    queue = metal.makeCommandQueue()
  }

  private static let known = Locked<[UInt64: AttentionDevice]>([:])

  /// The one object for a device, so that its kernels are compiled once.
  package static func of(_ metal: any MTLDevice) -> AttentionDevice {
    known.update { known in
      if let found = known[metal.registryID] { return found }
      let new = AttentionDevice(metal)
      known[metal.registryID] = new
      return new
    }
  }

  /// Encodes work, and waits until it is done.
  func runAndWait<Result>(
    _ work: (any MTLCommandBuffer) throws(AttentionError) -> Result
  ) throws(AttentionError) -> Result {
    guard let commands = queue?.makeCommandBuffer() else {
      throw AttentionError(.bufferAllocation, "the device \(metal.name) made no command buffer")
    }
    let result = try work(commands)
    commands.commit()
    commands.waitUntilCompleted()
    try commands.expectCompleted()
    return result
  }

  /// Devices that can run the kernels, the system's choice first.
  package static func all() -> [AttentionDevice] { metalDevices().filter(canRun).map(of) }

  /// The reason why no device can run the kernels; nil if one can.
  package static var unavailable: String? {
    let found = metalDevices()
    if found.contains(where: canRun) { return nil }
    return found.isEmpty
      ? "there is no Metal device"
      : "\(found.map(\.name).joined(separator: ", ")): older than GPU family Apple 7, without SIMD-group matrices"
  }

  /// SIMD-group matrices are there.
  private static func canRun(_ device: any MTLDevice) -> Bool { device.supportsFamily(.apple7) }

  private static func metalDevices() -> [any MTLDevice] {
    #if os(macOS) || os(Linux)
      let copies = MTLCopyAllDevices()
    #else
      let copies: [any MTLDevice] = []
    #endif
    let first = MTLCreateSystemDefaultDevice()
    let rest = copies.filter { $0.registryID != first?.registryID }
    return (first.map { [$0] } ?? []) + rest
  }
}

extension DeviceProfile {
  /// The profile of a device. Metal does not report the number of cores; the default is used.
  init(device: any MTLDevice) {
    let family: Family = device.supportsFamily(.apple9) ? .apple9 : device.supportsFamily(.apple8) ? .apple8 : .apple7
    self.init(family: family, threadgroupMemory: device.maxThreadgroupMemoryLength)
  }
}

import Foundation
import Metal

/// The memory of operands and results: a Metal buffer, or memory of the caller's.
///
/// The caller's memory becomes a Metal buffer without a copy where Metal takes it; otherwise what a call uses of it is
/// copied to and from the device by that call.
public final class AttentionBuffer: @unchecked Sendable {  // immutable; Metal buffers may be used from any thread
  /// The Metal buffer, if the memory is one.
  package let metal: (any MTLBuffer)?
  /// The first byte, in the host's address space; nil if there are no bytes, or they are private to the device.
  package let contents: UnsafeMutableRawPointer?
  /// Bytes that may be used.
  public let size: Int

  /// A Metal buffer, which is retained. What the host must read before the device runs (tensor-wise scales, bounds of
  /// sequences) cannot be in private storage.
  public init(_ buffer: any MTLBuffer) {
    let isSeen = buffer.storageMode != .private && buffer.storageMode != .memoryless
    (metal, contents, size) = (buffer, isSeen ? buffer.contents() : nil, buffer.length)
  }

  /// A buffer that a caller of C has, for a device's calls. Operands and results may be private, and without hazard
  /// tracking; memory that only exists inside a render pass is no memory for a call.
  package convenience init(_ buffer: any MTLBuffer, on device: any MTLDevice) throws(AttentionError) {
    try ensure(
      buffer.device.registryID == device.registryID, .invalidArgument,
      "mtl_buffer belongs to \(buffer.device.name); expected a buffer of \(device.name)")
    try ensure(
      buffer.storageMode == .shared || buffer.storageMode == .private, .unsupported,
      "mtl_buffer: storage mode is \(buffer.storageMode.rawValue); expected shared (0) or private (2) storage")
    self.init(buffer)
  }

  /// The host sees its bytes, if there are any.
  package var isVisible: Bool { contents != nil || size == 0 || isImagined }

  /// Stands for memory that a plan does not need: of any size, and the device's.
  package static let imagined = AttentionBuffer()
  var isImagined: Bool { self === Self.imagined }
  private init() { (metal, contents, size) = (nil, nil, .max) }

  /// Kernels use it in place.
  var isDevice: Bool { metal != nil || isImagined }

  /// The address of the first byte, in the address space of the host or else of the device.
  var address: UInt { contents.map { UInt(bitPattern: $0) } ?? UInt(metal?.gpuAddress ?? 0) }

  /// New zero-filled memory of `size` bytes.
  package init(device: any MTLDevice, size: UInt64) throws(AttentionError) {
    guard let length = Int(exactly: size), length <= device.maxBufferLength,
      let buffer = device.makeBuffer(length: max(length, 1), options: .storageModeShared)
    else { throw AttentionError(.bufferAllocation, "\(size) bytes could not be allocated") }
    memset(buffer.contents(), 0, buffer.length)
    (metal, contents, self.size) = (buffer, buffer.contents(), length)
  }

  /// The caller's memory, which stays the caller's.
  package init(device: any MTLDevice, wrapping data: UnsafeMutableRawPointer?, size: UInt64) throws(AttentionError) {
    try ensure(data != nil || size == 0, .invalidArgument, "data is NULL; expected the address of \(size) bytes")
    let address = UInt64(UInt(bitPattern: data))
    guard let length = Int(exactly: size), address <= .max - size else {
      throw AttentionError(
        .invalidArgument,
        "size is \(size); expected bytes that fit the address space after \(pointerText(UInt(bitPattern: data)))")
    }
    metal = data.flatMap { Self.noCopy(device, $0, length) }
    (contents, self.size) = (data, length)
  }

  /// A Metal buffer over whole pages of the caller's; nil where they are not whole, or the device refuses.
  private static func noCopy(
    _ device: any MTLDevice, _ data: UnsafeMutableRawPointer, _ length: Int
  ) -> (any MTLBuffer)? {
    let page = Int(getpagesize())
    guard length > 0, Int(bitPattern: data) % page == 0 else { return nil }
    #if canImport(Darwin)
      // The rest of the last page belongs to the same allocation or to nobody.
      let pages = ceilingQuotient(length, page).multipliedReportingOverflow(by: page)
      guard !pages.overflow, pages.partialValue <= device.maxBufferLength else { return nil }
      return device.makeBuffer(
        bytesNoCopy: data, length: pages.partialValue, options: .storageModeShared, deallocator: nil)
    #else
      // The device in software knows a buffer's exact bounds: rounding up would blunt its checks.
      guard length % page == 0 else { return nil }
      return device.makeBuffer(bytesNoCopy: data, length: length, options: .storageModeShared, deallocator: nil)
    #endif
  }
}

func pointerText(_ address: UInt) -> String { "0x" + String(address, radix: 16) }

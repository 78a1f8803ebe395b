import CMFA
import Metal
import MetalAttention

// Buffers. The documentation of each function is in mfa.h.

private func create(
  _ handle: UnsafeMutableRawPointer?, _ to: UnsafeMutablePointer<UnsafeMutableRawPointer?>?,
  _ make: (any MTLDevice) throws(AttentionError) -> AttentionBuffer
) -> Int32 {
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    try ensure(to != nil, .invalidArgument, "buffer is NULL; expected where to write the handle")
    let new = try make(context.attention.device.metal)
    try write(buffers.insert(new), to: to, "buffer")
  }
}

@_cdecl("mfa_create_buffer")
public func createBuffer(
  _ context: UnsafeMutableRawPointer?, _ size: UInt64, _ buffer: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> Int32 {
  create(context, buffer) { (device) throws(AttentionError) in try AttentionBuffer(device: device, size: size) }
}

@_cdecl("mfa_buffer_from_ptr")
public func bufferFromPtr(
  _ context: UnsafeMutableRawPointer?, _ data: UnsafeMutableRawPointer?, _ size: UInt64,
  _ buffer: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> Int32 {
  create(context, buffer) { (device) throws(AttentionError) in
    try AttentionBuffer(device: device, wrapping: data, size: size)
  }
}

#if canImport(Darwin)
  @_cdecl("mfa_buffer_from_mtl")
  public func bufferFromMTL(
    _ context: UnsafeMutableRawPointer?, _ mtlBuffer: UnsafeMutableRawPointer?,
    _ buffer: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
  ) -> Int32 {
    create(context, buffer) { (device) throws(AttentionError) in
      // That it is an object is the caller's promise; that it is a buffer is checked.
      let object = mtlBuffer.map { Unmanaged<AnyObject>.fromOpaque($0).takeUnretainedValue() }
      guard let metal = object as? any MTLBuffer else {
        throw AttentionError(.invalidArgument, "mtl_buffer is no MTLBuffer; expected an id<MTLBuffer>")
      }
      return try AttentionBuffer(metal, on: device)
    }
  }
#endif

@_cdecl("mfa_buffer_contents")
public func bufferContents(
  _ handle: UnsafeMutableRawPointer?, _ contents: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> Int32 {
  guarded { () throws(AttentionError) in
    let buffer = try buffer(handle, "buffer")
    try ensure(
      buffer.isVisible, .unsupported,
      "buffer: it is private to the device; expected shared storage, whose bytes have an address for the host")
    try write(buffer.contents, to: contents, "contents")
  }
}

@_cdecl("mfa_buffer_size")
public func bufferSize(_ handle: UnsafeMutableRawPointer?, _ size: UnsafeMutablePointer<UInt64>?) -> Int32 {
  guarded { () throws(AttentionError) in try write(UInt64(buffer(handle, "buffer").size), to: size, "size") }
}

@_cdecl("mfa_destroy_buffer")
public func destroyBuffer(_ handle: UnsafeMutableRawPointer?) -> Int32 {
  guarded { () throws(AttentionError) in
    guard let handle else { return }
    _ = try buffer(handle, "buffer")
    _ = buffers.remove(handle)
    for context in contexts.all { context.records.update { $0.removeAll { $0.operands.contains(handle) } } }
  }
}

import CMFA
import MetalAttention

// Library, devices and contexts. The documentation of each function is in mfa.h.

@_cdecl("mfa_get_version")
public func getVersion(
  _ major: UnsafeMutablePointer<UInt32>?, _ minor: UnsafeMutablePointer<UInt32>?, _ patch: UnsafeMutablePointer<UInt32>?
) -> Int32 {
  guarded { () throws(AttentionError) in
    let numbers = [MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH].map(UInt32.init(bitPattern:))
    for (to, number) in zip([major, minor, patch], numbers) where to != nil { try write(number, to: to, "version") }
  }
}

/// Static texts, NUL-terminated, by status; the last is for any other number.
private let texts: [StaticString] = [
  "success", "invalid context", "buffer allocation failed", "invalid dimensions", "kernel execution failed",
  "invalid argument", "unsupported on this device", "unknown status",
]

@_cdecl("mfa_error_string")
public func errorString(_ status: Int32) -> UnsafePointer<CChar> {
  let last = texts.count - 1
  let text = texts[0..<last ~= Int(status) ? Int(status) : last]
  return UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
}

@_cdecl("mfa_last_error")
public func lastError(_ context: UnsafeMutableRawPointer?) -> UnsafePointer<CChar>? { cmfa_message() }

@_cdecl("mfa_device_count")
public func deviceCount(_ count: UnsafeMutablePointer<UInt32>?) -> Int32 {
  guarded { () throws(AttentionError) in
    try write(UInt32(clamping: AttentionDevice.all().count), to: count, "count")
  }
}

private func device(_ index: UInt32) throws(AttentionError) -> AttentionDevice {
  let devices = AttentionDevice.all()
  try ensure(
    Int(index) < devices.count, .invalidArgument,
    devices.isEmpty
      ? "device index is \(index); expected none: \(AttentionDevice.unavailable ?? "devices have gone")"
      : "device index is \(index); expected less than \(devices.count), the number of Metal devices")
  return devices[Int(index)]
}

@_cdecl("mfa_device_name")
public func deviceName(
  _ index: UInt32, _ name: UnsafeMutablePointer<CChar>?, _ capacity: Int, _ length: UnsafeMutablePointer<Int>?
) -> Int32 {
  guarded { () throws(AttentionError) in
    try write(device(index).metal.name, to: name, capacity: capacity, length: length, "name")
  }
}

@_cdecl("mfa_device_kind")
public func deviceKind(_ index: UInt32, _ kind: UnsafeMutablePointer<Int32>?) -> Int32 {
  guarded { () throws(AttentionError) in
    _ = try device(index)
    let found = AttentionDevice.isSoftware ? MFA_DEVICE_CPU : MFA_DEVICE_GPU
    try write(Int32(found.rawValue), to: kind, "kind")
  }
}

@_cdecl("mfa_device_vendor")
public func deviceVendor(
  _ index: UInt32, _ vendor: UnsafeMutablePointer<CChar>?, _ capacity: Int, _ length: UnsafeMutablePointer<Int>?
) -> Int32 {
  guarded { () throws(AttentionError) in
    _ = try device(index)
    try write(AttentionDevice.vendor, to: vendor, capacity: capacity, length: length, "vendor")
  }
}

@_cdecl("mfa_device_backend")
public func deviceBackend(
  _ index: UInt32, _ backend: UnsafeMutablePointer<CChar>?, _ capacity: Int, _ length: UnsafeMutablePointer<Int>?
) -> Int32 {
  guarded { () throws(AttentionError) in
    _ = try device(index)
    try write("metal", to: backend, capacity: capacity, length: length, "backend")
  }
}

@_cdecl("mfa_device_registry_id")
public func deviceRegistryID(_ index: UInt32, _ registryID: UnsafeMutablePointer<UInt64>?) -> Int32 {
  guarded { () throws(AttentionError) in
    try write(device(index).metal.registryID, to: registryID, "registry_id")
  }
}

@_cdecl("mfa_create_context")
public func createContext(_ context: UnsafeMutablePointer<UnsafeMutableRawPointer?>?) -> Int32 {
  createContextOn(0, context)
}

@_cdecl("mfa_create_context_on")
public func createContextOn(_ index: UInt32, _ context: UnsafeMutablePointer<UnsafeMutableRawPointer?>?) -> Int32 {
  guarded { () throws(AttentionError) in
    try ensure(context != nil, .invalidArgument, "context is NULL; expected where to write the handle")
    let new = BridgeContext(try AttentionContext(device: device(index)))
    try write(contexts.insert(new), to: context, "context")
  }
}

@_cdecl("mfa_destroy_context")
public func destroyContext(_ handle: UnsafeMutableRawPointer?) -> Int32 {
  guarded { () throws(AttentionError) in
    if handle == nil { return }
    _ = try context(handle)
    _ = contexts.remove(handle)
  }
}

/// The CPU driver's limit, so that a program's mistake is found on every driver.
private let mostThreads: UInt32 = 1024

@_cdecl("mfa_set_num_threads")
public func setNumThreads(_ handle: UnsafeMutableRawPointer?, _ threads: UInt32) -> Int32 {
  guarded { () throws(AttentionError) in
    let context = try context(handle)
    try ensure(
      threads <= mostThreads, .invalidArgument, "threads is \(threads); expected 0 (the default) to \(mostThreads)")
    context.threads.update { $0 = threads }
  }
}

@_cdecl("mfa_get_num_threads")
public func getNumThreads(_ handle: UnsafeMutableRawPointer?, _ threads: UnsafeMutablePointer<UInt32>?) -> Int32 {
  guarded { () throws(AttentionError) in
    // One host thread feeds the device unless the caller has said otherwise.
    try write(max(context(handle).threads.value, 1), to: threads, "threads")
  }
}

@_cdecl("mfa_get_latency")
public func getLatency(_ handle: UnsafeMutableRawPointer?, _ seconds: UnsafeMutablePointer<Double>?) -> Int32 {
  guarded { () throws(AttentionError) in
    try write(context(handle).attention.latency, to: seconds, "seconds")
  }
}

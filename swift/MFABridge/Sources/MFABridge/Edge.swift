import CMFA
import MetalAttention

#if canImport(ObjectiveC)
  import ObjectiveC
#else
  /// Elsewhere nothing is autoreleased.
  func autoreleasepool<Result>(invoking body: () -> Result) -> Result { body() }
#endif

/// Runs an operation of the contract: its status, with the message kept for the calling thread.
///
/// Metal autoreleases command buffers, which retain what they use, encoders and errors. A thread of C, Rust or Python
/// has no pool that lets them go before it ends.
func guarded(_ operation: () throws(AttentionError) -> Void) -> Int32 {
  autoreleasepool { status(of: operation) }
}

private func status(of operation: () throws(AttentionError) -> Void) -> Int32 {
  do throws(AttentionError) {
    try operation()
    return 0
  } catch {
    let message = Array(error.message.utf8).map { $0 == 0 ? 0x20 : CChar(bitPattern: $0) }
    cmfa_set_message(message, message.count)
    return error.status.rawValue
  }
}

/// Reads a sized struct: what the caller's version lacks is zero; what ours lacks must be zero. NULL is nil.
func sized<Struct: BitwiseCopyable>(
  _ from: UnsafePointer<Struct>?, _ zero: Struct, _ what: String
) throws(AttentionError) -> Struct? {
  guard let from else { return nil }
  let bytes = UnsafeRawPointer(from)
  let known = MemoryLayout<Struct>.size
  // By contract the first field is readable; callers in C may not align.
  let size = Int(bytes.loadUnaligned(as: UInt32.self))
  try ensure(
    1...65536 ~= size && size % MemoryLayout<Struct>.alignment == 0, .invalidArgument,
    "\(what): struct_size is \(size); expected \(known), the size of the struct")
  if size > known {
    let tail = UnsafeRawBufferPointer(start: bytes + known, count: size - known)
    try ensure(
      tail.allSatisfy { $0 == 0 }, .unsupported,
      "\(what): struct_size is \(size) and fields past byte \(known) are used; this library knows \(known) bytes")
  }
  var result = zero
  withUnsafeMutableBytes(of: &result) { $0.copyMemory(from: .init(start: bytes, count: min(size, known))) }
  return result
}

/// Reads a sized struct that must be there.
func sizedRequired<Struct: BitwiseCopyable>(
  _ from: UnsafePointer<Struct>?, _ zero: Struct, _ what: String
) throws(AttentionError) -> Struct {
  if let found = try sized(from, zero, what) { return found }
  throw AttentionError(.invalidArgument, "\(what) is NULL; expected a descriptor")
}

/// Writes through a pointer that must be there.
func write<Value: BitwiseCopyable>(
  _ value: Value, to: UnsafeMutablePointer<Value>?, _ what: String
) throws(AttentionError) {
  guard let to else {
    throw AttentionError(.invalidArgument, "\(what) is NULL; expected where to write the result")
  }
  // Callers in C may not align.
  withUnsafeBytes(of: value) {
    UnsafeMutableRawPointer(to).copyMemory(from: $0.baseAddress ?? .init(to), byteCount: $0.count)
  }
}

/// Copies text to a caller's array as the contract describes: cut to `capacity` with its NUL, its whole length to
/// `length`.
func write(
  _ text: String, to: UnsafeMutablePointer<CChar>?, capacity: Int, length: UnsafeMutablePointer<Int>?, _ what: String
) throws(AttentionError) {
  try ensure(
    to != nil || capacity == 0, .invalidArgument,
    "\(what) is NULL; expected room for \(UInt(bitPattern: capacity)) bytes")
  let bytes = Array(text.utf8)
  // A size_t beyond Int is negative here, and more than any text needs.
  let room = capacity < 0 ? Int.max : capacity
  if let to, room > 0 {
    var cut = min(bytes.count, room - 1)
    // Not inside a UTF-8 sequence.
    while cut < bytes.count, cut > 0, bytes[cut] & 0xC0 == 0x80 { cut -= 1 }
    let target = UnsafeMutableRawPointer(to)
    bytes.withUnsafeBytes { source in
      if let start = source.baseAddress { target.copyMemory(from: start, byteCount: cut) }
    }
    target.storeBytes(of: 0, toByteOffset: cut, as: UInt8.self)
  }
  if let length { try write(bytes.count, to: length, "length") }
}

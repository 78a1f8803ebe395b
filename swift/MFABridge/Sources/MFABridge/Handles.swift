import MetalAttention

/// Objects behind the numbers that callers hold. A handle is looked up, never dereferenced, and never used twice, so
/// that a destroyed handle, a handle of the other kind and any other number are refused.
struct HandleTable<Object: Sendable>: Sendable {
  private let live = Locked<[UInt: Object]>([:])

  func insert(_ object: Object) -> UnsafeMutableRawPointer? {
    let handle = nextHandle.update { next in
      defer { next &+= 16 }
      return next
    }
    live.update { $0[handle] = object }
    return UnsafeMutableRawPointer(bitPattern: handle)
  }

  func find(_ handle: UnsafeRawPointer?) -> Object? {
    live.update { $0[UInt(bitPattern: handle)] }
  }

  func remove(_ handle: UnsafeRawPointer?) -> Object? {
    live.update { $0.removeValue(forKey: UInt(bitPattern: handle)) }
  }

  var all: [Object] { live.update { Array($0.values) } }
}

/// Shared by both tables; the step keeps handles apart from small integers and aligned like pointers.
private let nextHandle = Locked<UInt>(0x1000)

let contexts = HandleTable<BridgeContext>()
let buffers = HandleTable<AttentionBuffer>()

/// A context of the contract: a queue, and what training needs to know of forward calls.
final class BridgeContext: Sendable {
  let attention: AttentionContext
  let records = Locked<[Record]>([])
  /// Accepted and returned; the device chooses its own number.
  let threads = Locked<UInt32>(0)

  init(_ attention: AttentionContext) { self.attention = attention }
}

func context(_ handle: UnsafeRawPointer?) throws(AttentionError) -> BridgeContext {
  if let found = contexts.find(handle) { return found }
  guard let handle else {
    throw AttentionError(.invalidContext, "the context is NULL; expected a handle from mfa_create_context")
  }
  throw AttentionError(
    .invalidContext,
    "0x\(String(UInt(bitPattern: handle), radix: 16)) is not a live context; "
      + "expected a handle from mfa_create_context that was not destroyed")
}

/// The buffer behind a handle; `what` names the argument.
func buffer(_ handle: UnsafeRawPointer?, _ what: String) throws(AttentionError) -> AttentionBuffer {
  try reference(handle).required(what)
}

func reference(_ handle: UnsafeRawPointer?) -> BufferReference {
  guard let handle else { return .absent }
  if let found = buffers.find(handle) { return .present(found) }
  return .unknown(UInt(bitPattern: handle))
}

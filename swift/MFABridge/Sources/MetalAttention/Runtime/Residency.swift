import Foundation
import Metal

/// The memory of one call on the device: Metal buffers as they are, and copies of other memory.
///
/// A copy has exactly the bytes from a tensor's first element to its last. Results are copied back element by element,
/// so that gaps between them, which may be another's, are not written.
final class Residency {
  struct Place {
    let buffer: any MTLBuffer
    /// Bytes to the first element.
    let offset: Int
  }

  private let device: any MTLDevice
  private var results: [(tensor: Tensor, copy: any MTLBuffer)] = []
  private var arrayResults: [(array: ArrayView, copy: any MTLBuffer)] = []
  private var blank: (any MTLBuffer)?

  init(_ device: any MTLDevice) { self.device = device }

  func read(_ tensor: Tensor) throws(AttentionError) -> Place {
    let bytes = tensor.spanBytes
    if bytes == 0 { return Place(buffer: try nothing(), offset: 0) }
    if let metal = tensor.buffer.metal { return Place(buffer: metal, offset: tensor.byteOffset) }
    return Place(buffer: try copy(tensor.buffer, tensor.byteOffset, bytes), offset: 0)
  }

  func write(_ tensor: Tensor) throws(AttentionError) -> Place {
    let bytes = tensor.spanBytes
    if bytes == 0 { return Place(buffer: try nothing(), offset: 0) }
    if let metal = tensor.buffer.metal { return Place(buffer: metal, offset: tensor.byteOffset) }
    let copy = try allocate(bytes)
    results.append((tensor, copy))
    return Place(buffer: copy, offset: 0)
  }

  func read(_ array: ArrayView) throws(AttentionError) -> Place {
    if array.bytes == 0 { return Place(buffer: try nothing(), offset: 0) }
    if let metal = array.buffer.metal { return Place(buffer: metal, offset: array.offset) }
    return Place(buffer: try copy(array.buffer, array.offset, array.bytes), offset: 0)
  }

  /// An array of which any part may be written: the rest keeps what it holds.
  func update(_ array: ArrayView) throws(AttentionError) -> Place {
    let place = try read(array)
    if array.bytes > 0, array.buffer.metal == nil { arrayResults.append((array, place.buffer)) }
    return place
  }

  /// Scratch memory.
  func allocate(_ bytes: Int) throws(AttentionError) -> any MTLBuffer {
    guard bytes >= 0, bytes <= device.maxBufferLength,
      let buffer = device.makeBuffer(length: max(bytes, 16), options: .storageModeShared)
    else { throw AttentionError(.bufferAllocation, "\(bytes) bytes could not be allocated on the device") }
    return buffer
  }

  /// Lists, one after another.
  func upload(_ lists: [CheckedNumbers]) throws(AttentionError) -> any MTLBuffer {
    let buffer = try allocate(saturatedSum(lists.map(\.bytes.count)))
    var offset = 0
    for list in lists {
      if let start = list.bytes.baseAddress {
        (buffer.contents() + offset).copyMemory(from: start, byteCount: list.bytes.count)
      }
      offset += list.bytes.count
    }
    return buffer
  }

  /// The buffer that is bound where there are no elements: zeros.
  func nothing() throws(AttentionError) -> any MTLBuffer {
    if let blank { return blank }
    let new = try allocate(16)
    new.contents().initializeMemory(as: UInt8.self, repeating: 0, count: 16)
    blank = new
    return new
  }

  private func copy(_ buffer: AttentionBuffer, _ offset: Int, _ bytes: Int) throws(AttentionError) -> any MTLBuffer {
    let copy = try allocate(bytes)
    if let contents = buffer.contents { copy.contents().copyMemory(from: contents + offset, byteCount: bytes) }
    return copy
  }

  /// Copies results to the caller's memory; after the device is done.
  func finish() {
    for (tensor, copy) in results { copyElements(of: tensor, from: copy.contents()) }
    for (array, copy) in arrayResults {
      array.buffer.contents?.advanced(by: array.offset).copyMemory(from: copy.contents(), byteCount: array.bytes)
    }
  }

  private func copyElements(of tensor: Tensor, from source: UnsafeMutableRawPointer) {
    guard let contents = tensor.buffer.contents else { return }
    let target = contents + tensor.byteOffset
    let bits = tensor.precision.bits
    let contiguous = tensor.columns == 1 || tensor.strides.w == 1
    let run = contiguous ? tensor.columns : 1
    for b in 0..<tensor.batch {
      for h in 0..<tensor.heads {
        for n in 0..<tensor.rows {
          var c = 0
          while c < tensor.columns {
            let at = (SIMD4(b, h, n, c) &* tensor.strides).wrappedSum() &* bits / 8
            (target + at).copyMemory(from: source + at, byteCount: run * bits / 8)
            c += run
          }
        }
      }
    }
  }
}

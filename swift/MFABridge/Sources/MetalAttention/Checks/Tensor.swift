/// The dimensions of a view, in order.
private let axes = ["batch", "heads", "rows", "columns"]

/// A checked view: all its elements are inside its buffer.
package struct Tensor: Sendable {
  package let buffer: AttentionBuffer
  /// Of element [0, 0, 0, 0].
  package let byteOffset: Int
  package let precision: ElementPrecision
  package var shape: SIMD4<Int>
  /// Elements; 0 along dimensions of one element.
  package var strides: SIMD4<Int>
  package var quantization: Quantization?

  var isEmpty: Bool { shape.list.contains(0) }
  var batch: Int { shape.x }
  var heads: Int { shape.y }
  var rows: Int { shape.z }
  var columns: Int { shape.w }

  /// Bytes from the first element's first to the last element's last; 0 where there are none.
  package var spanBytes: Int {
    if isEmpty { return 0 }
    let last = (shape &- 1) &* strides
    return ((last.wrappedSum() &+ 1) &* precision.bits &+ 7) / 8
  }

  /// Checks a view that must be there, of one of the precisions `allowed`. `what` names it in messages.
  package static func required(
    _ view: TensorDescription, _ what: String, _ allowed: [ElementPrecision]
  ) throws(AttentionError) -> Tensor {
    let buffer = try view.buffer.required(what)
    try ensure(
      view.precision != ElementPrecision.fp64Code, .unsupported,
      "\(what): FP64 is not computed on this device; expected \(allowed.map(\.description).joined(separator: ", ")), "
        + "or the CPU driver"
    )
    guard let precision = ElementPrecision(rawValue: view.precision) else {
      throw AttentionError(
        .invalidArgument,
        "\(what): precision code \(view.precision) is unknown; "
          + "expected 0 (FP32), 1 (FP16), 2 (BF16), 4 (INT4), 8 (INT8), 16 (BOOL) or 64 (FP64)")
    }
    try ensure(
      allowed.contains(precision), .invalidArgument,
      "\(what): precision is \(precision); expected \(allowed.map(\.description).joined(separator: ", "))")
    try ensure(view.reserved == 0, .invalidArgument, "\(what): reserved is \(view.reserved); expected 0")
    let (shape, strides) = try extent(view, precision, buffer, what)
    var quantization: Quantization?
    if let named = try view.quantization.get() {
      try ensure(
        precision.isQuantized, .invalidArgument,
        "\(what): a quantization was given for \(precision); expected NULL unless INT8 or INT4")
      quantization = try Quantization.check(named, what, precision, shape, strides)
    } else {
      try ensure(
        !precision.isQuantized, .invalidArgument, "\(what): \(precision) without quantization; expected scales")
    }
    // An empty view may have any offset: it is never read.
    let offset = Int(exactly: view.byteOffset) ?? 0
    return Tensor(
      buffer: buffer, byteOffset: offset, precision: precision, shape: shape, strides: strides,
      quantization: quantization)
  }

  /// A view of a checked array.
  init(over array: ArrayView, _ precision: ElementPrecision, shape: SIMD4<Int>, strides: SIMD4<Int>) {
    (buffer, byteOffset, self.precision, self.shape, self.strides) = (
      array.buffer, array.offset, precision, shape, strides
    )
  }

  private init(
    buffer: AttentionBuffer, byteOffset: Int, precision: ElementPrecision, shape: SIMD4<Int>, strides: SIMD4<Int>,
    quantization: Quantization?
  ) {
    (self.buffer, self.byteOffset, self.precision) = (buffer, byteOffset, precision)
    (self.shape, self.strides, self.quantization) = (shape, strides, quantization)
  }

  /// Checks a view that may be absent.
  package static func optional(
    _ view: TensorDescription, _ what: String, _ allowed: [ElementPrecision]
  ) throws(AttentionError) -> Tensor? {
    if view.buffer.isAbsent { return nil }
    return try required(view, what, allowed)
  }

  func expect(_ what: String, shape expected: SIMD4<Int>) throws(AttentionError) {
    try ensure(
      shape == expected, .invalidDimensions, "\(what): shape is \(shape.list); expected \(expected.list)")
  }

  /// Demands that no two elements share memory, as a tensor that is written must.
  func expectWritable(_ what: String) throws(AttentionError) {
    try ensure(
      isEmpty || areApart(shape, strides, repeats: false), .invalidDimensions,
      "\(what): strides \(strides.list) let elements of shape \(shape.list) overlap; "
        + "expected distinct elements in an output"
    )
  }

  /// The same tensor with each dimension of size 1 stretched to `target` by a stride of 0.
  func broadcast(_ what: String, _ target: SIMD4<Int>) throws(AttentionError) -> Tensor {
    var result = self
    for axis in 0..<4 {
      if result.shape[axis] == 1 {
        result.strides[axis] = 0
        result.shape[axis] = target[axis]
      }
      try ensure(
        result.shape[axis] == target[axis], .invalidDimensions,
        "\(what): \(axes[axis]) is \(result.shape[axis]); expected \(target[axis]) or 1 to broadcast to \(target.list)")
    }
    return result
  }
}

/// Tests that elements are apart, for strides that nest: each steps over all that the smaller ones reach. `repeats`:
/// strides of 0 may name the same element again.
func areApart(_ shape: SIMD4<Int>, _ strides: SIMD4<Int>, repeats: Bool = true) -> Bool {
  var span = 1
  for (stride, size) in zip(strides.list, shape.list).filter({ $0.1 > 1 }).sorted(by: { $0 < $1 })
  where !(repeats && stride == 0) {
    if stride < span { return false }
    span = span &+ stride &* (size &- 1)
  }
  return true
}

/// Checks shape, strides and offset against the buffer.
private func extent(
  _ view: TensorDescription, _ precision: ElementPrecision, _ buffer: AttentionBuffer, _ what: String
) throws(AttentionError) -> (shape: SIMD4<Int>, strides: SIMD4<Int>) {
  var (last, count): (UInt64, UInt64) = (0, 1)
  for axis in 0..<4 {
    let (size, stride) = (view.shape[axis], view.strides[axis])
    try ensure(
      stride >= 0, .invalidDimensions, "\(what): the stride of \(axes[axis]) is \(stride); expected 0 or more")
    try ensure(
      size <= 1 << 48, .invalidDimensions, "\(what): \(axes[axis]) is \(size); expected at most 2^48")
    last = saturatedSum(last, saturatedProduct(size == 0 ? 0 : size - 1, stride.magnitude))
    count = saturatedProduct(count, size)
  }
  let size = UInt64(precision.bytes)
  try ensure(
    view.byteOffset % size == 0, .invalidArgument,
    "\(what): byte_offset is \(view.byteOffset); expected a multiple of \(size) for \(precision)")
  let address = buffer.address
  try ensure(
    UInt64(address) % size == 0, .invalidArgument,
    "\(what): the buffer starts at \(pointerText(address)); expected an address aligned to \(size) for \(precision)")
  if precision == .int4 { try expectPairs(view, what) }
  try ensure(
    count <= UInt64(Int.max) && last <= UInt64(Int.max), .invalidDimensions,
    "\(what): shape \(view.shape.list) with strides \(view.strides.list) has more elements than can be addressed")
  if count > 0 {
    let bits = saturatedProduct(saturatedSum(last, 1), UInt64(precision.bits))
    let end = saturatedSum(bits / 8 + (bits % 8 == 0 ? 0 : 1), view.byteOffset)
    try ensure(
      bits < .max && end <= UInt64(buffer.size), .invalidArgument,
      "\(what): shape \(view.shape.list) with strides \(view.strides.list) at byte \(view.byteOffset) in \(precision) "
        + "needs \(end) bytes; the buffer has \(buffer.size)")
  }
  var (shape, strides) = (SIMD4<Int>(), SIMD4<Int>())
  for axis in 0..<4 {
    shape[axis] = Int(view.shape[axis])
    // A stride that is never taken may be absurd: it must not overflow later.
    strides[axis] = view.shape[axis] > 1 ? Int(view.strides[axis]) : 0
  }
  return (shape, strides)
}

/// Demands that the two INT4 elements of a byte are neighbours in a row.
private func expectPairs(_ view: TensorDescription, _ what: String) throws(AttentionError) {
  try ensure(
    view.shape.w % 2 == 0, .invalidDimensions, "\(what): \(view.shape.w) columns of INT4; expected an even number")
  try ensure(
    view.shape.w <= 1 || view.strides.w == 1, .invalidDimensions,
    "\(what): the column stride of INT4 is \(view.strides.w); expected 1 (two elements share a byte)")
  for axis in 0..<3 {
    try ensure(
      view.shape[axis] <= 1 || view.strides[axis] % 2 == 0, .invalidDimensions,
      "\(what): the stride of \(axes[axis]) is \(view.strides[axis]) elements of INT4; expected an even number")
  }
}

/// A contiguous array inside a buffer.
package struct ArrayView: Sendable {
  package let buffer: AttentionBuffer
  package let offset: Int
  package let bytes: Int

  /// `bytes` from `offset`, at a multiple of `alignment`.
  static func check(
    _ reference: BufferReference, offset: UInt64, bytes: UInt64, alignment: Int, _ what: String
  ) throws(AttentionError) -> ArrayView {
    let buffer = try reference.required(what)
    try ensure(
      saturatedSum(offset, bytes) <= UInt64(buffer.size), .invalidArgument,
      "\(what): \(bytes) bytes at byte \(offset) are needed; the buffer has \(buffer.size)")
    let start = buffer.address &+ UInt(offset)
    try ensure(
      start % UInt(alignment) == 0, .invalidArgument,
      "\(what): starts at \(pointerText(start)); expected an address that is a multiple of \(alignment)")
    return ArrayView(buffer: buffer, offset: Int(offset), bytes: Int(bytes))
  }

  /// Demands that the host can read the array, which it must before the device runs.
  func expectVisible(_ what: String) throws(AttentionError) {
    try ensure(
      bytes == 0 || buffer.isVisible, .unsupported,
      "\(what): the buffer is private to the device; expected shared storage, since the host reads it")
  }

  /// The host's view of element `index`; nil outside of the array.
  func load<Element: BitwiseCopyable>(_ index: Int, as type: Element.Type) -> Element? {
    let size = MemoryLayout<Element>.size
    guard let contents = buffer.contents, index >= 0, index < bytes / size else { return nil }
    return contents.loadUnaligned(fromByteOffset: offset + index * size, as: type)
  }
}

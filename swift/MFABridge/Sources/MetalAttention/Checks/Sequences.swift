import Foundation

/// Numbers of the caller's that were checked: a copy, so that what the device reads is what was checked.
final class CheckedNumbers: @unchecked Sendable {  // filled before it is shared
  private let numbers: UnsafeMutablePointer<Int32>
  let capacity: Int
  private(set) var count = 0

  /// Room for `capacity` numbers; refused where an absurd count does not fit memory.
  init(capacity: Int) throws(AttentionError) {
    guard let memory = malloc(max(saturatedProduct([capacity, 4]), 4)) else {
      throw AttentionError(.bufferAllocation, "no memory for \(capacity) sequences")
    }
    numbers = memory.bindMemory(to: Int32.self, capacity: max(capacity, 1))
    self.capacity = capacity
  }

  deinit { free(numbers) }

  func append(_ number: Int) {
    guard count < capacity else { return }
    numbers[count] = Int32(clamping: number)
    count += 1
  }

  subscript(index: Int) -> Int { Int(numbers[index]) }
  var bytes: UnsafeRawBufferPointer { .init(start: numbers, count: 4 * count) }
}

/// The sequences: one per batch element, or packed along the rows. Those that are alike take no memory, however many
/// there are.
package struct Sequences: Sendable {
  /// Those that the caller named.
  package let named: Int
  /// With packed rows after the last one, which are one more, without keys.
  package private(set) var count: Int
  package let bottomRight: Bool
  /// The bounds of packed sequences: one more than there are sequences.
  private(set) var bounds: (q: CheckedNumbers, k: CheckedNumbers)?
  /// Keys of each, where they are not as many as are stored.
  private(set) var keyLengths: CheckedNumbers?
  /// Of the named ones: the shape of a mask.
  package private(set) var longestQ = 0, longestK = 0
  /// Of all, with keys that are stored and belong to none.
  package private(set) var mostQ = 0, mostK = 0

  package var isPacked: Bool { bounds != nil }
  /// Bytes of the lists.
  var bytes: Int {
    saturatedSum([bounds?.q.bytes.count ?? 0, bounds?.k.bytes.count ?? 0, keyLengths?.bytes.count ?? 0])
  }

  static func check(_ view: OptionsDescription?, _ q: Tensor, _ k: Tensor) throws(AttentionError) -> Sequences {
    guard let view else { return Sequences(batch: q.batch, q: q.rows, k: k.rows, bottomRight: false) }
    let bottomRight = view.alignment == 1
    if view.sequenceCount == 0 {
      try ensure(
        view.cuSeqlensQ.isAbsent && view.cuSeqlensK.isAbsent, .invalidArgument,
        "options: cu_seqlens without sequence_count; expected both or neither")
      var result = Sequences(batch: q.batch, q: q.rows, k: k.rows, bottomRight: bottomRight)
      result.keyLengths = try lengths(view, q.batch, room: q.batch) { _ in k.rows }
      return result
    }
    try ensure(
      q.batch == 1, .invalidDimensions,
      "query: batch is \(q.batch); expected 1 with varlen (sequences lie along rows)")
    return try Sequences(packed: view, q.rows, k.rows, bottomRight)
  }

  private init(batch: Int, q: Int, k: Int, bottomRight: Bool) {
    (named, count, self.bottomRight) = (batch, batch, bottomRight)
    (longestQ, longestK, mostQ, mostK) = (q, k, q, k)
  }

  private init(packed view: OptionsDescription, _ q: Int, _ k: Int, _ bottomRight: Bool) throws(AttentionError) {
    let n = Int(view.sequenceCount)
    (named, count, self.bottomRight) = (n, n, bottomRight)
    let boundsQ = try Self.bounds(view.cuSeqlensQ, view.cuSeqlensQOffset, n, q, "cu_seqlens_q")
    let boundsK = try Self.bounds(view.cuSeqlensK, view.cuSeqlensKOffset, n, k, "cu_seqlens_k")
    var lengths = try Self.lengths(view, n, room: n + 1) { boundsK[$0 + 1] - boundsK[$0] }
    for index in 0..<n {
      longestQ = max(longestQ, boundsQ[index + 1] - boundsQ[index])
      longestK = max(longestK, boundsK[index + 1] - boundsK[index])
    }
    (mostQ, mostK) = (max(longestQ, q - boundsQ[n]), max(longestK, k - boundsK[n]))
    if boundsQ[n] < q || boundsK[n] < k {
      if lengths == nil {
        let all = try CheckedNumbers(capacity: n + 1)
        for index in 0..<n { all.append(boundsK[index + 1] - boundsK[index]) }
        lengths = all
      }
      lengths?.append(0)
      boundsQ.append(q)
      boundsK.append(k)
      count = n + 1
    }
    (bounds, keyLengths) = ((boundsQ, boundsK), lengths)
  }

  private static func bounds(
    _ buffer: BufferReference, _ offset: UInt64, _ count: Int, _ rows: Int, _ what: String
  ) throws(AttentionError) -> CheckedNumbers {
    let array = try ArrayView.check(buffer, offset: offset, bytes: 4 * (UInt64(count) + 1), alignment: 4, what)
    try array.expectVisible(what)
    // Rows after the last sequence need one more.
    let values = try CheckedNumbers(capacity: count + 2)
    var last = 0
    for index in 0...count {
      let value = Int(array.load(index, as: Int32.self) ?? -1)
      try ensure(index > 0 || value == 0, .invalidArgument, "\(what): begins with \(value); expected 0")
      try ensure(value >= last, .invalidArgument, "\(what): falls from \(last) to \(value); expected never to fall")
      values.append(value)
      last = value
    }
    try ensure(last <= rows, .invalidArgument, "\(what): ends with \(last); expected at most \(rows), the rows")
    // Kernels count rows in 32 bits.
    _ = try kernelSize(rows, "rows")
    return values
  }

  /// The keys of each of `count` sequences, if they are given: at most as many as are `stored`.
  private static func lengths(
    _ view: OptionsDescription, _ count: Int, room: Int, stored: (Int) -> Int
  ) throws(AttentionError) -> CheckedNumbers? {
    if view.seqlensK.isAbsent {
      try ensure(
        view.seqlensKOffset == 0, .invalidArgument,
        "seqlens_k: an offset of \(view.seqlensKOffset) without a buffer; expected both or neither")
      return nil
    }
    let array = try ArrayView.check(
      view.seqlensK, offset: view.seqlensKOffset, bytes: saturatedProduct(4, UInt64(count)), alignment: 4, "seqlens_k")
    try array.expectVisible("seqlens_k")
    let values = try CheckedNumbers(capacity: room)
    for index in 0..<count {
      let (length, most) = (Int(array.load(index, as: Int32.self) ?? -1), stored(index))
      try ensure(
        0...most ~= length, .invalidArgument,
        "seqlens_k: sequence \(index) has \(length); expected 0 to \(most), its rows of key")
      values.append(length)
    }
    return values
  }
}

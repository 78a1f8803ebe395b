// Whether two views have an element in common.

/// A view with its name in messages; nil: absent.
typealias NamedTensor = (tensor: Tensor?, name: String)

/// Demands that none of `results` shares an element with another one, or with any of `operands`.
func expectApart(_ results: [NamedTensor], from operands: [NamedTensor]) throws(AttentionError) {
  for (index, (result, what)) in results.enumerated() {
    guard let result else { continue }
    for (other, name) in results.dropFirst(index + 1) + operands {
      guard let other else { continue }
      try ensure(
        !shareElements(result, other), .invalidArgument,
        "\(what): shares elements with \(name); expected memory of its own")
    }
  }
}

/// Steps of the search, at most: views that occur need a few, and undecided ones are the caller's promise.
private let mostSteps = 10_000

/// One term of the distance between two elements: any of `low...high` times `stride`.
private struct Term {
  let stride: Int
  let low: Int
  let high: Int
}

/// Tests whether `a` and `b` have an element in common. Exact for views that nest their dimensions, as Q, K and V of
/// one packed buffer do: there the bytes between first and last element overlap, and the elements do not.
func shareElements(_ a: Tensor, _ b: Tensor) -> Bool {
  // Addresses of the device and of the host are not comparable, and no memory has both.
  if a.buffer.isVisible != b.buffer.isVisible { return false }
  let (bytesA, bytesB) = (addresses(a), addresses(b))
  guard let bytesA, let bytesB, bytesA.overlaps(bytesB) else { return false }
  if a.precision.bits != b.precision.bits { return true }
  let size = a.precision.bytes
  let distance = Int(bitPattern: bytesB.lowerBound &- bytesA.lowerBound)
  if distance % size != 0 { return true }
  var terms: [Term] = []
  for axis in 0..<4 {
    let (na, nb) = (a.shape[axis] &- 1, b.shape[axis] &- 1)
    let (sa, sb) = (a.strides[axis], b.strides[axis])
    let ranges =
      sa == sb
      ? [Term(stride: sa, low: -nb, high: na)]
      : [Term(stride: sa, low: 0, high: na), Term(stride: sb, low: -nb, high: 0)]
    terms += ranges.filter { $0.stride != 0 && $0.low != $0.high }
  }
  terms.sort { $0.stride > $1.stride }
  var steps = mostSteps
  return reaches(terms[...], distance / size, &steps)
}

/// The bytes between the first element and the last; nil where there are none.
private func addresses(_ tensor: Tensor) -> Range<UInt>? {
  let bytes = tensor.spanBytes
  if bytes == 0 || tensor.buffer.isImagined { return nil }
  let start = tensor.buffer.address &+ UInt(bitPattern: tensor.byteOffset)
  let end = start &+ UInt(bitPattern: bytes)
  return start < end ? start..<end : nil
}

/// Whether some choice of the terms adds up to `distance`.
private func reaches(_ terms: ArraySlice<Term>, _ distance: Int, _ steps: inout Int) -> Bool {
  guard let term = terms.first else { return distance == 0 }
  let rest = terms.dropFirst()
  let least = rest.reduce(0) { $0 &+ $1.low &* $1.stride }
  let most = rest.reduce(0) { $0 &+ $1.high &* $1.stride }
  let from = max(floorQuotient(distance &- most &+ term.stride &- 1, term.stride), term.low)
  let to = min(floorQuotient(distance &- least, term.stride), term.high)
  var n = from
  while n <= to {
    if steps == 0 { return false }
    steps -= 1
    if reaches(rest, distance &- n &* term.stride, &steps) { return true }
    n &+= 1
  }
  return false
}

private func floorQuotient(_ a: Int, _ b: Int) -> Int {
  let quotient = a / b
  return a % b < 0 ? quotient - 1 : quotient
}

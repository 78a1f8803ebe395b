// Integers that come from callers: products and sums that stop at the end of their type instead of trapping.

func saturatedProduct(_ a: UInt64, _ b: UInt64) -> UInt64 {
  let (product, overflow) = a.multipliedReportingOverflow(by: b)
  return overflow ? .max : product
}

func saturatedSum(_ a: UInt64, _ b: UInt64) -> UInt64 {
  let (sum, overflow) = a.addingReportingOverflow(b)
  return overflow ? .max : sum
}

/// Of bytes.
func saturatedSum(_ sizes: [Int]) -> Int {
  sizes.reduce(0) { sum, size in
    let (next, overflow) = sum.addingReportingOverflow(size)
    return overflow ? .max : next
  }
}

/// Of sizes that are not negative; the largest Int is one that nothing satisfies.
func saturatedProduct(_ sizes: [Int]) -> Int { Int(clamping: sizes.reduce(1) { saturatedProduct($0, UInt64($1)) }) }

/// `a / b`, rounded up; `b` is positive.
func ceilingQuotient(_ a: Int, _ b: Int) -> Int { a / b + (a % b == 0 ? 0 : 1) }

extension SIMD4 where Scalar: Comparable {
  var list: [Scalar] { [x, y, z, w] }
}

/// A number as in messages: the shortest decimal that reads back, without an exponent.
package func text(_ number: Float) -> String {
  if number.isNaN { return "NaN" }
  if number.isInfinite { return number < 0 ? "-inf" : "inf" }
  let shortest = number.magnitude.description
  let sign = number.sign == .minus ? "-" : ""
  let parts = shortest.split(separator: "e", maxSplits: 1)
  guard let significand = parts.first else { return shortest }
  var digits = significand.split(separator: ".", maxSplits: 1).map(String.init)
  if digits.count < 2 { digits.append("") }
  if digits[1] == "0" { digits[1] = "" }
  let exponent = parts.count > 1 ? Int(parts[1]) ?? 0 : 0
  let whole = digits[0] + digits[1]
  let point = digits[0].count + exponent
  if point <= 0 { return sign + "0." + String(repeating: "0", count: -point) + whole }
  if point >= whole.count { return sign + whole + String(repeating: "0", count: point - whole.count) }
  return sign + whole.prefix(point) + "." + whole.dropFirst(point)
}

/// A bit set as in messages.
func hex(_ bits: UInt32) -> String { "0x" + String(bits, radix: 16) }

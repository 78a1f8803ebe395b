import Metal
import XCTest

@testable import AttentionKernels

/// A small generator with a fixed sequence.
struct Generator: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
  mutating func normal() -> Double {
    let u = Double.random(in: 1e-12...1, using: &self), v = Double.random(in: 0...1, using: &self)
    let radius: Double = (-2 * Foundation.log(u)).squareRoot()
    return radius * Foundation.cos(2 * Double.pi * v)
  }
}

func raw<T>(_ values: [T]) -> [UInt8] { values.withUnsafeBytes { Array($0) } }
func bfloatBits(_ x: Float) -> UInt16 {
  let even: UInt32 = (x.bitPattern >> 16) & 1
  let rounded: UInt32 = x.bitPattern &+ 0x7fff &+ even
  return x.isNaN ? 0x7fc0 : UInt16(truncatingIfNeeded: rounded >> 16)
}
func bfloatValue(_ bits: UInt16) -> Float { Float(bitPattern: UInt32(bits) << 16) }

/// A tensor [batch, heads, rows, columns] as a driver finds it: stored bytes among poison, and its real values in
/// float64.
struct TestTensor {
  typealias Operand = AttentionKernelDescriptor.Operand
  let shape: [Int]
  let operand: Operand
  var view = TensorView(), scaleView = TensorView(), zeroPointView = TensorView(), meanView = TensorView()
  var bytes: [UInt8] = [], scales: [UInt8] = [], zeroPoints: [UInt8] = [], means: [Float] = []
  /// Of granularity `.tensor`.
  var scale: Float = 1, zeroPoint: Int32 = 0
  var blockRows = 1
  /// [batch][head][row][column], flat.
  var real: [Double] = []
  /// As stored, of quantized tensors.
  var integers: [Double] = []

  subscript(b: Int, h: Int, n: Int, d: Int) -> Double { real[index(b, h, n, d)] }
  func index(_ b: Int, _ h: Int, _ n: Int, _ d: Int) -> Int { ((b * shape[1] + h) * shape[2] + n) * shape[3] + d }

  init(_ shape: [Int], _ operand: Operand, blockRows: Int = 8, spread: Double = 1, using g: inout Generator) {
    (self.shape, self.operand) = (shape, operand)
    let count = shape.reduce(1, *)
    view = Self.view(shape, operand)
    var stored = [Double](repeating: 0, count: count)
    if let layout = operand.quantization {
      stored = quantized(layout, blockRows, &g)
    } else {
      for i in 0..<count { stored[i] = g.normal() * spread }
    }
    write(stored)
  }

  /// Strides that keep an access's promise and no other.
  static func view(_ shape: [Int], _ operand: Operand) -> TensorView {
    let (b, h, n, d) = (Int64(shape[0]), Int64(shape[1]), Int64(shape[2]), Int64(shape[3]))
    _ = b
    switch operand.access {
    case .vector:
      let row = (d + 3) / 4 * 4 + 4
      return TensorView(offset: 8, batch: h * n * row + 4, head: n * row, row: row, column: 1)
    case .transposed:
      return TensorView(offset: 3, batch: h * d * (n + 1) + 5, head: d * (n + 1), row: 1, column: n + 1)
    case .strided where operand.precision == .INT4:
      let row = (d + 1) / 2 * 2 + 2
      return TensorView(offset: 2, batch: h * n * row + 2, head: n * row, row: row, column: 1)
    case .strided:
      let row = 2 * d + 1
      return TensorView(offset: 3, batch: h * n * row + 1, head: n * row, row: row, column: 2)
    }
  }

  func place(_ b: Int, _ h: Int, _ n: Int, _ d: Int) -> Int {
    let outer: Int = Int(view.offset) + b * Int(view.batch) + h * Int(view.head)
    return outer + n * Int(view.row) + d * Int(view.column)
  }

  /// One past the last element's place.
  var extent: Int {
    shape.contains(0) ? Int(view.offset) : place(shape[0] - 1, shape[1] - 1, shape[2] - 1, shape[3] - 1) + 1
  }

  private func forEach(_ body: (_ i: Int, _ b: Int, _ h: Int, _ n: Int, _ d: Int) -> Void) {
    for b in 0..<shape[0] {
      for h in 0..<shape[1] { for n in 0..<shape[2] { for d in 0..<shape[3] { body(index(b, h, n, d), b, h, n, d) } } }
    }
  }

  /// Stores elements (for integers: the integers) exactly, and `real` unless it is set.
  mutating func write(_ stored: [Double]) {
    let extent = (self.extent + 1) / 2 * 2
    var values = [Double](repeating: 0, count: stored.count)
    switch operand.precision {
    case .FP32:
      var memory = [Float](repeating: .nan, count: extent)
      forEach { i, b, h, n, d in
        memory[place(b, h, n, d)] = Float(stored[i])
        values[i] = Double(Float(stored[i]))
      }
      bytes = raw(memory)
    case .FP16:
      var memory = [Float16](repeating: .nan, count: extent)
      forEach { i, b, h, n, d in
        memory[place(b, h, n, d)] = Float16(stored[i])
        values[i] = Double(Float16(stored[i]))
      }
      bytes = raw(memory)
    case .BF16:
      var memory = [UInt16](repeating: 0x7fc0, count: extent)
      forEach { i, b, h, n, d in
        memory[place(b, h, n, d)] = bfloatBits(Float(stored[i]))
        values[i] = Double(bfloatValue(memory[place(b, h, n, d)]))
      }
      bytes = raw(memory)
    case .INT8:
      var memory = [Int8](repeating: 111, count: extent)
      forEach { i, b, h, n, d in memory[place(b, h, n, d)] = Int8(stored[i]) }
      bytes = raw(memory)
    case .INT4:
      var memory = [UInt8](repeating: 0x77, count: (extent + 1) / 2)
      forEach { i, b, h, n, d in
        let at = place(b, h, n, d), nibble = UInt8(bitPattern: Int8(stored[i])) & 15
        if at % 2 == 0 {
          memory[at / 2] = (memory[at / 2] & 0xf0) | nibble
        } else {
          memory[at / 2] = (memory[at / 2] & 0x0f) | (nibble << 4)
        }
      }
      bytes = memory
    }
    if operand.quantization == nil { real = values }
  }

  /// Random integers, scales, zero points and means, and the real values that they stand for.
  private mutating func quantized(_ layout: QuantizationLayout, _ rows: Int, _ g: inout Generator) -> [Double] {
    let top = operand.precision == .INT4 ? 7 : 127, step = 2.0 / Double(top)
    let (batches, heads, n, d) = (shape[0], shape[1], shape[2], shape[3])
    var (rowGroups, columnGroups, group) = (1, 1, d)
    switch layout.granularity {
    case .tensor, .tensorInBuffer: break
    case .row: rowGroups = n
    case .rowGroups(let size): (rowGroups, columnGroups, group) = (n, (d + size - 1) / size, size)
    case .block: (blockRows, rowGroups) = (rows, (n + rows - 1) / rows)
    case .channel: (blockRows, rowGroups, columnGroups, group) = (rows, (n + rows - 1) / rows, d, 1)
    }
    let isOne = layout.granularity == .tensor || layout.granularity == .tensorInBuffer
    let groups = isOne ? 1 : batches * heads * rowGroups * columnGroups
    let isHalf = layout.scaleStorage == .FP16 && layout.hasScaleArray
    let isSymmetric = layout.granularity == .tensor ? layout.isSymmetric : layout.zeroPoints == .none
    var scale: [Double] = [], zeros: [Int] = []
    for _ in 0..<groups {
      let x = step * Double.random(in: 0.5...1.5, using: &g)
      scale.append(isHalf ? Double(Float16(x)) : Double(Float(x)))
      zeros.append(isSymmetric ? 0 : Int.random(in: -(top / 3)...(top / 3), using: &g))
    }
    (self.scale, zeroPoint) = (Float(scale[0]), Int32(zeros[0]))
    scaleView = TensorView(
      offset: 1, batch: Int64(heads * rowGroups * columnGroups), head: Int64(rowGroups * columnGroups),
      row: Int64(columnGroups), column: 1)
    zeroPointView = scaleView
    zeroPointView.offset = 3
    if layout.scaleStorage == .FP16 {
      var half: [Float16] = [.nan]
      for x in scale { half.append(Float16(x)) }
      scales = raw(half)
    } else {
      var single: [Float] = [.nan]
      for x in scale { single.append(Float(x)) }
      scales = raw(single)
    }
    if layout.zeroPoints == .int8 {
      var small: [Int8] = [9, 9, 9]
      for x in zeros { small.append(Int8(x)) }
      zeroPoints = raw(small)
    } else {
      var wide: [Int32] = [9, 9, 9]
      for x in zeros { wide.append(Int32(x)) }
      zeroPoints = raw(wide)
    }
    means = [.nan, .nan]
    for _ in 0..<batches * heads * d { means.append(Float(g.normal() * 0.3)) }
    meanView = TensorView(offset: 2, batch: Int64(heads * d), head: Int64(d), row: 0, column: 1)

    let low = isSymmetric ? -top : -top - 1
    var integers: [Double] = []
    for _ in 0..<shape.reduce(1, *) { integers.append(Double(Int.random(in: low...top, using: &g))) }
    real = [Double](repeating: 0, count: integers.count)
    var values = real
    forEach { i, b, h, n, d in
      let rowGroup: Int = rowGroups == shape[2] ? n : n / blockRows
      let line: Int = (b * heads + h) * rowGroups + rowGroup
      let at: Int = isOne ? 0 : line * columnGroups + d / group
      values[i] = scale[at] * (integers[i] - Double(zeros[at]))
    }
    if layout.isRotated {
      for row in stride(from: 0, to: values.count, by: d) { Self.rotate(&values[row..<row + d]) }
    }
    if layout.hasMean {
      forEach { i, b, h, _, d in
        let at: Int = (b * heads + h) * shape[3] + d
        values[i] += Double(means[2 + at])
      }
    }
    real = values
    self.integers = integers
    return integers
  }

  /// Multiplies a row by the Hadamard matrix.
  static func rotate(_ row: inout ArraySlice<Double>) {
    let size = row.count & -row.count
    for first in stride(from: row.startIndex, to: row.endIndex, by: size) {
      let x = Array(row[first..<first + size])
      for i in 0..<size {
        var sum = 0.0
        for j in 0..<size {
          if (i & j).nonzeroBitCount % 2 == 0 { sum += x[j] } else { sum -= x[j] }
        }
        row[first + i] = sum / Double(size).squareRoot()
      }
    }
  }
}

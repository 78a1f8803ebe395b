import Metal
import XCTest

@testable import AttentionKernels

/// One attention problem: tensors, options, the kernel's descriptor and arguments, and the plain formula in float64.
struct TestProblem {
  struct Shape { var batches = 1, heads = 2, keyHeads = 2, queryRows = 37, keyRows = 45 }
  var descriptor: AttentionKernelDescriptor
  var arguments = AttentionArguments()
  var q, k, v: TestTensor
  var o, l: TestTensor
  /// [batch, head, row, key] flat; −∞ masks.
  var mask: [Double] = []
  var maskBytes: [UInt8] = [], slopes: [Float] = [], sinks: [Float] = []
  var lengths: [(q: Int, k: Int)] = []
  let shape: Shape

  init(
    _ descriptor: AttentionKernelDescriptor, _ shape: Shape = Shape(), lengths: [(q: Int, k: Int)] = [],
    seed: UInt64 = 1, blockRows: Int = 8
  ) {
    var g = Generator(state: seed)
    (self.descriptor, self.shape, self.lengths) = (descriptor, shape, lengths)
    let batches = lengths.isEmpty ? shape.batches : 1
    let queryRows = lengths.isEmpty ? shape.queryRows : lengths.reduce(0) { $0 + $1.q }
    let keyRows = lengths.isEmpty ? shape.keyRows : lengths.reduce(0) { $0 + $1.k }
    let (d, dv) = (descriptor.headDimension, descriptor.valueDimension)
    q = TestTensor([batches, shape.heads, queryRows, d], descriptor.query, blockRows: blockRows, using: &g)
    k = TestTensor([batches, shape.keyHeads, keyRows, d], descriptor.key, blockRows: blockRows, using: &g)
    v = TestTensor([batches, shape.keyHeads, keyRows, dv], descriptor.value, blockRows: blockRows, using: &g)
    o = TestTensor([batches, shape.heads, queryRows, dv], descriptor.output, using: &g)
    l = TestTensor([batches, shape.heads, queryRows, 1], .init(.FP32, access: .strided), using: &g)
    arguments.batches = UInt32(lengths.isEmpty ? batches : lengths.count)
    arguments.heads = UInt32(shape.heads)
    arguments.headsPerKeyHead = UInt32(shape.heads / shape.keyHeads)
    arguments.queryRows = UInt32(lengths.map(\.q).max() ?? queryRows)
    arguments.keyRows = UInt32(lengths.map(\.k).max() ?? keyRows)
    arguments.softmaxScale = 1 / Float(d).squareRoot()
    arguments.softcap = 2
    (arguments.Q, arguments.K, arguments.V, arguments.O, arguments.L) = (q.view, k.view, v.view, o.view, l.view)
    (arguments.queryScales, arguments.keyScales, arguments.valueScales) = (q.scaleView, k.scaleView, v.scaleView)
    (arguments.queryZeroPoints, arguments.keyZeroPoints, arguments.valueZeroPoints) = (
      q.zeroPointView, k.zeroPointView, v.zeroPointView
    )
    (arguments.queryMean, arguments.keyMean, arguments.valueMean) = (q.meanView, k.meanView, v.meanView)
    (arguments.queryBlockRows, arguments.keyBlockRows, arguments.valueBlockRows) = (
      UInt32(q.blockRows), UInt32(k.blockRows), UInt32(v.blockRows)
    )
    (arguments.cumulativeQueryOffset, arguments.cumulativeKeyOffset) = (1, 2)

    let (maskRows, maskKeys) = (Int(arguments.queryRows), Int(arguments.keyRows))
    let masks = Int(arguments.batches) * shape.heads * maskRows * maskKeys
    arguments.mask = TensorView(
      offset: 5, batch: Int64(shape.heads * maskRows * maskKeys), head: Int64(maskRows * maskKeys),
      row: Int64(maskKeys), column: 1)
    if descriptor.mask != .none {
      var boolean = [UInt8](repeating: 7, count: 5), single = [Float](repeating: .nan, count: 5)
      var half = [Float16](repeating: .nan, count: 5), brain = [UInt16](repeating: 0x7fc0, count: 5)
      for i in 0..<masks {
        let masked = Int.random(in: 0..<4, using: &g) == 0 || (i / maskKeys) % maskRows == 3
        // Values that every precision holds.
        let value: Float =
          masked ? -.infinity : descriptor.mask == .BOOL ? 0 : Float(Int.random(in: -64...64, using: &g)) / 32
        mask.append(Double(value))
        boolean.append(masked ? 0 : UInt8.random(in: 1...255, using: &g))
        single.append(value)
        half.append(Float16(value))
        brain.append(bfloatBits(value))
      }
      switch descriptor.mask {
      case .none: break
      case .BOOL: maskBytes = boolean
      case .FP32: maskBytes = raw(single)
      case .FP16: maskBytes = raw(half)
      case .BF16: maskBytes = raw(brain)
      }
    }
    slopes = [.nan]
    for _ in 0..<Int(arguments.batches) * shape.heads { slopes.append(Float.random(in: 0.01...0.2, using: &g)) }
    arguments.slopes = TensorView(offset: 1, batch: Int64(shape.heads), head: 1)
    sinks = [.nan, .nan]
    for _ in 0..<shape.heads { sinks.append(Float(g.normal())) }
    arguments.sinks = TensorView(offset: 2, head: 1)
  }

  // MARK: The plain formula

  struct Expected { var o: [Double], l: [Double] }

  func reference() -> Expected {
    var expected = Expected(
      o: .init(repeating: .nan, count: o.real.count), l: .init(repeating: .nan, count: l.real.count))
    let all = lengths.isEmpty ? (0..<shape.batches).map { _ in (q: shape.queryRows, k: shape.keyRows) } : lengths
    var (firstQ, firstK) = (0, 0)
    for (z, length) in all.enumerated() {
      let b = lengths.isEmpty ? z : 0
      for h in 0..<shape.heads {
        for i in 0..<length.q { row(z, b, h, i, firstQ, firstK, length, &expected) }
      }
      if !lengths.isEmpty { (firstQ, firstK) = (firstQ + length.q, firstK + length.k) }
    }
    return expected
  }

  private func row(
    _ z: Int, _ b: Int, _ h: Int, _ i: Int, _ firstQ: Int, _ firstK: Int, _ length: (q: Int, k: Int),
    _ expected: inout Expected
  ) {
    let kh = h / (shape.heads / shape.keyHeads), (d, dv) = (descriptor.headDimension, descriptor.valueDimension)
    let position = i + (arguments.bottomRight == 1 ? length.k - length.q : 0)
    var scores: [(key: Int, score: Double)] = []
    for j in 0..<length.k where j >= position - Int(arguments.windowLeft) && j <= position + Int(arguments.windowRight)
    {
      var s = 0.0
      let (qi, ki) = (q.index(b, h, firstQ + i, 0), k.index(b, kh, firstK + j, 0))
      for c in 0..<d { s += q.real[qi + c] * k.real[ki + c] }
      s *= Double(arguments.softmaxScale)
      if descriptor.hasSoftcap { s = Double(arguments.softcap) * tanh(s / Double(arguments.softcap)) }
      if descriptor.mask != .none {
        let line: Int = (z * shape.heads + h) * Int(arguments.queryRows) + i
        let m = mask[line * Int(arguments.keyRows) + j]
        if m == -.infinity { continue }
        s += m
      }
      if descriptor.hasALiBi { s -= Double(slopes[1 + z * shape.heads + h]) * Double(abs(position - j)) }
      scores.append((j, s))
    }
    let sink = descriptor.hasSinks ? Double(sinks[2 + h]) : -.infinity
    var top = sink
    for s in scores { top = s.score.isNaN ? .nan : max(top, s.score) }
    if top == -.infinity { top = 0 }
    var total: Double = descriptor.hasSinks ? exp(sink - top) : 0
    for s in scores { total += exp(s.score - top) }
    expected.l[l.index(b, h, firstQ + i, 0)] = top + log(total)
    for c in 0..<dv {
      var sum = 0.0
      for s in scores { sum += exp(s.score - top) * v[b, kh, firstK + s.key, c] }
      expected.o[o.index(b, h, firstQ + i, c)] = scores.isEmpty ? 0 : sum / total
    }
  }
}

import Metal
import TestSupport
import XCTest

@testable import AttentionKernels

func backward(
  _ d: Int = 64, _ dv: Int? = nil, q: Operand = Operand(.FP16), k: Operand = Operand(.FP16),
  v: Operand = Operand(.FP16), dO: Operand = Operand(.FP32)
) -> AttentionKernelDescriptor {
  var descriptor = AttentionKernelDescriptor(
    kind: .backwardQuery, headDimension: d, valueDimension: dv, query: q, key: k, value: v)
  descriptor.gradOutput = dO
  descriptor.writesLogsumexp = true
  return descriptor
}

final class BackwardTests: GPUTestCase {
  func testPrecisions() throws {
    let precisions: [Operand] = [Operand(.FP32), Operand(.FP16), Operand(.BF16), int8(), int4()]
    for (i, q) in precisions.enumerated() {
      let (k, v) = (precisions[(i + 1) % 5], precisions[(i + 3) % 5])
      try check(
        BackwardProblem(backward(q: q, k: k, v: v, dO: Operand([.FP32, .FP16, .BF16][i % 3]))),
        "Q \(q.precision) K \(k.precision) V \(v.precision)")
    }
  }

  func testHeadDimensions() throws {
    let dimensions: [(Int, Int)] = [(1, 3), (8, 20), (33, 64), (80, 40), (128, 128), (160, 96), (256, 264), (512, 512)]
    for (d, dv) in dimensions {
      let precision: GEMMOperandPrecision = d % 16 == 0 ? .FP32 : .FP16
      let x = Operand(precision, access: d % 4 == 0 ? .vector : .strided)
      try check(
        BackwardProblem(backward(d, dv, q: x, k: x, v: x), .init(heads: 2, keyHeads: 1, queryRows: 19, keyRows: 21)),
        "\(d) and \(dv) columns")
    }
  }

  func testSourcesOfD() throws {
    for source in [AttentionKernelDescriptor.Gradients.DSource.given, .output, .probabilities] {
      for d in [64, 256] {
        try check(BackwardProblem(backward(d, q: Operand(.FP32)), gradients: .from(source)), "\(source) \(d)")
      }
    }
  }

  func testSubsets() throws {
    for bits in 1..<8 {
      for source in [AttentionKernelDescriptor.Gradients.DSource.output, .probabilities] {
        var gradients = AttentionKernelDescriptor.Gradients.from(source)
        (gradients.query, gradients.key, gradients.value) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0)
        try check(BackwardProblem(backward(32), .init(queryRows: 20, keyRows: 18), gradients: gradients), "\(bits)")
      }
    }
  }

  func testGroupsAndDiagonals() throws {
    let groups: [(Int, Int)] = [(6, 2), (4, 1)]
    for (heads, keyHeads) in groups {
      let windows: [(Int64, Int64, Bool, Bool)] = [
        (-1, -1, true, false), (-1, -1, true, true), (5, 3, false, false), (7, 0, true, true), (0, 0, false, true),
      ]
      for (left, right, causal, bottom) in windows {
        let shape = TestProblem.Shape(batches: 2, heads: heads, keyHeads: keyHeads, queryRows: 70, keyRows: 45)
        try check(
          BackwardProblem(backward(32), shape) {
            $0.arguments.setWindow(left: left, right: right, isCausal: causal)
            $0.arguments.bottomRight = bottom ? 1 : 0
          }, "\(heads)/\(keyHeads) window \(left) \(right) causal \(causal) bottom \(bottom)")
      }
    }
  }

  func testOptions() throws {
    for mask in AttentionKernelDescriptor.Mask.allCases {
      for options in 0..<8 {
        var descriptor = backward(32)
        (descriptor.mask, descriptor.hasSoftcap, descriptor.hasALiBi, descriptor.hasSinks) = (
          mask, options & 1 != 0, options & 2 != 0, options & 4 != 0
        )
        if options % 3 == 0 || mask == .none {
          try check(
            BackwardProblem(
              descriptor, .init(batches: 2, queryRows: 37, keyRows: 29),
              gradients: .from(options & 1 == 0 ? .output : .probabilities)), "mask \(mask) options \(options)")
        }
      }
    }
  }

  func testMasksThatAreBroadcast() throws {
    for bits in 0..<16 {
      var descriptor = backward(32)
      descriptor.mask = .FP32
      let sums = Set((0..<4).filter { bits >> $0 & 1 != 0 })
      try check(
        BackwardProblem(descriptor, .init(batches: 2, heads: 2, keyHeads: 1, queryRows: 37, keyRows: 41), sums: sums) {
          $0.arguments.setWindow(left: 20, right: 9)
        }, "summed over \(sums)")
    }
  }

  func testVariableLengths() throws {
    for d in [32, 256] {
      var descriptor = backward(
        d, k: int8(QuantizationLayout(granularity: .block, zeroPoints: .int8)),
        v: int4(QuantizationLayout(granularity: .row)))
      (descriptor.isVariableLength, descriptor.mask, descriptor.hasSinks) = (true, .BF16, true)
      try check(
        BackwardProblem(descriptor, .init(heads: 4, keyHeads: 2), lengths: [(5, 9), (0, 4), (33, 40), (3, 0), (12, 7)])
        {
          $0.arguments.bottomRight = 1
          $0.arguments.setWindow(isCausal: true)
        }, "varlen \(d)")
    }
  }

  func testGranularities() throws {
    let granularities: [QuantizationLayout.Granularity] = [
      .tensor, .tensorInBuffer, .row, .rowGroups(of: 32), .block, .channel,
    ]
    for (i, granularity) in granularities.enumerated() {
      for zeroPoints in [QuantizationLayout.ZeroPoints.none, .int8, .int32] {
        let q = int8(QuantizationLayout(granularity: granularity, zeroPoints: zeroPoints))
        let k = int4(
          QuantizationLayout(granularity: granularities[(i + 2) % 6], scaleStorage: .FP16, zeroPoints: zeroPoints))
        let v = int8(QuantizationLayout(granularity: granularities[(i + 1) % 6], zeroPoints: zeroPoints))
        try check(
          BackwardProblem(backward(q: q, k: k, v: v), gradients: .from(.probabilities, clips: i % 2 == 0)),
          "\(granularity) \(zeroPoints)")
      }
    }
  }

  func testRotationsAndMeans() throws {
    for d in [20, 64, 96, 256] {
      for bits in 0..<16 {
        let q = QuantizationLayout(granularity: .row, hasMean: bits & 4 != 0, isRotated: bits & 1 != 0)
        let k = QuantizationLayout(granularity: .tensor, hasMean: bits & 8 != 0, isRotated: bits & 2 != 0)
        let v = QuantizationLayout(granularity: .tensorInBuffer, hasMean: bits & 2 != 0, isRotated: bits & 4 != 0)
        if d == 64 ? ![1, 2, 4, 7, 11, 14].contains(bits) : ![7, 13].contains(bits) { continue }
        var descriptor = backward(d, q: int8(q), k: int8(k), v: int8(v))
        descriptor.hasSoftcap = true
        let source: AttentionKernelDescriptor.Gradients.DSource = bits & 1 == 0 ? .output : .probabilities
        try check(
          BackwardProblem(
            descriptor, .init(heads: 4, keyHeads: 2, queryRows: 19, keyRows: 37),
            gradients: .from(source, clips: bits & 8 != 0)), "\(d) columns, \(bits)")
      }
    }
  }

  /// Where a row's range is one key, D is that key's dP, and dS = P (dP − D) is exactly 0, whichever kernel computes dP
  /// again.
  func testOneKeyHasNoScoreGradient() throws {
    func rotated(_ granularity: QuantizationLayout.Granularity, mean: Bool) -> QuantizationLayout {
      .init(granularity: granularity, hasMean: mean, isRotated: true)
    }
    let values: [Operand] = [
      Operand(.FP32), Operand(.FP16), int8(rotated(.tensorInBuffer, mean: false)), int8(rotated(.row, mean: false)),
      int8(rotated(.row, mean: true)),
      int4(rotated(.rowGroups(of: 32), mean: true)), int8(QuantizationLayout(granularity: .channel, hasMean: true)),
      int4(QuantizationLayout(granularity: .block)),
    ]
    for (d, dv) in [(64, 64), (20, 38), (128, 128), (96, 72), (136, 256), (512, 512)] {
      for (i, v) in values.enumerated() where d < 128 || i == 0 || i == 4 {
        if v.precision == .INT4 && dv % 32 != 0 { continue }
        // Queries and keys whose products are 0: P is 1.
        var descriptor = backward(
          d, dv, q: Operand(.FP32), k: Operand(.FP32), v: v, dO: Operand(i % 2 == 0 ? .FP32 : .FP16))
        descriptor.mask = .FP32
        let problem = BackwardProblem(
          descriptor, .init(heads: 2, keyHeads: 1, queryRows: 19, keyRows: 1), gradients: .from(.probabilities)
        ) {
          $0.q.write($0.q.real.enumerated().map { $0 % 2 == 0 ? $1 : 0 })
          $0.k.write($0.k.real.enumerated().map { $0 % 2 == 1 ? $1 : 0 })
        }
        let result = try XCTUnwrap(check(problem, "\(v.precision) \(d) \(dv)"))
        for (name, gradient) in [("dQ", result.dQ), ("dK", result.dK), ("mask", result.mask)] {
          XCTAssertEqual(gradient.map(abs).max(), 0, "\(name), \(d) and \(dv) columns, V \(i) \(v.precision)")
        }
      }
    }
  }

  func testLayouts() throws {
    for access in [AttentionKernelDescriptor.Access.vector, .transposed, .strided] {
      let (half, float) = (Operand(.FP16, access: access), Operand(.FP32, access: access))
      try check(BackwardProblem(backward(48, q: half, k: float, v: int8(access: access), dO: half)), "\(access)")
    }
  }

  /// NaN reaches what uses it, and nothing else.
  func testNaNs() throws {
    for d in [32, 256] {
      for which in 0..<3 {
        for mask in [AttentionKernelDescriptor.Mask.none, .BOOL] {
          var descriptor = backward(d)
          descriptor.mask = mask
          try check(
            BackwardProblem(descriptor, .init(queryRows: 37, keyRows: 45)) { problem in
              problem.arguments.setWindow(left: 12, right: 4)
              func poison(_ tensor: inout TestTensor) {
                var values = tensor.real
                values[tensor.index(0, 0, 9, 3)] = .nan
                values[tensor.index(0, 1, 30, d - 1)] = .infinity
                tensor.write(values)
              }
              switch which {
              case 0: poison(&problem.q)
              case 1: poison(&problem.k)
              default: poison(&problem.v)
              }
            }, "operand \(which), mask \(mask), \(d) columns")
        }
      }
    }
  }

  /// Rows of which L is −∞ add nothing, even where they hold NaN; +∞ and NaN follow the formula.
  func testHardLogsumexps() throws {
    var problem = BackwardProblem(backward(32), .init(queryRows: 37, keyRows: 45), gradients: .from(.probabilities))
    var l = problem.forward.l.real, q = problem.forward.q.real
    (l[4], l[20], l[50]) = (-.infinity, .infinity, .nan)
    q[problem.forward.q.index(0, 0, 4, 2)] = .nan
    problem.forward.l.write(l)
    problem.forward.q.write(q)
    try check(problem, "L")
  }

  func testSameBitsEveryTime() throws {
    let problem = BackwardProblem(
      backward(64), .init(heads: 2, keyHeads: 1, queryRows: 64, keyRows: 64), gradients: .from(.output))
    let first = try XCTUnwrap(check(problem)), second = try XCTUnwrap(check(problem))
    XCTAssertEqual(first.dQ, second.dQ)
    XCTAssertEqual(first.dK, second.dK)
    XCTAssertEqual(first.dV, second.dV)
  }

  #if SOFTWARE_METAL
    /// Three products for the queries and four for the keys, whatever is stored; every tile is dequantized once for all
    /// its threadgroup's rows.
    func testCosts() throws {
      let blocks: UInt64 = 64 / 8, product = 2 * blocks * blocks * blocks
      func cost(_ key: Operand, _ value: Operand) throws -> (query: Counters, keys: Counters) {
        let shape = TestProblem.Shape(heads: 2, keyHeads: 1, queryRows: 64, keyRows: 64)
        let result = try XCTUnwrap(
          check(BackwardProblem(backward(k: key, v: value, dO: Operand(.FP16)), shape, gradients: .from(.output))))
        return try (XCTUnwrap(result.counters[.backwardQuery]), XCTUnwrap(result.counters[.backwardKeyValue]))
      }
      let half = try cost(Operand(.FP16), Operand(.FP16))
      for (name, other) in [("FP16", half), ("INT8", try cost(int8(), int8())), ("INT4", try cost(int4(), int4()))] {
        print("\(name) queries: \(other.query)\n\(name) keys: \(other.keys)")
        XCTAssertEqual(other.query.matrixMultiplies, 3 * product, name)
        XCTAssertEqual(other.keys.matrixMultiplies, 4 * product, name)
      }
    }
  #endif
}

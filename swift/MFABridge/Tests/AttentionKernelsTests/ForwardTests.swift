import TestSupport
import XCTest

@testable import AttentionKernels

typealias Operand = AttentionKernelDescriptor.Operand

func forward(
  _ d: Int = 64, _ dv: Int? = nil, q: Operand = Operand(.FP16), k: Operand = Operand(.FP16),
  v: Operand = Operand(.FP16), o: Operand = Operand(.FP32)
) -> AttentionKernelDescriptor {
  var descriptor = AttentionKernelDescriptor(
    kind: .forward, headDimension: d, valueDimension: dv, query: q, key: k, value: v, output: o)
  descriptor.writesLogsumexp = true
  return descriptor
}
func int8(
  _ layout: QuantizationLayout = QuantizationLayout(), access: AttentionKernelDescriptor.Access = .vector
) -> Operand {
  Operand(.INT8, access: access, quantization: layout)
}
func int4(
  _ layout: QuantizationLayout = QuantizationLayout(), access: AttentionKernelDescriptor.Access = .vector
) -> Operand {
  Operand(.INT4, access: access, quantization: layout)
}

/// The forward kernels against the plain formula in float64, in checked mode, for all schedules.
final class ForwardTests: GPUTestCase {
  /// Runs a problem with many query rows as prefill, and with few by both decode schedules. With a shape of its own all
  /// have that one.
  func run(
    _ descriptor: AttentionKernelDescriptor, _ shape: TestProblem.Shape? = nil, lengths: [(q: Int, k: Int)] = [],
    _ label: String? = nil,
    line: UInt = #line, _ change: (inout TestProblem) -> Void = { _ in }
  ) throws {
    let descriptors = [AttentionKernelDescriptor.Schedule.prefill, .decode, .decodeSplit].map { schedule in
      var d = descriptor
      d.schedule = schedule
      return d
    }
    TestDevice.shared.prepare(descriptors)
    for (schedule, d) in descriptors.map({ ($0.schedule, $0) }) {
      let rows = schedule == .prefill ? (37, 75) : schedule == .decode ? (5, 150) : (3, 250)
      let usual = TestProblem.Shape(batches: 2, heads: 4, keyHeads: 2, queryRows: rows.0, keyRows: rows.1)
      var problem = TestProblem(d, shape ?? usual, lengths: lengths)
      problem.arguments.splits = schedule == .decodeSplit ? 3 : 1
      change(&problem)
      try check(problem, "\(schedule), \(label ?? KernelText.summary(d))", line: line)
    }
  }

  func testFloatingPrecisions() throws {
    for (q, k, v) in [
      (GEMMOperandPrecision.FP32, GEMMOperandPrecision.FP32, GEMMOperandPrecision.FP32), (.FP16, .BF16, .FP32),
      (.BF16, .BF16, .BF16),
    ] {
      try run(forward(q: Operand(q), k: Operand(k), v: Operand(v)))
    }
    try run(forward(o: Operand(.FP16)))
    try run(forward(o: Operand(.BF16, access: .strided)))
  }

  func testTensorWiseIntegers() throws {
    try run(forward(q: int8(), k: int8(), v: int8()))
    try run(forward(q: int4(), k: int4(), v: int4()))
    let symmetric = QuantizationLayout(isSymmetric: true)
    try run(forward(q: int8(symmetric), k: int4(symmetric), v: int8(symmetric)))
    try run(
      forward(
        q: Operand(.BF16), k: int8(.init(granularity: .tensorInBuffer, scaleStorage: .FP16, zeroPoints: .int8)),
        v: int4()))
    try run(
      forward(
        k: int4(.init(granularity: .tensorInBuffer, zeroPoints: .int32)), v: int8(.init(granularity: .tensorInBuffer))))
  }

  func testRowAndBlockScales() throws {
    let row = QuantizationLayout(granularity: .row, zeroPoints: .int8),
      block = QuantizationLayout(granularity: .block, scaleStorage: .FP16)
    try run(forward(q: int8(row), k: int8(row), v: int8(row)))
    try run(forward(q: int8(block), k: int4(block), v: int4(block)))
    try run(
      forward(
        k: int8(.init(granularity: .row, zeroPoints: .int32)), v: int8(.init(granularity: .block, zeroPoints: .int32))))
  }

  func testGroupAndChannelScales() throws {
    let groups = QuantizationLayout(granularity: .rowGroups(of: 32), scaleStorage: .FP16),
      channel = QuantizationLayout(granularity: .channel, zeroPoints: .int8)
    try run(forward(q: int8(groups), k: int4(groups), v: int8(groups)))
    try run(forward(q: int8(channel), k: int8(channel), v: int4(channel)))
    try run(
      forward(
        72, k: int8(.init(granularity: .rowGroups(of: 64), zeroPoints: .int32)),
        v: int4(.init(granularity: .rowGroups(of: 64), zeroPoints: .int8))))
  }

  func testMeansAndRotations() throws {
    let (mean, rotated) = (QuantizationLayout(hasMean: true), QuantizationLayout(isRotated: true))
    let both = QuantizationLayout(granularity: .row, hasMean: true, isRotated: true)
    try run(forward(k: int8(mean), v: int8(mean)))
    try run(forward(q: int8(rotated), k: int8(rotated), v: int8(rotated)))
    try run(forward(q: Operand(.FP16), k: int8(both), v: int4(both)))
    try run(forward(q: int8(both), k: int4(both), v: Operand(.FP16)))
    try run(forward(q: int8(rotated), k: Operand(.BF16), v: Operand(.FP16)))
    try run(forward(20, 12, q: int8(both), k: int8(mean), v: int8(both)))
    try run(forward(27, 26, q: int8(both), k: int8(both), v: int8(both)))
  }

  func testHeadDimensions() throws {
    for (d, dv) in [(1, 1), (8, 24), (59, 63), (128, 40), (256, 256)] {
      try run(forward(d, dv), .init(heads: 2, keyHeads: 1, queryRows: 9, keyRows: 41), "D \(d) \(dv)")
    }
    try run(forward(12, 20, k: int4(), v: int4()))
  }

  func testColumnsSharedBySIMDGroups() throws {
    let small = TestProblem.Shape(heads: 2, keyHeads: 1, queryRows: 19, keyRows: 21)
    let both = QuantizationLayout(granularity: .row, hasMean: true, isRotated: true)
    try run(forward(512), small, "FP16 512")
    try run(forward(512, q: Operand(.FP32), k: Operand(.FP32), v: Operand(.FP32)), small, "FP32 512")
    try run(forward(320, 500, k: int8(), v: int4()), small, "320 500")
    try run(forward(576, 512), small, "FP16 576 and 512")
    try run(forward(576, 512, q: Operand(.FP32), k: int8(both), v: int4()), small, "INT8 576 and INT4 512")
    try run(forward(512, k: int8(both), v: int8(both)), small, "rotated 512")
    try run(forward(384, k: int8(both), v: int8(both)), small, "rotated 384")
  }

  func testStrides() throws {
    let (t, s) = (AttentionKernelDescriptor.Access.transposed, AttentionKernelDescriptor.Access.strided)
    try run(
      forward(
        q: Operand(.FP16, access: t), k: Operand(.FP16, access: t), v: Operand(.FP16, access: t),
        o: Operand(.FP32, access: t)))
    try run(
      forward(
        q: Operand(.FP32, access: s), k: Operand(.BF16, access: s), v: int8(access: t), o: Operand(.FP16, access: s)))
    try run(forward(q: int4(access: s), k: int4(.init(granularity: .row), access: s), v: int4(access: s)))
  }

  func testDiagonals() throws {
    for (left, right, bottomRight) in [(-1, 0, 0), (-1, 0, 1), (5, 3, 1), (0, 40, 0), (-1, -20, 1), (9, -1, 0)]
      as [(Int64, Int64, UInt32)]
    {
      for (queryRows, keyRows) in [(37, 75), (75, 37)] {
        try run(
          forward(), .init(heads: 2, keyHeads: 1, queryRows: queryRows, keyRows: keyRows),
          "window \(left) \(right) \(bottomRight) \(queryRows)x\(keyRows)"
        ) {
          $0.arguments.setWindow(left: left, right: right)
          if right < -1 { $0.arguments.windowRight = Int32(right) }
          $0.arguments.bottomRight = bottomRight
        }
      }
    }
  }

  func testMasks() throws {
    for mask in AttentionKernelDescriptor.Mask.allCases {
      var descriptor = forward(k: int8())
      descriptor.mask = mask
      try run(descriptor, nil, "mask \(mask)") {
        $0.arguments.setWindow(isCausal: true); $0.arguments.bottomRight = 1
      }
    }
  }

  func testSoftcapSlopesAndSinks() throws {
    for options in 1..<8 {
      var descriptor = forward(q: int8(), k: int8(.init(granularity: .row, hasMean: true)))
      (descriptor.hasSoftcap, descriptor.hasALiBi, descriptor.hasSinks) = (
        options & 1 != 0, options & 2 != 0, options & 4 != 0
      )
      try run(descriptor, nil, "options \(options)") {
        $0.arguments.setWindow(left: 20, right: -1); $0.arguments.bottomRight = 1
      }
    }
  }

  func testEverythingAtOnce() throws {
    var descriptor = forward(v: int4(.init(granularity: .block, hasMean: true, isRotated: true)))
    (descriptor.hasSoftcap, descriptor.hasALiBi, descriptor.hasSinks, descriptor.mask) = (true, true, true, .BF16)
    try run(descriptor) {
      $0.arguments.setWindow(left: 30, isCausal: true); $0.arguments.bottomRight = 1
    }
    descriptor.isVariableLength = true
    try run(descriptor, lengths: [(q: 5, k: 70), (q: 0, k: 3), (q: 40, k: 0), (q: 33, k: 9)], "varlen, everything") {
      $0.arguments.bottomRight = 1
    }
  }

  func testVariableLengths() throws {
    var descriptor = forward(k: int8(.init(granularity: .block)), v: int8(.init(granularity: .row)))
    descriptor.isVariableLength = true
    for causal in [false, true] {
      try run(
        descriptor, lengths: [(q: 3, k: 40), (q: 0, k: 0), (q: 45, k: 17), (q: 8, k: 8), (q: 2, k: 0)],
        "varlen causal \(causal)"
      ) {
        $0.arguments.setWindow(isCausal: causal)
        $0.arguments.bottomRight = 1
      }
    }
  }

  func testSizes() throws {
    for (queryRows, keyRows) in [(1, 1), (1, 64), (8, 65), (32, 63), (33, 128), (5, 0), (0, 5)] {
      try run(
        forward(), .init(heads: 3, keyHeads: 1, queryRows: queryRows, keyRows: keyRows), "\(queryRows) x \(keyRows)")
    }
  }

  /// NaN in masked keys reaches no row, NaN in other keys the rows that attend to them, infinities likewise.
  func testNonFiniteOperands() throws {
    for precision in [GEMMOperandPrecision.FP32, .FP16, .BF16] {
      for mask in [AttentionKernelDescriptor.Mask.none, .BOOL] {
        var descriptor = forward(k: Operand(precision), v: Operand(precision))
        descriptor.mask = mask
        try run(
          descriptor, .init(heads: 2, keyHeads: 1, queryRows: 37, keyRows: 45), "NaN in \(precision) mask \(mask)"
        ) { problem in
          func spoil(_ tensor: inout TestTensor, _ places: [(Int, Int, Double)]) {
            for (row, column, value) in places { tensor.real[tensor.index(0, 0, row, column)] = value }
            tensor.write(tensor.real)
          }
          spoil(&problem.k, [(20, 3, .nan), (30, 5, .infinity)])
          spoil(&problem.v, [(10, 7, .nan), (25, 63, -.infinity), (44, 0, .nan)])
          problem.arguments.setWindow(left: 12, isCausal: true)
        }
      }
    }
    try run(forward(), .init(heads: 1, keyHeads: 1, queryRows: 8, keyRows: 16), "all scores -inf") { problem in
      for d in 0..<64 { for j in 0..<16 { problem.k.real[problem.k.index(0, 0, j, d)] = d == 0 ? -.infinity : 0 } }
      for i in 0..<8 { for d in 0..<64 { problem.q.real[problem.q.index(0, 0, i, d)] = i == 3 ? -1 : 1 } }
      problem.k.write(problem.k.real)
      problem.q.write(problem.q.real)
    }
  }
}

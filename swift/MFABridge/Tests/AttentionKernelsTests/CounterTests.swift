import Metal
import TestSupport
import XCTest

@testable import AttentionKernels

#if SOFTWARE_METAL
  /// The cost of kernels in hardware-independent counts: relations that must hold, and with ATTENTION_KERNELS_REPORT=1
  /// the figures.
  final class CounterTests: GPUTestCase {
    struct Cost {
      let name: String
      let counters: Counters
      let scores: Double
      func per(_ n: UInt64) -> Double { Double(n) / scores }
      var matrixOperations: Double { per(counters.matrixMultiplies) * 64 }
      var deviceBytes: UInt64 { counters.deviceBytesRead }
      var other: Double { per(counters.scalarOperations) }
      var row: String {
        let figures = [
          matrixOperations, per(counters.deviceBytesRead),
          per(counters.threadgroupBytesRead + counters.threadgroupBytesWritten), per(counters.matrixLoads), other,
          per(counters.simdOperations),
        ]
        let text = figures.map { String(format: "%.3f", $0) } + ["\(counters.threadgroupBarriers)"]
        return name.padding(toLength: 28, withPad: " ", startingAt: 0)
          + text.map { String(repeating: " ", count: max(0, 10 - $0.count)) + $0 }.joined()
      }
    }

    func cost(_ name: String, _ descriptor: AttentionKernelDescriptor, _ shape: TestProblem.Shape) throws -> Cost {
      let counters = try TestDevice.shared.forward(TestProblem(descriptor, shape)).counters
      return Cost(
        name: name, counters: counters, scores: Double(shape.batches * shape.heads * shape.queryRows * shape.keyRows))
    }

    private func report(_ costs: [Cost], _ title: String) {
      guard ProcessInfo.processInfo.environment["ATTENTION_KERNELS_REPORT"] == "1" else { return }
      print(
        "\(title)\nname, matrix operations (8x8x8, times 64), device bytes read, threadgroup bytes, matrix loads, "
          + "other operations, SIMD operations per score; barriers in all"
      )
      costs.forEach { print($0.row) }
    }

    private let symmetric = QuantizationLayout(isSymmetric: true)

    func testPrefill() throws {
      let shape = TestProblem.Shape(heads: 1, keyHeads: 1, queryRows: 256, keyRows: 256)
      let costs = [
        try cost("FP32 128", forward(128, q: Operand(.FP32), k: Operand(.FP32), v: Operand(.FP32)), shape),
        try cost("FP16 128", forward(128), shape),
        try cost("BF16 128", forward(128, q: Operand(.BF16), k: Operand(.BF16), v: Operand(.BF16)), shape),
        try cost("INT8 128", forward(128, k: int8(symmetric), v: int8(symmetric)), shape),
        try cost("INT4 128", forward(128, k: int4(symmetric), v: int4(symmetric)), shape),
        try cost(
          "INT8 row 128", forward(128, k: int8(.init(granularity: .row)), v: int8(.init(granularity: .row))), shape),
        try cost(
          "INT4 groups of 32, 128",
          forward(
            128, k: int4(.init(granularity: .rowGroups(of: 32))), v: int4(.init(granularity: .rowGroups(of: 32)))),
          shape),
      ]
      report(costs, "prefill, 256 x 256")
      for integer in costs[3...4] {
        XCTAssertEqual(integer.counters.matrixMultiplies, costs[1].counters.matrixMultiplies)
        XCTAssertLessThan(integer.other, 1.1 * costs[1].other, integer.name)
      }
    }

    func testDecode() throws {
      let shape = TestProblem.Shape(heads: 8, keyHeads: 1, queryRows: 1, keyRows: 1024)
      func decode(_ operand: Operand) -> AttentionKernelDescriptor {
        var d = forward(128, k: operand, v: operand)
        d.schedule = .decode
        return d
      }
      let costs = [
        try cost("FP16 128", decode(Operand(.FP16)), shape), try cost("INT8 128", decode(int8(symmetric)), shape),
        try cost("INT4 128", decode(int4(symmetric)), shape),
      ]
      report(costs, "decode, 8 rows x 1024")
      let bytes = costs.map { Double($0.deviceBytes) }
      XCTAssertLessThan(bytes[1], 0.51 * bytes[0])
      XCTAssertLessThan(bytes[2], 0.27 * bytes[0])  // Q is FP16 in all
      for integer in costs[1...] {
        XCTAssertEqual(integer.counters.matrixMultiplies, costs[0].counters.matrixMultiplies)
        XCTAssertLessThan(integer.other, 1.1 * costs[0].other, integer.name)
      }
    }
  }
#endif

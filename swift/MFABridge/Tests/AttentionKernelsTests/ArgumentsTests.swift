import XCTest

@testable import AttentionKernels

final class ArgumentsTests: XCTestCase {
  func testLayoutNeedsNoPadding() {
    var (offset, wide) = (0, false)
    for field in AttentionArguments.fields {
      switch field.value(AttentionArguments()) {
      case .uint, .int, .float:
        XCTAssertFalse(wide, "\(field.name) follows a member of 8 bytes")
        offset += 4
      case .long, .view:
        if !wide { XCTAssertEqual(offset % 8, 0, field.name) }
        wide = true
      }
    }
  }

  func testNoTwoBuffersOfAKernelShareAnIndex() {
    let operand = AttentionKernelDescriptor.Operand(
      .INT8, quantization: QuantizationLayout(granularity: .row, zeroPoints: .int8, hasMean: true))
    for kind in AttentionKernelDescriptor.Kind.allCases {
      var descriptor = AttentionKernelDescriptor(
        kind: kind, headDimension: 64, query: operand, key: operand, value: operand)
      (
        descriptor.mask, descriptor.hasALiBi, descriptor.hasSinks, descriptor.isVariableLength,
        descriptor.writesLogsumexp
      ) = (.FP32, true, true, true, true)
      (descriptor.gradients.query, descriptor.gradients.key, descriptor.gradients.value) = (true, true, true)
      for schedule in [AttentionKernelDescriptor.Schedule.prefill, .decode, .decodeSplit] {
        descriptor.schedule = schedule
        let indices = descriptor.bindings.map(\.index)
        XCTAssertEqual(indices, Array(Set(indices)).sorted(), "\(kind) \(schedule)")
        XCTAssertTrue(indices.allSatisfy { (0..<31).contains($0) })
      }
    }
  }
}

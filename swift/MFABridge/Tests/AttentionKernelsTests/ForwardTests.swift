import XCTest

@testable import AttentionKernels

typealias Operand = AttentionKernelDescriptor.Operand

func forward(_ d: Int = 64, _ dv: Int? = nil, q: Operand = Operand(.FP16), k: Operand = Operand(.FP16), v: Operand = Operand(.FP16), o: Operand = Operand(.FP32)) -> AttentionKernelDescriptor {
  var descriptor = AttentionKernelDescriptor(kind: .forward, headDimension: d, valueDimension: dv, query: q, key: k, value: v, output: o)
  descriptor.writesLogsumexp = true
  return descriptor
}
func int8(_ layout: QuantizationLayout = QuantizationLayout(), access: AttentionKernelDescriptor.Access = .vector) -> Operand { Operand(.INT8, access: access, quantization: layout) }
func int4(_ layout: QuantizationLayout = QuantizationLayout(), access: AttentionKernelDescriptor.Access = .vector) -> Operand { Operand(.INT4, access: access, quantization: layout) }

final class ForwardTests: XCTestCase {
  func testHalf() throws { try check(TestProblem(forward())) }
}

import Foundation
import TestSupport
import XCTest

@testable import AttentionKernels

/// Kernels as text: golden copies of representative ones, and properties of the text of any.
final class KernelTextTests: XCTestCase {
  private static let forwardKernels: [(name: String, descriptor: AttentionKernelDescriptor)] = {
    let row = QuantizationLayout(granularity: .row, zeroPoints: .int8, hasMean: true, isRotated: true)
    var options = forward(64, q: Operand(.FP16), k: int8(row), v: int4(row), o: Operand(.FP16, access: .strided))
    (options.hasSoftcap, options.hasALiBi, options.hasSinks, options.mask, options.isVariableLength) = (
      true, true, true, .FP16, true
    )
    var decode = forward(128, k: int4(), v: int4())
    decode.schedule = .decode
    var split = forward(64)
    (split.schedule, split.hasSinks) = (.decodeSplit, true)
    var merge = split
    merge.kind = .forwardMerge
    let brain = Operand(.BF16)
    func inBrain(
      _ schedule: AttentionKernelDescriptor.Schedule, _ kind: AttentionKernelDescriptor.Kind = .forward
    )
      -> AttentionKernelDescriptor
    {
      var d = forward(64, q: brain, k: brain, v: brain, o: brain)
      (d.schedule, d.kind, d.mask) = (schedule, kind, kind == .forward ? .BF16 : .none)
      return d
    }
    return [
      ("prefill_fp16", forward(64)),
      ("prefill_int8", forward(128, q: int8(), k: int8(), v: int8())),
      (
        "prefill_groups",
        forward(
          96, k: int4(.init(granularity: .rowGroups(of: 32), scaleStorage: .FP16)),
          v: int8(.init(granularity: .channel)))
      ),
      ("prefill_options", options),
      ("prefill_fp32_512", forward(512, q: Operand(.FP32), k: Operand(.FP32, access: .transposed), v: Operand(.FP32))),
      ("decode_int4", decode), ("decodeSplit_fp16", split), ("forwardMerge", merge),
      ("prefill_bf16", inBrain(.prefill)), ("decode_bf16", inBrain(.decode)),
      ("decodeSplit_bf16", inBrain(.decodeSplit)), ("forwardMerge_bf16", inBrain(.decodeSplit, .forwardMerge)),
    ]
  }()

  /// `UPDATE_GOLDEN=1 swift test --filter KernelTextTests` rewrites them.
  func testGoldenText() throws {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Golden")
    for (name, descriptor) in Self.forwardKernels {
      let text = try AttentionKernel(descriptor: descriptor, profile: DeviceProfile(family: .apple9)).source
      let file = folder.appendingPathComponent("\(name).metal.txt")
      if ProcessInfo.processInfo.environment["UPDATE_GOLDEN"] != nil {
        try text.write(to: file, atomically: true, encoding: .utf8)
      }
      XCTAssertEqual(
        text, try String(contentsOf: file, encoding: .utf8),
        "\(file.lastPathComponent) differs: review, then UPDATE_GOLDEN=1")
    }
  }

  /// The device takes each of them, with no function but those that Apple's library has.
  func testGoldenTextCompiles() {
    for (name, descriptor) in Self.forwardKernels {
      do {
        _ = try TestDevice.shared.pipeline(
          AttentionKernel(descriptor: descriptor, profile: DeviceProfile(family: .apple9)))
      } catch { XCTFail("\(name): \(error)") }
    }
  }

  /// The indices: Q 0, K 1, V 2, O 3, then scale and zero point of Q, K, V.
  func testIndicesOfOperandsAndScalars() throws {
    let kernel = try AttentionKernel(
      descriptor: forward(q: int8(), k: int8(), v: int4()), profile: DeviceProfile(family: .apple8))
    for (index, parameter) in [
      "const device char *Q", "const device char *K", "const device uchar *V", "device float *O",
      "constant float &q_scale", "constant int32_t &q_zero_point",
      "constant float &k_scale", "constant int32_t &k_zero_point", "constant float &v_scale",
      "constant int32_t &v_zero_point",
    ].enumerated() {
      XCTAssertTrue(kernel.source.contains("\(parameter) [[buffer(\(index))]]"), "\(parameter) at \(index)")
      XCTAssertEqual(kernel.bindings[index].index, index)
    }
  }

  func testLoadCalls() throws {
    let kernel = try AttentionKernel(
      descriptor: forward(q: Operand(.BF16), k: int8(), v: int4()), profile: DeviceProfile(family: .apple8))
    XCTAssertEqual([AttentionOperand.Q, .K, .V, .O].map(kernel.isQuantized), [false, true, true, false])
    XCTAssertEqual(
      [AttentionOperand.Q, .K, .V].map(kernel.loadFunction), ["load", "load_quantized_int8", "load_quantized_int4"])
    XCTAssertEqual(
      kernel.loadCall(.Q, src: "q", leadingDim: "64", origin: "origin", transpose: true), "load(q, 64, origin, true)")
    XCTAssertEqual(
      kernel.loadCall(.V, src: "v", leadingDim: "ld", origin: "uint2(0, 8)", transpose: false),
      "load_quantized_int4(v, ld, uint2(0, 8), v_scale, v_zero_point, false)")
  }

  func testRefusals() {
    func refusal(_ descriptor: AttentionKernelDescriptor) -> AttentionKernelError? {
      do throws(AttentionKernelError) {
        _ = try AttentionKernel(descriptor: descriptor, profile: DeviceProfile(family: .apple7))
      } catch { return error }
      return nil
    }
    XCTAssertEqual(refusal(forward(1025)), .headDimension(name: "head dimension", found: 1025))
    XCTAssertEqual(refusal(forward(64, 0)), .headDimension(name: "value dimension", found: 0))
    XCTAssertEqual(refusal(forward(k: Operand(.INT8))), .missingQuantization(.K, .INT8))
    XCTAssertEqual(
      refusal(forward(v: Operand(.FP16, quantization: QuantizationLayout()))), .unexpectedQuantization(.V, .FP16))
    XCTAssertEqual(refusal(forward(o: Operand(.INT8))), .integerResult(.O, .INT8))
    XCTAssertEqual(refusal(forward(q: int8(.init(granularity: .rowGroups(of: 48))))), .groupSize(.Q, found: 48))
  }

  /// A descriptor drawn from the product of all options.
  static func random(_ g: inout Generator) -> AttentionKernelDescriptor {
    func operand(_ columns: Int) -> Operand {
      let precision = GEMMOperandPrecision.allCases.randomElement(using: &g) ?? .FP16
      let accesses: [AttentionKernelDescriptor.Access] =
        precision == .INT4 ? [.vector, .strided] : [.vector, .transposed, .strided]
      let granularities: [QuantizationLayout.Granularity] = [
        .tensor, .tensorInBuffer, .row, .rowGroups(of: 32), .rowGroups(of: 64), .block, .channel,
      ]
      let zeroPoints: [QuantizationLayout.ZeroPoints] = [.none, .int8, .int32]
      let layout = QuantizationLayout(
        granularity: granularities.randomElement(using: &g) ?? .tensor,
        scaleStorage: Bool.random(using: &g) ? .FP32 : .FP16,
        zeroPoints: zeroPoints.randomElement(using: &g) ?? .none, hasMean: Bool.random(using: &g),
        isRotated: Bool.random(using: &g))
      return Operand(
        precision, access: accesses.randomElement(using: &g) ?? .vector,
        quantization: precision.isInteger ? layout : nil)
    }
    let dimensions = [1, 2, 8, 20, 40, 59, 64, 80, 96, 128, 160, 192, 256, 320, 384, 500, 512]
    let d = dimensions.randomElement(using: &g) ?? 64,
      dv = Bool.random(using: &g) ? d : dimensions.randomElement(using: &g) ?? 64
    let outputs: [GEMMOperandPrecision] = [.FP32, .FP16, .BF16]
    var descriptor = forward(
      d, dv, q: operand(d), k: operand(d), v: operand(dv), o: Operand(outputs.randomElement(using: &g) ?? .FP32))
    descriptor.schedule = [.prefill, .decode, .decodeSplit].randomElement(using: &g) ?? .prefill
    if descriptor.schedule == .decodeSplit && Bool.random(using: &g) { descriptor.kind = .forwardMerge }
    descriptor.mask = AttentionKernelDescriptor.Mask.allCases.randomElement(using: &g) ?? .none
    (descriptor.hasSoftcap, descriptor.hasALiBi) = (Bool.random(using: &g), Bool.random(using: &g))
    (descriptor.hasSinks, descriptor.isVariableLength, descriptor.writesLogsumexp) = (
      Bool.random(using: &g), Bool.random(using: &g), Bool.random(using: &g)
    )
    return descriptor
  }

  /// Any descriptor has a kernel that fits every family, and whose parameters are the bindings that the host uses.
  func testTextOfAnyDescriptor() throws {
    var g = Generator(state: 2)
    for _ in 0..<400 {
      let descriptor = Self.random(&g)
      for family in DeviceProfile.Family.allCases {
        let kernel = try AttentionKernel(descriptor: descriptor, profile: DeviceProfile(family: family))
        let parameters = kernel.source.split(separator: "\n").filter { $0.contains("[[buffer(") }.map {
          $0.trimmingCharacters(in: .whitespaces)
        }
        XCTAssertEqual(parameters, kernel.bindings.map { $0.parameter + "," })
        XCTAssertLessThanOrEqual(kernel.threadgroupMemoryBytes, 32768)
        XCTAssertLessThanOrEqual(kernel.threadsPerThreadgroup, 512)
        XCTAssertFalse(kernel.source.contains("__"), "a private name")
        XCTAssertNil(
          kernel.source.firstMatch(of: #/[^:\w](?:exp2?|log2?|r?sqrt|tanh|powr?|divide)\(/#)?.output,
          "a function whose precision depends on the options")
        XCTAssertFalse(kernel.source.contains("\n\n\n"), "untidy")
      }
    }
  }

  /// The strict front end takes what the generator writes.
  func testAnyTextCompiles() throws {
    try GPUTestCase.requireDevice()
    var g = Generator(state: 3)
    for i in 0..<40 {
      let descriptor = Self.random(&g)
      let profile = DeviceProfile(family: DeviceProfile.Family.allCases[i % 3])
      do { _ = try TestDevice.shared.pipeline(AttentionKernel(descriptor: descriptor, profile: profile)) } catch {
        XCTFail("\(descriptor): \(error)")
      }
    }
  }
}

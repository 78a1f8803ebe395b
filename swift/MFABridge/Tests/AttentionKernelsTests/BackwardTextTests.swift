import Foundation
import XCTest

@testable import AttentionKernels

/// The text of representative backward kernels, reviewed like code. `UPDATE_GOLDEN=1 swift test --filter
/// BackwardTextTests` rewrites it.
final class BackwardTextTests: XCTestCase {
  private static let kernels: [(name: String, descriptor: AttentionKernelDescriptor)] = {
    var half = AttentionKernelDescriptor(
      kind: .backwardQuery, headDimension: 64, query: Operand(.FP16), key: Operand(.FP16), value: Operand(.FP16))
    half.gradOutput = Operand(.FP16)
    half.gradients = .from(.output)
    var halfKeys = half
    halfKeys.kind = .backwardKeyValue
    let rotated = QuantizationLayout(granularity: .row, hasMean: true, isRotated: true)
    var quantized = AttentionKernelDescriptor(
      kind: .backwardKeyValue, headDimension: 128, query: int8(QuantizationLayout(granularity: .block)),
      key: int8(rotated), value: int4())
    (quantized.isVariableLength, quantized.hasSoftcap, quantized.hasALiBi) = (true, true, true)
    quantized.gradients = .from(.given, clips: true)
    var large = AttentionKernelDescriptor(
      kind: .backwardQuery, headDimension: 512, query: Operand(.FP32), key: Operand(.FP32), value: Operand(.FP32))
    large.mask = .BOOL
    large.gradients = .all
    var rotatedValue = AttentionKernelDescriptor(
      kind: .backwardQuery, headDimension: 128, valueDimension: 72, query: Operand(.FP32), key: Operand(.FP32),
      value: int8(QuantizationLayout(granularity: .row, hasMean: true, isRotated: true)))
    rotatedValue.gradients = .all
    var mask = half
    (mask.kind, mask.mask) = (.backwardMask, .FP16)
    var sinks = half
    (sinks.kind, sinks.hasSinks) = (.backwardSinks, true)
    func inBrain(_ kind: AttentionKernelDescriptor.Kind) -> AttentionKernelDescriptor {
      let brain = Operand(.BF16)
      var d = AttentionKernelDescriptor(kind: kind, headDimension: 64, query: brain, key: brain, value: brain)
      (d.gradOutput, d.mask, d.gradients) = (brain, .BF16, .all)
      d.hasSinks = kind == .backwardSinks
      return d
    }
    let brains = [AttentionKernelDescriptor.Kind.backwardQuery, .backwardKeyValue, .backwardMask, .backwardSinks]
    return [
      ("backwardQuery_fp16", half), ("backwardKeyValue_fp16", halfKeys), ("backwardKeyValue_quantized", quantized),
      ("backwardQuery_512", large),
      ("backwardQuery_rotated", rotatedValue), ("backwardMask", mask), ("backwardSinks", sinks),
    ] + brains.map { ("\($0.rawValue)_bf16", inBrain($0)) }
  }()

  func testGoldenText() throws {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Golden")
    for (name, descriptor) in Self.kernels {
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
    for (name, descriptor) in Self.kernels {
      do {
        _ = try TestDevice.shared.pipeline(
          AttentionKernel(descriptor: descriptor, profile: DeviceProfile(family: .apple9)))
      } catch { XCTFail("\(name): \(error)") }
    }
  }

  /// The parameters of the text are the bindings that the host uses.
  func testBindingsAreTheParameters() throws {
    for (name, descriptor) in Self.kernels {
      let kernel = try AttentionKernel(descriptor: descriptor, profile: DeviceProfile(family: .apple9))
      let lines = kernel.source.split(separator: "\n").filter { $0.contains("[[buffer(") }.map {
        $0.trimmingCharacters(in: .whitespaces)
      }
      XCTAssertEqual(lines, kernel.bindings.map { $0.parameter + "," }, name)
    }
  }

  /// Every head dimension fits in the least threadgroup memory that a device has.
  func testHeadDimensionsFit() throws {
    let float = Operand(.FP32), half = Operand(.FP16),
      rotated = int8(QuantizationLayout(granularity: .row, hasMean: true, isRotated: true))
    let dimensions = [1, 64, 72, 128, 136, 192, 256, 264, 320, 384, 392, 448, 504, 512]
    for d in dimensions {
      for dv in dimensions {
        for x in [float, half, rotated] where x == float || d == dv {
          for kind in [AttentionKernelDescriptor.Kind.backwardQuery, .backwardKeyValue, .backwardMask] {
            var descriptor = AttentionKernelDescriptor(
              kind: kind, headDimension: d, valueDimension: dv, query: x, key: x, value: x)
            (descriptor.gradients, descriptor.mask) = (.all, .FP32)
            XCTAssertNoThrow(
              try AttentionKernel(descriptor: descriptor, profile: DeviceProfile(family: .apple7)),
              "\(kind) \(x.precision) \(d) and \(dv)")
          }
        }
      }
    }
  }

  /// Dimensions past 512: latent attention's 576 and 512 fit in every storage; of others each that does not fit is
  /// printed.
  func testLargeDimensionsFit() throws {
    let float = Operand(.FP32), half = Operand(.FP16), rows = int8(QuantizationLayout(granularity: .row))
    for (d, dv) in [(576, 512), (640, 640), (768, 768), (1024, 1024)] {
      for x in [float, half, rows] {
        for (kind, schedule) in [
          (AttentionKernelDescriptor.Kind.forward, AttentionKernelDescriptor.Schedule.prefill), (.forward, .decode),
          (.forward, .decodeSplit),
          (.backwardQuery, .prefill), (.backwardKeyValue, .prefill), (.backwardMask, .prefill),
        ] {
          var descriptor = AttentionKernelDescriptor(
            kind: kind, schedule: schedule, headDimension: d, valueDimension: dv, query: x, key: x, value: x)
          (descriptor.gradients, descriptor.mask) = (.all, .FP32)
          do { _ = try AttentionKernel(descriptor: descriptor, profile: DeviceProfile(family: .apple7)) } catch {
            print("\(kind) \(schedule) \(x.precision) \(d) and \(dv): \(error)")
            XCTAssertNotEqual(d, 576, "\(kind) \(schedule) \(x.precision): \(error)")
          }
        }
      }
    }
  }
}

import AttentionKernels
import CMFA
import Metal
import MetalAttention
import TestSupport
import XCTest

/// Numbers that Swift writes again are those of the header.
final class NumbersTests: GPUTestCase {
  func testCodes() {
    let precisions: [(ElementPrecision, mfa_precision)] = [
      (.fp32, MFA_PRECISION_FP32), (.fp16, MFA_PRECISION_FP16), (.bf16, MFA_PRECISION_BF16),
      (.int4, MFA_PRECISION_INT4),
      (.int8, MFA_PRECISION_INT8), (.bool, MFA_PRECISION_BOOL),
    ]
    for (ours, header) in precisions { XCTAssertEqual(UInt32(ours.rawValue), UInt32(header.rawValue)) }
    XCTAssertEqual(precisions.count, ElementPrecision.allCases.count)
    for precision in GEMMOperandPrecision.allCases {
      XCTAssertEqual(ElementPrecision(rawValue: precision.rawValue)?.description, "\(precision)")
    }
    let statuses: [(AttentionError.Status, mfa_status)] = [
      (.invalidContext, MFA_ERROR_INVALID_CONTEXT), (.bufferAllocation, MFA_ERROR_BUFFER_ALLOCATION),
      (.invalidDimensions, MFA_ERROR_INVALID_DIMENSIONS), (.kernelExecution, MFA_ERROR_KERNEL_EXECUTION),
      (.invalidArgument, MFA_ERROR_INVALID_ARGUMENT), (.unsupported, MFA_ERROR_UNSUPPORTED),
    ]
    for (ours, header) in statuses { XCTAssertEqual(UInt32(ours.rawValue), UInt32(header.rawValue)) }
    let granularities: [(QuantizationGranularity, mfa_granularity)] = [
      (.tensor, MFA_GRANULARITY_TENSOR), (.row, MFA_GRANULARITY_ROW), (.block, MFA_GRANULARITY_BLOCK),
      (.channel, MFA_GRANULARITY_CHANNEL),
    ]
    for (ours, header) in granularities { XCTAssertEqual(UInt32(ours.rawValue), UInt32(header.rawValue)) }
    XCTAssertEqual(UInt32(AttentionDescriptor.Alignment.topLeft.rawValue), UInt32(MFA_ALIGNMENT_TOP_LEFT.rawValue))
    XCTAssertEqual(
      UInt32(AttentionDescriptor.Alignment.bottomRight.rawValue), UInt32(MFA_ALIGNMENT_BOTTOM_RIGHT.rawValue))
  }

  func testFlags() {
    let pairs: [(UInt32, UInt32)] = [
      (OptionFlag.scale, UInt32(MFA_OPTION_SCALE.rawValue)), (OptionFlag.causal, UInt32(MFA_OPTION_CAUSAL.rawValue)),
      (OptionFlag.window, UInt32(MFA_OPTION_WINDOW.rawValue)),
      (BackwardFlag.dGiven, UInt32(MFA_BACKWARD_D_GIVEN.rawValue)),
      (BackwardFlag.clip, UInt32(MFA_BACKWARD_CLIP.rawValue)),
      (QuantizeFlag.asymmetric, UInt32(MFA_QUANTIZE_ASYMMETRIC.rawValue)),
      (QuantizeFlag.smooth, UInt32(MFA_QUANTIZE_SMOOTH.rawValue)),
      (QuantizeFlag.meanGiven, UInt32(MFA_QUANTIZE_MEAN_GIVEN.rawValue)),
      (QuantizeFlag.scaleGiven, UInt32(MFA_QUANTIZE_SCALE_GIVEN.rawValue)),
    ]
    for (ours, header) in pairs { XCTAssertEqual(ours, header) }
  }

  func testTextOfNumbers() {
    let expected: [(Float, String)] = [
      (0, "0"), (-0.5, "-0.5"), (1, "1"), (100_000, "100000"), (1e10, "10000000000"), (1.5e-7, "0.00000015"),
      (0.1, "0.1"),
      (.nan, "NaN"), (-.infinity, "-inf"), (3.4e38, "340000000000000000000000000000000000000"),
      (1234.5678, "1234.5677"),
    ]
    for (number, words) in expected { XCTAssertEqual(text(number), words) }
  }

  func testNamesAndText() {
    var (major, minor, patch): (UInt32, UInt32, UInt32) = (9, 9, 9)
    XCTAssertEqual(mfa_get_version(&major, &minor, &patch), 0)
    XCTAssertEqual([major, minor, patch], [MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH].map(UInt32.init))
    var length = 0
    XCTAssertEqual(mfa_device_name(0, nil, 0, &length), 0)
    var name = [CChar](repeating: 1, count: length + 1)
    XCTAssertEqual(mfa_device_name(0, &name, name.count, nil), 0)
    let whole = String(decoding: name.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    XCTAssertEqual(whole, MTLCreateSystemDefaultDevice()?.name)
    XCTAssertEqual(name.last, 0)
    var cut = [CChar](repeating: 1, count: 4)
    XCTAssertEqual(mfa_device_name(0, &cut, 3, &length), 0)
    XCTAssertEqual(cut, whole.utf8.prefix(2).map { CChar($0) } + [0, 1])
    XCTAssertEqual(length, whole.utf8.count)
    XCTAssertEqual(mfa_device_name(0, &name, Int(bitPattern: .max), nil), 0, "a capacity of SIZE_MAX")
  }

  func testKindVendorAndBackend() {
    var kind: Int32 = 0
    XCTAssertEqual(mfa_device_kind(0, &kind), 0)
    let backend = told(mfa_device_backend)
    let vendor = told(mfa_device_vendor)
    #if os(Linux)
      XCTAssertEqual(kind, Int32(MFA_DEVICE_CPU.rawValue), "the software device runs on the processor")
      XCTAssertEqual(vendor, "umfa")
    #else
      XCTAssertEqual(kind, Int32(MFA_DEVICE_GPU.rawValue))
      XCTAssertEqual(vendor, "Apple")
    #endif
    XCTAssertEqual(backend, "metal")
    let invalid = Int32(MFA_ERROR_INVALID_ARGUMENT.rawValue)
    XCTAssertEqual(mfa_device_kind(0, nil), invalid)
    XCTAssertEqual(mfa_device_kind(1000, &kind), invalid)
    var registryID: UInt64 = 0
    XCTAssertEqual(mfa_device_registry_id(0, &registryID), 0)
    XCTAssertEqual(registryID, MTLCreateSystemDefaultDevice()?.registryID)
    XCTAssertEqual(mfa_device_registry_id(0, nil), invalid)
    XCTAssertEqual(mfa_device_registry_id(1000, &registryID), invalid)
    for describe in [mfa_device_vendor, mfa_device_backend] {
      XCTAssertEqual(describe(0, nil, 8, nil), invalid)
      XCTAssertEqual(describe(1000, nil, 0, nil), invalid)
    }
  }

  /// The text that a function of the contract writes about the first device.
  private func told(
    _ describe: (UInt32, UnsafeMutablePointer<CChar>?, Int, UnsafeMutablePointer<Int>?) -> Int32
  ) -> String {
    var length = 0
    XCTAssertEqual(describe(0, nil, 0, &length), 0)
    var bytes = [CChar](repeating: 1, count: length + 1)
    XCTAssertEqual(describe(0, &bytes, bytes.count, nil), 0)
    XCTAssertEqual(bytes.last, 0)
    return String(decoding: bytes.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

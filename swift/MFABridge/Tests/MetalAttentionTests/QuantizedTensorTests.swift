import AttentionKernels
import Metal
import MetalAttention
import TestSupport
import XCTest

/// Quantization through the Swift API.
final class QuantizedTensorTests: GPUTestCase {
  private let device = MTLCreateSystemDefaultDevice()

  /// Numbers of both signs, none of them alike.
  private func numbers(_ count: Int) -> [Float] { (0..<count).map { sin(Float($0) * 0.7) * (1 + Float($0 % 5)) } }

  func testTensorWise() throws {
    let device = try XCTUnwrap(self.device)
    let x = numbers(2 * 3 * 16)
    let largest = try XCTUnwrap(x.map(abs).max())
    for (precision, steps) in [(GEMMOperandPrecision.INT8, Float(127)), (.INT4, 7)] {
      let tensor = try QuantizedTensor.from(device: device, floatData: x, shape: [2, 3, 16], precision: precision)
      XCTAssertEqual(tensor.parameters.scale, largest / steps)
      XCTAssertEqual(tensor.parameters.zeroPoint, 0)
      XCTAssertEqual(tensor.parameters.shape, [1, 2, 3, 16])
      let back = try tensor.dequantized()
      let worst = zip(x, back).map { abs($0 - $1) }.max() ?? .nan
      XCTAssertLessThanOrEqual(worst, tensor.parameters.scale / 2 * 1.0001)
      XCTAssertEqual(try XCTUnwrap(tensor.error).maxAbs, Double(worst), accuracy: 1e-6)
    }
  }

  func testEveryOption() throws {
    let device = try XCTUnwrap(self.device)
    // A column far from 0, which smoothing takes away.
    let x = numbers(2 * 37 * 40).enumerated().map { $0.offset % 40 == 3 ? $0.element + 50 : $0.element }
    var plain: [String: Double] = [:]
    for (granularity, rows, group) in [
      (QuantizationGranularity.tensor, 0, 0), (.row, 0, 0), (.row, 0, 32), (.block, 8, 0), (.channel, 16, 0),
    ] {
      for bits in 0..<16 {
        var options = QuantizationOptions(granularity: granularity, blockRows: rows, groupSize: group)
        options.isAsymmetric = bits & 1 != 0
        options.isSmoothed = bits & 2 != 0
        options.isRotated = bits & 4 != 0
        options.hasHalfScales = bits & 8 != 0
        let tensor = try QuantizedTensor.from(
          device: device, floatData: x, shape: [1, 2, 37, 40], precision: .INT8, options: options)
        let back = try tensor.dequantized()
        let squares: [Double] = zip(x, back).map { pair in
          let difference = Double(pair.0) - Double(pair.1)
          return difference * difference
        }
        let error = squares.reduce(0, +) / Double(x.count)
        let report = try XCTUnwrap(tensor.error)
        XCTAssertEqual(report.rmse, error.squareRoot(), accuracy: 1e-4 * report.rmse, "\(options)")
        XCTAssertLessThan(report.relativeRMSE, 0.02, "\(options)")
        let key = "\(granularity) \(group)"
        if bits == 0 { plain[key] = report.rmse }
        if bits == 2, granularity != .channel { XCTAssertLessThan(report.rmse, try XCTUnwrap(plain[key]) * 0.6, key) }
      }
    }
  }

  func testOneSubmission() throws {
    let device = try XCTUnwrap(self.device)
    let attention = try QuantizedAttention(device: device)
    let shape = [1, 2, 21, 24]
    let count = shape.reduce(1, *)
    func floats(_ phase: Float) throws -> AttentionTensor {
      let buffer = try XCTUnwrap(device.makeBuffer(length: 4 * count, options: .storageModeShared))
      for i in 0..<count {
        buffer.contents().storeBytes(of: sin(Float(i) * 0.3 + phase), toByteOffset: 4 * i, as: Float.self)
      }
      return AttentionTensor(buffer, shape: shape)
    }
    let (q, k, v) = (try floats(0), try floats(1), try floats(2))
    let (together, apart) = (try floats(3), try floats(4))
    for granularity in [QuantizationGranularity.tensor, .row] {
      var options = QuantizationOptions(granularity: granularity)
      options.isAsymmetric = true
      // Quantization and attention in one command buffer: the host has read no scale when attention is encoded.
      let commands = try attention.makeCommandBuffer()
      let key = try QuantizedTensor.encode(k, precision: .INT8, options: options, into: commands)
      let value = try QuantizedTensor.encode(v, precision: .INT4, options: options, into: commands)
      try attention.encodeForward(query: q, key: key, value: value, output: together, into: commands)
      try finish(commands)
      try key.finish()
      try value.finish()
      // The same in two.
      let second = try attention.forward(query: q, key: key, value: value, output: apart)
      try finish(second)
      for i in 0..<count {
        let a = together.buffer.contents().load(fromByteOffset: 4 * i, as: Float.self)
        let b = apart.buffer.contents().load(fromByteOffset: 4 * i, as: Float.self)
        XCTAssertEqual(a, b, accuracy: 1e-5, "\(granularity), element \(i)")
      }
    }
  }

  /// Rows as wide as the driver takes: with a row in threadgroup memory there is room for no more, and a step that has
  /// variables of its own there must not be given the row's.
  func testWidestRotatedRows() throws {
    let device = try XCTUnwrap(self.device), columns = 7680
    var options = QuantizationOptions(granularity: .row)
    options.isRotated = true
    let x = numbers(2 * columns)
    let tensor = try QuantizedTensor.from(
      device: device, floatData: x, shape: [2, columns], precision: .INT8, options: options)
    // The quantizer finds its error in the rotated domain, dequantizing rotates back: that keeps the sum of squares.
    let squares = try zip(x, tensor.dequantized()).reduce(0.0) { $0 + pow(Double($1.0 - $1.1), 2) }
    let rmse = (squares / Double(x.count)).squareRoot()
    XCTAssertEqual(try XCTUnwrap(tensor.error).rmse, rmse, accuracy: 1e-4 * rmse)
  }

  func testRefusals() throws {
    let device = try XCTUnwrap(self.device)
    func refused(
      _ x: [Float], _ shape: [Int], _ word: String, options: QuantizationOptions = .init(),
      _ precision: GEMMOperandPrecision = .INT8
    ) {
      XCTAssertThrowsError(
        try QuantizedTensor.from(device: device, floatData: x, shape: shape, precision: precision, options: options)
      ) { XCTAssert("\($0)".contains(word), "\($0) does not say \(word)") }
    }
    refused([1, .nan, 2, 3], [2, 2], "[0, 0, 0, 1] is not finite")
    refused([1, 2, 3, -.infinity], [2, 2], "[0, 0, 1, 1] is not finite")
    refused([1, 2, 3], [2, 2], "expected 4 for shape [2, 2]")
    refused([1, 2, 3], [1, 3], "3 columns of INT4", .INT4)
    refused([1, 2], [-1, 2], "no number below 0")
    refused([1, 2], [.max, .max, .max, .max], "expected 18446744073709551615")
    refused([1, 2], [], "0 dimensions")
    refused([1, 2], [1, 2], "precision is FP32; expected INT8, INT4", .FP32)
    refused([1, 2], [1, 2], "block_rows is 0", options: QuantizationOptions(granularity: .block))
    refused([1, 2], [1, 2], "group_size is 7", options: QuantizationOptions(granularity: .row, groupSize: 7))
    refused([1, 2], [1, 2], "blockRows is -1", options: QuantizationOptions(granularity: .block, blockRows: -1))
    var half = QuantizationOptions()
    half.hasHalfScales = true
    refused([1e9, 2], [1, 2], "FP16 scales may overflow", options: half)
  }

  func testEmpty() throws {
    let device = try XCTUnwrap(self.device)
    let tensor = try QuantizedTensor.from(device: device, floatData: [], shape: [1, 1, 0, 8], precision: .INT8)
    XCTAssertEqual(tensor.parameters.scale, 1)
    XCTAssertEqual(try tensor.dequantized(), [])
    XCTAssertEqual(tensor.error, QuantizationError())
  }

  private func finish(_ commands: any MTLCommandBuffer) throws {
    commands.commit()
    commands.waitUntilCompleted()
    if let error = commands.error { throw error }
  }
}

/// The run-time data of the quantization kernels. `fields` is the one definition of the layout: `bytes` and
/// `structText` are made from it.
struct QuantizationArguments {
  /// Elements from the start of a buffer.
  struct Strides {
    var offset: Int
    var steps: SIMD4<Int>
  }

  var shape: SIMD4<Int>
  /// Of the real numbers.
  var source: Strides
  var sourcePrecision: ElementPrecision
  /// Of the stored integers.
  var codes: Strides
  var codePrecision: ElementPrecision
  var scales: Strides
  var scaleBytes: Int
  var zeroPointOffset = 0
  var zeroPointBytes = 0
  var blockRows: Int
  /// Columns that share a scale.
  var group: Int
  var meanOffset: Int?
  /// The size of the rotation's blocks; 0: not rotated.
  var rotation = 0
  var asymmetric = false
  /// The source's largest magnitude for which FP16 holds the scales.
  var largestAllowed: Float?
  var wantsError = false

  private enum Value {
    case long(Int)
    case strides(Strides)
  }

  private var fields: [(name: String, value: Value)] {
    [
      ("batches", .long(shape.x)),
      ("heads", .long(shape.y)),
      ("rows", .long(shape.z)),
      ("columns", .long(shape.w)),
      ("source", .strides(source)),
      ("source_precision", .long(Int(sourcePrecision.rawValue))),
      ("codes", .strides(codes)),
      ("code_precision", .long(Int(codePrecision.rawValue))),
      ("scales", .strides(scales)),
      ("scale_bytes", .long(scaleBytes)),
      ("zero_point_offset", .long(zeroPointOffset)),
      ("zero_point_bytes", .long(zeroPointBytes)),
      ("block_rows", .long(blockRows)),
      ("group", .long(group)),
      ("has_mean", .long(meanOffset == nil ? 0 : 1)),
      ("mean_offset", .long(meanOffset ?? 0)),
      ("rotation", .long(rotation)),
      ("asymmetric", .long(asymmetric ? 1 : 0)),
      ("limits_scale", .long(largestAllowed == nil ? 0 : 1)),
      ("largest_allowed", .long(Int((largestAllowed ?? 0).bitPattern))),
      ("wants_error", .long(wantsError ? 1 : 0)),
    ]
  }

  var bytes: [UInt8] {
    var result: [UInt8] = []
    func append(_ number: Int) { withUnsafeBytes(of: Int64(number).littleEndian) { result.append(contentsOf: $0) } }
    for field in fields {
      switch field.value {
      case .long(let number): append(number)
      case .strides(let strides): for number in [strides.offset] + strides.steps.list { append(number) }
      }
    }
    return result
  }

  static var structText: String {
    let none = Strides(offset: 0, steps: SIMD4(repeating: 0))
    let blank = QuantizationArguments(
      shape: none.steps, source: none, sourcePrecision: .fp32, codes: none, codePrecision: .int8, scales: none,
      scaleBytes: 4,
      blockRows: 1, group: 1)
    let members = blank.fields.map { field in
      if case .strides = field.value { return "  Strides \(field.name);" }
      return "  long \(field.name);"
    }
    return """
      // Where element [batch, head, row, column] lies, in elements.
      struct Strides {
        long offset, batch, head, row, column;
      };

      struct Arguments {
      \(members.joined(separator: "\n"))
      };
      """
  }
}

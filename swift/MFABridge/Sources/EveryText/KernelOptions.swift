import AttentionKernels

/// A kind of kernel, with the options that change its text.
package struct KernelFamily: Sendable {
  package let name: String
  let start: KernelChoice
  let options: [KernelOption]
  /// Makes a kernel of values that were chosen one by one: those that exclude each other give way.
  let settle: @Sendable (inout KernelChoice) -> Void

  package static let all: [KernelFamily] =
    AttentionKernelDescriptor.Schedule.allCases.map(forward) + [
      forwardMerge, backwardQuery, backwardKeyValue, backwardMask, backwardSinks,
    ]

  private init(
    _ name: String, _ kind: AttentionKernelDescriptor.Kind, schedule: AttentionKernelDescriptor.Schedule = .prefill,
    _ options: [KernelOption], settle: @escaping @Sendable (inout KernelChoice) -> Void = { _ in }
  ) {
    self.name = name
    self.options = options
    self.settle = settle
    var descriptor = AttentionKernelDescriptor(
      kind: kind, schedule: schedule, headDimension: 64, query: .init(.FP32), key: .init(.FP32), value: .init(.FP32))
    descriptor.gradients.query = kind == .backwardQuery
    descriptor.gradients.key = kind == .backwardKeyValue
    descriptor.gradients.value = kind == .backwardKeyValue
    // The gradient of a mask needs one.
    if kind == .backwardMask { descriptor.mask = .FP32 }
    descriptor.hasSinks = kind == .backwardSinks
    start = KernelChoice(descriptor: descriptor, family: .apple9)
  }

  // MARK: Kinds

  private static func forward(_ schedule: AttentionKernelDescriptor.Schedule) -> KernelFamily {
    // With split-K, results are the merge's.
    KernelFamily(
      "\(schedule)", .forward, schedule: schedule,
      [device, columns] + operand("Q", \.query) + operand("K", \.key) + operand("V", \.value)
        + scores(AttentionKernelDescriptor.Mask.allCases) + (schedule == .decodeSplit ? [] : results))
  }

  private static let forwardMerge = KernelFamily(
    "forwardMerge", .forwardMerge, schedule: .decodeSplit,
    [
      KernelOption("columns", [1, 64], \.valueDimension),
      KernelOption("O", floats, \.output.precision),
    ] + sinks + [variableLength, keyLengths, writesLogsumexp])

  private static let backwardQuery = KernelFamily(
    "backwardQuery", .backwardQuery,
    backward(AttentionKernelDescriptor.Mask.allCases) + [
      KernelOption("dQ", [true, false], \.gradients.query),
      sourceOfD,
      KernelOption("writes D", [true, false], needs: [sourceOfD.need { $0 != "given" }], \.gradients.writesD),
      KernelOption("O", floats, needs: [sourceOfD.need { $0 == "output" }], \.output.precision),
      KernelOption(
        "O access", AttentionKernelDescriptor.Access.allCases, needs: [sourceOfD.need { $0 == "output" }],
        \.output.access),
      clips, ofLogsumexp,
    ]
  ) { choice in
    // Without dQ there is D to be found.
    if !choice.descriptor.gradients.query {
      if choice.descriptor.gradients.dSource == .given { choice.descriptor.gradients.dSource = .probabilities }
      choice.descriptor.gradients.writesD = true
    }
  }

  private static let backwardKeyValue = KernelFamily(
    "backwardKeyValue", .backwardKeyValue,
    backward(AttentionKernelDescriptor.Mask.allCases) + [
      KernelOption("dK", [true, false], \.gradients.key), KernelOption("dV", [true, false], \.gradients.value), clips,
      ofLogsumexp,
    ]
  ) { choice in
    if !choice.descriptor.gradients.key { choice.descriptor.gradients.value = true }
  }

  private static let backwardMask = KernelFamily(
    "backwardMask", .backwardMask, backward([.FP32, .FP16, .BF16]) + [ofLogsumexp])

  private static let backwardSinks = KernelFamily(
    "backwardSinks", .backwardSinks, [KernelOption("sinks", floats, \.sinkPrecision), ofLogsumexp])

  // MARK: Options

  private static let floats: [GEMMOperandPrecision] = GEMMOperandPrecision.allCases.filter { !$0.isInteger }

  private static let device = KernelOption(
    "device", DeviceProfile.Family.allCases, get: { $0.family }, set: { $0.family = $1 })

  /// Columns of Q and K, and of V and O. Both sides of every limit of the text: odd, multiples of 4, 8, 16 and 32
  /// (loads, interleaving, tiles), powers of two (the rotation spans all), columns that one, two, four or eight SIMD
  /// groups hold, with and without padding, tiles that two operands share, and those that models have.
  private static let columns = KernelOption(
    "columns",
    [
      [64, 64], [128, 128], [1, 1], [20, 20], [72, 72], [80, 80], [96, 96], [192, 192], [256, 256], [264, 264],
      [512, 512], [640, 640], [1024, 1024], [192, 128], [576, 512], [33, 7], [128, 72],
    ],
    get: { [$0.descriptor.headDimension, $0.descriptor.valueDimension] },
    set: { ($0.descriptor.headDimension, $0.descriptor.valueDimension) = ($1[0], $1[1]) })

  /// A stored operand, with its quantization.
  private static func operand(
    _ name: String,
    _ path: WritableKeyPath<AttentionKernelDescriptor, AttentionKernelDescriptor.Operand> & Sendable
  ) -> [KernelOption] {
    let precision = KernelOption(
      name, GEMMOperandPrecision.allCases, get: { $0.descriptor[keyPath: path].precision },
      set: {
        $0.descriptor[keyPath: path].precision = $1
        $0.descriptor[keyPath: path].quantization = $1.isInteger ? QuantizationLayout() : nil
      })
    let isInteger = precision.need { $0.hasPrefix("INT") }
    func layout<Value: Hashable & Sendable>(
      _ option: String, _ values: [Value], _ property: WritableKeyPath<QuantizationLayout, Value> & Sendable,
      needs: [KernelOption.Need] = []
    ) -> KernelOption {
      KernelOption(
        "\(name) \(option)", values, needs: [isInteger] + needs,
        get: { $0.descriptor[keyPath: path].quantization?[keyPath: property] },
        set: { $0.descriptor[keyPath: path].quantization?[keyPath: property] = $1 })
    }
    let granularity = layout("granularity", QuantizationLayout.Granularity.allCases, \.granularity)
    let hasArray = granularity.need { $0 != "tensor" }
    return [
      precision,
      KernelOption(
        "\(name) access", AttentionKernelDescriptor.Access.allCases, get: { $0.descriptor[keyPath: path].access },
        set: {
          // Two elements of a byte are of one row.
          let isPacked = $0.descriptor[keyPath: path].precision == .INT4
          $0.descriptor[keyPath: path].access = isPacked && $1 == .transposed ? .strided : $1
        }),
      granularity,
      layout("scales", QuantizationLayout.ScaleStorage.allCases, \.scaleStorage, needs: [hasArray]),
      layout("zero points", QuantizationLayout.ZeroPoints.allCases, \.zeroPoints, needs: [hasArray]),
      layout("symmetric", [false, true], \.isSymmetric, needs: [granularity.need { $0 == "tensor" }]),
      layout("mean", [false, true], \.hasMean),
      layout("rotated", [false, true], \.isRotated),
    ]
  }

  private static func scores(_ masks: [AttentionKernelDescriptor.Mask]) -> [KernelOption] {
    [
      KernelOption("mask", masks, \.mask),
      KernelOption("softcap", [false, true], \.hasSoftcap),
      hasALiBi, KernelOption("slopes", floats, needs: [hasALiBi.need { $0 == "true" }], \.slopePrecision),
      variableLength, keyLengths,
    ]
  }

  private static let variableLength = KernelOption("variable length", [false, true], \.isVariableLength)
  private static let keyLengths = KernelOption("key lengths", [false, true], \.hasKeyLengths)
  private static let writesLogsumexp = KernelOption("logsumexp", [false, true], \.writesLogsumexp)
  private static let clips = KernelOption("clips", [false, true], \.gradients.clips)
  private static let ofLogsumexp = KernelOption("gradient of logsumexp", [false, true], \.gradients.ofLogsumexp)

  private static let hasALiBi = KernelOption("ALiBi", [false, true], \.hasALiBi)
  private static let hasSinks = KernelOption("has sinks", [false, true], \.hasSinks)
  private static let sinks = [
    hasSinks, KernelOption("sinks", floats, needs: [hasSinks.need { $0 == "true" }], \.sinkPrecision),
  ]
  private static let sourceOfD = KernelOption(
    "D from", AttentionKernelDescriptor.Gradients.DSource.allCases, \.gradients.dSource)

  private static let results =
    [
      KernelOption("O", floats, \.output.precision),
      KernelOption("O access", AttentionKernelDescriptor.Access.allCases, \.output.access), writesLogsumexp,
    ] + sinks

  private static func backward(_ masks: [AttentionKernelDescriptor.Mask]) -> [KernelOption] {
    [device, columns] + operand("Q", \.query) + operand("K", \.key) + operand("V", \.value) + scores(masks) + [
      KernelOption("dO", floats, \.gradOutput.precision),
      KernelOption("dO access", AttentionKernelDescriptor.Access.allCases, \.gradOutput.access),
    ]
  }
}

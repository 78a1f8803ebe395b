/// The pieces of text that say which rows a lane stands for, and which keys they see.
enum RowsText {
  /// Declares batch, sequence, query_rows (and with varlen query_start). `z` counts batches or sequences.
  static func batch(_ descriptor: AttentionKernelDescriptor, z: String) -> String {
    descriptor.isVariableLength
      ? """
        const uint batch = 0, sequence = \(z);
        const int query_start = cumulative_q[args.cumulative_q_offset + sequence];
        const int query_rows = cumulative_q[args.cumulative_q_offset + sequence + 1] - query_start;
        """
      : """
        const uint batch = \(z), sequence = batch;
        const int query_rows = args.query_rows;
        """
  }

  /// Declares what `batch` does and key_rows (with varlen key_start), shift.
  static func sequence(_ descriptor: AttentionKernelDescriptor, z: String) -> String {
    let stored = descriptor.isVariableLength ? "cumulative_k[args.cumulative_k_offset + sequence + 1] - key_start" : "args.key_rows"
    let (lengths, own) = (descriptor.hasKeyLengths, descriptor.kind == .backwardKeyValue)
    let keys = Text.lines(
      when(descriptor.isVariableLength, "const int key_start = cumulative_k[args.cumulative_k_offset + sequence];"),
      when(lengths && own, "const int stored_keys = \(stored);"),
      "const int key_rows = \(lengths ? "cumulative_k[args.key_lengths_offset + sequence]" : stored);")
    return """
      \(batch(descriptor, z: z))
      \(keys)
      const int shift = args.bottom_right ? key_rows - query_rows : 0;  // row i stands at key position i + shift
      """
  }

  /// The interval of keys that a row sees: `[lowest, highest)`.
  static func lowest(_ row: String) -> String { "max(0, \(row) + shift - args.window_left)" }
  static func highest(_ row: String) -> String { "min(key_rows, \(row) + shift + args.window_right + 1)" }

  /// The slope of a head. A sequence without keys may be one that has none: rows after the last one.
  static func slope(_ descriptor: AttentionKernelDescriptor) -> String {
    let slope = "float(slopes[args.slopes.offset + sequence * args.slopes.batch + head * args.slopes.head])"
    return descriptor.isVariableLength && descriptor.hasKeyLengths ? "key_rows > 0 ? \(slope) : 0.0f" : slope
  }

  /// Declares what a lane's row needs of the bias: position, mask_row, slope. Needs batch, sequence, head, row.
  static func bias(_ descriptor: AttentionKernelDescriptor) -> String {
    let mask = switch descriptor.mask {
    case .none: ""
    case .BOOL: "uchar"
    case .FP32: "float"
    case .FP16: "half"
    case .BF16: "bfloat"
    }
    return Text.lines(
      when(descriptor.hasALiBi, "const int position = row + shift;"),
      when(descriptor.hasALiBi, "const float slope = \(slope(descriptor));"),
      when(!mask.isEmpty, "const device \(mask) *mask_row = mask + args.mask.offset + sequence * args.mask.batch + head * args.mask.head + row * args.mask.row;"))
  }

  /// The sum over the four lanes that have a row.
  static func sumOfRow(_ variable: String) -> String {
    """
    \(variable) += simd_shuffle_xor(\(variable), 1);
    \(variable) += simd_shuffle_xor(\(variable), 8);
    """
  }
}

/// The pieces of text that turn Q Kᵀ into scores.
struct ScoreText {
  let descriptor: AttentionKernelDescriptor
  let key: OperandText

  init(_ descriptor: AttentionKernelDescriptor) {
    self.descriptor = descriptor
    key = OperandText(.K, descriptor)
  }

  static let log2e = "1.4426950408889634f"

  /// e to a power. Scores are natural: times log₂ e they could leave FP32, a difference of two that does is 0 as a power anyway.
  func exp(_ x: String) -> String { "exp2((\(x)) * \(Self.log2e))" }

  /// Every element must be looked at, not only those at the edge of the interval.
  var hasMask: Bool { descriptor.mask != .none }

  /// Statements for a lane's pair `float2 s` of Q Kᵀ at keys `column`, `column + 1`: scale, mean, softcap, ALiBi.
  /// - Parameters:
  ///   - keyScale: the float2 of the keys' scales, for `factor == .row`.
  ///   - slope: a float2 variable that receives d(capped) / d(raw), for gradients.
  func scores(keyScale: String, slope: String? = nil) -> String {
    Text.lines(
      "s *= score_scale\(key.factor == .row ? " * \(keyScale)" : "");",
      when(key.layout?.hasMean == true, "s += mean_score;"),
      when(
        descriptor.hasSoftcap,
        """
        const float2 capped = precise::tanh(s / args.softcap);
        s = args.softcap * capped;
        """),
      when(descriptor.hasSoftcap && slope != nil, "\(slope ?? "") = 1.0f - capped * capped;"),
      when(descriptor.hasALiBi, "s -= slope * float2(abs(position - column), abs(position - column - 1));"))
  }

  /// Statements for one element `s[e]` at key `at`: declares `visible`, adds an additive mask.
  /// A hidden key's score is whatever it is, and must not be used.
  var visibility: String {
    Text.lines(
      "bool visible = at >= lowest && at < highest;",
      when(descriptor.mask == .BOOL, "visible = visible && mask_row[at * args.mask.column] != 0;"),
      when(
        descriptor.mask != .BOOL && descriptor.mask != .none,
        """
        if (visible) {
          const float bias = float(mask_row[at * args.mask.column]);
          s[e] += bias;
          visible = bias != -INFINITY;
        }
        """))
  }
}

import Metal

/// The options of attention: S = scale · Q Kᵀ; S = c · tanh(S / c) if there is a softcap; S += mask and
/// ALiBi; P = softmax(S); O = P V.
public struct AttentionDescriptor {
  /// The diagonal of causal masks, windows and ALiBi: query row i has key position i + shift.
  public enum Alignment: Int32, Sendable {
    /// shift = 0, as PyTorch's `is_causal`.
    case topLeft = 0
    /// shift = rows of key − rows of query, as in decoding.
    case bottomRight = 1
  }

  /// Sequences packed along the rows of one batch: `Int32` bounds from 0, never falling, to the number of rows.
  public struct PackedSequences {
    public var count: Int
    public var cumulativeQueryLengths: any MTLBuffer
    public var cumulativeKeyLengths: any MTLBuffer
    public var queryByteOffset = 0
    public var keyByteOffset = 0

    public init(count: Int, cumulativeQueryLengths: any MTLBuffer, cumulativeKeyLengths: any MTLBuffer) {
      self.count = count
      self.cumulativeQueryLengths = cumulativeQueryLengths
      self.cumulativeKeyLengths = cumulativeKeyLengths
    }
  }

  /// nil: 1 / √(columns of query).
  public var softmaxScale: Float?
  /// 0: none.
  public var softcap: Float = 0
  /// Row i attends to key positions ≤ i + shift.
  public var isCausal = false
  public var alignment = Alignment.topLeft
  /// Key positions in row i's range before and after its own; nil: no limit.
  public var windowLeft: Int?
  public var windowRight: Int?
  /// Booleans (true = attend), or numbers that are added: `[batch, heads, rows of query, rows of key]`, dimensions of 1
  /// broadcast.
  public var mask: AttentionTensor?
  /// FP32 `[batch or 1, heads, 1, 1]`: −slope · |i + shift − j| is added.
  public var alibiSlopes: AttentionTensor?
  /// FP32 `[1, heads, 1, 1]`: exp(sink) is added to the denominator of each row.
  public var sinks: AttentionTensor?
  public var packedSequences: PackedSequences?

  public init() {}

  func description() throws(AttentionError) -> OptionsDescription {
    var result = OptionsDescription()
    if let softmaxScale { (result.flags, result.softmaxScale) = (OptionFlag.scale, softmaxScale) }
    result.softcap = softcap
    if isCausal { result.flags |= OptionFlag.causal }
    result.alignment = alignment.rawValue
    if windowLeft != nil || windowRight != nil {
      result.flags |= OptionFlag.window
      result.windowLeft = Int64(windowLeft ?? -1)
      result.windowRight = Int64(windowRight ?? -1)
    }
    if let mask { result.mask = try mask.description("mask") }
    if let alibiSlopes { result.alibiSlopes = try alibiSlopes.description("alibi_slopes") }
    if let sinks { result.sinks = try sinks.description("sinks") }
    if let packed = packedSequences {
      result.sequenceCount = try exactly(packed.count, "packedSequences.count")
      result.cuSeqlensQ = .present(AttentionBuffer(packed.cumulativeQueryLengths))
      result.cuSeqlensK = .present(AttentionBuffer(packed.cumulativeKeyLengths))
      result.cuSeqlensQOffset = try exactly(packed.queryByteOffset, "packedSequences.queryByteOffset")
      result.cuSeqlensKOffset = try exactly(packed.keyByteOffset, "packedSequences.keyByteOffset")
    }
    return result
  }
}

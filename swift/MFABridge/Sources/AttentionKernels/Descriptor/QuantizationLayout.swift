/// The layout of an integer operand's scales and zero points, as far as it changes the text of a kernel.
/// Sizes (rows of a block), strides and offsets are in `AttentionArguments`.
///
/// real = scale · (n − zero point), then the Hadamard rotation of each row if `isRotated`, then plus the mean if
/// `hasMean`.
public struct QuantizationLayout: Hashable, Sendable {
  public enum Granularity: Hashable, Sendable, CaseIterable {
    /// One scale, in the bindings `.scale` and `.zeroPoint`: `constant float &`, `constant int32_t &`.
    case tensor
    /// One scale, in element 0 of the bindings `.scales` and `.zeroPoints`: for scales that are in a device buffer.
    case tensorInBuffer
    /// One scale for each row.
    case row
    /// One scale for each group of 32 or 64 columns of a row.
    case rowGroups(of: Int)
    /// One scale for each block of rows; `AttentionArguments.blockRows` says how many.
    case block
    /// One scale for each column of a block of rows; `AttentionArguments.blockRows` says how many.
    case channel

    public static let allCases: [Granularity] = [
      .tensor, .tensorInBuffer, .row, .rowGroups(of: 32), .rowGroups(of: 64), .block, .channel,
    ]
  }
  public enum ScaleStorage: Hashable, Sendable, CaseIterable { case FP32, FP16 }
  public enum ZeroPoints: Hashable, Sendable, CaseIterable {
    /// All are 0. (With `.tensor` the scalar is bound and honoured all the same.)
    case none
    case int8
    case int32
  }

  public var granularity: Granularity
  /// Of the binding `.scales`.
  public var scaleStorage: ScaleStorage
  /// Of the binding `.zeroPoints`, which has the shape and strides of the scales.
  public var zeroPoints: ZeroPoints
  /// The binding `.mean`, FP32 [batch, heads, columns], is added to every row.
  public var hasMean: Bool
  public var isRotated: Bool
  /// With `.tensor`: the zero point is promised to be 0 (symmetric quantization), and is bound but not subtracted.
  public var isSymmetric: Bool

  public init(
    granularity: Granularity = .tensor, scaleStorage: ScaleStorage = .FP32, zeroPoints: ZeroPoints = .none,
    hasMean: Bool = false,
    isRotated: Bool = false, isSymmetric: Bool = false
  ) {
    self.granularity = granularity
    self.scaleStorage = scaleStorage
    self.zeroPoints = zeroPoints
    self.hasMean = hasMean
    self.isRotated = isRotated
    self.isSymmetric = isSymmetric
  }

  /// Scales are in a buffer of their own rather than in a constant.
  public var hasScaleArray: Bool { granularity != .tensor }
}

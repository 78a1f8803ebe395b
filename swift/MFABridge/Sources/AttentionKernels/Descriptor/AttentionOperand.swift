/// The matrices of attention. `description` is their name in the text of a kernel.
public enum AttentionOperand: String, Hashable, Sendable, CaseIterable, CustomStringConvertible {
  case Q, K, V, O
  /// Natural logsumexp of each query row, FP32.
  case L
  /// D = rowsum(dO ∘ O) = Σⱼ Pᵢⱼ dPᵢⱼ of each query row, FP32.
  case D
  case dO, dQ, dK, dV

  public var description: String { rawValue }

  /// The prefix of names in the text that belong to this operand: `q_scale`, `k_zero_point`.
  public var lowercase: String {
    switch self {
    case .dO, .dQ, .dK, .dV: "d" + rawValue.dropFirst().lowercased()
    default: rawValue.lowercased()
    }
  }

  /// Operands that may be stored as integers.
  public static let quantizable: [AttentionOperand] = [.Q, .K, .V]
}

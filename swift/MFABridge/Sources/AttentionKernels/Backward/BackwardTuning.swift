/// Tuning of the backward kernels, as data.
enum BackwardTuning {
  struct Row: Sendable {
    let families: ClosedRange<DeviceProfile.Family>
    /// Registers of 32 bits that a lane may spend on its strip's operands and sums; beyond it, SIMD groups share a
    /// strip.
    let registers: Int
    /// SIMD groups of a threadgroup, without and with sharing.
    let simdgroups: Int, sharing: Int
    /// Bytes of the two tiles.
    let tileBytes: Int
    /// Most rows of a tile, without and with sharing.
    let rows: Int, sharedRows: Int
    /// Origin of the row.
    let source: String
  }

  static let rows: [Row] = [
    Row(
      families: .apple7 ... .apple9, registers: 96, simdgroups: 4, sharing: 8, tileBytes: 20480, rows: 32,
      sharedRows: 16,
      source:
        "chosen by model, not measured: a lane has 128 registers, of which two strips of scores and addresses need "
        + "some 30"
    )
  ]

  static func row(_ profile: DeviceProfile) -> Row { rows.first { $0.families.contains(profile.family) } ?? rows[0] }
}

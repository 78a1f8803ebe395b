/// Tuning of the forward kernels, as data.
enum ForwardTuning {
  /// Rows (query rows times the query heads of a key head) up to which the decode schedule is taken. Chosen by model,
  /// not measured: above it, dequantizing K and V once for 32 rows costs less than once for each strip of 8.
  static let decodeRows = 16
  /// Threadgroups that keep a core busy. Chosen by model, not measured.
  static let threadgroupsPerCore = 4
  /// Keys below which another split costs more than it saves. Chosen by model, not measured.
  static let keysPerSplit = 256

  struct Row: Sendable {
    let families: ClosedRange<DeviceProfile.Family>
    /// Registers of 32 bits that a lane may spend on its strip of Q and O (with its excess); beyond it, SIMD groups
    /// share a strip.
    let registers: Int
    /// SIMD groups of a threadgroup, without and with sharing.
    let simdgroups: Int, sharing: Int
    /// Bytes of a tile of K or V.
    let tileBytes: Int
    /// Most keys of a tile.
    let keys: Int
    /// Origin of the row.
    let source: String
  }

  /// A lane has 128 registers; scores, addresses and the tile on its way need some 30.
  static let rows: [Row] = [
    Row(
      families: .apple7 ... .apple8, registers: 96, simdgroups: 4, sharing: 8, tileBytes: 10240, keys: 32,
      source: "chosen by model, not measured: three threadgroups fit in a core's threadgroup memory"),
    Row(
      families: .apple9 ... .apple9, registers: 96, simdgroups: 4, sharing: 8, tileBytes: 20480, keys: 64,
      source:
        "chosen by model, not measured: registers and threadgroup memory share a cache, so larger tiles cost less "
        + "occupancy"
    ),
  ]

  static func row(_ profile: DeviceProfile) -> Row { rows.first { $0.families.contains(profile.family) } ?? rows[0] }
}

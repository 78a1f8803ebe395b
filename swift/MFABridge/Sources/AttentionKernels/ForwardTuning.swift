/// Tuning of the forward kernels, as data.
enum ForwardTuning {
  /// Rows (query rows times the query heads of a key head) up to which the decode schedule is taken.
  /// Chosen by model, not measured: above it, expanding K and V once for 32 rows costs less than once for each strip of 8.
  static let decodeRows = 16
  /// Threadgroups that keep a core busy. Chosen by model, not measured.
  static let threadgroupsPerCore = 4
  /// Keys below which another split costs more than it saves. Chosen by model, not measured.
  static let keysPerSplit = 256
}

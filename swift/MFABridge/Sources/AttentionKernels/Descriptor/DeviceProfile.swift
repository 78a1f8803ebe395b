/// The properties of a device that the generator uses. A pure value: tests make any of them on any machine.
public struct DeviceProfile: Hashable, Sendable {
  public enum Family: Int, Hashable, Sendable, CaseIterable, Comparable {
    /// M1, A14
    case apple7 = 7
    /// M2, A15, A16
    case apple8 = 8
    /// M3 and later, A17 and later
    case apple9 = 9
    public static func < (a: Family, b: Family) -> Bool { a.rawValue < b.rawValue }
  }
  public var family: Family
  /// Bytes of threadgroup memory that a threadgroup may have.
  public var threadgroupMemory: Int
  /// Cores of the GPU: how many threadgroups it takes to fill it.
  public var cores: Int

  public init(family: Family, threadgroupMemory: Int = 32768, cores: Int = 10) {
    self.family = family
    self.threadgroupMemory = threadgroupMemory
    self.cores = cores
  }
}

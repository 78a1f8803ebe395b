@_exported import Foundation

// MARK: - Sizes and places

public struct MTLSize: Equatable, Hashable, Sendable {
  public var width: Int, height: Int, depth: Int
  public init() { self.init(width: 0, height: 0, depth: 0) }
  public init(width: Int, height: Int, depth: Int) { (self.width, self.height, self.depth) = (width, height, depth) }
}
public func MTLSizeMake(_ width: Int, _ height: Int, _ depth: Int) -> MTLSize {
  MTLSize(width: width, height: height, depth: depth)
}

public struct MTLOrigin: Equatable, Hashable, Sendable {
  public var x: Int, y: Int, z: Int
  public init() { self.init(x: 0, y: 0, z: 0) }
  public init(x: Int, y: Int, z: Int) { (self.x, self.y, self.z) = (x, y, z) }
}
public func MTLOriginMake(_ x: Int, _ y: Int, _ z: Int) -> MTLOrigin { MTLOrigin(x: x, y: y, z: z) }

public struct MTLRegion: Equatable, Hashable, Sendable {
  public var origin: MTLOrigin, size: MTLSize
  public init() { self.init(origin: MTLOrigin(), size: MTLSize()) }
  public init(origin: MTLOrigin, size: MTLSize) { (self.origin, self.size) = (origin, size) }
}

/// The arguments of an indirect dispatch, as in its buffer.
public struct MTLDispatchThreadgroupsIndirectArguments: Sendable {
  public var threadgroupsPerGrid: (UInt32, UInt32, UInt32)
  public init() { threadgroupsPerGrid = (0, 0, 0) }
  public init(threadgroupsPerGrid: (UInt32, UInt32, UInt32)) { self.threadgroupsPerGrid = threadgroupsPerGrid }
}

// MARK: - Options

public struct MTLResourceOptions: OptionSet, Sendable {
  public let rawValue: UInt
  public init(rawValue: UInt) { self.rawValue = rawValue }
  public static let cpuCacheModeWriteCombined = MTLResourceOptions(rawValue: 1)
  public static let storageModeShared: MTLResourceOptions = []
  public static let storageModeManaged = MTLResourceOptions(rawValue: 1 << 4)
  public static let storageModePrivate = MTLResourceOptions(rawValue: 2 << 4)
  public static let storageModeMemoryless = MTLResourceOptions(rawValue: 3 << 4)
  public static let hazardTrackingModeUntracked = MTLResourceOptions(rawValue: 1 << 8)
  public static let hazardTrackingModeTracked = MTLResourceOptions(rawValue: 2 << 8)
}
public enum MTLStorageMode: UInt, Sendable { case shared, managed, `private`, memoryless }
public enum MTLCPUCacheMode: UInt, Sendable { case defaultCache, writeCombined }
public enum MTLHazardTrackingMode: UInt, Sendable { case `default`, untracked, tracked }
public enum MTLPurgeableState: UInt, Sendable { case keepCurrent = 1, nonVolatile, volatile, empty }
public struct MTLResourceUsage: OptionSet, Sendable {
  public let rawValue: UInt
  public init(rawValue: UInt) { self.rawValue = rawValue }
  public static let read = MTLResourceUsage(rawValue: 1)
  public static let write = MTLResourceUsage(rawValue: 2)
}
public struct MTLBarrierScope: OptionSet, Sendable {
  public let rawValue: UInt
  public init(rawValue: UInt) { self.rawValue = rawValue }
  public static let buffers = MTLBarrierScope(rawValue: 1)
  public static let textures = MTLBarrierScope(rawValue: 2)
}
public struct MTLPipelineOption: OptionSet, Sendable {
  public let rawValue: UInt
  public init(rawValue: UInt) { self.rawValue = rawValue }
  public static let argumentInfo = MTLPipelineOption(rawValue: 1)
  public static let bindingInfo = MTLPipelineOption(rawValue: 1)
  public static let bufferTypeInfo = MTLPipelineOption(rawValue: 2)
  public static let failOnBinaryArchiveMiss = MTLPipelineOption(rawValue: 4)
}
public struct MTLBlitOption: OptionSet, Sendable {
  public let rawValue: UInt
  public init(rawValue: UInt) { self.rawValue = rawValue }
}
public enum MTLDispatchType: UInt, Sendable { case serial, concurrent }
public enum MTLMutability: UInt, Sendable { case `default`, mutable, immutable }

// MARK: - Enumerations

public enum MTLGPUFamily: Int, Sendable {
  case apple1 = 1001, apple2, apple3, apple4, apple5, apple6, apple7, apple8, apple9, apple10
  case mac1 = 2001, mac2
  case common1 = 3001, common2, common3
  case metal3 = 5001, metal4
}
public enum MTLDeviceLocation: UInt, Sendable { case builtIn, slot, external, unspecified }
public final class MTLArchitecture: NSObject, Sendable {
  public let name: String
  init(name: String) { self.name = name }
}
public enum MTLLanguageVersion: UInt, Sendable, Comparable {
  case version1_1 = 0x10001, version1_2, version2_0 = 0x20000, version2_1, version2_2, version2_3, version2_4,
    version3_0 = 0x30000, version3_1, version3_2, version4_0 = 0x40000
  public static func < (a: MTLLanguageVersion, b: MTLLanguageVersion) -> Bool { a.rawValue < b.rawValue }
}
public enum MTLMathMode: Int, Sendable { case safe, relaxed, fast }
public enum MTLMathFloatingPointFunctions: Int, Sendable { case fast, precise }
public enum MTLLibraryOptimizationLevel: Int, Sendable { case `default`, size }
public enum MTLLibraryType: Int, Sendable { case executable, dynamic }
public enum MTLFunctionType: UInt, Sendable { case vertex = 1, fragment, kernel }
public enum MTLCommandBufferStatus: UInt, Sendable {
  case notEnqueued, enqueued, committed, scheduled, completed, error
}
public enum MTLArgumentBuffersTier: UInt, Sendable { case tier1, tier2 }
public enum MTLBindingAccess: UInt, Sendable { case readOnly, readWrite, writeOnly }
public enum MTLBindingType: Int, Sendable { case buffer, threadgroupMemory }

public enum MTLDataType: UInt, Sendable {
  case none = 0, `struct` = 1, array = 2
  case float = 3, float2, float3, float4
  case half = 16, half2, half3, half4
  case int = 29, int2, int3, int4
  case uint = 33, uint2, uint3, uint4
  case short = 37, short2, short3, short4
  case ushort = 41, ushort2, ushort3, ushort4
  case char = 45, char2, char3, char4
  case uchar = 49, uchar2, uchar3, uchar4
  case bool = 53, bool2, bool3, bool4
  case long = 81, long2, long3, long4
  case ulong = 85, ulong2, ulong3, ulong4
  case bfloat = 121, bfloat2, bfloat3, bfloat4

  /// The scalar's name in MSL and the number of elements; nil for what no function constant can be.
  var shape: (scalar: String, size: Int, count: Int)? {
    let table: [(UInt, String, Int)] = [
      (3, "float", 4), (16, "half", 2), (29, "int", 4), (33, "uint", 4), (37, "short", 2), (41, "ushort", 2),
      (45, "char", 1), (49, "uchar", 1), (53, "bool", 1), (81, "long", 8), (85, "ulong", 8), (121, "bfloat", 2),
    ]
    for (first, name, size) in table where rawValue >= first && rawValue < first + 4 {
      return (name, size, Int(rawValue - first) + 1)
    }
    return nil
  }
  /// Bytes of a value: vectors of three take the room of four.
  var byteCount: Int? { shape.map { $0.size * ($0.count == 3 ? 4 : $0.count) } }
  var metalName: String? { shape.map { $0.count == 1 ? $0.scalar : "\($0.scalar)\($0.count)" } }
}

public typealias CFTimeInterval = Double

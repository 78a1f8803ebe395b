import CSoftwareMetal

// Metal on Apple platforms has none of it: with AS_ON_APPLE other modules do not see it.
#if AS_ON_APPLE
  typealias SoftwareMetal = SoftwareMetalInterface
#else
  public typealias SoftwareMetal = SoftwareMetalInterface

  extension MTLCommandBuffer {
    /// The dispatches that this command buffer has run so far, with their counters.
    public var softwareDispatches: [SoftwareMetal.Dispatch] { (self as? SoftwareCommandBuffer)?.dispatches ?? [] }
    /// Faults that the dispatches passed over, as Apple's GPUs do, with `SoftwareMetal.options.asApple`.
    public var softwareFindings: [SoftwareMetal.Finding] { softwareDispatches.flatMap(\.findings) }
  }

  extension MTLCommandBufferError {
    /// The finding of checked mode, if one ended the command buffer.
    public var finding: SoftwareMetal.Finding? { found }
  }
#endif

/// The software device's own interface, `SoftwareMetal`: options, counters and findings.
public enum SoftwareMetalInterface {
  /// `fast`: nothing is observed. `counted`: counters of instructions and bytes. `checked`: counters, and every access
  /// is checked.
  public enum Mode: Int32, Sendable { case fast = 0, counted, checked }

  /// The order in which a threadgroup's SIMD groups, and the threadgroups themselves, are begun.
  public enum Schedule: Equatable, Sendable { case forward, reversed, seeded(UInt64) }

  public struct Options: Sendable {
    /// Libraries made from now on are compiled for this mode.
    public var mode: Mode
    /// Threads of the CPU that share a dispatch. With one, execution is deterministic.
    public var workers: Int
    public var schedule: Schedule
    /// The newest Apple GPU family that the device claims.
    public var family: MTLGPUFamily
    /// The Apple chip that the device is named after, such as "M1" or "M2 Max", and whose family it claims. Nil: the
    /// first chip of `family`.
    public var chip: String?
    /// Accept functions declared by AIR name, as older kernels do; recent compilers refuse them.
    public var allowsInlineAIR: Bool
    /// FP32 and BF16 arithmetic reads and gives zero for subnormal numbers, as Apple's GPUs do; FP16 keeps them. Read
    /// when a library is made and when a dispatch runs.
    public var flushesSubnormals = false
    /// Functions err as far as the specification allows them, the same way for the same argument: those of `fast`, and
    /// those without a namespace unless the library is made with precise ones, by its table 8.2; those of `precise` by
    /// table 8.1. Read when a library is made.
    public var functionErrors = false
    /// Faults have the consequences that they have on Apple's GPUs: reads of buffers that are not bound, and reads out
    /// of bounds, give zeros, and writes there are dropped. What checked mode finds is printed once for each place, and
    /// in `softwareFindings` of the command buffer; only what no GPU could go on from ends a dispatch. Libraries made
    /// with this option are checked.
    public var asApple = false

    /// From SOFTWARE_METAL_MODE (fast, counted, checked), _WORKERS, _SCHEDULE (forward, reversed, or a seed), _FAMILY
    /// (7, 8, 9), _CHIP (M1, M2 Max …), _INLINE_AIR (0, 1), _FTZ, _FUNCTION_ERRORS,
    /// _AS_APPLE (0, 1).
    public static func fromEnvironment() -> Options {
      let e = ProcessInfo.processInfo.environment
      var o = Options(
        mode: .checked, workers: ProcessInfo.processInfo.activeProcessorCount, schedule: .forward, family: .apple9,
        allowsInlineAIR: true)
      switch e["SOFTWARE_METAL_MODE"] {
      case "fast": o.mode = .fast
      case "counted": o.mode = .counted
      default: break
      }
      if let n = e["SOFTWARE_METAL_WORKERS"].flatMap(Int.init), n > 0 { o.workers = n }
      switch e["SOFTWARE_METAL_SCHEDULE"] {
      case "reversed": o.schedule = .reversed
      case let s?: if let seed = UInt64(s) { o.schedule = .seeded(seed) }
      case nil: break
      }
      if let n = e["SOFTWARE_METAL_FAMILY"].flatMap(Int.init), let f = MTLGPUFamily(rawValue: 1000 + n) { o.family = f }
      o.chip = e["SOFTWARE_METAL_CHIP"].flatMap(Chip.init(name:))?.name
      if e["SOFTWARE_METAL_INLINE_AIR"] == "0" { o.allowsInlineAIR = false }
      o.flushesSubnormals = e["SOFTWARE_METAL_FTZ"] == "1"
      o.functionErrors = e["SOFTWARE_METAL_FUNCTION_ERRORS"] == "1"
      o.asApple = e["SOFTWARE_METAL_AS_APPLE"] == "1"
      return o
    }
  }

  private static let current = Locked(Options.fromEnvironment())
  public static var options: Options {
    get { current.value }
    set { current.value = newValue }
  }

  /// Counts of one dispatch, or of several added up. Bytes and operations need `counted` or `checked`, except those of
  /// matrices.
  public struct Counters: Equatable, Sendable, CustomStringConvertible {
    public var threadgroups: UInt64 = 0, threads: UInt64 = 0
    /// 8×8×8 multiply-accumulates, 8×8 loads and stores, each once per SIMD group.
    public var matrixMultiplies: UInt64 = 0, matrixLoads: UInt64 = 0, matrixStores: UInt64 = 0
    public var threadgroupBarriers: UInt64 = 0, simdgroupBarriers: UInt64 = 0, simdOperations: UInt64 = 0
    public var atomicOperations: UInt64 = 0, asyncCopies: UInt64 = 0
    public var deviceBytesRead: UInt64 = 0, deviceBytesWritten: UInt64 = 0
    public var threadgroupBytesRead: UInt64 = 0, threadgroupBytesWritten: UInt64 = 0
    public var constantBytesRead: UInt64 = 0, threadMemoryBytes: UInt64 = 0
    /// Per-thread work outside of matrix operations, in LLVM instructions after optimization (vector ones once per
    /// element).
    public var integerOperations: UInt64 = 0, floatOperations: UInt64 = 0, mathFunctionCalls: UInt64 = 0
    public var branches: UInt64 = 0, conversions: UInt64 = 0, otherOperations: UInt64 = 0

    public init() {}
    init(_ c: sm_counters) {
      (threadgroups, threads) = (c.threadgroups, c.threads)
      (matrixMultiplies, matrixLoads, matrixStores) = (c.matrix_multiplies, c.matrix_loads, c.matrix_stores)
      (threadgroupBarriers, simdgroupBarriers, simdOperations) = (
        c.threadgroup_barriers, c.simdgroup_barriers, c.simd_operations
      )
      (atomicOperations, asyncCopies) = (c.atomics, c.async_copies)
      (integerOperations, floatOperations, mathFunctionCalls, branches) = (c.cost.0, c.cost.1, c.cost.2, c.cost.3)
      (deviceBytesRead, deviceBytesWritten, threadgroupBytesRead, threadgroupBytesWritten) = (
        c.cost.4, c.cost.5, c.cost.6, c.cost.7
      )
      (constantBytesRead, threadMemoryBytes, conversions, otherOperations) = (c.cost.8, c.cost.9, c.cost.10, c.cost.11)
    }
    private static let fields: [(String, any WritableKeyPath<Counters, UInt64> & Sendable)] = [
      ("threadgroups", \.threadgroups), ("threads", \.threads), ("matrixMultiplies", \.matrixMultiplies),
      ("matrixLoads", \.matrixLoads), ("matrixStores", \.matrixStores),
      ("threadgroupBarriers", \.threadgroupBarriers), ("simdgroupBarriers", \.simdgroupBarriers),
      ("simdOperations", \.simdOperations), ("atomicOperations", \.atomicOperations),
      ("asyncCopies", \.asyncCopies), ("deviceBytesRead", \.deviceBytesRead),
      ("deviceBytesWritten", \.deviceBytesWritten), ("threadgroupBytesRead", \.threadgroupBytesRead),
      ("threadgroupBytesWritten", \.threadgroupBytesWritten), ("constantBytesRead", \.constantBytesRead),
      ("threadMemoryBytes", \.threadMemoryBytes), ("integerOperations", \.integerOperations),
      ("floatOperations", \.floatOperations), ("mathFunctionCalls", \.mathFunctionCalls), ("branches", \.branches),
      ("conversions", \.conversions), ("otherOperations", \.otherOperations),
    ]
    public static func += (a: inout Counters, b: Counters) { for (_, f) in fields { a[keyPath: f] &+= b[keyPath: f] } }
    public var description: String {
      Counters.fields.filter { self[keyPath: $0.1] != 0 }.map { "\($0.0) \(self[keyPath: $0.1])" }.joined(
        separator: ", ")
    }
    /// Everything a thread does outside of matrix operations and memory.
    public var scalarOperations: UInt64 {
      integerOperations + floatOperations + mathFunctionCalls + branches + conversions + otherOperations
    }
  }

  /// One dispatch as it ran.
  public struct Dispatch: Sendable {
    public let kernel: String
    public let threadgroups: MTLSize, threadsPerThreadgroup: MTLSize
    public let counters: Counters
    public let seconds: Double
    /// Faults that were passed over, each place once, the first few.
    public let findings: [Finding]
  }

  /// A finding of checked mode. It ends the dispatch, and becomes the command buffer's error.
  public struct Finding: Equatable, Sendable, CustomStringConvertible {
    public enum Kind: UInt32, Sendable {
      case outOfBounds = 1, uninitializedThreadgroupMemory, race, divergence, misaligned, unboundBuffer, deadlock,
        limit, asyncCopy, nullAccess
    }
    public let kind: Kind
    public let kernel: String
    /// The argument index of the buffer concerned, if it is one.
    public let buffer: Int?
    /// The line of the program, where known.
    public let line: Int?
    public let threadgroup: MTLSize, threadInThreadgroup: MTLSize
    public let simdgroup: Int, lane: Int
    public let message: String

    init(_ f: sm_finding, kernel: String) {
      kind = Kind(rawValue: f.kind) ?? .limit
      self.kernel = kernel
      buffer = f.buffer >= 0 ? Int(f.buffer) : nil
      line = f.line > 0 ? Int(f.line) : nil
      threadgroup = MTLSize(width: Int(f.threadgroup.0), height: Int(f.threadgroup.1), depth: Int(f.threadgroup.2))
      threadInThreadgroup = MTLSize(width: Int(f.thread.0), height: Int(f.thread.1), depth: Int(f.thread.2))
      (simdgroup, lane) = (Int(f.simdgroup), Int(f.lane))
      message = withUnsafeBytes(of: f.message) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
    public var description: String {
      func text(_ s: MTLSize) -> String { "(\(s.width), \(s.height), \(s.depth))" }
      let place = line.map { " at program_source:\($0)" } ?? ""
      return
        "kernel '\(kernel)'\(place): \(message) [threadgroup \(text(threadgroup)), "
        + "thread \(text(threadInThreadgroup)), SIMD group \(simdgroup), lane \(lane)]"
    }
  }

  private static let sum = Locked((counters: Counters(), dispatches: 0, seconds: 0.0))
  /// Counters of all dispatches of the process since the last reset, their number, and the time they took.
  public static var totals: (counters: Counters, dispatches: Int, seconds: Double) { sum.value }
  public static func resetTotals() { sum.value = (Counters(), 0, 0) }
  private static let printed = Locked(Set<String>())
  static func record(_ d: Dispatch) {
    for finding in d.findings {
      let place = "\(finding.kind) \(d.kernel) \(finding.line ?? 0) \(finding.buffer ?? -1)"
      guard printed.update({ $0.insert(place).inserted }) else { continue }
      FileHandle.standardError.write(Data("software Metal device: passed over: \(finding)\n".utf8))
    }
    sum.update {
      $0.counters += d.counters; $0.dispatches += 1; $0.seconds += d.seconds
    }
  }
}

/// A value behind a lock.
final class Locked<Value>: @unchecked Sendable {  // every access to `stored` holds `lock`
  private let lock = NSLock()
  private var stored: Value
  init(_ value: Value) { stored = value }
  var value: Value {
    get { lock.lock(); defer { lock.unlock() }; return stored }
    set { lock.lock(); defer { lock.unlock() }; stored = newValue }
  }
  func update<R>(_ body: (inout Value) throws -> R) rethrows -> R {
    lock.lock(); defer { lock.unlock() }; return try body(&stored)
  }
}

func takeText(_ p: UnsafeMutablePointer<CChar>?) -> String {
  guard let p else { return "unknown error" }
  defer { sm_free(p) }
  return String(cString: p)
}
func monotonicSeconds() -> Double { Double(DispatchTime.now().uptimeNanoseconds) * 1e-9 }

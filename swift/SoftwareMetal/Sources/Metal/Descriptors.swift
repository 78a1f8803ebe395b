// Descriptors and reflection: plain classes, as in Metal.

public final class MTLCompileOptions: NSObject, NSCopying {
  public var preprocessorMacros: [String: NSObject]?
  public var languageVersion: MTLLanguageVersion = .version3_1
  public var mathMode: MTLMathMode = .fast
  public var mathFloatingPointFunctions: MTLMathFloatingPointFunctions = .fast
  public var optimizationLevel: MTLLibraryOptimizationLevel = .default
  public var libraryType: MTLLibraryType = .executable
  public var preserveInvariance = false
  public var allowReferencingUndefinedSymbols = false
  public var maxTotalThreadsPerThreadgroup = 0
  /// The older spelling of both.
  public var fastMathEnabled: Bool {
    get { mathMode == .fast }
    set { (mathMode, mathFloatingPointFunctions) = newValue ? (.fast, .fast) : (.safe, .precise) }
  }
  public override init() {}
  public func copy(with zone: NSZone? = nil) -> Any {
    let o = MTLCompileOptions()
    (o.preprocessorMacros, o.languageVersion, o.mathMode, o.mathFloatingPointFunctions) = (
      preprocessorMacros, languageVersion, mathMode, mathFloatingPointFunctions
    )
    (o.optimizationLevel, o.libraryType, o.preserveInvariance) = (optimizationLevel, libraryType, preserveInvariance)
    (o.allowReferencingUndefinedSymbols, o.maxTotalThreadsPerThreadgroup) = (
      allowReferencingUndefinedSymbols, maxTotalThreadsPerThreadgroup
    )
    return o
  }
}

public final class MTLFunctionConstant: NSObject, Sendable {
  public let name: String
  public let type: MTLDataType
  public let index: Int
  public let required: Bool
  init(name: String, type: MTLDataType, index: Int, required: Bool) {
    (self.name, self.type, self.index, self.required) = (name, type, index, required)
  }
}

public final class MTLFunctionConstantValues: NSObject, NSCopying {
  struct Value { let type: MTLDataType; let bytes: [UInt8] }
  private(set) var byIndex: [Int: Value] = [:]
  private(set) var byName: [String: Value] = [:]

  public override init() {}
  public func copy(with zone: NSZone? = nil) -> Any {
    let o = MTLFunctionConstantValues()
    (o.byIndex, o.byName) = (byIndex, byName)
    return o
  }
  public func setConstantValue(_ value: UnsafeRawPointer, type: MTLDataType, index: Int) {
    byIndex[index] = read(value, type)
  }
  public func setConstantValue(_ value: UnsafeRawPointer, type: MTLDataType, withName name: String) {
    byName[name] = read(value, type)
  }
  public func setConstantValues(_ values: UnsafeRawPointer, type: MTLDataType, range: Range<Int>) {
    guard let n = type.byteCount else { return }
    for (i, index) in range.enumerated() { byIndex[index] = read(values + i * n, type) }
  }
  public func reset() { byIndex = [:]; byName = [:] }
  private func read(_ p: UnsafeRawPointer, _ type: MTLDataType) -> Value {
    Value(type: type, bytes: [UInt8](UnsafeRawBufferPointer(start: p, count: type.byteCount ?? 0)))
  }
}

public final class MTLPipelineBufferDescriptor: NSObject { public var mutability: MTLMutability = .default }
public final class MTLPipelineBufferDescriptorArray: NSObject {
  private var items: [Int: MTLPipelineBufferDescriptor] = [:]
  public subscript(index: Int) -> MTLPipelineBufferDescriptor! {
    get { if let d = items[index] { return d }; let d = MTLPipelineBufferDescriptor(); items[index] = d; return d }
    set { items[index] = newValue }
  }
}
public final class MTLComputePipelineDescriptor: NSObject, NSCopying {
  public var label: String?
  public var computeFunction: (any MTLFunction)?
  public var threadGroupSizeIsMultipleOfThreadExecutionWidth = false
  public var maxTotalThreadsPerThreadgroup = 0
  public var supportIndirectCommandBuffers = false
  public let buffers = MTLPipelineBufferDescriptorArray()
  public override init() {}
  public func reset() {
    (label, computeFunction, threadGroupSizeIsMultipleOfThreadExecutionWidth) = (nil, nil, false)
    (maxTotalThreadsPerThreadgroup, supportIndirectCommandBuffers) = (0, false)
  }
  public func copy(with zone: NSZone? = nil) -> Any {
    let o = MTLComputePipelineDescriptor()
    (o.label, o.computeFunction, o.threadGroupSizeIsMultipleOfThreadExecutionWidth) = (
      label, computeFunction, threadGroupSizeIsMultipleOfThreadExecutionWidth
    )
    (o.maxTotalThreadsPerThreadgroup, o.supportIndirectCommandBuffers) = (
      maxTotalThreadsPerThreadgroup, supportIndirectCommandBuffers
    )
    return o
  }
}

public protocol MTLBinding: AnyObject {
  var name: String { get }
  var type: MTLBindingType { get }
  var access: MTLBindingAccess { get }
  var index: Int { get }
  var isUsed: Bool { get }
  var isArgument: Bool { get }
}
final class SoftwareBinding: MTLBinding {
  let name: String, type: MTLBindingType, access: MTLBindingAccess, index: Int
  var isUsed: Bool { true }
  var isArgument: Bool { true }
  init(name: String, type: MTLBindingType, access: MTLBindingAccess, index: Int) {
    (self.name, self.type, self.access, self.index) = (name, type, access, index)
  }
}
public final class MTLComputePipelineReflection: NSObject {
  public let bindings: [any MTLBinding]
  init(bindings: [any MTLBinding]) { self.bindings = bindings }
}

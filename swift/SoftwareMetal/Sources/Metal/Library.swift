import CSoftwareMetal

// `handle` is immutable after init; the label is locked.
final class SoftwareLibrary: MTLLibrary, @unchecked Sendable {
  let handle: OpaquePointer
  private let owner: SoftwareDevice, text = Locked<String?>(nil)

  /// What a library is compiled with, of its options and of the device's.
  struct Settings: Sendable {
    let macros: [String], version: MTLLanguageVersion, device: SoftwareMetal.Options, flags: UInt32
    init(_ o: MTLCompileOptions) {
      macros = (o.preprocessorMacros ?? [:]).sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
      var device = SoftwareMetal.options
      if device.asApple { device.mode = .checked }
      (version, self.device) = (o.languageVersion, device)
      var flags: UInt32 = 0
      if device.allowsInlineAIR { flags |= SM_ALLOW_INLINE_AIR.rawValue }
      if device.flushesSubnormals { flags |= SM_FLUSH_SUBNORMALS.rawValue }
      if device.functionErrors { flags |= SM_FUNCTION_ERRORS.rawValue }
      if device.asApple { flags |= SM_AS_APPLE.rawValue }
      if o.mathFloatingPointFunctions == .precise { flags |= SM_PRECISE_FUNCTIONS.rawValue }
      self.flags = flags
    }
  }

  convenience init(device: SoftwareDevice, source: String, options: MTLCompileOptions) throws {
    try self.init(device: device, source: source, settings: Settings(options))
  }
  init(device: SoftwareDevice, source: String, settings: Settings) throws {
    guard settings.version <= .version4_0 else {
      throw MTLLibraryError(code: .unsupported, description: "the software device compiles MSL up to version 4.0")
    }
    let (major, minor) = (settings.version.rawValue >> 16, settings.version.rawValue & 0xffff)
    var error: UnsafeMutablePointer<CChar>?
    let copies = settings.macros.map { strdup($0) }
    defer { for c in copies { free(c) } }
    var pointers = copies.map { UnsafePointer($0) }
    guard
      let h = sm_library_create(
        source, &pointers, pointers.count, settings.device.mode.rawValue, settings.flags,
        Int32(100 * major + 10 * minor), &error)
    else {
      throw MTLLibraryError(code: .compileFailure, description: "Compilation failed: \n\n" + takeText(error))
    }
    (owner, handle) = (device, h)
  }
  deinit { sm_library_destroy(handle) }

  var label: String? {
    get { text.value }
    set { text.value = newValue }
  }
  var device: any MTLDevice { owner }
  var functionNames: [String] {
    (0..<sm_library_kernel_count(handle)).map { String(cString: sm_library_kernel_name(handle, $0)) }
  }

  func makeFunction(name functionName: String) -> (any MTLFunction)? {
    try? SoftwareFunction(library: self, name: functionName, values: MTLFunctionConstantValues())
  }
  func makeFunction(name: String, constantValues: MTLFunctionConstantValues) throws -> any MTLFunction {
    try SoftwareFunction(library: self, name: name, values: constantValues)
  }

  func constants(of kernel: String) -> [MTLFunctionConstant] {
    (0..<sm_library_constant_count(handle)).map { i in
      let typeName = String(cString: sm_library_constant_type(handle, i))
      let type =
        (0..<125).lazy.compactMap { MTLDataType(rawValue: $0) }.first { $0.metalName == Self.canonical(typeName) }
        ?? .none
      return MTLFunctionConstant(
        name: String(cString: sm_library_constant_name(handle, i)), type: type,
        index: Int(sm_library_constant_index(handle, i)),
        required: sm_library_constant_required(handle, kernel, i) != 0)
    }
  }
  private static func canonical(_ t: String) -> String {
    [
      "uint32_t": "uint", "int32_t": "int", "uint16_t": "ushort", "int16_t": "short", "uint8_t": "uchar",
      "int8_t": "char", "uint64_t": "ulong", "int64_t": "long",
      "unsigned int": "uint", "unsigned": "uint", "size_t": "ulong",
    ][t] ?? t
  }
}

final class SoftwareFunction: MTLFunction, @unchecked Sendable {  // immutable but for the locked label
  let library: SoftwareLibrary, name: String, values: [sm_constant_value]
  private let text = Locked<String?>(nil)

  init(library: SoftwareLibrary, name: String, values given: MTLFunctionConstantValues) throws {
    guard library.functionNames.contains(name) else {
      throw MTLLibraryError(
        code: .functionNotFound,
        description:
          "Function '\(name)' does not exist in library; it has: \(library.functionNames.joined(separator: ", "))")
    }
    var list: [sm_constant_value] = []
    for c in library.constants(of: name) {
      guard let v = given.byIndex[c.index] ?? given.byName[c.name] else {
        if c.required {
          throw MTLLibraryError(
            code: .internal,
            description: "Function '\(name)' needs function constant '\(c.name)' (index \(c.index)), which was not set")
        }
        continue
      }
      if c.type != .none && v.type != c.type {
        throw MTLLibraryError(
          code: .internal,
          description:
            "Function constant '\(c.name)' (index \(c.index)) is of type \(c.type.metalName ?? "?"), "
            + "and was set with a value of type \(v.type.metalName ?? "?")"
        )
      }
      var value = sm_constant_value()
      (value.index, value.size) = (UInt32(c.index), UInt32(v.bytes.count))
      withUnsafeMutableBytes(of: &value.value) { $0.copyBytes(from: v.bytes) }
      list.append(value)
    }
    (self.library, self.name, values) = (library, name, list)
  }
  var label: String? {
    get { text.value }
    set { text.value = newValue }
  }
  var device: any MTLDevice { library.device }
  var functionType: MTLFunctionType { .kernel }
  var functionConstantsDictionary: [String: MTLFunctionConstant] {
    Dictionary(library.constants(of: name).map { ($0.name, $0) }) { a, _ in a }
  }
  var bindings: [any MTLBinding] {
    (0..<sm_library_argument_count(library.handle, name)).compactMap { i in
      let attribute = String(cString: sm_library_argument_attribute(library.handle, name, i))
      guard attribute == "buffer" || attribute == "threadgroup" else { return nil }
      return SoftwareBinding(
        name: String(cString: sm_library_argument_name(library.handle, name, i)),
        type: attribute == "buffer" ? .buffer : .threadgroupMemory,
        access: sm_library_argument_writable(library.handle, name, i) != 0 ? .readWrite : .readOnly,
        index: Int(sm_library_argument_index(library.handle, name, i)))
    }
  }
}

final class SoftwarePipeline: MTLComputePipelineState, @unchecked Sendable {  // immutable
  let function: SoftwareFunction, handle: OpaquePointer, label: String?
  let maxTotalThreadsPerThreadgroup: Int, staticThreadgroupMemoryLength: Int
  /// Arguments whose memory the encoder sets.
  let threadgroupArguments: [(name: String, index: Int)]
  var threadExecutionWidth: Int { 32 }
  var device: any MTLDevice { function.device }

  init(function: SoftwareFunction, label: String?, maxThreads: Int) throws {
    var error: UnsafeMutablePointer<CChar>?
    guard maxThreads >= 0, maxThreads <= 1024 else {
      throw MTLLibraryError(
        code: .unsupported, description: "maxTotalThreadsPerThreadgroup is \(maxThreads); the device allows up to 1024")
    }
    guard
      let h = sm_pipeline_create(function.library.handle, function.name, function.values, function.values.count, &error)
    else {
      throw MTLLibraryError(code: .internal, description: "kernel '\(function.name)': " + takeText(error))
    }
    (self.function, handle, self.label) = (function, h, label)
    threadgroupArguments = function.bindings.filter { $0.type == .threadgroupMemory }.map { ($0.name, $0.index) }
    maxTotalThreadsPerThreadgroup =
      maxThreads > 0 ? min(maxThreads, Int(sm_pipeline_max_threads(h))) : Int(sm_pipeline_max_threads(h))
    staticThreadgroupMemoryLength = Int(sm_pipeline_static_length(h))
    guard staticThreadgroupMemoryLength <= 32768 else {
      throw MTLLibraryError(
        code: .internal,
        description:
          "kernel '\(function.name)' uses \(staticThreadgroupMemoryLength) bytes of threadgroup memory; "
          + "the device has 32768"
      )
    }
  }
  deinit { sm_pipeline_destroy(handle) }
}

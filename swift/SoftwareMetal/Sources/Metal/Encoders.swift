import CSoftwareMetal

class SoftwareEncoder: MTLCommandEncoder {
  let buffer: SoftwareCommandBuffer
  var label: String?
  private var ended = false
  init(buffer: SoftwareCommandBuffer) { self.buffer = buffer }
  var device: any MTLDevice { buffer.device }
  func insertDebugSignpost(_ string: String) {}
  func pushDebugGroup(_ string: String) {}
  func popDebugGroup() {}
  func endEncoding() {
    if ended { misuse("endEncoding was called twice"); return }
    ended = true
    buffer.closeEncoder()
  }
  deinit { if !ended { buffer.misused("an encoder was released before endEncoding"); buffer.closeEncoder() } }
  func misuse(_ m: String) { buffer.misused(m) }
  func encode(_ c: @escaping SoftwareCommandBuffer.Command) {
    if ended { misuse("a command was encoded after endEncoding") } else { buffer.append(c) }
  }
}

final class SoftwareComputeEncoder: SoftwareEncoder, MTLComputeCommandEncoder {
  private struct Slot { let buffer: SoftwareBuffer; var offset: Int }
  let dispatchType: MTLDispatchType
  private var pipeline: SoftwarePipeline?
  private var slots = [Slot?](repeating: nil, count: Int(SM_BUFFER_COUNT))
  private var groupMemory = [Int](repeating: 0, count: Int(SM_BUFFER_COUNT))

  init(buffer: SoftwareCommandBuffer, dispatchType: MTLDispatchType) {
    self.dispatchType = dispatchType
    super.init(buffer: buffer)
  }
  func setComputePipelineState(_ state: any MTLComputePipelineState) {
    guard let p = state as? SoftwarePipeline else {
      misuse("setComputePipelineState: the pipeline belongs to another device"); return
    }
    pipeline = p
  }
  private func valid(_ index: Int, _ what: String) -> Bool {
    if slots.indices.contains(index) { return true }
    misuse("\(what): index \(index) is out of bounds, must be between 0 and 30")
    return false
  }
  func setBytes(_ bytes: UnsafeRawPointer, length: Int, index: Int) {
    guard valid(index, "setBytes") else { return }
    guard length > 0, length <= 4096 else {
      misuse("setBytes: length \(length), must be between 1 and 4096 bytes"); return
    }
    guard let b = buffer.device.makeBuffer(bytes: bytes, length: length) as? SoftwareBuffer else {
      misuse("setBytes: out of memory"); return
    }
    slots[index] = Slot(buffer: b, offset: 0)
  }
  func setBuffer(_ buffer: (any MTLBuffer)?, offset: Int, index: Int) {
    guard valid(index, "setBuffer") else { return }
    guard let buffer else { slots[index] = nil; return }
    guard let b = buffer as? SoftwareBuffer else {
      misuse("setBuffer: buffer \(index) belongs to another device"); return
    }
    guard offset >= 0, offset < b.length else {
      misuse("setBuffer: offset \(offset) of buffer \(index) must be less than its length, \(b.length)"); return
    }
    slots[index] = Slot(buffer: b, offset: offset)
  }
  func setBufferOffset(_ offset: Int, index: Int) {
    guard valid(index, "setBufferOffset") else { return }
    guard let s = slots[index] else { misuse("setBufferOffset: no buffer is set at index \(index)"); return }
    setBuffer(s.buffer, offset: offset, index: index)
  }
  func setBuffers(_ buffers: [(any MTLBuffer)?], offsets: [Int], range: Range<Int>) {
    guard buffers.count == range.count, offsets.count == range.count else {
      misuse("setBuffers: \(buffers.count) buffers and \(offsets.count) offsets for a range of \(range.count)"); return
    }
    for (i, index) in range.enumerated() { setBuffer(buffers[i], offset: offsets[i], index: index) }
  }
  func setThreadgroupMemoryLength(_ length: Int, index: Int) {
    guard valid(index, "setThreadgroupMemoryLength") else { return }
    guard length >= 0, length % 16 == 0 else {
      misuse("setThreadgroupMemoryLength: \(length) at index \(index) must be a multiple of 16 bytes"); return
    }
    groupMemory[index] = length
  }
  func memoryBarrier(scope: MTLBarrierScope) {}
  func memoryBarrier(resources: [any MTLResource]) {}
  func useResource(_ resource: any MTLResource, usage: MTLResourceUsage) {}
  func useResources(_ resources: [any MTLResource], usage: MTLResourceUsage) {}

  func dispatchThreadgroups(_ groups: MTLSize, threadsPerThreadgroup size: MTLSize) {
    dispatch(size) {
      (
        groups,
        MTLSize(width: groups.width * size.width, height: groups.height * size.height, depth: groups.depth * size.depth)
      )
    }
  }
  func dispatchThreads(_ threads: MTLSize, threadsPerThreadgroup size: MTLSize) {
    func up(_ a: Int, _ b: Int) -> Int { b > 0 ? (a + b - 1) / b : 0 }
    let groups = MTLSize(
      width: up(threads.width, size.width), height: up(threads.height, size.height),
      depth: up(threads.depth, size.depth))
    dispatch(size) { (groups, threads) }
  }
  func dispatchThreadgroups(
    indirectBuffer: any MTLBuffer, indirectBufferOffset offset: Int, threadsPerThreadgroup size: MTLSize
  ) {
    guard let b = indirectBuffer as? SoftwareBuffer, offset >= 0, offset % 4 == 0, offset + 12 <= b.length else {
      misuse("dispatchThreadgroups: 12 bytes at offset \(offset) must lie in the indirect buffer, aligned to 4 bytes");
      return
    }
    dispatch(size) {
      let n = (0..<3).map { Int(b.memory.load(fromByteOffset: offset + 4 * $0, as: UInt32.self)) }
      return (
        MTLSize(width: n[0], height: n[1], depth: n[2]),
        MTLSize(width: n[0] * size.width, height: n[1] * size.height, depth: n[2] * size.depth)
      )
    }
  }
  /// The grid is known when the dispatch is executed.
  private func dispatch(_ size: MTLSize, grid: @escaping () -> (groups: MTLSize, threads: MTLSize)) {
    guard let pipeline else { misuse("dispatch: no compute pipeline state is set"); return }
    let perGroup = size.width.multipliedReportingOverflow(by: size.height).partialValue.multipliedReportingOverflow(
      by: size.depth
    ).partialValue
    guard size.width > 0, size.height > 0, size.depth > 0, perGroup <= pipeline.maxTotalThreadsPerThreadgroup,
      size.width <= 1024, size.height <= 1024, size.depth <= 1024
    else {
      misuse(
        "dispatch of '\(pipeline.function.name)': (\(size.width), \(size.height), \(size.depth)) threads per "
          + "threadgroup; at least one and at most \(pipeline.maxTotalThreadsPerThreadgroup) are allowed"
      ); return
    }
    for argument in pipeline.threadgroupArguments where groupMemory[argument.index] == 0 {
      misuse(
        "dispatch of '\(pipeline.function.name)': missing threadgroup memory at index \(argument.index) for "
          + "'\(argument.name)'")
      return
    }
    let memory = groupMemory.reduce(0, +) + pipeline.staticThreadgroupMemoryLength
    guard memory <= device.maxThreadgroupMemoryLength else {
      misuse(
        "dispatch of '\(pipeline.function.name)': \(memory) bytes of threadgroup memory, "
          + "the device has \(device.maxThreadgroupMemoryLength)"
      ); return
    }
    let (slots, groupMemory, command) = (self.slots, self.groupMemory, self.buffer)
    encode { [unowned command] in
      let (groups, threads) = grid()
      guard [groups.width, groups.height, groups.depth].allSatisfy({ $0 >= 0 && $0 <= Int(UInt32.max) }),
        [threads.width, threads.height, threads.depth].allSatisfy({ $0 >= 0 && $0 <= Int(UInt32.max) })
      else {
        throw MTLCommandBufferError.invalid(
          "dispatch of '\(pipeline.function.name)': the grid of (\(threads.width), \(threads.height), "
            + "\(threads.depth)) threads does not fit in 32 bits"
        )
      }
      guard groups.width > 0, groups.height > 0, groups.depth > 0 else { return }
      var d = sm_dispatch()
      func three(_ s: MTLSize) -> (UInt32, UInt32, UInt32) { (UInt32(s.width), UInt32(s.height), UInt32(s.depth)) }
      (d.groups, d.threads, d.group_size) = (three(groups), three(threads), three(size))
      withUnsafeMutableBytes(of: &d.dynamic_length) { raw in
        let p = raw.bindMemory(to: UInt32.self)
        for (i, n) in groupMemory.enumerated() { p[i] = UInt32(n) }
      }
      withUnsafeMutableBytes(of: &d.bindings) { raw in
        let p = raw.bindMemory(to: sm_bound.self)
        for case (let i, let s?) in slots.enumerated() {
          p[i] = sm_bound(buffer: s.buffer.handle, offset: UInt64(s.offset), length: UInt64(s.buffer.length - s.offset))
        }
      }
      let options = SoftwareMetal.options
      d.workers = UInt32(clamping: max(1, options.workers))
      d.flush_subnormals = options.flushesSubnormals ? 1 : 0
      switch options.schedule {
      case .forward: d.order = 0
      case .reversed: d.order = 1
      case .seeded(let seed): (d.order, d.seed) = (2, seed)
      }
      let start = monotonicSeconds()
      let status = withExtendedLifetime(slots) { sm_pipeline_dispatch(pipeline.handle, &d) }
      let notes = withUnsafeBytes(of: &d.notes) { raw in
        raw.bindMemory(to: sm_finding.self).prefix(Int(d.noted)).map {
          SoftwareMetal.Finding($0, kernel: pipeline.function.name)
        }
      }
      command.record(
        SoftwareMetal.Dispatch(
          kernel: pipeline.function.name, threadgroups: groups, threadsPerThreadgroup: size,
          counters: SoftwareMetal.Counters(d.counters), seconds: monotonicSeconds() - start, findings: notes))
      switch status {
      case 0: break
      case 1:
        let f = SoftwareMetal.Finding(d.finding, kernel: pipeline.function.name)
        throw MTLCommandBufferError(
          code: f.kind == .outOfBounds || f.kind == .unboundBuffer ? .pageFault : .internal, description: f.description,
          found: f)
      default:
        throw MTLCommandBufferError(
          code: .outOfMemory,
          description: "dispatch of '\(pipeline.function.name)': the software device is out of memory", found: nil)
      }
    }
  }
}

final class SoftwareBlitEncoder: SoftwareEncoder, MTLBlitCommandEncoder {
  func copy(
    from sourceBuffer: any MTLBuffer, sourceOffset: Int, to destinationBuffer: any MTLBuffer, destinationOffset: Int,
    size: Int
  ) {
    func inside(_ b: any MTLBuffer, _ offset: Int) -> Bool {
      offset >= 0 && size >= 0 && offset <= b.length && size <= b.length - offset
    }
    guard inside(sourceBuffer, sourceOffset), inside(destinationBuffer, destinationOffset) else {
      misuse(
        "blit copy of \(size) bytes: offset \(sourceOffset) of \(sourceBuffer.length) to offset \(destinationOffset) "
          + "of \(destinationBuffer.length) is out of bounds"
      ); return
    }
    guard let from = sourceBuffer as? SoftwareBuffer, let to = destinationBuffer as? SoftwareBuffer else {
      misuse("blit copy: a buffer belongs to another device"); return
    }
    encode { memmove(to.memory + destinationOffset, from.memory + sourceOffset, size) }
  }
  func fill(buffer target: any MTLBuffer, range: Range<Int>, value: UInt8) {
    guard range.lowerBound >= 0, range.upperBound <= target.length else {
      misuse("blit fill of \(range) in a buffer of \(target.length) bytes is out of bounds"); return
    }
    guard let target = target as? SoftwareBuffer else {
      misuse("blit fill: the buffer belongs to another device"); return
    }
    encode { memset(target.memory + range.lowerBound, Int32(value), range.count) }
  }
  func synchronize(resource: any MTLResource) {}
}

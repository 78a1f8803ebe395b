import CSoftwareMetal

final class SoftwareCommandQueue: MTLCommandQueue, @unchecked Sendable {  // the label and the order are locked
  private let owner: SoftwareDevice, text = Locked<String?>(nil)
  /// Command buffers in the order of enqueue(), committed or not.
  private let order = Locked<[SoftwareCommandBuffer]>([])
  private let serial = DispatchQueue(label: "SoftwareCommandQueue")

  init(device: SoftwareDevice) { owner = device }
  var label: String? {
    get { text.value }
    set { text.value = newValue }
  }
  var device: any MTLDevice { owner }
  func makeCommandBuffer() -> (any MTLCommandBuffer)? { SoftwareCommandBuffer(queue: self) }
  func makeCommandBufferWithUnretainedReferences() -> (any MTLCommandBuffer)? { SoftwareCommandBuffer(queue: self) }

  func enqueue(_ b: SoftwareCommandBuffer) { order.update { $0.append(b) } }
  /// Hands over the committed command buffers at the head of the queue.
  func pump() {
    order.update { list in
      while let first = list.first, first.isCommitted {
        list.removeFirst()
        serial.async { first.execute() }
      }
    }
  }
}

// Unchecked: `condition` guards the state that the executing thread shares.
final class SoftwareCommandBuffer: MTLCommandBuffer, @unchecked Sendable {
  typealias Command = () throws -> Void
  private let queue: SoftwareCommandQueue
  private let condition = NSCondition()
  private var state = MTLCommandBufferStatus.notEnqueued, failure: (any Error)?, text: String?
  private var commands: [Command] = [], scheduledHandlers: [@Sendable (any MTLCommandBuffer) -> Void] = [],
    completedHandlers: [@Sendable (any MTLCommandBuffer) -> Void] = []
  private var times = (kernelStart: 0.0, kernelEnd: 0.0, start: 0.0, end: 0.0)
  private var openEncoders = 0, misuse: String?, done: [SoftwareMetal.Dispatch] = []

  init(queue: SoftwareCommandQueue) { self.queue = queue }
  private func locked<R>(_ body: () -> R) -> R { condition.lock(); defer { condition.unlock() }; return body() }

  var label: String? {
    get { locked { text } }
    set { locked { text = newValue } }
  }
  var device: any MTLDevice { queue.device }
  var commandQueue: any MTLCommandQueue { queue }
  var retainedReferences: Bool { true }
  var status: MTLCommandBufferStatus { locked { state } }
  var error: (any Error)? { locked { failure } }
  var kernelStartTime: CFTimeInterval { locked { times.kernelStart } }
  var kernelEndTime: CFTimeInterval { locked { times.kernelEnd } }
  var gpuStartTime: CFTimeInterval { locked { times.start } }
  var gpuEndTime: CFTimeInterval { locked { times.end } }
  var dispatches: [SoftwareMetal.Dispatch] { locked { done } }
  var isCommitted: Bool { locked { state.rawValue >= MTLCommandBufferStatus.committed.rawValue } }

  // Misuse that Metal's validation would abort on becomes the command buffer's error.
  func misused(_ message: String) { locked { if misuse == nil { misuse = message } } }
  func append(_ c: @escaping Command) { locked { commands.append(c) } }
  func record(_ d: SoftwareMetal.Dispatch) { SoftwareMetal.record(d); locked { done.append(d) } }
  func closeEncoder() { locked { openEncoders -= 1 } }
  private func open() {
    locked {
      if openEncoders > 0, misuse == nil {
        misuse = "a command encoder was made while another one of the command buffer is still encoding"
      }
      if state.rawValue >= MTLCommandBufferStatus.committed.rawValue, misuse == nil {
        misuse = "a command encoder was made after commit"
      }
      openEncoders += 1
    }
  }
  func makeComputeCommandEncoder() -> (any MTLComputeCommandEncoder)? {
    open(); return SoftwareComputeEncoder(buffer: self, dispatchType: .serial)
  }
  func makeComputeCommandEncoder(dispatchType: MTLDispatchType) -> (any MTLComputeCommandEncoder)? {
    open(); return SoftwareComputeEncoder(buffer: self, dispatchType: dispatchType)
  }
  func makeBlitCommandEncoder() -> (any MTLBlitCommandEncoder)? { open(); return SoftwareBlitEncoder(buffer: self) }

  func encodeSignalEvent(_ event: any MTLEvent, value: UInt64) {
    append { (event as? SoftwareEvent)?.signaledValue = value }
  }
  func encodeWaitForEvent(_ event: any MTLEvent, value: UInt64) {
    append {
      guard let e = event as? SoftwareEvent, e.wait(untilSignaledValue: value, timeoutMS: 60_000) else {
        throw MTLCommandBufferError(
          code: .timeout, description: "the event did not reach \(value) within a minute", found: nil)
      }
    }
  }
  func pushDebugGroup(_ string: String) {}
  func popDebugGroup() {}

  func enqueue() {
    let first = locked { () -> Bool in
      guard state == .notEnqueued else { return false }
      state = .enqueued
      return true
    }
    if first { queue.enqueue(self) }
  }
  func commit() {
    enqueue()
    locked {
      if state.rawValue >= MTLCommandBufferStatus.committed.rawValue {
        if misuse == nil { misuse = "commit was called twice" }; return
      }
      if openEncoders > 0, misuse == nil { misuse = "commit was called before endEncoding" }
      state = .committed
    }
    queue.pump()
  }
  func addScheduledHandler(_ block: @escaping @Sendable (any MTLCommandBuffer) -> Void) {
    let late = locked { () -> Bool in
      if state.rawValue >= MTLCommandBufferStatus.scheduled.rawValue { return true }
      scheduledHandlers.append(block)
      return false
    }
    if late { block(self) }
  }
  func addCompletedHandler(_ block: @escaping @Sendable (any MTLCommandBuffer) -> Void) {
    let late = locked { () -> Bool in
      if state == .completed || state == .error { return true }
      completedHandlers.append(block)
      return false
    }
    if late { block(self) }
  }
  func waitUntilScheduled() { wait(for: .scheduled) }
  func waitUntilCompleted() { wait(for: .completed) }
  private func wait(for wanted: MTLCommandBufferStatus) {
    condition.lock()
    defer { condition.unlock() }
    // Waiting for what was never committed would not end; Metal's validation aborts here.
    guard state.rawValue >= MTLCommandBufferStatus.committed.rawValue else { return }
    while state.rawValue < wanted.rawValue { condition.wait() }
  }

  func execute() {
    let (work, problem, handlers) = locked { () -> ([Command], String?, [@Sendable (any MTLCommandBuffer) -> Void]) in
      times.kernelStart = monotonicSeconds()
      state = .scheduled
      defer { commands = []; scheduledHandlers = [] }
      condition.broadcast()
      return (commands, misuse, scheduledHandlers)
    }
    for h in handlers { h(self) }
    var thrown: (any Error)?
    let start = monotonicSeconds()
    do {
      if let problem { throw MTLCommandBufferError.invalid(problem) }
      for c in work { try c() }
    } catch { thrown = error }
    let end = monotonicSeconds()
    let finished = locked { () -> [@Sendable (any MTLCommandBuffer) -> Void] in
      times.start = start
      times.end = end
      times.kernelEnd = start
      failure = thrown
      let list = completedHandlers
      completedHandlers = []
      state = thrown == nil ? .completed : .error
      return list
    }
    for h in finished { h(self) }
    locked { condition.broadcast() }  // waiters return after the handlers, as in Metal
  }
}

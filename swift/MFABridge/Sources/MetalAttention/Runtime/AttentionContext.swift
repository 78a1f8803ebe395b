import Foundation
import Metal

/// A queue on a device, whose calls run one after another and have finished when they return.
package final class AttentionContext: @unchecked Sendable {  // the lock serialises the use of the queue
  package let device: AttentionDevice
  private let queue: any MTLCommandQueue
  private let calls = NSLock()
  private let seconds = Locked(0.0)

  package init(device: AttentionDevice) throws(AttentionError) {
    guard let queue = device.metal.makeCommandQueue() else {
      throw AttentionError(.bufferAllocation, "the device \(device.metal.name) made no command queue")
    }
    (self.device, self.queue) = (device, queue)
  }

  /// Seconds that the last call took on the device.
  package var latency: Double { seconds.value }

  package func forward(_ view: ForwardDescription) throws(AttentionError) {
    let plan = try ForwardPlan(ForwardCall.check(view), profile: device.profile)
    try run { (residency, encoder) throws(AttentionError) in try plan.encode(on: device, residency, encoder) }
  }

  package func backward(_ view: BackwardDescription) throws(AttentionError) {
    let plan = try BackwardPlan(BackwardCall.check(view), profile: device.profile)
    try run { (residency, encoder) throws(AttentionError) in try plan.encode(on: device, residency, encoder) }
  }

  /// Rounds, and reports the error if it is wanted.
  package func quantize(_ view: QuantizeDescription, wantsError: Bool) throws(AttentionError) -> QuantizationError? {
    let call = try QuantizeCall.check(view)
    let quantized = try run(
      { (residency, encoder) throws(AttentionError) in
        try QuantizeRun(call, on: device, wantsError: wantsError, residency: residency, into: encoder)
      }, accept: { (run) throws(AttentionError) in try run.expectAccepted() })
    return wantsError ? quantized.error() : nil
  }

  package func dequantize(_ source: TensorDescription, _ destination: TensorDescription) throws(AttentionError) {
    let call = try DequantizeCall.check(source, destination)
    try run { (residency, encoder) throws(AttentionError) in
      try encodeDequantize(call, on: device, residency: residency, into: encoder)
    }
  }

  func run<Result>(
    _ encode: (Residency, any MTLComputeCommandEncoder) throws(AttentionError) -> Result,
    accept: (Result) throws(AttentionError) -> Void = { (_) throws(AttentionError) in }
  ) throws(AttentionError) -> Result {
    calls.lock()
    defer { calls.unlock() }
    guard let commands = queue.makeCommandBuffer(), let encoder = commands.makeComputeCommandEncoder() else {
      throw AttentionError(.bufferAllocation, "the device \(device.metal.name) made no command buffer")
    }
    let residency = Residency(device.metal)
    let result: Result
    do {
      defer { encoder.endEncoding() }
      result = try encode(residency, encoder)
    }
    commands.commit()
    commands.waitUntilCompleted()
    try commands.expectCompleted()
    seconds.update { $0 = max(0, commands.gpuEndTime - commands.gpuStartTime) }
    try accept(result)
    residency.finish()
    return result
  }
}

extension MTLCommandBuffer {
  /// Throws if the device stopped at an error.
  func expectCompleted() throws(AttentionError) {
    if let error {
      throw AttentionError(.kernelExecution, "the device stopped: \(error)")
    }
    try ensure(
      status == .completed, .kernelExecution, "the device left the work in state \(status.rawValue); expected completed"
    )
  }
}

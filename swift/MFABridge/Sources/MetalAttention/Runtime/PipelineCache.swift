import AttentionKernels
import Foundation
import Metal

/// A kernel that is ready to run.
struct Pipeline: @unchecked Sendable {  // Metal's pipeline states may be used from any thread
  let state: any MTLComputePipelineState
  /// The kernel behind it; nil for those of quantization and merges.
  let kernel: AttentionKernel?
}

/// Pipelines of a device by what they do. A pipeline is compiled once, by the thread that asks first; others that need
/// the same one wait for it, and those that need another do not.
final class PipelineCache: Sendable {
  enum Key: Hashable, Sendable {
    case attention(AttentionKernelDescriptor)
    case quantization(QuantizationText.Step)
    case merge(MergeText.Step)
  }

  private final class Slot: Sendable {
    let pipeline = Locked<Pipeline?>(nil)
  }

  private struct Handle: @unchecked Sendable {  // Metal's devices and libraries may be used from any thread
    let device: any MTLDevice
  }

  private let handle: Handle
  private let profile: DeviceProfile
  private let slots = Locked<[Key: Slot]>([:])
  /// Of quantization and of merges: compiled when first used.
  private let quantizationLibrary = Locked<(any MTLLibrary)?>(nil), mergeLibrary = Locked<(any MTLLibrary)?>(nil)

  init(device: any MTLDevice, profile: DeviceProfile) {
    handle = Handle(device: device)
    self.profile = profile
  }

  func pipeline(_ key: Key) throws(AttentionError) -> Pipeline {
    let slot = slots.update { slots in
      if let found = slots[key] { return found }
      let new = Slot()
      slots[key] = new
      return new
    }
    return try slot.pipeline.update { (kept) throws(AttentionError) -> Pipeline in
      if let kept { return kept }
      let new = try compile(key)
      kept = new
      return new
    }
  }

  private func compile(_ key: Key) throws(AttentionError) -> Pipeline {
    switch key {
    case .attention(let descriptor):
      let kernel: AttentionKernel
      do {
        kernel = try AttentionKernel(descriptor: descriptor, profile: profile)
      } catch {
        throw AttentionError(.unsupported, "no \(descriptor.kind.rawValue) kernel for this call: \(error)")
      }
      let library = try compiled(kernel.source)
      let state = try pipelineState(library, kernel.functionName)
      try ensure(
        kernel.threadsPerThreadgroup <= state.maxTotalThreadsPerThreadgroup, .unsupported,
        "the kernel \(kernel.functionName) needs threadgroups of \(kernel.threadsPerThreadgroup) threads; "
          + "the device can give it \(state.maxTotalThreadsPerThreadgroup)")
      return Pipeline(state: state, kernel: kernel)
    case .quantization(let step):
      return try pipeline(step.rawValue, in: quantizationLibrary, QuantizationText.source)
    case .merge(let step):
      return try pipeline(step.rawValue, in: mergeLibrary, MergeText.source)
    }
  }

  /// A kernel of a library that has several.
  private func pipeline(
    _ name: String, in library: Locked<(any MTLLibrary)?>, _ source: String
  ) throws(AttentionError) -> Pipeline {
    let library = try library.update { (kept) throws(AttentionError) -> any MTLLibrary in
      if let kept { return kept }
      let new = try compiled(source)
      kept = new
      return new
    }
    return Pipeline(state: try pipelineState(library, name), kernel: nil)
  }

  private func compiled(_ source: String) throws(AttentionError) -> any MTLLibrary {
    do { return try handle.device.makeLibrary(source: source, options: compileOptions()) } catch {
      throw AttentionError(.kernelExecution, "the device refused a kernel's text: \(error)")
    }
  }

  private func pipelineState(
    _ library: any MTLLibrary, _ name: String
  ) throws(AttentionError) -> any MTLComputePipelineState {
    guard let function = library.makeFunction(name: name) else {
      throw AttentionError(.kernelExecution, "the library has no function '\(name)'")
    }
    do { return try handle.device.makeComputePipelineState(function: function) } catch {
      throw AttentionError(.kernelExecution, "the device made no pipeline of '\(name)': \(error)")
    }
  }
}

#if os(Linux)
  import Foundation
  import Metal
  import MetalAttention

  /// A call as JSON describes it: the contract's structs, with numbers of buffers in place of handles.
  struct Call: Decodable {
    struct Buffer: Decodable {
      let size: Int
      /// What the host reads before the device runs, in Base64; else the memory stays untouched.
      let contents: String?
    }

    struct Quantization: Decodable {
      let granularity: Int32
      let blockRows, groupSize: UInt32
      let scale: Float
      let zeroPoint: Int32
      let scaleBuffer, zeroPointBuffer, meanBuffer: Int?
      let scaleOffset, zeroPointOffset, meanOffset: UInt64
      let scaleStrides: [Int64]
      let scalePrecision: Int32
      let zeroPointBytes, rotated: UInt32
    }

    struct Tensor: Decodable {
      let buffer: Int
      let byteOffset: UInt64
      let precision: Int32
      let shape: [UInt64]
      let strides: [Int64]
      let quantization: Quantization?
    }

    struct Options: Decodable {
      let flags: UInt32
      let softmaxScale, softcap: Float
      let alignment: Int32
      let windowLeft, windowRight: Int64
      let sequenceCount: UInt32
      let cuSeqlensQ, cuSeqlensK, seqlensK: Int?
      let cuSeqlensQOffset, cuSeqlensKOffset: UInt64
    }

    let name: String
    /// forward, backward, quantize, dequantize, merge, merge_backward
    let operation: String
    /// Of the GPU: 7, 8 or 9.
    let family: Int
    let flags: UInt32
    let buffers: [Buffer]
    let tensors: [String: Tensor]
    let options: Options
  }

  /// The call with its buffers on a device.
  struct LiveCall {
    private let call: Call
    private let buffers: [any MTLBuffer]

    init(_ call: Call, on device: RecordingDevice) throws {
      self.call = call
      buffers = try call.buffers.map { buffer in
        guard let made = device.makeBuffer(length: buffer.size, options: []) else {
          throw RecorderError("\(call.name): no buffer of \(buffer.size) bytes")
        }
        if let text = buffer.contents {
          guard let data = Data(base64Encoded: text), data.count == buffer.size else {
            throw RecorderError("\(call.name): contents that are not \(buffer.size) bytes in Base64")
          }
          data.copyBytes(to: made.contents().assumingMemoryBound(to: UInt8.self), count: data.count)
        }
        return made
      }
    }

    func run(on context: AttentionContext) throws {
      switch call.operation {
      case "forward": try context.forward(forward)
      case "backward": try context.backward(backward)
      case "quantize":
        var view = QuantizeDescription()
        view.flags = call.flags
        view.source = tensor("source")
        view.destination = tensor("destination")
        _ = try context.quantize(view, wantsError: true)
      case "dequantize": try context.dequantize(tensor("source"), tensor("destination"))
      case "merge": try context.merge(merge)
      case "merge_backward": try context.mergeBackward(merge)
      default: throw RecorderError("\(call.name): there is no operation \(call.operation)")
      }
    }

    private func reference(_ buffer: Int?) -> BufferReference {
      buffer.map { .present(AttentionBuffer(buffers[$0])) } ?? .absent
    }

    private func tensor(_ role: String) -> TensorDescription {
      var result = TensorDescription()
      guard let tensor = call.tensors[role] else { return result }
      result.buffer = reference(tensor.buffer)
      result.byteOffset = tensor.byteOffset
      result.precision = tensor.precision
      result.shape = SIMD4(tensor.shape)
      result.strides = SIMD4(tensor.strides)
      guard let q = tensor.quantization else { return result }
      var quantization = QuantizationDescription()
      quantization.granularity = q.granularity
      quantization.blockRows = q.blockRows
      quantization.groupSize = q.groupSize
      quantization.scale = q.scale
      quantization.zeroPoint = q.zeroPoint
      quantization.scaleBuffer = reference(q.scaleBuffer)
      quantization.scaleOffset = q.scaleOffset
      quantization.scaleStrides = SIMD4(q.scaleStrides)
      quantization.scalePrecision = q.scalePrecision
      quantization.zeroPointBuffer = reference(q.zeroPointBuffer)
      quantization.zeroPointOffset = q.zeroPointOffset
      quantization.zeroPointBytes = q.zeroPointBytes
      quantization.meanBuffer = reference(q.meanBuffer)
      quantization.meanOffset = q.meanOffset
      quantization.rotated = q.rotated
      result.quantization = .present(quantization)
      return result
    }

    private var options: OptionsDescription {
      let o = call.options
      var result = OptionsDescription()
      result.flags = o.flags
      result.softmaxScale = o.softmaxScale
      result.softcap = o.softcap
      result.alignment = o.alignment
      result.windowLeft = o.windowLeft
      result.windowRight = o.windowRight
      result.mask = tensor("mask")
      result.alibiSlopes = tensor("alibi_slopes")
      result.sinks = tensor("sinks")
      result.sequenceCount = o.sequenceCount
      result.cuSeqlensQ = reference(o.cuSeqlensQ)
      result.cuSeqlensQOffset = o.cuSeqlensQOffset
      result.cuSeqlensK = reference(o.cuSeqlensK)
      result.cuSeqlensKOffset = o.cuSeqlensKOffset
      result.seqlensK = reference(o.seqlensK)
      return result
    }

    private var forward: ForwardDescription {
      var view = ForwardDescription()
      view.query = tensor("query")
      view.key = tensor("key")
      view.value = tensor("value")
      view.output = tensor("output")
      view.logsumexp = tensor("logsumexp")
      view.options = .present(options)
      return view
    }

    private var backward: BackwardDescription {
      var view = BackwardDescription()
      view.flags = call.flags
      view.query = tensor("query")
      view.key = tensor("key")
      view.value = tensor("value")
      view.output = tensor("given_output")
      view.gradOutput = tensor("grad_output")
      view.logsumexp = tensor("given_logsumexp")
      view.dValues = tensor("d_values")
      view.gradQuery = tensor("grad_query")
      view.gradKey = tensor("grad_key")
      view.gradValue = tensor("grad_value")
      view.gradMask = tensor("grad_mask")
      view.gradSinks = tensor("grad_sinks")
      view.gradLogsumexp = tensor("grad_logsumexp")
      view.options = .present(options)
      return view
    }

    private var merge: MergeDescription {
      var view = MergeDescription()
      let count = (0...).first { call.tensors["output_\($0)"] == nil } ?? 0
      for part in 0..<count {
        view.outputs.append(tensor("output_\(part)"))
        view.logsumexps.append(tensor("logsumexp_\(part)"))
        view.gradOutputs.append(tensor("grad_output_\(part)"))
        view.gradLogsumexps.append(tensor("grad_logsumexp_\(part)"))
      }
      view.output = tensor("output")
      view.logsumexp = tensor("logsumexp")
      view.gradOutput = tensor("grad_output")
      view.gradLogsumexp = tensor("grad_logsumexp")
      return view
    }
  }
#endif

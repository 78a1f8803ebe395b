/// The conformance vectors through the C contract in Swift, on any driver that the program is linked with. Reading,
/// judging and recording are C's (tests/conformance/c); arguments and exit status are those of its conformance.c.
#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

typealias Live = UnsafeMutablePointer<live_case>
typealias Handle = UnsafeMutableRawPointer

/// Set once, by `open`, before any other function of the binding is called.
nonisolated(unsafe) private var context: Handle?

private func buffers(_ live: Live) -> UnsafeMutablePointer<live_buffer> {
  let offset = MemoryLayout<live_case>.offset(of: \live_case.buffers) ?? 0
  return (UnsafeMutableRawPointer(live) + offset).assumingMemoryBound(to: live_buffer.self)
}

private func described(_ live: Live) -> UnsafeMutablePointer<vector_buffer> {
  let offset = MemoryLayout<vector_case>.offset(of: \vector_case.buffers) ?? 0
  return (UnsafeMutableRawPointer(live.pointee.c) + offset).assumingMemoryBound(to: vector_buffer.self)
}

private func handle(_ live: Live, _ buffer: Int32) -> Handle? { buffer < 0 ? nil : buffers(live)[Int(buffer)].handle }

private func must(_ status: Int32) {
  guard status != 0 else { return }
  print("conformance: \(String(cString: mfa_last_error(context)))")
  exit(2)
}

private func create(_ live: Live) {
  for i in 0..<Int(live.pointee.c.pointee.buffer_count) {
    let buffer = described(live)[i]
    var (made, contents): (Handle?, Handle?) = (nil, nil)
    must(mfa_create_buffer(context, buffer.size, &made))
    must(mfa_buffer_contents(made, &contents))
    buffers(live)[i] = live_buffer(handle: made, bytes: contents?.assumingMemoryBound(to: UInt8.self))
    guard let contents, buffer.size > 0 else { continue }
    if buffer.room {
      memset(contents, 0xFF, Int(buffer.size))
    } else if let data = live.pointee.c.pointee.bytes {
      memcpy(contents, data + Int(buffer.offset), Int(buffer.size))
    }
  }
}

private func destroy(_ live: Live) {
  for i in 0..<Int(live.pointee.c.pointee.buffer_count) { must(mfa_destroy_buffer(buffers(live)[i].handle)) }
}

/// The view of a role, absent if the case has none.
private func tensor(_ live: Live, _ role: String) -> mfa_tensor {
  guard let found = vector_find(live.pointee.c, role) else { return mfa_tensor() }
  var view = found.pointee.view
  view.buffer = handle(live, found.pointee.buffer)
  if found.pointee.quantized {
    found.pointee.quantization.scale_buffer = handle(live, found.pointee.scale_buffer)
    found.pointee.quantization.zero_point_buffer = handle(live, found.pointee.zero_point_buffer)
    found.pointee.quantization.mean_buffer = handle(live, found.pointee.mean_buffer)
    let offset = MemoryLayout<vector_tensor>.offset(of: \vector_tensor.quantization) ?? 0
    view.quantization = UnsafePointer(
      (UnsafeMutableRawPointer(found) + offset).assumingMemoryBound(to: mfa_quantization.self))
  }
  return view
}

private func options(_ live: Live) -> mfa_attention_options {
  let c = live.pointee.c.pointee
  var options = c.options
  options.mask = tensor(live, "mask")
  options.alibi_slopes = tensor(live, "alibi_slopes")
  options.sinks = tensor(live, "sinks")
  options.cu_seqlens_q = handle(live, c.cu_buffers.0)
  options.cu_seqlens_k = handle(live, c.cu_buffers.1)
  return options
}

private func forward(_ live: Live) -> Int32 {
  var desc = mfa_forward_desc()
  desc.struct_size = UInt32(MemoryLayout<mfa_forward_desc>.size)
  desc.query = tensor(live, "query")
  desc.key = tensor(live, "key")
  desc.value = tensor(live, "value")
  desc.output = tensor(live, "output")
  desc.logsumexp = tensor(live, "logsumexp")
  return withUnsafePointer(to: options(live)) { options in
    desc.options = options
    return mfa_forward(context, &desc)
  }
}

private func backward(_ live: Live) -> Int32 {
  var desc = mfa_backward_desc()
  desc.struct_size = UInt32(MemoryLayout<mfa_backward_desc>.size)
  desc.flags = live.pointee.c.pointee.flags
  desc.query = tensor(live, "query")
  desc.key = tensor(live, "key")
  desc.value = tensor(live, "value")
  desc.output = tensor(live, "given_output")
  desc.grad_output = tensor(live, "grad_output")
  desc.logsumexp = tensor(live, "given_logsumexp")
  desc.d_values = tensor(live, "d_values")
  desc.grad_query = tensor(live, "grad_query")
  desc.grad_key = tensor(live, "grad_key")
  desc.grad_value = tensor(live, "grad_value")
  desc.grad_mask = tensor(live, "grad_mask")
  desc.grad_sinks = tensor(live, "grad_sinks")
  return withUnsafePointer(to: options(live)) { options in
    desc.options = options
    return mfa_backward(context, &desc)
  }
}

private func quantize(_ live: Live) -> Int32 {
  var desc = mfa_quantize_desc()
  desc.struct_size = UInt32(MemoryLayout<mfa_quantize_desc>.size)
  desc.flags = live.pointee.c.pointee.flags
  desc.source = tensor(live, "source")
  desc.destination = tensor(live, "destination")
  return withUnsafeMutablePointer(to: &live.pointee.report) { report in
    desc.error = report
    return mfa_quantize(context, &desc)
  }
}

private func dequantize(_ live: Live) -> Int32 {
  var (source, destination) = (tensor(live, "source"), tensor(live, "destination"))
  return mfa_dequantize(context, &source, &destination)
}

/// The arguments of the fixed signatures beside other buffers.
private struct Fixed {
  let q, k, v, o: mfa_tensor
  let batch, rowsQ, rowsK, heads: UInt32
  let columns: UInt16
  let causal: Bool

  init(_ live: Live) {
    (q, k) = (tensor(live, "query"), tensor(live, "key"))
    (v, o) = (tensor(live, "value"), tensor(live, "output"))
    (batch, heads) = (UInt32(q.shape.0), UInt32(q.shape.1))
    (rowsQ, rowsK, columns) = (UInt32(q.shape.2), UInt32(k.shape.2), UInt16(q.shape.3))
    causal = live.pointee.c.pointee.options.flags & UInt32(MFA_OPTION_CAUSAL.rawValue) != 0
  }
}

extension mfa_tensor {
  fileprivate var transposed: Bool { strides.3 != 1 }
  fileprivate var scale: Float { quantization?.pointee.scale ?? 0 }
  fileprivate var zeroPoint: Int32 { quantization?.pointee.zero_point ?? 0 }
}

private func whole(_ live: Live, _ role: String) -> Handle? { tensor(live, role).buffer }

private func plain(_ live: Live) -> Int32 {
  let f = Fixed(live)
  return mfa_attention_forward(
    context, f.q.buffer, f.k.buffer, f.v.buffer, f.o.buffer, f.batch, f.rowsQ, f.rowsK, f.heads, f.columns,
    live.pointee.c.pointee.options.softmax_scale, f.causal, f.q.precision, f.k.precision, f.v.precision, f.q.transposed,
    f.k.transposed, f.v.transposed, f.o.transposed)
}

private func trainingForward(_ live: Live) -> Int32 {
  let f = Fixed(live)
  return mfa_attention_forward_quantized(
    context, f.q.buffer, f.k.buffer, f.v.buffer, f.o.buffer, whole(live, "logsumexp"), f.batch, f.rowsQ, f.rowsK,
    f.heads,
    f.columns, live.pointee.c.pointee.options.softmax_scale, f.causal, f.q.precision, f.k.precision, f.v.precision,
    f.q.scale,
    f.q.zeroPoint, f.k.scale, f.k.zeroPoint, f.v.scale, f.v.zeroPoint, f.q.transposed, f.k.transposed, f.v.transposed,
    f.o.transposed)
}

private func trainingBackward(_ live: Live) -> Int32 {
  let f = Fixed(live)
  let status = mfa_attention_backward_query_quantized(
    context, f.q.buffer, f.k.buffer, f.v.buffer, whole(live, "grad_output"), whole(live, "given_logsumexp"),
    whole(live, "grad_query"), whole(live, "d_values"), f.batch, f.rowsQ, f.rowsK, f.heads, f.columns, f.q.scale,
    f.q.zeroPoint)
  guard status == 0 else { return status }
  return mfa_attention_backward_kv_quantized(
    context, f.q.buffer, f.k.buffer, f.v.buffer, whole(live, "grad_output"), whole(live, "given_logsumexp"),
    whole(live, "d_values"), whole(live, "grad_key"), whole(live, "grad_value"), f.batch, f.rowsQ, f.rowsK, f.heads,
    f.columns,
    f.q.scale, f.q.zeroPoint, f.k.scale, f.k.zeroPoint, f.v.scale, f.v.zeroPoint)
}

/// A C string that is there until the process ends.
private func kept(_ text: String) -> UnsafePointer<CChar>? { UnsafePointer(strdup(text)) }

private func open(_ library: UnsafePointer<CChar>?) -> UnsafePointer<CChar>? {
  if library != nil {
    return kept("this program uses the driver that it is linked with: leave MFA_DRIVER and --driver out")
  }
  return mfa_create_context(&context) == 0 ? nil : mfa_last_error(nil)
}

private func device() -> UnsafePointer<CChar>? {
  var name = [CChar](repeating: 0, count: 256)
  guard mfa_device_name(0, &name, name.count, nil) == 0 else { return kept("unknown") }
  return name.withUnsafeBufferPointer { bytes in bytes.baseAddress.flatMap { UnsafePointer(strdup($0)) } }
}

var swift = binding()
swift.open = { open($0) }
swift.close = { must(mfa_destroy_context(context)) }
swift.device = { device() }
swift.message = { mfa_last_error(context) }
swift.create = { $0.map(create) }
swift.destroy = { $0.map(destroy) }
swift.forward = { $0.map(forward) ?? -1 }
swift.backward = { $0.map(backward) ?? -1 }
swift.quantize = { $0.map(quantize) ?? -1 }
swift.dequantize = { $0.map(dequantize) ?? -1 }
swift.plain = { $0.map(plain) ?? -1 }
swift.training_forward = { $0.map(trainingForward) ?? -1 }
swift.training_backward = { $0.map(trainingBackward) ?? -1 }
exit(runner_main(CommandLine.argc, CommandLine.unsafeArgv, &swift))

#if SOFTWARE_METAL
  import Foundation

  /// The page, in Markdown.
  func page(_ measurements: [Measurement]) -> String {
    func number(_ x: Double) -> String { String(format: x < 10 ? "%.2f" : "%.0f", x) }
    var text = """
      # Metal kernels, counted

      Do not edit: `cargo xtask metal-report` writes this page.

      The kernels of `swift/MFABridge` on the software device, which counts what a GPU would do. The counts do not \
      depend on the machine. All
      columns are per score, that is, per pair of a query and a key of a query head. **Nothing here was measured on \
      Apple hardware.**

      - matrix: 8×8×8 multiply-accumulates of a SIMD group, times 512: the multiply-adds of the products.
      - other: instructions of the threads outside of matrix operations and memory.
      - device, threadgroup: bytes read from and written to each memory. Caches are not modelled.
      - barriers: of threadgroups, per thousand scores.


      """
    for shape in Shape.all {
      text +=
        "## \(shape.name)\n\n\(shape.heads) heads, \(shape.keyHeads) of keys; \(shape.queries) queries, "
        + "\(shape.keys) keys.\n\n"
      text +=
        "| storage | matrix | other | device | threadgroup | barriers / 1000 "
        + "| SIMD operations |\n|---|--:|--:|--:|--:|--:|--:|\n"
      for m in measurements where m.shape.name == shape.name {
        let c = m.counters
        let cells = [
          512 * m.perScore(c.matrixMultiplies), m.perScore(c.scalarOperations),
          m.perScore(c.deviceBytesRead + c.deviceBytesWritten),
          m.perScore(c.threadgroupBytesRead + c.threadgroupBytesWritten),
          1000 * m.perScore(c.threadgroupBarriers), m.perScore(c.simdOperations),
        ]
        text += "| \(m.storage.name) | \(cells.map(number).joined(separator: " | ")) |\n"
      }
      text += "\n"
    }
    text += """
      ## Estimates

      **Estimates, not measurements**: the longer of two times, each at the rate that Apple publishes: of all \
      arithmetic that was counted, or of all
      device bytes that were counted. A real GPU is slower (latency, occupancy, instructions other than arithmetic) \
      and has caches.

      | call | storage |\(GPU.all.map { " \($0.name) |" }.joined())
      |---|---|\(GPU.all.map { _ in "--:|" }.joined())

      """
    for m in measurements {
      let bounds = GPU.all.map { gpu in
        let bound = gpu.bound(m)
        return "\(number(1e6 * bound.seconds)) µs, \(bound.by)"
      }
      text += "| \(m.shape.name) | \(m.storage.name) | \(bounds.joined(separator: " | ")) |\n"
    }
    text +=
      "\n"
      + GPU.all.map {
        "- \($0.name): \(number($0.flops / 1e12)) TFLOPS, \(number($0.bandwidth / 1e9)) GB/s. \($0.source).\n"
      }.joined()
    return text
  }

  /// The promises of quantized keys and values beside FP16; a line for each promise that is not kept.
  func broken(_ measurements: [Measurement]) -> [String] {
    var problems: [String] = []
    for shape in Shape.all where !shape.isBackward {
      func found(_ storage: Storage) -> Measurement? {
        measurements.first { $0.shape.name == shape.name && $0.storage.name == storage.name }
      }
      guard let single = found(.single), let half = found(.half) else { continue }
      // What doubles from FP16 to FP32 is keys and values, and queries; the rest is written or read as FP32 in both.
      let rest = 2 * Int64(half.counters.deviceBytesRead) - Int64(single.counters.deviceBytesRead)
      for m in measurements where m.shape.name == shape.name && m.storage.isTensorWise {
        func expect(_ what: String, _ count: (Measurement) -> Int64, atMost limit: Double) {
          let ratio = Double(count(m)) / Double(count(half))
          if ratio > limit {
            problems.append(
              "\(shape.name), \(m.storage.name): \(what) is \(ratio) of FP16's; expected at most \(limit)")
          }
        }
        expect("matrix operations", { Int64($0.counters.matrixMultiplies) }, atMost: 1)
        expect("other work", { Int64($0.counters.scalarOperations) }, atMost: 1.1)
        let share = Double(m.storage.keyValue.bits) / 16
        expect("device bytes of K and V", { Int64($0.counters.deviceBytesRead) - rest }, atMost: 1.2 * share)
      }
    }
    return problems
  }
#endif

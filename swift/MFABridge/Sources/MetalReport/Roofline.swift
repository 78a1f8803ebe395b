#if SOFTWARE_METAL
  /// Apple's figures of a GPU.
  struct GPU {
    let name: String
    /// FP32 operations a second, a fused multiply-add being two.
    let flops: Double
    /// Bytes a second.
    let bandwidth: Double
    let source: String

    static let all = [
      GPU(
        name: "M1, 8 cores", flops: 2.6e12, bandwidth: 68.25e9,
        source: "Apple, “Apple unleashes M1” (2020): 2.6 teraflops"),
      GPU(
        name: "M1 Max, 32 cores", flops: 10.4e12, bandwidth: 400e9,
        source: "Apple, “Introducing M1 Pro and M1 Max” (2021)"),
      GPU(
        name: "M2, 10 cores", flops: 3.6e12, bandwidth: 100e9, source: "Apple, “Apple unveils M2” (2022): 3.6 teraflops"
      ),
    ]

    /// A lower bound of the time in seconds: the arithmetic at full rate, or every device byte that was counted at full
    /// bandwidth, as if no cache held any of them; whichever is longer. SIMD-group matrices run on the same units as
    /// the threads' own operations (up to the M4), so both are added up.
    func bound(_ m: Measurement) -> (seconds: Double, by: String) {
      let matrix = Double(m.counters.matrixMultiplies) * 8 * 8 * 8
      let arithmetic = (matrix + Double(m.counters.scalarOperations)) / (flops / 2)
      let memory = Double(m.counters.deviceBytesRead + m.counters.deviceBytesWritten) / bandwidth
      return arithmetic > memory ? (arithmetic, "arithmetic") : (memory, "memory")
    }
  }
#endif

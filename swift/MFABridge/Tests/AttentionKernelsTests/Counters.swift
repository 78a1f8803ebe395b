import Metal

// What the software device counts. Elsewhere nothing does, and tests of counts are left out.
#if SOFTWARE_METAL
  typealias Counters = SoftwareMetal.Counters

  extension MTLCommandBuffer {
    /// Of each dispatch.
    var counters: [Counters] { softwareDispatches.map(\.counters) }
  }
#else
  struct Counters {
    static func += (a: inout Counters, b: Counters) {}
  }

  extension MTLCommandBuffer {
    var counters: [Counters] { [] }
  }
#endif

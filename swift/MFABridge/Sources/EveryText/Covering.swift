import AttentionKernels

/// Kernels of a kind that together have every value of every option, then every pair of values of two options.
///
/// The number of all combinations has some thirty digits. Where a kind has few, all are made. Elsewhere kernels are
/// added until no pair of values is missing. Each is begun with a missing pair; its other values are chosen one by one,
/// so that each adds most missing pairs, in several random orders, of which the best counts (Cohen and others, "The
/// AETG system", 1997). The list is the same every time.
struct Covering {
  /// At most so many combinations are made all.
  static let fewCombinations = 200
  /// Kernels of which the best is added.
  private static let candidates = 24
  /// Attempts to make a kernel with a pair of values, others at random, before the pair counts as refused.
  private static let attempts = 40

  let family: KernelFamily
  private(set) var kernels: [(choice: KernelChoice, kernel: AttentionKernel)] = []
  /// The first kernels of the list that have every value of every option.
  private(set) var firstWithAllValues = 0
  /// Pairs of which no kernel can be made, and the generator's reason.
  private(set) var refused: [TextList.Refusal] = []

  /// Values of all options, numbered together.
  private let offsets: [Int], count: Int
  /// What options need, by number; whether others need an option.
  private let needed: [[(option: Int, values: Set<Int>)]], dependents: [Bool]
  private var found: [Bool]
  private var seed: UInt64 = 0x5DEE_CE66_D1CE
  private var seen: Set<KernelChoice> = []

  init(_ family: KernelFamily) {
    self.family = family
    var (offsets, count) = ([Int](), 0)
    for option in family.options {
      offsets.append(count)
      count += option.values.count
    }
    (self.offsets, self.count) = (offsets, count)
    let options = family.options
    needed = options.map { option in
      option.needs.compactMap { need in
        options.firstIndex { $0.name == need.option }.map { i in
          (i, Set(options[i].values.indices.filter { need.values.contains(options[i].values[$0]) }))
        }
      }
    }
    dependents = options.map { option in options.contains { $0.needs.contains { $0.option == option.name } } }
    found = [Bool](repeating: false, count: count * count)
    if family.options.reduce(1, { min($0 * $1.values.count, Self.fewCombinations + 1) }) <= Self.fewCombinations {
      makeAll()
    } else {
      cover(pairs: false)
      firstWithAllValues = kernels.count
      cover(pairs: true)
    }
  }

  private mutating func random(_ n: Int) -> Int {
    seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return Int((seed >> 33) % UInt64(n))
  }

  private func made(_ values: [Int]) -> KernelChoice {
    var choice = family.start
    for (option, value) in zip(family.options, values) { option.set(&choice, value) }
    family.settle(&choice)
    return choice
  }

  /// The numbers of a kernel's values.
  private func values(of choice: KernelChoice) -> [Int] {
    let own = family.options.map { $0.get(choice) }
    return own.indices.compactMap { i in
      let means = needed[i].allSatisfy { need in own[need.option].map(need.values.contains) ?? false }
      return means ? own[i].map { offsets[i] + $0 } : nil
    }
  }

  /// Adds a kernel, unless it is there; returns the generator's reason if it refuses.
  private mutating func add(_ choice: KernelChoice) -> String? {
    if seen.contains(choice) { return nil }
    let kernel: AttentionKernel
    do { kernel = try AttentionKernel(descriptor: choice.descriptor, profile: choice.profile) } catch {
      return "\(error)"
    }
    seen.insert(choice)
    kernels.append((choice, kernel))
    let values = values(of: choice)
    for a in values { for b in values { found[a * count + b] = true } }
    return nil
  }

  private mutating func makeAll() {
    var values = [Int](repeating: 0, count: family.options.count)
    while true {
      let choice = made(values)
      if let reason = add(choice) { refused.append(.init(family: family.name, pair: ["\(values)"], reason: reason)) }
      guard let next = values.indices.last(where: { values[$0] + 1 < family.options[$0].values.count }) else { break }
      values[next] += 1
      for i in values.index(after: next)..<values.endIndex { values[i] = 0 }
    }
    firstWithAllValues = kernels.count
  }

  /// Adds kernels until every value, or every pair of values, is found or refused.
  private mutating func cover(pairs: Bool) {
    let options = family.options
    for i in options.indices {
      for a in 0..<options[i].values.count {
        for j in pairs ? i + 1..<options.count : i..<i + 1 {
          for b in pairs ? 0..<options[j].values.count : a..<a + 1
          where !found[(offsets[i] + a) * count + offsets[j] + b] {
            search((i, a), (j, b))
          }
        }
      }
    }
  }

  private typealias Value = (option: Int, value: Int)

  private mutating func search(_ first: Value, _ second: Value) {
    let options = family.options
    let pair = (offsets[first.option] + first.value, offsets[second.option] + second.value)
    guard let legal = legal(first, second) else { return }
    // A value may give way to another.
    func has(_ values: [Int]) -> Bool { values.contains(pair.0) && values.contains(pair.1) }
    var best: (choice: KernelChoice, added: Int)?
    for _ in 0..<Self.candidates {
      let choice = made(chosen(legal, [pair.0, pair.1], choosy: true))
      let values = values(of: choice)
      guard has(values) else { continue }
      let added = values.reduce(0) { sum, a in sum + values.reduce(0) { $0 + (found[a * count + $1] ? 0 : 1) } }
      if added > best?.added ?? 0 { best = (choice, added) }
    }
    if let best, add(best.choice) == nil { return }
    var refusal: String?
    for _ in 0..<Self.attempts {
      let choice = made(chosen(legal, [pair.0, pair.1], choosy: false))
      guard has(values(of: choice)) else { continue }
      guard let reason = add(choice) else { return }
      refusal = reason
    }
    guard let refusal else { return }
    refused.append(
      .init(
        family: family.name,
        pair: [first, second].map { "\(options[$0.option].name) \(options[$0.option].values[$0.value])" },
        reason: refusal))
  }

  /// The values that each option may have beside two given ones, so that both mean something; nil if there are none.
  private func legal(_ first: Value, _ second: Value) -> [[Int]]? {
    let options = family.options
    var legal = options.map { Array($0.values.indices) }
    for given in [first, second] {
      legal[given.option].removeAll { $0 != given.value }
      for need in options[given.option].needs {
        guard let i = options.firstIndex(where: { $0.name == need.option }) else { return nil }
        legal[i].removeAll { !need.values.contains(options[i].values[$0]) }
      }
    }
    return legal.allSatisfy { !$0.isEmpty } ? legal : nil
  }

  /// A legal value for each option. `fixed`: the numbers of those that are given; if `choosy`, the others are chosen so
  /// that most missing pairs are added.
  private mutating func chosen(_ legal: [[Int]], _ given: [Int], choosy: Bool) -> [Int] {
    var values = legal.map { $0[random($0.count)] }
    guard choosy else { return values }
    // Options that need others come after them.
    let options = family.options
    var (fixed, rest) = (given, Array(legal.indices.filter { legal[$0].count > 1 }))
    var order: [Int] = []
    while !rest.isEmpty { order.append(rest.remove(at: random(rest.count))) }
    order = (0...2).flatMap { needs in order.filter { options[$0].needs.count == needs } }
    for option in order {
      let means = needed[option].allSatisfy { $0.values.contains(values[$0.option]) }
      guard means else { continue }
      let turn = random(legal[option].count)
      var best = (value: 0, added: -1)
      for k in legal[option].indices {
        let value = legal[option][(k + turn) % legal[option].count], at = (offsets[option] + value) * count
        let added = fixed.reduce(0) { $0 + (found[at + $1] ? 0 : 1) }
        if added > best.added { best = (value, added) }
      }
      // Integers open options that floats do not have.
      let opens = dependents[option] && random(3) > 0
      if !opens { values[option] = best.value }
      fixed.append(offsets[option] + values[option])
    }
    return values
  }
}
